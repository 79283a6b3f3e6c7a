/* norm.cuh: group norm's application, as one multiplication and addition a channel. */
#ifndef DL_CUDA_NORM_CUH
#define DL_CUDA_NORM_CUH

#include "kernels/cuda/dev/convert.cuh"

/* Channels c .. c + V - 1 of row `row` become k x + b, scale and shift included. */
template <int V = 1>
__device__ __forceinline__ void k_norm_affine(const cuda_norm_args &a, int step, int64_t row, int c, float *k, float *b)
{
    int size = a.x.c / a.groups, g = c / size, left = (g + 1) * size - c; /* channels up to the next group */
    const float2 *mr = reinterpret_cast<const float2 *>(a.mean_rstd) + row * a.groups + g;
    float v[V];
    for (int j = 0; j < V; j++) {
        float2 s = dl_ld(mr);
        k[j] = s.y, b[j] = s.x;
        if (--left == 0 && j + 1 < V) mr++, left = size;
    }
    if (a.gamma) {
        k_load<V>(v, a.gamma + c);
        for (int j = 0; j < V; j++) k[j] *= v[j];
    }
    for (int j = 0; j < V; j++) b[j] *= -k[j];
    if (a.beta) {
        k_load<V>(v, a.beta + c);
        for (int j = 0; j < V; j++) b[j] += v[j];
    }
    if (a.scale.p) {
        k_load_vec<V>(v, a.scale, step, row, c);
        for (int j = 0; j < V; j++) k[j] *= 1 + v[j], b[j] *= 1 + v[j];
    }
    if (a.shift.p) {
        k_load_vec<V>(v, a.shift, step, row, c);
        for (int j = 0; j < V; j++) b[j] += v[j];
    }
}

#endif
