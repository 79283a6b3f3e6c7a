/* nconv.cu: group norm, activation and 3 x 3 convolution in one pass, portable tier: mma.sync, ldmatrix, cp.async.
 *
 * Computes: cuda_nconv (nconv.h): y = epi(w * fn(norm(x))), stride 1, with nearest-neighbour enlargement on load; also
 *     without norm or function. Sums in f32.
 * Needs: sm_80; f16 or bf16 x, channels of x and y multiples of 8, everything on 16 bytes.
 * How: a block makes 2 or 4 boxes of 8 x 8 pixels, of whatever images, times TN outputs. A slice of a box with its rim
 *     (10 x 10 pixels, 32 channels) lies in shared memory once and serves all nine taps: a tap moves ldmatrix's rows by
 *     a pixel. A fragment's 16 pixels are one row of two boxes. The next slice is copied there (cp.async, zeros in the
 *     padding) during the first taps of this one, a piece of 16 bytes a thread and tap; STAGES - 1 taps later the
 *     thread normalises its own piece in place, a x + b with a and b of a table [n][2][in] that a first small kernel
 *     makes: two dependent reads a piece, where statistics, gamma, beta, scale and shift would be about a hundred
 *     instructions more. Padding stays zero. Weights come a tap at a time through STAGES stages. The sums go through
 *     shared memory to the epilogue, 64 pixels at a time, which are 4 x 8 of two boxes: sets of y's parts (op.h), made
 *     there as in igemm_mma.cu. Rows of 64 bytes are swizzled: nconv_piece.
 * Budget, computed. clk: of one slice of a block at 1,024 multiply-adds a clock and multiprocessor (sm_80; with f32
 *     sums 256 on GeForce of sm_86, 89 and 120, 512 on A6000); L2: KB of a slice, and bytes a clock at that rate; ldm:
 *     bytes a clock that ldmatrix reads, of 128 that there are; i: instructions that a warp issues for one m16n8k16
 *     product (SiLU; it takes the tensor core 8 clk on sm_80, 32 on GeForce); registers on sm_80, 86, 89 (90a and 120:
 *     at most 246); nothing spilled:
 *
 *       pixels x outputs   warps       stages   shared    blocks   registers     clk     L2 KB    L2    ldm    i
 *       128 x 160          4 of 64 x 80     2   45.0 KB   2              242   5,760     102.5   18.2    58   4.0
 *       128 x 128          8 of 64 x 32     3   49.0 KB   2              128   4,608      84.5   18.8    96   5.1
 *       128 x 128 wide     4 of 64 x 64     3   49.0 KB   2              221   4,608      84.5   18.8    64   4.1
 *       128 x 96           4 of 64 x 48     3   43.0 KB   2              188   3,456      66.5   19.7    75   5.0
 *       128 x 64           4 of 64 x 32     3   37.0 KB   2, 4 (80)      128   2,304      48.5   21.6    96   7.5
 *       256 x 128          8 of 64 x 64     3   74.0 KB   1              219   9,216      97.0   10.8    64   4.0
 *
 *     For igemm.cu's 128 x 128: 144 KB, 32 bytes a clock, ldm 96. Of a slice's bytes 12.5 KB are two boxes of x, where
 *     nine reads are 72. Normalising their 200 pixels: 25 warp-wide pieces of about 150 instructions, copies included,
 *     and 2 x 6,400 results of the special function unit at 16 a clock, 800 clk, beside the tensor cores. Each column
 *     of tiles repeats that. The rims make 1.56 times the pixels.
 * Speed: not measured yet.
 * Traps: two blocks fit sm_86, 89 and 120 (100 KB, 1 KB a block lost) up to 49 KB, so the second line has no byte left.
 *     The swizzle goes by a pixel's place in its row of 10, so that a tap's row is an immediate offset.
 */
#include "kernels/cuda/nconv.h"
#include "kernels/cuda/dev/epilogue.cuh"
#include "kernels/cuda/dev/norm.cuh"
#include "kernels/cuda/dev/parts.cuh"

#include <string.h>

enum {
    NCONV_TK = 32,                 /* channels of a slice */
    NCONV_ROW = 10,                /* pixels of a box's side with its halo */
    NCONV_BOX = 10 * 10 * NCONV_TK /* elements of a box in shared memory */
};

template <class T_, int BOXES_, int TN_, int WARPS_M_, int WARPS_N_, int STAGES_, int BLOCKS_> struct nconv_cfg {
    typedef T_ T;
    enum {
        BOXES = BOXES_, TM = 64 * BOXES, TN = TN_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_,
        BLOCKS = BLOCKS_, /* on a multiprocessor, by registers */
        THREADS = 32 * WARPS_M * WARPS_N,
        WM = TM / WARPS_M, WN = TN / WARPS_N, MI = WM / 16, NJ = WN / 16,
        HALO = 100 * BOXES,                              /* pixels */
        PIXELS = THREADS / 4,                            /* that the block's threads load at once */
        PIECES = (HALO + PIXELS - 1) / PIXELS,           /* of 16 bytes, a thread and slice */
        ROWS = (TN + PIXELS - 1) / PIXELS,               /* of weights, a thread and tap */
        X = BOXES * NCONV_BOX, W = TN * NCONV_TK,        /* elements of one buffer */
        PART = 2 * DL_PART_PIXELS, PER = PART / WM, PITCH = TN + 8, /* of the sums in shared memory: f32 [PART][PITCH] */
        SMEM = (2 * X + STAGES * W) * 2
    };
    static_assert(BOXES % 2 == 0 && WM % 16 == 0 && WN % 16 == 0 && PART % WM == 0 && 8 % MI == 0, "whole fragments");
    static_assert(PIECES + STAGES - 1 <= 9, "a slice's halo is ready when its first tap comes");
    static_assert(BOXES <= 4 && PIECES <= 8, "nconv_finish's bits");
    static_assert(PART * PITCH * 4 + BOXES * 16 <= (int)SMEM && (int)SMEM <= 99 << 10, "fits");
};

struct nconv_job {
    cuda_epi_args e; /* e.y: the output */
    dl_act x;
    const void *w;
    const float *table;       /* [n][2][in]: x becomes fn(table[0] x + table[1]); NULL: fn(x) */
    int32_t fn;
    int32_t across, per;      /* boxes side by side, in an image */
    int32_t boxes;            /* of all images */
    int32_t columns, slices;  /* tiles of outputs; slices of channels */
};

/* The block's boxes to shared memory, [BOXES]: image (-1: no such box), y and x of the first output pixel. */
template <class C> __device__ __forceinline__ void nconv_boxes(const nconv_job &a, dl_sptr<uint4> at, int32_t box0)
{
    int32_t i = (int32_t)threadIdx.x, box = box0 + i;
    if (i >= C::BOXES) return;
    int32_t image = box / a.per, rest = box - image * a.per, down = rest / a.across;
    at[i] = make_uint4((uint32_t)(box < a.boxes ? image : -1), (uint32_t)down * 8,
                       (uint32_t)(rest - down * a.across) * 8, 0);
}

/* Where in x halo pixel `pixel` of a block lies, in units of 8 elements; -1: in the padding, or nowhere. */
template <class C>
__device__ __forceinline__ int32_t nconv_source(const nconv_job &a, dl_sptr<uint4> boxes, int32_t pixel)
{
    if (pixel >= C::HALO) return -1;
    uint4 box = boxes[pixel / 100];
    int32_t rest = pixel % 100, h = a.e.y.h, w = a.e.y.w;
    int32_t image = (int32_t)box.x;
    int32_t y = (int32_t)box.y + rest / NCONV_ROW - 1, x = (int32_t)box.z + rest % NCONV_ROW - 1;
    if (image < 0 || y < 0 || x < 0 || y >= h || x >= w) return -1;
    if (h != a.x.h) y = y * a.x.h / h;
    if (w != a.x.w) x = x * a.x.w / w;
    return image * (int32_t)(a.x.rs / 8) + (y * a.x.w + x) * (int32_t)(a.x.ld / 8);
}

/* Rows of 64 bytes: piece `piece` (of 4) of 16 bytes lies at this one, in which any 8 pixels side by side, and any 8
 * rows of weights from a multiple of 8 on, are in distinct banks. */
__device__ __forceinline__ int32_t nconv_piece(int32_t row, int32_t piece) { return piece ^ ((row >> 1) & 3); }

/* Element index in a halo buffer of what this thread loads with its piece t. */
template <class C> __device__ __forceinline__ int32_t nconv_slot(int32_t t)
{
    int32_t pixel = ((int32_t)threadIdx.x >> 2) + t * C::PIXELS;
    return pixel * NCONV_TK + nconv_piece(pixel % NCONV_ROW, (int32_t)threadIdx.x & 3) * 8;
}

template <class C> __device__ __forceinline__ int32_t nconv_pick(const int32_t source[C::PIECES], int32_t t)
{
    int32_t s = source[0];
#pragma unroll
    for (int p = 1; p < C::PIECES; p++) s = p == t ? source[p] : s;
    return s;
}

/* Begins to copy this thread's piece t of slice `slice` as it is in x. */
template <class C>
__device__ __forceinline__ void nconv_fetch(const nconv_job &a, dl_sptr<typename C::T> halo,
                                            const int32_t source[C::PIECES], int32_t t, int32_t slice)
{
    typedef typename C::T T;
    if (((int32_t)threadIdx.x >> 2) + t * C::PIXELS >= C::HALO) return;
    int32_t from = nconv_pick<C>(source, t), c = slice * NCONV_TK + ((int32_t)threadIdx.x & 3) * 8;
    dl_cp_async16(halo + nconv_slot<C>(t), static_cast<const T *>(a.x.p) + ((int64_t)from * 8 + c),
                  from >= 0 && c < a.x.c);
}

/* Normalises the piece in place, once it has come. `where`: in bits 2 b and 2 b + 1 how far box b's image is from the
 * first box's, in bit 8 + p whether piece p of this thread is in an image, from bit 16 on the first box's image. */
template <class C>
__device__ __forceinline__ void nconv_finish(const nconv_job &a, dl_sptr<typename C::T> halo,
                                             uint32_t where, int32_t t, int32_t slice)
{
    typedef typename C::T T;
    int32_t c = slice * NCONV_TK + ((int32_t)threadIdx.x & 3) * 8;
    if (!(where >> (8 + t) & 1) || c >= a.x.c) return;
    dl_sptr<uint4> at = dl_scast<uint4>(halo + nconv_slot<C>(t));
    uint4 u = *at;
    float v[8];
    k_unpack2(v, u.x, T());
    k_unpack2(v + 2, u.y, T());
    k_unpack2(v + 4, u.z, T());
    k_unpack2(v + 6, u.w, T());
    if (a.table) {
        int32_t box = (((int32_t)threadIdx.x >> 2) + t * C::PIXELS) / 100;
        int32_t image = (int32_t)((where >> 16) + (where >> 2 * box & 3));
        const float *ab = a.table + (image * 2 * a.x.c + c);
        float k[8], b[8];
        k_load<8>(k, ab);
        k_load<8>(b, ab + a.x.c);
        for (int j = 0; j < 8; j++) v[j] = v[j] * k[j] + b[j];
    }
    if (a.fn == DL_SILU) {
        for (int j = 0; j < 8; j++) v[j] = k_fn(DL_SILU, v[j]);
    } else if (a.fn) {
        for (int j = 0; j < 8; j++) v[j] = k_fn(a.fn, v[j]);
    }
    *at = make_uint4(dl_pack2<T>(v[0], v[1]), dl_pack2<T>(v[2], v[3]), dl_pack2<T>(v[4], v[5]),
                     dl_pack2<T>(v[6], v[7]));
}

/* Which weights come next, of this thread's first row. */
struct nconv_feed {
    uint32_t from; /* element of w */
    int32_t c, tap;
};

/* Begins to copy the next tap's weights, TN outputs from n0 on; zeros beyond the last output and channel. */
template <class C>
__device__ __forceinline__ void nconv_weights(const nconv_job &a, dl_sptr<typename C::T> to, int32_t n0, nconv_feed *f)
{
    typedef typename C::T T;
    const int32_t first = (int32_t)threadIdx.x >> 2, at = first * NCONV_TK + nconv_piece(first, threadIdx.x & 3) * 8;
#pragma unroll
    for (int i = 0; i < C::ROWS; i++) {
        int32_t row = first + i * C::PIXELS;
        if (C::TN % C::PIXELS && row >= C::TN) break;
        dl_cp_async16(to + at + i * C::PIXELS * NCONV_TK,
                      static_cast<const T *>(a.w) + (f->from + (uint32_t)(i * C::PIXELS * 9 * a.x.c)),
                      n0 + row < a.e.y.c && f->c < a.x.c);
    }
    f->from += (uint32_t)a.x.c;
    if (++f->tap == 9) f->tap = 0, f->from += NCONV_TK - 9 * (uint32_t)a.x.c, f->c += NCONV_TK;
}

/* One tap's operands of 16 channels. */
template <class C> struct nconv_operands {
    uint32_t a[C::MI][4], b[C::NJ][4];
};

/* at, bt: this lane's elements of pixels and weights. */
template <class C>
__device__ __forceinline__ void nconv_load(nconv_operands<C> *o, dl_sptr<typename C::T> at, dl_sptr<typename C::T> bt)
{
#pragma unroll
    for (int i = 0; i < C::MI; i++) dl_ldmatrix4(o->a[i], at + i * NCONV_ROW * NCONV_TK);
#pragma unroll
    for (int j = 0; j < C::NJ; j++) dl_ldmatrix4(o->b[j], bt + j * 16 * NCONV_TK);
}

template <class C>
__device__ __forceinline__ void nconv_multiply(float acc[C::MI][2 * C::NJ][4], const nconv_operands<C> *o)
{
#pragma unroll
    for (int i = 0; i < C::MI; i++)
#pragma unroll
        for (int j = 0; j < 2 * C::NJ; j++)
            dl_mma<typename C::T>(acc[i][j], o->a[i], o->b[j >> 1][(j & 1) * 2], o->b[j >> 1][(j & 1) * 2 + 1]);
}

/* The parts of what nconv_store left in shared memory, 4 rows of pixels of two boxes: a set is 4 x 8 pixels, and wholly
 * in the image or not at all. */
template <class C>
__device__ __forceinline__ void nconv_store_stats(const nconv_job &a, dl_sptr<float> sums, dl_sptr<uint4> boxes,
                                                  int32_t part, int32_t n0)
{
    const int32_t w = a.e.y.w / 8, h = a.e.y.h / 4;
    for (int32_t item = (int32_t)threadIdx.x; item < 2 * C::TN; item += C::THREADS) {
        int32_t b = item / C::TN, c = item % C::TN;
        uint4 box = boxes[(part >> 1) * 2 + b];
        int32_t image = (int32_t)box.x, y = (int32_t)box.y / 4 + (part & 1), x = (int32_t)box.z / 8;
        if (image < 0 || y >= h || x >= w || n0 + c >= a.e.y.c) continue;
        float2 v = k_part_column<C::PITCH, 16>(sums + (b * 8 * C::PITCH + c));
        dl_st(k_part_at(a.e.y, ((int64_t)image * h + y) * w + x, n0 + c), v);
    }
}

/* Sums to y, PART pixels at a time through shared memory. */
template <class C>
__device__ __forceinline__ void nconv_store(const nconv_job &a, const float acc[C::MI][2 * C::NJ][4],
                                            dl_sptr<float> sums, int32_t box0, int32_t n0)
{
    const int32_t lane = (int32_t)threadIdx.x & 31, warp = (int32_t)threadIdx.x >> 5;
    const int32_t wm = warp / C::WARPS_N, wn = warp % C::WARPS_N, step = k_step(a.e.step);
    dl_sptr<uint4> boxes = dl_scast<uint4>(sums + C::PART * C::PITCH);
    for (int32_t part = 0; part < C::TM / C::PART; part++) {
        __syncthreads();
        if (part == 0) nconv_boxes<C>(a, boxes, box0);
        if (wm / C::PER == part) {
            int32_t row = wm % C::PER * C::WM + (lane >> 2), column = wn * C::WN + (lane & 3) * 2;
            dl_sptr<float2> to = dl_scast<float2>(sums + row * C::PITCH + column);
#pragma unroll
            for (int i = 0; i < C::MI; i++)
#pragma unroll
                for (int j = 0; j < 2 * C::NJ; j++) {
                    to[(i * 16 * C::PITCH + j * 8) / 2] = make_float2(acc[i][j][0], acc[i][j][1]);
                    to[((i * 16 + 8) * C::PITCH + j * 8) / 2] = make_float2(acc[i][j][2], acc[i][j][3]);
                }
        }
        __syncthreads();
        for (int32_t item = (int32_t)threadIdx.x; item < C::PART * (C::TN / 8); item += C::THREADS) {
            int32_t row = item / (C::TN / 8), c = item % (C::TN / 8) * 8, m = part * C::PART + row;
            uint4 box = boxes[(m >> 7) * 2 + ((m >> 3) & 1)]; /* 16 rows: a row of pixels of two boxes */
            int32_t image = (int32_t)box.x, y = (int32_t)box.y + ((m >> 4) & 7), x = (int32_t)box.z + (m & 7);
            if (image < 0 || y >= a.e.y.h || x >= a.e.y.w || n0 + c >= a.e.y.c) continue;
            dl_sptr<float4> from = dl_scast<float4>(sums + row * C::PITCH + c);
            float4 lo = from[0], hi = from[1];
            float v[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
            int64_t pixel = (int64_t)y * a.e.y.w + x;
            k_epi<8>(a.e, step, image, pixel, n0 + c, v, v);
            k_store_t<8>(a.e.y.p, a.e.y.t, k_at(a.e.y, image, pixel, n0 + c), v);
            if (a.e.y.parts) k_part_keep<8>(sums + row * C::PITCH + c, v, a.e.y.t);
        }
        if (a.e.y.parts) {
            __syncthreads();
            nconv_store_stats<C>(a, sums, boxes, part, n0);
        }
    }
}

template <class C> __global__ void __launch_bounds__(C::THREADS, C::BLOCKS) nconv_kernel(const nconv_job a)
{
    typedef typename C::T T;
    DL_DYN_SHARED(T, halo); /* [2][BOXES][10][10][TK], then weights [STAGES][TN][TK] */
    dl_sptr<T> weights = halo + 2 * C::X;
    const int32_t tid = (int32_t)threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const int32_t wm = warp / C::WARPS_N, wn = warp % C::WARPS_N;
    const int32_t tile = (int32_t)blockIdx.x / a.columns, box0 = tile * C::BOXES;
    const int32_t n0 = ((int32_t)blockIdx.x - tile * a.columns) * C::TN;
    const bool raw = !a.table && !a.fn;

    dl_sptr<uint4> boxes = dl_scast<uint4>(halo); /* until the first copies */
    nconv_boxes<C>(a, boxes, box0);
    __syncthreads();
    int32_t source[C::PIECES];
    uint4 box = boxes[0];
    const uint32_t image0 = box.x;
    uint32_t where = image0 << 16; /* nconv_finish */
#pragma unroll
    for (int b = 1; b < C::BOXES; b++) box = boxes[b], where |= ((box.x - image0) & 3) << 2 * b;
#pragma unroll
    for (int p = 0; p < C::PIECES; p++) {
        source[p] = nconv_source<C>(a, boxes, (tid >> 2) + p * C::PIXELS);
        where |= (source[p] >= 0 ? 1u : 0u) << (8 + p);
    }
    __syncthreads();

    /* One group of copies a tap: its weights and the piece that was begun with them; the first has all of slice 0's. */
    for (int p = 0; p < C::PIECES; p++) nconv_fetch<C>(a, halo, source, p, 0);
    nconv_feed feed = {(uint32_t)((n0 + (tid >> 2)) * 9 * a.x.c + (tid & 3) * 8), (tid & 3) * 8, 0};
    for (int s = 0; s < C::STAGES - 1; s++) {
        nconv_weights<C>(a, weights + s * C::W, n0, &feed);
        dl_cp_commit();
    }
    dl_cp_wait<C::STAGES - 2>();
    if (!raw)
#pragma unroll 1
        for (int p = 0; p < C::PIECES; p++) nconv_finish<C>(a, halo, where, p, 0);

    const int32_t row0 = wm * C::MI, half = (lane >> 3) & 1;
    const int32_t a0 = ((row0 >> 3) * 2 + half) * NCONV_BOX + (row0 & 7) * NCONV_ROW * NCONV_TK;
    const int32_t brow = wn * C::WN + (lane & 7) + (lane >> 4) * 8;
    const int32_t bt = brow * NCONV_TK + nconv_piece(brow, half) * 8;
    float acc[C::MI][2 * C::NJ][4] = {};
    int32_t stage = 0;
    for (int32_t slice = 0; slice < a.slices; slice++) {
        dl_sptr<T> now = halo + (slice & 1) * C::X, next = halo + (~slice & 1) * C::X;
        const bool more = slice + 1 < a.slices;
#pragma unroll 1
        for (int32_t tap = 0; tap < 9; tap++) {
            dl_cp_wait<C::STAGES - 2>();
            __syncthreads();
            /* The other 16 channels' elements differ in bit 4. */
            int32_t ky = tap / 3, x = (lane & 7) + tap - 3 * ky;
            int32_t at = a0 + (ky * NCONV_ROW + x) * NCONV_TK + nconv_piece(x, lane >> 4) * 8;
            dl_sptr<T> taps = weights + stage * C::W;
            nconv_operands<C> o;
            nconv_load<C>(&o, now + at, taps + bt);
            nconv_weights<C>(a, weights + (stage == 0 ? C::STAGES - 1 : stage - 1) * C::W, n0, &feed);
            if (more && tap < C::PIECES) nconv_fetch<C>(a, next, source, tap, slice + 1);
            dl_cp_commit();
            nconv_multiply<C>(acc, &o);
            nconv_load<C>(&o, now + (at ^ 16), taps + (bt ^ 16));
            nconv_multiply<C>(acc, &o);
            int32_t ready = tap - (C::STAGES - 1);
            if (!raw && more && ready >= 0 && ready < C::PIECES)
                nconv_finish<C>(a, next, where, ready, slice + 1);
            stage = stage == C::STAGES - 1 ? 0 : stage + 1;
        }
    }
    dl_cp_wait<0>(); /* of zeros, beyond the last tap */
    nconv_store<C>(a, acc, dl_scast<float>(halo), box0, n0);
}

/* A channel's factor and term, [n][2][c]. */
__global__ void __launch_bounds__(K_THREADS) nconv_table(const cuda_norm_args a, float *table)
{
    int32_t c = (int32_t)(blockIdx.x * K_THREADS + threadIdx.x), row = (int32_t)blockIdx.y;
    if (c >= a.x.c) return;
    float k, b;
    k_norm_affine(a, k_step(a.step), row, c, &k, &b);
    dl_st(table + (int64_t)row * 2 * a.x.c + c, k);
    dl_st(table + ((int64_t)row * 2 + 1) * a.x.c + c, b);
}

static int nconv_count(int64_t n, int64_t of) { return (int)((n + of - 1) / of); }

static bool nconv_serves(const cuda_nconv_args *a)
{
    const cuda_igemm_args *c = &a->c;
    if (c->k != 3 || c->stride != 1 || c->glu) return false;
    if ((c->x.t != DL_F16 && c->x.t != DL_BF16) || !k_float(c->y.t)) return false;
    if (!k_act_ok(&c->x) || !k_act_ok(&c->y) || !k_ptr_ok(c->w) || !k_ptr_ok(c->bias) || !k_vec_ok(&c->add) ||
        !k_vec_ok(&c->gate) || (c->res.p && (!k_act_ok(&c->res) || !k_float(c->res.t))))
        return false;
    if (c->x.n != c->y.n || c->x.n < 1 || c->x.n > K_MAX_ROWS || c->x.c < 8 || c->y.c < 8 || c->x.h < 1 || c->x.w < 1 ||
        c->y.h < 1 || c->y.w < 1 || (!c->up && (c->x.h != c->y.h || c->x.w != c->y.w)))
        return false;
    if (a->mean_rstd && (a->groups < 1 || c->x.c % a->groups)) return false;
    /* What the kernel counts in 32 bits: x in units of 8 elements, pixels times pixels, the table, weights, blocks. */
    int64_t boxes = (int64_t)c->y.n * nconv_count(c->y.h, 8) * nconv_count(c->y.w, 8);
    return c->x.n * (c->x.rs / 8) + c->x.h * (int64_t)c->x.w * (c->x.ld / 8) < INT32_MAX &&
           c->y.h * (int64_t)c->x.h < INT32_MAX && c->y.w * (int64_t)c->x.w < INT32_MAX &&
           c->x.n * (int64_t)2 * c->x.c < INT32_MAX &&
           (c->y.c + 256) * (int64_t)9 * c->x.c < INT32_MAX && boxes * nconv_count(c->y.c, 64) < INT32_MAX;
}

template <class C> static int nconv_launch(struct CUstream_st *s, nconv_job j)
{
    j.columns = nconv_count(j.e.y.c, C::TN);
    unsigned tiles = (unsigned)nconv_count(j.boxes, C::BOXES);
    return DL_LAUNCH(nconv_kernel<C>, dim3(tiles * (unsigned)j.columns), C::THREADS, C::SMEM, s, j);
}

/* The tiles. `cost`: of a multiply-add, in hundredths, a guess from the table at this file's head. */
struct nconv_tile {
    const char *name;
    int boxes, columns, cost;
    int (*run[2])(struct CUstream_st *, nconv_job); /* f16, bf16 */
};

#define NCONV_TILE(name, boxes, columns, wm, wn, stages, blocks, cost)                                                 \
    {                                                                                                                  \
        name, boxes, columns, cost,                                                                                    \
        {                                                                                                              \
            nconv_launch<nconv_cfg<dl_half, boxes, columns, wm, wn, stages, blocks> >,                                 \
                nconv_launch<nconv_cfg<dl_bf16, boxes, columns, wm, wn, stages, blocks> >                              \
        }                                                                                                              \
    }
static const nconv_tile nconv_tiles[] = {
    NCONV_TILE("halo 128x160", 2, 160, 2, 2, 2, 2, 100),
    NCONV_TILE("halo 128x128", 2, 128, 2, 4, 3, 2, 102),
    NCONV_TILE("halo 128x128 wide", 2, 128, 2, 2, 3, 2, 103),
    NCONV_TILE("halo 128x96", 2, 96, 2, 2, 3, 2, 106),
    NCONV_TILE("halo 128x64", 2, 64, 2, 2, 3, 4, 115),
    NCONV_TILE("halo 256x128", 4, 128, 4, 2, 3, 1, 105),
};
enum { NCONV_TILES = sizeof nconv_tiles / sizeof nconv_tiles[0] };
static_assert((int)NCONV_TILES <= (int)CUDA_NCONV_WAYS, "the caller's array");

int cuda_nconv_ways(const struct cuda_nconv_args *a, struct cuda_nconv_way way[CUDA_NCONV_WAYS])
{
    int64_t cost[NCONV_TILES], scratch = a->mean_rstd ? (int64_t)a->c.x.n * 2 * a->c.x.c * 4 : 0;
    if (!nconv_serves(a)) return 0;
    int64_t boxes = (int64_t)a->c.y.n * nconv_count(a->c.y.h, 8) * nconv_count(a->c.y.w, 8);
    for (int i = 0; i < NCONV_TILES; i++) {
        const nconv_tile *t = &nconv_tiles[i];
        int64_t tiles = (int64_t)nconv_count(boxes, t->boxes) * nconv_count(a->c.y.c, t->columns);
        int64_t mine = tiles * t->boxes * t->columns * t->cost;
        int at = i;
        for (; at > 0 && cost[at - 1] > mine; at--) cost[at] = cost[at - 1], way[at] = way[at - 1];
        cost[at] = mine, way[at].name = t->name, way[at].scratch_bytes = scratch;
    }
    return NCONV_TILES;
}

int cuda_nconv(struct CUstream_st *s, const struct cuda_nconv_args *a, const char *way, void *scratch)
{
    const cuda_igemm_args *c = &a->c;
    int tile = 0;
    while (tile < NCONV_TILES && strcmp(nconv_tiles[tile].name, way)) tile++;
    if (tile == NCONV_TILES || !nconv_serves(a) || (a->mean_rstd && (!scratch || !k_ptr_ok(scratch))))
        return CUDA_K_UNSUPPORTED;
    nconv_job j = nconv_job();
    j.e = k_epi_of(*c);
    j.x = c->x, j.w = c->w, j.fn = a->pre_fn;
    j.across = nconv_count(c->y.w, 8), j.per = nconv_count(c->y.h, 8) * j.across, j.boxes = c->y.n * j.per;
    j.slices = nconv_count(c->x.c, NCONV_TK);
    if (a->mean_rstd) {
        cuda_norm_args n = cuda_norm_args();
        n.x = c->x, n.mean_rstd = a->mean_rstd, n.groups = a->groups, n.gamma = a->gamma, n.beta = a->beta;
        n.scale = a->scale, n.shift = a->shift, n.step = c->step;
        float *table = static_cast<float *>(scratch);
        j.table = table;
        dim3 grid((unsigned)nconv_count(c->x.c, K_THREADS), (unsigned)c->x.n);
        int e = DL_LAUNCH(nconv_table, grid, K_THREADS, 0, s, n, table);
        if (e) return e;
    }
    const bool later = c->y.parts && (c->y.h % 4 || c->y.w % 8); /* no whole sets in the boxes */
    if (later) j.e.y.parts = NULL;
    int rc = nconv_tiles[tile].run[c->x.t == DL_BF16](s, j);
    return rc || !later ? rc : cuda_parts(s, &c->y);
}
