/* DeepFloyd IF's UNets on the tiny synthetic checkpoints: every tap against float64 PyTorch, bf16 within PyTorch's own
 * bf16 error, rows that do not depend on their neighbours, byte for byte, and configs that are refused by name. The
 * reference values are made by tools/ref/unet_if.py from the checkpoints that are made here and now; with
 * DLENS_CHECKPOINTS naming a folder they are made there and kept, for that script. */

#include "tests/parity/if_unet.h"

#include "tests/unit/folder.h"

static const char *const models[] = {"if1", "if2"};
enum { MODELS = 2, ROWS = 8, TEXTS = 4, TOKENS = 77, STEPS = 4 };

static char root[FOLDER_PATH];

static const char *checkpoint(const char *name)
{
    static char folder[FOLDER_PATH + 16];
    snprintf(folder, sizeof folder, "%s/%s", root, name);
    return folder;
}

static int make_checkpoints(void **state)
{
    (void)state;
    const char *keep = getenv("DLENS_CHECKPOINTS");
    if (keep && *keep)
        snprintf(root, sizeof root, "%s", keep);
    else if (folder_make(root) < 0)
        return -1;
    for (int i = 0; i < MODELS; i++) if_unet_write(models[i], checkpoint(models[i]));
    return 0;
}

static int remove_checkpoints(void **state)
{
    (void)state;
    const char *keep = getenv("DLENS_CHECKPOINTS");
    if (!keep || !*keep) folder_remove(root);
    return 0;
}

struct model {
    struct st_file *ref;
    struct st_set *files;
    struct unet_if u;
};

static struct model *model_open(const char *name)
{
    struct model *m = calloc(1, sizeof *m);
    char path[600];
    assert_non_null(m);
    if_unet_open(&m->u, &m->files, checkpoint(name));
    snprintf(path, sizeof path, DLENS_SOURCE_DIR "/tests/parity/data/%s.safetensors", name);
    must(st_open(&m->ref, path, e));
    return m;
}

static void model_close(struct model *m)
{
    unet_if_close(&m->u);
    st_set_close(m->files);
    st_close(m->ref);
    free(m);
}

static const void *input(const struct model *m, const char *name, const int64_t **dim)
{
    const struct st_tensor *t = st_find(m->ref, name);
    if (!t) fail_msg("%s has no %s", st_file_path(m->ref), name);
    if (dim) *dim = t->dim;
    return t->data;
}

/* Latent rows x, conditions, and the (latent, condition) pair of each row of y; all timesteps. */
struct job {
    struct model *m;
    dl_act x, text, y[STEPS];
    struct unet_if_rows rows;
    void *kv;
    float *emb, *table;
    struct taps *taps; /* listens in the first step alone; may be NULL */
};

static void phase(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    const float *t = input(j->m, "in.timesteps", NULL), *level = input(j->m, "in.level", NULL);
    unet_if_text(r, &j->m->u, j->text, j->kv, j->emb);
    unet_if_steps(r, &j->m->u, t, STEPS, j->m->u.cfg.noise_level ? level : NULL, j->emb, j->rows.conds, j->table);
    for (r->step = 0; r->step < STEPS; r->step++) {
        unet_if_step(r, &j->m->u, j->x, &j->rows, j->y[r->step]);
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

/* latents [x_n] and texts [conds] name rows of the stored inputs; lat_row and cond_row [n] name rows of those. */
static struct job run_job(const struct machine *mc, struct dl_run *r, struct model *m, int x_n, const int32_t *latents,
                          int conds, const int32_t *texts, int n, const int32_t *lat_row, const int32_t *cond_row,
                          struct taps *taps)
{
    const int64_t *d;
    const float *latent = input(m, "in.latent", &d), *text = input(m, "in.text", NULL);
    const int h = (int)d[1], w = (int)d[2], c = (int)d[3], out = m->u.cfg.out_c;
    struct job j = {.m = m, .taps = taps};
    j.x = pick(mc, r->t, latent, latents, x_n, h, w, c);
    j.text = pick(mc, DL_F32, text, texts, conds, 1, TOKENS, m->u.cfg.text_dim);
    j.kv = net_alloc(mc, unet_if_kv_bytes(&m->u, conds, TOKENS, r->t));
    j.emb = net_alloc(mc, unet_if_emb_bytes(&m->u, conds));
    j.table = net_alloc(mc, unet_if_table_bytes(&m->u, STEPS, conds));
    for (int s = 0; s < STEPS; s++)
        j.y[s] = dl_act_at(net_alloc(mc, (int64_t)n * h * w * out * dl_type_bytes(r->t)), r->t, n, h, w, out);
    j.rows = (struct unet_if_rows){.n = n,
                                   .lat_row = lat_row,
                                   .cond_row = cond_row,
                                   .kv = j.kv,
                                   .conds = conds,
                                   .tokens = TOKENS,
                                   .table = j.table};
    net_run(r, mc, &m->u.weights, phase, &j);
    return j;
}

static void job_free(const struct machine *mc, struct job *j)
{
    void *all[] = {j->x.p, j->text.p, j->kv, j->emb, j->table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(mc, all[i]);
    for (int s = 0; s < STEPS; s++) net_free(mc, j->y[s].p);
}

static const int32_t ident[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7}, texts_of[ROWS] = {0, 1, 2, 3, 0, 1, 2, 3};

/* One model against the reference; limit 0: PyTorch's bf16 error. Returns how many taps are over. */
static int compare(const struct machine *mc, const char *name, int type, double limit)
{
    struct model *m = model_open(name);
    struct taps k = {.ref = m->ref, .limit = limit};
    struct dl_run r;
    print_message("%s, %s, %s backend\n", name, dl_type_name(type), mc->name);
    dl_run_open(&r, mc->be, mc->ctx, type);
    r.tap = taps_listen, r.tap_user = &k;
    taps_begin(&k, "unet/");
    struct job j = run_job(mc, &r, m, ROWS, ident, TEXTS, ident, ROWS, ident, texts_of, &k);
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

static void assert_same_rows(dl_act a, int from_a, dl_act b, int from_b, int n, const char *what)
{
    dl_act x = dl_act_rows(a, from_a, n), y = dl_act_rows(b, from_b, n);
    if (dl_act_bytes(x) != dl_act_bytes(y) || memcmp(x.p, y.p, (size_t)dl_act_bytes(x)))
        fail_msg("%s: row %d of one run is not row %d of the other", what, from_a, from_b);
}

static void rows_of(const struct machine *mc, struct dl_run *r, struct model *m)
{
    /* every pair of two latents and two texts */
    static const int32_t two[] = {0, 1}, lat[] = {0, 0, 1, 1}, cond[] = {0, 1, 0, 1};
    struct job plain = run_job(mc, r, m, 4, lat, 2, two, 4, ident, cond, NULL);
    struct job shared = run_job(mc, r, m, 2, two, 2, two, 4, lat, cond, NULL);
    /* each row its own condition */
    struct job copies = run_job(mc, r, m, 2, two, 4, cond, 4, lat, ident, NULL);
    static const int32_t back_lat[] = {1, 1, 0}, back_cond[] = {1, 0, 1};
    struct job other = run_job(mc, r, m, 2, two, 2, two, 3, back_lat, back_cond, NULL);
    for (int s = 0; s < STEPS; s++) {
        assert_same_rows(plain.y[s], 0, shared.y[s], 0, 4, "shared latents");
        assert_same_rows(plain.y[s], 0, copies.y[s], 0, 4, "a condition for each row");
        assert_same_rows(plain.y[s], 3, other.y[s], 0, 1, "other order");
        assert_same_rows(plain.y[s], 2, other.y[s], 1, 1, "other order");
        assert_same_rows(plain.y[s], 1, other.y[s], 2, 1, "other order");
        /* and rows do differ */
        assert_memory_not_equal(dl_act_rows(plain.y[s], 0, 1).p, dl_act_rows(plain.y[s], 1, 1).p,
                                dl_act_bytes(plain.y[s]) / 4);
        assert_memory_not_equal(dl_act_rows(plain.y[s], 0, 1).p, dl_act_rows(plain.y[s], 2, 1).p,
                                dl_act_bytes(plain.y[s]) / 4);
    }
    for (int i = 0; i < 4; i++) {
        struct job one = run_job(mc, r, m, 1, &lat[i], 1, &cond[i], 1, ident, ident, NULL);
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

/* An image that does not halve often enough is refused, with the multiple. */
static void test_sizes(void **state)
{
    (void)state;
    struct machine mc = machine_open(false);
    struct model *m = model_open("if2");
    struct dl_run r;
    struct dl_err e = {0};
    assert_int_equal(unet_if_multiple(&m->u.cfg), 8);
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    dl_run_dry(&r);
    dl_act x = dl_act_hi(&r, DL_F32, 1, 24, 20, 6), y = dl_act_hi(&r, DL_F32, 1, 24, 20, 6);
    struct unet_if_rows rows = {
        .n = 1, .lat_row = ident, .cond_row = ident, .kv = x.p, .conds = 1, .tokens = TOKENS, .table = x.p};
    unet_if_step(&r, &m->u, x, &rows, y);
    assert_int_equal(dl_run_check(&r, &e), -1);
    assert_non_null(strstr(e.msg, "20 x 24"));
    assert_non_null(strstr(e.msg, "multiples of 8"));
    dl_run_close(&r);
    model_close(m);
    machine_close(&mc);
}

/* The published shapes: columns of the step table and of the K/V buffer. */
static void test_widths(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t rows, kv;
    } known[] = {{"if1-full", 59520, 42880}, {"if2-full", 78720, 51840}};
    for (int i = 0; i < 2; i++) {
        char path[FOLDER_PATH + 60];
        struct unet_if *u = calloc(1, sizeof *u);
        struct unet_if_config c;
        struct synth_list l = {0};
        struct bind b;
        assert_non_null(u);
        if_unet_config(known[i].name, checkpoint(known[i].name));
        snprintf(path, sizeof path, "%s/unet/config.json", checkpoint(known[i].name));
        must(unet_if_config_read(&c, path, e));
        must(bind_open_list(&b, synth_collect, &l, e));
        unet_if_bind(u, &c, &b);
        must(bind_close(&b, e));
        synth_list_close(&l);
        assert_int_equal(u->row_width, known[i].rows);
        assert_int_equal(u->kv_width, known[i].kv);
        assert_int_equal(unet_if_table_bytes(u, 100, 3), known[i].rows * 1200);
        assert_int_equal(unet_if_kv_bytes(u, 3, 77, DL_F16), known[i].kv * 462);
        unet_if_close(u);
        free(u);
    }
}

/* A line of the config replaced: the error names the key and says `words`. */
static const struct {
    const char *model, *key, *line, *words;
} refusals[] = {
    {"if1", "act_fn", "\"act_fn\": \"silu\",", "not one of DeepFloyd IF"},
    {"if1", "act_fn", "", "not one of DeepFloyd IF"},
    {"if1", "addition_embed_type", "\"addition_embed_type\": \"text_time\",", "\"text_time\""},
    {"if1", "addition_embed_type", "", "not \"text\""},
    {"if1", "cross_attention_norm", "\"cross_attention_norm\": \"layer_norm\",", "\"layer_norm\""},
    {"if1", "resnet_time_scale_shift", "\"resnet_time_scale_shift\": \"default\",", "\"default\""},
    {"if1", "time_embedding_type", "\"time_embedding_type\": \"fourier\",", "\"fourier\""},
    {"if1", "mid_block_type", "\"mid_block_type\": \"UNetMidBlock2D\",", "\"UNetMidBlock2D\""},
    {"if1", "only_cross_attention", "\"only_cross_attention\": true,", "is true"},
    {"if1", "mid_block_only_cross_attention", "\"mid_block_only_cross_attention\": true,", "is true"},
    {"if1", "class_embeddings_concat", "\"class_embeddings_concat\": true,", "is true"},
    {"if1", "center_input_sample", "\"center_input_sample\": true,", "is true"},
    {"if1", "dual_cross_attention", "\"dual_cross_attention\": true,", "is true"},
    {"if1", "num_class_embeds", "\"num_class_embeds\": 3,", "is set"},
    {"if1", "time_cond_proj_dim", "\"time_cond_proj_dim\": 8,", "is set"},
    {"if1", "timestep_post_act", "\"timestep_post_act\": \"silu\",", "is set"},
    {"if1", "projection_class_embeddings_input_dim", "\"projection_class_embeddings_input_dim\": 8,", "is set"},
    {"if1", "conv_in_kernel", "\"conv_in_kernel\": 1,", "found 1"},
    {"if1", "conv_out_kernel", "\"conv_out_kernel\": 1,", "found 1"},
    {"if1", "class_embed_type", "\"class_embed_type\": \"identity\",", "expected \"timestep\""},
    {"if1", "encoder_hid_dim", "", "a whole number"},
    {"if1", "attention_head_dim", "\"attention_head_dim\": [16, 16, 32],", "one head size"},
    {"if1", "attention_head_dim", "\"attention_head_dim\": 40,", "not heads of 40"},
    {"if1", "attention_head_dim", "\"attention_head_dim\": 4,", "multiple of 8"},
    {"if1", "cross_attention_dim", "\"cross_attention_dim\": 48,", "multiple of 32"},
    {"if1", "cross_attention_dim", "\"cross_attention_dim\": [64, 64, 32],", "one text width"},
    {"if1", "addition_embed_type_num_heads", "\"addition_embed_type_num_heads\": 5,", "multiple of 8"},
    {"if1", "norm_num_groups", "\"norm_num_groups\": 24,", "block_out_channels"},
    {"if1", "layers_per_block", "\"layers_per_block\": 9,", "found 9"},
    {"if1", "down_block_types",
     "\"down_block_types\": [\"DownBlock2D\", \"SimpleCrossAttnDownBlock2D\", \"SimpleCrossAttnDownBlock2D\"],",
     "\"DownBlock2D\""},
    {"if1", "time_embedding_act_fn", "\"time_embedding_act_fn\": \"gelu\",", "activated once"},
    {"if2", "time_embedding_act_fn", "\"time_embedding_act_fn\": \"silu\",", "\"silu\""},
    {"if2", "resnet_skip_time_act", "\"resnet_skip_time_act\": false,", "activated once"},
};

/* The config of `from` with the line of `key` replaced, at `path`. */
static void write_changed(const char *from, const char *path, const char *key, const char *line)
{
    char text[8192], quoted[80], config[FOLDER_PATH + 60];
    snprintf(config, sizeof config, "%s/unet/config.json", checkpoint(from));
    FILE *f = fopen(config, "r");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    char *at = strstr(text, quoted);
    assert_non_null(at);
    f = fopen(path, "w");
    assert_non_null(f);
    fwrite(text, 1, (size_t)(at - text), f);
    fprintf(f, "%s%s", line, strchr(at, '\n'));
    assert_int_equal(fclose(f), 0);
}

static void test_refusals(void **state)
{
    (void)state;
    char path[FOLDER_PATH + 20];
    snprintf(path, sizeof path, "%s/changed.json", root);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct unet_if_config c;
        struct dl_err e = {0};
        write_changed(refusals[i].model, path, refusals[i].key, refusals[i].line);
        int rc = unet_if_config_read(&c, path, &e);
        if (rc == 0 || !strstr(e.msg, refusals[i].key) || !strstr(e.msg, refusals[i].words))
            fail_msg("%s as [%s]: %s", refusals[i].key, refusals[i].line, rc ? e.msg : "accepted");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),   cmocka_unit_test(test_bf16),     cmocka_unit_test(test_rows),
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_refusals), cmocka_unit_test(test_widths),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, remove_checkpoints);
}
