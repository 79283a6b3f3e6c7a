/* dlens bench model: one step as a whole, with weights that are real or made up. */
#include "tools/bench_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Time by kind of op in the logged step; ms of all together. */
static double tell_kinds(struct bench *b)
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
    return all;
}

/* ---- gaps ---- */

static void print_top(const struct gaps *g)
{
    printf("%10s %7s %6s  %s\n", "ms", "% busy", "count", "kernel");
    for (int i = 0; i < g->n_top; i++)
        printf("%10.3f %7.1f %6d  %s\n", (double)g->top[i].ns * 1e-6,
               100 * (double)g->top[i].ns / (double)(g->busy_ns ? g->busy_ns : 1), g->top[i].count, g->top[i].name);
}

static json_t *json_of_gaps(const struct gaps *g, int steps)
{
    json_t *top = json_array();
    for (int i = 0; i < g->n_top; i++)
        json_array_append_new(top, json_pack("{s:o, s:i, s:f}", "name", cli_string(g->top[i].name), "count",
                                             g->top[i].count, "ms", (double)g->top[i].ns * 1e-6));
    return json_pack("{s:b, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:i, s:I, s:o}", "measured", 1, "source", "cupti",
                     "steps", steps, "span_ms", (double)g->span_ns * 1e-6, "busy_ms", (double)g->busy_ns * 1e-6,
                     "gap_ms", (double)g->gap_ns * 1e-6, "gap_percent",
                     100 * (double)g->gap_ns / (double)(g->span_ns ? g->span_ns : 1), "largest_gap_us",
                     (double)g->largest_ns * 1e-3, "gaps_above_1us", g->n_gaps, "kernels", (json_int_t)g->kernels,
                     "top", top);
}

static int by_span(const void *a, const void *b)
{
    const struct gaps *x = a, *y = b;
    return (x->span_ns > y->span_ns) - (x->span_ns < y->span_ns);
}

/* Replays under a trace. -1 with the reason where nothing could be measured. */
static int trace_steps(struct bench *b, struct dl_err *e)
{
    int unlike = bench_unlike(b), steps = unlike + BENCH_WATCHED;
    if (b->plan.evaluations <= unlike)
        return dl_fail(e, DL_EFAIL, "it takes %d evaluations; give more --steps", unlike + 1);
    if (watch_open(&b->watch, b->dev.be, b->dev.ctx, e) < 0) return -1;
    bench_forget_recording(b); /* the trace must see it made */
    b->watch_from = unlike, b->n_gaps = 0;
    int rc = bench_denoise(b, b->plan.batch, 0, steps < b->plan.evaluations ? steps : 0, e);
    bench_forget_recording(b);
    watch_close(b->watch);
    b->watch = NULL;
    if (rc == 0 && b->watch_err.code) rc = dl_fail(e, b->watch_err.code, "%s", b->watch_err.msg);
    return rc;
}

/* Of a device that runs beside the host; an interrupted trace ends the benchmark, a failed one does not. */
static int tell_device_gaps(struct bench *b, struct dl_err *e)
{
    struct dl_err why = {0};
    if (trace_steps(b, &why) < 0) {
        if (why.code == DL_EINTERRUPT) return dl_fail(e, why.code, "%s", why.msg);
        if (!b->cli->json) printf("gaps between kernels: not measured (%s)\n", why.msg);
        json_object_set_new(b->cli->result, "gaps",
                            json_pack("{s:b, s:o}", "measured", 0, "why", cli_string(why.msg)));
        return 0;
    }
    qsort(b->gaps, (size_t)b->n_gaps, sizeof b->gaps[0], by_span);
    const struct gaps *g = &b->gaps[b->n_gaps / 2];
    json_object_set_new(b->cli->result, "gaps", json_of_gaps(g, b->n_gaps));
    if (b->cli->json) return 0;
    printf("on the device, under a trace: %.2f ms, busy %.2f ms, gaps %.2f ms (%.1f %%); kernels: %lld, gaps above "
           "1 us: %d, the largest: %.1f us\n",
           (double)g->span_ns * 1e-6, (double)g->busy_ns * 1e-6, (double)g->gap_ns * 1e-6,
           100 * (double)g->gap_ns / (double)(g->span_ns ? g->span_ns : 1), (long long)g->kernels, g->n_gaps,
           (double)g->largest_ns * 1e-3);
    print_top(g);
    return 0;
}

/* Of ops that are done when they return: what their step took beside them. */
static void tell_host_gaps(struct bench *b, double ops_ms)
{
    double step = b->step_us[b->log_step - 1] * 1e-3, gap = step - ops_ms;
    json_object_set_new(b->cli->result, "gaps",
                        json_pack("{s:b, s:s, s:f, s:f, s:f}", "measured", 1, "source", "log of ops", "span_ms", step,
                                  "gap_ms", gap, "gap_percent", 100 * gap / step));
    if (!b->cli->json) printf("between ops: %.2f ms (%.1f %% of their step of %.2f ms)\n", gap, 100 * gap / step, step);
}

/* ---- the step ---- */

/* Steps that stand for all others: without the first, which shares work, and the one that was logged. */
static struct timing steady(struct bench *b)
{
    int to = b->log_step && b->n_step > 2 ? b->n_step - 1 : b->n_step, from = b->n_step > 1;
    return timing_of(b->step_us + from, to - from);
}

static void tell_step(struct bench *b, const struct timing *t)
{
    const struct bench_sweep *s = &b->args->sweep;
    const struct pipe *p = b->m.pipe;
    struct cli *c = b->cli;
    char text[200], w[32], m[32];
    double flops = (double)b->plan.step_flops, per_s = b->plan.batch / t->median_us * 1e6;
    bench_tell(c, b->args, &b->m, &b->plan);
    json_object_set_new(c->result, "device", json_string(bench_device_text(c, &b->dev, text)));
    json_object_set_new(c->result, "step_ms", json_real(t->median_us * 1e-3));
    json_object_set_new(c->result, "step_ms_min", json_real(t->min_us * 1e-3));
    json_object_set_new(c->result, "steps_timed", json_integer(t->repeats));
    json_object_set_new(c->result, "image_steps_per_s", json_real(per_s));
    json_object_set_new(c->result, "gflop_per_s", json_real(flops / t->median_us * 1e-3));
    json_object_set_new(c->result, "peak_rss_bytes", json_integer(cli_peak_rss()));
    if (c->json) return;
    printf("%s, %dx%d, %s, %d image%s a batch, on %s\n", p->title, s->width, s->height, dl_type_name(s->type),
           b->plan.batch, b->plan.batch > 1 ? "s" : "", text);
    printf("a step: median %.2f ms, least %.2f ms of %d; %.1f GFLOP, %.1f GFLOP/s\n", t->median_us * 1e-3,
           t->min_us * 1e-3, t->repeats, flops * 1e-9, flops / t->median_us * 1e-3);
    printf("images: %.4f a second with the model's own %d step%s, denoising alone\n", per_s / p->def.steps,
           p->def.steps, p->def.steps > 1 ? "s" : "");
    printf("memory: weights %s, working %s\n", cli_bytes(w, b->plan.denoiser_bytes + b->plan.vae_bytes),
           cli_bytes(m, b->plan.keep_bytes + b->plan.work_bytes));
}

/* On a device that records, an op of the step alone takes longer than within it: the log is a run of its own. */
static int measure(struct bench *b, struct dl_err *e)
{
    bool records = b->dev.be->record_begin;
    int n = b->plan.batch, all = b->plan.evaluations;
    b->log_step = records ? 0 : all;
    if (bench_warm_up(b, n, e) < 0 || bench_denoise(b, n, 0, 0, e) < 0) return -1;
    struct timing t = steady(b);
    tell_step(b, &t);
    if (records) {
        b->log_step = all > 1 ? 2 : 1;
        if (bench_denoise(b, n, 0, b->log_step < all ? b->log_step : 0, e) < 0) return -1;
    }
    double ops_ms = tell_kinds(b);
    if (!records) return tell_host_gaps(b, ops_ms), 0;
    b->log_step = 0;
    return tell_device_gaps(b, e);
}

int bench_model(struct cli *c, struct bench_args *a, struct dl_err *e)
{
    struct bench b = {.cli = c, .args = a};
    int rc = -1;
    if (bench_open(&b, a->n_batches ? a->batches[0] : 1, e) == 0 && bench_condition(&b, e) == 0) rc = measure(&b, e);
    bench_close(&b);
    return rc;
}
