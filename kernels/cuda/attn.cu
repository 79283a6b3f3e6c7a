/* attn.cu: attention without a score matrix, portable tier: mma.sync, ldmatrix, cp.async.
 *
 * Computes: cuda_attn of kernels.h: y = softmax(scale q k^T + bias, masked) v for each head; rows whose keys are all
 *     masked give 0. Scores, softmax and sums in f32; probabilities are rounded to q's type for the second product.
 * Needs: sm_80; f16 or bf16; head dim a multiple of 8 up to 256 (attn_kernel, padded to DP by zeros on load), or 512
 *     (attn_wide_kernel, the VAE's one head).
 * How: the online softmax of FlashAttention-2 (Dao 2023, 2307.08691). attn_kernel: each of the warps has 16 MT queries;
 *     K and V come in tiles of BN keys, two stages of cp.async deep; scores stay in registers and become the A operand
 *     of the second product. Q's fragments are held in registers where they fit (QREG), else read again for each
 *     tile. Pitches of an odd number of 16-byte chunks keep ldmatrix free of bank conflicts. Head dim 40 is two steps of
 *     16 channels and one of 8, without padding. Bias and key mask have kernels of their own (MASKS), so that the others
 *     keep their registers.
 *     attn_wide_kernel: 32 queries, eight warps; a warp computes 16 x 8 scores over all 512 channels, P goes through
 *     shared memory and each warp sums 32 queries x 64 channels. V loads while scores are computed, the next K while V
 *     is used. There is no room for wider pitches; chunks of 16 bytes are swapped instead.
 *     Ways (attn_list): 128 queries by four warps read K and V from shared memory once for 32 queries, at the price of
 *     all registers; tiles of 64 x 32, or eight warps, put 16 warps on a multiprocessor to hide latencies, and read
 *     shared memory twice as much: 128 bytes a clock at sm_80's 1,024 multiply-adds, which is its limit, but 16 to 32 at
 *     the 128 and 256 of sm_86 and sm_89 GeForce cards.
 * Budget: shared memory 4 BN LD * 2 bytes where Q is in registers, else BM rows more: of the 128 x 64 tiles (head dims
 *     32 to 80) 20, 20, 28, 36, 44 KB; 64 x 32: 18 (64), 22 (80), 34 (128), 42 (160), 99 (256); 128 x 32: 52 (96), 68
 *     (128); wide 99. Registers at most 255, 168 and 128 where three and four blocks (two of eight warps) are to fit;
 *     nvcc 13.0 spills nothing for sm_80, 86, 89, 90a, 120.
 * Speed: not measured yet.
 * Traps: -inf - -inf. A row's running maximum stays -inf until a key counts; `base` is then 0. cp.async of a row beyond
 *     the last key fills zeros, so that 0 * NaN cannot come from V. scale > 0 is taken for granted by the maximum.
 */
#include "kernels/cuda/dev/convert.cuh"
#include "kernels/cuda/dev/reduce.cuh"

#define LOG2E 1.4426950408889634f
#define MINUS_INF dl_bits_f32(0xff800000u)

template <class T_, int DP_, int WARPS_, int MT_, int BN_, bool QREG_, int BLOCKS_, bool MASKS_> struct attn_cfg {
    typedef T_ T;
    enum {
        DP = DP_, WARPS = WARPS_, MT = MT_, BN = BN_, QREG = QREG_, MASKS = MASKS_,
        THREADS = 32 * WARPS, BM = 16 * MT * WARPS,
        FULL = DP / 16, REST = DP % 16 / 8, STEPS = FULL + REST, /* of 16 channels, of 8, together */
        LD = REST ? DP : DP + 8, /* pitch in shared memory: an odd number of 16-byte chunks */
        SMEM = ((QREG ? 0 : BM) + 4 * BN) * LD * 2, /* with QREG, Q passes through the second stage */
        BLOCKS = BLOCKS_ /* of a multiprocessor, which the registers must allow */
    };
    static_assert(DP % 8 == 0 && LD / 8 % 2 == 1, "ldmatrix without bank conflicts");
};

/* Tokens [first, first + ROWS) of one row and head into shared memory [ROWS][LD], zeros beyond `tokens` and from
 * channel d to DP. */
template <class C, int ROWS, class T>
__device__ __forceinline__ void attn_load(dl_sptr<T> dst, const T *src, int64_t ld, int first, int tokens, int d)
{
    const int per = C::DP / 8;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < ROWS * per; i += C::THREADS) {
        int r = i / per, c = i % per * 8;
        bool real = first + r < tokens && c < d;
        dl_cp_async16(dst + (r * C::LD + c), src + (real ? (int64_t)(first + r) * ld + c : 0), real);
    }
}

/* The A fragment of rows [row, row + 16), channels [16 k, 16 k + 16) of a tile in shared memory. */
template <class T> __device__ __forceinline__ void frag_a(uint32_t a[4], dl_sptr<T> s, int ld, int row, int k)
{
    int lane = (int)threadIdx.x % 32;
    dl_ldmatrix4(a, s + ((row + lane % 16) * ld + k * 16 + lane / 16 * 8));
}

/* The same of 8 channels [16 k, 16 k + 8). */
template <class T> __device__ __forceinline__ void frag_a8(uint32_t a[2], dl_sptr<T> s, int ld, int row, int k)
{
    int lane = (int)threadIdx.x % 32;
    dl_ldmatrix2(a, s + ((row + lane % 16) * ld + k * 16));
}

/* The B fragments of keys [key, key + 16) as columns: b[0], b[1] of the first 8, b[2], b[3] of the others. */
template <class T> __device__ __forceinline__ void frag_k(uint32_t b[4], dl_sptr<T> s, int ld, int key, int k)
{
    int lane = (int)threadIdx.x % 32;
    dl_ldmatrix4(b, s + ((key + lane / 16 * 8 + lane % 8) * ld + k * 16 + lane / 8 % 2 * 8));
}

/* Of 8 channels: b[0] of the first 8 keys, b[1] of the others. */
template <class T> __device__ __forceinline__ void frag_k8(uint32_t b[2], dl_sptr<T> s, int ld, int key, int k)
{
    frag_a8(b, s, ld, key, k);
}

/* The B fragments of keys [key, key + 16) as rows, channels [c, c + 16): b[0], b[1] of the first 8 channels. */
template <class T> __device__ __forceinline__ void frag_v(uint32_t b[4], dl_sptr<T> s, int ld, int key, int c)
{
    int lane = (int)threadIdx.x % 32;
    dl_ldmatrix4_t(b, s + ((key + lane % 16) * ld + c + lane / 16 * 8));
}

/* Of 8 channels [c, c + 8). */
template <class T> __device__ __forceinline__ void frag_v8(uint32_t b[2], dl_sptr<T> s, int ld, int key, int c)
{
    int lane = (int)threadIdx.x % 32;
    dl_ldmatrix2_t(b, s + ((key + lane % 16) * ld + c));
}

/* What the scores of a tile go through: element e of an accumulator pair has query q0 + e / 2 * 8, key j0 + e % 2. */
struct attn_mask {
    const float *bias;   /* of this head, or NULL */
    const uint8_t *key;  /* of this row, or NULL */
    int64_t bias_ld;     /* from query to query */
    int32_t bias_step;   /* from key to key */
    int32_t tq, tk;
    bool causal;
    float scale2; /* scale * log2(e) */
};

__device__ __forceinline__ attn_mask mask_of(const cuda_attn_args &a, int head, int64_t kv)
{
    attn_mask m;
    m.tq = a.q.h * a.q.w, m.tk = a.k.h * a.k.w;
    m.bias = a.bias.p ? static_cast<const float *>(a.bias.p) + head * a.bias.rs : nullptr;
    m.bias_ld = (int64_t)m.tk * a.bias.ld, m.bias_step = a.bias.ld;
    m.key = a.key_mask ? a.key_mask + kv * m.tk : nullptr;
    m.causal = a.causal;
    m.scale2 = a.scale * LOG2E;
    return m;
}

/* Tiles of keys that queries [m0, m0 + bm) need: with `causal` none beyond the last of them. */
__device__ __forceinline__ int tile_count(const attn_mask &m, int m0, int bm, int bn)
{
    int keys = m.causal && m0 + bm < m.tk ? m0 + bm : m.tk;
    return (keys + bn - 1) / bn;
}

/* s[4] at (q0, j0): with MASKS into exponents of 2, else left as they are; with `check` masked ones become -inf. */
template <bool MASKS>
__device__ __forceinline__ void attn_score(float s[4], const attn_mask &m, int q0, int j0, bool check)
{
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int q = q0 + e / 2 * 8, j = j0 + e % 2;
        if (MASKS) s[e] *= m.scale2;
        if (MASKS && m.bias && q < m.tq && j < m.tk)
            s[e] += LOG2E * dl_ld(m.bias + q * m.bias_ld + (int64_t)j * m.bias_step);
        if (check && (j >= m.tk || (m.causal && j > q))) s[e] = MINUS_INF;
        if (MASKS && m.key && j < m.tk && !dl_ld(m.key + j)) s[e] = MINUS_INF;
    }
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

template <class C> __global__ void __launch_bounds__(C::THREADS, C::BLOCKS) attn_kernel(cuda_attn_args a)
{
    typedef typename C::T T;
    static_assert(C::QREG ? C::BM <= 2 * C::BN : !C::REST, "Q fits a stage");
    DL_DYN_SHARED(T, stages); /* [2][K and V][BN][LD], then Q if it stays */
    dl_sptr<T> sq = stages + (C::QREG ? 2 : 4) * C::BN * C::LD;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int d = a.q.c / a.heads, head = (int)blockIdx.y, m0 = (int)blockIdx.x * C::BM;
    const int64_t row = blockIdx.z, kv = a.kv_row ? dl_ld(a.kv_row + row) : a.k.n == 1 ? 0 : row;
    const T *q = static_cast<const T *>(a.q.p) + row * a.q.rs + head * d;
    const T *k = static_cast<const T *>(a.k.p) + kv * a.k.rs + head * d;
    const T *v = static_cast<const T *>(a.v.p) + kv * a.v.rs + head * d;
    const attn_mask m = mask_of(a, head, kv);
    const int tiles = tile_count(m, m0, C::BM, C::BN);

    attn_load<C, C::BM>(sq, q, a.q.ld, m0, m.tq, d);
    attn_load<C, C::BN>(stages, k, a.k.ld, 0, m.tk, d);
    attn_load<C, C::BN>(stages + C::BN * C::LD, v, a.v.ld, 0, m.tk, d);
    dl_cp_commit();

    float o[C::MT][C::DP / 8][4], top[C::MT][2], sum[C::MT][2];
#pragma unroll
    for (int i = 0; i < C::MT; i++) {
        for (int n = 0; n < C::DP / 8; n++)
            for (int e = 0; e < 4; e++) o[i][n][e] = 0;
        for (int h = 0; h < 2; h++) top[i][h] = MINUS_INF, sum[i][h] = 0;
    }
    uint32_t qf[C::QREG ? C::MT : 1][C::QREG ? C::STEPS : 1][4];
    const int q0 = m0 + warp * 16 * C::MT + lane / 4;
    const float by2 = C::MASKS ? 1 : m.scale2; /* from scores to exponents of 2, in the same operation as - maximum */

    if (C::QREG) {
        dl_cp_wait<0>();
        __syncthreads();
#pragma unroll
        for (int i = 0; i < C::MT; i++) {
            int row = (warp * C::MT + i) * 16;
            for (int c = 0; c < C::FULL; c++) frag_a(qf[C::QREG ? i : 0][C::QREG ? c : 0], sq, C::LD, row, c);
            if (C::REST) frag_a8(qf[C::QREG ? i : 0][C::QREG ? C::STEPS - 1 : 0], sq, C::LD, row, C::FULL);
        }
        __syncthreads();
    }

    for (int t = 0; t < tiles; t++) {
        if (t + 1 < tiles) {
            dl_sptr<T> next = stages + (t + 1) % 2 * 2 * C::BN * C::LD;
            attn_load<C, C::BN>(next, k, a.k.ld, (t + 1) * C::BN, m.tk, d);
            attn_load<C, C::BN>(next + C::BN * C::LD, v, a.v.ld, (t + 1) * C::BN, m.tk, d);
        }
        dl_cp_commit(); /* perhaps empty, so that the count below holds */
        dl_cp_wait<1>();
        __syncthreads();
        dl_sptr<T> kt = stages + t % 2 * 2 * C::BN * C::LD, vt = kt + C::BN * C::LD;

        float s[C::MT][C::BN / 8][4];
#pragma unroll
        for (int i = 0; i < C::MT; i++)
            for (int n = 0; n < C::BN / 8; n++)
                for (int e = 0; e < 4; e++) s[i][n][e] = 0;
#pragma unroll(C::QREG || C::DP <= 128 ? C::FULL : 2)
        for (int c = 0; c < C::FULL; c++) {
            uint32_t qa[C::MT][4];
#pragma unroll
            for (int i = 0; i < C::MT; i++) {
                if (C::QREG) {
                    for (int e = 0; e < 4; e++) qa[i][e] = qf[C::QREG ? i : 0][C::QREG ? c : 0][e];
                } else {
                    frag_a(qa[i], sq, C::LD, (warp * C::MT + i) * 16, c);
                }
            }
#pragma unroll
            for (int n = 0; n < C::BN / 16; n++) {
                uint32_t b[4];
                frag_k(b, kt, C::LD, n * 16, c);
#pragma unroll
                for (int i = 0; i < C::MT; i++) {
                    dl_mma<T>(s[i][2 * n], qa[i], b[0], b[1]);
                    dl_mma<T>(s[i][2 * n + 1], qa[i], b[2], b[3]);
                }
            }
        }
        if (C::REST) {
#pragma unroll
            for (int n = 0; n < C::BN / 16; n++) {
                uint32_t b[2];
                frag_k8(b, kt, C::LD, n * 16, C::FULL);
#pragma unroll
                for (int i = 0; i < C::MT; i++) {
                    const uint32_t *qa = qf[C::QREG ? i : 0][C::QREG ? C::STEPS - 1 : 0];
                    dl_mma8<T>(s[i][2 * n], qa, b[0]);
                    dl_mma8<T>(s[i][2 * n + 1], qa, b[1]);
                }
            }
        }

        const int first = t * C::BN;
        const bool check = first + C::BN > m.tk || (m.causal && first + C::BN > m0 + 1);
        uint32_t p[C::MT][C::BN / 16][4];
#pragma unroll
        for (int i = 0; i < C::MT; i++) {
            float more[2] = {MINUS_INF, MINUS_INF}, part[2] = {0, 0}, base[2];
#pragma unroll
            for (int n = 0; n < C::BN / 8; n++) {
                attn_score<C::MASKS>(s[i][n], m, q0 + i * 16, first + n * 8 + lane % 4 * 2, check);
                more[0] = dl_max(more[0], dl_max(s[i][n][0], s[i][n][1]));
                more[1] = dl_max(more[1], dl_max(s[i][n][2], s[i][n][3]));
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float now = dl_max(top[i][h], quad_max(more[h]));
                base[h] = now == MINUS_INF ? 0 : now;
                float shrink = dl_ex2((top[i][h] - base[h]) * by2);
                base[h] *= by2;
                top[i][h] = now;
                sum[i][h] *= shrink;
#pragma unroll
                for (int n = 0; n < C::DP / 8; n++) o[i][n][2 * h] *= shrink, o[i][n][2 * h + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < C::BN / 8; n++) {
                float w[4];
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    w[e] = dl_ex2(fmaf(s[i][n][e], by2, -base[e / 2]));
                    part[e / 2] += w[e];
                }
                p[i][n / 2][n % 2 * 2] = dl_pack2<T>(w[0], w[1]);
                p[i][n / 2][n % 2 * 2 + 1] = dl_pack2<T>(w[2], w[3]);
            }
            sum[i][0] += part[0], sum[i][1] += part[1];
        }
#pragma unroll
        for (int j = 0; j < C::BN / 16; j++) {
#pragma unroll
            for (int n = 0; n < C::FULL; n++) {
                uint32_t b[4];
                frag_v(b, vt, C::LD, j * 16, n * 16);
#pragma unroll
                for (int i = 0; i < C::MT; i++) {
                    dl_mma<T>(o[i][2 * n], p[i][j], b[0], b[1]);
                    dl_mma<T>(o[i][2 * n + 1], p[i][j], b[2], b[3]);
                }
            }
            if (C::REST) {
                uint32_t b[2];
                frag_v8(b, vt, C::LD, j * 16, C::FULL * 16);
#pragma unroll
                for (int i = 0; i < C::MT; i++) dl_mma<T>(o[i][C::DP / 8 - 1], p[i][j], b[0], b[1]);
            }
        }
        __syncthreads();
    }

    T *y = static_cast<T *>(a.y.p) + row * a.y.rs + head * d;
#pragma unroll
    for (int i = 0; i < C::MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float all = quad_sum(sum[i][h]), by = all > 0 ? 1 / all : 0;
            int token = q0 + i * 16 + h * 8;
            if (token >= m.tq) continue;
#pragma unroll
            for (int n = 0; n < C::DP / 8; n++)
                if (n * 8 < d)
                    dl_st(reinterpret_cast<uint32_t *>(y + (int64_t)token * a.y.ld + n * 8 + lane % 4 * 2),
                          dl_pack2<T>(o[i][n][2 * h] * by, o[i][n][2 * h + 1] * by));
        }
}

/* ---- head dim 512 ---- */

template <class T_> struct wide_cfg {
    typedef T_ T;
    enum {
        DP = 512, BM = 32, BN = 32, WARPS = 8, THREADS = 32 * WARPS, GROUPS = 4,
        LP = BN + 8, /* P's pitch */
        SMEM = ((BM + 2 * BN) * DP + BM * LP) * 2 + GROUPS * BM * 4
    };
};

/* Where the 8 channels 8 c .. of a token lie in a tile [..][512]: there is no room for padding, so the chunks of a
 * token are swapped by the low bits of its number. */
__device__ __forceinline__ int wide_at(int token, int c) { return token * 512 + ((c ^ (token & 7)) * 8); }

template <class C, class T>
__device__ __forceinline__ void wide_load(dl_sptr<T> dst, const T *src, int64_t ld, int first, int tokens)
{
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < 32 * 64; i += C::THREADS) {
        int r = i / 64, c = i % 64;
        bool real = first + r < tokens;
        dl_cp_async16(dst + wide_at(r, c), src + (real ? (int64_t)(first + r) * ld + c * 8 : 0), real);
    }
}

/* s [16 queries][8 keys] of warp (rows `rows`, keys `keys`) over all 512 channels. */
template <class T>
__device__ __forceinline__ void wide_scores(float s[4], dl_sptr<T> sq, dl_sptr<T> sk, int rows, int keys)
{
    int lane = (int)threadIdx.x % 32;
    s[0] = s[1] = s[2] = s[3] = 0;
#pragma unroll 4
    for (int c = 0; c < 16; c++) {
        uint32_t b[4], qa[4];
        dl_ldmatrix4(b, sk + wide_at(keys + lane % 8, c * 4 + lane / 8));
        dl_ldmatrix4(qa, sq + wide_at(rows + lane % 16, c * 4 + lane / 16));
        dl_mma<T>(s, qa, b[0], b[1]);
        dl_ldmatrix4(qa, sq + wide_at(rows + lane % 16, c * 4 + 2 + lane / 16));
        dl_mma<T>(s, qa, b[2], b[3]);
    }
}

/* Warp w computes the scores of queries 16 (w / 4) .. and keys 8 (w % 4) .., and the result's channels 64 w ... */
template <class C> __global__ void __launch_bounds__(C::THREADS) attn_wide_kernel(cuda_attn_args a)
{
    typedef typename C::T T;
    DL_DYN_SHARED(T, sq);
    dl_sptr<T> sk = sq + C::BM * C::DP, sv = sk + C::BN * C::DP, sp = sv + C::BN * C::DP;
    dl_sptr<float> parts = dl_scast<float>(sp + C::BM * C::LP); /* [GROUPS][BM] maxima, in the end sums */
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int upper = warp / 4, group = warp % 4, head = (int)blockIdx.y, m0 = (int)blockIdx.x * C::BM;
    const int64_t row = blockIdx.z, kv = a.kv_row ? dl_ld(a.kv_row + row) : a.k.n == 1 ? 0 : row;
    const T *q = static_cast<const T *>(a.q.p) + row * a.q.rs + head * C::DP;
    const T *k = static_cast<const T *>(a.k.p) + kv * a.k.rs + head * C::DP;
    const T *v = static_cast<const T *>(a.v.p) + kv * a.v.rs + head * C::DP;
    const attn_mask m = mask_of(a, head, kv);
    const int tiles = tile_count(m, m0, C::BM, C::BN);
    const int my = upper * 16 + lane / 4; /* the first of this thread's two rows of scores */

    wide_load<C>(sq, q, a.q.ld, m0, m.tq);
    wide_load<C>(sk, k, a.k.ld, 0, m.tk);
    dl_cp_commit();

    float o[2][8][4], top[2][2], sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        for (int n = 0; n < 8; n++)
            for (int e = 0; e < 4; e++) o[i][n][e] = 0;
        top[i][0] = top[i][1] = MINUS_INF;
    }
    for (int t = 0; t < tiles; t++) {
        wide_load<C>(sv, v, a.v.ld, t * C::BN, m.tk);
        dl_cp_commit();
        dl_cp_wait<1>();
        __syncthreads();
        float s[4], base[2][2], shrink[2][2];
        wide_scores(s, sq, sk, upper * 16, group * 8);
        attn_score<true>(s, m, m0 + my, t * C::BN + group * 8 + lane % 4 * 2, true);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float most = quad_max(dl_max(s[2 * h], s[2 * h + 1]));
            if (lane % 4 == 0) parts[group * C::BM + my + 8 * h] = most;
        }
        __syncthreads();
        if (t + 1 < tiles) wide_load<C>(sk, k, a.k.ld, (t + 1) * C::BN, m.tk);
        dl_cp_commit();
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float now = top[i][h];
#pragma unroll
                for (int g = 0; g < C::GROUPS; g++) now = dl_max(now, parts[g * C::BM + i * 16 + lane / 4 + 8 * h]);
                base[i][h] = now == MINUS_INF ? 0 : now;
                shrink[i][h] = dl_ex2(top[i][h] - base[i][h]);
                top[i][h] = now;
#pragma unroll
                for (int n = 0; n < 8; n++) o[i][n][2 * h] *= shrink[i][h], o[i][n][2 * h + 1] *= shrink[i][h];
            }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float by = upper ? base[1][h] : base[0][h];
            float w0 = dl_ex2(s[2 * h] - by), w1 = dl_ex2(s[2 * h + 1] - by);
            sum[h] = sum[h] * (upper ? shrink[1][h] : shrink[0][h]) + w0 + w1;
            *dl_scast<uint32_t>(sp + ((my + 8 * h) * C::LP + group * 8 + lane % 4 * 2)) = dl_pack2<T>(w0, w1);
        }
        dl_cp_wait<1>();
        __syncthreads();
#pragma unroll
        for (int j = 0; j < C::BN / 16; j++) {
            uint32_t pa[2][4];
            frag_a(pa[0], sp, C::LP, 0, j);
            frag_a(pa[1], sp, C::LP, 16, j);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t b[4];
                dl_ldmatrix4_t(b, sv + wide_at(j * 16 + lane % 16, warp * 8 + n * 2 + lane / 16));
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    dl_mma<T>(o[i][2 * n], pa[i], b[0], b[1]);
                    dl_mma<T>(o[i][2 * n + 1], pa[i], b[2], b[3]);
                }
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float all = quad_sum(sum[h]);
        if (lane % 4 == 0) parts[group * C::BM + my + 8 * h] = all;
    }
    __syncthreads();
    T *y = static_cast<T *>(a.y.p) + row * a.y.rs + head * C::DP + warp * 64;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float all = 0;
            int r = i * 16 + lane / 4 + 8 * h;
#pragma unroll
            for (int g = 0; g < C::GROUPS; g++) all += parts[g * C::BM + r];
            float by = all > 0 ? 1 / all : 0;
            if (m0 + r >= m.tq) continue;
#pragma unroll
            for (int n = 0; n < 8; n++)
                dl_st(reinterpret_cast<uint32_t *>(y + (int64_t)(m0 + r) * a.y.ld + n * 8 + lane % 4 * 2),
                      dl_pack2<T>(o[i][n][2 * h] * by, o[i][n][2 * h + 1] * by));
        }
}

/* ---- choice ---- */

template <class C> static int attn_run(struct CUstream_st *s, const cuda_attn_args &a)
{
    dim3 grid((unsigned)((k_pixels(&a.q) + C::BM - 1) / C::BM), (unsigned)a.heads, (unsigned)a.q.n);
    return DL_LAUNCH(attn_kernel<C>, grid, C::THREADS, C::SMEM, s, a);
}

template <class W> static int attn_run_wide(struct CUstream_st *s, const cuda_attn_args &a)
{
    dim3 grid((unsigned)((k_pixels(&a.q) + W::BM - 1) / W::BM), (unsigned)a.heads, (unsigned)a.q.n);
    return DL_LAUNCH(attn_wide_kernel<W>, grid, W::THREADS, W::SMEM, s, a);
}

/* A kernel for padded head dims; in its name: queries and keys of a tile, and w8 for eight warps. */
struct attn_way {
    int dp;
    bool masks;
    const char *name;
    int (*run[2])(struct CUstream_st *, const cuda_attn_args &); /* f16, bf16 */
};

#define ATTN_WAY(name, dp, masks, ...)                                                                                 \
    {dp, masks, name, {attn_run<attn_cfg<dl_half, dp, __VA_ARGS__, masks> >,                                           \
                       attn_run<attn_cfg<dl_bf16, dp, __VA_ARGS__, masks> >}}
#define ATTN_WIDE(name, masks) {512, masks, name, {attn_run_wide<wide_cfg<dl_half> >, attn_run_wide<wide_cfg<dl_bf16> >}}

/* By head dim, smallest first; of one head dim the best guess first. */
static const attn_way attn_list[] = {
    ATTN_WAY("mma d32 128x64", 32, false, 4, 2, 64, true, 2),
    ATTN_WAY("mma d40 128x64", 40, false, 4, 2, 64, true, 2),
    ATTN_WAY("mma d40 128x64 w8", 40, false, 8, 1, 64, true, 2),
    ATTN_WAY("mma d48 128x64", 48, false, 4, 2, 64, true, 2),
    ATTN_WAY("mma d64 128x64", 64, false, 4, 2, 64, true, 2),
    ATTN_WAY("mma d64 64x32", 64, false, 4, 1, 32, true, 4),
    ATTN_WAY("mma d80 128x64", 80, false, 4, 2, 64, true, 2),
    ATTN_WAY("mma d80 64x32", 80, false, 4, 1, 32, true, 4),
    ATTN_WAY("mma d96 128x32", 96, false, 4, 2, 32, false, 2),
    ATTN_WAY("mma d128 128x32", 128, false, 4, 2, 32, false, 2),
    ATTN_WAY("mma d128 64x32", 128, false, 4, 1, 32, true, 3),
    ATTN_WAY("mma d160 64x32", 160, false, 4, 1, 32, true, 2),
    ATTN_WAY("mma d256 64x32", 256, false, 4, 1, 32, false, 1),
    ATTN_WIDE("mma d512 32x32", false),
    ATTN_WAY("mma d32 64x64 masks", 32, true, 4, 1, 64, true, 2),
    ATTN_WAY("mma d64 64x64 masks", 64, true, 4, 1, 64, true, 2),
    ATTN_WAY("mma d128 64x32 masks", 128, true, 4, 1, 32, true, 2),
    ATTN_WAY("mma d256 64x16 masks", 256, true, 4, 1, 16, false, 1),
    ATTN_WIDE("mma d512 32x32", true),
};

static bool attn_side_ok(const dl_act *x, const struct cuda_attn_args *a)
{
    return x->t == a->q.t && x->c == a->q.c && x->n >= 1 && k_act_ok(x) && k_pixels(x) >= 1 &&
           k_pixels(x) <= INT32_MAX / 2;
}

/* The n-th way for these arguments, or NULL. */
static const attn_way *attn_find(const struct cuda_attn_args *a, int n)
{
    if (a->q.t != DL_F16 && a->q.t != DL_BF16) return NULL;
    if (a->heads < 1 || a->heads > K_MAX_ROWS || a->q.n > K_MAX_ROWS || a->q.c % a->heads || !(a->scale > 0))
        return NULL;
    if (!attn_side_ok(&a->q, a) || !attn_side_ok(&a->k, a) || !attn_side_ok(&a->v, a) || !attn_side_ok(&a->y, a))
        return NULL;
    int d = a->q.c / a->heads, dp = 0;
    bool masks = a->bias.p || a->key_mask;
    if (d % 8 || (d > 256 && d != 512)) return NULL;
    for (const attn_way &w : attn_list) {
        if (w.masks != masks || w.dp < d || (dp && w.dp != dp)) continue;
        dp = w.dp;
        if (n-- == 0) return &w;
    }
    return NULL;
}

const char *cuda_attn_variant(const struct cuda_attn_args *a, int way)
{
    const attn_way *w = attn_find(a, way);
    return w ? w->name : NULL;
}

int cuda_attn(struct CUstream_st *s, const struct cuda_attn_args *a, int way)
{
    const attn_way *w = attn_find(a, way);
    return w ? w->run[a->q.t == DL_BF16](s, *a) : CUDA_K_UNSUPPORTED;
}
