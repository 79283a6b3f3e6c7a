/* A model on its device: see bench_run.h. */
#include "tools/bench_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 8 }; /* of bench model, where none are asked for */

static uint64_t next(uint64_t *x) { return *x = *x * 6364136223846793005u + 1442695040888963407u; }

static void random_values(float *p, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) p[i] = 1.7320508f * ((float)(int32_t)(next(&seed) >> 32) * 0x1p-31f);
}

/* Text conditions of unit variance: as the encoders' final norm leaves them, about. */
int bench_condition(struct bench *b, struct dl_err *e)
{
    struct pipe *p = b->m.pipe;
    int n = p->dn->gen.conds, rc = 0, made = 0;
    struct pipe_cond *c = calloc((size_t)n, sizeof *c);
    if (!c) return dl_fail(e, DL_ENOMEM, "no memory for %d conditions", n);
    for (; made < n && rc == 0; made++) {
        rc = pipe_cond_open(p, &c[made], e);
        if (rc < 0) break;
        random_values(c[made].text, (int64_t)c[made].tokens * c[made].width, 1 + (uint64_t)made);
        if (c[made].pooled) random_values(c[made].pooled, c[made].pooled_width, 1001 + (uint64_t)made);
    }
    if (rc == 0) rc = pipe_conditions(p, c, n, e);
    if (rc == 0) rc = b->dev.be->sync(b->dev.ctx, e);
    for (int i = 0; i < made; i++) pipe_cond_close(&c[i]);
    free(c);
    return rc;
}

static int open_images(struct bench *b, struct dl_err *e)
{
    int64_t count = pipe_latent_count(b->m.pipe, b->args->sweep.width, b->args->sweep.height);
    b->noise = malloc((size_t)count * sizeof *b->noise);
    b->im = calloc((size_t)b->plan.batch, sizeof *b->im);
    b->rng = calloc((size_t)b->plan.batch, sizeof *b->rng);
    int64_t small = b->m.pipe->dn->lowres.rs;
    if (small && (b->lowres = malloc((size_t)small * sizeof *b->lowres))) random_values(b->lowres, small, 19);
    b->step_us = calloc((size_t)b->plan.evaluations, sizeof *b->step_us);
    float *latents = malloc((size_t)(b->plan.batch * count) * sizeof *latents);
    if (b->im) b->im[0].latent = latents;
    if (!b->noise || !b->im || !b->rng || !b->step_us || !latents || (small && !b->lowres)) {
        if (!b->im) free(latents);
        return dl_fail(e, DL_ENOMEM, "no memory for %d latents", b->plan.batch);
    }
    random_values(b->noise, count, 17);
    return 0;
}

int bench_open(struct bench *b, int batch, struct dl_err *e)
{
    struct bench_args *a = b->args;
    if (bench_device_open(b->cli, a, &b->dev, e) < 0) return -1;
    if (bench_model_open(&b->m, &a->source, a->sweep.type, b->dev.be, b->dev.ctx, e) < 0) return -1;
    if (a->what == BENCH_MODEL) {
        if (!a->sweep.steps) a->sweep.steps = STEPS;
        a->sweep.layers = batch;
    }
    if (bench_sweep_complete(b->m.pipe, &a->sweep, e) < 0) return -1;
    struct bench_sweep s = a->sweep;
    s.batch = batch < s.layers ? batch : s.layers;
    struct pipe_gen g = bench_gen(b->m.pipe, &s);
    if (pipe_plan(b->m.pipe, &g, &b->plan, e) < 0) return -1;
    cli_say(b->cli, "%s: loading", b->m.pipe->title);
    bench_model_make_up(&b->m);
    if (pipe_load(b->m.pipe, e) < 0) return -1;
    b->interrupt = cli_catch_interrupt();
    return open_images(b, e);
}

void bench_close(struct bench *b)
{
    if (b->im) free(b->im[0].latent);
    free(b->im), free(b->rng), free(b->noise), free(b->lowres), free(b->step_us);
    bench_model_close(&b->m);
    bench_device_close(&b->dev);
}

static void stepped(void *user, int step, int steps)
{
    struct bench *b = user;
    (void)steps;
    b->step_us[b->n_step++] = clock_us() - b->last_us;
    if (b->watch && !b->watch_err.code) {
        struct gaps g;
        if (watch_look(b->watch, &g, &b->watch_err) == 0 && step > b->watch_from && b->n_gaps < BENCH_WATCHED)
            b->gaps[b->n_gaps++] = g;
    }
    if (step == b->halt_at || *b->interrupt) b->halt = 1;
    if (step + 1 == b->log_step) b->m.pipe->dn->run.log_on = b->m.pipe->dn->run.time_on = true;
    b->last_us = clock_us();
}

int bench_denoise(struct bench *b, int n, int first, int steps, struct dl_err *e)
{
    int64_t count = pipe_latent_count(b->m.pipe, b->args->sweep.width, b->args->sweep.height);
    float *latents = b->im[0].latent;
    struct dl_run *r = &b->m.pipe->dn->run;
    struct dl_err mine = {0};
    struct pipe_progress pr = {.step = stepped, .user = b, .stop = steps ? &b->halt : b->interrupt};
    bench_images(b->im, n, first, b->args->sweep.layers);
    for (int i = 0; i < n; i++) {
        b->im[i].latent = latents + i * count;
        memcpy(b->im[i].latent, b->noise, (size_t)count * sizeof(float));
        rng_seed(&b->rng[i], RNG_TORCH_CPU, 17, 0, 0);
        b->im[i].rng = &b->rng[i], b->im[i].lowres = b->lowres;
    }
    b->halt_at = steps, b->halt = 0;
    r->log_on = r->time_on = b->log_step == 1;
    b->n_step = 0, b->last_us = clock_us();
    int rc = pipe_denoise(b->m.pipe, b->im, n, &pr, &mine);
    r->log_on = r->time_on = false;
    if (rc < 0 && steps && b->n_step == steps && mine.code == DL_EINTERRUPT && !*b->interrupt) return 0;
    if (rc < 0) return dl_fail(e, mine.code, "%s", mine.msg);
    for (int64_t i = 0; i < n * count; i++)
        if (!isfinite(latents[i]))
            return dl_fail(e, DL_EFAIL, "the latents are not finite after %d steps", b->plan.evaluations);
    return 0;
}

int bench_unlike(const struct bench *b) { return b->dev.be->record_begin ? 3 : 1; }

int bench_warm_up(struct bench *b, int n, struct dl_err *e)
{
    int all = b->plan.evaluations, steps = bench_unlike(b) < all ? bench_unlike(b) : 0;
    if (!b->dev.be->record_begin) return 0;
    for (int pass = 0; pass < (all == 2 ? 2 : 1); pass++) /* a recording takes three steps, or twice two */
        if (bench_denoise(b, n, 0, steps, e) < 0) return -1;
    return 0;
}

void bench_forget_recording(struct bench *b)
{
    struct dn *d = b->m.pipe->dn;
    dl_replay_close(&d->steps_again, &d->run);
}
