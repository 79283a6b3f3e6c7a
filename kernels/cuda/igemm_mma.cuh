/* igemm_mma.cuh: the implicit GEMM's kernel by tensor cores, a template of a tile's size and an element's type: igemm_mma.cu
 * makes it of 16-bit elements and says how it works, igemm_e4m3.cu of 8-bit ones.
 *
 * Bytes are the measure: a product instruction takes 32 bytes of the inner dimension on both sides, 16 channels of
 * two bytes or 32 of one, in fragments of the same layout, so that feeding and ldmatrix are the same code. */
#ifndef DL_CUDA_IGEMM_MMA_CUH
#define DL_CUDA_IGEMM_MMA_CUH

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
        BYTES = (int)sizeof(T), E4M3 = BYTES == 1,
        ROW = TK * BYTES, W_AT = TM * ROW, STAGE = (TM + TN) * ROW, /* bytes; a stage holds x [TM][TK], w [TN][TK] */
        PIECES = ROW / 16,                             /* of 16 bytes in a row */
        STEP = THREADS / PIECES,                       /* rows from one piece that a thread loads to its next */
        LOADS_A = TM / STEP, LOADS_B = (TN + STEP - 1) / STEP,
        SMEM = STAGES * STAGE,
        PITCH = TN + 8, /* of sums in shared memory: f32 [TM / PARTS][PITCH] */
        PARTS = TM * PITCH * 4 <= SMEM ? 1 : WARPS_M % 2 == 0 && TM / 2 * PITCH * 4 <= SMEM ? 2 : WARPS_M
    };
    static_assert(ROW == 64 || ROW == 128, "rows that igemm_swizzled knows");
    static_assert(TM % STEP == 0 && STEP % 16 == 0, "a thread's rows have one swizzle, and with glu one half");
    static_assert(TM % (16 * WARPS_M) == 0 && TN % (16 * WARPS_N) == 0 && TN % 32 == 0, "whole products; banks");
    static_assert(TM / PARTS % DL_PART_PIXELS == 0, "whole sets (dl_act's parts)");
    static_assert(WARPS_M % PARTS == 0 && TM / PARTS * PITCH * 4 <= SMEM, "sums go through the stages' memory");
    static_assert(SMEM <= (99 << 10), "fits");
};

/* What a thread loads: one piece of LOADS_A rows of x and LOADS_B of w, STEP rows apart. */
template <class C> struct igemm_feed {
    const char *a[C::E4M3 ? 1 : C::LOADS_A], *b;             /* of the tap; of e4m3 x's rows lie evenly, as w's */
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
        f.a[i] = static_cast<const char *>(p.x.p) + ((from < 0 ? 0 : from) * C::BYTES + (int)threadIdx.x % C::PIECES * 16);
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
    for (int i = 0; i < C::LOADS_A; i++) {
        if (C::E4M3) f.real |= m0 + row + i * C::STEP < p.m ? 1u << i : 0;
        else igemm_gather(p, m0 + row + i * C::STEP, &f.image[i], &f.y[i], &f.x[i]);
    }
#pragma unroll
    for (int i = 0; i < C::LOADS_B; i++) {
        int32_t j = n0 + row + i * C::STEP, o = p.e.glu ? (j >> 4) * 8 + (j & 7) : j;
        f.real |= o < p.out ? 1u << (C::LOADS_A + i) : 0;
    }
    int32_t j = n0 + row, from = p.e.glu ? (j >> 4) * 8 + (j & 7) + (j & 8 ? p.out : 0) : j;
    f.b = static_cast<const char *>(p.w) + (((int64_t)from * p.inner + (int64_t)tap * p.in) * C::BYTES + piece * 16);
    f.ky = tap / p.k, f.kx = tap - f.ky * p.k;
    f.last = (p.slices - 1) * C::TK + piece * (16 / C::BYTES) < p.in;
    if (C::E4M3) {
        f.a[0] = static_cast<const char *>(p.x.p) + ((int64_t)(m0 + row) * p.x.ld + piece * 16);
        f.left = p.slices;
    } else {
        igemm_tap<C>(p, f);
    }
    f.left -= skip, f.at = skip * C::ROW;
}

/* The next slice into a stage; `to`: this thread's first piece there. */
template <class C>
__device__ __forceinline__ void igemm_load(const igemm_params &p, igemm_feed<C> &f, dl_sptr<char> to)
{
    if (!C::E4M3 && f.left == 0) { /* of e4m3 there are only products: one tap */
        igemm_tap<C>(p, f);
        f.b += (int64_t)p.in * C::BYTES;
    }
    const uint32_t real = f.left > 1 || f.last ? f.real : 0;
#pragma unroll
    for (int i = 0; i < C::LOADS_A; i++) {
        const char *from = C::E4M3 ? f.a[0] + i * p.x_step : f.a[C::E4M3 ? 0 : i];
        dl_cp_async16(to + i * C::STEP * C::ROW, from + f.at, real >> i & 1);
    }
#pragma unroll
    for (int i = 0; i < C::LOADS_B; i++)
        if ((i + 1) * C::STEP <= C::TN || (int)threadIdx.x / C::PIECES + i * C::STEP < C::TN)
            dl_cp_async16(to + (C::W_AT + i * C::STEP * C::ROW), f.b + f.at + i * p.w_step,
                          real >> (C::LOADS_A + i) & 1);
    f.at += C::ROW, f.left--;
}

/* acc += a b; where the tensor cores' sums of e4m3 are short (igemm_e4m3.cu), by an addition of its own. */
template <class C>
__device__ __forceinline__ void igemm_product(float acc[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    if (C::E4M3 && DL_SHORT_E4M3) {
        float d[4] = {};
        dl_mma<typename C::T>(d, a, b0, b1);
#pragma unroll
        for (int k = 0; k < 4; k++) acc[k] += d[k];
    } else {
        dl_mma<typename C::T>(acc, a, b0, b1);
    }
}

/* A stage's products; a, b: this lane's rows of the first fragments, in bytes. */
template <class C>
__device__ __forceinline__ void igemm_multiply(float acc[C::MT][C::NT][4], dl_sptr<char> at, int32_t a, int32_t b)
{
#pragma unroll C::E4M3 ? 1 : C::ROW / 32 /* whole, the other's registers do not suffice */
    for (int kk = 0; kk < C::ROW / 32; kk++) {
        uint32_t fa[C::MT][4];
#pragma unroll
        for (int i = 0; i < C::MT; i++) dl_ldmatrix4(fa[i], at + ((a ^ kk * 32) + i * 16 * C::ROW));
#pragma unroll
        for (int j = 0; j < C::NT; j += 2) {
            uint32_t fb[4];
            dl_ldmatrix4(fb, at + ((b ^ kk * 32) + j * 8 * C::ROW));
#pragma unroll
            for (int i = 0; i < C::MT; i++) {
                igemm_product<C>(acc[i][j], fa[i], fb[0], fb[1]);
                igemm_product<C>(acc[i][j + 1], fa[i], fb[2], fb[3]);
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
        if (C::E4M3) k_epi_scale<V>(p.e, m0 + row, o0 + c, s, s2);
        igemm_store<V>(p, step, m0 + row, o0 + c, s, s2);
        if (p.e.y.parts) k_part_keep<V>(from, s, p.e.y.t);
    }
}

/* The parts of these rows, out of the values that igemm_store_rows left. Sets are rows side by side: they never cross
 * images, and m and m0 are multiples of them. */
template <class C>
__device__ __forceinline__ void igemm_store_parts(const igemm_params &p, dl_sptr<float> sums, int32_t m0, int32_t n0)
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
            igemm_store_parts<C>(p, sums, m0 + part * (C::TM / C::PARTS), n0);
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
    if (C::E4M3 && !DL_HAS_E4M3) return;
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

template <class C> static int igemm_run(cudaStream_t s, igemm_params p, unsigned blocks)
{
    p.x_step = (int64_t)C::STEP * p.x.ld * C::BYTES;
    p.w_step = (int64_t)(p.e.glu ? C::STEP / 2 : C::STEP) * p.inner * C::BYTES;
    return DL_LAUNCH(igemm_mma<C>, dim3(blocks), dim3(C::THREADS), C::SMEM, s, p);
}

typedef int (*igemm_runner)(cudaStream_t s, igemm_params p, unsigned blocks);

/* A row of igemm_tiles. */
#define IGEMM_NAME(kind, m, n, k) kind " " #m "x" #n "x" #k
#define IGEMM_TILE(kind, m, n, k, blocks)                                                                              \
    {m, n, k, blocks,                                                                                                  \
     {IGEMM_NAME(kind, m, n, k), IGEMM_NAME(kind, m, n, k) " split 2", IGEMM_NAME(kind, m, n, k) " split 4",           \
      IGEMM_NAME(kind, m, n, k) " split 8"}}

#endif
