/* hopper.h: what kernels/cuda/dev/hopper.cuh declares, for the host: TMA, mbarriers, wgmma, named barriers and register
 * counts, emulated so that the source of a Hopper kernel runs, warp specialisation included. Written from the PTX ISA
 * alone; nothing of kernels/cuda/hopper/layout.h is used, so a descriptor, a swizzle or a fragment that is wrong there
 * gives wrong numbers here. Shared memory (simt_cc = 90) has addresses and is reached by these functions only.
 *
 *   TMA         a copy lands at a random later moment, a lazy one (1 in 4) when nothing else can happen any more; until
 *               then its destination is poisoned. Wrong alignment and boxes outside simt_alloc's buffers are reported.
 *   wgmma       runs when the first thread of the warpgroup waits for it, or (1 in 4) when no thread can go on without
 *               it, so that shared memory and register operands are read as late as the hardware may: a stage freed too
 *               early and bytes that no copy brought are reported. Accumulators are NaNs between issue and wait.
 *               Threads of a warpgroup that disagree are reported.
 *   mbarrier    phases, arrivals and bytes; a use before the fence and __syncthreads() after init is reported
 *   put, get    where copies or mbarriers lie, of what was not put, over what was not got, or was by a thread that has
 *               been at no named barrier since: reported
 *   waits       that cannot end are reported with what the thread waits for, as are arrivals, copies and products left
 *   setmaxnreg  takes registers from the block's pool and waits until there are enough. The pool is what the block got
 *               at its launch: the multiple of 8 a thread that 65,536 allow, and not what that leaves over.
 *
 * Not imitated: more than one block a multiprocessor, clusters, the order of memory beyond what is said above.
 */
#ifndef TESTS_SIMT_HOPPER_H
#define TESTS_SIMT_HOPPER_H

#include "tests/simt/simt.h"

#include "kernels/cuda/hopper/plan.h"

struct dl_tensor_map {
    hop_map m;
};
struct dl_tensor_maps {
    dl_tensor_map of[4];
};
#define DL_MAP_PARAM const dl_tensor_map
#define DL_MAPS_PARAM const dl_tensor_maps

/* encode: any address but NULL. */
static inline int dl_tensor_map_make(void *encode, dl_tensor_map *map, const hop_map *m)
{
    map->m = *m;
    return encode && hop_map_ok(m) ? 0 : 1;
}

uint32_t dl_smem_1024();
void dl_put(uint32_t at, float v);
float dl_get(uint32_t at);
void dl_mbar_init(uint32_t bar, uint32_t count);
void dl_mbar_init_fence();
void dl_mbar_arrive(uint32_t bar);
void dl_mbar_expect(uint32_t bar, uint32_t bytes);
void dl_mbar_wait(uint32_t bar, uint32_t parity);
static inline void dl_tma_prefetch(const dl_tensor_map *) {}
void dl_tma_load(uint32_t dst, const dl_tensor_map *map, uint32_t bar, int c0, int c1, int c2, int c3);
static inline int dl_uniform(int v) { return v; }
void dl_bar_sync(int id, int threads);
void dl_bar_arrive(int id, int threads);

namespace simt
{
void registers(int n, bool more);
/* a NULL: the A operand by descriptor. */
void wgmma(float *d, int n, const uint32_t *a, uint64_t a_desc, uint64_t b_desc, int add, int type);
void wgmma_wait(int groups);
} // namespace simt

template <int N> inline void dl_regs_fewer() { simt::registers(N, false); }
template <int N> inline void dl_regs_more() { simt::registers(N, true); }
void dl_wgmma_fence();
void dl_wgmma_commit();
template <int N> inline void dl_wgmma_wait() { simt::wgmma_wait(N); }
template <int N> inline void dl_hold(float *) {}
template <int N> inline void dl_hold(uint32_t *) {}
template <class T, int N> inline void dl_wgmma_ss(float *d, uint64_t a, uint64_t b, int add)
{
    simt::wgmma(d, N, nullptr, a, b, add, T::type);
}
template <class T, int N> inline void dl_wgmma_rs(float *d, const uint32_t a[4], uint64_t b, int add)
{
    simt::wgmma(d, N, a, 0, b, add, T::type);
}

#endif
