/* The T5 encoder on a tiny model: every tap against transformers' float32 and float64 runs, bf16 within PyTorch's own
 * bf16 error, rows that do not depend on their neighbours and streamed weights byte for byte, states beyond what f16
 * holds. Model and reference values are made by tools/ref/t5.py. */
#include "tests/parity/taps.h"

#include "loaders/st_write.h"
#include "pipelines/t5.h"
#include "tests/unit/root.h"

#define DATA DLENS_SOURCE_DIR "/tests/parity/data/"

/* The tiny model out of one file, and the reference. */
struct model {
    struct st_set *files;
    struct st_file *ref;
    struct t5 t5;
};

static int model_bind(struct model *m, const char *path, struct dl_err *e)
{
    struct t5_config c;
    struct st_file *f;
    struct bind b;
    *m = (struct model){0};
    if (t5_config_read(&c, DATA "t5_tiny.json", e) < 0 || st_open(&f, path, e) < 0 || st_set_of(&m->files, f, e) < 0 ||
        bind_open(&b, m->files, &m->t5.weights, e) < 0)
        return -1;
    int rc = t5_bind(&m->t5, &c, &b, e);
    return bind_close(&b, e) < 0 ? -1 : rc;
}

static void model_close(struct model *m)
{
    t5_close(&m->t5);
    st_set_close(m->files);
    st_close(m->ref);
}

static void model_open(struct model *m)
{
    must(model_bind(m, DATA "t5_tiny.safetensors", e));
    must(st_open(&m->ref, DATA "t5.safetensors", e));
}

/* One pass over rows [from, from + n) of one of the inputs; states and finals are its results. */
struct job {
    struct model *m;
    int32_t *ids;
    uint8_t *mask;
    int n, tokens, upto;
    dl_act states, finals;
    const struct machine *mc;
};

static struct job job_open(const struct machine *mc, struct model *m, const char *input, int from, int n)
{
    struct job j = {.m = m, .mc = mc, .upto = m->t5.cfg.layers};
    char name[40];
    snprintf(name, sizeof name, "%s/in.ids", input);
    const struct st_tensor *ids = st_find(m->ref, name);
    snprintf(name, sizeof name, "%s/in.mask", input);
    const struct st_tensor *mask = st_find(m->ref, name);
    assert_non_null(ids);
    j.n = n ? n : (int)ids->dim[0], j.tokens = (int)ids->dim[1];
    int64_t count = (int64_t)j.n * j.tokens;
    j.ids = malloc((size_t)count * sizeof *j.ids);
    assert_non_null(j.ids);
    memcpy(j.ids, (const int32_t *)ids->data + from * j.tokens, (size_t)count * sizeof *j.ids);
    if (mask) {
        j.mask = malloc((size_t)count);
        assert_non_null(j.mask);
        for (int64_t i = 0; i < count; i++) j.mask[i] = (uint8_t)((const int32_t *)mask->data)[from * j.tokens + i];
    }
    int rows = (j.upto + 1) * j.n, width = m->t5.cfg.width;
    j.states = dl_act_at(net_alloc(mc, (int64_t)rows * j.tokens * width * 4), DL_F32, rows, 1, j.tokens, width);
    j.finals = dl_act_at(net_alloc(mc, (int64_t)rows * j.tokens * width * 4), DL_F32, rows, 1, j.tokens, width);
    return j;
}

static void job_close(struct job *j)
{
    net_free(j->mc, j->states.p);
    net_free(j->mc, j->finals.p);
    free(j->ids), free(j->mask);
}

static void phase(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    t5_run(r, &j->m->t5, j->ids, j->mask, j->n, j->upto, j->states);
    t5_final(r, &j->m->t5, j->states, j->finals);
}

static void run(struct job *j, int type)
{
    struct dl_run r;
    dl_run_open(&r, j->mc->be, j->mc->ctx, type);
    net_run(&r, j->mc, &j->m->t5.weights, phase, j);
    dl_run_close(&r);
}

/* Taps of a finished job against those with the prefix. */
static void compare(struct job *j, struct taps *k, const char *prefix, bool embeddings)
{
    char name[40];
    taps_begin(k, prefix);
    for (int s = embeddings ? 0 : 1; s <= j->upto; s++) {
        snprintf(name, sizeof name, "hidden_states.%d", s);
        taps_act(k, name, dl_act_rows(j->states, s * j->n, j->n));
    }
    for (int s = 0; s <= j->upto; s++) {
        snprintf(name, sizeof name, "final.%d", s);
        taps_act(k, name, dl_act_rows(j->finals, s * j->n, j->n));
    }
    taps_end(k);
}

static const char *const inputs[] = {"masked", "long"};

static void parity(int type)
{
    struct model m;
    model_open(&m);
    for (int reference = 0; reference < 2; reference++) {
        struct machine mc = machine_open(reference);
        struct taps k = {.ref = m.ref, .limit = type == DL_F32 ? 1e-5 : 0};
        if (!mc.be->supports(mc.ctx, type)) print_message("no bf16 primitives here: those of the reference\n");
        for (int i = 0; i < 2; i++) {
            struct job j = job_open(&mc, &m, inputs[i], 0, 0);
            char prefix[40];
            run(&j, type);
            snprintf(prefix, sizeof prefix, "%s/", inputs[i]);
            compare(&j, &k, prefix, type == DL_F32); /* in bf16 the embeddings are exact, and so are PyTorch's */
            snprintf(prefix, sizeof prefix, "f64/%s/", inputs[i]);
            if (type == DL_F32) compare(&j, &k, prefix, true);
            job_close(&j);
        }
        assert_int_equal(k.n, type == DL_F32 ? 32 : 14);
        assert_int_equal(k.n_over, 0);
        machine_close(&mc);
    }
    model_close(&m);
}

static void test_f32(void **state)
{
    (void)state;
    parity(DL_F32);
}

static void test_bf16(void **state)
{
    (void)state;
    parity(DL_BF16);
}

/* A row alone has the bytes that it has beside another, with states in the order that t5.h says. */
static void test_rows(void **state)
{
    (void)state;
    struct model m;
    model_open(&m);
    struct machine mc = machine_open(false);
    for (int type = DL_F32; type <= DL_BF16; type += DL_BF16 - DL_F32) {
        struct job both = job_open(&mc, &m, "masked", 0, 2);
        run(&both, type);
        for (int row = 0; row < 2; row++) {
            struct job one = job_open(&mc, &m, "masked", row, 1);
            run(&one, type);
            int64_t bytes = (int64_t)one.tokens * m.t5.cfg.width * 4;
            for (int k = 0; k <= one.upto; k++) {
                const uint8_t *a = (uint8_t *)one.states.p + k * bytes, *b = (uint8_t *)both.states.p;
                assert_memory_equal(a, b + (2 * k + row) * bytes, (size_t)bytes);
            }
            job_close(&one);
        }
        job_close(&both);
    }
    machine_close(&mc);
    model_close(&m);
}

/* Streamed weights: the same bytes, whole and in part. */
static void streamed(struct job *j, int type, int upto)
{
    int64_t bytes = (int64_t)(upto + 1) * j->n * j->tokens * j->m->t5.cfg.width * 4;
    float *want = malloc((size_t)bytes);
    assert_non_null(want);
    j->upto = upto;
    run(j, type);
    memcpy(want, j->states.p, (size_t)bytes);
    memset(j->states.p, 0xff, (size_t)bytes);
    dl_wset_forget(&j->m->t5.weights);

    struct dl_run r;
    struct dl_stream *s;
    dl_run_open(&r, j->mc->be, j->mc->ctx, type);
    phase(&r, j);
    must(dl_run_check(&r, e));
    struct dl_stream_sizes z = dl_stream_sizes(&j->m->t5.weights);
    assert_int_equal(z.stages, 1 + j->m->t5.cfg.layers);
    assert_true(z.streamed_bytes < z.resident_bytes || upto < 2);
    int64_t peak = r.arena.peak_bytes;
    void *arena = net_alloc(j->mc, peak);
    must(dl_stream_open(&s, &r, &j->m->t5.weights, 0, e));
    r.stream = s;
    must(dl_stream_begin(s, 0, t5_stages(upto), 1, e));
    dl_run_bind(&r, arena, peak);
    phase(&r, j);
    dl_stream_end(s);
    must(dl_run_check(&r, e));
    assert_memory_equal(j->states.p, want, (size_t)bytes);
    dl_stream_close(s);
    dl_run_close(&r);
    dl_wset_forget(&j->m->t5.weights);
    net_free(j->mc, arena);
    free(want);
}

static void test_streamed(void **state)
{
    (void)state;
    struct model m;
    model_open(&m);
    struct machine mc = machine_open(false);
    for (int type = DL_F32; type <= DL_BF16; type += DL_BF16 - DL_F32)
        for (int upto = 0; upto <= m.t5.cfg.layers; upto++) {
            struct job j = job_open(&mc, &m, "masked", 0, 0);
            streamed(&j, type, upto);
            job_close(&j);
        }
    machine_close(&mc);
    model_close(&m);
}

/* Writes the tiny checkpoint anew, each tensor as `change` makes it: false leaves it out. */
static void rewrite(const char *path, bool (*change)(struct st_tensor *t))
{
    struct st_file *f;
    struct st_tensor t[64];
    int64_t n = 0;
    must(st_open(&f, DATA "t5_tiny.safetensors", e));
    for (int64_t i = 0; i < st_file_count(f); i++) {
        t[n] = *st_file_at(f, i);
        if (change(&t[n])) n++;
        assert_true(n < 63);
    }
    must(st_write(path, t, n, NULL, 0, e));
    st_close(f);
}

static uint16_t large[48 * 80];

static bool enlarge(struct st_tensor *t)
{
    if (strcmp(t->name, "encoder.block.1.layer.1.DenseReluDense.wo.weight")) return true;
    const uint16_t *w = t->data;
    for (int i = 0; i < 48 * 80; i++) large[i] = w[i] & 0x7fff ? (uint16_t)(w[i] + (15 << 7)) : w[i];
    t->data = large;
    return true;
}

/* States far beyond 65504: finite, and in bf16 close to those of f32. */
static void test_large(void **state)
{
    (void)state;
    char path[FOLDER_PATH + 20];
    struct model m;
    snprintf(path, sizeof path, "%s/large.safetensors", root);
    rewrite(path, enlarge);
    must(model_bind(&m, path, e));
    must(st_open(&m.ref, DATA "t5.safetensors", e));
    struct machine mc = machine_open(false);
    struct job wide = job_open(&mc, &m, "masked", 0, 0), half = job_open(&mc, &m, "masked", 0, 0);
    run(&wide, DL_F32);
    run(&half, DL_BF16);
    double top = 0, diff = 0, sum = 0;
    int64_t n = dl_act_bytes(wide.finals) / 4, row = n / (wide.upto + 1);
    for (int64_t i = 0; i < n; i++) {
        double a = ((float *)wide.states.p)[i], f = ((float *)wide.finals.p)[i], g = ((float *)half.finals.p)[i];
        assert_true(isfinite(((float *)half.states.p)[i]));
        if (fabs(a) > top) top = fabs(a);
        if (i >= 3 * row) diff += (f - g) * (f - g), sum += f * f;
    }
    print_message("largest state %.3g, bf16 against f32 after the norm %.2e\n", top, sqrt(diff / sum));
    assert_true(top > 65504);
    assert_true(sqrt(diff / sum) < 2e-2);

    struct dl_run r;
    struct dl_err e = {0};
    dl_run_open(&r, mc.be, mc.ctx, DL_F16);
    phase(&r, &wide);
    assert_int_equal(dl_run_check(&r, &e), -1);
    assert_non_null(strstr(e.msg, "overflow f16"));
    dl_run_close(&r);
    job_close(&wide), job_close(&half);
    machine_close(&mc);
    model_close(&m);
}

static bool only_copy(struct st_tensor *t)
{
    if (!strcmp(t->name, "shared.weight")) t->name = "encoder.embed_tokens.weight";
    return true;
}

static bool no_table(struct st_tensor *t) { return strcmp(t->name, "shared.weight") != 0; }

/* A list of both names; st_write takes tensors of equal bytes as two. */
static void write_both(const char *path)
{
    struct st_file *f;
    struct st_tensor t[64];
    must(st_open(&f, DATA "t5_tiny.safetensors", e));
    int64_t n = st_file_count(f);
    for (int64_t i = 0; i < n; i++) t[i] = *st_file_at(f, i);
    t[n] = *st_find(f, "shared.weight"), t[n].name = "encoder.embed_tokens.weight";
    must(st_write(path, t, n + 1, NULL, 0, e));
    st_close(f);
}

static void test_names(void **state)
{
    (void)state;
    char path[FOLDER_PATH + 20];
    struct model m;
    struct dl_err e = {0};
    snprintf(path, sizeof path, "%s/names.safetensors", root);
    rewrite(path, only_copy);
    must(model_bind(&m, path, e));
    assert_string_equal(m.t5.tokens.name, "encoder.embed_tokens.weight");
    model_close(&m);
    write_both(path);
    must(model_bind(&m, path, e));
    assert_string_equal(m.t5.tokens.name, "shared.weight");
    assert_int_equal(m.t5.tokens.stage, 1);
    assert_int_equal(m.t5.block[2].ff_out.stage, 4);
    assert_int_equal(m.t5.ln.stage, 0);
    model_close(&m);
    rewrite(path, no_table);
    assert_int_equal(model_bind(&m, path, &e), -1);
    assert_non_null(strstr(e.msg, "\"shared.weight\" is missing, expected [120, 48]"));
    model_close(&m);
}

/* Configs that this code does not compute are refused by the name of the key. */
static void test_configs(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"\"feed_forward_proj\": \"relu\"", "feed_forward_proj"},
        {"\"feed_forward_proj\": \"gated-silu\"", "feed_forward_proj"},
        {"\"model_type\": \"umt5\"", "model_type"},
        {"\"model_type\": \"clip_text_model\"", "model_type"},
        {"\"dense_act_fn\": \"relu\"", "dense_act_fn"},
        {"\"is_gated_act\": false", "is_gated_act"},
        {"\"is_decoder\": true", "is_decoder"},
        {"\"d_kv\": 12", "d_kv"},
        {"\"d_model\": 0", "d_model"},
        {"\"relative_attention_num_buckets\": 30", "relative_attention_num_buckets"},
        {"\"relative_attention_max_distance\": 8", "relative_attention_max_distance"},
        {"\"layer_norm_epsilon\": 0", "layer_norm_epsilon"},
    };
    static const char *const good = "{\"model_type\": \"t5\", \"feed_forward_proj\": \"gated-gelu\"}";
    char path[FOLDER_PATH + 20], text[400];
    struct t5_config c;
    struct dl_err e = {0};
    snprintf(path, sizeof path, "%s/config.json", root);
    assert_int_equal(folder_write(path, good, (int64_t)strlen(good)), 0);
    must(t5_config_read(&c, path, e));
    assert_int_equal(c.buckets, 32);
    assert_int_equal(c.max_distance, 128);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int type = strstr(bad[i][0], "model_type") != NULL, ff = strstr(bad[i][0], "feed_forward") != NULL;
        int n = snprintf(text, sizeof text, "{%s%s%s}", type ? "" : "\"model_type\": \"t5\", ",
                         ff ? "" : "\"feed_forward_proj\": \"gated-gelu\", ", bad[i][0]);
        assert_int_equal(folder_write(path, text, n), 0);
        e = (struct dl_err){0};
        assert_int_equal(t5_config_read(&c, path, &e), -1);
        if (!strstr(e.msg, bad[i][1])) fail_msg("%s: %s", bad[i][0], e.msg);
        assert_int_equal(e.code, DL_EINPUT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),      cmocka_unit_test(test_bf16),  cmocka_unit_test(test_rows),
        cmocka_unit_test(test_streamed), cmocka_unit_test(test_large), cmocka_unit_test(test_names),
        cmocka_unit_test(test_configs),
    };
    return cmocka_run_group_tests(tests, root_make, root_remove);
}
