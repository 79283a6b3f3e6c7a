/* reduce.cuh: sums and minima over a warp and over a block, in one fixed order, so that bits do not change. */
#ifndef DL_CUDA_REDUCE_CUH
#define DL_CUDA_REDUCE_CUH

#include "kernels/cuda/dev/ptx.cuh"

__device__ __forceinline__ float k_warp_sum(float v)
{
    for (int m = 16; m > 0; m /= 2) v += dl_shfl_xor(v, m);
    return v;
}

__device__ __forceinline__ float k_warp_min(float v)
{
    for (int m = 16; m > 0; m /= 2) v = dl_min(v, dl_shfl_xor(v, m));
    return v;
}

/* The sum over WARPS warps, in every thread. tmp [WARPS]; may be used again at once. */
template <int WARPS> __device__ __forceinline__ float k_block_sum(float v, dl_sptr<float> tmp)
{
    v = k_warp_sum(v);
    if (WARPS == 1) return v;
    __syncthreads();
    if (threadIdx.x % 32 == 0) tmp[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < WARPS; i++) sum += tmp[i];
    return sum;
}

template <int WARPS> __device__ __forceinline__ float k_block_min(float v, dl_sptr<float> tmp)
{
    v = k_warp_min(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) tmp[threadIdx.x / 32] = v;
    __syncthreads();
    float least = tmp[0];
    for (int i = 1; i < WARPS; i++) least = dl_min(least, tmp[i]);
    return least;
}

#endif
