/* simt.h: a GPU of one multiprocessor for tests: the portable .cu files compile for the host with this header before
 * them (g++ or clang++, -std=c++17 -x c++ -include tests/simt/simt.h), and run.
 *
 * The threads of a block are fibres on one core, blocks run one after the other. A thread runs until it stands at a
 * barrier or a warp-wide instruction; who runs next is drawn at random from simt_seed, so an order that a kernel relies
 * on without a barrier shows. What kernels may use is what kernels/cuda/dev/ptx.cuh declares; here stand the same
 * names with these checks, the first of which to fail ends the launch (error 719) and is told by simt_report():
 *
 *   shared memory   outside its arrays; unaligned; read before it was written; written and read, or written twice, by
 *                   two threads with no barrier between (__syncwarp counts within a warp); more than 99 KB a block
 *   cp.async        a destination read or written before the copy's wait; copies land only at the wait, of the thread
 *                   that issued them, and the destination holds NaNs until then
 *   global memory   through dl_ld/dl_st: outside the buffers of simt_alloc, unaligned; by plain pointers: the pages
 *                   about a buffer are inaccessible, and the bytes next to it are compared after the launch
 *   barriers        threads at different barriers, or some at one while others have ended; a warp-wide instruction that
 *                   not all 32 lanes reach
 *
 * Numbers: mma.sync multiplies exactly and adds in double, rounding to f32 once an instruction, which is no worse than
 * the hardware but with e4m3 (simt_e4m3_sum_bits); ex2 and rsqrt are the C library's. Not imitated: warps in step, caches, global races, time.
 */
#ifndef TESTS_SIMT_H
#define TESTS_SIMT_H

#define DL_SIMT 1

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <vector>

extern "C" {
#include "engine/type.h"
}

/* ---- for tests ---- */

extern uint64_t simt_seed;       /* order of threads; every launch draws from it */
const char *simt_report(void);   /* of the last launch; "" when nothing was wrong */
void *simt_alloc(int64_t bytes); /* registered global memory, all bytes 0xff, at an address of 16 n */
void simt_free_all(void);
int simt_launches(void); /* launches since the start */
extern int simt_cc; /* 80; 90: dynamic shared memory is that of tests/simt/hopper.h, up to 227 KB */
/* Fraction bits that mma of e4m3 keeps of a sum, going in and coming out, the rest cut off; 23. Some GPUs have 13. */
extern int simt_e4m3_sum_bits;

/* ---- CUDA's words ---- */

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct CUstream_st;
typedef CUstream_st *cudaStream_t;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }

struct dl_half {
    enum { type = DL_F16 };
    uint16_t bits;
};
struct dl_bf16 {
    enum { type = DL_BF16 };
    uint16_t bits;
};
struct dl_e4m3 {
    enum { type = DL_E4M3 };
    uint8_t bits;
};
enum { DL_HAS_E4M3 = 1, DL_SHORT_E4M3 = 1 };

namespace simt
{

struct thread_id {
    dim3 tid, bid, bdim, gdim;
};
extern thread_id *self; /* the thread that runs */

int launch(const char *name, dim3 grid, dim3 block, size_t smem, void (*call)(void *), void *arg);
/* Launches that are kept to be run later, as a graph's are; their arguments are those of now. */
typedef std::vector<std::function<int()> > recording;
extern recording *recorder; /* not NULL: launches go there and run nothing */
template <class F> int launch(const char *name, dim3 grid, dim3 block, size_t smem, cudaStream_t, F f)
{
    auto run = [=]() mutable { return launch(name, grid, block, smem, [](void *p) { (*static_cast<F *>(p))(); }, &f); };
    if (!recorder) return run();
    recorder->push_back(run);
    return 0;
}

enum access { READ, WRITE, ATOMIC };
void shared_access(const uint8_t *p, size_t size, size_t align, access how);
void global_access(const void *p, size_t size, size_t align, access how);
uint8_t *shared_dyn(size_t align);
uint8_t *shared_fixed(const void *key, size_t bytes);
void barrier(const char *file, int line);
void warp_barrier(const char *file, int line);
/* Waits until all lanes stand here; the last calls fn with their slots in the order of lanes. */
void collective(const char *what, void *slot, void (*fn)(void *const slot[32]));
void copy_async(uint8_t *dst, const void *src, int bytes);
void copy_commit(void);
void copy_wait(int groups);

template <class T> struct sref {
    uint8_t *p;
    operator T() const
    {
        shared_access(p, sizeof(T), alignof(T), READ);
        T v;
        memcpy(&v, p, sizeof v);
        return v;
    }
    const sref &operator=(T v) const
    {
        shared_access(p, sizeof(T), alignof(T), WRITE);
        memcpy(p, &v, sizeof v);
        return *this;
    }
    const sref &operator=(const sref &o) const { return *this = static_cast<T>(o); }
    const sref &operator+=(T v) const { return *this = static_cast<T>(static_cast<T>(*this) + v); }
    sref(uint8_t *q) : p(q) {}
    sref(const sref &) = default;
};

template <class T> struct sptr {
    uint8_t *p;
    sref<T> operator[](int64_t i) const { return sref<T>(p + i * (int64_t)sizeof(T)); }
    sref<T> operator*() const { return sref<T>(p); }
    sptr operator+(int64_t i) const { return {p + i * (int64_t)sizeof(T)}; }
};

} // namespace simt

#define threadIdx (simt::self->tid)
#define blockIdx (simt::self->bid)
#define blockDim (simt::self->bdim)
#define gridDim (simt::self->gdim)

/* ---- what dev/ptx.cuh declares ---- */

template <class T> using dl_sptr = simt::sptr<T>;
template <class U, class T> inline dl_sptr<U> dl_scast(dl_sptr<T> s) { return {s.p}; }

#define DL_LAUNCH(kernel, grid, block, smem, stream, ...)                                                              \
    simt::launch(#kernel, grid, block, smem, stream, [=] { kernel(__VA_ARGS__); })
template <class K> inline int dl_compiled_for(K) { return simt_cc; }
#define DL_DYN_SHARED(T, name) dl_sptr<T> name = {simt::shared_dyn(alignof(T))}
#define DL_SHARED(T, name, count)                                                                                      \
    static const char name##_key = 0;                                                                                  \
    dl_sptr<T> name = {simt::shared_fixed(&name##_key, sizeof(T) * (count))}

#define __syncthreads() simt::barrier(__FILE__, __LINE__)
#define __syncwarp() simt::warp_barrier(__FILE__, __LINE__)

template <class T> inline T dl_ld(const T *p)
{
    simt::global_access(p, sizeof(T), alignof(T), simt::READ);
    T v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class T> inline void dl_st(T *p, T v)
{
    simt::global_access(p, sizeof(T), alignof(T), simt::WRITE);
    memcpy(p, &v, sizeof v);
}

float dl_shfl_xor(float v, int mask);
float dl_shfl_down(float v, int by); /* lanes at the end keep their own */
float dl_shfl(float v, int lane);
uint32_t dl_ballot(bool v);
static inline bool dl_any(bool v) { return dl_ballot(v) != 0; }
static inline bool dl_all(bool v) { return dl_ballot(v) == 0xffffffffu; }

void dl_ldmatrix_raw(uint32_t *r, int count, uint8_t *row, bool trans);
template <class T> inline void dl_ldmatrix4(uint32_t r[4], dl_sptr<T> row) { dl_ldmatrix_raw(r, 4, row.p, false); }
template <class T> inline void dl_ldmatrix4_t(uint32_t r[4], dl_sptr<T> row) { dl_ldmatrix_raw(r, 4, row.p, true); }
template <class T> inline void dl_ldmatrix2(uint32_t r[2], dl_sptr<T> row) { dl_ldmatrix_raw(r, 2, row.p, false); }
template <class T> inline void dl_ldmatrix2_t(uint32_t r[2], dl_sptr<T> row) { dl_ldmatrix_raw(r, 2, row.p, true); }
void dl_mma_raw(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, int type);
template <class T> inline void dl_mma8(float d[4], const uint32_t a[2], uint32_t b)
{
    uint32_t wide[4] = {a[0], a[1], 0, 0}; /* the upper 8 of k are zeros */
    dl_mma_raw(d, wide, b, 0, T::type);
}
template <class T> inline void dl_mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    dl_mma_raw(d, a, b0, b1, T::type);
}

template <class T> inline void dl_cp_async16(dl_sptr<T> dst, const void *src, bool real)
{
    simt::copy_async(dst.p, src, real ? 16 : 0);
}
static inline void dl_cp_commit() { simt::copy_commit(); }
template <int N> inline void dl_cp_wait() { simt::copy_wait(N); }

static inline uint32_t dl_atomic_add(dl_sptr<uint32_t> p, uint32_t v)
{
    simt::shared_access(p.p, 4, 4, simt::ATOMIC);
    uint32_t old;
    memcpy(&old, p.p, 4);
    uint32_t sum = old + v;
    memcpy(p.p, &sum, 4);
    return old;
}

static inline float dl_min(float a, float b) { return fminf(a, b); }
static inline float dl_max(float a, float b) { return fmaxf(a, b); }
static inline float dl_div_fast(float a, float b) { return a / b; }
static inline float dl_sinpi(float x) { return (float)sin(M_PI * (double)x); }
static inline float dl_cospi(float x) { return (float)cos(M_PI * (double)x); }
static inline void dl_sincos_fast(float x, float *s, float *c) { *s = sinf(x), *c = cosf(x); }
static inline float2 dl_f16x2_to(uint32_t u) { return {dl_f16_to((uint16_t)u), dl_f16_to((uint16_t)(u >> 16))}; }
template <class T> inline uint32_t dl_pack2(float lo, float hi)
{
    return (int)T::type == (int)DL_F16 ? (uint32_t)dl_f16_of(lo) | (uint32_t)dl_f16_of(hi) << 16
                                       : (uint32_t)dl_bf16_of(lo) | (uint32_t)dl_bf16_of(hi) << 16;
}
static inline float dl_ex2(float x) { return exp2f(x); }
static inline float dl_rsqrt(float x) { return 1 / sqrtf(x); }
static inline float dl_rcp(float x) { return 1 / x; }
static inline float dl_to_f32(float v) { return v; }
static inline float dl_to_f32(dl_half v) { return dl_f16_to(v.bits); }
static inline float dl_to_f32(dl_bf16 v) { return dl_bf16_to(v.bits); }
static inline void dl_of_f32(float &d, float v) { d = v; }
static inline void dl_of_f32(dl_half &d, float v) { d.bits = dl_f16_of(v); }
static inline void dl_of_f32(dl_bf16 &d, float v) { d.bits = dl_bf16_of(v); }
static inline float dl_mul_rn(float a, float b) { return a * b; }
static inline float dl_add_rn(float a, float b) { return a + b; }
static inline float dl_sub_rn(float a, float b) { return a - b; }
static inline float dl_div_rn(float a, float b) { return a / b; }
static inline uint32_t dl_f32_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
}
static inline float dl_bits_f32(uint32_t u)
{
    float v;
    memcpy(&v, &u, 4);
    return v;
}

#endif
