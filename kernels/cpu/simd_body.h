/* simd_body.h: source of simd.h's loops, included by one file per instruction set, which defines
 *
 *   VW                     floats in a vector
 *   vf, vi                 vectors of VW floats, of VW int32
 *   v_load v_store v_set1 v_fma v_max v_min    on vf
 *   v_load_part(p, m) v_store_part(p, v, m)    the first m < VW floats
 *   v_hmax(v) v_hsum(v)    over the lanes, in a fixed order
 *   v_even(v) v_odd(v) v_swap(v)    each pair's first lane in both, its second in both, the two exchanged
 *   v_fmaddsub(a, b, c)    a * b - c in even lanes, a * b + c in odd ones
 *   v_scale(p, t, x)       p * 2^n with n in the low bits of t (as v_exp2 makes it); 0 for x < -126
 *   v_from_bf16(p) v_from_f16(p) v_to_bf16(p, v) v_to_f16(p, v)
 *   MR, SIMD_TABLE, SIMD_NAME
 *
 * A tile is MR x 2 vectors: with 12 x 2 of AVX-512 or 6 x 2 of AVX2 all sums stay in registers, and every vector of b
 * that is loaded serves MR fused multiply-adds.
 */
#include "engine/op.h"
#include "engine/type.h"
#include "kernels/cpu/simd.h"

#include <math.h>
#include <string.h>

#define NR (2 * VW)

/* The tile's loops must unroll, or its sums would not stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

static void tile(int64_t k, const float *a, int64_t lda, const float *b, float *c, int64_t ldc, bool add)
{
    vf s[MR][2];
    const float *q[MR / 3]; /* x86 addresses base + {0, 1, 2} lda in one instruction */
    UNROLL
    for (int r = 0; r < MR; r++) {
        s[r][0] = add ? v_load(c + r * ldc) : v_set1(0);
        s[r][1] = add ? v_load(c + r * ldc + VW) : v_set1(0);
    }
    UNROLL
    for (int r = 0; r < MR / 3; r++) q[r] = a + 3 * r * lda;
    for (; k > 0; k--, b += NR) {
        vf b0 = v_load(b), b1 = v_load(b + VW);
        UNROLL
        for (int r = 0; r < MR; r++) {
            vf x = v_set1(q[r / 3][(r % 3) * lda]);
            s[r][0] = v_fma(x, b0, s[r][0]);
            s[r][1] = v_fma(x, b1, s[r][1]);
        }
        UNROLL
        for (int r = 0; r < MR / 3; r++) q[r]++;
    }
    UNROLL
    for (int r = 0; r < MR; r++) {
        v_store(c + r * ldc, s[r][0]);
        v_store(c + r * ldc + VW, s[r][1]);
    }
}

static void tile1(int64_t k, const float *a, int64_t lda, const float *b, float *c, int64_t ldc, bool add)
{
    vf s[MR];
    const float *q[MR / 3];
    UNROLL
    for (int r = 0; r < MR; r++) s[r] = add ? v_load(c + r * ldc) : v_set1(0);
    UNROLL
    for (int r = 0; r < MR / 3; r++) q[r] = a + 3 * r * lda;
    for (; k > 0; k--, b += NR) {
        vf b0 = v_load(b);
        UNROLL
        for (int r = 0; r < MR; r++) s[r] = v_fma(v_set1(q[r / 3][(r % 3) * lda]), b0, s[r]);
        UNROLL
        for (int r = 0; r < MR / 3; r++) q[r]++;
    }
    UNROLL
    for (int r = 0; r < MR; r++) v_store(c + r * ldc, s[r]);
}

/* exp(x), relative error below 2^-22 in [-87.3, 88.3]; clamped outside (Cody-Waite reduction, Taylor's polynomial of
 * degree 7 on |r| <= ln 2 / 2: truncation 6e-9 of the value). */
static inline vf v_exp(vf x)
{
    x = v_min(v_max(x, v_set1(-87.3f)), v_set1(88.3f));
    vf magic = v_set1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    vf t = v_fma(x, v_set1(1.44269504f), magic), n = t - magic;
    vf r = v_fma(n, v_set1(-0.693359375f), x);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    vf p = v_set1(1.0f / 5040);
    p = v_fma(p, r, v_set1(1.0f / 720));
    p = v_fma(p, r, v_set1(1.0f / 120));
    p = v_fma(p, r, v_set1(1.0f / 24));
    p = v_fma(p, r, v_set1(1.0f / 6));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    return (vf)((vi)p + ((vi)t << 23));
}

/* 0.5 erfc(|x| / sqrt 2), relative error about 2e-7 (Press et al., Numerical Recipes, erfcc). */
static inline vf v_upper(vf x)
{
    vf z = v_max(x, -x) * v_set1(0.70710678f), t = v_set1(1) / v_fma(z, v_set1(0.5f), v_set1(1));
    static const float c[] = {0.17087277f,  -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f,
                              -0.18628806f, 0.09678418f,  0.37409196f, 1.00002368f,  -1.26551223f};
    vf p = v_set1(c[0]);
    for (int i = 1; i < 10; i++) p = v_fma(p, t, v_set1(c[i]));
    return v_set1(0.5f) * t * v_exp(p - z * z);
}

static inline vf v_fn(vf x, int fn)
{
    vf one = v_set1(1), z;
    switch (fn) {
    case DL_SILU: return x / (one + v_exp(-x));
    case DL_QUICK_GELU: return x / (one + v_exp(v_set1(-1.702f) * x));
    case DL_GELU_TANH: /* 0.5 (1 + tanh u) = sigmoid(2 u) */
        z = v_set1(-1.59576912f) * v_fma(x * x * x, v_set1(0.044715f), x);
        return x / (one + v_exp(z));
    case DL_GELU: { /* x Phi(x): the upper tail is the small one, so for x > 0 it is subtracted from 1 */
        vf u = v_upper(x);
        vi neg = x < v_set1(0);
        return x * (vf)(((vi)u & neg) | ((vi)(one - u) & ~neg));
    }
    default: return x;
    }
}

static inline vf load_t(const void *p, int t, int64_t i)
{
    if (t == DL_F32) return v_load((const float *)p + i);
    if (t == DL_BF16) return v_from_bf16((const uint16_t *)p + i);
    return v_from_f16((const uint16_t *)p + i);
}

static inline void store_t(void *p, int t, int64_t i, vf v)
{
    if (t == DL_F32)
        v_store((float *)p + i, v);
    else if (t == DL_BF16)
        v_to_bf16((uint16_t *)p + i, v);
    else
        v_to_f16((uint16_t *)p + i, v);
}

/* The first m < VW elements; the rest reads as zero and is not written. */
static inline vf load_part(const void *p, int t, int64_t i, int64_t m)
{
    if (t == DL_F32) return v_load_part((const float *)p + i, m);
    uint16_t tmp[VW] = {0};
    memcpy(tmp, (const uint16_t *)p + i, (size_t)m * 2);
    return load_t(tmp, t, 0);
}

static inline void store_part(void *p, int t, int64_t i, vf v, int64_t m)
{
    if (t == DL_F32) {
        v_store_part((float *)p + i, v, m);
        return;
    }
    uint16_t tmp[VW];
    store_t(tmp, t, 0, v);
    memcpy((uint16_t *)p + i, tmp, (size_t)m * 2);
}

#define LOAD(p, t, i, m) ((m) >= VW ? load_t(p, t, i) : load_part(p, t, i, m))
#define STORE(p, t, i, v, m) ((m) >= VW ? store_t(p, t, i, v) : store_part(p, t, i, v, m))

static void line(const struct simd_line *l)
{
    for (int64_t i = 0; i < l->n; i += VW) {
        int64_t m = l->n - i, at = i / NR * l->cs + i % NR;
        vf v = v_load(l->c + at);
        if (l->bias) v += LOAD(l->bias, DL_F32, i, m);
        if (l->c2) {
            vf g = v_load(l->c2 + at);
            if (l->bias2) g += LOAD(l->bias2, DL_F32, i, m);
            v *= v_fn(g, l->fn);
        } else if (l->fn) {
            v = v_fn(v, l->fn);
        }
        if (l->add) v += LOAD(l->add, l->add_t, i, m);
        if (l->gate) v *= LOAD(l->gate, l->gate_t, i, m);
        if (l->res) v += LOAD(l->res, l->res_t, i, m);
        if (l->scale != 1) v *= v_set1(l->scale);
        STORE(l->y, l->y_t, i, v, m);
    }
}

static void affine(void *y, int y_t, const void *x, int x_t, const float *a, const float *b, int64_t n, int fn)
{
    for (int64_t i = 0; i < n; i += VW) {
        int64_t m = n - i;
        vf v = LOAD(x, x_t, i, m);
        if (a) v = v_fma(v, LOAD(a, DL_F32, i, m), LOAD(b, DL_F32, i, m));
        v = v_fn(v, fn);
        STORE(y, y_t, i, v, m);
    }
}

static void linear(void *y, int y_t, const void *x, int x_t, float a, const void *z, int z_t, float b, int64_t n,
                   int fn)
{
    for (int64_t i = 0; i < n; i += VW) {
        int64_t m = n - i;
        vf w = v_set1(b);
        if (z) w *= LOAD(z, z_t, i, m);
        vf v = v_fn(LOAD(x, x_t, i, m) * v_set1(a) + w, fn);
        STORE(y, y_t, i, v, m);
    }
}

static void moments(float *s, float *q, const void *x, int x_t, const float *pivot, int64_t n)
{
    for (int64_t i = 0; i < n; i += VW) {
        int64_t m = n - i;
        vf d = LOAD(x, x_t, i, m) - LOAD(pivot, DL_F32, i, m);
        vf u = LOAD(s, DL_F32, i, m) + d, w = v_fma(d, d, LOAD(q, DL_F32, i, m));
        STORE(s, DL_F32, i, u, m);
        STORE(q, DL_F32, i, w, m);
    }
}

/* Sum of x - mean, or of its square, in f64 at the end: [n] elements in vector lanes. */
static double row_sum(const void *x, int x_t, int64_t n, float mean, bool square)
{
    vf s = v_set1(0), mu = v_set1(mean);
    float lane[VW];
    double sum = 0;
    int64_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf d = load_t(x, x_t, i) - mu;
        s = square ? v_fma(d, d, s) : (vf)(s + d);
    }
    v_store(lane, s);
    for (int j = 0; j < VW; j++) sum += (double)lane[j];
    if (i < n) {
        v_store(lane, load_part(x, x_t, i, n - i) - mu);
        for (int64_t j = 0; j < n - i; j++) sum += square ? (double)lane[j] * (double)lane[j] : (double)lane[j];
    }
    return sum;
}

static void lnorm(void *y, int y_t, const void *x, int x_t, const float *g, const float *b, int64_t n, float eps,
                  bool rms)
{
    float mean = rms ? 0 : (float)(row_sum(x, x_t, n, 0, false) / (double)n);
    vf rstd = v_set1((float)(1 / sqrt(row_sum(x, x_t, n, mean, true) / (double)n + (double)eps))), mu = v_set1(mean);
    for (int64_t i = 0; i < n; i += VW) {
        int64_t m = n - i;
        vf v = v_fma((LOAD(x, x_t, i, m) - mu) * rstd, LOAD(g, DL_F32, i, m), LOAD(b, DL_F32, i, m));
        STORE(y, y_t, i, v, m);
    }
}

static void rope(void *y, int y_t, const void *x, int x_t, const float *g, const float *turn, int64_t n, float eps)
{
    vf rstd = v_set1(g ? (float)(1 / sqrt(row_sum(x, x_t, n, 0, true) / (double)n + (double)eps)) : 1);
    for (int64_t i = 0; i < n; i += VW) {
        int64_t m = n - i;
        vf v = LOAD(x, x_t, i, m);
        if (g) v = v * rstd * LOAD(g, DL_F32, i, m);
        if (turn) {
            vf t = LOAD(turn, DL_F32, i, m);
            v = v_fmaddsub(v, v_even(t), v_swap(v) * v_odd(t));
        }
        STORE(y, y_t, i, v, m);
    }
}

/* 2^x for x <= 0, relative error below 2e-7 (minimax polynomial of degree 5 on |f| <= 1/2); exactly 0 below -126. */
static inline vf v_exp2(vf x)
{
    vf magic = v_set1(12582912.0f), t, f, p;
    x = v_max(x, v_set1(-150.0f));
    t = x + magic;
    f = x - (t - magic);
    p = v_fma(v_set1(1.327647129e-3f), f, v_set1(9.675540961e-3f));
    p = v_fma(p, f, v_set1(5.550713092e-2f));
    p = v_fma(p, f, v_set1(2.402212024e-1f));
    p = v_fma(p, f, v_set1(6.931469440e-1f));
    p = v_fma(p, f, v_set1(1.0f));
    return v_scale(p, t, x);
}

static float exp2_row(float *s, int64_t n, float max)
{
    vf t0 = v_set1(0), t1 = v_set1(0), mx = v_set1(max);
    for (int64_t i = 0; i < n; i += NR) {
        vf e0 = v_exp2(v_load(s + i) - mx), e1 = v_exp2(v_load(s + i + VW) - mx);
        v_store(s + i, e0);
        v_store(s + i + VW, e1);
        t0 += e0, t1 += e1;
    }
    return v_hsum(t0 + t1);
}

static float max_row(const float *s, int64_t n)
{
    vf t = v_load(s);
    for (int64_t i = VW; i < n; i += VW) t = v_max(t, v_load(s + i));
    return v_hmax(t);
}

static float scale_max_row(float *s, int64_t n, float a)
{
    vf t = v_set1(-INFINITY);
    for (int64_t i = 0; i < n; i += VW) {
        vf x = v_load(s + i) * v_set1(a);
        v_store(s + i, x);
        t = v_max(t, x);
    }
    return v_hmax(t);
}

static float exp2_bf16_row(uint16_t *p, const float *s, int64_t n, float max)
{
    vf t = v_set1(0), mx = v_set1(max);
    for (int64_t i = 0; i < n; i += VW) {
        vf e = v_exp2(v_load(s + i) - mx);
        v_to_bf16(p + i, e);
        t += e;
    }
    return v_hsum(t);
}

/* Winograd F(4x4, 3x3) on the points 0, +-p, +-q, infinity with p = 5/8, q = 3/2; A = p^2, B = q^2. */
#define WP 0.625f
#define WQ 1.5f
#define WA (WP * WP)
#define WB (WQ * WQ)

static inline void wino_w1(const vf g[3], vf o[6])
{
    const float fp = 1 / (2 * WA * (WA - WB)), fq = 1 / (2 * WB * (WB - WA));
    vf ep = v_fma(g[2], v_set1(WA * fp), g[0] * v_set1(fp)), op = g[1] * v_set1(WP * fp);
    vf eq = v_fma(g[2], v_set1(WB * fq), g[0] * v_set1(fq)), oq = g[1] * v_set1(WQ * fq);
    o[0] = g[0] * v_set1(1 / (WA * WB));
    o[1] = ep + op;
    o[2] = ep - op;
    o[3] = eq + oq;
    o[4] = eq - oq;
    o[5] = g[2];
}

static void wino_w(const float *w, int64_t tap, int64_t kc, float *u, int64_t ps)
{
    for (int64_t k = 0; k < kc; k++)
        for (int v = 0; v < NR; v += VW) {
            const float *src = w + k * NR + v;
            float *dst = u + k * NR + v;
            vf t[3][6]; /* [column][row of the result] */
            UNROLL
            for (int x = 0; x < 3; x++) {
                vf g[3] = {v_load(src + x * tap), v_load(src + (3 + x) * tap), v_load(src + (6 + x) * tap)};
                wino_w1(g, t[x]);
            }
            UNROLL
            for (int y = 0; y < 6; y++) {
                vf g[3] = {t[0][y], t[1][y], t[2][y]}, o[6];
                wino_w1(g, o);
                UNROLL
                for (int x = 0; x < 6; x++) v_store(dst + (y * 6 + x) * ps, o[x]);
            }
        }
}

static inline void wino_in1(const vf d[6], vf o[6])
{
    vf mab = v_set1(-(WA + WB)), ab = v_set1(WA * WB);
    vf ep = v_fma(d[2], v_set1(-WB), d[4]), op = v_set1(WP) * v_fma(d[1], v_set1(-WB), d[3]);
    vf eq = v_fma(d[2], v_set1(-WA), d[4]), oq = v_set1(WQ) * v_fma(d[1], v_set1(-WA), d[3]);
    o[0] = v_fma(d[0], ab, v_fma(d[2], mab, d[4]));
    o[1] = ep + op;
    o[2] = ep - op;
    o[3] = eq + oq;
    o[4] = eq - oq;
    o[5] = v_fma(d[1], ab, v_fma(d[3], mab, d[5]));
}

static void wino_in(const float *const x[WINO_POS], int64_t from, int64_t kc, float *v, int64_t ps)
{
    for (int64_t k = 0; k < kc; k += VW) {
        vf t[6][6]; /* [column][row] */
        UNROLL
        for (int j = 0; j < 6; j++) {
            vf d[6];
            UNROLL
            for (int i = 0; i < 6; i++) d[i] = v_load(x[i * 6 + j] + from + k);
            wino_in1(d, t[j]);
        }
        UNROLL
        for (int i = 0; i < 6; i++) {
            vf d[6], o[6];
            UNROLL
            for (int j = 0; j < 6; j++) d[j] = t[j][i];
            wino_in1(d, o);
            UNROLL
            for (int j = 0; j < 6; j++) v_store(v + (i * 6 + j) * ps + k, o[j]);
        }
    }
}

static inline void wino_out1(const vf m[6], vf o[4])
{
    vf s1 = m[1] + m[2], d1 = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
    o[0] = m[0] + s1 + s2;
    o[1] = v_fma(d2, v_set1(WQ), d1 * v_set1(WP));
    o[2] = v_fma(s2, v_set1(WB), s1 * v_set1(WA));
    o[3] = v_fma(d2, v_set1(WQ * WB), v_fma(d1, v_set1(WP * WA), m[5]));
}

static void wino_out(const float *m, int64_t ps, float *o)
{
    for (int v = 0; v < NR; v += VW) {
        vf t[6][4]; /* [column][row] */
        UNROLL
        for (int j = 0; j < 6; j++) {
            vf d[6];
            UNROLL
            for (int i = 0; i < 6; i++) d[i] = v_load(m + (i * 6 + j) * ps + v);
            wino_out1(d, t[j]);
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            vf d[6], r[4];
            UNROLL
            for (int j = 0; j < 6; j++) d[j] = t[j][i];
            wino_out1(d, r);
            UNROLL
            for (int j = 0; j < 4; j++) v_store(o + (i * 4 + j) * NR + v, r[j]);
        }
    }
}

const struct simd SIMD_TABLE = {
    .name = SIMD_NAME,
    .mr = MR,
    .nr = NR,
    .vw = VW,
    .tile = tile,
    .tile1 = tile1,
    .line = line,
    .affine = affine,
    .linear = linear,
    .moments = moments,
    .lnorm = lnorm,
    .rope = rope,
    .exp2_row = exp2_row,
    .max_row = max_row,
    .scale_max_row = scale_max_row,
    .exp2_bf16_row = exp2_bf16_row,
    .wino_w = wino_w,
    .wino_in = wino_in,
    .wino_out = wino_out,
};
