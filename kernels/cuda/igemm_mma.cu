/* igemm_mma.cu: the implicit GEMM by tensor cores, in tiles of several sizes; portable tier: mma.sync, ldmatrix,
 * cp.async.
 *
 * Computes: cuda_igemm of igemm.h, or with split > 1 f32 sums of parts of the inner dimension, which igemm_add
 *     finishes.
 * Needs: sm_80; f16 or bf16, channels and pitches of x multiples of 8, x and w on 16 bytes.
 * How: a block makes TM pixels x TN channels, in f32 registers of its warps. The inner dimension goes by slices of TK
 *     channels of one tap through STAGES of shared memory, filled by cp.async (16 bytes a thread, zeros in the padding
 *     and beyond the edges) and read by ldmatrix; pieces of 16 bytes are swapped within rows, so that neither side
 *     meets bank conflicts. A thread holds 64-bit addresses of its rows in the current tap and a common offset; what is
 *     padding is a bit mask. Taps outside, channels inside, 16 at a time, ascending: every tile adds in the same order
 *     and gives the same bits. With GLU 8 rows of w's first half and 8 of its second come in turn, so both factors of
 *     an output lie in one tile. For y's parts (op.h) values go back to where their sums were in shared memory, and a
 *     thread makes the part of a column of 32: about 6 instructions an output, 770 cycles of a 128 x 128 tile.
 * Budget: computed; registers as nvcc 13.0 gives them for sm_86, without local memory on sm_80, 86, 89, 90a, 120.
 *     Blocks: on a multiprocessor of 100 KB (sm_86, 89, 120) and 164 (sm_80). Bytes: of shared memory (read and
 *     written) and of second-level cache, for 1,024 products, which is what sm_80 multiplies in a cycle (A6000 512,
 *     GeForce 256, with f32 sums); shared memory moves 128 bytes a cycle.
 *
 *                        shared KB   warps of       registers   blocks   shared    L2   meant for
 *       256 x 128 x 32      72        8  64 x 64      235         1  1       88     24
 *       128 x 128 x 32      48        8  64 x 32      126         2  2      128     32
 *        96 x 160 x 32      48        6  32 x 80      165         2  2      124     34   320, 640, 960, 1280 channels
 *       128 x  64 x 32      36        4  64 x 32      162         2  3      144     48
 *        64 x  64 x 64      48        4  32 x 32      122         2  3      192     64   few pixels
 *       128 x  32 x 32      30        4  32 x 32      118         3  4      208     80   few channels
 *
 *     A slice of the first takes a warp 64 products of 16 x 8 x 16 (HMMA), 16 ldmatrix, 6 cp.async and 38 integer
 *     instructions on sm_80: 0.6 a product; the others 0.9, 1.0, 1.2, 1.5, 2.0.
 *     So on sm_80 the smaller tiles are bound by shared memory (128 of 144 is 89 %), elsewhere none is. 128 x 160 would
 *     take 54 KB, one block of 100, and with two stages and two blocks all of 128 registers.
 * Speed: not measured yet.
 * Traps: a source outside its array is never read (cp.async of 0 bytes) but its address is computed. Fewer than 2^31
 *     pixels and tiles.
 */
#include "kernels/cuda/dev/parts.cuh"
#include "kernels/cuda/igemm.cuh"

/* WARPS_M warps lie along the pixels, WARPS_N along the channels. BLOCKS: on a multiprocessor, which bounds
 * registers. */
template <class T_, int TM_, int TN_, int TK_, int STAGES_, int WARPS_M_, int WARPS_N_, int BLOCKS_> struct igemm_cfg {
    typedef T_ T;
    enum {
        TM = TM_, TN = TN_, TK = TK_, STAGES = STAGES_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, BLOCKS = BLOCKS_,
        THREADS = 32 * WARPS_M * WARPS_N,
        MT = TM / WARPS_M / 16, NT = TN / WARPS_N / 8, /* products of 16 x 8 that a warp sums */
        PIECES = TK / 8,                               /* of 16 bytes in a row */
        STEP = THREADS / PIECES,                       /* rows from one piece that a thread loads to its next */
        LOADS_A = TM / STEP, LOADS_B = (TN + STEP - 1) / STEP,
        ROW = TK * 2, W_AT = TM * ROW, STAGE = (TM + TN) * ROW, /* bytes; a stage holds x [TM][TK], w [TN][TK] */
        SMEM = STAGES * STAGE,
        PITCH = TN + 8, /* of sums in shared memory: f32 [TM / PARTS][PITCH] */
        PARTS = TM * PITCH * 4 <= SMEM ? 1 : WARPS_M % 2 == 0 && TM / 2 * PITCH * 4 <= SMEM ? 2 : WARPS_M
    };
    static_assert(TK == 32 || TK == 64, "rows that igemm_swizzled knows");
    static_assert(TM % STEP == 0 && STEP % 16 == 0, "a thread's rows have one swizzle, and with glu one half");
    static_assert(TM % (16 * WARPS_M) == 0 && TN % (16 * WARPS_N) == 0 && TN % 32 == 0, "whole products; banks");
    static_assert(TM / PARTS % DL_PART_PIXELS == 0, "whole sets (dl_act's parts)");
    static_assert(WARPS_M % PARTS == 0 && TM / PARTS * PITCH * 4 <= SMEM, "sums go through the stages' memory");
    static_assert(SMEM <= (99 << 10), "fits");
};

/* What a thread loads: one piece of LOADS_A rows of x and LOADS_B of w, STEP rows apart. */
template <class C> struct igemm_feed {
    const char *a[C::LOADS_A], *b;                           /* of the tap */
    int32_t at;                                              /* of the next slice, from there, in bytes */
    int32_t image[C::LOADS_A], y[C::LOADS_A], x[C::LOADS_A]; /* igemm_gather */
    uint32_t real;  /* bit i: row i of x is not padding; from LOADS_A on: row of w is there */
    int32_t ky, kx; /* the next tap */
    int32_t left;   /* slices of this one */
    bool last;      /* a tap's last slice still has this piece */
};

/* To the next tap. */
template <class C> __device__ __forceinline__ void igemm_tap(const igemm_params &p, igemm_feed<C> &f)
{
    f.real &= ~((1u << C::LOADS_A) - 1);
#pragma unroll
    for (int i = 0; i < C::LOADS_A; i++) {
        int64_t from = igemm_source(p, f.image[i], f.y[i] + f.ky, f.x[i] + f.kx);
        f.real |= from >= 0 ? 1u << i : 0;
        f.a[i] = static_cast<const char *>(p.x.p) + ((from < 0 ? 0 : from) * 2 + (int)threadIdx.x % C::PIECES * 16);
    }
    f.left = p.slices, f.at = 0;
    if (++f.kx == p.k) f.kx = 0, f.ky++;
}

/* Begins at slice `at` of all taps', for the tile at pixel m0, column n0. */
template <class C>
__device__ __forceinline__ void igemm_begin(const igemm_params &p, igemm_feed<C> &f, int32_t m0, int32_t n0, int32_t at)
{
    const int32_t row = (int32_t)threadIdx.x / C::PIECES, piece = (int32_t)threadIdx.x % C::PIECES;
    const int32_t tap = at / p.slices, skip = at - tap * p.slices;
    f.real = 0;
#pragma unroll
    for (int i = 0; i < C::LOADS_A; i++)
        igemm_gather(p, m0 + row + i * C::STEP, &f.image[i], &f.y[i], &f.x[i]);
#pragma unroll
    for (int i = 0; i < C::LOADS_B; i++) {
        int32_t j = n0 + row + i * C::STEP, o = p.e.glu ? (j >> 4) * 8 + (j & 7) : j;
        f.real |= o < p.out ? 1u << (C::LOADS_A + i) : 0;
    }
    int32_t j = n0 + row, from = p.e.glu ? (j >> 4) * 8 + (j & 7) + (j & 8 ? p.out : 0) : j;
    f.b = static_cast<const char *>(p.w) + (((int64_t)from * p.inner + (int64_t)tap * p.in) * 2 + piece * 16);
    f.ky = tap / p.k, f.kx = tap - f.ky * p.k;
    f.last = (p.slices - 1) * C::TK + piece * 8 < p.in;
    igemm_tap<C>(p, f);
    f.left -= skip, f.at = skip * C::ROW;
}

/* The next slice into a stage; `to`: this thread's first piece there. */
template <class C>
__device__ __forceinline__ void igemm_load(const igemm_params &p, igemm_feed<C> &f, dl_sptr<char> to)
{
    if (f.left == 0) {
        igemm_tap<C>(p, f);
        f.b += (int64_t)p.in * 2;
    }
    const uint32_t real = f.left > 1 || f.last ? f.real : 0;
#pragma unroll
    for (int i = 0; i < C::LOADS_A; i++) dl_cp_async16(to + i * C::STEP * C::ROW, f.a[i] + f.at, real >> i & 1);
#pragma unroll
    for (int i = 0; i < C::LOADS_B; i++)
        if ((i + 1) * C::STEP <= C::TN || (int)threadIdx.x / C::PIECES + i * C::STEP < C::TN)
            dl_cp_async16(to + (C::W_AT + i * C::STEP * C::ROW), f.b + f.at + i * p.w_step,
                          real >> (C::LOADS_A + i) & 1);
    f.at += C::ROW, f.left--;
}

/* A stage's products; a, b: this lane's rows of the first fragments, in bytes. */
template <class C>
__device__ __forceinline__ void igemm_multiply(float acc[C::MT][C::NT][4], dl_sptr<char> at, int32_t a, int32_t b)
{
#pragma unroll
    for (int kk = 0; kk < C::TK / 16; kk++) {
        uint32_t fa[C::MT][4];
#pragma unroll
        for (int i = 0; i < C::MT; i++) dl_ldmatrix4(fa[i], at + ((a ^ kk * 32) + i * 16 * C::ROW));
#pragma unroll
        for (int j = 0; j < C::NT; j += 2) {
            uint32_t fb[4];
            dl_ldmatrix4(fb, at + ((b ^ kk * 32) + j * 8 * C::ROW));
#pragma unroll
            for (int i = 0; i < C::MT; i++) {
                dl_mma<typename C::T>(acc[i][j], fa[i], fb[0], fb[1]);
                dl_mma<typename C::T>(acc[i][j + 1], fa[i], fb[2], fb[3]);
            }
        }
    }
}

template <int V> __device__ __forceinline__ void igemm_take(float *v, dl_sptr<float> from)
{
    if (V == 1) {
        v[0] = from[0];
        return;
    }
    float4 a = dl_scast<float4>(from)[0], b = dl_scast<float4>(from)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

/* Some rows of sums [][PITCH], the first of them row m0 of the product, through the epilogue, V channels a thread at a
 * time. Where y has parts, its values are left in place of the sums. */
template <class C, int V>
__device__ __forceinline__ void igemm_store_rows(const igemm_params &p, dl_sptr<float> sums, int32_t m0, int32_t n0)
{
    const int32_t step = k_step(p.e.step), o0 = p.e.glu ? n0 / 2 : n0, each = (p.e.glu ? C::TN / 2 : C::TN) / V;
#pragma unroll 1
    for (int32_t item = (int32_t)threadIdx.x; item < C::TM / C::PARTS * each; item += C::THREADS) {
        int32_t row = item / each, c = (item - row * each) * V;
        if (m0 + row >= p.m || o0 + c >= p.out) continue;
        float s[V], s2[V];
        dl_sptr<float> from = sums + (row * C::PITCH + igemm_column(p, c));
        igemm_take<V>(s, from);
        if (p.e.glu) igemm_take<V>(s2, from + 8);
        igemm_store<V>(p, step, m0 + row, o0 + c, s, s2);
        if (p.e.y.parts) k_part_keep<V>(from, s, p.e.y.t);
    }
}

/* y's parts of these rows, out of the values that igemm_store_rows left. Sets are rows side by side: they never cross
 * images, and m and m0 are multiples of them. */
template <class C>
__device__ __forceinline__ void igemm_store_stats(const igemm_params &p, dl_sptr<float> sums, int32_t m0, int32_t n0)
{
    const int32_t o0 = p.e.glu ? n0 / 2 : n0, each = p.e.glu ? C::TN / 2 : C::TN;
#pragma unroll 1
    for (int32_t item = (int32_t)threadIdx.x; item < C::TM / C::PARTS / DL_PART_PIXELS * each; item += C::THREADS) {
        int32_t set = item / each, c = item - set * each, row = set * DL_PART_PIXELS;
        if (m0 + row >= p.m || o0 + c >= p.out) continue;
        float2 part = k_part_column<C::PITCH, 8>(sums + (row * C::PITCH + igemm_column(p, c)));
        dl_st(k_part_at(p.e.y, (m0 + row) / DL_PART_PIXELS, o0 + c), part);
    }
}

/* Sums to y. They go through shared memory, so that the epilogue reads and writes 8 channels (16 bytes) a thread,
 * neighbours side by side, and is a loop and not a copy of itself for each sum. */
template <class C>
__device__ __forceinline__ void igemm_finish(const igemm_params &p, float acc[C::MT][C::NT][4], dl_sptr<float> sums,
                                             int32_t m0, int32_t n0)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    const int32_t wm = warp / C::WARPS_N, wn = warp % C::WARPS_N, each = C::WARPS_M / C::PARTS;
    dl_sptr<float2> to = dl_scast<float2>(sums + ((wm % each * C::MT * 16 + lane / 4) * C::PITCH + wn * C::NT * 8 +
                                                  lane % 4 * 2));
#pragma unroll 1
    for (int part = 0; part < C::PARTS; part++) {
        __syncthreads();
        if (wm / each == part) {
#pragma unroll
            for (int i = 0; i < C::MT; i++)
#pragma unroll
                for (int j = 0; j < C::NT; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        to[((i * 16 + h * 8) * C::PITCH + j * 8) / 2] = make_float2(acc[i][j][2 * h],
                                                                                    acc[i][j][2 * h + 1]);
        }
        __syncthreads();
        if (p.wide) igemm_store_rows<C, 8>(p, sums, m0 + part * (C::TM / C::PARTS), n0);
        else igemm_store_rows<C, 1>(p, sums, m0 + part * (C::TM / C::PARTS), n0);
        if (p.e.y.parts) {
            __syncthreads();
            igemm_store_stats<C>(p, sums, m0 + part * (C::TM / C::PARTS), n0);
        }
    }
}

/* Sums as they are to part q: a warp writes whole sectors of 32 bytes. */
template <class C>
__device__ __forceinline__ void igemm_keep(const igemm_params &p, float acc[C::MT][C::NT][4], int32_t q, int32_t m0,
                                           int32_t n0)
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    const int32_t row = m0 + warp / C::WARPS_N * C::MT * 16 + lane / 4;
    float *to = p.part + ((q * p.part_rows + row) * p.part_ld + n0 + warp % C::WARPS_N * C::NT * 8 + lane % 4 * 2);
#pragma unroll
    for (int i = 0; i < C::MT; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
            for (int j = 0; j < C::NT; j++)
                dl_st(reinterpret_cast<float2 *>(to + j * 8), make_float2(acc[i][j][2 * h], acc[i][j][2 * h + 1]));
            to += (int64_t)8 * p.part_ld;
        }
}

template <class C> __global__ void __launch_bounds__(C::THREADS, C::BLOCKS) igemm_mma(const igemm_params p)
{
    DL_DYN_SHARED(char, tiles); /* [STAGES][STAGE] */
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int32_t tiles_n = (int32_t)gridDim.x / p.split, q = (int32_t)blockIdx.x / tiles_n;
    const int32_t tile = (int32_t)blockIdx.x - q * tiles_n;
    const int32_t m0 = tile / p.columns * C::TM, n0 = tile % p.columns * C::TN;
    const int32_t total = p.taps * p.slices;
    const int32_t first = (int32_t)((int64_t)total * q / p.split);
    const int32_t count = (int32_t)((int64_t)total * (q + 1) / p.split) - first;

    igemm_feed<C> feed;
    igemm_begin<C>(p, feed, m0, n0, first);
    const int32_t to = igemm_swizzled<C::ROW>(tid / C::PIECES, tid % C::PIECES);
    const int32_t a = igemm_swizzled<C::ROW>(warp / C::WARPS_N * C::MT * 16 + lane % 16, lane / 16);
    const int32_t b = C::W_AT +
                      igemm_swizzled<C::ROW>(warp % C::WARPS_N * C::NT * 8 + lane % 8 + lane / 16 * 8, lane / 8 % 2);

    float acc[C::MT][C::NT][4] = {};
#pragma unroll 1
    for (int s = 0; s < C::STAGES - 1; s++) {
        if (s < count) igemm_load<C>(p, feed, tiles + (s * C::STAGE + to));
        dl_cp_commit();
    }
    int32_t stage = 0, filled = (C::STAGES - 1) * C::STAGE;
#pragma unroll 1
    for (int32_t it = 0; it < count; it++) {
        dl_cp_wait<C::STAGES - 2>();
        __syncthreads();
        if (it + C::STAGES - 1 < count) igemm_load<C>(p, feed, tiles + (filled + to));
        dl_cp_commit();
        igemm_multiply<C>(acc, tiles + stage, a, b);
        filled = stage;
        stage = stage == (C::STAGES - 1) * C::STAGE ? 0 : stage + C::STAGE;
    }
    dl_cp_wait<0>();
    if (p.split > 1) igemm_keep<C>(p, acc, q, m0, n0);
    else igemm_finish<C>(p, acc, dl_scast<float>(tiles), m0, n0);
}

/* ---- the tiles ---- */

#define IGEMM_TILES(X)                                                                                                 \
    X(256, 128, 32, 3, 4, 2, 1)                                                                                        \
    X(128, 128, 32, 3, 2, 4, 2)                                                                                        \
    X(96, 160, 32, 3, 3, 2, 2)                                                                                         \
    X(128, 64, 32, 3, 2, 2, 2)                                                                                         \
    X(64, 64, 64, 3, 2, 2, 2)                                                                                          \
    X(128, 32, 32, 3, 4, 1, 3)

#define IGEMM_NAME(m, n, k) "mma " #m "x" #n "x" #k
#define IGEMM_ROW(m, n, k, stages, wm, wn, blocks)                                                                     \
    {m, n, k, blocks,                                                                                                  \
     {IGEMM_NAME(m, n, k), IGEMM_NAME(m, n, k) " split 2", IGEMM_NAME(m, n, k) " split 4",                             \
      IGEMM_NAME(m, n, k) " split 8"}},
const igemm_tile igemm_tiles[] = {IGEMM_TILES(IGEMM_ROW)};
const int igemm_tiles_n = sizeof igemm_tiles / sizeof igemm_tiles[0];

template <class C> static int igemm_run(cudaStream_t s, igemm_params p, unsigned blocks)
{
    p.w_step = (int64_t)(p.e.glu ? C::STEP / 2 : C::STEP) * p.inner * 2;
    return DL_LAUNCH(igemm_mma<C>, dim3(blocks), dim3(C::THREADS), C::SMEM, s, p);
}

typedef int (*igemm_runner)(cudaStream_t s, igemm_params p, unsigned blocks);
#define IGEMM_F16(m, n, k, stages, wm, wn, blocks) igemm_run<igemm_cfg<dl_half, m, n, k, stages, wm, wn, blocks> >,
#define IGEMM_BF16(m, n, k, stages, wm, wn, blocks) igemm_run<igemm_cfg<dl_bf16, m, n, k, stages, wm, wn, blocks> >,
static const igemm_runner igemm_f16[] = {IGEMM_TILES(IGEMM_F16)}, igemm_bf16[] = {IGEMM_TILES(IGEMM_BF16)};

int igemm_mma_run(cudaStream_t s, int tile, const igemm_params &p, unsigned blocks)
{
    return (p.x.t == DL_F16 ? igemm_f16 : igemm_bf16)[tile](s, p, blocks);
}
