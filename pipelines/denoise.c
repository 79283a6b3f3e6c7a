#include "pipelines/denoise.h"
#include "pipelines/dn_stream.h"
#include "pipelines/vae_tile.h"

#include <stdlib.h>
#include <string.h>

/* More images at once than this do not make a CPU faster, and cost memory. */
enum { CPU_BATCH = 4, BATCH_MAX = 256 };

static const int64_t spare_bytes = (int64_t)256 << 20; /* left to the rest of the process when memory is planned */

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

void dn_open(struct pipe *p)
{
    struct dn *d = p->dn;
    dl_run_open(&d->run, p->be, p->ctx, DL_F32);
    d->latent_c = p->latent_c * p->latent_patch * p->latent_patch;
}

static int bind_vae(void *user, struct bind *b, struct dl_err *e)
{
    struct dn *d = user;
    (void)e;
    vae_bind(&d->vae, &d->vae_cfg, b);
    return 0;
}

int dn_open_vae(struct pipe *p, struct dl_err *e)
{
    struct dn *d = p->dn;
    return d->has_vae ? net_open(&d->vae_net, p, "vae", &d->vae.weights, bind_vae, d, e) : 0;
}

/* Whether the steps draw noise. */
static bool draws(const struct dn *d)
{
    for (int i = 0; i < d->table->n; i++)
        if (d->table->step[i].draws) return true;
    return false;
}

/* Carves what lives through the denoising phase out of the arena, dry or real. */
static void lay_out(struct pipe *p, int batch)
{
    struct dn *d = p->dn;
    struct dl_run *r = &d->run;
    int h = d->latent_h, w = d->latent_w, c = d->latent_c, rows = pipe_guided(p, d->gen.guidance) ? 2 * batch : batch;
    d->net->lay_out(p);
    d->latent = dl_act_lo(r, DL_F32, batch, h, w, c);
    d->history = d->table->slots ? dl_act_lo(r, DL_F32, batch * d->table->slots, h, w, c) : (dl_act){0};
    d->noise = draws(d) ? dl_act_lo(r, DL_F32, batch, h, w, c) : (dl_act){0};
    d->lowres = d->in_c > c ? dl_act_lo(r, DL_F32, batch, h, w, d->in_c - c) : (dl_act){0};
    d->eps = dl_act_lo(r, DL_F32, rows, h, w, d->out_c);
    d->rgb = dl_arena_lo(&r->arena, (int64_t)d->gen.width * d->gen.height * 3);
}

/* The largest batch that can occur, for measuring: every image of its own noise. */
static void fill_images(struct pipe_image *im, int n)
{
    for (int i = 0; i < n; i++) im[i] = (struct pipe_image){.noise = i};
}

static dl_act text_act(struct pipe *p, int n)
{
    return dl_act_hi(&p->dn->run, DL_F32, n, 1, p->cond_tokens, p->cond_width);
}

static dl_act pooled_act(struct pipe *p, int n)
{
    return p->cond_pooled ? dl_act_hi(&p->dn->run, DL_F32, n, 1, 1, p->cond_pooled) : (dl_act){0};
}

/* Peak of all programs but the decoder with `batch` images at once; the arena `keep` is measured apart. */
static int measure(struct pipe *p, int batch, struct pipe_plan *pl, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dl_run *r = &d->run;
    struct pipe_image *im = calloc((size_t)batch, sizeof *im);
    int32_t *rows = realloc(d->rows, (size_t)(14 * batch + 3) * sizeof *rows); /* and as much for a program's key */
    if (rows) d->rows = rows;
    if (!im || !rows) {
        free(im);
        return dl_fail(e, DL_ENOMEM, "no memory for a batch of %d images", batch);
    }
    d->plan.batch = pl->batch = batch;
    d->conds = d->gen.conds;
    dl_run_dry(r);
    lay_out(p, batch);
    pl->keep_bytes = r->arena.peak_bytes;

    dl_run_dry(r);
    dl_act text = text_act(p, d->gen.conds), pooled = pooled_act(p, d->gen.conds);
    dn_prog_conditions(p, text, pooled);
    pl->work_bytes = r->arena.peak_bytes;
    dl_run_dry(r);
    if (d->net->steps) d->net->steps(p);
    pl->work_bytes = max64(pl->work_bytes, r->arena.peak_bytes);

    fill_images(im, batch);
    for (int first = 1; first >= 0; first--) {
        struct dn_batch b = dn_batch_of(p, im, batch, first);
        dl_run_dry(r);
        r->step = first ? 0 : d->table->n - 1;
        dn_prog_step(p, &b);
        pl->work_bytes = max64(pl->work_bytes, r->arena.peak_bytes);
    }
    pl->step_flops = r->account.flops, pl->step_bytes = r->account.bytes;
    free(im);
    return dl_run_check(r, e);
}

/* Input and output of decoding a latent of h x w (unpacked) in one piece. */
static void decode_acts(struct pipe *p, int h, int w, dl_act *z, dl_act *x)
{
    struct dl_run *r = &p->dn->run;
    *z = dl_act_hi(r, DL_F32, 1, h, w, p->latent_c);
    *x = p->dn->has_vae ? dl_act_hi(r, DL_F32, 1, h * p->latent_factor, w * p->latent_factor, 3) : *z;
}

/* Peak and cost of that. */
static int measure_decode(struct pipe *p, int h, int w, int64_t *peak, int64_t *flops, struct dl_err *e)
{
    struct dl_run *r = &p->dn->run;
    dl_act z, x;
    dl_run_dry(r);
    decode_acts(p, h, w, &z, &x);
    dn_prog_decode(p, z, x, p->dn->rgb);
    *peak = r->arena.peak_bytes;
    *flops = r->account.flops;
    return dl_run_check(r, e);
}

static int read_config(struct pipe *p, enum sched_kind as, struct sched_config *c, struct dl_err *e)
{
    char *path = model_dir_file(&p->dir, "scheduler", "scheduler_config.json", e);
    if (!path) return -1;
    int rc = p->dn->sd_rules ? sched_config_read_sd(c, path, as, e) : sched_config_read(c, path, as, e);
    free(path);
    return rc;
}

int dn_read_scheduler(struct pipe *p, struct dl_err *e)
{
    struct sched_config c;
    if (read_config(p, SCHED_FILE, &c, e) < 0) return -1;
    p->def.scheduler = sched_kind_name(c.kind);
    return 0;
}

static int wrong_kind(const struct pipe *p, const struct pipe_gen *g, enum sched_kind kind, const char *why,
                      struct dl_err *e)
{
    if (g->scheduler != SCHED_FILE) return dl_fail(e, DL_EUSAGE, "--scheduler %s: %s", sched_kind_name(kind), why);
    return dl_fail(e, DL_EINPUT, "%s/scheduler/scheduler_config.json: %s: %s", p->dir.path, sched_kind_name(kind), why);
}

static int read_schedule(struct pipe *p, const struct pipe_gen *g, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct sched_config c;
    bool learned = d->out_c == 2 * d->latent_c;
    static const char unknown[] = "it does not know a learned variance, and this model's network has one";
    if (learned && (g->scheduler == SCHED_PNDM || g->scheduler == SCHED_DDIM || g->scheduler == SCHED_EULER))
        return wrong_kind(p, g, g->scheduler, unknown, e); /* whatever else its settings lack */
    if (read_config(p, g->scheduler, &c, e) < 0) return -1;
    if (c.learned_var != learned)
        return wrong_kind(p, g, c.kind,
                          learned ? unknown : "it reads a learned variance, and this model's network has none", e);
    if (d->flow != (c.kind == SCHED_FLOW))
        return wrong_kind(p, g, c.kind,
                          d->flow ? "this model is trained for flow matching (flow-euler)"
                                  : "this model is trained for diffusion, not for flow matching",
                          e);
    sched_close(d->table);
    d->table = NULL;
    if (sched_plan(&d->table, &c, g->steps, (int64_t)d->latent_h * d->latent_w, e) < 0) return -1;
    float *times = realloc(d->times, (size_t)d->table->n * sizeof *times);
    if (!times) return dl_fail(e, DL_ENOMEM, "no memory for %d timesteps", d->table->n);
    d->times = times;
    for (int i = 0; i < d->table->n; i++) times[i] = d->table->step[i].t;
    return 0;
}

/* The VAE in tiles where asked for, or where memory is short; vae_peak becomes that of a tile. */
static int plan_tiles(struct pipe *p, int64_t *vae_peak, int64_t free_bytes, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct pipe_plan *pl = &d->plan;
    int h = d->latent_h * p->latent_patch, w = d->latent_w * p->latent_patch, tile = d->gen.vae_tile;
    int sample = d->vae_cfg.sample_size / p->latent_factor;
    if (!d->has_vae) return 0;
    pl->vae_tile = tile > 0 ? tile : 0;
    if (tile < 0 && pl->denoiser_bytes + pl->vae_bytes + pl->keep_bytes + max64(*vae_peak, pl->work_bytes) > free_bytes)
        pl->vae_tile = sample > 8 ? sample : 8;
    if (!pl->vae_tile || (pl->vae_tile >= h && pl->vae_tile >= w)) return pl->vae_tile = 0;
    int64_t flops;
    return measure_decode(p, pl->vae_tile < h ? pl->vae_tile : h, pl->vae_tile < w ? pl->vae_tile : w, vae_peak, &flops,
                          e);
}

int dn_plan(struct pipe *p, const struct pipe_gen *g, struct pipe_plan *out, struct dl_err *e)
{
    struct dn *d = p->dn;
    bool cpu = !strcmp(p->be->name, "cpu");
    int unit = p->latent_factor * p->latent_patch;
    struct pipe_plan *pl = &d->plan;
    *pl = (struct pipe_plan){0};
    d->gen = *g;
    d->run.t = (uint8_t)(g->type == DL_E4M3 ? DL_BF16 : g->type);
    d->vae_type = (uint8_t)(g->vae_type >= 0 ? g->vae_type : d->run.t);
    d->latent_h = g->height / unit, d->latent_w = g->width / unit;
    if (read_schedule(p, g, e) < 0) return -1;
    if (p->cls->plan_text && p->cls->plan_text(p, &pl->text_bytes, &pl->text_work_bytes, e) < 0) return -1;
    if (d->net->open(p, e) < 0 || dn_open_vae(p, e) < 0) return -1;
    if (d->vae_type == DL_F16 && d->vae_overflows && vae_shrink(&d->vae, e) < 0) return -1;

    pl->evaluations = d->table->n, pl->vae_type = d->vae_type;
    for (int i = 0; i < d->table->n; i++) pl->draws += d->table->step[i].draws != 0;
    int64_t vae_peak, free_bytes = p->be->free_bytes(p->ctx) - spare_bytes - g->reserved_bytes;
    if (measure(p, 1, pl, e) < 0 || measure_decode(p, d->latent_h * p->latent_patch, d->latent_w * p->latent_patch,
                                                   &vae_peak, &pl->decode_flops, e) < 0)
        return -1;
    pl->vae_bytes = d->vae.weights.pack_bytes;
    dn_plan_weights(p, free_bytes - pl->vae_bytes - pl->keep_bytes - max64(pl->work_bytes, vae_peak));
    int64_t weights = pl->denoiser_bytes + pl->vae_bytes;
    if (plan_tiles(p, &vae_peak, free_bytes, e) < 0) return -1;

    /* Streamed weights are read once for a whole batch. */
    int batch = g->batch ? g->batch : cpu && !pl->streamed ? CPU_BATCH : BATCH_MAX;
    if (batch > g->images) batch = (int)g->images;
    for (;; batch--) {
        if (batch > 1 || pl->batch != 1)
            if (measure(p, batch, pl, e) < 0) return -1;
        pl->work_bytes = max64(pl->work_bytes, vae_peak);
        int64_t denoise = weights + pl->keep_bytes + pl->work_bytes;
        pl->peak_bytes = max64(denoise, pl->text_bytes + pl->text_work_bytes);
        if (denoise <= free_bytes) break;
        if (g->batch || batch == 1)
            return dl_fail(e, DL_ENOMEM,
                           "%s: %lld MiB are needed (weights %lld, batch of %d %lld) and %lld MiB are free; try %s",
                           p->dir.path, (long long)(denoise >> 20), (long long)(weights >> 20), batch,
                           (long long)((pl->keep_bytes + pl->work_bytes) >> 20), (long long)(free_bytes >> 20),
                           g->batch > 1                        ? "a smaller --batch, or auto"
                           : dn_can_stream(p) && !pl->streamed ? "--resident stream"
                                                               : "a smaller --size, or a half-precision --dtype");
    }
    *out = *pl;
    return 0;
}

/* Opens and measures again what dn_unload has let go, to the same plan. */
static int plan_again(struct pipe *p, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct pipe_gen g = d->gen;
    struct pipe_plan same;
    g.batch = d->plan.batch, g.vae_tile = d->plan.vae_tile;
    if (d->plan.streamed) g.resident = PIPE_RESIDENT_STREAM;
    d->unloaded = false;
    return dn_plan(p, &g, &same, e);
}

int dn_load(struct pipe *p, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dl_run *r = &d->run;
    if (d->keep) return 0;
    if (d->unloaded && plan_again(p, e) < 0) return -1;
    if (dn_load_weights(p, e) < 0 || dl_run_load(r, &d->vae.weights, e) < 0) return -1;
    if (p->be->alloc(p->ctx, d->plan.keep_bytes, &d->keep, e) < 0 ||
        p->be->alloc(p->ctx, d->plan.work_bytes, &d->work, e) < 0)
        return -1;
    dl_run_bind(r, d->keep, d->plan.keep_bytes);
    lay_out(p, d->plan.batch);
    r->tap = p->tap, r->tap_user = p->tap_user;
    dl_run_bind(r, d->work, d->plan.work_bytes);
    if (d->net->steps) d->net->steps(p);
    if (dl_run_check(r, e) < 0) return -1;
    return p->be->sync(p->ctx, e);
}

static int run_conditions(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dl_run *r = &d->run;
    dl_run_bind(r, d->work, d->plan.work_bytes);
    dl_act text = text_act(p, n), pooled = pooled_act(p, n);
    int64_t each = text.rs * (int64_t)sizeof(float), each_pooled = pooled.rs * (int64_t)sizeof(float);
    for (int i = 0; i < n && dl_run_ok(r); i++) {
        if (p->be->upload(p->ctx, (uint8_t *)text.p + i * each, c[i].text, each, e) < 0) return -1;
        if (pooled.p && p->be->upload(p->ctx, (uint8_t *)pooled.p + i * each_pooled, c[i].pooled, each_pooled, e) < 0)
            return -1;
    }
    dn_prog_conditions(p, text, pooled);
    if (dl_run_check(r, e) < 0) return -1;
    return p->be->sync(p->ctx, e);
}

int dn_conditions(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e)
{
    struct dn *d = p->dn;
    d->conds = n;
    int prep = d->net->group ? d->net->group(p, c, n, e) : 0;
    if (prep < 0) return -1;
    if (prep) {
        dl_run_dry(&d->run);
        dl_act text = text_act(p, n), pooled = pooled_act(p, n);
        dn_prog_conditions(p, text, pooled);
        if (dl_run_check(&d->run, e) < 0) return -1;
    }
    int rc = prep ? dn_prep_begin(p, e) : 0;
    if (rc == 0) rc = run_conditions(p, c, n, e);
    if (prep) dn_prep_end(p);
    return rc;
}

/* Primitives and variants for both kinds of step are chosen here, so that the steps themselves allocate nothing. */
static int warm_up(struct pipe *p, const struct pipe_image *im, int n, struct dl_err *e)
{
    struct dl_run *r = &p->dn->run;
    for (int first = 1; first >= 0; first--) {
        struct dn_batch b = dn_batch_of(p, im, n, first);
        dl_run_dry(r);
        dn_prog_step(p, &b);
        if (dl_run_check(r, e) < 0) return -1;
    }
    return dn_load_weights(p, e);
}

static int stopped(const struct pipe_progress *pr, struct dl_err *e)
{
    if (!pr || !pr->stop || !*pr->stop) return 0;
    return dl_fail(e, DL_EINTERRUPT, "interrupted");
}

struct step {
    struct pipe *p;
    const struct dn_batch *b;
};

static void run_step(void *user)
{
    const struct step *st = user;
    dn_prog_step(st->p, st->b);
}

/* Step k of a batch. The steps after the first are one program, told from another batch's by its row maps; all the rest
 * that it depends on (sizes, guidance, sampler, memory) is the plan's, and goes with the denoiser. */
static int one_step(struct pipe *p, const struct pipe_image *im, int n, int k, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dn_batch b = dn_batch_of(p, im, n, k == 0);
    struct step st = {p, &b};
    struct dl_replay once = {0};
    int32_t *key = d->rows + 7 * d->plan.batch, used = 0;
    int32_t *parts[] = {b.in_row, b.c_row, b.lat_row, b.cond_row, b.u_row};
    int counts[] = {b.latents, b.images, b.rows, b.rows, b.u_row ? b.images : 0};
    key[used++] = b.images, key[used++] = b.rows, key[used++] = d->conds;
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < counts[i]; j++) key[used++] = parts[i][j];
    d->run.step = k;
    int rc = dl_replay_run(k ? &d->steps_again : &once, &d->run, d->work, d->plan.work_bytes, key,
                           used * (int64_t)sizeof *key, run_step, &st, e);
    dl_replay_close(&once, &d->run);
    return rc;
}

/* Values [row.rs] of image i into row i of a. */
static int upload_row(struct pipe *p, dl_act a, int i, const float *from, struct dl_err *e)
{
    int64_t bytes = a.rs * (int64_t)sizeof(float);
    return p->be->upload(p->ctx, (uint8_t *)a.p + i * bytes, from, bytes, e);
}

/* Image i's noise of a step, on the device where it draws this kind; `noise` is memory for a row. */
static int draw_row(struct pipe *p, struct dl_rng *rng, int i, float *noise, struct dl_err *e)
{
    const struct dn *d = p->dn;
    int type = d->gen.type == DL_E4M3 ? DL_BF16 : d->gen.type;
    int rc = p->be->noise && p->latent_patch == 1 ? p->be->noise(p->ctx, rng, dl_act_rows(d->noise, i, 1), type, e) : 1;
    if (rc <= 0) return rc;
    if (pipe_noise(p, rng, d->gen.width, d->gen.height, d->gen.type, noise, e) < 0) return -1;
    return upload_row(p, d->noise, i, noise, e);
}

/* The noise that step k takes, each image's from its own generator. */
static int draw_noise(struct pipe *p, const struct pipe_image *im, int n, int k, float *noise, struct dl_err *e)
{
    const struct dn *d = p->dn;
    for (int i = 0; i < n && d->table->step[k].draws; i++)
        if (draw_row(p, im[i].rng, i, noise, e) < 0) return -1;
    return 0;
}

static int run_steps(struct pipe *p, const struct pipe_image *im, int n, const struct pipe_progress *pr, float *noise,
                     struct dl_err *e)
{
    const struct dn *d = p->dn;
    for (int k = 0; k < d->table->n; k++) {
        if (stopped(pr, e) < 0) return -1;
        if (draw_noise(p, im, n, k, noise, e) < 0 || one_step(p, im, n, k, e) < 0 || p->be->sync(p->ctx, e) < 0)
            return -1;
        if (pr && pr->step) pr->step(pr->user, k + 1, d->table->n);
    }
    return 0;
}

/* A step of a large model can take minutes: told of, and ended, between the stages of its network. */
struct watch {
    const struct pipe_progress *pr;
    const struct dn *d;
    int stages;
    bool host; /* ops are done when they return */
};

static void at_stage(void *user, struct dl_run *r, int stage)
{
    const struct watch *w = user;
    if (stopped(w->pr, &r->err) < 0 || !w->host || !w->pr->part) return;
    w->pr->part(w->pr->user, r->step, w->d->table->n, (double)stage / w->stages);
}

int dn_denoise(struct pipe *p, struct pipe_image *im, int n, const struct pipe_progress *pr, struct dl_err *e)
{
    struct dn *d = p->dn;
    int64_t count = d->latent.rs, bytes = count * (int64_t)sizeof(float);
    float *noise = NULL;
    if (warm_up(p, im, n, e) < 0) return -1;
    for (int i = 0; i < n; i++) {
        for (int64_t j = 0; j < count; j++) im[i].latent[j] *= d->table->init_sigma;
        if (upload_row(p, d->latent, i, im[i].latent, e) < 0) return -1;
        if (d->lowres.p && upload_row(p, d->lowres, i, im[i].lowres, e) < 0) return -1;
    }
    if (d->noise.p && !(noise = malloc((size_t)bytes))) return dl_fail(e, DL_ENOMEM, "no memory for a step's noise");
    int rc = dn_steps_begin(p, e);
    struct watch w = {pr, d, dl_stream_sizes(d->net->weights(p)).stages, !p->be->lanes};
    if (pr) d->run.at_stage = at_stage, d->run.stage_user = &w;
    if (rc == 0) rc = run_steps(p, im, n, pr, noise, e);
    d->run.at_stage = NULL;
    dn_steps_end(p);
    free(noise);
    for (int i = 0; i < n && rc == 0; i++)
        rc = p->be->download(p->ctx, im[i].latent, (uint8_t *)d->latent.p + i * bytes, bytes, e);
    return rc;
}

/* Decodes z [h][w][c] (host) to x [f h][f w][3] and pixels, either of which may be NULL. */
static int decode_piece(struct pipe *p, const float *z, int h, int w, float *x, uint8_t *rgb, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dl_run *r = &d->run;
    int f = p->latent_factor;
    dl_act za, xa;
    dl_run_dry(r); /* a tile at the border has a shape of its own */
    decode_acts(p, h, w, &za, &xa);
    dn_prog_decode(p, za, xa, rgb ? d->rgb : NULL);
    if (dl_run_check(r, e) < 0 || dl_run_load(r, &d->vae.weights, e) < 0) return -1;
    dl_run_bind(r, d->work, d->plan.work_bytes);
    decode_acts(p, h, w, &za, &xa);
    if (dl_run_check(r, e) < 0 || p->be->upload(p->ctx, za.p, z, dl_act_bytes(za), e) < 0) return -1;
    dn_prog_decode(p, za, xa, rgb ? d->rgb : NULL);
    if (dl_run_check(r, e) < 0) return -1;
    if (x && p->be->download(p->ctx, x, xa.p, dl_act_bytes(xa), e) < 0) return -1;
    if (rgb && p->be->download(p->ctx, rgb, d->rgb, (int64_t)h * f * w * f * 3, e) < 0) return -1;
    return 0;
}

struct tile_job {
    struct pipe *p;
    const float *latent; /* [h][w][c] */
    int w;
    float *piece;
    const struct pipe_progress *pr;
};

static int decode_tile(void *user, int y, int x, int h, int w, float *out, struct dl_err *e)
{
    struct tile_job *j = user;
    int c = j->p->latent_c;
    if (stopped(j->pr, e) < 0) return -1;
    for (int v = 0; v < h; v++)
        memcpy(j->piece + (int64_t)v * w * c, j->latent + ((int64_t)(y + v) * j->w + x) * c,
               (size_t)w * (size_t)c * sizeof(float));
    return decode_piece(j->p, j->piece, h, w, out, NULL, e);
}

static int decode_tiles(struct pipe *p, const float *latent, uint8_t *rgb, const struct pipe_progress *pr,
                        struct dl_err *e)
{
    const struct dn *d = p->dn;
    int h = d->latent_h * p->latent_patch, w = d->latent_w * p->latent_patch;
    int64_t n = (int64_t)d->gen.width * d->gen.height * 3;
    struct tile_job j = {.p = p,
                         .latent = latent,
                         .w = w,
                         .pr = pr,
                         .piece = malloc((size_t)pipe_latent_count(p, d->gen.width, d->gen.height) * sizeof(float))};
    float *image = malloc((size_t)n * sizeof *image);
    int rc = -1;
    if (!j.piece || !image)
        dl_fail(e, DL_ENOMEM, "no memory for an image of %d x %d", d->gen.width, d->gen.height);
    else
        rc = vae_tile_run(h, w, 3, d->plan.vae_tile, p->latent_factor, decode_tile, &j, image, e);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        float v = image[i] * 0.5f + 0.5f;
        rgb[i] = (uint8_t)__builtin_nearbyintf((v > 0 ? v < 1 ? v : 1 : 0) * 255); /* a NaN becomes 0 */
    }
    free(j.piece);
    free(image);
    return rc;
}

int dn_decode(struct pipe *p, const float *latent, uint8_t *rgb, const struct pipe_progress *pr, struct dl_err *e)
{
    const struct dn *d = p->dn;
    if (stopped(pr, e) < 0) return -1;
    float *z = malloc((size_t)pipe_latent_count(p, d->gen.width, d->gen.height) * sizeof *z);
    if (!z) return dl_fail(e, DL_ENOMEM, "no memory for a latent of %d x %d pixels", d->gen.width, d->gen.height);
    pipe_unpack(p, d->gen.width, d->gen.height, latent, z);
    int rc = d->plan.vae_tile
                 ? decode_tiles(p, z, rgb, pr, e)
                 : decode_piece(p, z, d->latent_h * p->latent_patch, d->latent_w * p->latent_patch, NULL, rgb, e);
    free(z);
    return rc;
}

void dn_unload(struct pipe *p)
{
    struct dn *d = p->dn;
    dl_replay_close(&d->steps_again, &d->run);
    dl_stream_close(d->stream);
    if (d->keep) p->be->free(p->ctx, d->keep);
    if (d->work) p->be->free(p->ctx, d->work);
    d->stream = NULL, d->keep = d->work = NULL;
    d->net->close(p);
    vae_close(&d->vae);
    net_close(&d->vae_net);
    d->unloaded = true;
}

void dn_close(struct pipe *p)
{
    struct dn *d = p->dn;
    dn_unload(p);
    sched_close(d->table);
    free(d->rows);
    free(d->times);
    dl_run_close(&d->run);
    d->table = NULL, d->rows = NULL, d->times = NULL;
}
