/* simd_avx2.c: simd_body.h for AVX2 with FMA and F16C. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "engine/op.h"
#include "kernels/cpu/simd.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define VW 8
#define MR 6
#define SIMD_TABLE simd_avx2
#define SIMD_NAME "avx2"
typedef __m256 vf;
typedef int32_t vi __attribute__((vector_size(32)));
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, v) _mm256_storeu_ps(p, v)
#define v_set1(x) _mm256_set1_ps(x)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_max(a, b) _mm256_max_ps(a, b)
#define v_min(a, b) _mm256_min_ps(a, b)
#define v_even(v) _mm256_moveldup_ps(v)
#define v_odd(v) _mm256_movehdup_ps(v)
#define v_swap(v) _mm256_permute_ps(v, 0xb1)
#define v_fmaddsub(a, b, c) _mm256_fmaddsub_ps(a, b, c)

static inline __m256i first_lanes(int64_t m)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)m), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf v_load_part(const float *p, int64_t m) { return _mm256_maskload_ps(p, first_lanes(m)); }
static inline void v_store_part(float *p, vf v, int64_t m) { _mm256_maskstore_ps(p, first_lanes(m), v); }

static inline float v_hmax(vf v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

static inline float v_hsum(vf v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

static inline vf v_scale(vf p, vf t, vf x)
{
    vi e = (vi)p + ((vi)t << 23), normal = x >= _mm256_set1_ps(-126);
    return (vf)(e & normal);
}

static inline vf v_from_bf16(const uint16_t *p)
{
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}

static inline vf v_from_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

static inline void v_to_bf16(uint16_t *p, vf v)
{
    vi u = (vi)v, q = u + 0x7fff + ((u >> 16) & 1), nan = v != v;
    q = (q & ~nan) | ((u | 0x400000) & nan);
    __m256i h = _mm256_srli_epi32((__m256i)q, 16);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

static inline void v_to_f16(uint16_t *p, vf v)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

extern const struct simd simd_avx2;
#include "kernels/cpu/simd_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
