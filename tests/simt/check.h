/* check.h: what the tests of the portable kernels share: tensors in the shim's guarded memory, error budgets as in
 * tests/kernels/oracle.h, and a launch that must leave no report. The want of every element is computed by plain loops
 * in double, written from engine/op.h alone.
 */
#ifndef TESTS_SIMT_CHECK_H
#define TESTS_SIMT_CHECK_H

#include "kernels/cuda/kernels.h"
#include "tests/simt/simt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

extern "C" {
#include <cmocka.h>
}

#define UNUSED __attribute__((unused))

static const double u_acc = 0x1p-24;
enum { C_ACC = 8, C_FN = 8 };

struct val {
    double v, e;
};

UNUSED static double u_of(int t) { return t == DL_F32 ? 0x1p-24 : t == DL_F16 ? 0x1p-11 : 0x1p-8; }

static uint64_t t_state = 7;

/* Uniform in [-1, 1). */
UNUSED static double t_rnd(void)
{
    t_state = t_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(t_state >> 11) * 0x1p-52 - 1;
}

UNUSED static int t_clear(void **)
{
    simt_free_all();
    return 0;
}

/* [n][h][w][c] with `pad` elements after each pixel and 3 pad after each row; the memory ends with the last element. */
UNUSED static dl_act t_act(int t, int n, int h, int w, int c, int pad)
{
    dl_act a = dl_act_at(NULL, t, n, h, w, c);
    a.ld = c + pad;
    a.rs = (int64_t)h * w * a.ld + 3 * pad;
    a.p = simt_alloc(dl_act_bytes(a));
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

/* All its elements NaN, as simt_alloc leaves memory. */
UNUSED static void t_poison(dl_act a)
{
    for (int64_t i = 0; i < a.n; i++)
        for (int64_t p = 0; p < (int64_t)a.h * a.w; p++)
            memset((uint8_t *)a.p + t_index(a, i, p, 0) * dl_type_bytes(a.t), 0xff, (size_t)(a.c * dl_type_bytes(a.t)));
}

/* What lies between the elements is as simt_alloc left it. */
UNUSED static void t_gaps_ok(dl_act a)
{
    int64_t size = dl_type_bytes(a.t), end = dl_act_bytes(a);
    std::vector<uint8_t> mine((size_t)end, 0);
    for (int64_t i = 0; i < a.n; i++)
        for (int64_t p = 0; p < (int64_t)a.h * a.w; p++)
            memset(mine.data() + t_index(a, i, p, 0) * size, 1, (size_t)(a.c * size));
    for (int64_t b = 0; b < end; b++)
        if (!mine[(size_t)b]) assert_int_equal(((uint8_t *)a.p)[b], 0xff);
}

UNUSED static dl_vec t_vec(int t, int steps, int n, int c, double mean, double amp)
{
    dl_act a = t_random(t_act(t, steps * n, 1, 1, c, 0), mean, amp);
    dl_vec v = {a.p, n > 1 ? c : 0, steps > 1 ? (int64_t)n * c : 0, (uint8_t)t};
    return v;
}

UNUSED static double t_vec_at(dl_vec v, int step, int64_t i, int64_t c)
{
    return (double)dl_load(v.p, v.t, step * v.ss + i * v.rs + c);
}

UNUSED static const float *t_floats(int64_t n, double mean, double amp)
{
    float *p = (float *)simt_alloc(n * 4);
    for (int64_t i = 0; i < n; i++) p[i] = (float)(mean + amp * t_rnd());
    return p;
}

UNUSED static const int32_t *t_ints(std::vector<int32_t> v)
{
    int32_t *p = (int32_t *)simt_alloc((int64_t)v.size() * 4);
    memcpy(p, v.data(), v.size() * 4);
    return p;
}

/* The launch went through without a report. */
UNUSED static void t_ran(const char *name, int result)
{
    if (result || simt_report()[0]) fail_msg("%s: result %d: %s", name, result, simt_report());
}

/* want [n][pixel][c]: value and bound, without the last rounding, which y's type adds. */
UNUSED static void t_compare(const char *name, const char *kernel, dl_act y, const std::vector<val> &want)
{
    double worst = 0;
    size_t k = 0;
    for (int64_t i = 0; i < y.n; i++)
        for (int64_t p = 0; p < (int64_t)y.h * y.w; p++)
            for (int64_t c = 0; c < y.c; c++, k++) {
                const val &w = want[k];
                double got = t_at(y, i, p, c);
                double bound = w.e * (1 + u_of(y.t)) + u_of(y.t) * fabs(w.v) + (y.t == DL_F16 ? 0x1p-25 : 0x1p-140);
                double share = fabs(got - w.v) / bound;
                if (!(share <= 1))
                    fail_msg("%s: row %d pixel %d channel %d is %.9g, not %.9g: %.0f %% of its budget", name, (int)i,
                             (int)p, (int)c, got, w.v, 100 * share);
                if (share > worst) worst = share;
            }
    t_gaps_ok(y);
    print_message("%-40s %-26s %5.1f %% of budget\n", name, kernel, 100 * worst);
}

/* With room for parts, whose memory ends with the last channel's. */
UNUSED static dl_act t_parts(dl_act a)
{
    a.parts = (float *)simt_alloc(dl_parts_bytes(a));
    return a;
}

/* What pixels of a set lie at in their image, of set `set`. */
typedef void (*t_set)(const void *user, int set, int pixel[DL_PART_PIXELS]);

/* y's parts are those of its values, of these sets. */
UNUSED static void t_sets_ok(const char *name, dl_act y, t_set pixels_of, const void *user)
{
    const int sets = y.h * y.w / DL_PART_PIXELS;
    std::vector<int> times((size_t)(y.h * y.w), 0);
    for (int64_t i = 0; i < (int64_t)y.n * sets; i++)
        for (int64_t c = 0; c < y.c; c++) {
            double v[DL_PART_PIXELS], mean = 0, big = 0, about = 0, m2 = 0;
            int set = (int)(i % sets), pixel[DL_PART_PIXELS];
            pixels_of(user, set, pixel);
            for (int k = 0; k < DL_PART_PIXELS; k++) {
                if (i < sets && c == 0) assert_int_equal(times.at((size_t)pixel[k])++, 0);
                v[k] = t_at(y, i / sets, pixel[k], c);
                mean += v[k] / DL_PART_PIXELS, big += fabs(v[k]) / DL_PART_PIXELS, about += pow(v[k] - v[0], 2);
            }
            for (int k = 0; k < DL_PART_PIXELS; k++) m2 += pow(v[k] - mean, 2);
            const float *got = y.parts + (i * y.ld + c) * 2;
            double bound = C_ACC * u_acc * (about + m2) + DL_PART_PIXELS * pow(C_ACC * u_acc * big, 2);
            if (!(fabs((double)got[0] - mean) <= C_ACC * u_acc * big) || !(fabs((double)got[1] - m2) <= bound))
                fail_msg("%s: set %d of row %d, channel %d has mean %.9g and deviations %.9g, not %.9g and %.9g", name,
                         set, (int)(i / sets), (int)c, (double)got[0], (double)got[1], mean, m2);
        }
    const uint8_t *at = (const uint8_t *)y.parts; /* what lies between is as simt_alloc left it */
    for (int64_t b = 0; b < dl_parts_bytes(y); b++)
        if (b / 8 % y.ld >= y.c) assert_int_equal(at[b], 0xff);
}

UNUSED static void t_in_a_row(const void *, int set, int pixel[DL_PART_PIXELS])
{
    for (int k = 0; k < DL_PART_PIXELS; k++) pixel[k] = set * DL_PART_PIXELS + k;
}

UNUSED static void t_box_4x8(const void *y, int set, int pixel[DL_PART_PIXELS])
{
    int w = ((const dl_act *)y)->w, across = w / 8;
    for (int k = 0; k < DL_PART_PIXELS; k++) pixel[k] = (set / across * 4 + k / 8) * w + set % across * 8 + k % 8;
}

/* Pixels of a set: 32 in a row; `boxes`: 4 x 8. */
UNUSED static void t_parts_ok(const char *name, dl_act y, bool boxes)
{
    t_sets_ok(name, y, boxes ? t_box_4x8 : t_in_a_row, &y);
}

/* enum dl_fn on a value with its bound: slopes are at most 1.13. */
UNUSED static val t_fn(int fn, val x)
{
    double v = x.v;
    if (fn == DL_SILU) v = x.v / (1 + exp(-x.v));
    if (fn == DL_GELU) v = x.v * 0.5 * erfc(-x.v / sqrt(2));
    if (fn == DL_GELU_TANH) v = x.v * 0.5 * (1 + tanh(sqrt(2 / M_PI) * (x.v + 0.044715 * pow(x.v, 3))));
    if (fn == DL_QUICK_GELU) v = x.v / (1 + exp(-1.702 * x.v));
    val r = {v, 1.13 * x.e + C_FN * u_acc * fabs(x.v)};
    return fn == DL_NONE ? x : r;
}

/* What follows a product's sums s (and s2, the second half's, with glu), in struct dl_epi's order: a is a struct
 * cuda_igemm_args or cuda_epi_args, res what its residual was before. */
template <class A>
UNUSED static val t_finished(const A &a, dl_act res, int step, val s, val s2, int64_t i, int64_t p, int64_t o)
{
    if (a.bias) {
        s.v += (double)a.bias[o], s.e += u_acc * (fabs(s.v) + fabs((double)a.bias[o]));
        if (a.glu) s2.v += (double)a.bias[a.y.c + o], s2.e += u_acc * (fabs(s2.v) + fabs((double)a.bias[a.y.c + o]));
    }
    if (a.glu) {
        val f = t_fn(a.fn, s2);
        s = {s.v * f.v, s.e * fabs(f.v) + f.e * fabs(s.v) + s.e * f.e + u_acc * fabs(s.v * f.v)};
    } else {
        s = t_fn(a.fn, s);
    }
    if (a.add.p) s.v += t_vec_at(a.add, step, i, o), s.e += u_acc * fabs(s.v);
    if (a.gate.p) {
        double g = t_vec_at(a.gate, step, i, o);
        s.v *= g, s.e = s.e * fabs(g) + u_acc * fabs(s.v);
    }
    if (res.p) s.v += t_at(res, i, p, o), s.e += u_acc * fabs(s.v);
    if (a.scale != 0) s.v *= (double)a.scale, s.e = s.e * fabs((double)a.scale) + u_acc * fabs(s.v);
    return s;
}

#endif
