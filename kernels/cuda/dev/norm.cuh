/* norm.cuh: group norm's application, as one multiplication and addition a channel. */
#ifndef DL_CUDA_NORM_CUH
#define DL_CUDA_NORM_CUH

#include "kernels/cuda/dev/convert.cuh"

/* Channel c of row `row` becomes k x + b, scale and shift included. */
__device__ __forceinline__ void k_norm_affine(const cuda_norm_args &a, int step, int64_t row, int c, float *k, float *b)
{
    const float *mr = a.mean_rstd + (row * a.groups + c / (a.x.c / a.groups)) * 2;
    float v;
    *k = dl_ld(mr + 1) * (a.gamma ? dl_ld(a.gamma + c) : 1);
    *b = (a.beta ? dl_ld(a.beta + c) : 0) - dl_ld(mr) * *k;
    if (a.scale.p) {
        k_load_vec<1>(&v, a.scale, step, row, c);
        *k *= 1 + v, *b *= 1 + v;
    }
    if (a.shift.p) {
        k_load_vec<1>(&v, a.shift, step, row, c);
        *b += v;
    }
}

#endif
