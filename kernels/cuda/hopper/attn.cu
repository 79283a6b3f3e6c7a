/* hopper/attn.cu: attention without a score matrix for compute capability 9.0: wgmma, TMA, specialised warps.
 *
 * Computes: as cuda_attn (kernels.h), for head dims 40, 64, 80, 128, 160, without bias, key mask and causal order.
 * Needs: sm_90a; tensors as plan.h's hop_attn_serves asks. Any number of queries and keys, kv_row and shared rows.
 * How: FlashAttention-3 (Shah et al. 2024, 2407.08608), forward pass. A block has three warpgroups and takes tiles of
 *     128 queries from a list until it is empty. One thread of warpgroup 0 loads by TMA: Q of the tile, then K and V
 *     in tiles of BN keys, STAGES deep; mbarriers say when a stage is full and when it may be overwritten, for K and V
 *     apart. Warpgroups 1 and 2 compute 64 queries each: scores by wgmma from shared memory, softmax in registers
 *     (hop_acc_* of layout.h), P V by wgmma with P in registers and V as it lies. While the tensor cores do one
 *     warpgroup's scores of tile t and P V of tile t - 1, the other does its exponentials: two named barriers pass the
 *     turn (ping-pong). POLY: each POLY-th exponential runs on the multiply-add units (hop_exp2) where exponentials
 *     are the bound.
 * Budget: one block a multiprocessor; 240 registers for each of the 256 computing threads, 24 for the 128 others. For
 *     128 queries x 128 keys, cycles of a multiprocessor (wgmma: 2,048 products a cycle; 16 exponentials a cycle):
 *
 *       d     shared memory   wgmma   exponentials     registers of scores, P, result
 *       40    145.3 KB          704   1,024 (POLY: 768)     64 + 32 + 20
 *       64    145.3 KB        1,024   1,024 (POLY: 768)     64 + 32 + 32
 *       80    161.3 KB        1,280   1,024                 64 + 32 + 40
 *       128   161.3 KB        2,048   1,024                 64 + 32 + 64
 *       160   145.3 KB        2,560   1,024                 32 + 16 + 80 (BN 64)
 *
 * Speed: compiled and inspected, never run on a GPU. The source runs in tests/simt, TMA, mbarriers and wgmma emulated.
 * Traps: wgmma with n = 40, 32, 16 reads part of a 64-channel block of V: the layout gives every channel its address,
 *     whatever n is. What TMA reads beyond the tensor is zero and counts its bytes; channels 40..63 of a head dim of
 *     40 are beyond it, and not the next head's, since heads are a dimension of their own. Keys beyond the last are
 *     -inf before the softmax, and V's zeros there meet weights of 0. No row is without keys, so no maximum stays
 *     -inf. Each computing warp frees a stage itself (8 arrivals): wait_group speaks for the warp that waits.
 */
#include "kernels/cuda/dev/hopper.cuh"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/plan.h"

#define LOG2E 1.4426950408889634f
#define MINUS_INF dl_bits_f32(0xff800000u)

enum { NONE = 256 }; /* as POLY: more than a thread has scores */

template <class T_, int D_, int BN_, int STAGES_, int POLY_> struct hop_cfg {
    typedef T_ T;
    enum {
        D = D_, BN = BN_, STAGES = STAGES_, POLY = POLY_,
        PANELS = hop_panels(D), KSTEPS = (D + 15) / 16, STEPS = BN / 16,
        N1 = D < 64 ? D : D < 128 ? 64 : 128, N2 = D - N1, /* the result's channels, by one or two products */
        Q_BYTES = hop_tile_bytes(D, HOP_BM), KV_BYTES = hop_tile_bytes(D, BN), SMEM = hop_smem(D, BN, STAGES),
        WARPS = 4 * HOP_GROUPS, /* that compute */
        TURN = 2 * 128          /* threads of a named barrier */
    };
    static_assert((int)SMEM <= (int)HOP_SMEM_MOST && 8 * (2 + 4 * STAGES) <= (int)HOP_BARRIERS, "fits");
};

struct hop_attn_params {
    void *y; /* [rows][tq][heads * d] */
    int64_t y_ld, y_rs;
    const int32_t *kv_row;
    int32_t tq, tk, heads, m_tiles, work;
    int32_t one_kv; /* all rows share row 0 */
    float scale2;   /* scale * log2(e) */
};

/* Addresses in shared memory. */
template <class C> struct hop_smem_map {
    uint32_t q, kv, bars;
    __device__ __forceinline__ uint32_t k(int s) const { return kv + (uint32_t)(2 * s) * C::KV_BYTES; }
    __device__ __forceinline__ uint32_t v(int s) const { return kv + (uint32_t)(2 * s + 1) * C::KV_BYTES; }
    __device__ __forceinline__ uint32_t q_full() const { return bars; }
    __device__ __forceinline__ uint32_t q_empty() const { return bars + 8; }
    __device__ __forceinline__ uint32_t k_full(int s) const { return bars + 16 + (uint32_t)s * 32; }
    __device__ __forceinline__ uint32_t k_empty(int s) const { return bars + 24 + (uint32_t)s * 32; }
    __device__ __forceinline__ uint32_t v_full(int s) const { return bars + 32 + (uint32_t)s * 32; }
    __device__ __forceinline__ uint32_t v_empty(int s) const { return bars + 40 + (uint32_t)s * 32; }
};

/* One tile of the list: queries vary first, so that neighbours share K and V in the cache. */
struct hop_tile {
    int m0, head, row;
};

__device__ __forceinline__ hop_tile tile_of(const hop_attn_params &a, int work)
{
    hop_tile t;
    int rest = work / a.m_tiles;
    t.m0 = work % a.m_tiles * HOP_BM, t.head = rest % a.heads, t.row = rest / a.heads;
    return t;
}

/* The loading thread. The n-th use of stage s waits until its use n - 1 was freed; the wait of the first passes. */
template <class C>
__device__ __forceinline__ void hop_load(const hop_attn_params &a, const hop_smem_map<C> &s, const dl_tensor_map *mq,
                                         const dl_tensor_map *mk, const dl_tensor_map *mv)
{
    const int tiles = (a.tk + C::BN - 1) / C::BN;
    int use = 0, turn = 0; /* tiles of keys and of queries so far */
    dl_tma_prefetch(mq), dl_tma_prefetch(mk), dl_tma_prefetch(mv);
    for (int work = (int)blockIdx.x; work < a.work; work += (int)gridDim.x, turn++) {
        hop_tile at = tile_of(a, work);
        int kv = a.kv_row ? dl_ld(a.kv_row + at.row) : a.one_kv ? 0 : at.row;
        dl_mbar_wait(s.q_empty(), (turn & 1) ^ 1);
        dl_mbar_expect(s.q_full(), C::Q_BYTES);
        for (int p = 0; p < C::PANELS; p++)
            dl_tma_load(s.q + p * HOP_BM * HOP_ROW, mq, s.q_full(), p * HOP_PANEL, at.head, at.m0, at.row);
        for (int t = 0; t < tiles; t++, use++) {
            int stage = use % C::STAGES, freed = (use / C::STAGES & 1) ^ 1;
            dl_mbar_wait(s.k_empty(stage), freed);
            dl_mbar_expect(s.k_full(stage), C::KV_BYTES);
            for (int p = 0; p < C::PANELS; p++)
                dl_tma_load(s.k(stage) + p * C::BN * HOP_ROW, mk, s.k_full(stage), p * HOP_PANEL, at.head, t * C::BN,
                            kv);
            dl_mbar_wait(s.v_empty(stage), freed);
            dl_mbar_expect(s.v_full(stage), C::KV_BYTES);
            for (int p = 0; p < C::PANELS; p++)
                dl_tma_load(s.v(stage) + p * C::BN * HOP_ROW, mv, s.v_full(stage), p * HOP_PANEL, at.head, t * C::BN,
                            kv);
        }
    }
}

/* Until the K of this use of a stage is there. */
template <class C> __device__ __forceinline__ void hop_wait_k(const hop_smem_map<C> &s, int use)
{
    dl_mbar_wait(s.k_full(use % C::STAGES), use / C::STAGES & 1);
}

/* Issues scores [64][BN] = Q K^T of this warpgroup's rows, as one group. */
template <class C> __device__ __forceinline__ void hop_scores(float s[C::BN / 2], uint32_t q, uint32_t k, int group)
{
    dl_hold<C::BN / 2>(s);
    dl_wgmma_fence();
#pragma unroll
    for (int c = 0; c < C::KSTEPS; c++)
        dl_wgmma_ss<typename C::T, C::BN>(s, hop_desc_k(q, HOP_BM, (uint32_t)group * 64, (uint32_t)c),
                                          hop_desc_k(k, C::BN, 0, (uint32_t)c), c > 0);
    dl_wgmma_commit();
}

/* Issues o [64][D] (+)= P V, as one group. */
template <class C>
__device__ __forceinline__ void hop_values(float o[C::D / 2], uint32_t p[C::STEPS][4], uint32_t v, int add)
{
    typedef typename C::T T;
    dl_hold<C::D / 2>(o);
#pragma unroll
    for (int j = 0; j < C::STEPS; j++) dl_hold<4>(p[j]);
    dl_wgmma_fence();
#pragma unroll
    for (int j = 0; j < C::STEPS; j++) {
        dl_wgmma_rs<T, C::N1>(o, p[j], hop_desc_mn(v, C::BN, (uint32_t)j, 0), add || j > 0);
        if constexpr (C::N2 > 0)
            dl_wgmma_rs<T, C::N2>(o + C::N1 / 2, p[j], hop_desc_mn(v, C::BN, (uint32_t)j, C::N1), add || j > 0);
    }
    dl_wgmma_commit();
}

__device__ __forceinline__ float quad_max(float v)
{
    v = dl_max(v, dl_shfl_xor(v, 1));
    return dl_max(v, dl_shfl_xor(v, 2));
}

__device__ __forceinline__ float quad_sum(float v)
{
    v += dl_shfl_xor(v, 1);
    return v + dl_shfl_xor(v, 2);
}

/* Scores of tile t into weights, in place; top and sum go along, shrink [2] is what the result so far is to be
 * multiplied by. */
template <class C>
__device__ __forceinline__ void hop_softmax(float s[C::BN / 2], float top[2], float sum[2], float shrink[2],
                                            float scale2, int keys, int thread)
{
    if (keys < C::BN) {
#pragma unroll
        for (int i = 0; i < C::BN / 2; i++)
            if (hop_acc_col(thread, i) >= keys) s[i] = MINUS_INF;
    }
    float most[2] = {top[0], top[1]}, base[2];
#pragma unroll
    for (int i = 0; i < C::BN / 2; i++) most[i / 2 % 2] = dl_max(most[i / 2 % 2], s[i]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        most[h] = quad_max(most[h]);
        shrink[h] = dl_ex2((top[h] - most[h]) * scale2);
        top[h] = most[h], base[h] = most[h] * scale2, sum[h] *= shrink[h];
    }
#pragma unroll
    for (int i = 0; i < C::BN / 2; i++) {
        float x = fmaf(s[i], scale2, -base[i / 2 % 2]);
        s[i] = i % C::POLY == C::POLY - 1 ? hop_exp2(x) : dl_ex2(x);
        sum[i / 2 % 2] += s[i];
    }
}

/* Weights, rounded, as the operands of the steps of P V. */
template <class C> __device__ __forceinline__ void hop_pack(uint32_t p[C::STEPS][4], const float s[C::BN / 2])
{
#pragma unroll
    for (int j = 0; j < C::STEPS; j++)
#pragma unroll
        for (int r = 0; r < 4; r++) p[j][r] = dl_pack2<typename C::T>(s[8 * j + 2 * r], s[8 * j + 2 * r + 1]);
}

/* A computing warpgroup (0 or 1). */
template <class C>
__device__ __forceinline__ void hop_compute(const hop_attn_params &a, const hop_smem_map<C> &s, int group)
{
    const int thread = (int)threadIdx.x % 128, lane = thread % 32;
    const int tiles = (a.tk + C::BN - 1) / C::BN, rest = a.tk - (tiles - 1) * C::BN;
    const int mine = 1 + group, other = 2 - group; /* named barriers */
    int use = 0, turn = 0;
    if (group == 1) dl_bar_arrive(other, C::TURN); /* the first turn is group 0's */
    for (int work = (int)blockIdx.x; work < a.work; work += (int)gridDim.x, turn++) {
        float o[C::D / 2], sc[C::BN / 2], top[2] = {MINUS_INF, MINUS_INF}, sum[2] = {0, 0}, shrink[2];
        uint32_t p[C::STEPS][4];
#pragma unroll
        for (int i = 0; i < C::D / 2; i++) o[i] = 0;
#pragma unroll
        for (int i = 0; i < C::BN / 2; i++) sc[i] = 0;

        dl_mbar_wait(s.q_full(), turn & 1);
        int stage = use % C::STAGES, full = use / C::STAGES & 1;
        hop_wait_k<C>(s, use);
        hop_scores<C>(sc, s.q, s.k(stage), group);
        dl_wgmma_wait<0>();
        dl_hold<C::BN / 2>(sc);
        if (lane == 0) dl_mbar_arrive(s.k_empty(stage));
        if (lane == 0 && tiles == 1) dl_mbar_arrive(s.q_empty());
        hop_softmax<C>(sc, top, sum, shrink, a.scale2, tiles == 1 ? rest : C::BN, thread);
        hop_pack<C>(p, sc);
        if (tiles > 1) hop_wait_k<C>(s, use + 1);

        for (int t = 1; t < tiles; t++) {
            int before = stage, before_full = full; /* of tile t - 1, whose V is still to come */
            use++, stage = use % C::STAGES, full = use / C::STAGES & 1;
            dl_bar_sync(mine, C::TURN);
            hop_scores<C>(sc, s.q, s.k(stage), group);
            dl_mbar_wait(s.v_full(before), before_full);
            hop_values<C>(o, p, s.v(before), t > 1);
            dl_bar_arrive(other, C::TURN);
            dl_wgmma_wait<1>();
            dl_hold<C::BN / 2>(sc);
            if (lane == 0) dl_mbar_arrive(s.k_empty(stage));
            if (lane == 0 && t == tiles - 1) dl_mbar_arrive(s.q_empty());
            hop_softmax<C>(sc, top, sum, shrink, a.scale2, t == tiles - 1 ? rest : C::BN, thread);
            dl_hold<C::BN / 2>(sc); /* the softmax runs while P V does; this wait, a loop, keeps ptxas from taking */
            if (t + 1 < tiles) hop_wait_k<C>(s, use + 1); /* the one for P V before it */
            dl_wgmma_wait<0>();
            dl_hold<C::D / 2>(o);
            if (lane == 0) dl_mbar_arrive(s.v_empty(before));
#pragma unroll
            for (int i = 0; i < C::D / 2; i++) o[i] *= shrink[i / 2 % 2];
            hop_pack<C>(p, sc);
        }
        dl_mbar_wait(s.v_full(stage), full);
        hop_values<C>(o, p, s.v(stage), tiles > 1);
        dl_wgmma_wait<0>();
        dl_hold<C::D / 2>(o);
        if (lane == 0) dl_mbar_arrive(s.v_empty(stage));
        use++;

        typedef typename C::T T;
        hop_tile at = tile_of(a, work);
        T *y = static_cast<T *>(a.y) + at.row * a.y_rs + at.head * C::D;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float by = 1 / quad_sum(sum[h]);
            int token = at.m0 + group * 64 + hop_acc_row(thread, 2 * h);
            if (token >= a.tq) continue;
#pragma unroll
            for (int i = 2 * h; i < C::D / 2; i += 4)
                dl_st(reinterpret_cast<uint32_t *>(y + token * a.y_ld + hop_acc_col(thread, i)),
                      dl_pack2<T>(o[i] * by, o[i + 1] * by));
        }
    }
    if (group == 0) dl_bar_sync(mine, C::TURN); /* takes the last turn, so that no arrival is left over */
}

template <class C>
__global__ void __launch_bounds__(HOP_THREADS, 1)
    hop_attn_kernel(const hop_attn_params a, DL_MAP_PARAM mq, DL_MAP_PARAM mk, DL_MAP_PARAM mv)
{
    hop_smem_map<C> s;
    s.q = dl_smem_1024(), s.kv = s.q + C::Q_BYTES, s.bars = s.kv + 2 * C::STAGES * C::KV_BYTES;
    if (threadIdx.x == 0) {
        dl_mbar_init(s.q_full(), 1), dl_mbar_init(s.q_empty(), C::WARPS);
        for (int i = 0; i < C::STAGES; i++) {
            dl_mbar_init(s.k_full(i), 1), dl_mbar_init(s.k_empty(i), C::WARPS);
            dl_mbar_init(s.v_full(i), 1), dl_mbar_init(s.v_empty(i), C::WARPS);
        }
        dl_mbar_init_fence();
    }
    __syncthreads();
    const int group = dl_uniform((int)threadIdx.x / 128);
    if (group == 0) {
        dl_regs_fewer<24>();
        if (threadIdx.x == 0) hop_load<C>(a, s, &mq, &mk, &mv);
    } else {
        dl_regs_more<240>();
        hop_compute<C>(a, s, group - 1);
    }
}

/* ---- launch ---- */

template <class C> static int hop_run(struct CUstream_st *stream, const cuda_attn_args &a, void *encode, int sms)
{
    hop_map hq = hop_map_of(&a.q, a.heads, HOP_BM), hk = hop_map_of(&a.k, a.heads, C::BN),
            hv = hop_map_of(&a.v, a.heads, C::BN);
    dl_tensor_map mq, mk, mv;
    if (dl_tensor_map_make(encode, &mq, &hq) || dl_tensor_map_make(encode, &mk, &hk) ||
        dl_tensor_map_make(encode, &mv, &hv))
        return CUDA_K_UNSUPPORTED;
    hop_attn_params p;
    p.y = a.y.p, p.y_ld = a.y.ld, p.y_rs = a.y.rs, p.kv_row = a.kv_row;
    p.tq = a.q.h * a.q.w, p.tk = a.k.h * a.k.w, p.heads = a.heads;
    p.m_tiles = (p.tq + HOP_BM - 1) / HOP_BM, p.work = (int32_t)hop_work(&a);
    p.one_kv = !a.kv_row && a.k.n == 1, p.scale2 = a.scale * LOG2E;
    return DL_LAUNCH(hop_attn_kernel<C>, dim3((unsigned)(p.work < sms ? p.work : sms)), HOP_THREADS, C::SMEM, stream, p,
                     mq, mk, mv);
}

/* The numbers are hop_shape_of's. */
template <class T> static int hop_pick(struct CUstream_st *s, const cuda_attn_args &a, void *encode, int sms)
{
    switch (a.q.c / a.heads) {
    case 40: return hop_run<hop_cfg<T, 40, 128, 4, 4>>(s, a, encode, sms);
    case 64: return hop_run<hop_cfg<T, 64, 128, 4, 4>>(s, a, encode, sms);
    case 80: return hop_run<hop_cfg<T, 80, 128, 2, NONE>>(s, a, encode, sms);
    case 128: return hop_run<hop_cfg<T, 128, 128, 2, NONE>>(s, a, encode, sms);
    case 160: return hop_run<hop_cfg<T, 160, 64, 2, NONE>>(s, a, encode, sms);
    default: return CUDA_K_UNSUPPORTED;
    }
}

const char *cuda_attn_hopper_variant(const struct cuda_attn_args *a, bool always)
{
    if (!hop_attn_serves(a) || !(always || hop_attn_pays(a))) return NULL;
    switch (a->q.c / a->heads) {
    case 40: return "wgmma d40 128x128";
    case 64: return "wgmma d64 128x128";
    case 80: return "wgmma d80 128x128";
    case 128: return "wgmma d128 128x128";
    default: return "wgmma d160 128x64";
    }
}

int cuda_attn_hopper(struct CUstream_st *s, const struct cuda_attn_args *a, void *encode, int sms)
{
    if (!hop_attn_serves(a) || !encode || sms < 1) return CUDA_K_UNSUPPORTED;
    return a->q.t == DL_F16 ? hop_pick<dl_half>(s, *a, encode, sms) : hop_pick<dl_bf16>(s, *a, encode, sms);
}
