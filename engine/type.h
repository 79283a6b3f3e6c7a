/* type.h: element types and their conversions.
 *
 * Conversions round to nearest, ties to even, as PyTorch does. e4m3 is the "fn" kind (no infinities, 448 the largest
 * finite value, NaN 0x7f); values beyond 448 saturate, as quantising a weight needs it.
 */
#ifndef DL_TYPE_H
#define DL_TYPE_H

#include <stdint.h>
#include <string.h>

enum dl_type { DL_F32, DL_F16, DL_BF16, DL_E4M3, DL_U8, DL_I32, DL_I64, DL_NTYPES };

/* Bytes of one element; 0 for a value that is no type. */
static inline int dl_type_bytes(int t)
{
    static const uint8_t size[DL_NTYPES] = {4, 2, 2, 1, 1, 4, 8};
    return t >= 0 && t < DL_NTYPES ? size[t] : 0;
}

/* "f32", "bf16", ... as the command line writes them. */
const char *dl_type_name(int t);

uint16_t dl_f16_of(float f);
float dl_f16_to(uint16_t h);
uint8_t dl_e4m3_of(float f);
float dl_e4m3_to(uint8_t q);

static inline uint16_t dl_bf16_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40); /* keep a NaN a NaN */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

static inline float dl_bf16_to(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* dst[i] = src[i] for n elements, between any of f32, f16, bf16, e4m3; the arrays must not overlap unless equal in
 * type. src may lie at any address (files do not align their tensors). Uses the CPU's own f16 conversion where there is
 * one. */
void dl_convert(void *dst, int dst_t, const void *src, int src_t, int64_t n);

/* The value of one element of type t (floating types only) at index i, and its counterpart. */
float dl_load(const void *p, int t, int64_t i);
void dl_store(void *p, int t, int64_t i, float v);

#endif
