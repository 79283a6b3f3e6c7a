/* parts.cuh: an activation's parts (struct dl_act) as epilogues make them, out of finished values in shared memory. */
#ifndef DL_CUDA_PARTS_CUH
#define DL_CUDA_PARTS_CUH

#include "kernels/cuda/dev/convert.cuh"

/* Where the part of set `set`, counted through all images, and channel c lies. */
__device__ __forceinline__ float2 *k_part_at(const dl_act &a, int64_t set, int c)
{
    return reinterpret_cast<float2 *>(a.parts) + (set * a.ld + c);
}

/* Of n values: their sum and sum of squares about one of them, `base`, as mean and sum of squared deviations. Since base
 * is one of them, no more than a factor n of precision is lost, however large the mean. */
__device__ __forceinline__ float2 k_part_of(float base, float sum, float square, float n)
{
    return make_float2(base + sum / n, dl_max(square - sum * sum / n, 0.f));
}

/* V values (1 or 8) as they are stored in type t, back to where their sums were. */
template <int V> __device__ __forceinline__ void k_part_keep(dl_sptr<float> to, const float *v, int t)
{
    float r[V];
    for (int j = 0; j < V; j++) r[j] = k_round_to(v[j], t);
    if (V == 1) {
        to[0] = r[0];
        return;
    }
    dl_scast<float4>(to)[0] = make_float4(r[0], r[1], r[2], r[3]);
    dl_scast<float4>(to)[1] = make_float4(r[4], r[5], r[6], r[7]);
}

/* The part of a column [][PITCH]: rows 0 .. 7, then the 8 from STEP on, and so on to DL_PART_PIXELS of them. Four sums side
 * by side round less than one. */
template <int PITCH, int STEP> __device__ __forceinline__ float2 k_part_column(dl_sptr<float> from)
{
    float base = from[0], sum[4] = {}, square[4] = {};
#pragma unroll
    for (int i = 1; i < DL_PART_PIXELS; i++) {
        float d = from[(i / 8 * STEP + i % 8) * PITCH] - base;
        sum[i % 4] += d, square[i % 4] += d * d;
    }
    return k_part_of(base, (sum[0] + sum[1]) + (sum[2] + sum[3]), (square[0] + square[1]) + (square[2] + square[3]),
                     DL_PART_PIXELS);
}

#endif
