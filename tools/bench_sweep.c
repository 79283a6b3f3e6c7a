/* dlens bench sweep: whole sweeps, with weights that are real or made up. */
#include "tools/bench_run.h"

#include <stdio.h>
#include <stdlib.h>

struct bucket {
    int batch;
    double denoise_s, decode_s;
    struct timing step;
};

static int decode(struct bench *b, int n, uint8_t *rgb, struct dl_err *e)
{
    struct pipe_progress pr = {.stop = b->interrupt};
    for (int i = 0; i < n; i++)
        if (pipe_decode(b->m.pipe, b->im[i].latent, rgb, &pr, e) < 0) return -1;
    return 0;
}

/* The bucket's batches and its last, smaller one. What a real sweep does for each batch is left in the time. */
static int warm_up(struct bench *b, const struct bucket *k, uint8_t *rgb, struct dl_err *e)
{
    int rest = b->args->sweep.layers % k->batch;
    if (!b->dev.be->record_begin) return 0;
    if (rest && bench_warm_up(b, rest, e) < 0) return -1;
    if (bench_warm_up(b, k->batch, e) < 0 || decode(b, 1, rgb, e) < 0) return -1;
    bench_forget_recording(b);
    return 0;
}

/* All images of the sweep, `batch` at a time. */
static int run_bucket(struct bench *b, struct bucket *k, uint8_t *rgb, double *steps, struct dl_err *e)
{
    int layers = b->args->sweep.layers, timed = 0, skip = bench_unlike(b);
    if (warm_up(b, k, rgb, e) < 0) return -1;
    k->denoise_s = k->decode_s = 0;
    for (int at = 0; at < layers; at += k->batch) {
        int n = layers - at < k->batch ? layers - at : k->batch;
        double from = clock_us();
        if (bench_denoise(b, n, at, 0, e) < 0) return -1;
        double done = clock_us();
        for (int i = skip; i < b->n_step && n == k->batch; i++) steps[timed++] = b->step_us[i];
        if (decode(b, n, rgb, e) < 0) return -1;
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
    if (tape_open(&t, 0, false, e) == 0 && bench_model_open(&m, &a->source, DL_F32, t->be, t->ctx, e) == 0 &&
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
        printf("%6s %12s %12s %12s %12s %12s %12s\n", "batch", "images/s", "seconds", "denoise s", "decode s",
               "step ms", "step/image");
    for (int i = 0; i < a->n_batches && rc == 0; i++) {
        struct bucket k = {.batch = a->batches[i]};
        rc = run_bucket(b, &k, rgb, steps, e);
        if (rc < 0) break;
        double all = cond_s + k.denoise_s + k.decode_s;
        if (!b->cli->json)
            printf("%6d %12.4f %12.3f %12.3f %12.3f %12.2f %12.2f\n", k.batch, layers / all, all, k.denoise_s,
                   k.decode_s, k.step.median_us * 1e-3, k.step.median_us * 1e-3 / k.batch);
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
    if (bench_condition(&b, e) < 0) goto out;
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
