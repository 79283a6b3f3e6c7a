/* sd_nets.h: the networks of a tiny synthetic SD 1.x, 2.x or SDXL checkpoint with its reference file, and runs of its
 * UNet and VAE decoder on the inputs stored there.
 */
#ifndef TESTS_SD_NETS_H
#define TESTS_SD_NETS_H

#include "pipelines/clip.h"
#include "pipelines/unet.h"
#include "pipelines/vae.h"
#include "tests/parity/pairs.h"
#include "tests/parity/taps.h"
#include "tests/unit/root.h"

enum { SD_ROWS = 16, SD_TEXTS = 4, SD_TOKENS = 77 };

struct sd_nets {
    struct st_file *ref;
    struct st_set *files[4];
    struct clip clip[2]; /* SD 1.x and 2.x have the first */
    struct unet unet;
    struct vae vae;
};

/* Maps part i; the path of its config is put in `config`. */
static inline struct bind sd_part(struct sd_nets *m, int i, const char *name, const char *part, struct dl_wset *set,
                                  char config[ROOT_PATH])
{
    char folder[ROOT_PATH - 20];
    struct bind b;
    snprintf(folder, sizeof folder, "%s/%s/%s", root, name, part);
    snprintf(config, ROOT_PATH, "%s/config.json", folder);
    must(st_set_open(&m->files[i], folder, i > 1 ? "diffusion_pytorch_model" : "model", e));
    must(bind_open(&b, m->files[i], set, e));
    return b;
}

/* root/NAME and tests/parity/data/NAME.safetensors. */
static inline struct sd_nets *sd_nets_open(const char *name, int encoders)
{
    static const char *const folders[] = {"text_encoder", "text_encoder_2"};
    struct sd_nets *m = calloc(1, sizeof *m);
    char path[ROOT_PATH];
    struct unet_config unet;
    struct vae_config vae;
    struct bind b;
    assert_non_null(m);
    for (int i = 0; i < encoders; i++) {
        struct clip_config clip;
        b = sd_part(m, i, name, folders[i], &m->clip[i].weights, path);
        must(clip_config_read(&clip, path, e));
        must(clip_bind(&m->clip[i], &clip, &b, e));
        must(bind_close(&b, e));
    }
    b = sd_part(m, 2, name, "unet", &m->unet.weights, path);
    must(unet_config_read(&unet, path, e));
    must(unet_bind(&m->unet, &unet, &b, e));
    must(bind_close(&b, e));
    b = sd_part(m, 3, name, "vae", &m->vae.weights, path);
    must(vae_config_read(&vae, path, e));
    vae_bind(&m->vae, &vae, &b);
    must(bind_close(&b, e));
    m->ref = ref_open(name);
    return m;
}

static inline void sd_nets_close(struct sd_nets *m)
{
    for (int i = 0; i < 2; i++) clip_close(&m->clip[i]);
    unet_close(&m->unet);
    vae_close(&m->vae);
    for (int i = 0; i < 4; i++) st_set_close(m->files[i]);
    st_close(m->ref);
    free(m);
}

/* A run of the UNet, for pairs_run. */
struct sd_unet {
    const struct machine *mc;
    struct dl_run *r;
    struct sd_nets *m;
    struct taps *taps; /* listens in the first step alone; may be NULL */
    int h, w;          /* in place of the stored latents' size; 0: that */

    const struct pairs *p;
    dl_act x, text, pooled, *y;
    void *kv;
    float *table;
};

static inline void sd_unet_phase(struct dl_run *r, void *arg)
{
    const struct sd_unet *j = arg;
    struct unet *u = &j->m->unet;
    const float *t = ref_data(j->m->ref, "in.timesteps", NULL);
    unet_text(r, u, j->text, j->kv);
    if (u->cfg.pooled)
        unet_steps_added(r, u, t, PAIRS_STEPS, j->pooled, ref_data(j->m->ref, "in.sizes", NULL), j->table);
    else
        unet_steps(r, u, t, PAIRS_STEPS, j->table);
    const struct unet_rows rows = {.n = j->p->n,
                                   .lat_row = j->p->lat_row,
                                   .cond_row = j->p->cond_row,
                                   .kv = j->kv,
                                   .conds = j->p->conds,
                                   .tokens = SD_TOKENS,
                                   .table = j->table,
                                   .table_steps = u->cfg.pooled ? PAIRS_STEPS : 0};
    for (r->step = 0; r->step < PAIRS_STEPS; r->step++) {
        unet_step(r, u, j->x, &rows, j->y[r->step]);
        if (j->taps && !dl_run_is_dry(r)) j->taps->mute = true;
    }
    r->step = 0;
}

static inline void sd_unet_run(void *user, const struct pairs *p, dl_act y[PAIRS_STEPS])
{
    struct sd_unet *j = user;
    const struct machine *mc = j->mc;
    struct unet *u = &j->m->unet;
    const int64_t *d;
    const float *latent = ref_data(j->m->ref, "in.latent", &d);
    const int h = j->h ? j->h : (int)d[1], w = j->w ? j->w : (int)d[2], t = j->r->t, tables = u->cfg.pooled ? p->conds : 1;
    j->p = p, j->y = y;
    j->x = net_pick(mc, t, latent, p->latents, p->x_n, h, w, (int)d[3]);
    j->text = net_pick(mc, t, ref_data(j->m->ref, "in.text", NULL), p->texts, p->conds, 1, SD_TOKENS, u->cfg.cross_dim);
    if (u->cfg.pooled)
        j->pooled =
            net_pick(mc, DL_F32, ref_data(j->m->ref, "in.pooled", NULL), p->texts, p->conds, 1, 1, u->cfg.pooled);
    j->kv = net_alloc(mc, unet_kv_bytes(u, p->conds, SD_TOKENS, t));
    j->table = net_alloc(mc, tables * unet_table_bytes(u, PAIRS_STEPS));
    for (int s = 0; s < PAIRS_STEPS; s++) y[s] = net_act(mc, t, p->n, h, w, u->cfg.out_c);
    net_run(j->r, mc, &u->weights, sd_unet_phase, j);
    net_free(mc, j->x.p), net_free(mc, j->text.p), net_free(mc, j->kv), net_free(mc, j->table);
    if (u->cfg.pooled) net_free(mc, j->pooled.p);
}

/* The UNet's taps against the reference. */
static inline void sd_unet_compare(const struct machine *mc, struct dl_run *r, struct sd_nets *m, struct taps *k)
{
    struct sd_unet j = {.mc = mc, .r = r, .m = m, .taps = k};
    const struct pairs all = pairs_of(SD_ROWS, SD_TEXTS);
    dl_act y[PAIRS_STEPS];
    taps_begin(k, "unet/");
    sd_unet_run(&j, &all, y);
    taps_steps(k, y, PAIRS_STEPS);
    taps_end(k);
    pairs_free(mc, y);
}

struct sd_decode {
    struct vae *vae;
    dl_act z, x;
};

static inline void sd_decode_phase(struct dl_run *r, void *arg)
{
    const struct sd_decode *j = arg;
    vae_decode(r, j->vae, j->z, j->x);
}

/* The pictures of rows [from, from + n) of the stored latents, for net_free; the latents stay f32, as a sampler leaves
 * them. */
static inline dl_act sd_decode(const struct machine *mc, struct dl_run *r, struct sd_nets *m, int from, int n)
{
    const int64_t *d;
    const float *z = ref_data(m->ref, "in.z", &d);
    const int h = (int)d[1], w = (int)d[2], c = (int)d[3], f = vae_factor(&m->vae.cfg);
    struct sd_decode j = {.vae = &m->vae};
    j.z = dl_act_at(net_put(mc, DL_F32, z + from * h * w * c, (int64_t)n * h * w * c), DL_F32, n, h, w, c);
    j.x = net_act(mc, r->t, n, f * h, f * w, 3);
    net_run(r, mc, &m->vae.weights, sd_decode_phase, &j);
    net_free(mc, j.z.p);
    return j.x;
}

#endif
