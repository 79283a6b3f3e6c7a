/* FLUX's transformer on the tiny synthetic checkpoints of schnell and dev: every tap against diffusers' float32 run,
 * bf16 within PyTorch's own bf16 error, rows that do not depend on their neighbours, byte for byte, the same bytes with
 * streamed weights, times and packing as diffusers has them, and configs that are refused by name. The reference values
 * are made by tools/ref/flux.py, the checkpoints here and now by the synth library. */

#include "tests/parity/pairs.h"
#include "tests/parity/taps.h"
#include "tests/unit/root.h"
#include "tools/synth.h"

#include "pipelines/flux.h"
#include "pipelines/pipe.h"

static const char *const models[] = {"schnell", "dev"};
enum { MODELS = 2, ROWS = 8, TEXTS = 3 };

static int make_checkpoints(void **state)
{
    if (root_make(state) < 0) return -1;
    for (int i = 0; i < MODELS; i++) {
        const char *folder = in_root(models[i]);
        must(synth_folder(folder, e));
        must(synth_flux_transformer(&(struct synth_opts){.like = models[i], .out = folder}, i == 1, e));
    }
    return 0;
}

struct model {
    struct st_file *ref;
    struct st_set *files;
    struct flux f;
    float guide;
    int h, w, tokens; /* of the inputs: packed latent, text */
};

static struct model *model_open(const char *name)
{
    struct model *m = calloc(1, sizeof *m);
    struct flux_config c;
    struct bind b;
    char path[FOLDER_PATH + 80];
    assert_non_null(m);
    snprintf(path, sizeof path, "flux_%s", name);
    m->ref = ref_open(path);
    snprintf(path, sizeof path, "%s/%s/transformer/config.json", root, name);
    must(flux_config_read(&c, path, e));
    *strrchr(path, '/') = 0;
    must(st_set_open(&m->files, path, "diffusion_pytorch_model", e));
    must(bind_open(&b, m->files, &m->f.weights, e));
    must(flux_bind(&m->f, &c, &b, e));
    must(bind_close(&b, e));
    const int64_t *d;
    ref_data(m->ref, "in.latent", &d);
    m->h = (int)d[1], m->w = (int)d[2];
    ref_data(m->ref, "in.text", &d);
    m->tokens = (int)d[1];
    return m;
}

static void model_close(struct model *m)
{
    flux_close(&m->f);
    st_set_close(m->files);
    st_close(m->ref);
    free(m);
}

/* A run. */
struct job {
    const struct machine *mc;
    struct dl_run *r;
    struct model *m;
    struct taps *taps; /* listens in the first step alone; may be NULL */

    const struct pairs *p;
    dl_act x, text, pooled, embedded, *y;
    struct flux_rows rows;
    float times[PAIRS_STEPS], *table;
    void *rope;
};

static void prepare(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    flux_steps(r, &j->m->f, j->times, PAIRS_STEPS, &j->m->guide, j->pooled, j->table);
}

static void steps(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    flux_text(r, &j->m->f, j->text, j->embedded);
    for (r->step = 0; r->step < PAIRS_STEPS; r->step++) {
        flux_step(r, &j->m->f, j->x, &j->rows, j->y[r->step]);
        if (j->taps && !dl_run_is_dry(r)) j->taps->mute = true;
    }
    r->step = 0;
}

static void job_open(struct job *j, const struct pairs *p, dl_act y[PAIRS_STEPS])
{
    struct model *m = j->m;
    const struct machine *mc = j->mc;
    const struct flux_config *c = &m->f.cfg;
    const float *time = ref_data(m->ref, "in.timesteps", NULL);
    const int t = j->r->t;
    j->p = p, j->y = y;
    j->x = net_pick(mc, t, ref_data(m->ref, "in.latent", NULL), p->latents, p->x_n, m->h, m->w, c->in_c);
    j->text = net_pick(mc, t, ref_data(m->ref, "in.text", NULL), p->texts, p->conds, 1, m->tokens, c->text_c);
    j->pooled = net_pick(mc, t, ref_data(m->ref, "in.pooled", NULL), p->texts, p->conds, 1, 1, c->pooled_c);
    j->embedded = net_act(mc, t, p->conds, 1, m->tokens, c->width);
    j->table = net_alloc(mc, flux_table_bytes(&m->f, PAIRS_STEPS, p->conds));
    for (int s = 0; s < PAIRS_STEPS; s++)
        y[s] = net_act(mc, t, p->n, m->h, m->w, c->in_c), j->times[s] = flux_time(time[s], t);
    m->guide = flux_guide(*(const float *)ref_data(m->ref, "in.guidance", NULL), t);
    int64_t turns = flux_rope_count(c, m->tokens, m->h, m->w);
    float *rope = malloc((size_t)turns * sizeof *rope);
    assert_non_null(rope);
    flux_rope(c, m->tokens, m->h, m->w, rope);
    j->rope = net_put(mc, DL_F32, rope, turns);
    free(rope);
    j->rows = (struct flux_rows){.n = p->n,
                                 .lat_row = p->lat_row,
                                 .cond_row = p->cond_row,
                                 .text = j->embedded,
                                 .table = j->table,
                                 .steps = PAIRS_STEPS,
                                 .table_conds = p->conds,
                                 .rope = j->rope};
}

/* Everything but the results. */
static void job_close(struct job *j)
{
    void *all[] = {j->x.p, j->text.p, j->pooled.p, j->embedded.p, j->table, j->rope};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(j->mc, all[i]);
}

/* For pairs_run. */
static void run_pairs(void *user, const struct pairs *p, dl_act y[PAIRS_STEPS])
{
    struct job *j = user;
    job_open(j, p, y);
    net_run(j->r, j->mc, &j->m->f.prep, prepare, j);
    net_run(j->r, j->mc, &j->m->f.weights, steps, j);
    job_close(j);
}

/* One model against the reference. */
static int compare(const struct machine *mc, const char *name, int type, double limit)
{
    struct model *m = model_open(name);
    struct taps k = {.ref = m->ref, .limit = limit};
    struct dl_run r;
    struct job j = {.mc = mc, .r = &r, .m = m, .taps = &k};
    const struct pairs all = pairs_of(ROWS, TEXTS);
    dl_act y[PAIRS_STEPS];
    print_message("%s, %s, %s backend\n", name, dl_type_name(type), mc->name);
    dl_run_open(&r, mc->be, mc->ctx, type);
    r.tap = taps_listen, r.tap_user = &k;
    taps_begin(&k, "");
    run_pairs(&j, &all, y);
    taps_steps(&k, y, PAIRS_STEPS);
    taps_end(&k);
    pairs_free(mc, y);
    int over = taps_over(&k);
    dl_run_close(&r);
    model_close(m);
    return over;
}

static void test_f32(void **state)
{
    (void)state;
    taps_f32(compare, models, MODELS);
}

static void test_bf16(void **state)
{
    (void)state;
    taps_bf16(compare, models, MODELS);
}

/* The model is made for bf16; f16 has three bits more, on the reference backend here. */
static void test_f16(void **state)
{
    (void)state;
    struct machine mc = machine_open(true);
    for (int i = 0; i < MODELS; i++) assert_int_equal(compare(&mc, models[i], DL_F16, 2e-3), 0);
    machine_close(&mc);
}

static void rows_of(const struct machine *mc, struct dl_run *r, const char *name)
{
    struct model *m = model_open(name);
    pairs_check(mc, run_pairs, &(struct job){.mc = mc, .r = r, .m = m});
    model_close(m);
}

static void test_rows(void **state)
{
    (void)state;
    net_each_type(models, MODELS, rows_of);
}

/* As net_run, with the weights of blocks passing through. */
static void stream_run(struct dl_run *r, const struct machine *mc, struct dl_wset *set, int passes,
                       void (*phase)(struct dl_run *, void *), void *arg)
{
    struct dl_stream *s;
    dl_run_dry(r);
    phase(r, arg);
    must(dl_run_check(r, e));
    int64_t peak = r->arena.peak_bytes;
    void *arena = net_alloc(mc, peak);
    must(dl_stream_open(&s, r, set, 0, e));
    r->stream = s;
    const struct dl_stream_sizes z = dl_stream_sizes(set);
    must(dl_stream_begin(s, 0, z.stages, passes, e));
    dl_run_bind(r, arena, peak);
    phase(r, arg);
    must(dl_run_check(r, e));
    assert_int_equal(dl_stream_stats(s).stages, passes * z.stages);
    assert_true(z.streamed_bytes < z.resident_bytes);
    print_message("resident %lld bytes, streamed %lld\n", (long long)z.resident_bytes, (long long)z.streamed_bytes);
    r->stream = NULL;
    dl_stream_close(s);
    net_free(mc, arena);
}

static void test_streamed(void **state)
{
    (void)state;
    static const struct pairs p = {.x_n = 4,
                                   .latents = {0, 1, 2, 3},
                                   .conds = TEXTS,
                                   .texts = {0, 1, 2},
                                   .n = 4,
                                   .lat_row = {0, 1, 2, 3},
                                   .cond_row = {0, 1, 2, 0}};
    struct machine mc = machine_open(false);
    struct dl_run r;
    struct model *m = model_open("dev"), *other = model_open("dev");
    dl_act whole[PAIRS_STEPS], y[PAIRS_STEPS];
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    run_pairs(&(struct job){.mc = &mc, .r = &r, .m = m}, &p, whole);
    struct job j = {.mc = &mc, .r = &r, .m = other};
    job_open(&j, &p, y);
    stream_run(&r, &mc, &other->f.prep, 1, prepare, &j);
    dl_wset_forget(&other->f.prep);
    stream_run(&r, &mc, &other->f.weights, PAIRS_STEPS, steps, &j);
    for (int s = 0; s < PAIRS_STEPS; s++) net_same_rows(whole[s], 0, y[s], 0, 4, "streamed weights");
    job_close(&j);
    pairs_free(&mc, whole), pairs_free(&mc, y);
    dl_run_close(&r);
    model_close(m);
    model_close(other);
    machine_close(&mc);
}

struct stopper {
    int now, after; /* stop; taps since then */
    int stages;     /* that were announced */
};

static void stop_listen(void *user, struct dl_run *r, const char *name, dl_act a)
{
    struct stopper *s = user;
    (void)r, (void)a;
    s->after += s->now;
    if (!strcmp(name, "transformer_blocks.0.image")) s->now = 1;
}

static void stop_stage(void *user, struct dl_run *r, int stage)
{
    struct stopper *s = user;
    assert_int_equal(stage, s->stages++);
    if (s->now) dl_fail(&r->err, DL_EINTERRUPT, "interrupted");
}

/* A long step ends behind the block that it is in. */
static void test_stopped(void **state)
{
    (void)state;
    static const struct pairs p = {.x_n = 1, .conds = 1, .n = 1};
    struct machine mc = machine_open(false);
    struct dl_run r;
    struct dl_err e = {0};
    struct model *m = model_open("schnell");
    struct stopper s = {0};
    dl_act y[PAIRS_STEPS];
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    struct job j = {.mc = &mc, .r = &r, .m = m};
    job_open(&j, &p, y);
    net_run(&r, &mc, &m->f.prep, prepare, &j);
    dl_run_dry(&r);
    steps(&r, &j);
    must(dl_run_check(&r, e));
    must(dl_run_load(&r, &m->f.weights, e));
    int64_t peak = r.arena.peak_bytes;
    void *arena = net_alloc(&mc, peak);
    dl_run_bind(&r, arena, peak);
    r.at_stage = stop_stage, r.stage_user = &s, r.tap = stop_listen, r.tap_user = &s;
    steps(&r, &j);
    assert_int_equal(dl_run_check(&r, &e), -1);
    assert_int_equal(e.code, DL_EINTERRUPT);
    assert_int_equal(s.after, 0);
    assert_int_equal(s.stages, 2);
    net_free(&mc, arena);
    job_close(&j);
    pairs_free(&mc, y);
    dl_run_close(&r);
    model_close(m);
    machine_close(&mc);
}

static void test_times(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int type;
    } types[] = {{"f32", DL_F32}, {"bf16", DL_BF16}, {"f16", DL_F16}};
    struct model *m = model_open("schnell");
    for (int t = 0; t < 3; t++) {
        char name[40];
        int64_t n;
        const float *in = ref_data(m->ref, "time.in", NULL);
        snprintf(name, sizeof name, "time.%s", types[t].name);
        const float *time = ref_floats(m->ref, name, &n);
        for (int64_t i = 0; i < n; i++) assert_true(flux_time(in[i], types[t].type) == time[i]);
        snprintf(name, sizeof name, "guide.%s", types[t].name);
        const float *guide = ref_floats(m->ref, name, &n);
        for (int64_t i = 0; i < n; i++)
            assert_true(flux_guide(in[i], types[t].type) == guide[i] || (isinf(guide[i]) && in[i] > 65));
    }
    assert_true(flux_time(750, DL_BF16) == 752 && flux_guide(3.5f, DL_BF16) == 3504);
    model_close(m);
}

/* A packed latent is diffusers' own order. */
static void test_packing(void **state)
{
    (void)state;
    const int64_t *d;
    struct model *m = model_open("schnell");
    const float *planes = ref_data(m->ref, "in.planes", &d), *packed = ref_data(m->ref, "in.packed", NULL);
    const int c = (int)d[0], h = (int)d[1], w = (int)d[2];
    struct pipe p = {.latent_c = c, .latent_factor = 8, .latent_patch = 2};
    float *flat = malloc((size_t)(c * h * w) * sizeof *flat);
    assert_non_null(flat);
    pipe_unpack(&p, 8 * w, 8 * h, packed, flat);
    for (int i = 0; i < c; i++)
        for (int j = 0; j < h * w; j++) assert_true(flat[j * c + i] == planes[i * h * w + j]);
    free(flat);
    model_close(m);
}

/* Which config.json is refused, and with what in the message. */
static void test_configs(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"\"axes_dims_rope\": [4, 6, 4]", "axes_dims_rope"},
        {"\"axes_dims_rope\": [4, 12]", "axes_dims_rope"},
        {"\"axes_dims_rope\": [5, 5, 6]", "axes_dims_rope"},
        {"\"attention_head_dim\": 20, \"axes_dims_rope\": [4, 8, 8]", "attention_head_dim"},
        {"\"in_channels\": 6", "in_channels"},
        {"\"out_channels\": 32", "out_channels"},
        {"\"patch_size\": 2", "patch_size"},
        {"\"num_layers\": -1", "num_layers"},
        {"\"num_layers\": 1000", "num_layers"},
        {"\"num_attention_heads\": 1024, \"attention_head_dim\": 128", "num_attention_heads"},
    };
    char path[FOLDER_PATH + 20];
    snprintf(path, sizeof path, "%s/config.json", root);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct flux_config c;
        struct dl_err e = {0};
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fprintf(f, "{%s%s}", bad[i][0],
                strstr(bad[i][0], "axes") || strstr(bad[i][0], "head_dim") ? "" : ", \"guidance_embeds\": true");
        fclose(f);
        assert_int_equal(flux_config_read(&c, path, &e), -1);
        if (!strstr(e.msg, bad[i][1])) fail_msg("%s: %s", bad[i][0], e.msg);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),   cmocka_unit_test(test_bf16),     cmocka_unit_test(test_f16),
        cmocka_unit_test(test_rows),  cmocka_unit_test(test_streamed), cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_times), cmocka_unit_test(test_packing),  cmocka_unit_test(test_configs),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, root_remove);
}
