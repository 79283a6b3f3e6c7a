/* oracle.h: what the kernel tests share: two CPU tables in one rig, tensors with guarded gaps, and error budgets.
 *
 * Each test computes what an op should give by plain loops in double, written from op.h alone, together with a bound
 * for each element: |got - want| <= u_out |want| + C_ACC u_acc sum|a||b|, carried through the epilogue. Both tables,
 * the reference and the default one, are held to it; the reference, which sums in f64, far inside. The largest share
 * of the budget that a case used is printed.
 */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include "kernels/cpu/cpu.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef RIG_CUDA /* the same tests with the CUDA table in the place of the default one: tests/cuda/ */
#include "tests/cuda/rig_cuda.h"
#endif

#define UNUSED __attribute__((unused))

static const double u_acc = 0x1p-24; /* f32 sums */
#ifdef RIG_CUDA
enum { C_ACC = 32, C_FN = 16, CANARY = 0x5a }; /* tensor cores cut where they add; the device's exp, tanh, erf */
#else
enum { C_ACC = 8, C_FN = 8, CANARY = 0x5a };
#endif

/* Unit roundoff of a type. */
UNUSED static double u_of(int t) { return t == DL_F32 ? 0x1p-24 : t == DL_F16 ? 0x1p-11 : 0x1p-8; }

/* Value and bound. */
struct val {
    double v, e;
};

enum { REFERENCE, DEFAULT, TABLES };

struct rig {
    const struct dl_backend *be[TABLES];
    struct dl_ctx *ctx[TABLES];
    struct dl_wset set;
#ifndef RIG_CUDA
    void *mem[4096];
    int n_mem;
#endif
    uint64_t seed;
    const char *variant; /* of the latest run */
};

static struct rig rig;

UNUSED static int rig_open(void **state)
{
    (void)state;
    struct dl_err e = {0};
    rig.seed = 1;
#ifdef RIG_CUDA
    rig_cuda_open(&rig.be[DEFAULT], &rig.ctx[DEFAULT]);
    return cpu_open(&rig.be[REFERENCE], &rig.ctx[REFERENCE],
                    &(struct dl_cpu_opts){.threads = 2, .reference_only = true}, &e);
#endif
    for (int i = 0; i < TABLES; i++) {
        struct dl_cpu_opts o = {.threads = 2, .reference_only = i == REFERENCE};
        if (cpu_open(&rig.be[i], &rig.ctx[i], &o, &e) < 0) return -1;
    }
    if (!rig.be[DEFAULT]->supports(rig.ctx[DEFAULT], DL_BF16))
        print_message("skipped: bf16 primitives, absent on this machine; bf16 cases run on what stands in for them\n");
    return 0;
}

/* Frees tensors and weights of one test. */
UNUSED static int rig_clear(void **state)
{
    (void)state;
    dl_wset_close(&rig.set);
#ifdef RIG_CUDA
    rig_cuda_clear();
#else
    for (int i = 0; i < rig.n_mem; i++) free(rig.mem[i]);
    rig.n_mem = 0;
#endif
    return 0;
}

UNUSED static int rig_close(void **state)
{
    rig_clear(state);
    for (int i = 0; i < TABLES; i++) rig.be[i]->close(rig.ctx[i]);
    return 0;
}

/* Memory that every table can compute in. */
UNUSED static void *t_mem(int64_t bytes)
{
#ifdef RIG_CUDA
    return memset(rig_cuda_mem(bytes + 127), CANARY, (size_t)(bytes + 127) & ~(size_t)63);
#else
    assert_true(rig.n_mem < (int)(sizeof rig.mem / sizeof rig.mem[0]));
    void *p = aligned_alloc(64, (size_t)(bytes + 127) & ~(size_t)63);
    assert_non_null(p);
    memset(p, CANARY, (size_t)(bytes + 127) & ~(size_t)63);
    return rig.mem[rig.n_mem++] = p;
#endif
}

UNUSED static void *t_copy(const void *from, int64_t bytes) { return memcpy(t_mem(bytes), from, (size_t)bytes); }

/* `bytes` of one value in memory of the backend's; that they have it still. */
UNUSED static void t_fill(int table, void *at, int value, int64_t bytes)
{
    void *p = malloc((size_t)bytes + 1);
    assert_non_null(p);
    memset(p, value, (size_t)bytes);
    assert_int_equal(rig.be[table]->upload(rig.ctx[table], at, p, bytes, NULL), 0);
    free(p);
}

UNUSED static void t_filled(int table, const void *at, int value, int64_t bytes)
{
    uint8_t *p = malloc((size_t)bytes + 1);
    assert_non_null(p);
    assert_int_equal(rig.be[table]->download(rig.ctx[table], p, at, bytes, NULL), 0);
    for (int64_t i = 0; i < bytes; i++) assert_int_equal(p[i], value);
    free(p);
}

/* Uniform in [-1, 1). */
UNUSED static double t_rnd(void)
{
    rig.seed = rig.seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(rig.seed >> 11) * 0x1p-52 - 1;
}

/* [n][h][w][c] with `pad` unused elements after each pixel and 3 * pad after each row, all bytes canaries. */
UNUSED static dl_act t_act(int t, int n, int h, int w, int c, int pad)
{
    dl_act a = dl_act_at(NULL, t, n, h, w, c);
    a.ld = c + pad;
    a.rs = (int64_t)h * w * a.ld + 3 * pad;
    a.p = t_mem(a.rs * n * dl_type_bytes(t));
    return a;
}

UNUSED static int64_t t_index(dl_act a, int64_t i, int64_t pix, int64_t c) { return i * a.rs + pix * a.ld + c; }

UNUSED static double t_at(dl_act a, int64_t i, int64_t pix, int64_t c)
{
    return (double)dl_load(a.p, a.t, t_index(a, i, pix, c));
}

UNUSED static dl_act t_random(dl_act a, double mean, double amp)
{
    for (int64_t i = 0; i < a.n; i++)
        for (int64_t p = 0; p < (int64_t)a.h * a.w; p++)
            for (int64_t c = 0; c < a.c; c++) dl_store(a.p, a.t, t_index(a, i, p, c), (float)(mean + amp * t_rnd()));
    return a;
}

/* No byte between the elements was written. */
UNUSED static void t_gaps_ok(dl_act a)
{
    int64_t size = dl_type_bytes(a.t);
    const uint8_t *p = a.p;
    for (int64_t i = 0; i < a.n; i++) {
        for (int64_t q = 0; q < (int64_t)a.h * a.w; q++)
            for (int64_t b = a.c * size; b < a.ld * size; b++)
                assert_int_equal(p[t_index(a, i, q, 0) * size + b], CANARY);
        for (int64_t b = t_index(a, i, (int64_t)a.h * a.w, 0) * size; b < (i + 1) * a.rs * size; b++)
            assert_int_equal(p[b], CANARY);
    }
}

/* A vector [n][c] for each of `steps` steps, step-major. */
UNUSED static dl_vec t_vec(int t, int steps, int n, int c, double mean, double amp)
{
    dl_act a = t_random(t_act(t, steps * n, 1, 1, c, 0), mean, amp);
    return (dl_vec){.p = a.p, .rs = n > 1 ? c : 0, .ss = steps > 1 ? (int64_t)n * c : 0, .t = (uint8_t)t};
}

UNUSED static double t_vec_at(dl_vec v, int step, int64_t i, int64_t c)
{
    return (double)dl_load(v.p, v.t, step * v.ss + i * v.rs + c);
}

UNUSED static dl_vec t_vec_row(dl_vec v, int64_t i)
{
    if (v.p) v.p = (const uint8_t *)v.p + i * v.rs * dl_type_bytes(v.t);
    return v;
}

UNUSED static dl_act t_row(dl_act a, int i) { return a.p ? dl_act_rows(a, i, 1) : a; }

/* A bound weight of random values, in one part or (dim[0] divisible) several. */
UNUSED static struct dl_w *t_w(int t, int parts, double mean, double amp, int nd, const int64_t *dim)
{
    struct dl_w *w = t_mem(sizeof *w);
    *w = (struct dl_w){.nd = nd, .n_parts = parts};
    memcpy(w->dim, dim, (size_t)nd * sizeof *dim);
    int64_t each = dl_w_count(w) / parts;
    for (int i = 0; i < parts; i++) {
        void *p = t_mem(each * dl_type_bytes(t));
        for (int64_t j = 0; j < each; j++) dl_store(p, t, j, (float)(mean + amp * t_rnd()));
        w->part[i] = (struct dl_wpart){.file = p, .rows = dim[0] / parts, .t = (uint8_t)t};
    }
    assert_int_equal(dl_wset_add(&rig.set, w, "test.weight", NULL), 0);
    return w;
}

UNUSED static struct dl_w *t_w1(int t, int64_t c, double mean, double amp)
{
    return t_w(t, 1, mean, amp, 1, (int64_t[]){c});
}

/* Element of a weight as a run of type t sees it. */
UNUSED static double t_w_at(const struct dl_w *w, int64_t index, int t)
{
    int64_t each = dl_w_count(w) / w->n_parts;
    float v = dl_load(w->part[index / each].file, w->part[index / each].t, index % each);
    dl_store(&v, t, 0, v);
    return (double)dl_load(&v, t, 0);
}

/* Dry run, load, real run in exactly as much memory as the dry run asked for, poisoned before. */
UNUSED static void rig_run(int table, int type, int step, void (*op)(struct dl_run *, void *), void *arg)
{
    struct dl_run r;
    struct dl_err e = {0};
    void *mem;
    dl_run_open(&r, rig.be[table], rig.ctx[table], type);
    r.step = step;
    op(&r, arg);
    if (dl_run_check(&r, &e) < 0) fail_msg("dry: %s", e.msg);
    int64_t peak = r.arena.peak_bytes;
    if (dl_run_load(&r, &rig.set, &e) < 0) fail_msg("load: %s", e.msg);
    assert_int_equal(r.be->alloc(r.ctx, peak + DL_ALIGN, &mem, &e), 0);
    t_fill(table, mem, 0xff, peak);
    t_fill(table, (uint8_t *)mem + peak, CANARY, DL_ALIGN);
    dl_run_bind(&r, mem, peak);
    op(&r, arg);
    if (dl_run_check(&r, &e) < 0) fail_msg("run: %s", e.msg);
    if (r.be->sync(r.ctx, &e) < 0) fail_msg("run (%s): %s", r.variant, e.msg);
    assert_int_equal(r.arena.peak_bytes, peak);
    t_filled(table, (uint8_t *)mem + peak, CANARY, DL_ALIGN);
    rig.variant = r.variant;
    dl_wset_forget(&rig.set); /* another table makes forms of its own */
    r.be->free(r.ctx, mem);
    dl_run_close(&r);
}

/* What an output should be: [n][pixel][c], one value and bound each, filled by the test's plain loops. */
UNUSED static struct val *t_want(dl_act y)
{
    return t_mem((int64_t)y.n * y.h * y.w * y.c * (int64_t)sizeof(struct val));
}

/* `want` holds the sum's or value's bound without the last rounding, which y's type adds. */
UNUSED static void t_compare(const char *name, int table, dl_act y, const struct val *want)
{
    double worst = 0;
    const struct val *w = want;
    for (int64_t i = 0; i < y.n; i++)
        for (int64_t p = 0; p < (int64_t)y.h * y.w; p++)
            for (int64_t c = 0; c < y.c; c++, w++) {
                double got = t_at(y, i, p, c);
                double bound = w->e * (1 + u_of(y.t)) + u_of(y.t) * fabs(w->v) + (y.t == DL_F16 ? 0x1p-25 : 0x1p-140);
                double share = fabs(got - w->v) / bound;
                if (!(share <= 1))
                    fail_msg("%s (%s %s): row %d pixel %d channel %d is %.9g, not %.9g: %.0f %% of its budget", name,
                             table == REFERENCE ? "reference" : "default", rig.variant, (int)i, (int)p, (int)c, got,
                             w->v, 100 * share);
                if (share > worst) worst = share;
            }
    t_gaps_ok(y);
    print_message("%-44s %-9s %-24s %5.1f %% of budget\n", name, table == REFERENCE ? "reference" : "default",
                  rig.variant, 100 * worst);
}

/* Row i of y is bit for bit the one row of `alone`. On CUDA another batch or pitch may mean another algorithm. */
UNUSED static void t_same_row(const char *name, dl_act y, int64_t i, dl_act alone)
{
#ifdef RIG_CUDA
    if (strcmp(rig.variant, "reference")) return;
#endif
    for (int64_t p = 0; p < (int64_t)y.h * y.w; p++) {
        size_t size = (size_t)dl_type_bytes(y.t);
        const uint8_t *a = (const uint8_t *)y.p + (size_t)t_index(y, i, p, 0) * size;
        const uint8_t *b = (const uint8_t *)alone.p + (size_t)t_index(alone, 0, p, 0) * size;
        if (memcmp(a, b, (size_t)y.c * size))
            fail_msg("%s (%s): pixel %d of row %d differs from the row alone", name, rig.variant, (int)p, (int)i);
    }
}

/* enum dl_fn on a value with its bound: slopes are at most 1.13. */
UNUSED static struct val t_fn(int fn, struct val x)
{
    double v = x.v;
    if (fn == DL_SILU) v = x.v / (1 + exp(-x.v));
    if (fn == DL_GELU) v = x.v * 0.5 * erfc(-x.v / sqrt(2));
    if (fn == DL_GELU_TANH) v = x.v * 0.5 * (1 + tanh(sqrt(2 / M_PI) * (x.v + 0.044715 * pow(x.v, 3))));
    if (fn == DL_QUICK_GELU) v = x.v / (1 + exp(-1.702 * x.v));
    return fn == DL_NONE ? x : (struct val){v, 1.13 * x.e + C_FN * u_acc * fabs(x.v)};
}

/* The epilogue in op.h's order. s2: the second half's sum with glu. */
UNUSED static struct val t_epi(const struct dl_epi *e, int t, int step, dl_act y, struct val s, struct val s2,
                               int64_t i, int64_t pix, int64_t o)
{
    if (e->bias) {
        double b = t_w_at(e->bias, o, t);
        s.v += b, s.e += u_acc * (fabs(s.v) + fabs(b));
        if (e->glu) {
            b = t_w_at(e->bias, y.c + o, t);
            s2.v += b, s2.e += u_acc * (fabs(s2.v) + fabs(b));
        }
    }
    if (e->glu) {
        struct val f = t_fn(e->fn, s2);
        s = (struct val){s.v * f.v, s.e * fabs(f.v) + f.e * fabs(s.v) + s.e * f.e + u_acc * fabs(s.v * f.v)};
    } else {
        s = t_fn(e->fn, s);
    }
    if (e->add.p) s.v += t_vec_at(e->add, step, i, o), s.e += u_acc * fabs(s.v);
    if (e->gate.p) {
        double g = t_vec_at(e->gate, step, i, o);
        s.v *= g, s.e = s.e * fabs(g) + u_acc * fabs(s.v);
    }
    if (e->res.p) s.v += t_at(e->res, i, pix, o), s.e += u_acc * fabs(s.v);
    if (e->scale != 0) s.v *= (double)e->scale, s.e = s.e * fabs((double)e->scale) + u_acc * fabs(s.v);
    return s;
}

/* What a case's epilogue has. */
enum { BIAS = 1, GLU = 2, ADD = 4, GATE = 8, RES = 16, SCALE = 32, STEPS = 64 };

UNUSED static struct dl_epi t_epi_make(int parts, int fn, int t, dl_act y, int pad)
{
    struct dl_epi e = {.fn = (uint8_t)fn, .glu = parts & GLU};
    int steps = parts & STEPS ? 3 : 1;
    if (parts & BIAS) e.bias = t_w1(t, y.c * (parts & GLU ? 2 : 1), 0, 1);
    if (parts & ADD) e.add = t_vec(t, steps, y.n, y.c, 0, 1);
    if (parts & GATE) e.gate = t_vec(DL_F32, steps, y.n, y.c, 0.5, 1);
    if (parts & RES) e.res = t_random(t_act(y.t, y.n, y.h, y.w, y.c, pad), 0, 2);
    if (parts & SCALE) e.scale = 0.70710678f;
    return e;
}

UNUSED static struct dl_epi t_epi_row(struct dl_epi e, int i)
{
    e.add = t_vec_row(e.add, i), e.gate = t_vec_row(e.gate, i), e.res = t_row(e.res, i);
    return e;
}

/* A group norm's statistics of what an op has just written, with parts where the backend makes them. */
struct t_normed {
    int groups; /* 0: none is wanted */
    dl_act got; /* f32 [n][1][1][2 groups] */
};

UNUSED static struct t_normed t_normed_make(int groups, int n)
{
    return (struct t_normed){groups, t_act(DL_F32, n, 1, 1, 2 * groups, 0)};
}

UNUSED static void t_normed_call(struct dl_run *r, const struct t_normed *k, dl_act y)
{
    const char *variant = r->variant; /* the op's stays the latest */
    struct dl_stat s = dl_op_gnorm(r, (struct dl_gnorm){.x = y, .groups = k->groups, .eps = 1e-5f});
    dl_act at = dl_act_at((void *)(uintptr_t)s.mean_rstd, DL_F32, y.n, 1, 1, 2 * k->groups);
    dl_op_copy(r, (struct dl_copy){.x = at, .y = k->got});
    r->variant = variant;
}

/* They are those of y as it is stored. */
UNUSED static void t_normed_ok(const char *name, const struct t_normed *k, dl_act y)
{
    const int64_t size = y.c / k->groups, count = (int64_t)y.h * y.w * size;
    for (int64_t i = 0; i < y.n; i++)
        for (int64_t g = 0; g < k->groups; g++) {
            double mean = 0, var = 0, big = 0;
            for (int64_t q = 0; q < count; q++) {
                double v = t_at(y, i, q / size, g * size + q % size);
                mean += v / (double)count, big += fabs(v) / (double)count;
            }
            for (int64_t q = 0; q < count; q++)
                var += pow(t_at(y, i, q / size, g * size + q % size) - mean, 2) / (double)count;
            double rstd = 1 / sqrt(var + 1e-5), got = t_at(k->got, i, 0, 2 * g);
            double got_rstd = t_at(k->got, i, 0, 2 * g + 1);
            if (!(fabs(got - mean) <= C_ACC * u_acc * big) || !(fabs(got_rstd - rstd) <= 1e-4 * rstd))
                fail_msg("%s (%s): group %d of row %d has mean %.9g and 1 / deviation %.9g, not %.9g and %.9g", name,
                         rig.variant, (int)g, (int)i, got, got_rstd, mean, rstd);
        }
}

#endif
