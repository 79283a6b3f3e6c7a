/* Attention of any type and head dim: one block for each (query, head, row), in three passes over the keys: scores into
 * shared memory, their exponentials, the sum over values. For what cuda_attn does not take: f32 (the text encoders)
 * and head dims that are no multiple of 8. Bound: keys + head dim in 99 KB of shared memory. */
#include "kernels/cuda/igemm.h"
#include "kernels/cuda/kernels.h"

#include "kernels/cuda/dev/ptx.cuh"

#include <math.h>

namespace {

enum { THREADS = 128, WARPS = THREADS / 32, SMEM_MAX = 99 << 10 };

struct params {
    cuda_attn_args a;
    int32_t tq, tk, d;
};

template <class T> __device__ __forceinline__ float at(const dl_act &a, int64_t row, int64_t token, int64_t c)
{
    return dl_to_f32(dl_ld((const T *)a.p + row * a.rs + token * a.ld + c));
}

template <class T> __device__ __forceinline__ void store_as(void *p, int64_t i, float v)
{
    T q;
    dl_of_f32(q, v);
    dl_st((T *)p + i, q);
}

__device__ __forceinline__ void store(const dl_act &y, int64_t i, float v)
{
    if (y.t == DL_F32) store_as<float>(y.p, i, v);
    else if (y.t == DL_F16) store_as<dl_half>(y.p, i, v);
    else store_as<dl_bf16>(y.p, i, v);
}

template <class T> __global__ __launch_bounds__(THREADS) void attn_plain(const params p)
{
    DL_DYN_SHARED(float, query); /* [d], then the scores [tk] */
    DL_SHARED(float, part, WARPS);
    dl_sptr<float> score = query + p.d;
    const cuda_attn_args &a = p.a;
    const int32_t tid = (int32_t)threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const int32_t i = (int32_t)blockIdx.x, head = (int32_t)blockIdx.y, row = (int32_t)blockIdx.z, c0 = head * p.d;
    const int32_t kv = a.kv_row ? dl_ld(a.kv_row + row) : a.k.n == 1 ? 0 : row;
    const int32_t keys = a.causal && i + 1 < p.tk ? i + 1 : p.tk;

    for (int32_t c = tid; c < p.d; c += THREADS) query[c] = at<T>(a.q, row, i, c0 + c) * a.scale;
    __syncthreads();
    float top = -INFINITY;
    for (int32_t j = warp; j < keys; j += WARPS) {
        float s = 0;
        for (int32_t c = lane; c < p.d; c += 32) s = fmaf(query[c], at<T>(a.k, kv, j, c0 + c), s);
        for (int off = 16; off; off >>= 1) s += dl_shfl_xor(s, off);
        if (a.bias.p) s += dl_ld((const float *)a.bias.p + head * a.bias.rs + ((int64_t)i * p.tk + j) * a.bias.ld);
        if (a.key_mask && !dl_ld(a.key_mask + (int64_t)kv * p.tk + j)) s = -INFINITY;
        if (lane == 0) score[j] = s;
        top = fmaxf(top, s);
    }
    if (lane == 0) part[warp] = top;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, part[w]);
    __syncthreads();
    float sum = 0;
    for (int32_t j = tid; j < keys; j += THREADS) {
        float e = top == -INFINITY ? 0.0f : expf(score[j] - top);
        score[j] = e;
        sum += e;
    }
    for (int off = 16; off; off >>= 1) sum += dl_shfl_xor(sum, off);
    if (lane == 0) part[warp] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < WARPS; w++) sum += part[w];
    for (int32_t c = tid; c < p.d; c += THREADS) {
        float v = 0;
        for (int32_t j = 0; j < keys; j++) v = fmaf(score[j], at<T>(a.v, kv, j, c0 + c), v);
        store(a.y, row * a.y.rs + (int64_t)i * a.y.ld + c0 + c, sum > 0 ? v / sum : 0.0f);
    }
}

template <class T> int run(cudaStream_t s, const params &p, size_t smem)
{
    return DL_LAUNCH(attn_plain<T>, dim3((unsigned)p.tq, (unsigned)p.a.heads, (unsigned)p.a.q.n), dim3(THREADS), smem,
                     s, p);
}

} // namespace

int cuda_attn_plain(struct CUstream_st *s, const struct cuda_attn_args *a)
{
    params p = {};
    p.a = *a, p.tq = a->q.h * a->q.w, p.tk = a->k.h * a->k.w, p.d = a->q.c / a->heads;
    size_t smem = ((size_t)p.d + (size_t)p.tk) * sizeof(float);
    if (smem + WARPS * sizeof(float) > SMEM_MAX || a->heads > 65535 || a->q.n > 65535) return CUDA_K_UNSUPPORTED;
    bool y_ok = a->y.t == DL_F32 || a->y.t == DL_F16 || a->y.t == DL_BF16;
    if (a->k.t != a->q.t || a->v.t != a->q.t || !y_ok) return CUDA_K_UNSUPPORTED;
    if (a->q.t == DL_F32) return run<float>(s, p, smem);
    if (a->q.t == DL_F16) return run<dl_half>(s, p, smem);
    if (a->q.t == DL_BF16) return run<dl_bf16>(s, p, smem);
    return CUDA_K_UNSUPPORTED;
}
