/* norm.cu: layer norm and RMS norm with adaLN; group norm's statistics and their application.
 *
 * Computes: cuda_lnorm, cuda_gnorm, cuda_norm of kernels.h. Two-pass variances throughout, sums in f32 over short runs.
 * Needs: sm_80. The fast variants want x and y of one type and 16-byte pitches and parameters, layer norm also
 *     c <= 6144; the rest goes to lnorm_any and to variants of one channel a thread.
 * How: all keep what belongs to a channel in registers and walk over pixels, with loads under way while they compute.
 *     Layer norm: 16 to 256 threads have a token, three vectors of 8 channels each, and take up to 16 tokens one after
 *     the other; the next one's vectors are fetched before this one's sums. x is read once.
 *     Statistics: a block takes a chunk of pixels of one row and some whole groups; a thread follows V channels through
 *     its pixels, four at a time, with sums about the chunk's first value (exact enough where the mean is large). Then
 *     a thread joins a channel, eight join a group, and a second kernel the chunks. Chunks depend on the image alone,
 *     not on the batch, so the bits of a row do not either.
 *     Application: a thread makes its channels' y = fn(k x + b) once, then has 4 to 16 pixels, four at a time.
 * Budget: registers on sm_90a (80, 86, 89, 120 within 16 of it), no spills: lnorm 104 to 112 (f32: 128), gnorm_part 59
 *     and 24 KB, norm 60.
 * Speed: not measured yet. Computed for an H200 at 4.3 TB/s and 1.75 GHz, bf16. Needed are 23 KB under way on a
 *     multiprocessor where all traffic is loads, 11 KB where half is; a warp has 110 issue slots for each 16 bytes a
 *     thread loads or stores. With set-up and idle lanes:
 *         lnorm of 320 and 640  24 KB  55 % of the slots     gnorm_part, 16 pixels a thread  64 KB  68 %
 *         lnorm of 1280         27 KB  62 %                  gnorm_part, 32 pixels           64 KB  54 %
 *         lnorm of 3072         24 KB  52 %                  norm, none / SiLU / GELU        64 KB  30, 47, 86 %
 *     SiLU and GELU take 16 of MUFU's 28 turns for 8 channels. Workstation cards have 4 to 6 times as many slots for a
 *     byte and need 5 to 7 KB under way. Where an image is small (16x16 and 8x8 at 24 rows: 300 to 500 blocks, all
 *     resident) the launch is most of the time.
 * Traps: cuda_norm's k x + b cancels where |mean| >> std, as any one-multiply form does; the test's bound counts it.
 *     RMS norm has one sum a token, layer norm two: shared memory of the sums alternates by sum, not by kind.
 *     More resident blocks of lnorm (a bound of 96 registers) spill.
 */
#include "kernels/cuda/dev/epilogue.cuh"
#include "kernels/cuda/dev/norm.cuh"
#include "kernels/cuda/dev/reduce.cuh"

/* ---- layer norm ---- */

enum { LNORM_K = 3 }; /* vectors of 8 channels of a thread */

/* L threads have a token. */
template <int T_, int L_> struct lnorm_cfg {
    enum { T = T_, L = L_, W = L_ / 32, THREADS = L_ < 64 ? 128 : L_, TOKENS = THREADS / L_ };
};

/* What follows (x - mean) * rstd of channels c .. c + V - 1, as k x + b. */
template <int V>
__device__ __forceinline__ void lnorm_affine(const cuda_lnorm_args &a, int step, int64_t row, int c, float *k, float *b)
{
    float w[V];
    for (int j = 0; j < V; j++) k[j] = 1, b[j] = 0;
    if (a.gamma) k_load<V>(k, a.gamma + c);
    if (a.beta) k_load<V>(b, a.beta + c);
    if (a.scale.p) {
        k_load_vec<V>(w, a.scale, step, row, c);
        for (int j = 0; j < V; j++) k[j] *= 1 + w[j], b[j] *= 1 + w[j];
    }
    if (a.shift.p) {
        k_load_vec<V>(w, a.shift, step, row, c);
        for (int j = 0; j < V; j++) b[j] += w[j];
    }
}

/* The sum over a token's threads. tmp [2][W]: while one half is read, a thread that is ahead writes the other; it gets
 * no farther, since there is a barrier in each sum. */
template <class C> __device__ __forceinline__ float lnorm_sum(float v, dl_sptr<float> tmp, int *half)
{
    for (int m = (C::L < 32 ? C::L : 32) / 2; m > 0; m /= 2) v += dl_shfl_xor(v, m);
    if (C::W <= 1) return v;
    int at = *half * C::W;
    *half ^= 1;
    if (threadIdx.x % 32 == 0) tmp[at + (int)threadIdx.x / 32] = v;
    __syncthreads();
    float sum = tmp[at];
    for (int i = 1; i < C::W; i++) sum += tmp[at + i];
    return sum;
}

template <class C>
__device__ __forceinline__ void lnorm_fetch(k_raw<8> *r, const cuda_lnorm_args &a, int token, int first)
{
    int64_t at = k_at(a.x, blockIdx.y, token, first);
#pragma unroll
    for (int k = 0; k < LNORM_K; k++)
        if (first + k * 8 * C::L < a.x.c) k_fetch(r[k], a.x.p, C::T, at + k * 8 * C::L);
}

template <class C> __global__ void __launch_bounds__(C::THREADS) lnorm_kernel(cuda_lnorm_args a, int turns)
{
    DL_SHARED(float, tmp, 2 * C::THREADS / 32);
    int pixels = a.x.h * a.x.w, first = (int)(threadIdx.x % C::L) * 8, half = 0;
    int token = (int)blockIdx.x * turns * C::TOKENS + (int)threadIdx.x / C::L;
    float v[LNORM_K][8], scale[LNORM_K][8], shift[LNORM_K][8], by = dl_rcp((float)a.x.c);
    k_raw<8> r[LNORM_K];
    if (token < pixels) lnorm_fetch<C>(r, a, token, first);
    int step = k_step(a.step);
#pragma unroll
    for (int k = 0; k < LNORM_K; k++)
        if (first + k * 8 * C::L < a.x.c)
            lnorm_affine<8>(a, step, blockIdx.y, first + k * 8 * C::L, scale[k], shift[k]);
    for (; turns > 0; turns--, token += C::TOKENS) {
        if (C::TOKENS == 1 && token >= pixels) return; /* all threads have the same token, else all go through */
        float sum = 0, square = 0;
#pragma unroll
        for (int k = 0; k < LNORM_K; k++) {
            for (int j = 0; j < 8; j++) v[k][j] = 0;
            if (first + k * 8 * C::L < a.x.c && token < pixels) k_widen(v[k], r[k], C::T);
        }
        if (turns > 1 && token + C::TOKENS < pixels) lnorm_fetch<C>(r, a, token + C::TOKENS, first);
#pragma unroll
        for (int k = 0; k < LNORM_K; k++)
            for (int j = 0; j < 8; j++) sum += v[k][j];
        float mean = a.rms ? 0 : lnorm_sum<C>(sum, tmp, &half) * by;
#pragma unroll
        for (int k = 0; k < LNORM_K; k++)
            if (first + k * 8 * C::L < a.x.c)
                for (int j = 0; j < 8; j++) v[k][j] -= mean, square += v[k][j] * v[k][j];
        float rstd = dl_rsqrt(lnorm_sum<C>(square, tmp, &half) * by + a.eps);
        if (token >= pixels) continue;
        int64_t at = k_at(a.y, blockIdx.y, token, first);
#pragma unroll
        for (int k = 0; k < LNORM_K; k++) {
            if (first + k * 8 * C::L >= a.x.c) continue;
            for (int j = 0; j < 8; j++) v[k][j] = v[k][j] * rstd * scale[k][j] + shift[k][j];
            k_store_t<8>(a.y.p, C::T, at + k * 8 * C::L, v[k]);
        }
    }
}

/* Any types, pitches and channels: a block a token, x read three times. */
__global__ void __launch_bounds__(128) lnorm_any(cuda_lnorm_args a)
{
    DL_SHARED(float, tmp, 4);
    int64_t token = blockIdx.x, at = k_at(a.x, blockIdx.y, token, 0);
    float sum = 0, square = 0, v, k, b;
    for (int c = (int)threadIdx.x; c < a.x.c && !a.rms; c += 128) {
        k_load_t<1>(&v, a.x.p, a.x.t, at + c);
        sum += v;
    }
    float mean = k_block_sum<4>(sum, tmp) / (float)a.x.c;
    for (int c = (int)threadIdx.x; c < a.x.c; c += 128) {
        k_load_t<1>(&v, a.x.p, a.x.t, at + c);
        square += (v - mean) * (v - mean);
    }
    float rstd = dl_rsqrt(k_block_sum<4>(square, tmp) / (float)a.x.c + a.eps);
    int step = k_step(a.step);
    for (int c = (int)threadIdx.x; c < a.x.c; c += 128) {
        k_load_t<1>(&v, a.x.p, a.x.t, at + c);
        lnorm_affine<1>(a, step, blockIdx.y, c, &k, &b);
        v = (v - mean) * rstd * k + b;
        k_store_t<1>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, token, c), &v);
    }
}

/* A thread takes some tokens, as long as there are threads enough: 1,000 and more a multiprocessor of a large GPU. */
template <class C> static int lnorm_run(struct CUstream_st *s, const cuda_lnorm_args &a)
{
    int64_t pixels = k_pixels(&a.x), turns = pixels * a.x.n * C::L >> 17;
    turns = turns < 1 ? 1 : turns > 16 ? 16 : turns;
    dim3 grid((unsigned)((pixels + turns * C::TOKENS - 1) / (turns * C::TOKENS)), (unsigned)a.x.n);
    return DL_LAUNCH(lnorm_kernel<C>, grid, C::THREADS, 0, s, a, (int)turns);
}

template <int T> static int lnorm_pick(struct CUstream_st *s, const cuda_lnorm_args &a)
{
    if (a.x.c <= 8 * LNORM_K * 16) return lnorm_run<lnorm_cfg<T, 16> >(s, a);
    if (a.x.c <= 8 * LNORM_K * 32) return lnorm_run<lnorm_cfg<T, 32> >(s, a);
    if (a.x.c <= 8 * LNORM_K * 64) return lnorm_run<lnorm_cfg<T, 64> >(s, a);
    if (a.x.c <= 8 * LNORM_K * 128) return lnorm_run<lnorm_cfg<T, 128> >(s, a);
    return lnorm_run<lnorm_cfg<T, 256> >(s, a);
}

int cuda_lnorm(struct CUstream_st *s, const struct cuda_lnorm_args *args)
{
    struct cuda_lnorm_args a = *args;
    if (a.x.n < 1 || a.x.n > K_MAX_ROWS || a.x.c < 1 || k_pixels(&a.x) < 1 || k_pixels(&a.x) > INT32_MAX / 2 ||
        !k_float(a.x.t) || !k_float(a.y.t))
        return CUDA_K_UNSUPPORTED;
    bool fast = a.x.t == a.y.t && a.x.c <= 8 * LNORM_K * 256 && k_act_ok(&a.x) && k_act_ok(&a.y) &&
                k_ptr_ok(a.gamma) && k_ptr_ok(a.beta) && k_vec_ok(&a.scale) && k_vec_ok(&a.shift);
    if (fast && a.x.t == DL_F32) return lnorm_pick<DL_F32>(s, a);
    if (fast && a.x.t == DL_F16) return lnorm_pick<DL_F16>(s, a);
    if (fast) return lnorm_pick<DL_BF16>(s, a);
    return DL_LAUNCH(lnorm_any, dim3((unsigned)k_pixels(&a.x), (unsigned)a.x.n), 128, 0, s, a);
}

/* ---- group norm: statistics ---- */

/* A type, or K_ANY: those of the arguments. U: vectors that a thread fetches before it uses the first. */
enum { K_ANY = -1 };
template <int V_, int T_> struct gnorm_cfg {
    enum { V = V_, T = T_, U = T_ == DL_F32 ? 2 : 4 };
};

struct gnorm_plan {
    int32_t size;          /* channels of a group */
    int32_t slab, slabs;   /* groups of a block; blocks side by side */
    int32_t columns;       /* threads side by side: slab * size / V */
    int32_t turns;         /* threads one after the other: K_THREADS / columns */
    int32_t chunk, chunks; /* pixels of a block; blocks one after the other */
};

struct gnorm_job {
    dl_act x;
    int32_t groups;
    float eps;
    float *mean_rstd;
    float2 *part; /* [n][groups][chunks]: mean, sum of squares about it */
    gnorm_plan p;
};

enum { GNORM_LANES = 8 }; /* threads that join a group's channels */

template <class C> __global__ void __launch_bounds__(K_THREADS) gnorm_part(gnorm_job a)
{
    enum { V = C::V, U = C::U };
    DL_SHARED(float, sums, K_THREADS *V); /* [turn][channel % V][channel / V]: neighbours write next to each other */
    DL_SHARED(float, squares, K_THREADS *V);
    DL_SHARED(float, bases, K_THREADS *V);
    int columns = a.p.columns, width = columns * V, t = C::T;
    if (t == K_ANY) t = a.x.t;
    int turn = (int)threadIdx.x / columns, column = (int)threadIdx.x % columns;
    int p0 = (int)blockIdx.x * a.p.chunk, pixels = a.x.h * a.x.w - p0;
    if (pixels > a.p.chunk) pixels = a.p.chunk;
    if (turn < a.p.turns) {
        float base[V], sum[V], square[V], v[V];
        k_raw<V> first, r[U];
        int64_t at = k_at(a.x, blockIdx.y, p0, (int64_t)blockIdx.z * width + column * V);
        k_fetch(first, a.x.p, t, at);
        for (int j = 0; j < V; j++) base[j] = sum[j] = square[j] = 0;
        for (int p = turn; p < pixels; p += U * a.p.turns) {
#pragma unroll
            for (int u = 0; u < U; u++) { /* beyond the end the first pixel, which adds nothing */
                int q = p + u * a.p.turns;
                k_fetch(r[u], a.x.p, t, at + (int64_t)(q < pixels ? q : 0) * a.x.ld);
            }
            k_widen(base, first, t);
#pragma unroll
            for (int u = 0; u < U; u++) {
                k_widen(v, r[u], t);
                for (int j = 0; j < V; j++) {
                    float d = v[j] - base[j];
                    sum[j] += d, square[j] += d * d;
                }
            }
        }
        for (int j = 0; j < V; j++) {
            sums[turn * width + j * columns + column] = sum[j];
            squares[turn * width + j * columns + column] = square[j];
            if (turn == 0) bases[j * columns + column] = base[j];
        }
    }
    __syncthreads();
    float by = dl_rcp((float)pixels);
    for (int i = (int)threadIdx.x; i < width; i += K_THREADS) {
        float sum = sums[i], square = squares[i];
        for (int k = 1; k < a.p.turns; k++) sum += sums[k * width + i], square += squares[k * width + i];
        sums[i] = bases[i] + sum * by;
        squares[i] = dl_max(square - sum * sum * by, 0.f);
    }
    __syncthreads();
    int lane = (int)threadIdx.x % GNORM_LANES;
    for (int g0 = 0; g0 < a.p.slab; g0 += K_THREADS / GNORM_LANES) { /* all threads, for the shuffles */
        int g = g0 + (int)threadIdx.x / GNORM_LANES, c0 = g * a.p.size, c1 = g < a.p.slab ? c0 + a.p.size : c0;
        float mean = 0, square = 0;
        for (int c = c0 + lane; c < c1; c += GNORM_LANES) mean += sums[c % V * columns + c / V];
        for (int m = GNORM_LANES / 2; m > 0; m /= 2) mean += dl_shfl_xor(mean, m);
        mean = dl_div_fast(mean, (float)a.p.size);
        for (int c = c0 + lane; c < c1; c += GNORM_LANES) {
            float d = sums[c % V * columns + c / V] - mean;
            square += (float)squares[c % V * columns + c / V] + (float)pixels * d * d;
        }
        for (int m = GNORM_LANES / 2; m > 0; m /= 2) square += dl_shfl_xor(square, m);
        if (lane == 0 && g < a.p.slab)
            dl_st(a.part + (blockIdx.y * (int64_t)a.groups + blockIdx.z * a.p.slab + g) * a.p.chunks + blockIdx.x,
                  make_float2(mean, square));
    }
}

/* W warps a group join the chunks, GNORM_PARTS a thread. */
enum { GNORM_PARTS = 4 };

template <int W> __global__ void __launch_bounds__(W == 1 ? 128 : 32 * W) gnorm_join(gnorm_job a)
{
    DL_SHARED(float, tmp, W);
    int g = W == 1 ? (int)(blockIdx.x * 4 + threadIdx.x / 32) : (int)blockIdx.x, lane = (int)threadIdx.x % (32 * W);
    if (g >= a.groups) return; /* with W > 1 there is none */
    const float2 *part = a.part + (blockIdx.y * (int64_t)a.groups + g) * a.p.chunks;
    float2 v[GNORM_PARTS];
    float count[GNORM_PARTS], sum = 0, square = 0, total = (float)(a.x.h * a.x.w) * (float)a.p.size;
#pragma unroll
    for (int k = 0; k < GNORM_PARTS; k++) {
        int i = lane + k * 32 * W, left = a.x.h * a.x.w - i * a.p.chunk;
        count[k] = i < a.p.chunks ? (float)(left < a.p.chunk ? left : a.p.chunk) * (float)a.p.size : 0;
        v[k] = i < a.p.chunks ? dl_ld(part + i) : make_float2(0, 0);
    }
#pragma unroll
    for (int k = 0; k < GNORM_PARTS; k++) sum += count[k] * v[k].x;
    float mean = k_block_sum<W>(sum, tmp) / total;
#pragma unroll
    for (int k = 0; k < GNORM_PARTS; k++) square += v[k].y + count[k] * (v[k].x - mean) * (v[k].x - mean);
    square = k_block_sum<W>(square, tmp);
    if (lane == 0)
        dl_st(reinterpret_cast<float2 *>(a.mean_rstd) + blockIdx.y * (int64_t)a.groups + g,
              make_float2(mean, dl_rsqrt(square / total + a.eps)));
}

/* Threads that are busy when `columns` of them stand side by side. */
static int columns_busy(int columns) { return columns > K_THREADS ? 0 : K_THREADS / columns * columns; }

/* The groups side by side that leave the fewest threads idle and begin at whole vectors; the more the better, and 512
 * bytes at least where there are as many. The rest goes by the image alone: a thread has 4 to 32 pixels, more where
 * there would be more than 1,024 chunks. False: no such plan. */
static bool gnorm_plan_make(gnorm_plan *p, const struct cuda_gnorm_args *a, int v)
{
    int64_t pixels = k_pixels(&a->x), size = a->x.c / a->groups, all = pixels * a->x.c / 8;
    p->size = (int32_t)size, p->slab = 0;
    for (int32_t slab = a->groups, best = 0; slab > 0; slab--) {
        if (a->groups % slab || slab * size % v || slab * size / v > K_THREADS) continue;
        int32_t columns = (int32_t)(slab * size / v);
        if (best > 0 && (columns < 32 || columns_busy(columns) <= best)) continue;
        best = columns_busy(columns), p->slab = slab;
    }
    if (p->slab == 0) return false;
    p->slabs = a->groups / p->slab;
    p->columns = (int32_t)(p->slab * size / v);
    p->turns = K_THREADS / p->columns;
    int64_t share = all >= 1 << 22 ? 32 : all >= 1 << 17 ? 16 : all >= 1 << 14 ? 8 : 4, chunk = p->turns * share;
    if (chunk < (pixels + 1023) / 1024) chunk = ((pixels + 1023) / 1024 + p->turns - 1) / p->turns * p->turns;
    p->chunk = (int32_t)chunk;
    p->chunks = (int32_t)((pixels + chunk - 1) / chunk);
    return true;
}

int64_t cuda_gnorm_scratch(const struct cuda_gnorm_args *a)
{
    gnorm_plan p; /* whichever will be taken */
    int64_t most = 0;
    for (int v = 1; v <= 8; v += 7)
        if (a->groups > 0 && gnorm_plan_make(&p, a, v) && p.chunks > most) most = p.chunks;
    return (int64_t)a->x.n * most * a->groups * (int64_t)sizeof(float2);
}

template <class C> static int gnorm_run(struct CUstream_st *s, const gnorm_job &j)
{
    dim3 grid((unsigned)j.p.chunks, (unsigned)j.x.n, (unsigned)j.p.slabs);
    int e = DL_LAUNCH(gnorm_part<C>, grid, K_THREADS, 0, s, j);
    if (e) return e;
    if (j.p.chunks > 32 * GNORM_PARTS)
        return DL_LAUNCH(gnorm_join<8>, dim3((unsigned)j.groups, (unsigned)j.x.n), 256, 0, s, j);
    return DL_LAUNCH(gnorm_join<1>, dim3((unsigned)(j.groups + 3) / 4, (unsigned)j.x.n), 128, 0, s, j);
}

int cuda_gnorm(struct CUstream_st *s, const struct cuda_gnorm_args *a)
{
    gnorm_job j = {a->x, a->groups, a->eps, a->mean_rstd, static_cast<float2 *>(a->scratch), gnorm_plan()};
    if (a->groups < 1 || a->x.c % a->groups || a->x.n < 1 || a->x.n > K_MAX_ROWS || !k_float(a->x.t) ||
        k_pixels(&a->x) < 1 || k_pixels(&a->x) > INT32_MAX / 2 || !a->scratch || (uintptr_t)a->mean_rstd % 8)
        return CUDA_K_UNSUPPORTED;
    if (k_act_ok(&a->x) && gnorm_plan_make(&j.p, a, 8)) {
        if (a->x.t == DL_F32) return gnorm_run<gnorm_cfg<8, DL_F32> >(s, j);
        if (a->x.t == DL_F16) return gnorm_run<gnorm_cfg<8, DL_F16> >(s, j);
        return gnorm_run<gnorm_cfg<8, DL_BF16> >(s, j);
    }
    return gnorm_plan_make(&j.p, a, 1) ? gnorm_run<gnorm_cfg<1, K_ANY> >(s, j) : CUDA_K_UNSUPPORTED;
}

/* ---- group norm: application ---- */

/* columns * turns threads are busy; blockIdx.z has the next columns. */
template <class C> __global__ void __launch_bounds__(K_THREADS) norm_kernel(cuda_norm_args a, int columns, int chunk)
{
    enum { V = C::V, U = C::U };
    int turns = K_THREADS / columns, turn = (int)threadIdx.x / columns, tx = C::T, ty = C::T;
    int c = ((int)blockIdx.z * columns + (int)threadIdx.x % columns) * V, p = (int)blockIdx.x * chunk + turn;
    int pixels = a.x.h * a.x.w, end = pixels - (int)blockIdx.x * chunk > chunk ? ((int)blockIdx.x + 1) * chunk : pixels;
    if (tx == K_ANY) tx = a.x.t, ty = a.y.t;
    if (turn >= turns || c >= a.x.c) return;
    float scale[V], shift[V], v[V];
    k_raw<V> r[U];
    int64_t x = k_at(a.x, blockIdx.y, 0, c), y = k_at(a.y, blockIdx.y, 0, c);
#pragma unroll
    for (int u = 0; u < U; u++)
        if (p + u * turns < end) k_fetch(r[u], a.x.p, tx, x + (int64_t)(p + u * turns) * a.x.ld);
    k_norm_affine<V>(a, k_step(a.step), blockIdx.y, c, scale, shift);
    while (p < end) {
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (p + u * turns >= end) continue;
            k_widen(v, r[u], tx);
            for (int j = 0; j < V; j++) v[j] = v[j] * scale[j] + shift[j];
            k_fn_each<V>(a.fn, v);
            k_store_t<V>(a.y.p, ty, y + (int64_t)(p + u * turns) * a.y.ld, v);
        }
        p += U * turns;
#pragma unroll
        for (int u = 0; u < U; u++)
            if (p + u * turns < end) k_fetch(r[u], a.x.p, tx, x + (int64_t)(p + u * turns) * a.x.ld);
    }
}

/* Columns as for the statistics, but for the groups; a thread has 16 pixels, fewer where there are few blocks. */
template <class C> static int norm_run(struct CUstream_st *s, const cuda_norm_args &a)
{
    int per = a.x.c / C::V, columns = 0, slabs = 0;
    for (int n = 1; n == 1 || per / n >= 32; n++) {
        int side = (per + n - 1) / n;
        if (columns > 0 && (int64_t)columns_busy(side) * columns * slabs <= (int64_t)columns_busy(columns) * side * n)
            continue;
        if (side <= K_THREADS) columns = side, slabs = n;
    }
    int64_t pixels = k_pixels(&a.x), chunk = 16 * (K_THREADS / columns);
    while (chunk > 4 * (K_THREADS / columns) && pixels / chunk * a.x.n * slabs < 512) chunk /= 2;
    dim3 grid((unsigned)((pixels + chunk - 1) / chunk), (unsigned)a.x.n, (unsigned)slabs);
    return DL_LAUNCH(norm_kernel<C>, grid, K_THREADS, 0, s, a, columns, (int)chunk);
}

int cuda_norm(struct CUstream_st *s, const struct cuda_norm_args *args)
{
    struct cuda_norm_args a = *args;
    int64_t pixels = k_pixels(&a.x);
    if (a.groups < 1 || a.x.c < 1 || a.x.c % a.groups || a.x.n < 1 || a.x.n > K_MAX_ROWS || pixels < 1 ||
        pixels > INT32_MAX / 2 || !k_float(a.x.t) || !k_float(a.y.t) || (uintptr_t)a.mean_rstd % 8)
        return CUDA_K_UNSUPPORTED;
    bool fast = a.x.t == a.y.t && k_act_ok(&a.x) && k_act_ok(&a.y) && k_ptr_ok(a.gamma) && k_ptr_ok(a.beta) &&
                k_vec_ok(&a.scale) && k_vec_ok(&a.shift);
    if (fast && a.x.t == DL_F32) return norm_run<gnorm_cfg<8, DL_F32> >(s, a);
    if (fast && a.x.t == DL_F16) return norm_run<gnorm_cfg<8, DL_F16> >(s, a);
    if (fast) return norm_run<gnorm_cfg<8, DL_BF16> >(s, a);
    return norm_run<gnorm_cfg<1, K_ANY> >(s, a);
}
