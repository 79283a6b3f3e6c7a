/* FLUX's transformer on the tiny synthetic checkpoints of schnell and dev: every tap against diffusers' float32 run,
 * bf16 within PyTorch's own bf16 error, rows that do not depend on their neighbours, byte for byte, the same bytes with
 * streamed weights, times and packing as diffusers has them, and configs that are refused by name. The reference values
 * are made by tools/ref/flux.py, the checkpoints here and now by the synth library. */

#include "tests/parity/net.h"
#include "tools/synth.h"

#include "pipelines/flux.h"
#include "pipelines/pipe.h"
#include "tests/unit/folder.h"

static const char *const models[] = {"schnell", "dev"};
enum { MODELS = 2, ROWS = 8, TEXTS = 3, STEPS = 4 };

static char root[FOLDER_PATH];

static int make_checkpoints(void **state)
{
    (void)state;
    if (folder_make(root) < 0) return -1;
    for (int i = 0; i < MODELS; i++) {
        char folder[FOLDER_PATH + 16];
        snprintf(folder, sizeof folder, "%s/%s", root, models[i]);
        must(synth_folder(folder, e));
        must(synth_flux_transformer(&(struct synth_opts){.like = models[i], .out = folder}, i == 1, e));
    }
    return 0;
}

static int remove_checkpoints(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

struct model {
    struct st_file *ref;
    struct st_set *files;
    struct flux f;
    float guide;
    int h, w, tokens; /* of the inputs: packed latent, text */
};

static const float *input(const struct model *m, const char *name, const int64_t **dim)
{
    const struct st_tensor *t = st_find(m->ref, name);
    if (!t) fail_msg("%s has no %s", st_file_path(m->ref), name);
    if (dim) *dim = t->dim;
    return t->data;
}

static struct model *model_open(const char *name)
{
    struct model *m = calloc(1, sizeof *m);
    struct flux_config c;
    struct bind b;
    char path[FOLDER_PATH + 80];
    assert_non_null(m);
    snprintf(path, sizeof path, DLENS_SOURCE_DIR "/tests/parity/data/flux_%s.safetensors", name);
    must(st_open(&m->ref, path, e));
    snprintf(path, sizeof path, "%s/%s/transformer/config.json", root, name);
    must(flux_config_read(&c, path, e));
    *strrchr(path, '/') = 0;
    must(st_set_open(&m->files, path, "diffusion_pytorch_model", e));
    must(bind_open(&b, m->files, &m->f.weights, e));
    must(flux_bind(&m->f, &c, &b, e));
    must(bind_close(&b, e));
    const int64_t *d;
    input(m, "in.latent", &d);
    m->h = (int)d[1], m->w = (int)d[2];
    input(m, "in.text", &d);
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

/* Latent rows x, conditions, and the (latent, condition) pair of each row of y; all timesteps. */
struct job {
    struct model *m;
    dl_act x, text, pooled, embedded, y[STEPS];
    struct flux_rows rows;
    float times[STEPS], *table;
    void *rope;
    struct taps *taps; /* listens in the first step alone; may be NULL */
};

static void prepare(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    flux_steps(r, &j->m->f, j->times, STEPS, &j->m->guide, j->pooled, j->table);
}

static void steps(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    flux_text(r, &j->m->f, j->text, j->embedded);
    for (r->step = 0; r->step < STEPS; r->step++) {
        flux_step(r, &j->m->f, j->x, &j->rows, j->y[r->step]);
        if (j->taps && !dl_run_is_dry(r)) j->taps->mute = true;
    }
    r->step = 0;
}

/* Rows picked from f32 data [..][h][w][c]. */
static dl_act pick(const struct machine *mc, int t, const float *from, const int32_t *row, int n, int h, int w, int c)
{
    int64_t each = (int64_t)h * w * c;
    dl_act a = dl_act_at(net_alloc(mc, n * each * dl_type_bytes(t)), t, n, h, w, c);
    for (int i = 0; i < n; i++)
        dl_convert((uint8_t *)a.p + i * each * dl_type_bytes(t), t, from + row[i] * each, DL_F32, each);
    return a;
}

static dl_act empty(const struct machine *mc, int t, int n, int h, int w, int c)
{
    return dl_act_at(net_alloc(mc, (int64_t)n * h * w * c * dl_type_bytes(t)), t, n, h, w, c);
}

/* latents [x_n] and texts [conds] name rows of the stored inputs; lat_row and text_row [n] name rows of those. */
static struct job job_open(const struct machine *mc, int t, struct model *m, int x_n, const int32_t *latents, int conds,
                           const int32_t *texts, int n, const int32_t *lat_row, const int32_t *text_row)
{
    const struct flux_config *c = &m->f.cfg;
    const float *time = input(m, "in.timesteps", NULL);
    struct job j = {.m = m};
    j.x = pick(mc, t, input(m, "in.latent", NULL), latents, x_n, m->h, m->w, c->in_c);
    j.text = pick(mc, t, input(m, "in.text", NULL), texts, conds, 1, m->tokens, c->text_c);
    j.pooled = pick(mc, t, input(m, "in.pooled", NULL), texts, conds, 1, 1, c->pooled_c);
    j.embedded = empty(mc, t, conds, 1, m->tokens, c->width);
    j.table = net_alloc(mc, flux_table_bytes(&m->f, STEPS, conds));
    for (int s = 0; s < STEPS; s++) j.y[s] = empty(mc, t, n, m->h, m->w, c->in_c), j.times[s] = flux_time(time[s], t);
    m->guide = flux_guide(*input(m, "in.guidance", NULL), t);
    int64_t turns = flux_rope_count(c, m->tokens, m->h, m->w);
    float *rope = malloc((size_t)turns * sizeof *rope);
    assert_non_null(rope);
    flux_rope(c, m->tokens, m->h, m->w, rope);
    j.rope = net_put(mc, DL_F32, rope, turns);
    free(rope);
    j.rows = (struct flux_rows){.n = n,
                                .lat_row = lat_row,
                                .text_row = text_row,
                                .text = j.embedded,
                                .table = j.table,
                                .steps = STEPS,
                                .table_conds = conds,
                                .rope = j.rope};
    return j;
}

static void job_free(const struct machine *mc, struct job *j)
{
    void *all[] = {j->x.p, j->text.p, j->pooled.p, j->embedded.p, j->table, j->rope};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(mc, all[i]);
    for (int s = 0; s < STEPS; s++) net_free(mc, j->y[s].p);
}

static void job_run(const struct machine *mc, struct dl_run *r, struct job *j)
{
    net_run(r, mc, &j->m->f.prep, prepare, j);
    net_run(r, mc, &j->m->f.weights, steps, j);
}

static const int32_t ident[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7};

/* One model against the reference; limit 0: PyTorch's bf16 error. Returns how many taps are over. */
static int compare(const struct machine *mc, const char *name, int type, double limit)
{
    struct model *m = model_open(name);
    struct taps k = {.ref = m->ref, .limit = limit};
    struct dl_run r;
    int32_t text[ROWS];
    for (int i = 0; i < ROWS; i++) text[i] = i % TEXTS;
    print_message("%s, %s, %s backend\n", name, dl_type_name(type), mc->name);
    dl_run_open(&r, mc->be, mc->ctx, type);
    r.tap = taps_listen, r.tap_user = &k;
    taps_begin(&k, "");
    struct job j = job_open(mc, type, m, ROWS, ident, TEXTS, ident, ROWS, ident, text);
    j.taps = &k;
    job_run(mc, &r, &j);
    k.mute = false;
    for (int s = 0; s < STEPS; s++) {
        char tap[40];
        snprintf(tap, sizeof tap, "step.%d", s);
        taps_act(&k, tap, j.y[s]);
    }
    taps_end(&k);
    job_free(mc, &j);
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
        if (reference || mc.be->supports(mc.ctx, DL_BF16))
            for (int i = 0; i < MODELS; i++) assert_int_equal(compare(&mc, models[i], DL_BF16, 0), 0);
        else
            print_message("skipped: this machine has no bf16 primitives; the reference was held to the same limits\n");
        machine_close(&mc);
    }
}

/* The model is made for bf16; f16 has three bits more, on the reference backend here. */
static void test_f16(void **state)
{
    (void)state;
    struct machine mc = machine_open(true);
    for (int i = 0; i < MODELS; i++) assert_int_equal(compare(&mc, models[i], DL_F16, 2e-3), 0);
    machine_close(&mc);
}

static void assert_same_rows(dl_act a, int from_a, dl_act b, int from_b, int n, const char *what)
{
    dl_act x = dl_act_rows(a, from_a, n), y = dl_act_rows(b, from_b, n);
    if (dl_act_bytes(x) != dl_act_bytes(y) || memcmp(x.p, y.p, (size_t)dl_act_bytes(x)))
        fail_msg("%s: row %d of one run is not row %d of the other", what, from_a, from_b);
}

static struct job run_job(const struct machine *mc, struct dl_run *r, struct model *m, int x_n, const int32_t *latents,
                          int conds, const int32_t *texts, int n, const int32_t *lat_row, const int32_t *text_row)
{
    struct job j = job_open(mc, r->t, m, x_n, latents, conds, texts, n, lat_row, text_row);
    job_run(mc, r, &j);
    return j;
}

static void rows_of(const struct machine *mc, struct dl_run *r, struct model *m)
{
    /* every pair of two latents and two texts */
    static const int32_t two[] = {0, 1}, lat[] = {0, 0, 1, 1}, text[] = {0, 1, 0, 1};
    struct job plain = run_job(mc, r, m, 4, lat, 2, two, 4, ident, text);
    struct job shared = run_job(mc, r, m, 2, two, 2, two, 4, lat, text);
    struct job copies = run_job(mc, r, m, 2, two, 4, text, 4, lat, ident); /* each row its own copy of the text */
    static const int32_t back_lat[] = {1, 1, 0}, back_text[] = {1, 0, 1};
    struct job other = run_job(mc, r, m, 2, two, 2, two, 3, back_lat, back_text);
    for (int s = 0; s < STEPS; s++) {
        assert_same_rows(plain.y[s], 0, shared.y[s], 0, 4, "shared latents");
        assert_same_rows(plain.y[s], 0, copies.y[s], 0, 4, "text copied for each row");
        assert_same_rows(plain.y[s], 3, other.y[s], 0, 1, "other order");
        assert_same_rows(plain.y[s], 2, other.y[s], 1, 1, "other order");
        assert_same_rows(plain.y[s], 1, other.y[s], 2, 1, "other order");
        /* and rows do differ */
        int64_t row = dl_act_bytes(plain.y[s]) / 4;
        assert_memory_not_equal(plain.y[s].p, dl_act_rows(plain.y[s], 1, 1).p, row);
        assert_memory_not_equal(plain.y[s].p, dl_act_rows(plain.y[s], 2, 1).p, row);
    }
    for (int i = 0; i < 4; i++) { /* here the table has one condition */
        struct job one = run_job(mc, r, m, 1, &lat[i], 1, &text[i], 1, ident, ident);
        for (int s = 0; s < STEPS; s++) assert_same_rows(plain.y[s], i, one.y[s], 0, 1, "one row");
        job_free(mc, &one);
    }
    job_free(mc, &plain);
    job_free(mc, &shared);
    job_free(mc, &copies);
    job_free(mc, &other);
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
            rows_of(&mc, &r, m);
            dl_run_close(&r);
        }
        model_close(m);
    }
    machine_close(&mc);
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
    struct machine mc = machine_open(false);
    struct dl_run r;
    static const int32_t text[] = {0, 1, 2, 0};
    struct model *m = model_open("dev"), *other = model_open("dev");
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    struct job whole = run_job(&mc, &r, m, 4, ident, TEXTS, ident, 4, ident, text);
    struct job j = job_open(&mc, DL_F32, other, 4, ident, TEXTS, ident, 4, ident, text);
    stream_run(&r, &mc, &other->f.prep, 1, prepare, &j);
    dl_wset_forget(&other->f.prep);
    stream_run(&r, &mc, &other->f.weights, STEPS, steps, &j);
    for (int s = 0; s < STEPS; s++) assert_same_rows(whole.y[s], 0, j.y[s], 0, 4, "streamed weights");
    job_free(&mc, &whole);
    job_free(&mc, &j);
    dl_run_close(&r);
    model_close(m);
    model_close(other);
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
        const float *in = input(m, "time.in", NULL);
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
    const float *planes = input(m, "in.planes", &d), *packed = input(m, "in.packed", NULL);
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
        cmocka_unit_test(test_f32),     cmocka_unit_test(test_bf16),     cmocka_unit_test(test_f16),
        cmocka_unit_test(test_rows),    cmocka_unit_test(test_streamed), cmocka_unit_test(test_times),
        cmocka_unit_test(test_packing), cmocka_unit_test(test_configs),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, remove_checkpoints);
}
