/* rope.cu: what attention needs besides products: norms of heads with rotary positions, T5's position bias, the mean
 * over tokens.
 *
 * Computes: cuda_rope, cuda_rel_bias, cuda_token_mean of kernels.h. Sums in f32, in one fixed order.
 * Needs: sm_80. The fast variant of rope wants x and y of one type, 16-byte pitches, heads of a multiple of 8 channels
 *     and at most 256; the rest goes to rope_any.
 * How: rope: 8 channels of a head a thread, the threads of a head next to each other in a warp (2^n of them, some idle
 *     where d is no such multiple of 8), the mean square by shuffles; read once, written once. A thread has the same
 *     channels of all its heads: both gammas stay in registers for the block's tokens, the angles for a token; three
 *     heads are fetched before the first is turned.
 *     Bias: an element a thread; the buckets come from the host. Mean: a block takes 32 channels of a row, 8 threads
 *     share a channel's tokens.
 * Budget: rope 72 registers on sm_80 to 90a, 80 on sm_120 and of f32; token_mean 1 KB + of shared memory.
 * Speed: not measured yet. Computed for an H200 as in norm.cu (11 KB needed), FLUX's 48 heads of 128 in bf16: 36 KB
 *     under way on a multiprocessor, 61 % of the issue slots (a thread a head took 123 %: divisions, gammas, angles).
 *     Bias and mean run once a prompt.
 * Traps: y may be x: a head is read by its own threads only, before any of them writes. Threads beyond the last head
 *     take part in the shuffles, so they must not leave early.
 */
#include "kernels/cuda/dev/convert.cuh"
#include "kernels/cuda/dev/reduce.cuh"

/* v[2j], v[2j + 1] by the angle whose cosine and sine are turn[2j], turn[2j + 1]. */
__device__ __forceinline__ void rope_turn(float *v, const float *turn)
{
    float x0 = v[0], x1 = v[1];
    v[0] = x0 * turn[0] - x1 * turn[1];
    v[1] = x1 * turn[0] + x0 * turn[1];
}

enum { ROPE_U = 3 }; /* heads that a thread fetches before it turns the first: FLUX's 48 of 128 are one batch */

/* x and y are of type T; L threads have a head, 8 L >= d. */
template <int T_, int L_> struct rope_cfg {
    enum { T = T_, L = L_, SIDE = K_THREADS / L_ };
};

/* tokens: of a block. */
template <class C> __global__ void __launch_bounds__(K_THREADS, 3) rope_kernel(cuda_rope_args a, uint32_t tokens)
{
    uint32_t heads = (uint32_t)a.heads, d = (uint32_t)a.x.c / heads, j = threadIdx.x % C::L * 8;
    uint32_t first = threadIdx.x / C::L, all = (uint32_t)(a.x.h * a.x.w);
    float gamma[2][8], turn[8], v[8], by = dl_rcp((float)d);
    k_raw<8> r[ROPE_U]; /* zeros stay where a head has no such channels */
    for (int u = 0; u < ROPE_U; u++) r[u] = k_raw<8>();
    for (int k = 0; k < 8; k++) gamma[0][k] = gamma[1][k] = turn[k] = 0;
    if (a.gamma[0] && j < d) {
        k_load<8>(gamma[0], a.gamma[0] + j);
        k_load<8>(gamma[1], a.gamma[1] + j);
    }
    for (uint32_t t = blockIdx.x * tokens; t < (blockIdx.x + 1) * tokens && t < all; t++) {
        int64_t x = k_at(a.x, blockIdx.y, t, first * d + j), y = k_at(a.y, blockIdx.y, t, first * d + j);
        if (a.table && j < d) k_load<8>(turn, a.table + (int64_t)t * d + j);
        for (uint32_t h0 = 0; h0 < heads; h0 += ROPE_U * C::SIDE) { /* all threads, for the shuffles */
#pragma unroll
            for (uint32_t u = 0; u < ROPE_U; u++) {
                uint32_t h = h0 + u * C::SIDE;
                if (h + first < heads && j < d) k_fetch(r[u], a.x.p, C::T, x + h * d);
            }
#pragma unroll
            for (uint32_t u = 0; u < ROPE_U; u++) {
                uint32_t h = h0 + u * C::SIDE;
                k_widen(v, r[u], C::T);
                if (a.gamma[0]) {
                    float sum = 0;
                    for (int k = 0; k < 8; k++) sum += v[k] * v[k];
                    for (int m = C::L / 2; m > 0; m /= 2) sum += dl_shfl_xor(sum, m);
                    float rstd = dl_rsqrt(sum * by + a.eps);
                    for (int k = 0; k < 8; k++) v[k] *= rstd * (2 * (h + first) >= heads ? gamma[1][k] : gamma[0][k]);
                }
                if (h + first >= heads || j >= d) continue;
                if (a.table)
                    for (int k = 0; k < 8; k += 2) rope_turn(v + k, turn + k);
                k_store_t<8>(a.y.p, C::T, y + h * d, v);
            }
        }
    }
}

/* Any types, pitches and heads: a warp a head, a pair of channels a turn, x read twice. */
__global__ void __launch_bounds__(K_THREADS) rope_any(cuda_rope_args a)
{
    uint32_t item = (blockIdx.x * (uint32_t)K_THREADS + threadIdx.x) / 32, d = (uint32_t)(a.x.c / a.heads);
    uint32_t token = item / (uint32_t)a.heads, head = item % (uint32_t)a.heads;
    if ((int64_t)token >= (int64_t)a.x.h * a.x.w) return; /* the whole warp */
    int64_t x = k_at(a.x, blockIdx.y, token, head * d), y = k_at(a.y, blockIdx.y, token, head * d);
    const float *gamma = 2 * head >= (uint32_t)a.heads ? a.gamma[1] : a.gamma[0];
    float sum = 0, rstd = 1, v[2];
    if (gamma) {
        for (uint32_t j = threadIdx.x % 32; j < d; j += 32) {
            k_load_t<1>(v, a.x.p, a.x.t, x + j);
            sum += v[0] * v[0];
        }
        rstd = dl_rsqrt(k_warp_sum(sum) / (float)d + a.eps);
    }
    for (uint32_t j = threadIdx.x % 32 * 2; j < d; j += 64) {
        int pair = j + 1 < d ? 2 : 1; /* an odd d has no rotation */
        for (int k = 0; k < pair; k++) {
            k_load_t<1>(v + k, a.x.p, a.x.t, x + j + k);
            if (gamma) v[k] *= rstd * dl_ld(gamma + j + k);
        }
        if (a.table) {
            const float *t = a.table + (int64_t)token * d + j;
            float turn[2] = {dl_ld(t), dl_ld(t + 1)};
            rope_turn(v, turn);
        }
        for (int k = 0; k < pair; k++) k_store_t<1>(a.y.p, a.y.t, y + j + k, v + k);
    }
}

template <class C> static int rope_run(struct CUstream_st *s, const cuda_rope_args &a)
{
    int64_t tokens = 4;
    while (tokens > 1 && k_pixels(&a.x) * a.x.n / tokens < 2048) tokens /= 2;
    dim3 grid((unsigned)((k_pixels(&a.x) + tokens - 1) / tokens), (unsigned)a.x.n);
    return DL_LAUNCH(rope_kernel<C>, grid, K_THREADS, 0, s, a, (uint32_t)tokens);
}

template <int T> static int rope_pick(struct CUstream_st *s, const cuda_rope_args &a)
{
    if (a.x.c / a.heads <= 64) return rope_run<rope_cfg<T, 8> >(s, a);
    if (a.x.c / a.heads <= 128) return rope_run<rope_cfg<T, 16> >(s, a);
    return rope_run<rope_cfg<T, 32> >(s, a);
}

int cuda_rope(struct CUstream_st *s, const struct cuda_rope_args *args)
{
    struct cuda_rope_args a = *args;
    if (a.heads < 1 || a.x.c < 1 || a.x.c % a.heads || a.x.n < 1 || a.x.n > K_MAX_ROWS || !k_float(a.x.t) ||
        !k_float(a.y.t) || !a.gamma[0] != !a.gamma[1] || (a.table && a.x.c / a.heads % 2))
        return CUDA_K_UNSUPPORTED;
    int64_t d = a.x.c / a.heads;
    unsigned blocks = k_blocks(k_pixels(&a.x) * a.heads * 32);
    bool fast = a.x.t == a.y.t && d % 8 == 0 && d <= 256 && k_act_ok(&a.x) && k_act_ok(&a.y) &&
                k_ptr_ok(a.gamma[0]) && k_ptr_ok(a.gamma[1]) && k_ptr_ok(a.table);
    if (!blocks) return CUDA_K_UNSUPPORTED;
    if (fast && a.x.t == DL_F32) return rope_pick<DL_F32>(s, a);
    if (fast && a.x.t == DL_F16) return rope_pick<DL_F16>(s, a);
    if (fast) return rope_pick<DL_BF16>(s, a);
    return DL_LAUNCH(rope_any, dim3(blocks, (unsigned)a.x.n), K_THREADS, 0, s, a);
}

/* blockIdx.y: head. */
__global__ void __launch_bounds__(K_THREADS) rel_bias_kernel(cuda_rel_bias_args a)
{
    uint32_t i = blockIdx.x * (uint32_t)K_THREADS + threadIdx.x, q = i / (uint32_t)a.y.w, k = i % (uint32_t)a.y.w;
    if (q >= (uint32_t)a.y.h) return;
    int64_t bucket = dl_ld(a.bucket + (k + (uint32_t)a.y.h - 1 - q));
    dl_st(static_cast<float *>(a.y.p) + k_at(a.y, blockIdx.y, i, 0), dl_ld(a.table + bucket * a.y.n + blockIdx.y));
}

int cuda_rel_bias(struct CUstream_st *s, const struct cuda_rel_bias_args *args)
{
    struct cuda_rel_bias_args a = *args;
    unsigned blocks = k_blocks(k_pixels(&a.y));
    if (!blocks || a.y.n < 1 || a.y.n > K_MAX_ROWS || a.y.t != DL_F32 || a.y.c != 1) return CUDA_K_UNSUPPORTED;
    return DL_LAUNCH(rel_bias_kernel, dim3(blocks, (unsigned)a.y.n), K_THREADS, 0, s, a);
}

__global__ void __launch_bounds__(K_THREADS) token_mean_kernel(cuda_token_mean_args a)
{
    DL_SHARED(float, part, K_THREADS);
    int c = (int)(blockIdx.x * 32 + threadIdx.x % 32), first = (int)threadIdx.x / 32;
    int64_t tokens = (int64_t)a.x.h * a.x.w;
    float sum = 0, v;
    for (int64_t p = first; p < tokens && c < a.x.c; p += K_THREADS / 32) {
        k_load_t<1>(&v, a.x.p, a.x.t, k_at(a.x, blockIdx.y, p, c));
        sum += v;
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (first > 0 || c >= a.x.c) return;
    for (int k = 1; k < K_THREADS / 32; k++) sum += part[k * 32 + threadIdx.x];
    v = sum / (float)tokens + (a.pos ? dl_ld(a.pos + c) : 0);
    k_store_t<1>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, 0, c), &v);
}

int cuda_token_mean(struct CUstream_st *s, const struct cuda_token_mean_args *args)
{
    struct cuda_token_mean_args a = *args;
    if (a.x.n < 1 || a.x.n > K_MAX_ROWS || a.x.c < 1 || a.x.c > INT32_MAX - 31 || k_pixels(&a.x) < 1 ||
        !k_float(a.x.t) || !k_float(a.y.t))
        return CUDA_K_UNSUPPORTED;
    return DL_LAUNCH(token_mean_kernel, dim3((unsigned)(a.x.c + 31) / 32, (unsigned)a.x.n), K_THREADS, 0, s, a);
}
