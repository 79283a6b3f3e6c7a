/* dlens bench model and bench sweep: whole steps and whole sweeps, with weights that are real or random. */
#include "tools/bench.h"
#include "tools/bench/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 8 }; /* of bench model, where none are asked for */

/* A model on its device, planned, loaded and conditioned. */
struct bench {
    struct cli *cli;
    struct bench_args *args;
    struct bench_device dev;
    struct bench_model m;
    struct pipe_plan plan;
    struct pipe_progress pr;
    struct pipe_image *im; /* [batch], with latents */
    float *noise;          /* one latent */
    float *lowres;         /* an upscaler's small picture; NULL for other models */
    struct dl_rng *rng;    /* [batch] for samplers that draw */
    double *step_us;       /* [evaluations] when each step was done */
    int n_step;
    double last_us;
};

static void stepped(void *user, int step, int steps)
{
    struct bench *b = user;
    double now = clock_us();
    b->step_us[b->n_step++] = now - b->last_us;
    b->last_us = now;
    if (b->args->what != BENCH_MODEL || step != steps - 1) return;
    b->m.pipe->dn->run.log_on = b->m.pipe->dn->run.time_on = true; /* the last step tells where the time goes */
    b->last_us = clock_us();
}

static uint64_t next(uint64_t *x) { return *x = *x * 6364136223846793005u + 1442695040888963407u; }

static void random_values(float *p, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) p[i] = 1.7320508f * ((float)(int32_t)(next(&seed) >> 32) * 0x1p-31f);
}

/* Text conditions of unit variance: as the encoders' final norm leaves them, about. */
static int condition(struct bench *b, struct dl_err *e)
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

/* images: what is asked for at most at once. */
static int bench_open(struct bench *b, int batch, struct dl_err *e)
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
    b->pr = (struct pipe_progress){.step = stepped, .user = b, .stop = cli_catch_interrupt()};
    return open_images(b, e);
}

static void bench_close(struct bench *b)
{
    if (b->im) free(b->im[0].latent);
    free(b->im), free(b->rng), free(b->noise), free(b->lowres), free(b->step_us);
    bench_model_close(&b->m);
    bench_device_close(&b->dev);
}

/* Denoises n images whose conditions begin at row `first`. */
static int denoise(struct bench *b, int n, int first, struct dl_err *e)
{
    int64_t count = pipe_latent_count(b->m.pipe, b->args->sweep.width, b->args->sweep.height);
    float *latents = b->im[0].latent;
    bench_images(b->im, n, first, b->args->sweep.layers);
    for (int i = 0; i < n; i++) {
        b->im[i].latent = latents + i * count;
        memcpy(b->im[i].latent, b->noise, (size_t)count * sizeof(float));
        rng_seed(&b->rng[i], RNG_TORCH_CPU, 17, 0, 0);
        b->im[i].rng = &b->rng[i], b->im[i].lowres = b->lowres;
    }
    b->n_step = 0, b->last_us = clock_us();
    int rc = pipe_denoise(b->m.pipe, b->im, n, &b->pr, e);
    for (int64_t i = 0; i < n * count && rc == 0; i++)
        if (!isfinite(latents[i]))
            return dl_fail(e, DL_EFAIL, "the latents are not finite after %d steps", b->plan.evaluations);
    return rc;
}

/* ---- one step ---- */

static void tell_kinds(struct bench *b)
{
    const struct dl_run *r = &b->m.pipe->dn->run;
    double ms[OP_KINDS] = {0}, all = 0;
    int64_t flops[OP_KINDS] = {0}, bytes[OP_KINDS] = {0};
    int count[OP_KINDS] = {0};
    json_t *list = json_array();
    for (int64_t i = 0; i < r->n_log; i++)
        for (int k = 0; k < OP_KINDS; k++)
            if (!strcmp(r->log[i].op, op_name((enum op_kind)k))) {
                ms[k] += r->log[i].ms, all += r->log[i].ms, count[k]++;
                flops[k] += r->log[i].flops, bytes[k] += r->log[i].bytes;
            }
    if (!b->cli->json) printf("%-11s %6s %10s %7s %10s %9s\n", "op", "count", "ms", "%", "GFLOP/s", "GB/s");
    for (int k = 0; k < OP_KINDS; k++) {
        if (!count[k]) continue;
        double s = ms[k] > 0 ? ms[k] * 1e-3 : 1e-12;
        if (!b->cli->json)
            printf("%-11s %6d %10.3f %7.1f %10.1f %9.1f\n", op_name((enum op_kind)k), count[k], ms[k],
                   100 * ms[k] / all, (double)flops[k] / s * 1e-9, (double)bytes[k] / s * 1e-9);
        json_array_append_new(list, json_pack("{s:s, s:i, s:f, s:f, s:I, s:I}", "op", op_name((enum op_kind)k), "count",
                                              count[k], "ms", ms[k], "percent", 100 * ms[k] / all, "flops",
                                              (json_int_t)flops[k], "bytes", (json_int_t)bytes[k]));
    }
    json_object_set_new(b->cli->result, "kinds", list);
    json_object_set_new(b->cli->result, "ops_one_by_one_ms", json_real(all));
}

/* Steps that stand for all others: without the first, which shares work, those in which a graph is made, and the last,
 * which ran op by op. */
static struct timing steady(struct bench *b)
{
    int from = b->dev.be->record_begin ? 3 : 1, n = b->n_step - 1 - from;
    if (n < 1) from = b->n_step > 1 ? 1 : 0, n = b->n_step - from > 1 ? b->n_step - 1 - from : 1;
    return timing_of(b->step_us + from, n);
}

int bench_model(struct cli *c, struct bench_args *a, struct dl_err *e)
{
    struct bench b = {.cli = c, .args = a};
    char text[200], w[32], m[32];
    int rc = -1;
    if (bench_open(&b, a->n_batches ? a->batches[0] : 1, e) < 0) goto out;
    if (condition(&b, e) < 0 || denoise(&b, b.plan.batch, 0, e) < 0) goto out;
    struct timing t = steady(&b);
    double flops = (double)b.plan.step_flops;
    bench_tell(c, a, &b.m, &b.plan);
    json_object_set_new(c->result, "device", json_string(bench_device_text(c, &b.dev, text)));
    json_object_set_new(c->result, "step_ms", json_real(t.median_us * 1e-3));
    json_object_set_new(c->result, "step_ms_min", json_real(t.min_us * 1e-3));
    json_object_set_new(c->result, "steps_timed", json_integer(t.repeats));
    json_object_set_new(c->result, "gflop_per_s", json_real(flops / t.median_us * 1e-3));
    json_object_set_new(c->result, "peak_rss_bytes", json_integer(cli_peak_rss()));
    if (!c->json) {
        printf("%s, %dx%d, %s, %d image%s a batch, on %s\n", b.m.pipe->title, a->sweep.width, a->sweep.height,
               dl_type_name(a->sweep.type), b.plan.batch, b.plan.batch > 1 ? "s" : "", text);
        printf("a step: median %.2f ms, least %.2f ms of %d; %.1f GFLOP, %.1f GFLOP/s\n", t.median_us * 1e-3,
               t.min_us * 1e-3, t.repeats, flops * 1e-9, flops / t.median_us * 1e-3);
        printf("memory: weights %s, working %s\n", cli_bytes(w, b.plan.denoiser_bytes + b.plan.vae_bytes),
               cli_bytes(m, b.plan.keep_bytes + b.plan.work_bytes));
    }
    tell_kinds(&b);
    rc = 0;
out:
    bench_close(&b);
    return rc;
}

/* ---- the sweep ---- */

struct bucket {
    int batch;
    double denoise_s, decode_s;
    struct timing step;
};

/* All images of the sweep, `batch` at a time. */
static int run_bucket(struct bench *b, struct bucket *k, uint8_t *rgb, double *steps, struct dl_err *e)
{
    int layers = b->args->sweep.layers, timed = 0;
    int skip = b->dev.be->record_begin ? 3 : 1;
    k->denoise_s = k->decode_s = 0;
    for (int at = 0; at < layers; at += k->batch) {
        int n = layers - at < k->batch ? layers - at : k->batch;
        double from = clock_us();
        if (denoise(b, n, at, e) < 0) return -1;
        double done = clock_us();
        for (int i = skip; i < b->n_step && n == k->batch; i++) steps[timed++] = b->step_us[i];
        for (int i = 0; i < n; i++)
            if (pipe_decode(b->m.pipe, b->im[i].latent, rgb, &b->pr, e) < 0) return -1;
        k->denoise_s += (done - from) * 1e-6, k->decode_s += (clock_us() - done) * 1e-6;
    }
    k->step = timed ? timing_of(steps, timed) : timing_of(b->step_us, b->n_step);
    return 0;
}

static int buckets_of(struct bench_args *a, int layers)
{
    if (!a->n_batches) {
        for (int n = 1; n < layers && a->n_batches < BENCH_BUCKETS - 1; n *= 2) a->batches[a->n_batches++] = n;
        a->batches[a->n_batches++] = layers;
    }
    int most = 1;
    for (int i = 0; i < a->n_batches; i++) {
        if (a->batches[i] > layers) a->batches[i] = layers;
        if (a->batches[i] > most) most = a->batches[i];
    }
    return most;
}

/* How many images the sweep has, before the model's device is there. */
static int layers_of(struct bench_args *a, struct dl_err *e)
{
    struct tape *t = NULL;
    struct bench_model m = {0};
    struct bench_sweep s = a->sweep;
    int rc = -1;
    if (tape_open(&t, 0, e) == 0 && bench_model_open(&m, &a->source, DL_F32, t->be, t->ctx, e) == 0 &&
        bench_sweep_complete(m.pipe, &s, e) == 0)
        rc = s.layers;
    bench_model_close(&m);
    tape_close(t);
    return rc;
}

static int run_buckets(struct bench *b, double cond_s, struct dl_err *e)
{
    struct bench_args *a = b->args;
    int layers = a->sweep.layers;
    uint8_t *rgb = malloc((size_t)a->sweep.width * (size_t)a->sweep.height * 3);
    double *steps = malloc((size_t)layers * (size_t)b->plan.evaluations * sizeof *steps);
    json_t *list = json_array();
    int rc = rgb && steps ? 0 : dl_fail(e, DL_ENOMEM, "no memory for an image");
    json_object_set_new(b->cli->result, "batches", list);
    if (!b->cli->json)
        printf("%6s %12s %12s %12s %12s %12s\n", "batch", "images/s", "seconds", "denoise s", "decode s", "step ms");
    for (int i = 0; i < a->n_batches && rc == 0; i++) {
        struct bucket k = {.batch = a->batches[i]};
        rc = run_bucket(b, &k, rgb, steps, e);
        if (rc < 0) break;
        double all = cond_s + k.denoise_s + k.decode_s;
        if (!b->cli->json)
            printf("%6d %12.4f %12.3f %12.3f %12.3f %12.2f\n", k.batch, layers / all, all, k.denoise_s, k.decode_s,
                   k.step.median_us * 1e-3);
        fflush(stdout);
        json_array_append_new(list,
                              json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "batch", k.batch, "images_per_s",
                                        layers / all, "seconds", all, "denoise_s", k.denoise_s, "decode_s", k.decode_s,
                                        "step_ms", k.step.median_us * 1e-3, "step_ms_min", k.step.min_us * 1e-3));
    }
    free(rgb), free(steps);
    return rc;
}

int bench_sweep(struct cli *c, struct bench_args *a, struct dl_err *e)
{
    struct bench b = {.cli = c, .args = a};
    char text[200];
    int rc = -1, layers = layers_of(a, e);
    if (layers < 0) return -1;
    if (bench_open(&b, buckets_of(a, layers), e) < 0) goto out;
    double from = clock_us();
    if (condition(&b, e) < 0) goto out;
    double cond_s = (clock_us() - from) * 1e-6;
    bench_tell(c, a, &b.m, &b.plan);
    json_object_set_new(c->result, "device", json_string(bench_device_text(c, &b.dev, text)));
    json_object_set_new(c->result, "conditions_s", json_real(cond_s));
    if (!c->json)
        printf("%s, %dx%d, %s: %d images of %d evaluations, on %s\n", b.m.pipe->title, a->sweep.width, a->sweep.height,
               dl_type_name(a->sweep.type), layers, b.plan.evaluations, text);
    rc = run_buckets(&b, cond_s, e);
    json_object_set_new(c->result, "peak_rss_bytes", json_integer(cli_peak_rss()));
out:
    bench_close(&b);
    return rc;
}
