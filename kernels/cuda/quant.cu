/* quant.cu: activations to e4m3, each pixel with its own scale.
 *
 * Computes: cuda_quant of kernels.h; the bits of engine/e4m3.h.
 * Needs: sm_80 to be compiled; what reads its result needs sm_89. The fast variant wants 16-byte accesses of x and
 *     c <= 16384; the rest goes to quant_any.
 * How: 32, 128 or 512 threads have a pixel, four vectors of 8 channels each as they lie in memory, all fetched before
 *     the largest magnitude is looked for; x is read once. From sm_89 on one instruction rounds two values, before it
 *     integers do. A vector's result is 8 bytes, a warp's 256 in a row, which memory takes as well as 16 a thread.
 * Budget: 33 to 40 registers on sm_90a (f32: 58); a float a warp of shared memory.
 * Speed: not measured yet. Computed for an H200 as in norm.cu (two thirds of the traffic are loads: 15 KB needed), 3072
 *     channels of bf16: 72 KB under way on a multiprocessor, 48 % of the issue slots.
 * Traps: the gain is a rounded quotient and the product rounded again, as on the host: a fused or approximate division
 *     would give other bits.
 */
#include "kernels/cuda/dev/convert.cuh"
#include "kernels/cuda/dev/e4m3.cuh"
#include "kernels/cuda/dev/reduce.cuh"

enum { QUANT_K = 4 }; /* vectors of 8 channels of a thread */

/* L threads have a pixel. */
template <int T_, int L_> struct quant_cfg {
    enum { T = T_, L = L_, W = L_ / 32, THREADS = L_ < 128 ? 128 : L_, PIXELS = THREADS / L_ };
};

__device__ __forceinline__ float quant_gain(float amax) { return amax > 1e-30f ? dl_div_rn(448.0f, amax) : 0; }

template <class C> __global__ void __launch_bounds__(C::THREADS) quant_kernel(cuda_quant_args a)
{
    DL_SHARED(float, tmp, C::W);
    int64_t pixels = (int64_t)a.x.h * a.x.w, pixel = blockIdx.x * (int64_t)C::PIXELS + threadIdx.x / C::L;
    if (pixel >= pixels) return; /* with W > 1 all threads have the same pixel */
    int first = (int)(threadIdx.x % C::L) * 8;
    int64_t from = k_at(a.x, blockIdx.y, pixel, first), at = blockIdx.y * pixels + pixel;
    float v[8], least = 0; /* of what is not above zero: reduce.cuh has minima */
    k_raw<8> r[QUANT_K];
#pragma unroll
    for (int k = 0; k < QUANT_K; k++)
        if (first + k * 8 * C::L < a.x.c) k_fetch(r[k], a.x.p, C::T, from + k * 8 * C::L);
#pragma unroll
    for (int k = 0; k < QUANT_K; k++) {
        if (first + k * 8 * C::L >= a.x.c) continue;
        k_widen(v, r[k], C::T);
        for (int j = 0; j < 8; j++) least = dl_min(least, -fabsf(v[j]));
    }
    float amax = C::W == 1 ? -k_warp_min(least) : -k_block_min<C::W>(least, tmp), gain = quant_gain(amax);
#pragma unroll
    for (int k = 0; k < QUANT_K; k++) {
        if (first + k * 8 * C::L >= a.x.c) continue;
        k_widen(v, r[k], C::T);
        for (int j = 0; j < 8; j++) v[j] = dl_mul_rn(v[j], gain);
        dl_st(reinterpret_cast<uint2 *>(a.q + at * a.x.c + first + k * 8 * C::L),
              make_uint2(k_e4m3_of4(v), k_e4m3_of4(v + 4)));
    }
    if (first == 0) dl_st(a.scale + at, dl_div_rn(amax, 448.0f));
}

/* Any pitches and channels: a block a pixel, x read twice. */
__global__ void __launch_bounds__(K_THREADS) quant_any(cuda_quant_args a)
{
    DL_SHARED(float, tmp, K_THREADS / 32);
    int64_t from = k_at(a.x, blockIdx.y, blockIdx.x, 0), at = blockIdx.y * (int64_t)a.x.h * a.x.w + blockIdx.x;
    float v, least = 0;
    for (int c = (int)threadIdx.x; c < a.x.c; c += K_THREADS) {
        k_load_t<1>(&v, a.x.p, a.x.t, from + c);
        least = dl_min(least, -fabsf(v));
    }
    float amax = -k_block_min<K_THREADS / 32>(least, tmp), gain = quant_gain(amax);
    for (int c = (int)threadIdx.x; c < a.x.c; c += K_THREADS) {
        k_load_t<1>(&v, a.x.p, a.x.t, from + c);
        dl_st(a.q + at * a.x.c + c, (uint8_t)k_e4m3_of(dl_mul_rn(v, gain)));
    }
    if (threadIdx.x == 0) dl_st(a.scale + at, dl_div_rn(amax, 448.0f));
}

template <class C> static int quant_run(struct CUstream_st *s, const cuda_quant_args &a)
{
    dim3 grid((unsigned)((k_pixels(&a.x) + C::PIXELS - 1) / C::PIXELS), (unsigned)a.x.n);
    return DL_LAUNCH(quant_kernel<C>, grid, C::THREADS, 0, s, a);
}

template <int T> static int quant_pick(struct CUstream_st *s, const cuda_quant_args &a)
{
    if (a.x.c <= 8 * QUANT_K * 32) return quant_run<quant_cfg<T, 32> >(s, a);
    if (a.x.c <= 8 * QUANT_K * 128) return quant_run<quant_cfg<T, 128> >(s, a);
    return quant_run<quant_cfg<T, 512> >(s, a);
}

int cuda_quant(struct CUstream_st *s, const struct cuda_quant_args *args)
{
    const cuda_quant_args &a = *args;
    if (a.x.n < 1 || a.x.n > K_MAX_ROWS || a.x.c < 16 || a.x.c % 16 || !k_float(a.x.t) || !k_ptr_ok(a.q) ||
        k_pixels(&a.x) < 1 || k_pixels(&a.x) > INT32_MAX)
        return CUDA_K_UNSUPPORTED;
    bool fast = k_act_ok(&a.x) && a.x.c <= 8 * QUANT_K * 512;
    if (fast && a.x.t == DL_F32) return quant_pick<DL_F32>(s, a);
    if (fast && a.x.t == DL_F16) return quant_pick<DL_F16>(s, a);
    if (fast) return quant_pick<DL_BF16>(s, a);
    return DL_LAUNCH(quant_any, dim3((unsigned)k_pixels(&a.x), (unsigned)a.x.n), K_THREADS, 0, s, a);
}
