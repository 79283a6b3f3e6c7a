/* e4m3.cuh: values to e4m3, to the bits of engine/type.c; what exceeds 448 saturates. */
#ifndef DL_CUDA_E4M3_CUH
#define DL_CUDA_E4M3_CUH

#include "kernels/cuda/dev/ptx.cuh"

/* engine/type.c's dl_e4m3_of in 32 bits. */
__device__ __forceinline__ uint32_t k_e4m3_of(float v)
{
    uint32_t u = dl_f32_bits(v), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
    uint32_t low = dl_f32_bits(dl_add_rn(dl_bits_f32(a), 16384.0f)) - 0x46800000u;
    uint32_t high = (a + 0x7ffffu + ((a >> 20) & 1) - (120u << 23)) >> 20;
    if (a > 0x7f800000u) return sign | 0x7f;
    if (a >= 0x43e00000u) return sign | 0x7e;
    return sign | (a < 0x3c800000u ? low : high);
}

__device__ __forceinline__ uint32_t k_e4m3_of4(const float *v)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    return dl_pack4_e4m3(v[0], v[1], v[2], v[3]);
#else
    return k_e4m3_of(v[0]) | k_e4m3_of(v[1]) << 8 | k_e4m3_of(v[2]) << 16 | k_e4m3_of(v[3]) << 24;
#endif
}

#endif
