/* dlens bench kernels: every distinct op of a step, alone. */
#include "kernels/cpu/cpu.h"
#include "tools/bench.h"
#include "tools/bench/check.h"
#include "tools/bench/library.h"
#include "tools/bench/roofline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One way to compute an op. */
struct way {
    struct timing t;
    char variant[48];
    double share; /* of the error budget; NAN: not checked */
};

struct result {
    const struct tape_case *k;
    struct way best; /* the one that the backend chooses; with --ways the fastest */
    json_t *ways;    /* all of them, with --ways; owned */
    struct library_time library;
    double roof_us; /* least time by the measured roof */
};

struct kernels {
    struct cli *cli;
    const struct bench_args *args;
    struct bench_device dev;
    const struct dl_backend *ref;
    struct dl_ctx *ref_ctx;
    struct roof roof;
    int64_t cache_bytes;
    struct result *r; /* [n] */
    int n, wrong;
};

/* The model's programs, on paper. */
static int record(struct cli *c, struct bench_args *a, bool gpu, struct tape **t, struct dl_err *e)
{
    struct bench_model m = {0};
    struct pipe_plan plan;
    int rc = -1;
    if (tape_open(t, INT64_MAX / 4, e) < 0) return -1;
    if (bench_model_open(&m, &a->source, a->sweep.type, (*t)->be, (*t)->ctx, e) < 0 ||
        bench_sweep_complete(m.pipe, &a->sweep, e) < 0)
        goto out;
    int64_t rows = a->rows ? a->rows : gpu ? 24 : 2;
    bool guided = pipe_guided(m.pipe, (float)a->sweep.guidance) && rows % 2 == 0;
    if (!guided) a->sweep.guidance = fmin(a->sweep.guidance, 1);
    a->sweep.layers = a->sweep.batch = (int)(guided ? rows / 2 : rows);
    rc = bench_record(*t, &m, &a->sweep, &plan, e);
    if (rc < 0) goto out;
    bench_tell(c, a, &m, &plan);
    struct tape_sum s = tape_sum_of(*t, TAPE_STEP);
    json_object_set_new(c->result, "rows", json_integer(rows));
    json_object_set_new(c->result, "step_ops", json_integer(s.ops));
out:
    bench_model_close(&m);
    return rc;
}

static double work_of(const struct tape_case *k) { return k->count * ((double)k->flops + (double)k->bytes * 8); }

static int by_work(const void *a, const void *b)
{
    double x = work_of(((const struct result *)a)->k), y = work_of(((const struct result *)b)->k);
    return (x < y) - (x > y);
}

static bool wanted(const struct bench_args *a, const struct tape_case *k)
{
    char line[240];
    if (k->phase >= 32 || !(a->phases >> k->phase & 1)) return false;
    if (!a->filter) return true;
    snprintf(line, sizeof line, "%s %s", op_name(k->kind), k->shape);
    return strstr(line, a->filter) != NULL;
}

static double per_s(double work, const struct way *w) { return work / w->t.median_us * 1e6; }

/* The table's first column where more than one phase is in it. */
static void print_phase(const struct bench_args *a, const char *phase)
{
    if (a->phases & (a->phases - 1)) printf("%-10s ", phase);
}

static void print_head(const struct bench_args *a, bool measured)
{
    print_phase(a, "phase");
    if (measured)
        printf("%5s %-11s %-50s %-24s %10s %10s %9s %8s %6s %6s %6s\n", "count", "op", "shape", "variant", "us median",
               "us min", "GFLOP/s", "GB/s", "% roof", "x lib", "% err");
    else
        printf("%5s %-11s %-50s %12s %12s\n", "count", "op", "shape", "MFLOP", "MB");
}

static void print_row(const struct bench_args *a, const struct result *r, const struct way *w)
{
    const struct tape_case *k = r->k;
    char lib[16] = "-", err[16] = "-";
    if (r->library.name) snprintf(lib, sizeof lib, "%.2f", r->library.t.median_us / w->t.median_us);
    if (w->share == w->share) snprintf(err, sizeof err, "%.0f", 100 * w->share);
    print_phase(a, tape_phase_name(k->phase));
    printf("%5d %-11s %-50s %-24.24s %10.1f %10.1f %9.1f %8.1f %6.1f %6s %6s\n", k->count, op_name(k->kind), k->shape,
           w->variant, w->t.median_us, w->t.min_us, per_s((double)k->flops, w) * 1e-9,
           per_s((double)k->bytes, w) * 1e-9, 100 * r->roof_us / w->t.median_us, lib, err);
    fflush(stdout);
}

/* The check sees the inputs as they were made. */
static int check_one(struct kernels *b, struct case_run *run, struct way *w, struct dl_err *e)
{
    struct check ch;
    if (run->be->upload(run->ctx, run->set[0].mem, run->image, run->set_bytes, e) < 0) return -1;
    if (case_once(run, 0, e) < 0 || run->be->sync(run->ctx, e) < 0) return -1;
    if (check_case(run, b->ref, b->ref_ctx, &ch, e) < 0) return -1;
    w->share = ch.share;
    if (ch.share <= 1) return 0;
    b->wrong++;
    cli_warn(b->cli, "%s %s (%s): %.9g where the reference gives %.9g, %.0f %% of its error budget",
             op_name(run->k->kind), run->k->shape, run->variant, ch.got, ch.want, 100 * ch.share);
    return 0;
}

static int measure_way(struct kernels *b, struct case_run *run, struct way *w, struct dl_err *e)
{
    *w = (struct way){.share = NAN};
    if (b->args->check && check_one(b, run, w, e) < 0) return -1;
    if (clock_case(run, (int)b->args->repeat, &w->t, e) < 0) return -1;
    snprintf(w->variant, sizeof w->variant, "%s", run->variant ? run->variant : "");
    return 0;
}

static json_t *json_of_way(const struct way *w)
{
    json_t *o = json_pack("{s:s, s:f, s:f, s:i}", "variant", w->variant, "us", w->t.median_us, "us_min", w->t.min_us,
                          "repeats", w->t.repeats);
    if (w->share == w->share)
        json_object_set_new(o, "budget_percent", json_real(isfinite(w->share) ? 100 * w->share : 1e9));
    return o;
}

/* Every way in turn, until one comes again: the last serves for all that follow. */
static int measure_ways(struct kernels *b, struct case_run *run, struct result *r, struct dl_err *e)
{
    const struct dl_backend *be = b->dev.be;
    struct way w, before = {0};
    int rc = 0;
    r->ways = json_array();
    for (int n = 1; rc == 0; n++, before = w) {
        be->way(b->dev.ctx, n);
        if (n > 1 && (rc = case_once(run, 0, e)) == 0 && !strcmp(run->variant, before.variant)) break;
        if (rc == 0) rc = measure_way(b, run, &w, e);
        if (rc < 0) break;
        json_array_append_new(r->ways, json_of_way(&w));
        if (n == 1 || w.t.median_us < r->best.t.median_us) r->best = w;
        if (!b->cli->json) print_row(b->args, r, &w);
    }
    be->way(b->dev.ctx, 0);
    return rc;
}

static int measure(struct kernels *b, struct result *r, struct dl_err *e)
{
    struct case_run run = {0};
    int rc = library_case(r->k, b->dev.be, b->dev.ctx, b->cli->threads, (int)b->args->repeat, &r->library, e);
    if (rc == 0) rc = roof_measure(&b->roof, r->k->run_t, b->dev.be, b->dev.ctx, b->cli->threads, e);
    double flops = b->roof.flops[r->k->run_t], bytes = b->roof.bytes;
    if (rc == 0) r->roof_us = fmax((double)r->k->flops / flops, (double)r->k->bytes / bytes) * 1e6;
    if (rc < 0) return -1;
    int sets = case_sets_for(r->k, 3 * b->cache_bytes);
    if (case_open(&run, r->k, b->dev.be, b->dev.ctx, sets, CASE_SIGNED, e) < 0) return -1;
    rc = b->args->ways ? measure_ways(b, &run, r, e) : measure_way(b, &run, &r->best, e);
    case_close(&run);
    if (rc == 0 && !b->args->ways && !b->cli->json) print_row(b->args, r, &r->best);
    return rc;
}

static json_t *json_of_result(const struct result *r)
{
    const struct tape_case *k = r->k;
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:I, s:I}", "op", op_name(k->kind), "shape", k->shape, "phase",
                          tape_phase_name(k->phase), "dtype", dl_type_name(k->run_t), "count", k->count, "flops",
                          (json_int_t)k->flops, "bytes", (json_int_t)k->bytes);
    const struct way *w = &r->best;
    if (!w->t.repeats) return o;
    json_t *how = json_of_way(w);
    json_object_update(o, how);
    json_decref(how);
    if (r->ways) json_object_set(o, "ways", r->ways);
    json_object_set_new(o, "gflop_per_s", json_real(per_s((double)k->flops, w) * 1e-9));
    json_object_set_new(o, "gb_per_s", json_real(per_s((double)k->bytes, w) * 1e-9));
    json_object_set_new(o, "roofline_percent", json_real(100 * r->roof_us / w->t.median_us));
    if (r->library.name) {
        json_object_set_new(o, "library", json_string(r->library.name));
        json_object_set_new(o, "library_us", json_real(r->library.t.median_us));
        json_object_set_new(o, "times_library", json_real(r->library.t.median_us / w->t.median_us));
    }
    return o;
}

/* Time by kind of op, weighted by the counts. */
static void sum_up(struct kernels *b)
{
    double us[OP_KINDS] = {0}, roof[OP_KINDS] = {0}, all = 0, all_roof = 0;
    json_t *kinds = json_array();
    for (int i = 0; i < b->n; i++) {
        us[b->r[i].k->kind] += b->r[i].k->count * b->r[i].best.t.median_us;
        roof[b->r[i].k->kind] += b->r[i].k->count * b->r[i].roof_us;
    }
    for (int k = 0; k < OP_KINDS; k++) all += us[k], all_roof += roof[k];
    for (int k = 0; k < OP_KINDS; k++) {
        if (us[k] == 0) continue;
        if (!b->cli->json)
            printf("%-11s %10.2f ms  %5.1f %% of the time, %5.1f %% of the roofline\n", op_name((enum op_kind)k),
                   us[k] * 1e-3, 100 * us[k] / all, 100 * roof[k] / us[k]);
        json_array_append_new(kinds, json_pack("{s:s, s:f, s:f}", "op", op_name((enum op_kind)k), "ms", us[k] * 1e-3,
                                               "roofline_ms", roof[k] * 1e-3));
    }
    if (!b->cli->json && all > 0)
        printf("%-11s %10.2f ms, at the roofline %.2f ms\n", "sum", all * 1e-3, all_roof * 1e-3);
    json_object_set_new(b->cli->result, "kinds", kinds);
    json_object_set_new(b->cli->result, "sum_ms", json_real(all * 1e-3));
    json_object_set_new(b->cli->result, "roofline_ms", json_real(all_roof * 1e-3));
}

static int plot(const struct kernels *b, struct dl_err *e)
{
    char title[300], dev[200];
    const char *group[OP_KINDS];
    double all = 0;
    struct roofline_point *p = calloc((size_t)b->n + 1, sizeof *p);
    if (!p) return dl_fail(e, DL_ENOMEM, "no memory for a picture");
    for (int i = 0; i < b->n; i++) all += b->r[i].k->count * b->r[i].best.t.median_us;
    for (int i = 0; i < b->n; i++) {
        const struct result *r = &b->r[i];
        /* Ops without products have bytes alone: each counts one operation per byte moved. */
        double flops = r->k->flops ? (double)r->k->flops : (double)r->k->bytes;
        int kind = r->k->kind == OP_GEMM ? 0 : r->k->kind == OP_CONV ? 1 : r->k->kind == OP_ATTN ? 2 : 3;
        p[i] = (struct roofline_point){flops / (double)r->k->bytes, flops / r->best.t.median_us * 1e6,
                                       r->k->count * r->best.t.median_us / all, kind};
    }
    group[0] = "gemm", group[1] = "conv", group[2] = "attn", group[3] = "others (1 op/byte)";
    snprintf(title, sizeof title, "%.60s, %s: %s", b->args->source.like ? b->args->source.like : b->args->source.dir,
             dl_type_name(b->args->sweep.type), bench_device_text(b->cli, &b->dev, dev));
    struct roofline r = {.title = title,
                         .peak_flops = b->roof.flops[b->args->sweep.type],
                         .peak_bytes = b->roof.bytes,
                         .point = p,
                         .n = b->n,
                         .group = group,
                         .n_groups = 4};
    int rc = roofline_draw(b->args->plot, &r, e);
    free(p);
    return rc;
}

static void tell_roof(struct kernels *b)
{
    json_t *rates = json_object();
    for (int t = 0; t < DL_NTYPES; t++) {
        if (b->roof.flops[t] <= 0) continue;
        json_object_set_new(rates, dl_type_name(t), json_real(b->roof.flops[t] * 1e-9));
        if (!b->cli->json)
            printf("roof: %.1f GFLOP/s in %s (large product), %.1f GB/s (large copy, read + written)\n",
                   b->roof.flops[t] * 1e-9, dl_type_name(t), b->roof.bytes * 1e-9);
    }
    json_object_set_new(b->cli->result, "roof",
                        json_pack("{s:o, s:f}", "gflop_per_s", rates, "gb_per_s", b->roof.bytes * 1e-9));
}

static int measure_all(struct kernels *b, struct dl_err *e)
{
    const volatile sig_atomic_t *stop = cli_catch_interrupt();
    char dev[200];
    json_t *ops = json_array();
    json_object_set_new(b->cli->result, "device", json_string(bench_device_text(b->cli, &b->dev, dev)));
    json_object_set_new(b->cli->result, "ops", ops);
    if (!b->cli->json) {
        printf("%s; working set above %lld MiB\n", dev, (long long)(3 * b->cache_bytes >> 20));
        print_head(b->args, true);
    }
    for (int i = 0; i < b->n; i++) {
        if (*stop) return dl_fail(e, DL_EINTERRUPT, "interrupted");
        if (measure(b, &b->r[i], e) < 0) return -1;
        json_array_append_new(ops, json_of_result(&b->r[i]));
    }
    tell_roof(b);
    sum_up(b);
    return b->args->plot ? plot(b, e) : 0;
}

static void list_all(struct kernels *b)
{
    json_t *ops = json_array();
    if (!b->cli->json) print_head(b->args, false);
    for (int i = 0; i < b->n; i++) {
        const struct tape_case *k = b->r[i].k;
        if (!b->cli->json) {
            print_phase(b->args, tape_phase_name(k->phase));
            printf("%5d %-11s %-50s %12.3f %12.3f\n", k->count, op_name(k->kind), k->shape, (double)k->flops * 1e-6,
                   (double)k->bytes * 1e-6);
        }
        json_array_append_new(ops, json_of_result(&b->r[i]));
    }
    json_object_set_new(b->cli->result, "ops", ops);
}

int bench_kernels(struct cli *c, struct bench_args *a, struct dl_err *e)
{
    struct kernels b = {.cli = c, .args = a};
    struct tape *t = NULL;
    int rc = -1;
    if (bench_device_open(c, a, &b.dev, e) < 0) goto out;
    if (a->ways && !b.dev.be->way) {
        dl_fail(e, DL_EUSAGE, "--ways: on this device there is one way to compute an op; it is for GPUs");
        goto out;
    }
    if (record(c, a, !strcmp(b.dev.be->name, "cuda"), &t, e) < 0) goto out;
    if (!(b.r = calloc((size_t)t->n + 1, sizeof *b.r))) {
        dl_fail(e, DL_ENOMEM, "no memory for results");
        goto out;
    }
    for (int i = 0; i < t->n; i++)
        if (wanted(a, &t->c[i])) b.r[b.n++].k = &t->c[i];
    if (!b.n) {
        dl_fail(e, DL_EUSAGE, "--filter %s: no op has this in its kind or shape; --dry-run lists them",
                a->filter ? a->filter : "");
        goto out;
    }
    qsort(b.r, (size_t)b.n, sizeof *b.r, by_work);
    b.cache_bytes = clock_cache_bytes(b.dev.be, b.dev.ctx);
    if (c->dry_run) {
        list_all(&b);
        rc = 0;
        goto out;
    }
    if (a->check &&
        cpu_open(&b.ref, &b.ref_ctx, &(struct dl_cpu_opts){.threads = c->threads, .reference_only = true}, e) < 0)
        goto out;
    rc = measure_all(&b, e);
    json_object_set_new(c->result, "outside_budget", json_integer(b.wrong));
    if (rc == 0 && b.wrong) {
        if (c->json) json_dumpf(c->result, stdout, JSON_COMPACT | JSON_SORT_KEYS), putchar('\n');
        rc = dl_fail(e, DL_EFAIL, "%d of %d ops are outside their error budget", b.wrong, b.n);
    }
out:
    if (b.ref) b.ref->close(b.ref_ctx);
    for (int i = 0; i < b.n; i++) json_decref(b.r[i].ways);
    free(b.r);
    tape_close(t);
    bench_device_close(&b.dev);
    return rc;
}
