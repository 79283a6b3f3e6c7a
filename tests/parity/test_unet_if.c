/* DeepFloyd IF's UNets on the tiny synthetic checkpoints: every tap against float64 PyTorch, bf16 within PyTorch's own
 * bf16 error, rows that do not depend on their neighbours, byte for byte, and configs that are refused by name. The
 * reference values are made by tools/ref/unet_if.py from the checkpoints that are made here and now; with
 * DLENS_CHECKPOINTS naming a folder they are made there and kept, for that script. */

#include "tests/parity/if_unet.h"
#include "tests/parity/pairs.h"
#include "tests/parity/parts.h"
#include "tests/parity/taps.h"
#include "tests/unit/root.h"

static const char *const models[] = {"if1", "if2"};
enum { MODELS = 2, ROWS = 8, TEXTS = 4, TOKENS = 77 };

static int make_checkpoints(void **state)
{
    const char *keep = getenv("DLENS_CHECKPOINTS");
    if (keep && *keep)
        snprintf(root, sizeof root, "%s", keep);
    else if (root_make(state) < 0)
        return -1;
    for (int i = 0; i < MODELS; i++) if_unet_write(models[i], in_root(models[i]));
    return 0;
}

static int remove_checkpoints(void **state)
{
    const char *keep = getenv("DLENS_CHECKPOINTS");
    return keep && *keep ? 0 : root_remove(state);
}

struct model {
    struct st_file *ref;
    struct st_set *files;
    struct unet_if u;
};

static struct model *model_open(const char *name)
{
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    if_unet_open(&m->u, &m->files, in_root(name));
    m->ref = ref_open(name);
    return m;
}

static void model_close(struct model *m)
{
    unet_if_close(&m->u);
    st_set_close(m->files);
    st_close(m->ref);
    free(m);
}

/* A run, for pairs_run. */
struct job {
    const struct machine *mc;
    struct dl_run *r;
    struct model *m;
    struct taps *taps; /* listens in the first step alone; may be NULL */
    int h, w;          /* in place of the stored latents' size; 0: that */

    const struct pairs *p;
    dl_act x, text, *y;
    void *kv;
    float *emb, *table;
};

static void phase(struct dl_run *r, void *arg)
{
    const struct job *j = arg;
    struct unet_if *u = &j->m->u;
    const float *t = ref_data(j->m->ref, "in.timesteps", NULL), *level = ref_data(j->m->ref, "in.level", NULL);
    const struct unet_if_rows rows = {.n = j->p->n,
                                      .lat_row = j->p->lat_row,
                                      .cond_row = j->p->cond_row,
                                      .kv = j->kv,
                                      .conds = j->p->conds,
                                      .tokens = TOKENS,
                                      .table = j->table};
    unet_if_text(r, u, j->text, j->kv, j->emb);
    unet_if_steps(r, u, t, PAIRS_STEPS, u->cfg.noise_level ? level : NULL, j->emb, j->p->conds, j->table);
    for (r->step = 0; r->step < PAIRS_STEPS; r->step++) {
        unet_if_step(r, u, j->x, &rows, j->y[r->step]);
        if (j->taps && !dl_run_is_dry(r)) j->taps->mute = true;
    }
    r->step = 0;
}

static void run_pairs(void *user, const struct pairs *p, dl_act y[PAIRS_STEPS])
{
    struct job *j = user;
    const struct machine *mc = j->mc;
    struct unet_if *u = &j->m->u;
    const int64_t *d;
    const float *latent = ref_data(j->m->ref, "in.latent", &d), *text = ref_data(j->m->ref, "in.text", NULL);
    const int h = j->h ? j->h : (int)d[1], w = j->w ? j->w : (int)d[2], t = j->r->t;
    j->p = p, j->y = y;
    j->x = net_pick(mc, t, latent, p->latents, p->x_n, h, w, (int)d[3]);
    j->text = net_pick(mc, DL_F32, text, p->texts, p->conds, 1, TOKENS, u->cfg.text_dim);
    j->kv = net_alloc(mc, unet_if_kv_bytes(u, p->conds, TOKENS, t));
    j->emb = net_alloc(mc, unet_if_emb_bytes(u, p->conds));
    j->table = net_alloc(mc, unet_if_table_bytes(u, PAIRS_STEPS, p->conds));
    for (int s = 0; s < PAIRS_STEPS; s++) y[s] = net_act(mc, t, p->n, h, w, u->cfg.out_c);
    net_run(j->r, mc, &u->weights, phase, j);
    void *all[] = {j->x.p, j->text.p, j->kv, j->emb, j->table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(mc, all[i]);
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
    taps_begin(&k, "unet/");
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

/* At a size where every level's pixels make whole sets. */
static void parts_of_model(const struct machine *mc, struct dl_run *r, const char *name)
{
    struct model *m = model_open(name);
    pairs_check(mc, run_pairs, &(struct job){.mc = mc, .r = r, .m = m, .h = 32, .w = 64});
    model_close(m);
}

static void test_parts(void **state)
{
    (void)state;
    parts_each_model(models, MODELS, parts_of_model);
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
    static const int32_t first[] = {0};
    struct unet_if_rows rows = {
        .n = 1, .lat_row = first, .cond_row = first, .kv = x.p, .conds = 1, .tokens = TOKENS, .table = x.p};
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
        char path[ROOT_PATH + 60];
        struct unet_if *u = calloc(1, sizeof *u);
        struct unet_if_config c;
        struct synth_list l = {0};
        struct bind b;
        assert_non_null(u);
        if_unet_config(known[i].name, in_root(known[i].name));
        snprintf(path, sizeof path, "%s/unet/config.json", in_root(known[i].name));
        must(unet_if_config_read(&c, path, e));
        must(bind_open_list(&b, synth_collect, &l, e));
        unet_if_bind(u, &c, &b);
        must(bind_close(&b, e));
        synth_list_close(&l);
        assert_int_equal(u->table_width, known[i].rows);
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
    char text[8192], quoted[80], config[ROOT_PATH + 60];
    snprintf(config, sizeof config, "%s/unet/config.json", in_root(from));
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
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_refusals), cmocka_unit_test(test_widths),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, remove_checkpoints);
}
