/* rng_mt.c: torch's CPU generator.
 *
 * The float path rests on the vector functions that torch's AVX2 kernel uses (Cephes single precision, multiply-adds
 * fused). Each operation below is one correctly rounded float operation, so that the bits are the same wherever this
 * runs: on x86 the function exists twice, with FMA instructions for processors that have them, and with the C library's
 * fmaf, slower and equal.
 */
#include "engine/rng.h"

#include <math.h>
#include <string.h>

enum { MT_N = 624, MT_M = 397, BLOCK = 16, HALF = BLOCK / 2 };

void rng_mt_seed(struct dl_rng *r)
{
    r->mt[0] = (uint32_t)r->seed;
    for (uint32_t i = 1; i < MT_N; i++) r->mt[i] = 1812433253u * (r->mt[i - 1] ^ (r->mt[i - 1] >> 30)) + i;
    r->mt_next = MT_N;
    r->has_cached = false;
}

static uint32_t twist(uint32_t hi, uint32_t lo, uint32_t far)
{
    uint32_t y = (hi & 0x80000000u) | (lo & 0x7fffffffu);
    return far ^ (y >> 1) ^ ((lo & 1) ? 0x9908b0dfu : 0);
}

static void refill(struct dl_rng *r)
{
    uint32_t *m = r->mt;
    int k = 0;
    for (; k < MT_N - MT_M; k++) m[k] = twist(m[k], m[k + 1], m[k + MT_M]);
    for (; k < MT_N - 1; k++) m[k] = twist(m[k], m[k + 1], m[k + MT_M - MT_N]);
    m[k] = twist(m[k], m[0], m[MT_M - 1]);
    r->mt_next = 0;
}

static uint32_t draw_u32(struct dl_rng *r)
{
    if (r->mt_next == MT_N) refill(r);
    uint32_t y = r->mt[r->mt_next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static double draw_double(struct dl_rng *r)
{
    uint64_t hi = draw_u32(r), lo = draw_u32(r);
    return (double)(((hi << 32) | lo) & ((1ull << 53) - 1)) * 0x1p-53;
}

/* x[n] = uniforms in [0, 1) of 24 bits */
static void draw_uniforms(struct dl_rng *r, float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(draw_u32(r) & 0xffffffu) * 0x1p-24f;
}

/* sqrt(-2 ln u) for u in [2^-24, 1]: u = m * 2^e with m in [sqrt(1/2), sqrt 2), then Cephes' polynomial in m - 1. */
static inline __attribute__((always_inline)) float radius(float u)
{
    uint32_t bits;
    memcpy(&bits, &u, 4);
    int32_t e = (int32_t)(bits >> 23) - 126;
    bits = (bits & 0x007fffffu) | 0x3f000000u;
    float m;
    memcpy(&m, &bits, 4);
    bool low = m < 0.707106781186547524f;
    float x = (m - 1.0f) + (low ? m : 0.0f), fe = (float)(low ? e - 1 : e), z = x * x;
    float y = 7.0376836292e-2f;
    y = fmaf(y, x, -1.1514610310e-1f);
    y = fmaf(y, x, 1.1676998740e-1f);
    y = fmaf(y, x, -1.2420140846e-1f);
    y = fmaf(y, x, 1.4249322787e-1f);
    y = fmaf(y, x, -1.6668057665e-1f);
    y = fmaf(y, x, 2.0000714765e-1f);
    y = fmaf(y, x, -2.4999993993e-1f);
    y = fmaf(y, x, 3.3333331174e-1f);
    y = y * x;
    y = fmaf(y, z, fe * -2.12194440e-4f);
    y = fmaf(-z, 0.5f, y);
    return sqrtf(-2.0f * fmaf(fe, 0.693359375f, x + y));
}

/* Sine and cosine of th in [0, 2 pi): the octant, the angle left in it, and Cephes' two polynomials. */
static inline __attribute__((always_inline)) void sine_cosine(float th, float *sine, float *cosine)
{
    int32_t j = ((int32_t)(th * 1.27323954473516f) + 1) & ~1;
    float fj = (float)j, x = fmaf(fj, -0.78515625f, th);
    x = fmaf(fj, -2.4187564849853515625e-4f, x);
    x = fmaf(fj, -3.77489497744594108e-8f, x);
    float z = x * x;
    float c = 2.443315711809948e-5f;
    c = fmaf(c, z, -1.388731625493765e-3f);
    c = fmaf(c, z, 4.166664568298827e-2f);
    c = c * z;
    c = fmaf(c, z, -(z * 0.5f));
    c = c + 1.0f;
    float s = -1.9515295891e-4f;
    s = fmaf(s, z, 8.3321608736e-3f);
    s = fmaf(s, z, -1.6666654611e-1f);
    s = fmaf(s * z, x, x);
    float a = (j & 2) ? c : s, b = (j & 2) ? s : c;
    *sine = (j & 4) ? -a : a;
    *cosine = ((j - 2) & 4) ? b : -b;
}

static inline __attribute__((always_inline)) void transform_body(float *x, int64_t blocks)
{
    for (int64_t i = 0; i < blocks; i++, x += BLOCK) {
        for (int j = 0; j < HALF; j++) {
            float s, c, r = radius(1.0f - x[j]);
            sine_cosine(6.283185307179586f * x[j + HALF], &s, &c);
            x[j] = r * c;
            x[j + HALF] = r * s;
        }
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void transform_fma(float *x, int64_t blocks) { transform_body(x, blocks); }
#endif

/* x[blocks][16]: uniforms in, normals out */
static void transform(float *x, int64_t blocks)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        transform_fma(x, blocks);
        return;
    }
#endif
    transform_body(x, blocks);
}

static double draw_one(struct dl_rng *r)
{
    if (r->has_cached) {
        r->has_cached = false;
        return r->cached;
    }
    double u1 = draw_double(r), u2 = draw_double(r);
    double radius2 = sqrt(-2.0 * log1p(-u2)), th = 2.0 * 3.14159265358979323846 * u1;
    r->cached = radius2 * sin(th);
    r->has_cached = true;
    return radius2 * cos(th);
}

void rng_mt_normal(struct dl_rng *r, float *out, int64_t n, bool half)
{
    if (n < BLOCK) {
        for (int64_t i = 0; i < n; i++) out[i] = (float)draw_one(r);
        return;
    }
    /* A tail of fewer than 16 is drawn anew as a whole block that ends at the last element. float32 has by then drawn a
     * uniform for every element, the half types only for the whole blocks. */
    int64_t blocks = n / BLOCK, rest = n % BLOCK;
    draw_uniforms(r, out, half ? n - rest : n);
    transform(out, blocks);
    if (rest) {
        draw_uniforms(r, out + n - BLOCK, BLOCK);
        transform(out + n - BLOCK, 1);
    }
}
