/* The denoising and decoding phase of Stable Diffusion: plan, load, conditions, steps, decoding. */
#include "pipelines/sd.h"
#include "pipelines/vae_tile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More images at once than this do not make a CPU faster, and cost memory. */
enum { CPU_BATCH = 4, BATCH_MAX = 256 };

static const int64_t spare_bytes = (int64_t)256 << 20; /* left to the rest of the process when memory is planned */

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Carves what lives through the denoising phase out of the arena, dry or real. */
static void lay_out(struct sd *s, struct dl_run *r, int batch)
{
    int h = s->latent_h, w = s->latent_w, c = s->unet_cfg.in_c, rows = s->gen.guidance > 1 ? 2 * batch : batch;
    s->kv = dl_arena_lo(&r->arena, unet_kv_bytes(&s->unet, s->gen.conds, s->tokens, r->t));
    s->steps = dl_arena_lo(&r->arena, unet_table_bytes(&s->unet, s->table->n));
    s->latent = dl_act_lo(r, DL_F32, batch, h, w, c);
    s->history = s->table->slots ? dl_act_lo(r, DL_F32, batch * s->table->slots, h, w, c) : (dl_act){0};
    s->eps = dl_act_lo(r, DL_F32, rows, h, w, s->unet_cfg.out_c);
    s->rgb = dl_arena_lo(&r->arena, (int64_t)s->gen.width * s->gen.height * 3);
}

static void prog_steps(struct sd *s) { unet_steps(&s->run, &s->unet, s->times, s->table->n, s->steps); }

/* The largest batch that can occur, for measuring: every image of its own noise. */
static void fill_images(struct pipe_image *im, int n)
{
    for (int i = 0; i < n; i++) im[i] = (struct pipe_image){.noise = i};
}

/* Peak of all programs but the decoder with `batch` images at once; the arena `keep` is measured apart. */
static int measure(struct sd *s, int batch, struct pipe_plan *p, struct dl_err *e)
{
    struct dl_run *r = &s->run;
    struct pipe_image *im = calloc((size_t)batch, sizeof *im);
    int32_t *rows = realloc(s->rows, (size_t)(14 * batch + 3) * sizeof *rows); /* and as much for a program's key */
    if (rows) s->rows = rows;
    if (!im || !rows) {
        free(im);
        return dl_fail(e, DL_ENOMEM, "no memory for a batch of %d images", batch);
    }
    s->plan.batch = p->batch = batch;
    dl_run_dry(r);
    lay_out(s, r, batch);
    p->keep_bytes = r->arena.peak_bytes;

    dl_run_dry(r);
    sd_prog_conditions(s, dl_act_hi(r, DL_F32, s->gen.conds, 1, s->tokens, s->clip_cfg.width));
    p->work_bytes = r->arena.peak_bytes;
    dl_run_dry(r);
    prog_steps(s);
    p->work_bytes = max64(p->work_bytes, r->arena.peak_bytes);

    fill_images(im, batch);
    for (int first = 1; first >= 0; first--) {
        struct sd_batch b = sd_batch_of(s, im, batch, first);
        dl_run_dry(r);
        r->step = first ? 0 : s->table->n - 1;
        sd_prog_step(s, &b);
        p->work_bytes = max64(p->work_bytes, r->arena.peak_bytes);
    }
    p->step_flops = r->account.flops, p->step_bytes = r->account.bytes;
    free(im);
    return dl_run_check(r, e);
}

/* Peak and cost of decoding a latent of h x w in one piece. */
static int measure_decode(struct sd *s, int h, int w, int64_t *peak, int64_t *flops, struct dl_err *e)
{
    struct dl_run *r = &s->run;
    int f = vae_factor(&s->vae_cfg);
    dl_run_dry(r);
    dl_act z = dl_act_hi(r, DL_F32, 1, h, w, s->vae_cfg.latent_c), x = dl_act_hi(r, DL_F32, 1, h * f, w * f, 3);
    sd_prog_decode(s, z, x, s->rgb);
    *peak = r->arena.peak_bytes;
    *flops = r->account.flops;
    return dl_run_check(r, e);
}

static int read_schedule(struct pipe *p, const struct pipe_gen *g, struct dl_err *e)
{
    struct sd *s = p->impl;
    struct sched_config c;
    char *path = model_dir_file(&p->dir, "scheduler", "scheduler_config.json", e);
    if (!path) return -1;
    int rc = sched_config_read_sd(&c, path, g->scheduler, e);
    free(path);
    if (rc < 0) return -1;
    if (c.learned_var || c.kind == SCHED_FLOW)
        return dl_fail(e, DL_EUSAGE, "--scheduler %s: Stable Diffusion predicts noise or velocity without variance",
                       sched_kind_name(c.kind));
    sched_close(s->table);
    s->table = NULL;
    if (sched_plan(&s->table, &c, g->steps, 0, e) < 0) return -1;
    float *times = realloc(s->times, (size_t)s->table->n * sizeof *times);
    if (!times) return dl_fail(e, DL_ENOMEM, "no memory for %d timesteps", s->table->n);
    s->times = times;
    for (int i = 0; i < s->table->n; i++) {
        times[i] = s->table->step[i].t;
        if (s->table->step[i].draws)
            return dl_fail(e, DL_EUSAGE,
                           "--scheduler %s: samplers that draw noise in every step run with DeepFloyd IF only",
                           sched_kind_name(c.kind));
    }
    return 0;
}

int sd_plan(struct pipe *p, const struct pipe_gen *g, struct pipe_plan *out, struct dl_err *e)
{
    struct sd *s = p->impl;
    bool cpu = !strcmp(p->be->name, "cpu");
    s->gen = *g;
    s->conds = g->conds;
    s->run.t = (uint8_t)g->type;
    s->latent_h = g->height / p->latent_factor, s->latent_w = g->width / p->latent_factor;
    if (read_schedule(p, g, e) < 0 || sd_plan_text(p, e) < 0) return -1;
    if (sd_open_unet(p, e) < 0 || sd_open_vae(p, e) < 0) return -1;

    struct pipe_plan *pl = &s->plan;
    *pl = (struct pipe_plan){
        .evaluations = s->table->n, .text_bytes = s->clip.weights.pack_bytes, .text_work_bytes = s->text_plan_bytes};
    int64_t vae_peak, free_bytes = p->be->free_bytes(p->ctx) - spare_bytes;
    if (measure(s, 1, pl, e) < 0 || measure_decode(s, s->latent_h, s->latent_w, &vae_peak, &pl->decode_flops, e) < 0)
        return -1;
    pl->denoiser_bytes = s->unet.weights.pack_bytes, pl->vae_bytes = s->vae.weights.pack_bytes;
    int64_t weights = pl->denoiser_bytes + pl->vae_bytes;

    int sample = s->vae_cfg.sample_size / p->latent_factor;
    pl->vae_tile = g->vae_tile > 0 ? g->vae_tile : 0;
    if (g->vae_tile < 0 && weights + pl->keep_bytes + max64(vae_peak, pl->work_bytes) > free_bytes)
        pl->vae_tile = sample > 8 ? sample : 8;
    if (pl->vae_tile && (pl->vae_tile < s->latent_h || pl->vae_tile < s->latent_w)) {
        int64_t flops;
        int h = pl->vae_tile < s->latent_h ? pl->vae_tile : s->latent_h,
            w = pl->vae_tile < s->latent_w ? pl->vae_tile : s->latent_w;
        if (measure_decode(s, h, w, &vae_peak, &flops, e) < 0) return -1;
    } else {
        pl->vae_tile = 0;
    }

    int batch = g->batch ? g->batch : cpu ? CPU_BATCH : BATCH_MAX;
    if (batch > g->images) batch = (int)g->images;
    for (;; batch--) {
        if (batch > 1 || pl->batch != 1)
            if (measure(s, batch, pl, e) < 0) return -1;
        pl->work_bytes = max64(pl->work_bytes, vae_peak);
        int64_t denoise = weights + pl->keep_bytes + pl->work_bytes;
        pl->peak_bytes = max64(denoise, pl->text_bytes + pl->text_work_bytes);
        if (denoise <= free_bytes) break;
        if (g->batch || batch == 1)
            return dl_fail(
                e, DL_ENOMEM, "%s: %lld MiB are needed (weights %lld, batch of %d %lld) and %lld MiB are free; try %s",
                p->dir.path, (long long)(denoise >> 20), (long long)(weights >> 20), batch,
                (long long)((pl->keep_bytes + pl->work_bytes) >> 20), (long long)(free_bytes >> 20),
                g->batch > 1 ? "a smaller --batch, or auto" : "a smaller --size, or a half-precision --dtype");
    }
    *out = *pl;
    return 0;
}

int sd_load(struct pipe *p, struct dl_err *e)
{
    struct sd *s = p->impl;
    struct dl_run *r = &s->run;
    if (dl_run_load(r, &s->unet.weights, e) < 0 || dl_run_load(r, &s->vae.weights, e) < 0) return -1;
    if (p->be->alloc(p->ctx, s->plan.keep_bytes, &s->keep, e) < 0 ||
        p->be->alloc(p->ctx, s->plan.work_bytes, &s->work, e) < 0)
        return -1;
    dl_run_bind(r, s->keep, s->plan.keep_bytes);
    lay_out(s, r, s->plan.batch);
    r->tap = p->tap, r->tap_user = p->tap_user;
    dl_run_bind(r, s->work, s->plan.work_bytes);
    prog_steps(s);
    if (dl_run_check(r, e) < 0) return -1;
    return p->be->sync(p->ctx, e);
}

int sd_conditions(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e)
{
    struct sd *s = p->impl;
    struct dl_run *r = &s->run;
    int64_t each = (int64_t)s->tokens * s->clip_cfg.width * (int64_t)sizeof(float);
    s->conds = n;
    dl_run_bind(r, s->work, s->plan.work_bytes);
    dl_act text = dl_act_hi(r, DL_F32, n, 1, s->tokens, s->clip_cfg.width);
    for (int i = 0; i < n && text.p; i++)
        if (p->be->upload(p->ctx, (uint8_t *)text.p + i * each, c[i].text, each, e) < 0) return -1;
    sd_prog_conditions(s, text);
    if (dl_run_check(r, e) < 0) return -1;
    return p->be->sync(p->ctx, e);
}

/* Primitives and variants for both kinds of step are chosen here, so that the steps themselves allocate nothing. */
static int warm_up(struct sd *s, const struct pipe_image *im, int n, struct dl_err *e)
{
    struct dl_run *r = &s->run;
    for (int first = 1; first >= 0; first--) {
        struct sd_batch b = sd_batch_of(s, im, n, first);
        dl_run_dry(r);
        sd_prog_step(s, &b);
        if (dl_run_check(r, e) < 0) return -1;
    }
    return dl_run_load(r, &s->unet.weights, e);
}

static int stopped(const struct pipe_progress *pr, struct dl_err *e)
{
    if (!pr || !pr->stop || !*pr->stop) return 0;
    return dl_fail(e, DL_EINTERRUPT, "interrupted");
}

struct step {
    struct sd *s;
    const struct sd_batch *b;
};

static void run_step(void *user)
{
    const struct step *st = user;
    sd_prog_step(st->s, st->b);
}

/* Step k of a batch. The steps after the first are one program, told from another batch's by its row maps; all the rest
 * that it depends on (sizes, guidance, sampler, memory) is the plan's, and goes with the denoiser. */
static int one_step(struct pipe *p, const struct pipe_image *im, int n, int k, struct dl_err *e)
{
    struct sd *s = p->impl;
    struct sd_batch b = sd_batch_of(s, im, n, k == 0);
    struct step st = {s, &b};
    struct dl_replay once = {0};
    int32_t *key = s->rows + 7 * s->plan.batch, used = 0;
    int32_t *parts[] = {b.in_row, b.c_row, b.lat_row, b.kv_row, b.u_row};
    int counts[] = {b.latents, b.images, b.rows, b.rows, b.u_row ? b.images : 0};
    key[used++] = b.images, key[used++] = b.rows, key[used++] = s->conds;
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < counts[i]; j++) key[used++] = parts[i][j];
    s->run.step = k;
    int rc = dl_replay_run(k ? &s->steps_again : &once, &s->run, s->work, s->plan.work_bytes, key,
                           used * (int64_t)sizeof *key, run_step, &st, e);
    dl_replay_close(&once, &s->run);
    return rc;
}

int sd_denoise(struct pipe *p, struct pipe_image *im, int n, const struct pipe_progress *pr, struct dl_err *e)
{
    struct sd *s = p->impl;
    int64_t count = pipe_latent_count(p, s->gen.width, s->gen.height), bytes = count * (int64_t)sizeof(float);
    if (warm_up(s, im, n, e) < 0) return -1;
    for (int i = 0; i < n; i++) {
        for (int64_t j = 0; j < count; j++) im[i].latent[j] *= s->table->init_sigma;
        if (p->be->upload(p->ctx, (uint8_t *)s->latent.p + i * bytes, im[i].latent, bytes, e) < 0) return -1;
    }
    for (int k = 0; k < s->table->n; k++) {
        if (stopped(pr, e) < 0) return -1;
        if (one_step(p, im, n, k, e) < 0 || p->be->sync(p->ctx, e) < 0) return -1;
        if (pr && pr->step) pr->step(pr->user, k + 1, s->table->n);
    }
    for (int i = 0; i < n; i++)
        if (p->be->download(p->ctx, im[i].latent, (uint8_t *)s->latent.p + i * bytes, bytes, e) < 0) return -1;
    return 0;
}

/* Decodes z [h][w][c] (host) to x [f h][f w][3] and pixels, either of which may be NULL. */
static int decode_piece(struct pipe *p, const float *z, int h, int w, float *x, uint8_t *rgb, struct dl_err *e)
{
    struct sd *s = p->impl;
    struct dl_run *r = &s->run;
    int f = p->latent_factor, c = p->latent_c;
    dl_run_dry(r); /* a tile at the border has a shape of its own */
    sd_prog_decode(s, dl_act_hi(r, DL_F32, 1, h, w, c), dl_act_hi(r, DL_F32, 1, h * f, w * f, 3), rgb ? s->rgb : NULL);
    if (dl_run_check(r, e) < 0 || dl_run_load(r, &s->vae.weights, e) < 0) return -1;
    dl_run_bind(r, s->work, s->plan.work_bytes);
    dl_act za = dl_act_hi(r, DL_F32, 1, h, w, c), xa = dl_act_hi(r, DL_F32, 1, h * f, w * f, 3);
    if (dl_run_check(r, e) < 0 || p->be->upload(p->ctx, za.p, z, (int64_t)h * w * c * 4, e) < 0) return -1;
    sd_prog_decode(s, za, xa, rgb ? s->rgb : NULL);
    if (dl_run_check(r, e) < 0) return -1;
    if (x && p->be->download(p->ctx, x, xa.p, dl_act_bytes(xa), e) < 0) return -1;
    if (rgb && p->be->download(p->ctx, rgb, s->rgb, (int64_t)h * f * w * f * 3, e) < 0) return -1;
    return 0;
}

struct tile_job {
    struct pipe *p;
    const float *latent;
    float *piece;
    const struct pipe_progress *pr;
};

static int decode_tile(void *user, int y, int x, int h, int w, float *out, struct dl_err *e)
{
    struct tile_job *j = user;
    const struct sd *s = j->p->impl;
    int c = j->p->latent_c;
    if (stopped(j->pr, e) < 0) return -1;
    for (int v = 0; v < h; v++)
        memcpy(j->piece + (int64_t)v * w * c, j->latent + ((int64_t)(y + v) * s->latent_w + x) * c,
               (size_t)w * (size_t)c * sizeof(float));
    return decode_piece(j->p, j->piece, h, w, out, NULL, e);
}

int sd_decode(struct pipe *p, const float *latent, uint8_t *rgb, const struct pipe_progress *pr, struct dl_err *e)
{
    struct sd *s = p->impl;
    if (stopped(pr, e) < 0) return -1;
    if (!s->plan.vae_tile) return decode_piece(p, latent, s->latent_h, s->latent_w, NULL, rgb, e);
    int64_t n = (int64_t)s->gen.width * s->gen.height * 3;
    struct tile_job j = {.p = p,
                         .latent = latent,
                         .pr = pr,
                         .piece = malloc((size_t)pipe_latent_count(p, s->gen.width, s->gen.height) * sizeof(float))};
    float *image = malloc((size_t)n * sizeof *image);
    int rc = -1;
    if (!j.piece || !image)
        dl_fail(e, DL_ENOMEM, "no memory for an image of %d x %d", s->gen.width, s->gen.height);
    else
        rc = vae_tile_run(s->latent_h, s->latent_w, 3, s->plan.vae_tile, p->latent_factor, decode_tile, &j, image, e);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        float v = image[i] * 0.5f + 0.5f;
        rgb[i] = (uint8_t)__builtin_nearbyintf((v < 0 ? 0 : v > 1 ? 1 : v) * 255);
    }
    free(j.piece);
    free(image);
    return rc;
}

void sd_drop_denoiser(struct pipe *p)
{
    struct sd *s = p->impl;
    dl_replay_close(&s->steps_again, &s->run);
    if (s->keep) p->be->free(p->ctx, s->keep);
    if (s->work) p->be->free(p->ctx, s->work);
    s->keep = s->work = NULL;
    unet_close(&s->unet);
    vae_close(&s->vae);
    st_set_close(s->unet_net.files);
    st_set_close(s->vae_net.files);
    s->unet_net = s->vae_net = (struct sd_net){0};
    sched_close(s->table);
    s->table = NULL;
    free(s->rows);
    free(s->times);
    s->rows = NULL, s->times = NULL;
}
