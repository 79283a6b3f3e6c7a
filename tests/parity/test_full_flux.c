/* One step of a FLUX transformer of the published widths (24 heads of 128, text of 4096), with one double and two
 * single blocks, against diffusers in float32 (tools/ref/flux_full.py), and bf16 within PyTorch's own bf16 error; where
 * the time goes. Runs where DLENS_FULL_DIR names a folder with room for 3 GB: the checkpoint is made there when it is
 * absent. */
#include "tests/parity/full.h"
#include "tools/synth.h"

#include "pipelines/flux.h"

enum { H = 16, W = 12, TOKENS = 100, ROWS = 2 };

static void make(const char *folder)
{
    char path[FULL_PATH + 100];
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

/* Relative L2 error of the step in this type. */
static double run_step(const struct machine *mc, const char *folder, const struct st_file *ref, int type)
{
    char path[FULL_PATH + 100];
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
    j.x = full_input(mc, type, 1, 1, ROWS, H, W, c.in_c);
    j.text = full_input(mc, type, 2, 0.25f, ROWS, 1, TOKENS, c.text_c);
    j.pooled = full_input(mc, type, 3, 1, ROWS, 1, 1, c.pooled_c);
    j.embedded = net_act(mc, type, ROWS, 1, TOKENS, c.width);
    j.y = net_act(mc, DL_F32, ROWS, H, W, c.in_c);
    j.table = net_alloc(mc, flux_table_bytes(&f, 1, ROWS));
    j.rows = (struct flux_rows){.n = ROWS,
                                .lat_row = two,
                                .cond_row = two,
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
    full_times(&r, dl_type_name(type));

    double err = full_error(ref, "out", j.y);
    void *all[] = {j.x.p, j.text.p, j.pooled.p, j.embedded.p, j.y.p, j.table, (void *)(uintptr_t)j.rows.rope};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(mc, all[i]);
    dl_run_close(&r);
    flux_close(&f);
    st_set_close(files);
    return err;
}

static void test_full_step(void **state)
{
    (void)state;
    char folder[FULL_PATH];
    int64_t one;
    if (full_missing(folder, "flux-wide", "transformer/diffusion_pytorch_model.safetensors", "3 GB")) make(folder);
    struct st_file *ref = ref_open("full_flux_step");
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
