/* convert.cuh: groups of V = 8 or 1 neighbouring elements between memory of any type and f32 registers.
 *
 * The typed functions know the type when they are compiled; the _t ones branch on it, the same way in every thread.
 * V = 8 needs 16-byte aligned addresses: the launch functions choose it by k_vec_ok and its like.
 */
#ifndef DL_CUDA_CONVERT_CUH
#define DL_CUDA_CONVERT_CUH

#include "kernels/cuda/dev/ptx.cuh"
#include "kernels/cuda/kernels.h"

__device__ __forceinline__ void k_unpack2(float v[2], uint32_t u, dl_half)
{
    float2 f = dl_f16x2_to(u);
    v[0] = f.x, v[1] = f.y;
}
__device__ __forceinline__ void k_unpack2(float v[2], uint32_t u, dl_bf16)
{
    v[0] = dl_bits_f32(u << 16), v[1] = dl_bits_f32(u & 0xffff0000u);
}

template <class T> __device__ __forceinline__ void k_unpack8(float *v, const uint4 &u)
{
    k_unpack2(v, u.x, T());
    k_unpack2(v + 2, u.y, T());
    k_unpack2(v + 4, u.z, T());
    k_unpack2(v + 6, u.w, T());
}

template <int V, class T> __device__ __forceinline__ void k_load(float *v, const T *p)
{
    if (V == 1) {
        v[0] = dl_to_f32(dl_ld(p));
        return;
    }
    k_unpack8<T>(v, dl_ld(reinterpret_cast<const uint4 *>(p)));
}

template <int V> __device__ __forceinline__ void k_load(float *v, const float *p)
{
    if (V == 1) {
        v[0] = dl_ld(p);
        return;
    }
    float4 a = dl_ld(reinterpret_cast<const float4 *>(p)), b = dl_ld(reinterpret_cast<const float4 *>(p) + 1);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

template <int V, class T> __device__ __forceinline__ void k_store(T *p, const float *v)
{
    if (V == 1) {
        T t;
        dl_of_f32(t, v[0]);
        dl_st(p, t);
        return;
    }
    dl_st(reinterpret_cast<uint4 *>(p), make_uint4(dl_pack2<T>(v[0], v[1]), dl_pack2<T>(v[2], v[3]),
                                                   dl_pack2<T>(v[4], v[5]), dl_pack2<T>(v[6], v[7])));
}

template <int V> __device__ __forceinline__ void k_store(float *p, const float *v)
{
    if (V == 1) {
        dl_st(p, v[0]);
        return;
    }
    dl_st(reinterpret_cast<float4 *>(p), make_float4(v[0], v[1], v[2], v[3]));
    dl_st(reinterpret_cast<float4 *>(p) + 1, make_float4(v[4], v[5], v[6], v[7]));
}

/* Elements i .. i + V - 1 of p, which holds type t. */
template <int V> __device__ __forceinline__ void k_load_t(float *v, const void *p, int t, int64_t i)
{
    if (t == DL_F32) k_load<V>(v, static_cast<const float *>(p) + i);
    else if (t == DL_F16) k_load<V>(v, static_cast<const dl_half *>(p) + i);
    else k_load<V>(v, static_cast<const dl_bf16 *>(p) + i);
}

template <int V> __device__ __forceinline__ void k_store_t(void *p, int t, int64_t i, const float *v)
{
    if (t == DL_F32) k_store<V>(static_cast<float *>(p) + i, v);
    else if (t == DL_F16) k_store<V>(static_cast<dl_half *>(p) + i, v);
    else k_store<V>(static_cast<dl_bf16 *>(p) + i, v);
}

/* Elements as they lie in memory. What is fetched is widened later, so that several loads may be under way; hi holds
 * the second half of 8 f32. Where t is a constant its branches cost nothing. */
template <int V> struct k_raw {
    uint4 lo, hi;
};
template <> struct k_raw<1> {
    float v;
};

template <int V> __device__ __forceinline__ void k_fetch(k_raw<V> &r, const void *p, int t, int64_t i)
{
    const uint4 *u = reinterpret_cast<const uint4 *>(static_cast<const char *>(p) + i * (t == DL_F32 ? 4 : 2));
    r.lo = dl_ld(u);
    if (t == DL_F32) r.hi = dl_ld(u + 1);
}
template <> __device__ __forceinline__ void k_fetch<1>(k_raw<1> &r, const void *p, int t, int64_t i)
{
    k_load_t<1>(&r.v, p, t, i);
}

template <int V> __device__ __forceinline__ void k_widen(float *v, const k_raw<V> &r, int t)
{
    if (t == DL_F32) {
        v[0] = dl_bits_f32(r.lo.x), v[1] = dl_bits_f32(r.lo.y), v[2] = dl_bits_f32(r.lo.z), v[3] = dl_bits_f32(r.lo.w);
        v[4] = dl_bits_f32(r.hi.x), v[5] = dl_bits_f32(r.hi.y), v[6] = dl_bits_f32(r.hi.z), v[7] = dl_bits_f32(r.hi.w);
    } else if (t == DL_F16) {
        k_unpack8<dl_half>(v, r.lo);
    } else {
        k_unpack8<dl_bf16>(v, r.lo);
    }
}
template <> __device__ __forceinline__ void k_widen<1>(float *v, const k_raw<1> &r, int) { v[0] = r.v; }

__device__ __forceinline__ float k_round_to(float v, int t)
{
    if (t == DL_F16) {
        dl_half h;
        dl_of_f32(h, v);
        return dl_to_f32(h);
    }
    if (t == DL_BF16) {
        dl_bf16 h;
        dl_of_f32(h, v);
        return dl_to_f32(h);
    }
    return v;
}

__device__ __forceinline__ int64_t k_at(const dl_act &a, int64_t row, int64_t pixel, int64_t c)
{
    return row * a.rs + pixel * a.ld + c;
}

__device__ __forceinline__ int k_step(const int32_t *step) { return step ? dl_ld(step) : 0; }

template <int V>
__device__ __forceinline__ void k_load_vec(float *v, const dl_vec &a, int step, int64_t row, int64_t c)
{
    k_load_t<V>(v, a.p, a.t, step * a.ss + row * a.rs + c);
}

/* Division of numbers below 2^31 by one that is known at the launch, as a multiplication. */
struct k_divisor {
    uint32_t d, mul, shift;
};
__device__ __forceinline__ uint32_t k_div(uint32_t n, k_divisor by)
{
    return (uint32_t)((uint64_t)n * by.mul >> by.shift);
}

/* ---- on the host: may the V = 8 variant run? ---- */

static inline bool k_float(int t) { return t == DL_F32 || t == DL_F16 || t == DL_BF16; }
static inline bool k_ptr_ok(const void *p) { return (uintptr_t)p % 16 == 0; } /* NULL is */
static inline bool k_act_ok(const dl_act *a)
{
    return k_ptr_ok(a->p) && a->ld % 8 == 0 && a->rs % 8 == 0 && a->c % 8 == 0;
}
static inline bool k_vec_ok(const dl_vec *v)
{
    return !v->p || (k_ptr_ok(v->p) && v->rs % 8 == 0 && v->ss % 8 == 0);
}
/* 2^shift / d < mul <= 2^shift / d + 1 and d <= 2^(shift - 31): n mul / 2^shift is less than 1 / d above n / d. */
static inline k_divisor k_divisor_of(int32_t d)
{
    k_divisor k = {(uint32_t)d, 0, 31};
    while ((int64_t)1 << (k.shift - 31) < d) k.shift++;
    k.mul = (uint32_t)(((uint64_t)1 << k.shift) / k.d + 1);
    return k;
}
static inline int64_t k_pixels(const dl_act *a) { return (int64_t)a->h * a->w; }

enum { K_THREADS = 256, K_MAX_ROWS = 65535 };

/* Blocks for `items` threads of one row; 0: too many. */
static inline unsigned k_blocks(int64_t items)
{
    return items < 1 || items > INT32_MAX - K_THREADS ? 0 : (unsigned)((items + K_THREADS - 1) / K_THREADS);
}

#endif
