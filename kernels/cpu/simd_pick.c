#include "kernels/cpu/simd.h"

#include <stddef.h>

#if defined(__x86_64__)
extern const struct simd simd_avx2, simd_avx512;

const struct simd *simd_pick(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &simd_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &simd_avx2;
    return NULL;
}
#else
const struct simd *simd_pick(void) { return NULL; }
#endif
