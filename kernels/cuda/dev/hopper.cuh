/* hopper.cuh: the instructions of compute capability 9.0 (sm_90a) that the Hopper kernels use, one function each.
 *
 * tests/simt/hopper.h declares the same names for the host. Shared memory is known by its 32-bit addresses alone:
 * what TMA writes and wgmma reads, nothing else touches, so that no fence between their proxy and the plain one is
 * needed; what threads exchange (dl_put, dl_get) lies elsewhere. Source: PTX ISA 9.0: mbarrier, cp.async.bulk.tensor,
 * wgmma, setmaxnreg, barrier.
 *
 * wgmma is asynchronous: between its issue and dl_wgmma_wait its accumulators and register operands belong to the
 * tensor cores. The compiler does not know that a wait changes accumulators: dl_hold after a wait keeps what reads them
 * behind it, before a fence it keeps what writes them, and register operands, before it.
 */
#ifndef DL_CUDA_HOPPER_CUH
#define DL_CUDA_HOPPER_CUH

#include "kernels/cuda/dev/ptx.cuh"
#include "kernels/cuda/hopper/plan.h"

#ifdef DL_SIMT
#include "tests/simt/hopper.h"
#else

#include <cuda.h>

typedef CUtensorMap dl_tensor_map;
struct dl_tensor_maps {
    dl_tensor_map of[4];
};
#define DL_MAP_PARAM const __grid_constant__ dl_tensor_map
#define DL_MAPS_PARAM const __grid_constant__ dl_tensor_maps

/* A map as the driver wants it; encode: its cuTensorMapEncodeTiled. 0, or its error. */
static inline int dl_tensor_map_make(void *encode, dl_tensor_map *map, const struct hop_map *m)
{
    typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                  const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                                  CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    cuuint64_t dim[4], stride[3];
    cuuint32_t box[4];
    const cuuint32_t step[4] = {1, 1, 1, 1};
    for (int i = 0; i < 4; i++) dim[i] = m->dim[i], box[i] = m->box[i];
    for (int i = 0; i < 3; i++) stride[i] = m->stride[i];
    return (int)reinterpret_cast<encode_fn>(encode)(
        map, m->t == DL_E4M3 ? CU_TENSOR_MAP_DATA_TYPE_UINT8
             : m->t == DL_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                              : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        4, m->base, dim, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

/* Dynamic shared memory from its first multiple of 1,024 on. */
__device__ __forceinline__ uint32_t dl_smem_1024()
{
    extern __shared__ uint4 dl_hopper_shared[];
    return (dl_shared_address(dl_hopper_shared) + 1023) & ~1023u;
}

__device__ __forceinline__ void dl_put(uint32_t at, float v)
{
    asm volatile("st.shared.f32 [%0], %1;" :: "r"(at), "f"(v) : "memory");
}
__device__ __forceinline__ float dl_get(uint32_t at)
{
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}

/* ---- mbarrier: phases, in each of which `count` arrivals and all announced bytes must come ---- */

__device__ __forceinline__ void dl_mbar_init(uint32_t bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory");
}
/* Makes inits visible to TMA; before a __syncthreads(). */
__device__ __forceinline__ void dl_mbar_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void dl_mbar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" :: "r"(bar) : "memory");
}
/* Arrives, and announces `bytes` that copies will bring. */
__device__ __forceinline__ void dl_mbar_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;"
                 :: "r"(bar), "r"(bytes) : "memory");
}
/* Until the phase of this parity (0 for the first, then alternating) is complete; parity 1 is so from the start. */
__device__ __forceinline__ void dl_mbar_wait(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" :: "r"(bar), "r"(parity) : "memory");
}

/* ---- TMA ---- */

__device__ __forceinline__ void dl_tma_prefetch(const dl_tensor_map *map)
{
    asm volatile("prefetch.tensormap [%0];" :: "l"(map) : "memory");
}
/* The map's box at coordinates c0 (innermost) .. c3 to shared memory at dst; its bytes, zeros outside the tensor
 * included, count on `bar`. One thread. */
__device__ __forceinline__ void dl_tma_load(uint32_t dst, const dl_tensor_map *map, uint32_t bar, int c0, int c1,
                                            int c2, int c3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
                 "%5, %6}], [%2];"
                 :: "r"(dst), "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3) : "memory");
}

/* ---- groups of warps ---- */

/* Named barriers 1..15 (0 is __syncthreads): full when `threads` have come, by sync or by arrive. */
__device__ __forceinline__ void dl_bar_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void dl_bar_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" :: "r"(id), "r"(threads) : "memory");
}
/* v, which is the same in all threads of the warp, where the compiler may know it: addresses and descriptors made of it
 * then need no copy from a thread's registers. */
__device__ __forceinline__ int dl_uniform(int v) { return __shfl_sync(0xffffffffu, v, 0); }
/* Registers of each thread of this warpgroup from here on. */
template <int N> __device__ __forceinline__ void dl_regs_fewer()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N));
}
template <int N> __device__ __forceinline__ void dl_regs_more()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N));
}

/* ---- wgmma ---- */

/* Before the first wgmma, and where registers that wgmma uses were written. */
__device__ __forceinline__ void dl_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void dl_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Until at most N of the latest groups are under way. */
template <int N> __device__ __forceinline__ void dl_wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}
template <int N> __device__ __forceinline__ void dl_hold(float *d)
{
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}
template <int N> __device__ __forceinline__ void dl_hold(uint32_t *a)
{
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(a[i]) :: "memory");
}

/* m64nNk16 (e4m3: k32, sums perhaps shorter than f32), sums in f32, d [N / 2] a thread: d = A B + (add ? d : 0).
 * ss: A and B K-major in shared memory. rs: A in registers, B MN-major. Descriptors: hopper/layout.h. */
template <class T, int N> __device__ __forceinline__ void dl_wgmma_ss(float *d, uint64_t a, uint64_t b, int add);
template <class T, int N>
__device__ __forceinline__ void dl_wgmma_rs(float *d, const uint32_t a[4], uint64_t b, int add);

#define DL_R4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DL_R8(d, i) DL_R4(d, i), DL_R4(d, i + 4)
#define DL_WGMMAS(T, NAME)                                                                                             \
template <> __device__ __forceinline__ void dl_wgmma_ss<T, 160>(float *d, uint64_t a, uint64_t b, int add)             \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %82, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n160k16.f32." NAME "." NAME " {"                                     \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                              \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                    \
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                    \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                    \
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"                      \
                 "}, %80, %81, p, 1, 1, 0, 0;\n}"                                                                      \
                 : DL_R8(d, 0), DL_R8(d, 8), DL_R8(d, 16), DL_R8(d, 24), DL_R8(d, 32), DL_R8(d, 40),                   \
                   DL_R8(d, 48), DL_R8(d, 56), DL_R8(d, 64), DL_R8(d, 72)                                              \
                 : "l"(a), "l"(b), "r"(add));                                                                          \
}                                                                                                                      \
template <> __device__ __forceinline__ void dl_wgmma_ss<T, 256>(float *d, uint64_t a, uint64_t b, int add)             \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                                         \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." NAME "." NAME " {"                                     \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                              \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                    \
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                    \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                    \
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                    \
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                    \
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "        \
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"      \
                 "}, %128, %129, p, 1, 1, 0, 0;\n}"                                                                    \
                 : DL_R8(d, 0), DL_R8(d, 8), DL_R8(d, 16), DL_R8(d, 24), DL_R8(d, 32), DL_R8(d, 40),                   \
                   DL_R8(d, 48), DL_R8(d, 56), DL_R8(d, 64), DL_R8(d, 72), DL_R8(d, 80), DL_R8(d, 88),                 \
                   DL_R8(d, 96), DL_R8(d, 104), DL_R8(d, 112), DL_R8(d, 120)                                           \
                 : "l"(a), "l"(b), "r"(add));                                                                          \
}                                                                                                                      \
template <> __device__ __forceinline__ void dl_wgmma_rs<T, 16>(float *d, const uint32_t a[4], uint64_t b, int add)     \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32." NAME "." NAME " {"                                      \
                 "%0, %1, %2, %3, %4, %5, %6, %7"                                                                      \
                 "}, {%8, %9, %10, %11}, %12, p, 1, 1, 1;\n}"                                                          \
                 : DL_R8(d, 0)                                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                      \
}                                                                                                                      \
template <> __device__ __forceinline__ void dl_wgmma_rs<T, 32>(float *d, const uint32_t a[4], uint64_t b, int add)     \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32." NAME "." NAME " {"                                      \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"                                \
                 "}, {%16, %17, %18, %19}, %20, p, 1, 1, 1;\n}"                                                        \
                 : DL_R8(d, 0), DL_R8(d, 8)                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                      \
}                                                                                                                      \
template <> __device__ __forceinline__ void dl_wgmma_rs<T, 40>(float *d, const uint32_t a[4], uint64_t b, int add)     \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %25, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n40k16.f32." NAME "." NAME " {"                                      \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                              \
                 "%16, %17, %18, %19"                                                                                  \
                 "}, {%20, %21, %22, %23}, %24, p, 1, 1, 1;\n}"                                                        \
                 : DL_R8(d, 0), DL_R8(d, 8), DL_R4(d, 16)                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                      \
}                                                                                                                      \
template <> __device__ __forceinline__ void dl_wgmma_ss<T, 64>(float *d, uint64_t a, uint64_t b, int add)              \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " {"                                      \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                              \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                      \
                 "}, %32, %33, p, 1, 1, 0, 0;\n}"                                                                      \
                 : DL_R8(d, 0), DL_R8(d, 8), DL_R8(d, 16), DL_R8(d, 24)                                                \
                 : "l"(a), "l"(b), "r"(add));                                                                          \
}                                                                                                                      \
template <> __device__ __forceinline__ void dl_wgmma_rs<T, 64>(float *d, const uint32_t a[4], uint64_t b, int add)     \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " {"                                      \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                              \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                      \
                 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"                                                        \
                 : DL_R8(d, 0), DL_R8(d, 8), DL_R8(d, 16), DL_R8(d, 24)                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                      \
}                                                                                                                      \
template <> __device__ __forceinline__ void dl_wgmma_ss<T, 128>(float *d, uint64_t a, uint64_t b, int add)             \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " {"                                     \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                              \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                    \
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                    \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                      \
                 "}, %64, %65, p, 1, 1, 0, 0;\n}"                                                                      \
                 : DL_R8(d, 0), DL_R8(d, 8), DL_R8(d, 16), DL_R8(d, 24), DL_R8(d, 32), DL_R8(d, 40),                   \
                   DL_R8(d, 48), DL_R8(d, 56)                                                                          \
                 : "l"(a), "l"(b), "r"(add));                                                                          \
}                                                                                                                      \
template <> __device__ __forceinline__ void dl_wgmma_rs<T, 128>(float *d, const uint32_t a[4], uint64_t b, int add)    \
{                                                                                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                                          \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " {"                                     \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                              \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                    \
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                    \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                      \
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"                                                        \
                 : DL_R8(d, 0), DL_R8(d, 8), DL_R8(d, 16), DL_R8(d, 24), DL_R8(d, 32), DL_R8(d, 40),                   \
                   DL_R8(d, 48), DL_R8(d, 56)                                                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                      \
}
DL_WGMMAS(dl_half, "f16")
DL_WGMMAS(dl_bf16, "bf16")
#undef DL_WGMMAS
#define DL_R16(d, i) DL_R8(d, i), DL_R8(d, i + 8)
template <> __device__ __forceinline__ void dl_wgmma_ss<dl_e4m3, 128>(float *d, uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p, 1, 1;\n}"
                 : DL_R16(d, 0), DL_R16(d, 16), DL_R16(d, 32), DL_R16(d, 48)
                 : "l"(a), "l"(b), "r"(add));
}
template <> __device__ __forceinline__ void dl_wgmma_ss<dl_e4m3, 160>(float *d, uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %82, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n160k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
                 "}, %80, %81, p, 1, 1;\n}"
                 : DL_R16(d, 0), DL_R16(d, 16), DL_R16(d, 32), DL_R16(d, 48), DL_R16(d, 64)
                 : "l"(a), "l"(b), "r"(add));
}
template <> __device__ __forceinline__ void dl_wgmma_ss<dl_e4m3, 192>(float *d, uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
                 "}, %96, %97, p, 1, 1;\n}"
                 : DL_R16(d, 0), DL_R16(d, 16), DL_R16(d, 32), DL_R16(d, 48), DL_R16(d, 64), DL_R16(d, 80)
                 : "l"(a), "l"(b), "r"(add));
}
#undef DL_R16
#undef DL_R8
#undef DL_R4

#endif
#endif
