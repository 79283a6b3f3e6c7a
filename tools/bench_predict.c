/* dlens bench --predict: what a sweep would take on a card, from the ops alone. */
#include "tools/bench.h"
#include "tools/bench/devices.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOP = 12 };

struct predict {
    struct cli *cli;
    struct bench_args *args;
    struct device dev;
    struct tape *tape;
    struct pipe_plan plan;
    char title[96];
};

/* Plans within the card's memory; where that does not do, beyond it with a warning. */
static int record(struct predict *p, struct dl_err *e)
{
    struct bench_args *a = p->args;
    struct bench_sweep wish = a->sweep;
    struct dl_err full = {0};
    for (int beyond = 0; beyond < 2; beyond++) {
        struct bench_model m = {0};
        int64_t memory = beyond ? INT64_MAX / 4 : (int64_t)(p->dev.memory_gib * 0x1p30);
        a->sweep = wish;
        if (tape_open(&p->tape, memory, true, e) < 0) return -1;
        int rc = bench_model_open(&m, &a->source, a->sweep.type, p->tape->be, p->tape->ctx, e);
        if (rc == 0) rc = bench_sweep_complete(m.pipe, &a->sweep, e);
        if (rc == 0) rc = bench_record(p->tape, &m, &a->sweep, &p->plan, beyond ? e : &full);
        if (rc == 0) {
            bench_tell(p->cli, a, &m, &p->plan);
            snprintf(p->title, sizeof p->title, "%s", m.pipe->title);
            if (p->plan.streamed)
                cli_warn(
                    p->cli,
                    "%s: the weights do not fit into its %.0f GiB and pass through it in every step; the times are "
                    "without that",
                    p->dev.title, p->dev.memory_gib);
        }
        bench_model_close(&m);
        if (rc == 0 || beyond || full.code != DL_ENOMEM) {
            if (rc < 0 && full.code && !e->code) dl_fail(e, full.code, "%s", full.msg);
            return rc;
        }
        tape_close(p->tape);
        p->tape = NULL;
        cli_warn(p->cli,
                 "%s: it does not fit into the card's %.0f GiB with all weights there; the times are those of a "
                 "card that it fits",
                 p->dev.title, p->dev.memory_gib);
        a->sweep = wish;
        if (!wish.batch) wish.batch = 1;
    }
    return -1;
}

/* ---- one op beside its measurement ---- */

struct line {
    const struct tape_case *k;
    double us;       /* predicted for one, with its launch */
    double measured; /* us; 0: not in the file */
};

static int by_time(const void *a, const void *b)
{
    const struct line *x = a, *y = b;
    double d = y->k->count * y->us - x->k->count * x->us;
    return (d > 0) - (d < 0);
}

static double measured_us(const json_t *ops, const struct tape_case *k)
{
    size_t i;
    const json_t *o;
    json_array_foreach(ops, i, o)
    {
        const char *op = json_string_value(json_object_get(o, "op"));
        const char *shape = json_string_value(json_object_get(o, "shape"));
        if (op && shape && !strcmp(op, op_name(k->kind)) && !strcmp(shape, k->shape))
            return json_number_value(json_object_get(o, "us"));
    }
    return 0;
}

static json_t *read_measured(const char *path, struct dl_err *e)
{
    json_error_t je;
    json_t *o = json_load_file(path, 0, &je);
    if (o && json_is_array(json_object_get(o, "ops"))) return o;
    dl_fail(e, DL_EINPUT, "%s: not what dlens bench kernels --json prints%s%s", path, o ? ": no \"ops\"" : ": ",
            o ? "" : je.text);
    json_decref(o);
    return NULL;
}

static const char *bound_by(const struct device *d, const struct tape_case *k)
{
    return (double)k->flops / device_flops(d, k->run_t) > (double)k->bytes / (d->gb_per_s * 1e9) ? "compute" : "memory";
}

static void tell_ops(struct predict *p, struct line *l, int n, bool against)
{
    int top = p->args->top ? (int)p->args->top : TOP, found = 0;
    double predicted = 0, measured = 0;
    json_t *ops = json_array();
    if (!p->cli->json)
        printf("\n%5s %-11s %-50s %8s %10s %10s%s\n", "count", "op", "shape", "bound", "us each", "ms a step",
               against ? "   measured    ratio" : "");
    for (int i = 0; i < n; i++) {
        const struct tape_case *k = l[i].k;
        json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:f, s:I, s:I}", "op", op_name(k->kind), "shape", k->shape,
                              "dtype", dl_type_name(k->run_t), "bound", bound_by(&p->dev, k), "count", k->count, "us",
                              l[i].us, "flops", (json_int_t)k->flops, "bytes", (json_int_t)k->bytes);
        if (l[i].measured > 0) {
            json_object_set_new(o, "measured_us", json_real(l[i].measured));
            json_object_set_new(o, "ratio", json_real(l[i].measured / l[i].us));
            predicted += k->count * l[i].us, measured += k->count * l[i].measured, found++;
        }
        json_array_append_new(ops, o);
        if (p->cli->json || i >= top) continue;
        printf("%5d %-11s %-50s %8s %10.2f %10.3f", k->count, op_name(k->kind), k->shape, bound_by(&p->dev, k), l[i].us,
               k->count * l[i].us * 1e-3);
        if (l[i].measured > 0)
            printf(" %10.2f %8.2f\n", l[i].measured, l[i].measured / l[i].us);
        else
            printf("%s\n", against ? "          -        -" : "");
    }
    if (!p->cli->json && n > top) printf("      and %d more (--top, --json)\n", n - top);
    json_object_set_new(p->cli->result, "ops", ops);
    if (!against) return;
    json_object_set_new(p->cli->result, "measured_ops", json_integer(found));
    if (found) json_object_set_new(p->cli->result, "ratio", json_real(measured / predicted));
    if (!p->cli->json && found)
        printf("measured / predicted over %d of %d ops: %.2f\n", found, n, measured / predicted);
    if (!found) cli_warn(p->cli, "--against: no op of that file has the shape of one here; --rows and --batch differ?");
}

static int compare_ops(struct predict *p, struct dl_err *e)
{
    json_t *file = NULL;
    int n = 0, rc = -1;
    if (p->args->against && !(file = read_measured(p->args->against, e))) return -1;
    struct line *l = calloc((size_t)p->tape->n + 1, sizeof *l);
    if (l) {
        for (int i = 0; i < p->tape->n; i++) {
            const struct tape_case *k = &p->tape->c[i];
            if (k->phase != TAPE_STEP) continue;
            l[n].k = k, l[n].us = device_us(&p->dev, k->run_t, k->flops, k->bytes) + p->dev.launch_us;
            l[n++].measured = file ? measured_us(json_object_get(file, "ops"), k) : 0;
        }
        qsort(l, (size_t)n, sizeof *l, by_time);
        tell_ops(p, l, n, file != NULL);
        rc = 0;
    } else {
        dl_fail(e, DL_ENOMEM, "no memory for a list of ops");
    }
    free(l);
    json_decref(file);
    return rc;
}

/* ---- the sweep ---- */

static void tell_sweep(struct predict *p)
{
    const struct bench_sweep *s = &p->args->sweep;
    const struct device *d = &p->dev;
    struct device_sweep t = device_sweep(d, p->tape, s->layers, p->plan.batch, p->plan.evaluations);
    struct device_time step = device_phase(d, p->tape, TAPE_STEP);
    struct tape_sum sum = tape_sum_of(p->tape, TAPE_STEP);
    json_t *r = p->cli->result;
    json_object_set_new(r, "card",
                        json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f}", "name", d->name, "title", d->title, "source",
                                  d->source, "tflop_per_s", device_flops(d, s->type) * 1e-12, "gb_per_s", d->gb_per_s,
                                  "memory_gib", d->memory_gib, "launch_us", d->launch_us));
    json_object_set_new(r, "step_ms", json_real(t.step_ms));
    json_object_set_new(r, "step_launch_ms", json_real(step.launch_ms));
    json_object_set_new(r, "step_ops", json_integer(sum.ops));
    json_object_set_new(r, "sweep",
                        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "seconds", t.total_s, "text_s", t.text_s,
                                  "prepare_s", t.prepare_s, "denoise_s", t.denoise_s, "decode_s", t.decode_s,
                                  "images_per_s", s->layers / t.total_s));
    if (p->cli->json) return;
    printf("%s, %dx%d, %s, guidance %g, on %s\n", p->title, s->width, s->height, dl_type_name(s->type), s->guidance,
           d->title);
    printf("  %.1f TFLOP/s in %s, %.0f GB/s, %.0f GiB: %s\n", device_flops(d, s->type) * 1e-12, dl_type_name(s->type),
           d->gb_per_s, d->memory_gib, d->source);
    printf("  least times: no kernel is faster than the roofline; %.1f us for each launch are an assumption\n",
           d->launch_us);
    printf("a step of %d image%s: %.2f ms = %.2f roofline + %.2f launches (%lld ops, %.1f GFLOP, %.2f GB)\n",
           p->plan.batch, p->plan.batch > 1 ? "s" : "", t.step_ms, step.op_ms, step.launch_ms, (long long)sum.ops,
           (double)sum.flops * 1e-9, (double)sum.bytes * 1e-9);
    printf(
        "a sweep of %d layers, %d evaluations each: %.2f s = text %.3f + conditions %.3f + denoising %.2f + decoding "
        "%.2f; %.2f images/s\n",
        s->layers, p->plan.evaluations, t.total_s, t.text_s, t.prepare_s, t.denoise_s, t.decode_s,
        s->layers / t.total_s);
}

int bench_predict(struct cli *c, struct bench_args *a, struct dl_err *e)
{
    static const char *const names[] = {"f32", "f16", "bf16"};
    static const int types[] = {DL_F32, DL_F16, DL_BF16};
    struct predict p = {.cli = c, .args = a};
    int i = a->source.like && !strncmp(a->source.like, "flux", 4) ? 2 : 1;
    if (device_read(&p.dev, a->predict, e) < 0) return -1;
    if (a->dtype && (i = cli_choice("--dtype", a->dtype, 3, names, e)) < 0) return -1;
    a->sweep.type = types[i];
    a->sweep.batch = a->n_batches ? a->batches[0] : 0;
    int rc = record(&p, e);
    if (rc == 0) tell_sweep(&p);
    if (rc == 0) rc = compare_ops(&p, e);
    tape_close(p.tape);
    return rc;
}
