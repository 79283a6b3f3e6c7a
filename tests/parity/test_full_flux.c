/* One step of a FLUX transformer of the published widths (24 heads of 128, text of 4096), with one double and two
 * single blocks, against diffusers in float32 (tools/ref/flux_full.py), and bf16 within PyTorch's own bf16 error; where
 * the time goes. Runs where DLENS_FULL_DIR names a folder with room for 3 GB: the checkpoint is made there when it is
 * absent. */
#include "tests/parity/net.h"
#include "tools/synth.h"

#include "pipelines/flux.h"

#include <unistd.h>

enum { H = 16, W = 12, PIXELS = H * W, TOKENS = 100, ROWS = 2 };

static const char *folder_or_skip(void)
{
    const char *dir = getenv("DLENS_FULL_DIR");
    if (dir && *dir) return dir;
    print_message("skipped: DLENS_FULL_DIR is not set; it names a folder for the full-size checkpoint, 3 GB\n");
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

static dl_act noise_act(const struct machine *mc, int type, uint32_t salt, int n, int h, int w, int c, float scale)
{
    int64_t count = (int64_t)n * h * w * c;
    float *x = noise(salt, count, scale);
    dl_act a = dl_act_at(net_put(mc, type, x, count), type, n, h, w, c);
    free(x);
    return a;
}

static void make(const char *folder)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/transformer", folder);
    must(synth_folder(path, e));
    must(synth_text(path, "config.json", e,
                    "{\n  '_class_name': 'FluxTransformer2DModel',\n  'attention_head_dim': 128,\n"
                    "  'guidance_embeds': true,\n  'in_channels': 64,\n  'joint_attention_dim': 4096,\n"
                    "  'num_attention_heads': 24,\n  'num_layers': 1,\n  'num_single_layers': 2,\n"
                    "  'patch_size': 1,\n  'pooled_projection_dim': 768\n}\n"));
    must(synth_flux_weights(&(struct synth_opts){.like = "flux", .out = folder, .type = DL_F32}, e));
}

struct job {
    struct flux *f;
    dl_act x, text, pooled, embedded, y;
    struct flux_rows rows;
    float *table, time, guide;
};

static void prepare(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    flux_steps(r, j->f, &j->time, 1, &j->guide, j->pooled, j->table);
}

static void step(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    flux_text(r, j->f, j->text, j->embedded);
    flux_step(r, j->f, j->x, &j->rows, j->y);
}

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

/* Relative L2 error of the step in this type. */
static double run_step(const struct machine *mc, const char *folder, const struct st_file *ref, int type)
{
    char path[1100];
    struct flux f = {0};
    struct flux_config c;
    struct st_set *files;
    struct bind b;
    struct dl_run r;
    static const int32_t two[] = {0, 1};
    snprintf(path, sizeof path, "%s/transformer", folder);
    must(st_set_open(&files, path, "diffusion_pytorch_model", e));
    snprintf(path, sizeof path, "%s/transformer/config.json", folder);
    must(flux_config_read(&c, path, e));
    must(bind_open(&b, files, &f.weights, e));
    must(flux_bind(&f, &c, &b, e));
    must(bind_close(&b, e));

    dl_run_open(&r, mc->be, mc->ctx, type);
    struct job j = {.f = &f,
                    .time = flux_time((float)atof(st_meta(ref, "timestep")), type),
                    .guide = flux_guide((float)atof(st_meta(ref, "guidance")), type)};
    const int64_t turns = flux_rope_count(&c, TOKENS, H, W);
    float *rope = malloc((size_t)turns * sizeof *rope);
    assert_non_null(rope);
    flux_rope(&c, TOKENS, H, W, rope);
    j.x = noise_act(mc, type, 1, ROWS, H, W, c.in_c, 1);
    j.text = noise_act(mc, type, 2, ROWS, 1, TOKENS, c.text_c, 0.25f);
    j.pooled = noise_act(mc, type, 3, ROWS, 1, 1, c.pooled_c, 1);
    j.embedded = dl_act_at(net_alloc(mc, (int64_t)ROWS * TOKENS * c.width * 4), type, ROWS, 1, TOKENS, c.width);
    j.y = dl_act_at(net_alloc(mc, (int64_t)ROWS * PIXELS * c.in_c * 4), DL_F32, ROWS, H, W, c.in_c);
    j.table = net_alloc(mc, flux_table_bytes(&f, 1, ROWS));
    j.rows = (struct flux_rows){.n = ROWS,
                                .lat_row = two,
                                .text_row = two,
                                .text = j.embedded,
                                .table = j.table,
                                .steps = 1,
                                .table_conds = ROWS,
                                .rope = net_put(mc, DL_F32, rope, turns)};
    free(rope);
    r.log_on = r.time_on = true;
    net_run(&r, mc, &f.prep, prepare, &j);
    dl_wset_forget(&f.prep);
    net_run(&r, mc, &f.weights, step, &j);
    print_times(&r, dl_type_name(type));

    int64_t n;
    const float *out = ref_floats(ref, "out", &n), *mine = j.y.p;
    double diff = 0, sum = 0;
    assert_int_equal(n, (int64_t)ROWS * PIXELS * c.in_c);
    for (int64_t i = 0; i < n; i++)
        diff += ((double)mine[i] - out[i]) * ((double)mine[i] - out[i]), sum += (double)out[i] * out[i];
    void *all[] = {j.x.p, j.text.p, j.pooled.p, j.embedded.p, j.y.p, j.table, (void *)(uintptr_t)j.rows.rope};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(mc, all[i]);
    dl_run_close(&r);
    flux_close(&f);
    st_set_close(files);
    return sqrt(diff / sum);
}

static void test_full_step(void **state)
{
    (void)state;
    char folder[1000], path[1100];
    int64_t one;
    struct st_file *ref;
    snprintf(folder, sizeof folder, "%s/flux-wide", folder_or_skip());
    snprintf(path, sizeof path, "%s/transformer/diffusion_pytorch_model.safetensors", folder);
    if (access(path, F_OK)) {
        print_message("making %s\n", folder);
        make(folder);
    }
    must(st_open(&ref, DLENS_SOURCE_DIR "/tests/parity/data/full_flux_step.safetensors", e));
    struct machine mc = machine_open(false);
    double f32 = run_step(&mc, folder, ref, DL_F32), limit = fmax(1e-5, 3 * *ref_floats(ref, "f32", &one));
    print_message("FLUX of full width, one step, two rows: relative L2 error %.2e (limit %.1e)\n", f32, limit);
    assert_true(f32 <= limit);
    if (mc.be->supports(mc.ctx, DL_BF16)) {
        double bf16 = run_step(&mc, folder, ref, DL_BF16), torch = *ref_floats(ref, "bf16", &one);
        print_message("bf16: %.2e, PyTorch's %.2e\n", bf16, torch);
        assert_true(bf16 <= torch);
    } else
        print_message("skipped: this machine has no bf16 primitives\n");
    machine_close(&mc);
    st_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
