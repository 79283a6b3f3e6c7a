/* simd.h: the inner loops of the CPU variants, once for AVX2 and once for AVX-512, behind one table.
 *
 * simd_body.h is the single source of both; simd_avx2.c and simd_avx512.c compile it for their instruction set. Every
 * sum runs in ascending k with one fused multiply-add a term, in either set, so results depend neither on how rows are
 * grouped into blocks nor on the number of threads.
 *
 * Weights are packed in panels of nr output columns: [panel][k][nr], zero beyond the last column. Left-hand rows are
 * plain rows of floats. */
#ifndef CPU_SIMD_H
#define CPU_SIMD_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SIMD_NR_MAX = 32, /* columns of the widest panel */
    SIMD_MR_MAX = 12, /* rows of the tallest tile */
    WINO_KC = 64,     /* channels in a block of transformed input */
    WINO_POS = 36,    /* positions of a 6 x 6 tile */
};

/* One pixel's part of an epilogue: n columns whose sums lie in c, nr at a time, `cs` floats from panel to panel.
 * Pointers are NULL where the epilogue has no such term; each of add, gate, res and y has its own element type. */
struct simd_line {
    const float *c, *c2; /* sums; c2: second half of a GLU, else NULL */
    int64_t cs;
    int64_t n;
    const float *bias, *bias2; /* [n] */
    const void *add, *gate, *res;
    void *y;
    uint8_t add_t, gate_t, res_t, y_t;
    uint8_t fn; /* enum dl_fn */
    float scale;
};

struct simd {
    const char *name;
    int mr, nr, vw; /* rows and columns of a tile; floats in a vector */
    /* c[mr][ldc], nr columns, = (add ? c : 0) + a[mr][lda] b[k][nr]. tile1 computes the first vw columns only. */
    void (*tile)(int64_t k, const float *a, int64_t lda, const float *b, float *c, int64_t ldc, bool add);
    void (*tile1)(int64_t k, const float *a, int64_t lda, const float *b, float *c, int64_t ldc, bool add);
    void (*line)(const struct simd_line *l);
    /* y[n] = fn(x[n] * a[n] + b[n]); a and b NULL: 1 and 0. */
    void (*affine)(void *y, int y_t, const void *x, int x_t, const float *a, const float *b, int64_t n, int fn);
    /* y[n] = fn(a * x[n] + b * z[n]); z NULL: fn(a * x[n] + b). */
    void (*linear)(void *y, int y_t, const void *x, int x_t, float a, const void *z, int z_t, float b, int64_t n,
                   int fn);
    /* s[n] += d, q[n] += d^2 with d = x[n] - pivot[n]. */
    void (*moments)(float *s, float *q, const void *x, int x_t, const float *pivot, int64_t n);
    /* y[n] = (x[n] - mean) / sqrt(var + eps) * g[n] + b[n]; rms: y[n] = x[n] / sqrt(mean(x^2) + eps) * g[n] + b[n]. */
    void (*lnorm)(void *y, int y_t, const void *x, int x_t, const float *g, const float *b, int64_t n, float eps,
                  bool rms);
    /* A head: y[n] = x[n] / sqrt(mean(x^2) + eps) * g[n] (g NULL: x), then pairs of neighbours by turn[n / 2][2] (cos,
     * sin; NULL: none; n even). y may be x. */
    void (*rope)(void *y, int y_t, const void *x, int x_t, const float *g, const float *turn, int64_t n, float eps);
    /* For an online softmax: s[n] becomes 2^(s - max), its sum is returned; the largest of s[n]. n: a multiple of nr.
     */
    float (*exp2_row)(float *s, int64_t n, float max);
    float (*max_row)(const float *s, int64_t n);
    /* The same in two steps with bf16 weights: s[n] *= a, the largest is returned; p[n] = 2^(s - max), the sum before
     * rounding. */
    float (*scale_max_row)(float *s, int64_t n, float a);
    float (*exp2_bf16_row)(uint16_t *p, const float *s, int64_t n, float max);
    /* Winograd F(4x4, 3x3), see winograd.c. Weights: w at the panel's first k of the block, `tap` floats from tap to
     * tap; u[36][kc][nr], `ps` floats from position to position. Input: 36 pixels in raster order; channels [from, from
     * + kc) to v + pos * ps. Output: m[36] rows of nr at distance ps, o[16][nr] in raster order. */
    void (*wino_w)(const float *w, int64_t tap, int64_t kc, float *u, int64_t ps);
    void (*wino_in)(const float *const x[WINO_POS], int64_t from, int64_t kc, float *v, int64_t ps);
    void (*wino_out)(const float *m, int64_t ps, float *o);
};

/* The best table that this CPU can run; NULL when it has not even AVX2 with FMA. */
const struct simd *simd_pick(void);

#endif
