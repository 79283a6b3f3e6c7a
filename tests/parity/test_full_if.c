/* One step of the full-size synthetic IF-I-L at 64x64 pixels against diffusers in float32 (tools/ref/unet_if_full.py),
 * and where its time goes. Runs where DLENS_FULL_DIR names a folder with room for 3.8 GB: the checkpoint is made there
 * when it is absent. */

#include "tests/parity/if_unet.h"

#include <unistd.h>

enum { SIDE = 64, PIXELS = SIDE * SIDE, TOKENS = 77, ROWS = 2 };

static const char *folder_or_skip(void)
{
    const char *dir = getenv("DLENS_FULL_DIR");
    if (dir && *dir) return dir;
    print_message("skipped: DLENS_FULL_DIR is not set; it names a folder for the full-size checkpoint, 3.8 GB\n");
    skip();
    return NULL;
}

/* The reference's noise(): a 32-bit hash of salt and place as numbers in [-2, 2), times scale. */
static float *noise(uint32_t salt, int64_t n, float scale)
{
    float *out = malloc((size_t)n * sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)i + salt * 0x9e3779b9u;
        x = (x ^ x >> 16) * 0x85ebca6bu;
        x = (x ^ x >> 13) * 0xc2b2ae35u;
        x ^= x >> 16;
        out[i] = ((float)(x >> 8) / 4194304 - 2) * scale;
    }
    return out;
}

struct job {
    struct unet_if *u;
    dl_act x, text, y;
    struct unet_if_rows rows;
    void *kv;
    float *emb, *table, t;
};

static void prepare(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    unet_if_text(r, j->u, j->text, j->kv, j->emb);
    unet_if_steps(r, j->u, &j->t, 1, NULL, j->emb, j->rows.conds, j->table);
}

static void step(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    unet_if_step(r, j->u, j->x, &j->rows, j->y);
}

/* Time of the logged run by op and variant. */
static void print_times(const struct dl_run *r, const char *what)
{
    double all = 0;
    for (int64_t i = 0; i < r->n_log; i++) all += r->log[i].ms;
    print_message("%s: %.0f ms, %.1f GFLOP, peak %.1f MB\n", what, all, (double)r->account.flops * 1e-9,
                  (double)r->arena.peak_bytes * 1e-6);
    for (int64_t i = 0; i < r->n_log; i++) {
        const struct dl_log *l = &r->log[i];
        double ms = 0, flops = 0;
        int64_t n = 0;
        for (int64_t k = 0; k < r->n_log; k++) {
            const struct dl_log *o = &r->log[k];
            if (strcmp(o->op, l->op) || strcmp(o->variant, l->variant)) continue;
            if (k < i) break; /* counted with the first of its kind */
            ms += o->ms, flops += (double)o->flops, n++;
        }
        if (n)
            print_message("  %-11s %-28s %4d ops %8.1f ms %5.1f %% %7.1f GFLOP/s\n", l->op, l->variant, (int)n, ms,
                          100 * ms / all, flops / ms * 1e-6);
    }
}

static void test_full_step(void **state)
{
    (void)state;
    char folder[1000], path[1100];
    snprintf(folder, sizeof folder, "%s/if1-full", folder_or_skip());
    snprintf(path, sizeof path, "%s/unet/diffusion_pytorch_model.safetensors", folder);
    if (access(path, F_OK)) {
        print_message("making %s\n", folder);
        if_unet_write("if1-full", folder);
    }
    struct unet_if *u = calloc(1, sizeof *u);
    assert_non_null(u);
    struct st_set *files;
    struct st_file *ref;
    if_unet_open(u, &files, folder);
    must(st_open(&ref, DLENS_SOURCE_DIR "/tests/parity/data/full_if1_step.safetensors", e));

    struct machine mc = machine_open(false);
    struct dl_run r;
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    static const int32_t two[] = {0, 1};
    const int64_t n_x = (int64_t)ROWS * PIXELS * 3, n_text = (int64_t)ROWS * TOKENS * u->cfg.text_dim,
                  n_y = (int64_t)ROWS * PIXELS * 6;
    float *latent = noise(1, n_x, 1), *text = noise(2, n_text, 0.1f);
    struct job j = {.u = u, .t = (float)atof(st_meta(ref, "timestep"))};
    j.x = dl_act_at(net_put(&mc, DL_F32, latent, n_x), DL_F32, ROWS, SIDE, SIDE, 3);
    j.text = dl_act_at(net_put(&mc, DL_F32, text, n_text), DL_F32, ROWS, 1, TOKENS, u->cfg.text_dim);
    j.y = dl_act_at(net_alloc(&mc, n_y * 4), DL_F32, ROWS, SIDE, SIDE, 6);
    j.kv = net_alloc(&mc, unet_if_kv_bytes(u, ROWS, TOKENS, DL_F32));
    j.emb = net_alloc(&mc, unet_if_emb_bytes(u, ROWS));
    j.table = net_alloc(&mc, unet_if_table_bytes(u, 1, ROWS));
    j.rows = (struct unet_if_rows){
        .n = ROWS, .lat_row = two, .cond_row = two, .kv = j.kv, .conds = ROWS, .tokens = TOKENS, .table = j.table};
    r.log_on = r.time_on = true;
    net_run(&r, &mc, &u->weights, prepare, &j);
    print_times(&r, "text and step table");
    net_run(&r, &mc, &u->weights, step, &j);
    print_times(&r, "one step of IF-I-L, two rows, f32");

    int64_t n;
    const float *out = ref_floats(ref, "out", &n), *mine = j.y.p;
    double diff = 0, sum = 0;
    assert_int_equal(n, n_y);
    for (int64_t i = 0; i < n; i++)
        diff += ((double)mine[i] - out[i]) * ((double)mine[i] - out[i]), sum += (double)out[i] * out[i];
    print_message("full-size IF-I-L, one step, two rows: relative L2 error %.2e (limit 1e-5)\n", sqrt(diff / sum));
    assert_true(sqrt(diff / sum) <= 1e-5);

    void *all[] = {j.x.p, j.text.p, j.y.p, j.kv, j.emb, j.table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(&mc, all[i]);
    free(latent), free(text);
    dl_run_close(&r);
    unet_if_close(u);
    free(u);
    machine_close(&mc);
    st_set_close(files);
    st_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
