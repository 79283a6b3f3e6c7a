#include "engine/type.h"

#include <math.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

const char *dl_type_name(int t)
{
    static const char *const name[DL_NTYPES] = {"f32", "f16", "bf16", "e4m3", "u8", "i32", "i64"};
    return t >= 0 && t < DL_NTYPES ? name[t] : "?";
}

uint16_t dl_f16_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint32_t sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more round to infinity */
    if (a >= 0x38800000u) {                                  /* normal */
        uint32_t r = a + 0xfffu + ((a >> 13) & 1);
        return (uint16_t)(sign | ((r - 0x38000000u) >> 13));
    }
    if (a < 0x33000000u) return (uint16_t)sign; /* below half the smallest subnormal */
    uint32_t shift = 126 - (a >> 23), m = (a & 0x7fffffu) | 0x800000u;
    uint32_t q = m >> shift, rest = m & ((1u << shift) - 1), half = 1u << (shift - 1);
    q += rest > half || (rest == half && (q & 1));
    return (uint16_t)(sign | q);
}

float dl_f16_to(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31, m = h & 0x3ffu, u;
    if (e == 31) {
        u = sign | 0x7f800000u | (m << 13);
    } else if (e) {
        u = sign | ((e + 112) << 23) | (m << 13);
    } else {
        float f = (float)m * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Subnormals are rounded by an addition whose sum has their last place, 2^-9; the rest as integers. */
uint8_t dl_e4m3_of(float f)
{
    uint32_t u, sign, a;
    memcpy(&u, &f, 4);
    sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint8_t)(sign | 0x7f);
    if (a >= 0x43e00000u) return (uint8_t)(sign | 0x7e); /* 448 and more saturate */
    if (a < 0x3c800000u) {                               /* below 2^-6 */
        float sum = fabsf(f) + 0x1p14f;
        memcpy(&u, &sum, 4);
        return (uint8_t)(sign | (u - 0x46800000u));
    }
    return (uint8_t)(sign | ((a + 0x7ffffu + ((a >> 20) & 1) - (120u << 23)) >> 20));
}

float dl_e4m3_to(uint8_t q)
{
    uint32_t u = (q & 0x7fu) << 20, sign = (uint32_t)(q & 0x80) << 24;
    float f;
    memcpy(&f, &u, 4);
    f *= 0x1p120f; /* subnormals included */
    if ((q & 0x7f) == 0x7f) f = NAN;
    memcpy(&u, &f, 4);
    u |= sign;
    memcpy(&f, &u, 4);
    return f;
}

/* Tensors in files need not be aligned to their type. */
typedef float unaligned_f32 __attribute__((aligned(1)));
typedef uint16_t unaligned_u16 __attribute__((aligned(1)));

float dl_load(const void *p, int t, int64_t i)
{
    switch (t) {
    case DL_F32: return ((const unaligned_f32 *)p)[i];
    case DL_F16: return dl_f16_to(((const unaligned_u16 *)p)[i]);
    case DL_BF16: return dl_bf16_to(((const unaligned_u16 *)p)[i]);
    case DL_E4M3: return dl_e4m3_to(((const uint8_t *)p)[i]);
    default: return NAN;
    }
}

void dl_store(void *p, int t, int64_t i, float v)
{
    switch (t) {
    case DL_F32: ((float *)p)[i] = v; break;
    case DL_F16: ((uint16_t *)p)[i] = dl_f16_of(v); break;
    case DL_BF16: ((uint16_t *)p)[i] = dl_bf16_of(v); break;
    case DL_E4M3: ((uint8_t *)p)[i] = dl_e4m3_of(v); break;
    default: break;
    }
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) static int64_t widen_f16(float *d, const unaligned_u16 *s, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(d + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(s + i))));
    return i;
}

__attribute__((target("avx,f16c"))) static int64_t narrow_f16(uint16_t *d, const unaligned_f32 *s, int64_t n)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(d + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps((const float *)(s + i)), _MM_FROUND_TO_NEAREST_INT));
    return i;
}

static int has_f16c(void)
{
    return __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2"); /* every CPU with AVX2 has F16C */
}
#else
static int64_t widen_f16(float *d, const uint16_t *s, int64_t n) { return (void)d, (void)s, (void)n, 0; }
static int64_t narrow_f16(uint16_t *d, const float *s, int64_t n) { return (void)d, (void)s, (void)n, 0; }
static int has_f16c(void) { return 0; }
#endif

void dl_convert(void *dst, int dst_t, const void *src, int src_t, int64_t n)
{
    int64_t i = 0;
    if (dst_t == src_t) {
        memmove(dst, src, (size_t)(n * dl_type_bytes(src_t)));
    } else if (dst_t == DL_F32 && src_t == DL_BF16) {
        for (; i < n; i++) ((float *)dst)[i] = dl_bf16_to(((const unaligned_u16 *)src)[i]);
    } else if (dst_t == DL_BF16 && src_t == DL_F32) {
        for (; i < n; i++) ((uint16_t *)dst)[i] = dl_bf16_of(((const unaligned_f32 *)src)[i]);
    } else {
        if (dst_t == DL_F32 && src_t == DL_F16 && has_f16c()) i = widen_f16(dst, src, n);
        if (dst_t == DL_F16 && src_t == DL_F32 && has_f16c()) i = narrow_f16(dst, src, n);
        for (; i < n; i++) dl_store(dst, dst_t, i, dl_load(src, src_t, i));
    }
}
