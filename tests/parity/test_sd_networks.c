/* CLIP, UNet and VAE decoder on the tiny synthetic checkpoints: every tap against PyTorch's float32 run, bf16 within
 * PyTorch's own bf16 error, and rows that do not depend on their neighbours, byte for byte. The reference values are
 * made by tools/ref/networks.py, the checkpoints here and now by the synth library. */

#include "tests/parity/net.h"
#include "tools/synth.h"

#include "pipelines/clip.h"
#include "pipelines/unet.h"
#include "pipelines/vae.h"
#include "tests/unit/folder.h"

static const char *const models[] = {"sd15", "sd21"};
enum { MODELS = 2, ROWS = 16, TEXTS = 4, STEPS = 4 };

static char root[FOLDER_PATH];

static int make_checkpoints(void **state)
{
    (void)state;
    if (folder_make(root) < 0) return -1;
    for (int i = 0; i < MODELS; i++) {
        char folder[FOLDER_PATH + 16];
        snprintf(folder, sizeof folder, "%s/%s", root, models[i]);
        must(synth_write(&(struct synth_opts){.like = models[i], .out = folder}, e));
    }
    return 0;
}

static int remove_checkpoints(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

/* One model's networks and inputs. */
struct model {
    struct st_file *ref;
    struct st_set *files[3];
    struct clip clip;
    struct unet unet;
    struct vae vae;
};

static const void *input(const struct model *m, const char *name, const int64_t **dim)
{
    const struct st_tensor *t = st_find(m->ref, name);
    if (!t) fail_msg("%s has no %s", st_file_path(m->ref), name);
    if (dim) *dim = t->dim;
    return t->data;
}

static struct bind open_part(struct model *m, int i, const char *name, const char *part, struct dl_wset *set,
                             char *config, size_t cap)
{
    char folder[FOLDER_PATH + 40];
    struct bind b;
    snprintf(folder, sizeof folder, "%s/%s/%s", root, name, part);
    snprintf(config, cap, "%s/config.json", folder);
    must(st_set_open(&m->files[i], folder, i ? "diffusion_pytorch_model" : "model", e));
    must(bind_open(&b, m->files[i], set, e));
    return b;
}

static struct model *model_open(const char *name)
{
    struct model *m = calloc(1, sizeof *m);
    char path[FOLDER_PATH + 80];
    assert_non_null(m);
    struct clip_config clip;
    struct unet_config unet;
    struct vae_config vae;
    struct bind b = open_part(m, 0, name, "text_encoder", &m->clip.weights, path, sizeof path);
    must(clip_config_read(&clip, path, e));
    must(clip_bind(&m->clip, &clip, &b, e));
    must(bind_close(&b, e));
    b = open_part(m, 1, name, "unet", &m->unet.weights, path, sizeof path);
    must(unet_config_read(&unet, path, e));
    must(unet_bind(&m->unet, &unet, &b, e));
    must(bind_close(&b, e));
    b = open_part(m, 2, name, "vae", &m->vae.weights, path, sizeof path);
    must(vae_config_read(&vae, path, e));
    vae_bind(&m->vae, &vae, &b);
    must(bind_close(&b, e));
    snprintf(path, sizeof path, DLENS_SOURCE_DIR "/tests/parity/data/%s.safetensors", name);
    must(st_open(&m->ref, path, e));
    return m;
}

static void model_close(struct model *m)
{
    clip_close(&m->clip);
    unet_close(&m->unet);
    vae_close(&m->vae);
    for (int i = 0; i < 3; i++) st_set_close(m->files[i]);
    st_close(m->ref);
    free(m);
}

/* Runs rows [from, from + n) of the ids; states [(layers + 1) n] and their final norms. */
struct clip_job {
    struct model *m;
    const int32_t *ids;
    int n;
    dl_act states, finals;
};

static void clip_phase(struct dl_run *r, void *arg)
{
    struct clip_job *j = arg;
    clip_run(r, &j->m->clip, j->ids, j->n, j->m->clip.cfg.layers, j->states);
    clip_final(r, &j->m->clip, j->states, j->finals);
}

static struct clip_job clip_job(const struct machine *mc, struct dl_run *r, struct model *m, int from, int n)
{
    const struct clip_config *c = &m->clip.cfg;
    int rows = (c->layers + 1) * n;
    struct clip_job j = {.m = m, .ids = (const int32_t *)input(m, "in.ids", NULL) + 77 * from, .n = n};
    int64_t bytes = (int64_t)rows * 77 * c->width * dl_type_bytes(r->t);
    j.states = dl_act_at(net_alloc(mc, bytes), r->t, rows, 1, 77, c->width);
    j.finals = dl_act_at(net_alloc(mc, bytes), r->t, rows, 1, 77, c->width);
    net_run(r, mc, &m->clip.weights, clip_phase, &j);
    return j;
}

static void clip_job_free(const struct machine *mc, struct clip_job *j)
{
    net_free(mc, j->states.p);
    net_free(mc, j->finals.p);
}

/* UNet rows: latent rows x, text rows, and the (latent, text) pair of each row of y; all timesteps. */
struct unet_job {
    struct model *m;
    dl_act x, text, y[STEPS];
    struct unet_rows rows;
    void *kv;
    float *table;
    struct taps *taps; /* listens in the first step alone; may be NULL */
};

static void unet_phase(struct dl_run *r, void *arg)
{
    struct unet_job *j = arg;
    const float *t = input(j->m, "in.timesteps", NULL);
    unet_text(r, &j->m->unet, j->text, j->kv);
    unet_steps(r, &j->m->unet, t, STEPS, j->table);
    for (r->step = 0; r->step < STEPS; r->step++) {
        unet_step(r, &j->m->unet, j->x, &j->rows, j->y[r->step]);
        if (j->taps && !dl_run_is_dry(r)) j->taps->mute = true;
    }
    r->step = 0;
}

/* A pixel-sized activation of rows picked from f32 data [..][h][w][c]. */
static dl_act pick(const struct machine *mc, int t, const float *from, const int32_t *row, int n, int h, int w, int c)
{
    int64_t each = (int64_t)h * w * c;
    dl_act a = dl_act_at(net_alloc(mc, n * each * dl_type_bytes(t)), t, n, h, w, c);
    for (int i = 0; i < n; i++)
        dl_convert((uint8_t *)a.p + i * each * dl_type_bytes(t), t, from + row[i] * each, DL_F32, each);
    return a;
}

/* latents [x_n] and texts [kv_n] name rows of the stored inputs; lat_row and kv_row [n] name rows of those. */
static struct unet_job unet_job(const struct machine *mc, struct dl_run *r, struct model *m, int x_n,
                                const int32_t *latents, int kv_n, const int32_t *texts, int n, const int32_t *lat_row,
                                const int32_t *kv_row, struct taps *taps)
{
    const int64_t *d;
    const float *latent = input(m, "in.latent", &d), *text = input(m, "in.text", NULL);
    const int h = (int)d[1], w = (int)d[2], c = (int)d[3], out = m->unet.cfg.out_c;
    struct unet_job j = {.m = m, .taps = taps};
    j.x = pick(mc, r->t, latent, latents, x_n, h, w, c);
    j.text = pick(mc, r->t, text, texts, kv_n, 1, 77, m->unet.cfg.cross_dim);
    j.kv = net_alloc(mc, unet_kv_bytes(&m->unet, kv_n, 77, r->t));
    j.table = net_alloc(mc, unet_table_bytes(&m->unet, STEPS));
    for (int s = 0; s < STEPS; s++)
        j.y[s] = dl_act_at(net_alloc(mc, (int64_t)n * h * w * out * dl_type_bytes(r->t)), r->t, n, h, w, out);
    j.rows = (struct unet_rows){
        .n = n, .lat_row = lat_row, .kv_row = kv_row, .kv = j.kv, .kv_rows = kv_n, .tokens = 77, .table = j.table};
    net_run(r, mc, &m->unet.weights, unet_phase, &j);
    return j;
}

static void unet_job_free(const struct machine *mc, struct unet_job *j)
{
    void *all[] = {j->x.p, j->text.p, j->kv, j->table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(mc, all[i]);
    for (int s = 0; s < STEPS; s++) net_free(mc, j->y[s].p);
}

struct vae_job {
    struct model *m;
    dl_act z, x;
};

static void vae_phase(struct dl_run *r, void *arg)
{
    struct vae_job *j = arg;
    vae_decode(r, &j->m->vae, j->z, j->x);
}

/* Rows [from, from + n) of the stored latents; z stays f32, as a sampler leaves it. */
static struct vae_job vae_job(const struct machine *mc, struct dl_run *r, struct model *m, int from, int n)
{
    const int64_t *d;
    const float *z = input(m, "in.z", &d);
    const int h = (int)d[1], w = (int)d[2], c = (int)d[3], f = vae_factor(&m->vae.cfg);
    struct vae_job j = {.m = m};
    j.z = dl_act_at(net_put(mc, DL_F32, z + from * h * w * c, (int64_t)n * h * w * c), DL_F32, n, h, w, c);
    j.x = dl_act_at(net_alloc(mc, (int64_t)n * f * h * f * w * 3 * dl_type_bytes(r->t)), r->t, n, f * h, f * w, 3);
    net_run(r, mc, &m->vae.weights, vae_phase, &j);
    return j;
}

static void vae_job_free(const struct machine *mc, struct vae_job *j)
{
    net_free(mc, j->z.p);
    net_free(mc, j->x.p);
}

static const int32_t ident[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* All networks of one model against the reference; limit 0: PyTorch's bf16 error. Returns how many taps are over. */
static int compare(const struct machine *mc, const char *name, int type, double limit)
{
    struct model *m = model_open(name);
    struct taps k = {.ref = m->ref, .limit = limit};
    struct dl_run r;
    print_message("%s, %s, %s backend\n", name, dl_type_name(type), mc->name);
    dl_run_open(&r, mc->be, mc->ctx, type);
    r.tap = taps_listen, r.tap_user = &k;

    taps_begin(&k, "clip/");
    struct clip_job c = clip_job(mc, &r, m, 0, ROWS);
    for (int i = 0; i <= m->clip.cfg.layers; i++) {
        char tap[40];
        snprintf(tap, sizeof tap, "final.%d", i);
        taps_act(&k, tap, dl_act_rows(c.finals, ROWS * i, ROWS));
    }
    taps_end(&k);
    clip_job_free(mc, &c);

    taps_begin(&k, "vae/");
    struct vae_job v = vae_job(mc, &r, m, 0, ROWS);
    taps_end(&k);
    vae_job_free(mc, &v);

    taps_begin(&k, "unet/");
    int32_t text[ROWS];
    for (int i = 0; i < ROWS; i++) text[i] = i % TEXTS;
    struct unet_job u = unet_job(mc, &r, m, ROWS, ident, TEXTS, ident, ROWS, ident, text, &k);
    k.mute = false;
    for (int s = 0; s < STEPS; s++) {
        char tap[40];
        snprintf(tap, sizeof tap, "step.%d", s);
        taps_act(&k, tap, u.y[s]);
    }
    taps_end(&k);
    unet_job_free(mc, &u);

    /* no stored tap may have been passed over */
    int stored = 0;
    for (int64_t i = 0; i < st_file_count(m->ref); i++) stored += !strncmp(st_file_at(m->ref, i)->name, "norm/", 5);
    assert_int_equal(k.n, stored);
    dl_run_close(&r);
    model_close(m);
    return k.n_over;
}

static void test_f32(void **state)
{
    (void)state;
    for (int reference = 0; reference < 2; reference++) {
        struct machine mc = machine_open(reference);
        for (int i = 0; i < MODELS; i++) assert_int_equal(compare(&mc, models[i], DL_F32, 1e-5), 0);
        machine_close(&mc);
    }
}

static void test_bf16(void **state)
{
    (void)state;
    for (int reference = 1; reference >= 0; reference--) {
        struct machine mc = machine_open(reference);
        bool can = reference || mc.be->supports(mc.ctx, DL_BF16);
        if (can)
            for (int i = 0; i < MODELS; i++) assert_int_equal(compare(&mc, models[i], DL_BF16, 0), 0);
        else
            print_message("skipped: this machine has no bf16 primitives; the reference was held to the same limits\n");
        machine_close(&mc);
    }
}

static void assert_same_rows(dl_act a, int from_a, dl_act b, int from_b, int n, const char *what)
{
    dl_act x = dl_act_rows(a, from_a, n), y = dl_act_rows(b, from_b, n);
    if (dl_act_bytes(x) != dl_act_bytes(y) || memcmp(x.p, y.p, (size_t)dl_act_bytes(x)))
        fail_msg("%s: row %d of one run is not row %d of the other", what, from_a, from_b);
}

static void rows_of_clip_and_vae(const struct machine *mc, struct dl_run *r, struct model *m)
{
    struct clip_job c = clip_job(mc, r, m, 0, ROWS);
    struct vae_job v = vae_job(mc, r, m, 0, 3);
    for (int i = 0; i < 2; i++) {
        struct clip_job c1 = clip_job(mc, r, m, i, 1);
        for (int k = 0; k <= m->clip.cfg.layers; k++) assert_same_rows(c.finals, ROWS * k + i, c1.finals, k, 1, "CLIP");
        clip_job_free(mc, &c1);
        struct vae_job v1 = vae_job(mc, r, m, i, 1);
        assert_same_rows(v.x, i, v1.x, 0, 1, "VAE");
        vae_job_free(mc, &v1);
    }
    clip_job_free(mc, &c);
    vae_job_free(mc, &v);
}

static void rows_of_unet(const struct machine *mc, struct dl_run *r, struct model *m)
{
    /* every pair of two latents and two texts */
    static const int32_t two[] = {0, 1}, lat[] = {0, 0, 1, 1}, kv[] = {0, 1, 0, 1};
    struct unet_job plain = unet_job(mc, r, m, 4, lat, 2, two, 4, ident, kv, NULL);
    struct unet_job shared = unet_job(mc, r, m, 2, two, 2, two, 4, lat, kv, NULL);
    /* each row its own copy of the text */
    struct unet_job copies = unet_job(mc, r, m, 2, two, 4, kv, 4, lat, ident, NULL);
    static const int32_t back_lat[] = {1, 1, 0}, back_kv[] = {1, 0, 1};
    struct unet_job other = unet_job(mc, r, m, 2, two, 2, two, 3, back_lat, back_kv, NULL);
    for (int s = 0; s < STEPS; s++) {
        assert_same_rows(plain.y[s], 0, shared.y[s], 0, 4, "UNet, shared latents");
        assert_same_rows(plain.y[s], 0, copies.y[s], 0, 4, "UNet, K/V copied for each row");
        assert_same_rows(plain.y[s], 3, other.y[s], 0, 1, "UNet, other order");
        assert_same_rows(plain.y[s], 2, other.y[s], 1, 1, "UNet, other order");
        assert_same_rows(plain.y[s], 1, other.y[s], 2, 1, "UNet, other order");
        /* and rows do differ */
        assert_memory_not_equal(dl_act_rows(plain.y[s], 0, 1).p, dl_act_rows(plain.y[s], 1, 1).p,
                                dl_act_bytes(plain.y[s]) / 4);
        assert_memory_not_equal(dl_act_rows(plain.y[s], 0, 1).p, dl_act_rows(plain.y[s], 2, 1).p,
                                dl_act_bytes(plain.y[s]) / 4);
    }
    for (int i = 0; i < 4; i++) {
        struct unet_job one = unet_job(mc, r, m, 1, &lat[i], 1, &kv[i], 1, ident, ident, NULL);
        for (int s = 0; s < STEPS; s++) assert_same_rows(plain.y[s], i, one.y[s], 0, 1, "UNet, one row");
        unet_job_free(mc, &one);
    }
    unet_job_free(mc, &plain);
    unet_job_free(mc, &shared);
    unet_job_free(mc, &copies);
    unet_job_free(mc, &other);
}

static void test_rows(void **state)
{
    (void)state;
    static const int types[] = {DL_F32, DL_BF16};
    struct machine mc = machine_open(false);
    for (int i = 0; i < MODELS; i++) {
        struct model *m = model_open(models[i]);
        for (int t = 0; t < 2; t++) {
            if (!mc.be->supports(mc.ctx, types[t])) print_message("no bf16 primitives here: rows of the reference\n");
            struct dl_run r;
            dl_run_open(&r, mc.be, mc.ctx, types[t]);
            rows_of_clip_and_vae(&mc, &r, m);
            rows_of_unet(&mc, &r, m);
            dl_run_close(&r);
        }
        model_close(m);
    }
    machine_close(&mc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, remove_checkpoints);
}
