#include "kernels/cpu/ref_tile.h"

#include <string.h>

typedef double v4d __attribute__((vector_size(32)));
typedef float v4f __attribute__((vector_size(16)));

enum { M = 2, C = 4 }; /* eight sums of four: they hide the latency of addition and fit sixteen registers */

static inline __attribute__((always_inline)) void block(const float *const *x, const float *const *w, int64_t n,
                                                        double out[M][C])
{
    v4d s[M][C] = {0};
    int64_t k = 0;
    for (; k + 4 <= n; k += 4) {
        v4d a[M], b[C];
        v4f f;
        for (int i = 0; i < M; i++) memcpy(&f, x[i] + k, sizeof f), a[i] = __builtin_convertvector(f, v4d);
        for (int j = 0; j < C; j++) memcpy(&f, w[j] + k, sizeof f), b[j] = __builtin_convertvector(f, v4d);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < C; j++) s[i][j] += a[i] * b[j];
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < C; j++) {
            double v = (s[i][j][0] + s[i][j][1]) + (s[i][j][2] + s[i][j][3]);
            for (int64_t q = k; q < n; q++) v += (double)x[i][q] * (double)w[j][q];
            out[i][j] = v;
        }
}

static inline __attribute__((always_inline)) void tile(const float *const *x, int m, const float *const *w, int c,
                                                       int64_t n, double *sum, int ld)
{
    for (int j = 0; j < c; j += C) {
        const float *wj[C];
        for (int q = 0; q < C; q++) wj[q] = w[j + q < c ? j + q : c - 1];
        for (int i = 0; i < m; i += M) {
            const float *xi[M];
            double out[M][C];
            for (int q = 0; q < M; q++) xi[q] = x[i + q < m ? i + q : m - 1];
            block(xi, wj, n, out);
            for (int a = 0; a < M && i + a < m; a++)
                for (int b = 0; b < C && j + b < c; b++) sum[(i + a) * ld + j + b] = out[a][b];
        }
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void tile_avx2(const float *const *x, int m, const float *const *w, int c,
                                                      int64_t n, double *sum, int ld)
{
    tile(x, m, w, c, n, sum, ld);
}
#endif

void ref_tile(const float *const *x, int m, const float *const *w, int c, int64_t n, double *sum, int ld)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        tile_avx2(x, m, w, c, n, sum, ld);
        return;
    }
#endif
    tile(x, m, w, c, n, sum, ld);
}
