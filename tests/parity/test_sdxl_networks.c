/* SDXL's networks on the tiny synthetic checkpoint: both text encoders, the pooled vector of every layer seen through
 * the lens, the UNet with its added embedding, the VAE decoder. Every tap against PyTorch's float32 run, bf16 within
 * PyTorch's own bf16 error, f16 decoding of activations that f16 does not hold, and rows that do not depend on their
 * neighbours, byte for byte. The reference values are made by tools/ref/sdxl_networks.py, the checkpoint here and now
 * by the synth library. */

#include "tests/parity/parts.h"
#include "tests/parity/sd_nets.h"
#include "tools/synth.h"

static const char *const models[] = {"sdxl"};

static int make_checkpoint(void **state)
{
    if (root_make(state) < 0) return -1;
    must(synth_write(&(struct synth_opts){.like = models[0], .out = in_root(models[0])}, e));
    return 0;
}

/* One encoder over rows [from, from + n) of the ids: all states, their final norms, and what comes of each of these in
 * place of the last block but one's output. State k of row i is row k * n + i everywhere. */
struct clip_job {
    struct clip *clip;
    const int32_t *ids;
    int32_t eos[2 * SD_ROWS * 8]; /* as many as states */
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

static struct clip_job *clip_job(const struct machine *mc, struct dl_run *r, struct sd_nets *m, int which, int from,
                                 int n)
{
    struct clip_job *j = calloc(1, sizeof *j);
    assert_non_null(j);
    j->clip = &m->clip[which], j->n = n;
    const struct clip_config *c = &j->clip->cfg;
    int rows = (c->layers + 1) * n;
    j->ids = (const int32_t *)ref_data(m->ref, "in.ids", NULL) + SD_TOKENS * from;
    assert_true(rows <= 2 * SD_ROWS * 8);
    for (int i = 0; i < rows; i++) j->eos[i] = 9 + 4 * (from + i % n);
    j->states = net_act(mc, r->t, rows, 1, SD_TOKENS, c->width);
    j->finals = net_act(mc, r->t, rows, 1, SD_TOKENS, c->width);
    j->lens = net_act(mc, r->t, rows, 1, SD_TOKENS, c->width);
    j->pooled = net_act(mc, r->t, rows, 1, 1, clip_pooled_width(c));
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

static void taps_of_states(struct taps *k, const char *name, dl_act all, int states)
{
    for (int i = 0; i < states; i++) {
        char tap[40];
        snprintf(tap, sizeof tap, name, i);
        taps_act(k, tap, dl_act_rows(all, SD_ROWS * i, SD_ROWS));
    }
}

static void compare_clip(const struct machine *mc, struct dl_run *r, struct sd_nets *m, struct taps *k)
{
    for (int i = 0; i < 2; i++) {
        taps_begin(k, i ? "clip2/" : "clip/");
        struct clip_job *j = clip_job(mc, r, m, i, 0, SD_ROWS);
        int states = j->clip->cfg.layers + 1;
        taps_of_states(k, "final.%d", j->finals, states);
        if (i) {
            taps_of_states(k, "final.lens.%d", j->lens, states);
            taps_of_states(k, "final.pooled.%d", j->pooled, states);
        } else {
            net_run(r, mc, &j->clip->weights, plain_pooled, j);
            taps_act(k, "final.pooled", dl_act_rows(j->pooled, 0, SD_ROWS));
        }
        taps_end(k);
        clip_job_free(mc, j);
    }
}

/* All networks against the reference. */
static int compare(const struct machine *mc, const char *name, int type, double limit)
{
    struct sd_nets *m = sd_nets_open(name, 2);
    struct taps k = {.ref = m->ref, .limit = limit};
    struct dl_run r;
    print_message("%s, %s, %s backend\n", name, dl_type_name(type), mc->name);
    dl_run_open(&r, mc->be, mc->ctx, type);
    r.tap = taps_listen, r.tap_user = &k;
    compare_clip(mc, &r, m, &k);
    taps_begin(&k, "vae/");
    net_free(mc, sd_decode(mc, &r, m, 0, SD_ROWS).p);
    taps_end(&k);
    sd_unet_compare(mc, &r, m, &k);
    int over = taps_over(&k);
    dl_run_close(&r);
    sd_nets_close(m);
    return over;
}

static void test_f32(void **state)
{
    (void)state;
    taps_f32(compare, models, 1);
}

static void test_bf16(void **state)
{
    (void)state;
    taps_bf16(compare, models, 1);
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
    struct sd_nets *m = sd_nets_open(models[0], 2);
    float *own[200];
    assert_true(m->vae.cfg.force_upcast);
    int made = enlarge(&m->vae, own);
    if (shrink) must(vae_shrink(&m->vae, e));
    struct dl_run r;
    dl_run_open(&r, mc->be, mc->ctx, type);
    dl_act v = sd_decode(mc, &r, m, 0, 4);
    float *x = net_get(v);
    *n = (int64_t)v.n * v.h * v.w * v.c;
    net_free(mc, v.p);
    dl_run_close(&r);
    sd_nets_close(m);
    for (int i = 0; i < made; i++) free(own[i]);
    return x;
}

static void test_half_decoder(void **state)
{
    (void)state;
    struct machine mc = machine_open(true);
    int64_t n;
    float *f32 = decode_as(&mc, DL_F32, false, &n), *same = decode_as(&mc, DL_F32, true, &n);
    float *bf16 = decode_as(&mc, DL_BF16, false, &n), *f16 = decode_as(&mc, DL_F16, true, &n);
    float *plain = decode_as(&mc, DL_F16, false, &n);
    double e_same = l2_error(same, f32, n), e_bf16 = l2_error(bf16, f32, n), e_f16 = l2_error(f16, f32, n);
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

static void rows_of_clip(const struct machine *mc, struct dl_run *r, struct sd_nets *m)
{
    struct clip_job *all = clip_job(mc, r, m, 1, 0, SD_ROWS);
    for (int i = 0; i < SD_ROWS; i += 5) {
        struct clip_job *one = clip_job(mc, r, m, 1, i, 1);
        for (int k = 0; k <= one->clip->cfg.layers; k++) {
            net_same_rows(all->lens, SD_ROWS * k + i, one->lens, k, 1, "CLIP's end");
            net_same_rows(all->pooled, SD_ROWS * k + i, one->pooled, k, 1, "pooled");
        }
        clip_job_free(mc, one);
    }
    clip_job_free(mc, all);
}

static void rows_of(const struct machine *mc, struct dl_run *r, const char *name)
{
    struct sd_nets *m = sd_nets_open(name, 2);
    rows_of_clip(mc, r, m);
    pairs_check(mc, sd_unet_run, &(struct sd_unet){.mc = mc, .r = r, .m = m});
    sd_nets_close(m);
}

static void test_rows(void **state)
{
    (void)state;
    net_each_type(models, 1, rows_of);
}

/* At a size where most levels' pixels make whole sets. */
static void parts_of_model(const struct machine *mc, struct dl_run *r, const char *name)
{
    struct sd_nets *m = sd_nets_open(name, 2);
    net_free(mc, sd_decode(mc, r, m, 0, 2).p);
    pairs_check(mc, sd_unet_run, &(struct sd_unet){.mc = mc, .r = r, .m = m, .h = 32, .w = 16});
    sd_nets_close(m);
}

static void test_parts(void **state)
{
    (void)state;
    parts_each_model(models, 1, parts_of_model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_half_decoder),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, make_checkpoint, root_remove);
}
