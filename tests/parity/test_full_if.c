/* One step of the full-size synthetic IF-I-L at 64x64 pixels against diffusers in float32 (tools/ref/unet_if_full.py),
 * and where its time goes. Runs where DLENS_FULL_DIR names a folder with room for 3.8 GB: the checkpoint is made there
 * when it is absent. */

#include "tests/parity/full.h"
#include "tests/parity/if_unet.h"

enum { SIDE = 64, TOKENS = 77, ROWS = 2 };

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

static void test_full_step(void **state)
{
    (void)state;
    char folder[FULL_PATH];
    if (full_missing(folder, "if1-full", "unet/diffusion_pytorch_model.safetensors", "3.8 GB"))
        if_unet_write("if1-full", folder);
    struct unet_if *u = calloc(1, sizeof *u);
    assert_non_null(u);
    struct st_set *files;
    struct st_file *ref = ref_open("full_if1_step");
    if_unet_open(u, &files, folder);

    struct machine mc = machine_open(false);
    struct dl_run r;
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    static const int32_t two[] = {0, 1};
    struct job j = {.u = u, .t = (float)atof(st_meta(ref, "timestep"))};
    j.x = full_input(&mc, DL_F32, 1, 1, ROWS, SIDE, SIDE, 3);
    j.text = full_input(&mc, DL_F32, 2, 0.1f, ROWS, 1, TOKENS, u->cfg.text_dim);
    j.y = net_act(&mc, DL_F32, ROWS, SIDE, SIDE, 6);
    j.kv = net_alloc(&mc, unet_if_kv_bytes(u, ROWS, TOKENS, DL_F32));
    j.emb = net_alloc(&mc, unet_if_emb_bytes(u, ROWS));
    j.table = net_alloc(&mc, unet_if_table_bytes(u, 1, ROWS));
    j.rows = (struct unet_if_rows){
        .n = ROWS, .lat_row = two, .cond_row = two, .kv = j.kv, .conds = ROWS, .tokens = TOKENS, .table = j.table};
    r.log_on = r.time_on = true;
    net_run(&r, &mc, &u->weights, prepare, &j);
    full_times(&r, "text and step table");
    net_run(&r, &mc, &u->weights, step, &j);
    full_times(&r, "one step of IF-I-L, two rows, f32");

    double err = full_error(ref, "out", j.y);
    print_message("full-size IF-I-L, one step, two rows: relative L2 error %.2e (limit 1e-5)\n", err);
    assert_true(err <= 1e-5);

    void *all[] = {j.x.p, j.text.p, j.y.p, j.kv, j.emb, j.table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(&mc, all[i]);
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
