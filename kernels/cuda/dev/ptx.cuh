/* ptx.cuh: every special instruction that the portable kernels use, one function each, and nothing else touches PTX.
 *
 * tests/simt/simt.h declares the same names for the host, with checks; a kernel that keeps to them, to __syncthreads()
 * and __syncwarp() runs in both worlds. Shared memory is declared by DL_SHARED(type, name, count) and
 * DL_DYN_SHARED(type, name), and pointed to by dl_sptr<type>; global memory goes through dl_ld and dl_st. Warp-wide
 * functions take all 32 lanes. Source: PTX ISA 9.0; all of it exists from sm_80 on.
 */
#ifndef DL_CUDA_PTX_CUH
#define DL_CUDA_PTX_CUH

/* A launch of more bytes of dynamic shared memory asks for them. What does not ask has 48 KB, static ones included. */
enum { DL_SMEM_ASK = 47 << 10 };

#ifndef DL_SIMT

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

typedef __half dl_half;
typedef __nv_bfloat16 dl_bf16;
struct dl_e4m3 {
    uint8_t bits;
};

template <class T> using dl_sptr = T *;
template <class U, class T> __device__ __forceinline__ dl_sptr<U> dl_scast(T *s)
{
    return reinterpret_cast<U *>(s);
}

#define DL_DYN_SHARED(T, name)                                                                                         \
    extern __shared__ uint4 dl_dynamic_shared[];                                                                       \
    T *const name = reinterpret_cast<T *>(dl_dynamic_shared)
#define DL_SHARED(T, name, count) __shared__ __align__(16) T name[count]

/* Launches, after raising the kernel's limit of dynamic shared memory where it may need more than it has. */
template <class... P, class... A>
static inline int dl_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream, A... args)
{
    if (smem > (size_t)DL_SMEM_ASK) {
        cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
        if (e != cudaSuccess) return (int)e;
    }
    kernel<<<grid, block, smem, stream>>>(args...);
    return (int)cudaGetLastError();
}
#define DL_LAUNCH(kernel, grid, block, smem, stream, ...) dl_launch(kernel, grid, block, smem, stream, __VA_ARGS__)

/* The __CUDA_ARCH__ / 10 that a kernel was compiled with as the current device would run it; 0: it would not. */
template <class... P> static inline int dl_compiled_for(void (*kernel)(P...))
{
    cudaFuncAttributes a;
    if (cudaFuncGetAttributes(&a, kernel) == cudaSuccess) return a.ptxVersion;
    (void)cudaGetLastError();
    return 0;
}

template <class T> __device__ __forceinline__ T dl_ld(const T *p) { return *p; }
template <class T> __device__ __forceinline__ void dl_st(T *p, T v) { *p = v; }
/* As plain stores these are now and then taken apart into four. */
__device__ __forceinline__ void dl_st(uint4 *p, uint4 v)
{
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                 :: "l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void dl_st(float4 *p, float4 v)
{
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
                 :: "l"(__cvta_generic_to_global(p)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

__device__ __forceinline__ float dl_shfl_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
__device__ __forceinline__ float dl_shfl_down(float v, int by) { return __shfl_down_sync(0xffffffffu, v, by); }
__device__ __forceinline__ float dl_shfl(float v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
__device__ __forceinline__ uint32_t dl_ballot(bool v) { return __ballot_sync(0xffffffffu, v); }
__device__ __forceinline__ bool dl_any(bool v) { return __any_sync(0xffffffffu, v); }
__device__ __forceinline__ bool dl_all(bool v) { return __all_sync(0xffffffffu, v); }

__device__ __forceinline__ uint32_t dl_shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8. */
template <class T> __device__ __forceinline__ void dl_ldmatrix4(uint32_t r[4], T *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(dl_shared_address(row)) : "memory");
}
template <class T> __device__ __forceinline__ void dl_ldmatrix4_t(uint32_t r[4], T *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(dl_shared_address(row)) : "memory");
}

/* Two; the addresses of lanes 0..15 count. */
template <class T> __device__ __forceinline__ void dl_ldmatrix2(uint32_t r[2], T *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(dl_shared_address(row)) : "memory");
}
template <class T> __device__ __forceinline__ void dl_ldmatrix2_t(uint32_t r[2], T *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(dl_shared_address(row)) : "memory");
}

/* d [16][8] += a [16][16] b [16][8], T inputs, f32 sums. */
template <class T>
__device__ __forceinline__ void dl_mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void dl_mma<dl_half>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void dl_mma<dl_bf16>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d [16][8] += a [16][32] b [32][8] of e4m3, four in a register; nothing where it does not exist. Its sums may be
 * shorter than f32, but not on sm_90, where the compiler makes it of two products of f16. */
#if __CUDA_ARCH__ >= 890
enum { DL_HAS_E4M3 = 1, DL_SHORT_E4M3 = __CUDA_ARCH__ != 900 };
#else
enum { DL_HAS_E4M3 = 0, DL_SHORT_E4M3 = 1 };
#endif
template <>
__device__ __forceinline__ void dl_mma<dl_e4m3>(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 890
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    (void)d, (void)a, (void)b0, (void)b1;
#endif
}

/* d [16][8] += a [16][8] b [8][8]. */
template <class T> __device__ __forceinline__ void dl_mma8(float d[4], const uint32_t a[2], uint32_t b);
template <> __device__ __forceinline__ void dl_mma8<dl_half>(float d[4], const uint32_t a[2], uint32_t b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}
template <> __device__ __forceinline__ void dl_mma8<dl_bf16>(float d[4], const uint32_t a[2], uint32_t b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}

/* 16 bytes from global to shared, past the L1; zeros where not `real` (src is not read, but must be some address). */
template <class T> __device__ __forceinline__ void dl_cp_async16(T *dst, const void *src, bool real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(dl_shared_address(dst)), "l"(__cvta_generic_to_global(src)), "r"(real ? 16 : 0) : "memory");
}
__device__ __forceinline__ void dl_cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most N of this thread's latest groups are under way. */
template <int N> __device__ __forceinline__ void dl_cp_wait()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

__device__ __forceinline__ uint32_t dl_atomic_add(uint32_t *p, uint32_t v) { return atomicAdd(p, v); }

__device__ __forceinline__ float dl_min(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ float dl_max(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ float dl_div_fast(float a, float b) { return __fdividef(a, b); } /* 2 ulp */
__device__ __forceinline__ float dl_sinpi(float x) { return sinpif(x); }
__device__ __forceinline__ float dl_cospi(float x) { return cospif(x); }
__device__ __forceinline__ void dl_sincos_fast(float x, float *s, float *c) { __sincosf(x, s, c); }
__device__ __forceinline__ float2 dl_f16x2_to(uint32_t u) { return __half22float2(reinterpret_cast<__half2 &>(u)); }
/* Two values rounded to T in one register, lo in the low half. */
template <class T> __device__ __forceinline__ uint32_t dl_pack2(float lo, float hi);
template <> __device__ __forceinline__ uint32_t dl_pack2<dl_half>(float lo, float hi)
{
    __half2 h = __floats2half2_rn(lo, hi);
    return reinterpret_cast<uint32_t &>(h);
}
template <> __device__ __forceinline__ uint32_t dl_pack2<dl_bf16>(float lo, float hi)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return reinterpret_cast<uint32_t &>(h);
}

#if __CUDA_ARCH__ >= 890
/* Four values rounded to e4m3, beyond 448 to 448, a in the lowest byte. */
__device__ __forceinline__ uint32_t dl_pack4_e4m3(float a, float b, float c, float d)
{
    uint16_t lo, hi;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(lo) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(hi) : "f"(d), "f"(c));
    return lo | (uint32_t)hi << 16;
}
#endif

/* 2^x, at most 2 ulp off; 2^-inf = 0. */
__device__ __forceinline__ float dl_ex2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float dl_rsqrt(float x) { return rsqrtf(x); } /* 2 ulp */
/* 1 / x, at most 1 ulp off, for x of 2^-126 to 2^126. */
__device__ __forceinline__ float dl_rcp(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float dl_to_f32(float v) { return v; }
__device__ __forceinline__ float dl_to_f32(dl_half v) { return __half2float(v); }
__device__ __forceinline__ float dl_to_f32(dl_bf16 v) { return __bfloat162float(v); }
__device__ __forceinline__ void dl_of_f32(float &d, float v) { d = v; }
__device__ __forceinline__ void dl_of_f32(dl_half &d, float v) { d = __float2half_rn(v); }
__device__ __forceinline__ void dl_of_f32(dl_bf16 &d, float v) { d = __float2bfloat16_rn(v); }

/* One rounded operation each, never fused. */
__device__ __forceinline__ float dl_mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float dl_add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float dl_sub_rn(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float dl_div_rn(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ uint32_t dl_f32_bits(float v) { return __float_as_uint(v); }
__device__ __forceinline__ float dl_bits_f32(uint32_t u) { return __uint_as_float(u); }

#endif
#endif
