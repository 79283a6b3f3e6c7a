/* made.cu: weights whose values are made up, computed where they are used.
 *
 * Computes: cuda_made and cuda_made_e4m3 of kernels.h; the bits of dl_made_value (engine/weight.h) and engine/e4m3.h.
 * Needs: sm_80; any counts. V = 8 where the count and y allow 16-byte stores, else V = 1.
 * How: every element is a function of its number, so an output's thread asks for the element that belongs there, and
 *     no order of the result costs a scattered access. In e4m3 a warp has a row and computes it twice, for the largest
 *     magnitude and for the values.
 * Budget: no shared memory; at most 32 registers. Runs once for each weight, not in any step.
 * Speed: not measured yet; two integer products an element, so stores should bound it.
 * Traps: product and sum are rounded one after the other as on the host: fused they would give other bits.
 */
#include "kernels/cuda/dev/convert.cuh"
#include "kernels/cuda/dev/e4m3.cuh"
#include "kernels/cuda/dev/reduce.cuh"

enum { ROW_THREADS = 128 };

__device__ __forceinline__ float value_at(const dl_made &m, int64_t i)
{
    uint32_t x = (uint32_t)i * 0x9e3779b9u + m.seed;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    x ^= x >> 16;
    return dl_add_rn(m.mean, dl_mul_rn(m.amp, (float)(int32_t)x * 0x1p-31f));
}

/* The number of the element that output i holds. */
__device__ __forceinline__ uint32_t source_of(const cuda_made_args &a, uint32_t i)
{
    uint32_t in = (uint32_t)a.in, taps = (uint32_t)a.taps, out = i / (in * taps), at = i % (in * taps);
    return (out * in + at % in) * taps + at / in;
}

template <int V> __global__ void __launch_bounds__(K_THREADS) made_kernel(cuda_made_args a)
{
    int64_t i = (blockIdx.x * (int64_t)K_THREADS + threadIdx.x) * V;
    if (i >= a.count) return;
    float v[V];
    for (int j = 0; j < V; j++) {
        int64_t from = a.taps > 1 ? source_of(a, (uint32_t)(i + j)) : i + j;
        v[j] = k_round_to(k_round_to(value_at(a.made, from), a.stored), a.t);
    }
    k_store_t<V>(a.y, a.y_t, i, v);
}

int cuda_made(struct CUstream_st *s, const struct cuda_made_args *args)
{
    const cuda_made_args &a = *args;
    bool v8 = a.count % 8 == 0 && k_ptr_ok(a.y);
    unsigned blocks = k_blocks(v8 ? a.count / 8 : a.count);
    if (!blocks || !k_float(a.stored) || !k_float(a.t) || (a.y_t != a.t && a.y_t != DL_F32)) return CUDA_K_UNSUPPORTED;
    if (a.taps > 1 && (a.count > INT32_MAX || a.in < 1)) return CUDA_K_UNSUPPORTED;
    return v8 ? DL_LAUNCH(made_kernel<8>, blocks, K_THREADS, 0, s, a)
              : DL_LAUNCH(made_kernel<1>, blocks, K_THREADS, 0, s, a);
}

__global__ void __launch_bounds__(ROW_THREADS) made_e4m3_kernel(cuda_made_e4m3_args a)
{
    int64_t row = blockIdx.x * (int64_t)(ROW_THREADS / 32) + threadIdx.x / 32;
    if (row >= a.rows) return;
    int first = (int)(threadIdx.x % 32) * 8;
    float v[8], least = 0; /* of what is not above zero: reduce.cuh has minima */
    for (int c = first; c < a.in; c += 32 * 8)
        for (int j = 0; j < 8; j++)
            least = dl_min(least, -fabsf(k_round_to(value_at(a.made, row * a.in + c + j), a.stored)));
    float amax = -k_warp_min(least), gain = amax > 1e-30f ? dl_div_rn(448.0f, amax) : 0;
    for (int c = first; c < a.in; c += 32 * 8) {
        for (int j = 0; j < 8; j++)
            v[j] = dl_mul_rn(k_round_to(value_at(a.made, row * a.in + c + j), a.stored), gain);
        dl_st(reinterpret_cast<uint2 *>(a.q + row * a.in + c), make_uint2(k_e4m3_of4(v), k_e4m3_of4(v + 4)));
    }
    if (first == 0) dl_st(a.scale + row, dl_div_rn(amax, 448.0f));
}

int cuda_made_e4m3(struct CUstream_st *s, const struct cuda_made_e4m3_args *args)
{
    const cuda_made_e4m3_args &a = *args;
    int64_t blocks = (a.rows + ROW_THREADS / 32 - 1) / (ROW_THREADS / 32);
    if (blocks < 1 || blocks > INT32_MAX || a.in < 16 || a.in % 16 || !k_float(a.stored) || !k_ptr_ok(a.q))
        return CUDA_K_UNSUPPORTED;
    return DL_LAUNCH(made_e4m3_kernel, dim3((unsigned)blocks), ROW_THREADS, 0, s, a);
}
