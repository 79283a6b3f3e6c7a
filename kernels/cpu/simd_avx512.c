/* simd_avx512.c: simd_body.h for AVX-512 (F, BW, DQ, VL). */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "engine/op.h"
#include "kernels/cpu/simd.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif

#define VW 16
#define MR 12
#define SIMD_TABLE simd_avx512
#define SIMD_NAME "avx512"
typedef __m512 vf;
typedef int32_t vi __attribute__((vector_size(64)));
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, v) _mm512_storeu_ps(p, v)
#define v_set1(x) _mm512_set1_ps(x)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_max(a, b) _mm512_max_ps(a, b)
#define v_min(a, b) _mm512_min_ps(a, b)
#define v_even(v) _mm512_moveldup_ps(v)
#define v_odd(v) _mm512_movehdup_ps(v)
#define v_swap(v) _mm512_permute_ps(v, 0xb1)
#define v_fmaddsub(a, b, c) _mm512_fmaddsub_ps(a, b, c)

static inline __mmask16 first_lanes(int64_t m) { return (__mmask16)((1u << m) - 1); }
static inline vf v_load_part(const float *p, int64_t m) { return _mm512_maskz_loadu_ps(first_lanes(m), p); }
static inline void v_store_part(float *p, vf v, int64_t m) { _mm512_mask_storeu_ps(p, first_lanes(m), v); }
static inline float v_hmax(vf v) { return _mm512_reduce_max_ps(v); }
static inline float v_hsum(vf v) { return _mm512_reduce_add_ps(v); }

static inline vf v_scale(vf p, vf t, vf x)
{
    __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126), _CMP_GE_OQ);
    __m512i e = _mm512_slli_epi32((__m512i)t, 23);
    return (vf)_mm512_maskz_add_epi32(normal, (__m512i)p, e);
}

static inline vf v_from_bf16(const uint16_t *p)
{
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}

static inline vf v_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

static inline void v_to_bf16(uint16_t *p, vf v)
{
    vi u = (vi)v, q = u + 0x7fff + ((u >> 16) & 1), nan = v != v;
    q = (q & ~nan) | ((u | 0x400000) & nan);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)q, 16)));
}

static inline void v_to_f16(uint16_t *p, vf v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

extern const struct simd simd_avx512;
#include "kernels/cpu/simd_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
