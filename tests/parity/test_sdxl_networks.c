/* SDXL's networks on the tiny synthetic checkpoint: both text encoders, the pooled vector of every layer seen through
 * the lens, the UNet with its added embedding, the VAE decoder. Every tap against PyTorch's float32 run, bf16 within
 * PyTorch's own bf16 error, f16 decoding of activations that f16 does not hold, and rows that do not depend on their
 * neighbours, byte for byte. The reference values are made by tools/ref/sdxl_networks.py, the checkpoint here and now
 * by the synth library. */

#include "tests/parity/net.h"
#include "tools/synth.h"

#include "pipelines/clip.h"
#include "pipelines/unet.h"
#include "pipelines/vae.h"
#include "tests/unit/folder.h"

enum { ROWS = 16, TEXTS = 4, STEPS = 4 };

static char root[FOLDER_PATH];

static int make_checkpoint(void **state)
{
    (void)state;
    char folder[FOLDER_PATH + 16];
    if (folder_make(root) < 0) return -1;
    snprintf(folder, sizeof folder, "%s/sdxl", root);
    must(synth_write(&(struct synth_opts){.like = "sdxl", .out = folder}, e));
    return 0;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

struct model {
    struct st_file *ref;
    struct st_set *files[4];
    struct clip clip[2];
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

static struct bind open_part(struct model *m, int i, const char *part, struct dl_wset *set, char *config, size_t cap)
{
    char folder[FOLDER_PATH + 40];
    struct bind b;
    snprintf(folder, sizeof folder, "%s/sdxl/%s", root, part);
    snprintf(config, cap, "%s/config.json", folder);
    must(st_set_open(&m->files[i], folder, i > 1 ? "diffusion_pytorch_model" : "model", e));
    must(bind_open(&b, m->files[i], set, e));
    return b;
}

static struct model *model_open(void)
{
    static const char *const encoders[] = {"text_encoder", "text_encoder_2"};
    struct model *m = calloc(1, sizeof *m);
    char path[FOLDER_PATH + 80];
    struct unet_config unet;
    struct vae_config vae;
    struct bind b;
    assert_non_null(m);
    for (int i = 0; i < 2; i++) {
        struct clip_config clip;
        b = open_part(m, i, encoders[i], &m->clip[i].weights, path, sizeof path);
        must(clip_config_read(&clip, path, e));
        must(clip_bind(&m->clip[i], &clip, &b, e));
        must(bind_close(&b, e));
    }
    b = open_part(m, 2, "unet", &m->unet.weights, path, sizeof path);
    must(unet_config_read(&unet, path, e));
    must(unet_bind(&m->unet, &unet, &b, e));
    must(bind_close(&b, e));
    b = open_part(m, 3, "vae", &m->vae.weights, path, sizeof path);
    must(vae_config_read(&vae, path, e));
    assert_true(vae.force_upcast);
    vae_bind(&m->vae, &vae, &b);
    must(bind_close(&b, e));
    must(st_open(&m->ref, DLENS_SOURCE_DIR "/tests/parity/data/sdxl.safetensors", e));
    return m;
}

static void model_close(struct model *m)
{
    for (int i = 0; i < 2; i++) clip_close(&m->clip[i]);
    unet_close(&m->unet);
    vae_close(&m->vae);
    for (int i = 0; i < 4; i++) st_set_close(m->files[i]);
    st_close(m->ref);
    free(m);
}

/* One encoder over rows [from, from + n) of the ids: all states, their final norms, and what comes of each of these in
 * place of the last block but one's output. State k of row i is row k * n + i everywhere. */
struct clip_job {
    struct clip *clip;
    const int32_t *ids;
    int32_t eos[2 * ROWS * 8]; /* as many as states */
    int n;
    dl_act states, finals, lens, pooled;
};

static void clip_phase(struct dl_run *r, void *arg)
{
    struct clip_job *j = arg;
    clip_run(r, j->clip, j->ids, j->n, j->clip->cfg.layers, j->states);
    clip_final(r, j->clip, j->states, j->finals);
    clip_finish(r, j->clip, j->finals, j->lens);
    clip_pooled(r, j->clip, j->lens, j->eos, j->pooled);
}

static dl_act new_act(const struct machine *mc, int t, int n, int h, int w, int c)
{
    return dl_act_at(net_alloc(mc, (int64_t)n * h * w * c * dl_type_bytes(t)), t, n, h, w, c);
}

static struct clip_job *clip_job(const struct machine *mc, struct dl_run *r, struct model *m, int which, int from,
                                 int n)
{
    struct clip_job *j = calloc(1, sizeof *j);
    assert_non_null(j);
    j->clip = &m->clip[which], j->n = n;
    const struct clip_config *c = &j->clip->cfg;
    int rows = (c->layers + 1) * n;
    j->ids = (const int32_t *)input(m, "in.ids", NULL) + 77 * from;
    assert_true(rows <= 2 * ROWS * 8);
    for (int i = 0; i < rows; i++) j->eos[i] = 9 + 4 * (from + i % n);
    j->states = new_act(mc, r->t, rows, 1, 77, c->width);
    j->finals = new_act(mc, r->t, rows, 1, 77, c->width);
    j->lens = new_act(mc, r->t, rows, 1, 77, c->width);
    j->pooled = new_act(mc, r->t, rows, 1, 1, clip_pooled_width(c));
    net_run(r, mc, &j->clip->weights, clip_phase, j);
    return j;
}

static void clip_job_free(const struct machine *mc, struct clip_job *j)
{
    void *all[] = {j->states.p, j->finals.p, j->lens.p, j->pooled.p};
    for (int i = 0; i < 4; i++) net_free(mc, all[i]);
    free(j);
}

/* The ordinary end: the last state's own pooled vector. */
static void plain_pooled(struct dl_run *r, void *arg)
{
    struct clip_job *j = arg;
    clip_pooled(r, j->clip, dl_act_rows(j->finals, j->clip->cfg.layers * j->n, j->n), j->eos,
                dl_act_rows(j->pooled, 0, j->n));
}

struct unet_job {
    struct model *m;
    dl_act x, text, pooled, y[STEPS];
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
    unet_steps_added(r, &j->m->unet, t, STEPS, j->pooled, input(j->m, "in.sizes", NULL), j->table);
    for (r->step = 0; r->step < STEPS; r->step++) {
        unet_step(r, &j->m->unet, j->x, &j->rows, j->y[r->step]);
        if (j->taps && !dl_run_is_dry(r)) j->taps->mute = true;
    }
    r->step = 0;
}

/* An activation of rows picked from f32 data [..][h][w][c]. */
static dl_act pick(const struct machine *mc, int t, const float *from, const int32_t *row, int n, int h, int w, int c)
{
    int64_t each = (int64_t)h * w * c;
    dl_act a = new_act(mc, t, n, h, w, c);
    for (int i = 0; i < n; i++)
        dl_convert((uint8_t *)a.p + i * each * dl_type_bytes(t), t, from + row[i] * each, DL_F32, each);
    return a;
}

static struct unet_job unet_job(const struct machine *mc, struct dl_run *r, struct model *m, int x_n,
                                const int32_t *latents, int kv_n, const int32_t *texts, int n, const int32_t *lat_row,
                                const int32_t *kv_row, struct taps *taps)
{
    const int64_t *d;
    const float *latent = input(m, "in.latent", &d);
    const int h = (int)d[1], w = (int)d[2], c = (int)d[3];
    struct unet *u = &m->unet;
    struct unet_job j = {.m = m, .taps = taps};
    j.x = pick(mc, r->t, latent, latents, x_n, h, w, c);
    j.text = pick(mc, r->t, input(m, "in.text", NULL), texts, kv_n, 1, 77, u->cfg.cross_dim);
    j.pooled = pick(mc, DL_F32, input(m, "in.pooled", NULL), texts, kv_n, 1, 1, u->cfg.pooled);
    j.kv = net_alloc(mc, unet_kv_bytes(u, kv_n, 77, r->t));
    j.table = net_alloc(mc, kv_n * unet_table_bytes(u, STEPS));
    for (int s = 0; s < STEPS; s++) j.y[s] = new_act(mc, r->t, n, h, w, u->cfg.out_c);
    j.rows = (struct unet_rows){.n = n,
                                .lat_row = lat_row,
                                .kv_row = kv_row,
                                .kv = j.kv,
                                .kv_rows = kv_n,
                                .tokens = 77,
                                .table = j.table,
                                .table_steps = STEPS};
    net_run(r, mc, &u->weights, unet_phase, &j);
    return j;
}

static void unet_job_free(const struct machine *mc, struct unet_job *j)
{
    void *all[] = {j->x.p, j->text.p, j->pooled.p, j->kv, j->table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(mc, all[i]);
    for (int s = 0; s < STEPS; s++) net_free(mc, j->y[s].p);
}

struct vae_job {
    struct vae *vae;
    dl_act z, x;
};

static void vae_phase(struct dl_run *r, void *arg)
{
    struct vae_job *j = arg;
    vae_decode(r, j->vae, j->z, j->x);
}

static struct vae_job vae_job(const struct machine *mc, struct dl_run *r, struct model *m, int n)
{
    const int64_t *d;
    const float *z = input(m, "in.z", &d);
    const int h = (int)d[1], w = (int)d[2], c = (int)d[3], f = vae_factor(&m->vae.cfg);
    struct vae_job j = {.vae = &m->vae};
    j.z = dl_act_at(net_put(mc, DL_F32, z, (int64_t)n * h * w * c), DL_F32, n, h, w, c);
    j.x = new_act(mc, r->t, n, f * h, f * w, 3);
    net_run(r, mc, &m->vae.weights, vae_phase, &j);
    return j;
}

static void vae_job_free(const struct machine *mc, struct vae_job *j)
{
    net_free(mc, j->z.p);
    net_free(mc, j->x.p);
}

static const int32_t ident[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static void taps_of_states(struct taps *k, const char *name, dl_act all, int states)
{
    for (int i = 0; i < states; i++) {
        char tap[40];
        snprintf(tap, sizeof tap, name, i);
        taps_act(k, tap, dl_act_rows(all, ROWS * i, ROWS));
    }
}

static void compare_clip(const struct machine *mc, struct dl_run *r, struct model *m, struct taps *k)
{
    for (int i = 0; i < 2; i++) {
        taps_begin(k, i ? "clip2/" : "clip/");
        struct clip_job *j = clip_job(mc, r, m, i, 0, ROWS);
        int states = j->clip->cfg.layers + 1;
        taps_of_states(k, "final.%d", j->finals, states);
        if (i) {
            taps_of_states(k, "final.lens.%d", j->lens, states);
            taps_of_states(k, "final.pooled.%d", j->pooled, states);
        } else {
            net_run(r, mc, &j->clip->weights, plain_pooled, j);
            taps_act(k, "final.pooled", dl_act_rows(j->pooled, 0, ROWS));
        }
        taps_end(k);
        clip_job_free(mc, j);
    }
}

/* All networks against the reference; limit 0: PyTorch's bf16 error. Returns how many taps are over. */
static int compare(const struct machine *mc, int type, double limit)
{
    struct model *m = model_open();
    struct taps k = {.ref = m->ref, .limit = limit};
    struct dl_run r;
    print_message("sdxl, %s, %s backend\n", dl_type_name(type), mc->name);
    dl_run_open(&r, mc->be, mc->ctx, type);
    r.tap = taps_listen, r.tap_user = &k;
    compare_clip(mc, &r, m, &k);

    taps_begin(&k, "vae/");
    struct vae_job v = vae_job(mc, &r, m, ROWS);
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
        assert_int_equal(compare(&mc, DL_F32, 1e-5), 0);
        machine_close(&mc);
    }
}

static void test_bf16(void **state)
{
    (void)state;
    for (int reference = 1; reference >= 0; reference--) {
        struct machine mc = machine_open(reference);
        if (reference || mc.be->supports(mc.ctx, DL_BF16))
            assert_int_equal(compare(&mc, DL_BF16, 0), 0);
        else
            print_message("skipped: this machine has no bf16 primitives; the reference was held to the same limits\n");
        machine_close(&mc);
    }
}

/* Makes the decoder's inner activations 2^14 times as large, as those of the published weights are too large for f16:
 * every weight that writes them is replaced by a larger copy, listed in own [n]. */
static int enlarge(struct vae *v, float **own)
{
    struct dl_w *w[200] = {&v->conv_in, &v->conv_in_b, &v->attn_out, &v->attn_out_b};
    int n = 4, made = 0;
    for (int i = -1; i < v->cfg.levels; i++) {
        for (int j = 0; j < (i < 0 ? 2 : v->cfg.layers + 1); j++) {
            struct vae_resnet *k = i < 0 ? &v->mid[j] : &v->up[i][j];
            w[n++] = &k->conv1, w[n++] = &k->conv1_b, w[n++] = &k->conv2, w[n++] = &k->conv2_b, w[n++] = &k->shortcut_b;
        }
        if (i >= 0 && i + 1 < v->cfg.levels) w[n++] = &v->sample_b[i];
    }
    for (int i = 0; i < n; i++) {
        if (!w[i]->n_parts) continue;
        int64_t count = dl_w_count(w[i]);
        float *x = own[made++] = malloc((size_t)count * sizeof *x);
        assert_non_null(x);
        dl_w_read(w[i], x, DL_F32);
        for (int64_t k = 0; k < count; k++) x[k] *= 16384;
        w[i]->n_parts = 1;
        w[i]->part[0] = (struct dl_wpart){.file = x, .rows = w[i]->dim[0], .t = DL_F32};
    }
    return made;
}

static float *decode_as(const struct machine *mc, int type, bool shrink, int64_t *n)
{
    struct model *m = model_open();
    float *own[200];
    int made = enlarge(&m->vae, own);
    if (shrink) must(vae_shrink(&m->vae, e));
    struct dl_run r;
    dl_run_open(&r, mc->be, mc->ctx, type);
    struct vae_job v = vae_job(mc, &r, m, 4);
    float *x = net_get(v.x);
    *n = (int64_t)v.x.n * v.x.h * v.x.w * v.x.c;
    vae_job_free(mc, &v);
    dl_run_close(&r);
    model_close(m);
    for (int i = 0; i < made; i++) free(own[i]);
    return x;
}

static double error_of(const float *x, const float *y, int64_t n)
{
    double diff = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) diff += ((double)x[i] - y[i]) * ((double)x[i] - y[i]), sum += (double)y[i] * y[i];
    return sqrt(diff / sum);
}

static void test_half_decoder(void **state)
{
    (void)state;
    struct machine mc = machine_open(true);
    int64_t n;
    float *f32 = decode_as(&mc, DL_F32, false, &n), *same = decode_as(&mc, DL_F32, true, &n);
    float *bf16 = decode_as(&mc, DL_BF16, false, &n), *f16 = decode_as(&mc, DL_F16, true, &n);
    float *plain = decode_as(&mc, DL_F16, false, &n);
    double e_same = error_of(same, f32, n), e_bf16 = error_of(bf16, f32, n), e_f16 = error_of(f16, f32, n);
    bool finite = true;
    for (int64_t i = 0; i < n; i++) finite = finite && isfinite(plain[i]);
    print_message(
        "decoder with large activations, relative L2 error against f32: bf16 %.2e, f16 shrunk %.2e, f32 shrunk "
        "%.2e; f16 as it is %s\n",
        e_bf16, e_f16, e_same, finite ? "is finite" : "overflows");
    assert_false(finite); /* or the others show nothing */
    assert_true(e_same <= 1e-6);
    assert_true(e_f16 <= 2.5e-3);
    assert_true(e_bf16 <= 2e-2);
    float *all[] = {f32, same, bf16, f16, plain};
    for (int i = 0; i < 5; i++) free(all[i]);
    machine_close(&mc);
}

static void assert_same_rows(dl_act a, int from_a, dl_act b, int from_b, int n, const char *what)
{
    dl_act x = dl_act_rows(a, from_a, n), y = dl_act_rows(b, from_b, n);
    if (dl_act_bytes(x) != dl_act_bytes(y) || memcmp(x.p, y.p, (size_t)dl_act_bytes(x)))
        fail_msg("%s: row %d of one run is not row %d of the other", what, from_a, from_b);
}

static void rows_of_clip(const struct machine *mc, struct dl_run *r, struct model *m)
{
    struct clip_job *all = clip_job(mc, r, m, 1, 0, ROWS);
    for (int i = 0; i < ROWS; i += 5) {
        struct clip_job *one = clip_job(mc, r, m, 1, i, 1);
        for (int k = 0; k <= one->clip->cfg.layers; k++) {
            assert_same_rows(all->lens, ROWS * k + i, one->lens, k, 1, "CLIP's end");
            assert_same_rows(all->pooled, ROWS * k + i, one->pooled, k, 1, "pooled");
        }
        clip_job_free(mc, one);
    }
    clip_job_free(mc, all);
}

static void rows_of_unet(const struct machine *mc, struct dl_run *r, struct model *m)
{
    /* every pair of two latents and two texts */
    static const int32_t two[] = {0, 1}, lat[] = {0, 0, 1, 1}, kv[] = {0, 1, 0, 1};
    struct unet_job plain = unet_job(mc, r, m, 4, lat, 2, two, 4, ident, kv, NULL);
    struct unet_job shared = unet_job(mc, r, m, 2, two, 2, two, 4, lat, kv, NULL);
    struct unet_job copies = unet_job(mc, r, m, 2, two, 4, kv, 4, lat, ident, NULL);
    static const int32_t back_lat[] = {1, 1, 0}, back_kv[] = {1, 0, 1};
    struct unet_job other = unet_job(mc, r, m, 2, two, 2, two, 3, back_lat, back_kv, NULL);
    for (int s = 0; s < STEPS; s++) {
        assert_same_rows(plain.y[s], 0, shared.y[s], 0, 4, "UNet, shared latents");
        assert_same_rows(plain.y[s], 0, copies.y[s], 0, 4, "UNet, a condition for each row");
        assert_same_rows(plain.y[s], 3, other.y[s], 0, 1, "UNet, other order");
        assert_same_rows(plain.y[s], 2, other.y[s], 1, 1, "UNet, other order");
        assert_same_rows(plain.y[s], 1, other.y[s], 2, 1, "UNet, other order");
        /* and rows do differ */
        int64_t row = dl_act_bytes(plain.y[s]) / 4;
        assert_memory_not_equal(dl_act_rows(plain.y[s], 0, 1).p, dl_act_rows(plain.y[s], 1, 1).p, row);
        assert_memory_not_equal(dl_act_rows(plain.y[s], 0, 1).p, dl_act_rows(plain.y[s], 2, 1).p, row);
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
    struct model *m = model_open();
    for (int t = 0; t < 2; t++) {
        struct dl_run r;
        if (!mc.be->supports(mc.ctx, types[t])) print_message("no bf16 primitives here: rows of the reference\n");
        dl_run_open(&r, mc.be, mc.ctx, types[t]);
        rows_of_clip(&mc, &r, m);
        rows_of_unet(&mc, &r, m);
        dl_run_close(&r);
    }
    model_close(m);
    machine_close(&mc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_half_decoder),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, remove_checkpoint);
}
