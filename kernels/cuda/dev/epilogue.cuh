/* epilogue.cuh: activation functions, and what follows a matrix product's sum, in struct dl_epi's order. */
#ifndef DL_CUDA_EPILOGUE_CUH
#define DL_CUDA_EPILOGUE_CUH

#include "kernels/cuda/dev/convert.cuh"
#include "kernels/cuda/igemm.h"

/* What follows the sums of a product, as a kernel takes it. */
static inline cuda_epi_args k_epi_of(const cuda_igemm_args &a)
{
    cuda_epi_args e = cuda_epi_args();
    e.y = a.y, e.bias = a.bias, e.fn = a.fn, e.glu = a.glu, e.add = a.add, e.gate = a.gate, e.res = a.res;
    e.scale = a.scale != 0 ? a.scale : 1, e.step = a.step, e.row_scale = a.row_scale, e.col_scale = a.col_scale;
    return e;
}

/* v / (1 + e^(-k v)); e^ overflows to infinity for very negative v, and the quotient is then 0, as it should be. */
__device__ __forceinline__ float k_swish(float v, float k)
{
    return dl_div_fast(v, 1 + dl_ex2(-1.4426950408889634f * k * v));
}

/* v (1 + erf(v / sqrt 2)) / 2 as (v + |v|) / 2 - |v| erfc(|v| / sqrt 2) / 2, with Abramowitz and Stegun's 7.1.26: erfc
 * is off by 1.5e-7 at most, all by 5 u |v|. 16 instructions; erff takes 26, more than there is time for where memory is
 * fast. Beyond |v| = 16 erfc is 0. */
__device__ __forceinline__ float k_gelu(float v)
{
    float a = dl_min(fabsf(v), 16.0f), t = dl_rcp(1 + 0.23164190f * a);
    float p = 0.5307027145f * t - 0.7265760135f;
    p = p * t + 0.7107068705f;
    p = p * t - 0.142248368f;
    p = p * t + 0.127414796f;
    return 0.5f * (v + fabsf(v)) - p * t * dl_ex2(-0.72134752f * a * a) * a;
}

/* enum dl_fn; the branch is the same in every thread. tanh(u) = 1 - 2 / (1 + e^2u), so the tanh form of GELU is a
 * swish of its argument. */
__device__ __forceinline__ float k_fn(int fn, float v)
{
    if (fn == DL_SILU) return k_swish(v, 1);
    if (fn == DL_GELU) return k_gelu(v);
    if (fn == DL_GELU_TANH) return k_swish(v, 1.5957691216057308f * (1 + 0.044715f * v * v));
    if (fn == DL_QUICK_GELU) return k_swish(v, 1.702f);
    return v;
}

/* Of V values, with one branch. */
template <int V> __device__ __forceinline__ void k_fn_each(int fn, float *v)
{
    if (fn == DL_SILU) {
        for (int j = 0; j < V; j++) v[j] = k_fn(DL_SILU, v[j]);
    } else if (fn == DL_GELU) {
        for (int j = 0; j < V; j++) v[j] = k_fn(DL_GELU, v[j]);
    } else if (fn == DL_GELU_TANH) {
        for (int j = 0; j < V; j++) v[j] = k_fn(DL_GELU_TANH, v[j]);
    } else if (fn == DL_QUICK_GELU) {
        for (int j = 0; j < V; j++) v[j] = k_fn(DL_QUICK_GELU, v[j]);
    }
}

/* Sums of e4m3 operands, of row `row` counted through all images, by the scales of its row and of their channels. */
template <int V>
__device__ __forceinline__ void k_epi_scale(const cuda_epi_args &a, int64_t row, int64_t c, float *s, float *s2)
{
    float v[V], scale = dl_ld(a.row_scale + row);
    k_load<V>(v, a.col_scale + c);
    for (int j = 0; j < V; j++) s[j] *= scale * v[j];
    if (a.glu) {
        k_load<V>(v, a.col_scale + a.y.c + c);
        for (int j = 0; j < V; j++) s2[j] *= scale * v[j];
    }
}

/* s[V]: sums of channels c .. of a pixel, s2 [V] the second half's with glu; the result in s. Up to the residual: */
template <int V>
__device__ __forceinline__ void k_epi_inner(const cuda_epi_args &a, int step, int64_t row, int64_t c, float *s,
                                            float *s2)
{
    float v[V];
    if (a.bias) {
        k_load<V>(v, a.bias + c);
        for (int j = 0; j < V; j++) s[j] += v[j];
        if (a.glu) {
            k_load<V>(v, a.bias + a.y.c + c);
            for (int j = 0; j < V; j++) s2[j] += v[j];
        }
    }
    if (a.glu) {
        k_fn_each<V>(a.fn, s2);
        for (int j = 0; j < V; j++) s[j] *= s2[j];
    } else {
        k_fn_each<V>(a.fn, s);
    }
    if (a.add.p) {
        k_load_vec<V>(v, a.add, step, row, c);
        for (int j = 0; j < V; j++) s[j] += v[j];
    }
    if (a.gate.p) {
        k_load_vec<V>(v, a.gate, step, row, c);
        for (int j = 0; j < V; j++) s[j] *= v[j];
    }
}

template <int V>
__device__ __forceinline__ void k_epi(const cuda_epi_args &a, int step, int64_t row, int64_t pixel, int64_t c, float *s,
                                      float *s2)
{
    float v[V];
    k_epi_inner<V>(a, step, row, c, s, s2);
    if (a.res.p) {
        k_load_t<V>(v, a.res.p, a.res.t, k_at(a.res, row, pixel, c));
        for (int j = 0; j < V; j++) s[j] += v[j];
    }
    for (int j = 0; j < V; j++) s[j] *= a.scale;
}

#endif
