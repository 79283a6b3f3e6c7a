/* Matrix product and convolution as one implicit GEMM; see igemm.h.
 *
 * mma: 256 threads make a tile of 128 pixels x 128 channels. Each of 8 warps holds 64 x 32 of it in registers (f32).
 *   The inner dimension goes by slices of 32 channels of one tap through three stages of shared memory, filled by
 *   cp.async (16 bytes a thread, zeros in the padding and beyond the edges) and read by ldmatrix. Rows of 64 bytes are
 *   swizzled by 16-byte pieces, so that neither side meets bank conflicts. With GLU the tile's weight rows are 16 rows
 *   of the first half and 16 of the second in turn, so both factors of an output lie in one thread.
 *   The sums go back through shared memory, half a tile at a time, so that the epilogue reads and writes 8 channels
 *   (16 bytes) a thread, neighbours side by side, and is a loop and not 64 copies of itself.
 *   Shared memory 48 KB, at most 128 registers: two blocks on a multiprocessor of sm_80, 86, 89, 120.
 * plain: 256 threads, 64 x 64, every type, any number of channels, element by element; f32 products and sums without
 *   tensor cores. For f32 runs, the latent's 4 channels and odd shapes.
 *
 * Needs fewer than 2^31 output pixels. Not measured yet. */
#include "kernels/cuda/igemm.h"
#include "kernels/cuda/kernels.h"

#include "kernels/cuda/dev/ptx.cuh"

#include <math.h>

#ifdef DL_SIMT
#define UNROLL
#else
#define UNROLL _Pragma("unroll")
#endif

namespace {

enum { TM = 128, TN = 128, TK = 32, STAGES = 3, THREADS = 256 };
enum { PART = TM / 2, PITCH = TN + 4 }; /* of the sums in shared memory: f32 [PART][PITCH] */
enum { PM = 64, PN = 64, PK = 16 };

/* Everything a kernel needs, in parameter memory. */
struct params {
    cuda_igemm_args a;
    int32_t m, out, in, taps;  /* rows of the product, outputs, channels of a tap, taps */
    int32_t pixels;            /* of one image of y */
    int32_t slices;            /* of TK channels in one tap */
    float scale;
    bool wide;                 /* the epilogue goes by 8 channels */
};

__device__ __forceinline__ float load_any(const void *p, int t, int64_t i)
{
    if (t == DL_F32) return dl_ld((const float *)p + i);
    if (t == DL_F16) return dl_to_f32(dl_ld((const dl_half *)p + i));
    return dl_to_f32(dl_ld((const dl_bf16 *)p + i));
}

template <class T> __device__ __forceinline__ void store_as(void *p, int64_t i, float v)
{
    T q;
    dl_of_f32(q, v);
    dl_st((T *)p + i, q);
}

__device__ __forceinline__ void store_any(void *p, int t, int64_t i, float v)
{
    if (t == DL_F32) store_as<float>(p, i, v);
    else if (t == DL_F16) store_as<dl_half>(p, i, v);
    else store_as<dl_bf16>(p, i, v);
}

__device__ __forceinline__ float apply_fn(int fn, float v)
{
    if (fn == DL_SILU) return v / (1 + expf(-v));
    if (fn == DL_GELU) return 0.5f * v * (1 + erff(v * 0.70710678118654752f));
    if (fn == DL_GELU_TANH) return 0.5f * v * (1 + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)));
    if (fn == DL_QUICK_GELU) return v / (1 + expf(-1.702f * v));
    return v;
}

/* Where one output pixel lies. */
struct place {
    int32_t image, pixel;
};

__device__ __forceinline__ place place_of(const params &p, int32_t row)
{
    place at;
    at.image = row / p.pixels, at.pixel = row - at.image * p.pixels;
    return at;
}

template <class T> struct alignas(16) pack {
    T v[16 / sizeof(T)];
};

template <class T> __device__ __forceinline__ void load8_of(const void *p, int64_t i, float v[8])
{
    enum { N = 16 / sizeof(T) };
    UNROLL for (int k = 0; k < 8 / N; k++) {
        pack<T> q = dl_ld((const pack<T> *)((const T *)p + i) + k);
        UNROLL for (int j = 0; j < N; j++) v[k * N + j] = dl_to_f32(q.v[j]);
    }
}

template <class T> __device__ __forceinline__ void store8_as(void *p, int64_t i, const float v[8])
{
    enum { N = 16 / sizeof(T) };
    UNROLL for (int k = 0; k < 8 / N; k++) {
        pack<T> q;
        UNROLL for (int j = 0; j < N; j++) dl_of_f32(q.v[j], v[k * N + j]);
        dl_st((pack<T> *)((T *)p + i) + k, q);
    }
}

/* W = 1 or 8 neighbouring elements. */
template <int W> __device__ __forceinline__ void load_some(const void *p, int t, int64_t i, float v[W])
{
    if (W == 1) v[0] = load_any(p, t, i);
    else if (t == DL_F32) load8_of<float>(p, i, v);
    else if (t == DL_F16) load8_of<dl_half>(p, i, v);
    else load8_of<dl_bf16>(p, i, v);
}

template <int W> __device__ __forceinline__ void store_some(void *p, int t, int64_t i, const float v[W])
{
    if (W == 1) store_any(p, t, i, v[0]);
    else if (t == DL_F32) store8_as<float>(p, i, v);
    else if (t == DL_F16) store8_as<dl_half>(p, i, v);
    else store8_as<dl_bf16>(p, i, v);
}

/* W sums of outputs o, o + 1, ... to y, in struct dl_epi's order: + bias, fn or GLU, + add, * gate, + res, * scale. v2:
 * the second half's sums, with glu. */
template <int W>
__device__ __forceinline__ void finish(const params &p, place at, int32_t o, int32_t step, float v[W], float v2[W])
{
    const cuda_igemm_args &a = p.a;
    float u[W];
    if (a.bias) {
        load_some<W>(a.bias, DL_F32, o, u);
        UNROLL for (int j = 0; j < W; j++) v[j] += u[j];
    }
    if (a.glu) {
        if (a.bias) {
            load_some<W>(a.bias, DL_F32, p.out + o, u);
            UNROLL for (int j = 0; j < W; j++) v2[j] += u[j];
        }
        UNROLL for (int j = 0; j < W; j++) v[j] *= apply_fn(a.fn, v2[j]);
    } else if (a.fn) {
        UNROLL for (int j = 0; j < W; j++) v[j] = apply_fn(a.fn, v[j]);
    }
    if (a.add.p) {
        load_some<W>(a.add.p, a.add.t, step * a.add.ss + at.image * a.add.rs + o, u);
        UNROLL for (int j = 0; j < W; j++) v[j] += u[j];
    }
    if (a.gate.p) {
        load_some<W>(a.gate.p, a.gate.t, step * a.gate.ss + at.image * a.gate.rs + o, u);
        UNROLL for (int j = 0; j < W; j++) v[j] *= u[j];
    }
    if (a.res.p) {
        load_some<W>(a.res.p, a.res.t, at.image * a.res.rs + (int64_t)at.pixel * a.res.ld + o, u);
        UNROLL for (int j = 0; j < W; j++) v[j] += u[j];
    }
    UNROLL for (int j = 0; j < W; j++) v[j] *= p.scale;
    store_some<W>(a.y.p, a.y.t, at.image * a.y.rs + (int64_t)at.pixel * a.y.ld + o, v);
}

__device__ __forceinline__ int32_t step_of(const params &p) { return p.a.step ? dl_ld(p.a.step) : 0; }

/* Element index in x of the pixel that tap (ky, kx) of output pixel (oy, ox) reads, or -1 in the padding. */
__device__ __forceinline__ int64_t source_of(const params &p, int32_t image, int32_t oy, int32_t ox, int32_t ky,
                                             int32_t kx)
{
    const cuda_igemm_args &a = p.a;
    int32_t h = a.up ? a.y.h : a.x.h, w = a.up ? a.y.w : a.x.w;
    int32_t y = oy * a.stride + ky - a.k / 2, x = ox * a.stride + kx - a.k / 2;
    if (y < 0 || x < 0 || y >= h || x >= w) return -1;
    if (a.up) {
        y = (int32_t)((int64_t)y * a.x.h / h);
        x = (int32_t)((int64_t)x * a.x.w / w);
    }
    return image * a.x.rs + ((int64_t)y * a.x.w + x) * a.x.ld;
}

/* 16-byte piece `piece` (of 4) of row `row` in a stage of 64-byte rows, as an index of 8 elements. */
__device__ __forceinline__ int32_t swizzled(int32_t row, int32_t piece) { return row * 4 + (piece ^ ((row >> 1) & 3)); }

/* The weight row behind row j of a tile that begins at output n0. */
__device__ __forceinline__ int32_t weight_row(const params &p, int32_t n0, int32_t j)
{
    if (!p.a.glu) return n0 + j < p.out ? n0 + j : -1;
    int32_t o = n0 + (j >> 5) * 16 + (j & 15); /* a warp's 32 rows: 16 outputs, then their gates */
    if (o >= p.out) return -1;
    return j & 16 ? p.out + o : o;
}

/* The epilogue of PART rows of sums, W channels a thread at a time. */
template <int W>
__device__ __forceinline__ void store_part(const params &p, dl_sptr<float> sums, int32_t m0, int32_t n0, int32_t step)
{
    const int32_t columns = p.a.glu ? TN / 2 : TN, each = columns / W;
    for (int32_t item = (int32_t)threadIdx.x; item < PART * each; item += THREADS) {
        int32_t row = item / each, c = (item - row * each) * W;
        if (m0 + row >= p.m || n0 + c >= p.out) continue;
        int32_t from = row * PITCH + (p.a.glu ? (c >> 4) * 32 + (c & 15) : c);
        float v[W], v2[W];
        UNROLL for (int j = 0; j < W; j++) {
            v[j] = sums[from + j];
            v2[j] = p.a.glu ? (float)sums[from + 16 + j] : 0.0f;
        }
        finish<W>(p, place_of(p, m0 + row), n0 + c, step, v, v2);
    }
}

template <class T> __global__ __launch_bounds__(THREADS, 2) void igemm_mma(const params p)
{
    DL_DYN_SHARED(T, tiles); /* [STAGES][A: TM x TK | B: TN x TK] */
    const int32_t tid = (int32_t)threadIdx.x, lane = tid & 31, warp = tid >> 5, wm = warp >> 2, wn = warp & 3;
    const int32_t m0 = (int32_t)blockIdx.y * TM, n0 = (int32_t)blockIdx.x * (p.a.glu ? TN / 2 : TN);
    const int32_t piece = tid & 3, inner = p.taps * p.in, total = p.taps * p.slices;

    /* What this thread loads: 16 bytes of rows tid / 4 and tid / 4 + 64 of both tiles. */
    int32_t image[2], oy[2], ox[2], wrow[2];
    UNROLL for (int i = 0; i < 2; i++) {
        int32_t row = m0 + (tid >> 2) + 64 * i;
        place at = place_of(p, row < p.m ? row : 0);
        image[i] = row < p.m ? at.image : -1;
        oy[i] = at.pixel / p.a.y.w, ox[i] = at.pixel - oy[i] * p.a.y.w;
        wrow[i] = weight_row(p, n0, (tid >> 2) + 64 * i);
    }
    int32_t tap = 0, ky = 0, kx = 0, slice = 0; /* of the next load */
    int64_t source[2] = {-1, -1};

    auto load = [&](int stage) {
        dl_sptr<T> at = tiles + stage * (TM + TN) * TK, bt = at + TM * TK;
        int32_t c = slice * TK + piece * 8;
        if (slice == 0)
            UNROLL for (int i = 0; i < 2; i++) source[i] =
                image[i] < 0 ? -1 : source_of(p, image[i], oy[i], ox[i], ky, kx);
        UNROLL for (int i = 0; i < 2; i++) {
            int32_t row = (tid >> 2) + 64 * i, to = swizzled(row, piece) * 8;
            bool real = source[i] >= 0 && c < p.in, wreal = wrow[i] >= 0 && c < p.in;
            dl_cp_async16(at + to, (const T *)p.a.x.p + (real ? source[i] + c : 0), real);
            dl_cp_async16(bt + to, (const T *)p.a.w + (wreal ? (int64_t)wrow[i] * inner + (int64_t)tap * p.in + c : 0),
                          wreal);
        }
        if (++slice == p.slices) {
            slice = 0, tap++;
            if (++kx == p.a.k) kx = 0, ky++;
        }
    };

    float acc[4][4][4] = {};
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < total) load(s);
        dl_cp_commit();
    }
    for (int32_t it = 0; it < total; it++) {
        dl_cp_wait<STAGES - 2>();
        __syncthreads();
        if (it + STAGES - 1 < total) load((it + STAGES - 1) % STAGES);
        dl_cp_commit();
        dl_sptr<T> at = tiles + (it % STAGES) * (TM + TN) * TK, bt = at + TM * TK;
        UNROLL for (int kk = 0; kk < TK / 16; kk++) {
            uint32_t fa[4][4], fb[2][4];
            UNROLL for (int i = 0; i < 4; i++) {
                int32_t row = wm * 64 + i * 16 + (lane & 15);
                dl_ldmatrix4(fa[i], at + swizzled(row, kk * 2 + (lane >> 4)) * 8);
            }
            UNROLL for (int j = 0; j < 2; j++) {
                int32_t row = wn * 32 + j * 16 + (lane & 7) + (lane >> 4) * 8;
                dl_ldmatrix4(fb[j], bt + swizzled(row, kk * 2 + ((lane >> 3) & 1)) * 8);
            }
            UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++)
                dl_mma<T>(acc[i][j], fa[i], fb[j >> 1][(j & 1) * 2], fb[j >> 1][(j & 1) * 2 + 1]);
        }
    }

    const int32_t step = step_of(p);
    dl_sptr<float> sums = dl_scast<float>(tiles);
    for (int part = 0; part < 2; part++) {
        dl_cp_wait<0>();
        __syncthreads();
        if (wm == part)
            UNROLL for (int i = 0; i < 4; i++) UNROLL for (int j = 0; j < 4; j++) UNROLL for (int q = 0; q < 4; q++)
                sums[(i * 16 + (q >> 1) * 8 + (lane >> 2)) * PITCH + wn * 32 + j * 8 + (lane & 3) * 2 + (q & 1)] =
                    acc[i][j][q];
        __syncthreads();
        if (p.wide) store_part<8>(p, sums, m0 + part * PART, n0, step);
        else store_part<1>(p, sums, m0 + part * PART, n0, step);
    }
}

template <class T, bool GLU> __global__ __launch_bounds__(THREADS) void igemm_plain(const params p)
{
    DL_SHARED(float, xs, PK * (PM + 1));
    DL_SHARED(float, ws, PK * (PN + 1));
    DL_SHARED(float, gs, GLU ? PK * (PN + 1) : 1);
    DL_SHARED(float, sums, (GLU ? 2 : 1) * 16 * THREADS); /* of each thread its own, so that the epilogue is a loop */
    const int32_t tid = (int32_t)threadIdx.x, m0 = (int32_t)blockIdx.y * PM, n0 = (int32_t)blockIdx.x * PN;
    const int32_t inner = p.taps * p.in, kl = tid % PK, rl = tid / PK; /* loads: column kl of rows rl, rl + 16, ... */
    int32_t image[PM / 16], oy[PM / 16], ox[PM / 16];
    UNROLL for (int i = 0; i < PM / 16; i++) {
        int32_t row = m0 + rl + 16 * i;
        place at = place_of(p, row < p.m ? row : 0);
        image[i] = row < p.m ? at.image : -1;
        oy[i] = at.pixel / p.a.y.w, ox[i] = at.pixel - oy[i] * p.a.y.w;
    }
    const int32_t tr = tid / 16, tc = tid % 16; /* sums: rows tr + 16 i, outputs tc + 16 j */
    float acc[4][4] = {}, acc2[4][4] = {};
    for (int32_t k0 = 0; k0 < inner; k0 += PK) {
        int32_t k = k0 + kl, tap = k / p.in, c = k - tap * p.in, ky = tap / p.a.k, kx = tap - ky * p.a.k;
        UNROLL for (int i = 0; i < PM / 16; i++) {
            int64_t from = k < inner && image[i] >= 0 ? source_of(p, image[i], oy[i], ox[i], ky, kx) : -1;
            xs[kl * (PM + 1) + rl + 16 * i] = from < 0 ? 0.0f : dl_to_f32(dl_ld((const T *)p.a.x.p + from + c));
        }
        for (int i = 0; i < PN / 16; i++) {
            int32_t o = n0 + rl + 16 * i;
            bool real = o < p.out && k < inner;
            ws[kl * (PN + 1) + rl + 16 * i] = real ? dl_to_f32(dl_ld((const T *)p.a.w + (int64_t)o * inner + k)) : 0.0f;
            if (GLU)
                gs[kl * (PN + 1) + rl + 16 * i] =
                    real ? dl_to_f32(dl_ld((const T *)p.a.w + ((int64_t)p.out + o) * inner + k)) : 0.0f;
        }
        __syncthreads();
        for (int q = 0; q < PK; q++) {
            float xv[4], wv[4], gv[4] = {};
            UNROLL for (int i = 0; i < 4; i++) xv[i] = xs[q * (PM + 1) + tr + 16 * i];
            UNROLL for (int j = 0; j < 4; j++) wv[j] = ws[q * (PN + 1) + tc + 16 * j];
            if (GLU)
                UNROLL for (int j = 0; j < 4; j++) gv[j] = gs[q * (PN + 1) + tc + 16 * j];
            UNROLL for (int i = 0; i < 4; i++)
                UNROLL for (int j = 0; j < 4; j++) {
                    acc[i][j] = fmaf(xv[i], wv[j], acc[i][j]);
                    if (GLU) acc2[i][j] = fmaf(xv[i], gv[j], acc2[i][j]);
                }
        }
        __syncthreads();
    }
    UNROLL for (int i = 0; i < 16; i++) {
        sums[i * THREADS + tid] = acc[i / 4][i % 4];
        if (GLU) sums[(16 + i) * THREADS + tid] = acc2[i / 4][i % 4];
    }
    const int32_t step = step_of(p);
    for (int32_t i = 0; i < 16; i++) {
        int32_t row = m0 + tr + 16 * (i / 4), o = n0 + tc + 16 * (i % 4);
        if (row >= p.m || o >= p.out) continue;
        float v[1] = {sums[i * THREADS + tid]}, v2[1] = {0};
        if (GLU) v2[0] = sums[(16 + i) * THREADS + tid];
        finish<1>(p, place_of(p, row), o, step, v, v2);
    }
}

bool is_float(int t) { return t == DL_F32 || t == DL_F16 || t == DL_BF16; }

bool mma_takes(const cuda_igemm_args *a)
{
    if (a->x.t != DL_F16 && a->x.t != DL_BF16) return false;
    return a->x.c % 8 == 0 && a->x.ld % 8 == 0 && a->x.rs % 8 == 0 && (uintptr_t)a->x.p % 16 == 0 &&
           (uintptr_t)a->w % 16 == 0;
}

/* Whether 8 channels at a time may be read and written: addresses and pitches in whole 16 bytes. */
bool wide(const dl_act *a) { return !a->p || ((uintptr_t)a->p % 16 == 0 && a->ld % 8 == 0 && a->rs % 8 == 0); }
bool wide(const dl_vec *v) { return !v->p || ((uintptr_t)v->p % 16 == 0 && v->rs % 8 == 0 && v->ss % 8 == 0); }

unsigned blocks(int64_t n, int64_t of) { return (unsigned)((n + of - 1) / of); }

template <class T> int run_mma(cudaStream_t s, const params &p)
{
    dim3 grid(blocks(p.out, p.a.glu ? TN / 2 : TN), blocks(p.m, TM));
    size_t smem = (size_t)STAGES * (TM + TN) * TK * sizeof(T);
    return DL_LAUNCH(igemm_mma<T>, grid, dim3(THREADS), smem, s, p);
}

template <class T> int run_plain(cudaStream_t s, const params &p)
{
    dim3 grid(blocks(p.out, PN), blocks(p.m, PM));
    if (p.a.glu) return DL_LAUNCH((igemm_plain<T, true>), grid, dim3(THREADS), 0, s, p);
    return DL_LAUNCH((igemm_plain<T, false>), grid, dim3(THREADS), 0, s, p);
}

} // namespace

const char *cuda_igemm_variant(const struct cuda_igemm_args *a)
{
    return mma_takes(a) ? "mma 128x128x32" : "plain 64x64x16";
}

int cuda_igemm(struct CUstream_st *s, const struct cuda_igemm_args *a)
{
    int64_t m = (int64_t)a->y.n * a->y.h * a->y.w, inner = (int64_t)a->k * a->k * a->x.c;
    if (m <= 0 || a->y.c <= 0) return 0;
    if (!is_float(a->x.t) || !is_float(a->y.t) || (a->res.p && !is_float(a->res.t)) || (a->glu && a->k != 1))
        return CUDA_K_UNSUPPORTED;
    if (m >= INT32_MAX - TM || inner >= INT32_MAX - TK || blocks(m, PM) > 65535) return CUDA_K_UNSUPPORTED;
    params p = {};
    p.a = *a;
    p.m = (int32_t)m, p.out = a->y.c, p.in = a->x.c, p.taps = a->k * a->k, p.pixels = a->y.h * a->y.w;
    p.slices = (a->x.c + TK - 1) / TK, p.scale = a->scale;
    p.wide = a->y.c % 8 == 0 && wide(&a->y) && wide(&a->res) && wide(&a->add) && wide(&a->gate) &&
             (uintptr_t)a->bias % 16 == 0;
    if (mma_takes(a)) return a->x.t == DL_F16 ? run_mma<dl_half>(s, p) : run_mma<dl_bf16>(s, p);
    if (a->x.t == DL_F32) return run_plain<float>(s, p);
    return a->x.t == DL_F16 ? run_plain<dl_half>(s, p) : run_plain<dl_bf16>(s, p);
}
