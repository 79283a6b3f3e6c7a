/* full_unet.h: one step of the full-size UNet of SD 1.5 or SDXL against diffusers in float32. */
#ifndef TESTS_FULL_UNET_H
#define TESTS_FULL_UNET_H

#include "pipelines/unet.h"
#include "tests/parity/full.h"

struct full_unet {
    struct unet *u;
    dl_act x, text, pooled, y;
    struct unet_rows rows;
    void *kv;
    float *table, t;
};

static inline void full_unet_phase(struct dl_run *r, void *arg)
{
    static const float sizes[UNET_SIZES] = {1024, 1024, 0, 0, 1024, 1024};
    struct full_unet *j = arg;
    unet_text(r, j->u, j->text, j->kv);
    if (j->u->cfg.pooled)
        unet_steps_added(r, j->u, &j->t, 1, j->pooled, sizes, j->table);
    else
        unet_steps(r, j->u, &j->t, 1, j->table);
    unet_step(r, j->u, j->x, &j->rows, j->y);
}

/* `rows` latents (at most two) of side x side, each with its own text, through FOLDER/unet, against `reference`. */
static inline void full_unet_check(const char *what, const char *folder, const char *reference, int rows, int side)
{
    static const int32_t each[] = {0, 1};
    char path[FULL_PATH + 100];
    struct unet *u = calloc(1, sizeof *u);
    assert_non_null(u);
    struct unet_config c;
    struct st_set *files;
    struct bind b;
    snprintf(path, sizeof path, "%s/unet", folder);
    must(st_set_open(&files, path, "diffusion_pytorch_model", e));
    snprintf(path, sizeof path, "%s/unet/config.json", folder);
    must(unet_config_read(&c, path, e));
    must(bind_open(&b, files, &u->weights, e));
    must(unet_bind(u, &c, &b, e));
    must(bind_close(&b, e));
    struct st_file *ref = ref_open(reference);

    struct machine mc = machine_open(false);
    struct dl_run r;
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    struct full_unet j = {.u = u, .t = (float)atof(st_meta(ref, "timestep"))};
    j.x = full_input(&mc, DL_F32, 1, 1, rows, side, side, 4);
    j.text = full_input(&mc, DL_F32, 2, 1, rows, 1, 77, c.cross_dim);
    if (c.pooled) j.pooled = full_input(&mc, DL_F32, 3, 1, rows, 1, 1, c.pooled);
    j.y = net_act(&mc, DL_F32, rows, side, side, 4);
    j.kv = net_alloc(&mc, unet_kv_bytes(u, rows, 77, DL_F32));
    j.table = net_alloc(&mc, (c.pooled ? rows : 1) * unet_table_bytes(u, 1));
    j.rows = (struct unet_rows){.n = rows,
                                .lat_row = each,
                                .cond_row = each,
                                .kv = j.kv,
                                .conds = rows,
                                .tokens = 77,
                                .table = j.table,
                                .table_steps = c.pooled ? 1 : 0};
    double from = full_seconds();
    net_run(&r, &mc, &u->weights, full_unet_phase, &j);
    double took = full_seconds() - from, err = full_error(ref, "eps", j.y);
    print_message("%s: relative L2 error %.2e (limit 1e-4), %.1f s with loading\n", what, err, took);
    assert_true(err <= 1e-4);

    void *all[] = {j.x.p, j.text.p, j.y.p, j.kv, j.table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(&mc, all[i]);
    if (c.pooled) net_free(&mc, j.pooled.p);
    dl_run_close(&r);
    unet_close(u);
    free(u);
    machine_close(&mc);
    st_set_close(files);
    st_close(ref);
}

#endif
