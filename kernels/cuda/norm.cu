/* norm.cu: layer norm and RMS norm with adaLN; group norm's statistics and their application.
 *
 * Computes: cuda_lnorm, cuda_gnorm, cuda_norm of kernels.h. Two-pass variances throughout, sums in f32 over short runs.
 * Needs: sm_80. Layer norm's fast variants want x and y of one type, 16-byte pitches and c <= 8192; the rest goes to
 *     lnorm_any.
 * How: layer norm keeps a token in registers, K groups of 8 channels a lane: one warp a token up to 1280 channels (four
 *     tokens a block), eight warps above. x is read once.
 *     Statistics: a block takes a chunk of pixels of one row and some whole groups; a thread follows V channels through
 *     its pixels with sums about the first value that it saw (exact enough where the mean is large), a warp joins the
 *     threads of a group, a second kernel joins the chunks. Chunks depend on the image alone, not on the batch.
 *     Application: a block makes each channel's y = fn(a x + b) once in shared memory, then streams its pixels.
 * Budget: lnorm 8 K registers for the token and about 30 more; gnorm 16 KB + shared memory; norm 8 c bytes.
 * Speed: not measured yet.
 * Traps: cuda_norm's a x + b cancels where |mean| >> std, as any one-multiply form does; the test's bound counts it.
 */
#include "kernels/cuda/dev/epilogue.cuh"
#include "kernels/cuda/dev/norm.cuh"
#include "kernels/cuda/dev/reduce.cuh"

/* ---- layer norm ---- */

template <class T_, int K_, int W_> struct lnorm_cfg {
    typedef T_ T;
    enum { K = K_, W = W_, THREADS = W_ == 1 ? 128 : 32 * W_, TOKENS = W_ == 1 ? 4 : 1 };
};

template <int V>
__device__ __forceinline__ void lnorm_affine(const cuda_lnorm_args &a, int step, int64_t row, int c, float mean,
                                             float rstd, float *v)
{
    float w[V];
    for (int j = 0; j < V; j++) v[j] = (v[j] - mean) * rstd;
    if (a.gamma) {
        k_load<V>(w, a.gamma + c);
        for (int j = 0; j < V; j++) v[j] *= w[j];
    }
    if (a.beta) {
        k_load<V>(w, a.beta + c);
        for (int j = 0; j < V; j++) v[j] += w[j];
    }
    if (a.scale.p) {
        k_load_vec<V>(w, a.scale, step, row, c);
        for (int j = 0; j < V; j++) v[j] *= 1 + w[j];
    }
    if (a.shift.p) {
        k_load_vec<V>(w, a.shift, step, row, c);
        for (int j = 0; j < V; j++) v[j] += w[j];
    }
}

template <class C> __global__ void __launch_bounds__(C::THREADS) lnorm_kernel(cuda_lnorm_args a)
{
    typedef typename C::T T;
    DL_SHARED(float, tmp, C::W);
    int64_t pixels = (int64_t)a.x.h * a.x.w;
    int64_t token = blockIdx.x * (int64_t)C::TOKENS + (C::W == 1 ? threadIdx.x / 32 : 0);
    if (token >= pixels) return; /* with W > 1 all threads have the same token */
    const T *x = static_cast<const T *>(a.x.p) + k_at(a.x, blockIdx.y, token, 0);
    T *y = static_cast<T *>(a.y.p) + k_at(a.y, blockIdx.y, token, 0);
    int first = (int)(threadIdx.x % (32 * C::W)) * 8;
    float v[C::K][8], sum = 0, square = 0;
#pragma unroll
    for (int k = 0; k < C::K; k++) {
        int c = first + k * 256 * C::W;
        if (c < a.x.c) {
            k_load<8>(v[k], x + c);
        } else {
            for (int j = 0; j < 8; j++) v[k][j] = 0;
        }
        for (int j = 0; j < 8; j++) sum += v[k][j];
    }
    float mean = a.rms ? 0 : k_block_sum<C::W>(sum, tmp) / (float)a.x.c;
#pragma unroll
    for (int k = 0; k < C::K; k++)
        if (first + k * 256 * C::W < a.x.c)
            for (int j = 0; j < 8; j++) square += (v[k][j] - mean) * (v[k][j] - mean);
    float rstd = dl_rsqrt(k_block_sum<C::W>(square, tmp) / (float)a.x.c + a.eps);
    int step = k_step(a.step);
#pragma unroll
    for (int k = 0; k < C::K; k++) {
        int c = first + k * 256 * C::W;
        if (c >= a.x.c) continue;
        lnorm_affine<8>(a, step, blockIdx.y, c, mean, rstd, v[k]);
        k_store<8>(y + c, v[k]);
    }
}

/* Any types, pitches and channels: a block a token, x read three times. */
__global__ void __launch_bounds__(128) lnorm_any(cuda_lnorm_args a)
{
    DL_SHARED(float, tmp, 4);
    int64_t token = blockIdx.x, at = k_at(a.x, blockIdx.y, token, 0);
    float sum = 0, square = 0, v;
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
        lnorm_affine<1>(a, step, blockIdx.y, c, mean, rstd, &v);
        k_store_t<1>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, token, c), &v);
    }
}

template <class C> static int lnorm_run(struct CUstream_st *s, const cuda_lnorm_args &a)
{
    int64_t pixels = k_pixels(&a.x);
    return DL_LAUNCH(lnorm_kernel<C>, dim3((unsigned)((pixels + C::TOKENS - 1) / C::TOKENS), (unsigned)a.x.n),
                     C::THREADS, 0, s, a);
}

template <class T> static int lnorm_pick(struct CUstream_st *s, const cuda_lnorm_args &a)
{
    if (a.x.c <= 256) return lnorm_run<lnorm_cfg<T, 1, 1> >(s, a);
    if (a.x.c <= 512) return lnorm_run<lnorm_cfg<T, 2, 1> >(s, a);
    if (a.x.c <= 768) return lnorm_run<lnorm_cfg<T, 3, 1> >(s, a);
    if (a.x.c <= 1280) return lnorm_run<lnorm_cfg<T, 5, 1> >(s, a);
    if (a.x.c <= 4096) return lnorm_run<lnorm_cfg<T, 2, 8> >(s, a);
    return lnorm_run<lnorm_cfg<T, 4, 8> >(s, a);
}

int cuda_lnorm(struct CUstream_st *s, const struct cuda_lnorm_args *args)
{
    struct cuda_lnorm_args a = *args;
    if (a.x.n < 1 || a.x.n > K_MAX_ROWS || a.x.c < 1 || k_pixels(&a.x) < 1 || k_pixels(&a.x) > INT32_MAX ||
        !k_float(a.x.t) || !k_float(a.y.t))
        return CUDA_K_UNSUPPORTED;
    bool fast = a.x.t == a.y.t && a.x.c <= 8192 && k_act_ok(&a.x) && k_act_ok(&a.y) && k_ptr_ok(a.gamma) &&
                k_ptr_ok(a.beta) && k_vec_ok(&a.scale) && k_vec_ok(&a.shift);
    if (fast && a.x.t == DL_F32) return lnorm_pick<float>(s, a);
    if (fast && a.x.t == DL_F16) return lnorm_pick<dl_half>(s, a);
    if (fast) return lnorm_pick<dl_bf16>(s, a);
    return DL_LAUNCH(lnorm_any, dim3((unsigned)k_pixels(&a.x), (unsigned)a.x.n), 128, 0, s, a);
}

/* ---- group norm: statistics ---- */

struct gnorm_plan {
    int32_t size;         /* channels of a group */
    int32_t slab, slabs;  /* groups of a block; blocks side by side */
    int32_t columns;      /* threads side by side: slab * size / V */
    int32_t turns;        /* threads one after the other: K_THREADS / columns */
    int32_t chunk, chunks; /* pixels of a block; blocks one after the other */
};

struct gnorm_job {
    dl_act x;
    int32_t groups;
    float eps;
    float *mean_rstd, *part; /* part [n][chunks][groups][mean, sum of squares about it] */
    gnorm_plan p;
};

/* How many of the pixels [0, n) thread `turn` of `turns` has. */
__device__ __forceinline__ int gnorm_share(int n, int turn, int turns)
{
    return turn < n ? (n - turn + turns - 1) / turns : 0;
}

template <class T, int V>
__device__ __forceinline__ void gnorm_part_body(const gnorm_job &a, dl_sptr<float> means, dl_sptr<float> squares)
{
    int width = a.p.columns * V, turn = (int)threadIdx.x / a.p.columns, column = (int)threadIdx.x % a.p.columns;
    int p0 = (int)blockIdx.x * a.p.chunk, pixels = (int)((int64_t)a.x.h * a.x.w - p0);
    if (pixels > a.p.chunk) pixels = a.p.chunk;
    if (turn < a.p.turns) {
        float base[V], sum[V], square[V], v[V];
        int n = gnorm_share(pixels, turn, a.p.turns), c = (int)blockIdx.z * width + column * V;
        const T *x = static_cast<const T *>(a.x.p) + k_at(a.x, blockIdx.y, p0 + turn, c);
        int64_t stride = (int64_t)a.p.turns * a.x.ld;
        for (int j = 0; j < V; j++) base[j] = sum[j] = square[j] = 0;
        if (n > 0) k_load<V>(base, x);
        for (int k = 1; k < n; k++) {
            k_load<V>(v, x + k * stride);
            for (int j = 0; j < V; j++) {
                float d = v[j] - base[j];
                sum[j] += d, square[j] += d * d;
            }
        }
        float by = n > 0 ? 1 / (float)n : 0;
        for (int j = 0; j < V; j++) {
            means[turn * width + column * V + j] = base[j] + sum[j] * by;
            squares[turn * width + column * V + j] = dl_max(square[j] - sum[j] * sum[j] * by, 0.f);
        }
    }
    __syncthreads();
    int lane = (int)threadIdx.x % 32, size = a.p.size, all = size * a.p.turns;
    for (int g = (int)threadIdx.x / 32; g < a.p.slab; g += K_THREADS / 32) {
        float sum = 0, square = 0;
        for (int i = lane; i < all; i += 32)
            sum += (float)gnorm_share(pixels, i / size, a.p.turns) * means[i / size * width + g * size + i % size];
        float mean = k_warp_sum(sum) / ((float)pixels * (float)size);
        for (int i = lane; i < all; i += 32) {
            float d = means[i / size * width + g * size + i % size] - mean;
            square += (float)squares[i / size * width + g * size + i % size] +
                      (float)gnorm_share(pixels, i / size, a.p.turns) * d * d;
        }
        square = k_warp_sum(square);
        if (lane == 0) {
            int64_t at = ((blockIdx.y * (int64_t)a.p.chunks + blockIdx.x) * a.groups + blockIdx.z * a.p.slab + g) * 2;
            dl_st(a.part + at, mean);
            dl_st(a.part + at + 1, square);
        }
    }
}

template <int V> __global__ void __launch_bounds__(K_THREADS) gnorm_part(gnorm_job a)
{
    DL_SHARED(float, means, K_THREADS * V);
    DL_SHARED(float, squares, K_THREADS * V);
    if (a.x.t == DL_F32) gnorm_part_body<float, V>(a, means, squares);
    else if (a.x.t == DL_F16) gnorm_part_body<dl_half, V>(a, means, squares);
    else gnorm_part_body<dl_bf16, V>(a, means, squares);
}

/* A warp a group joins the chunks. */
__global__ void __launch_bounds__(128) gnorm_join(gnorm_job a)
{
    int g = (int)(blockIdx.x * 4 + threadIdx.x / 32), lane = (int)threadIdx.x % 32;
    if (g >= a.groups) return;
    const float *part = a.part + (blockIdx.y * (int64_t)a.p.chunks * a.groups + g) * 2;
    int64_t pixels = (int64_t)a.x.h * a.x.w, stride = 2 * (int64_t)a.groups;
    float sum = 0, square = 0, total = (float)pixels * (float)a.p.size;
    for (int i = lane; i < a.p.chunks; i += 32) {
        int64_t left = pixels - (int64_t)i * a.p.chunk;
        sum += (float)(left < a.p.chunk ? left : a.p.chunk) * (float)a.p.size * dl_ld(part + i * stride);
    }
    float mean = k_warp_sum(sum) / total;
    for (int i = lane; i < a.p.chunks; i += 32) {
        int64_t left = pixels - (int64_t)i * a.p.chunk;
        float d = dl_ld(part + i * stride) - mean;
        square += dl_ld(part + i * stride + 1) + (float)(left < a.p.chunk ? left : a.p.chunk) * (float)a.p.size * d * d;
    }
    square = k_warp_sum(square);
    if (lane == 0) {
        float *out = a.mean_rstd + (blockIdx.y * (int64_t)a.groups + g) * 2;
        dl_st(out, mean);
        dl_st(out + 1, dl_rsqrt(square / total + a.eps));
    }
}

/* The most groups side by side that fit a block and, with V = 8, begin at whole vectors; false: none. */
static bool gnorm_plan_make(gnorm_plan *p, const struct cuda_gnorm_args *a, int v)
{
    p->size = a->x.c / a->groups;
    for (p->slab = a->groups; p->slab > 0; p->slab--)
        if (a->groups % p->slab == 0 && p->slab * p->size % v == 0 && p->slab * p->size / v <= K_THREADS) break;
    if (p->slab == 0) return false;
    p->slabs = a->groups / p->slab;
    p->columns = p->slab * p->size / v;
    p->turns = K_THREADS / p->columns;
    int64_t pixels = k_pixels(&a->x), chunk = (pixels + 1023) / 1024;
    p->chunk = (int32_t)(chunk < 64 ? 64 : chunk);
    p->chunks = (int32_t)((pixels + p->chunk - 1) / p->chunk);
    return true;
}

int64_t cuda_gnorm_scratch(const struct cuda_gnorm_args *a)
{
    gnorm_plan p; /* chunks do not depend on V */
    if (a->groups < 1 || !gnorm_plan_make(&p, a, 1)) return 0;
    return (int64_t)a->x.n * p.chunks * a->groups * 2 * (int64_t)sizeof(float);
}

int cuda_gnorm(struct CUstream_st *s, const struct cuda_gnorm_args *a)
{
    gnorm_job j = {a->x, a->groups, a->eps, a->mean_rstd, static_cast<float *>(a->scratch), gnorm_plan()};
    if (a->groups < 1 || a->x.c % a->groups || a->x.n < 1 || a->x.n > K_MAX_ROWS || !k_float(a->x.t) ||
        k_pixels(&a->x) < 1 || k_pixels(&a->x) > INT32_MAX / 2 || !a->scratch)
        return CUDA_K_UNSUPPORTED;
    bool v8 = k_act_ok(&a->x) && gnorm_plan_make(&j.p, a, 8);
    if (!v8 && !gnorm_plan_make(&j.p, a, 1)) return CUDA_K_UNSUPPORTED;
    dim3 grid((unsigned)j.p.chunks, (unsigned)a->x.n, (unsigned)j.p.slabs);
    int e = v8 ? DL_LAUNCH(gnorm_part<8>, grid, K_THREADS, 0, s, j)
               : DL_LAUNCH(gnorm_part<1>, grid, K_THREADS, 0, s, j);
    if (e) return e;
    return DL_LAUNCH(gnorm_join, dim3((unsigned)(a->groups + 3) / 4, (unsigned)a->x.n), 128, 0, s, j);
}

/* ---- group norm: application ---- */

template <int V> __global__ void __launch_bounds__(K_THREADS) norm_kernel(cuda_norm_args a, int chunk)
{
    DL_DYN_SHARED(float, ka); /* [c] a, [c] b */
    dl_sptr<float> kb = ka + a.x.c;
    int step = k_step(a.step);
    for (int c = (int)threadIdx.x; c < a.x.c; c += K_THREADS) {
        float k, b;
        k_norm_affine(a, step, blockIdx.y, c, &k, &b);
        ka[c] = k;
        kb[c] = b;
    }
    __syncthreads();
    uint32_t per = (uint32_t)a.x.c / V, first = blockIdx.x * (uint32_t)chunk;
    uint32_t pixels = (uint32_t)((int64_t)a.x.h * a.x.w) - first;
    if (pixels > (uint32_t)chunk) pixels = (uint32_t)chunk;
    for (uint32_t i = threadIdx.x; i < pixels * per; i += K_THREADS) {
        uint32_t p = first + i / per, c = i % per * V;
        float v[V];
        k_load_t<V>(v, a.x.p, a.x.t, k_at(a.x, blockIdx.y, p, c));
        for (int j = 0; j < V; j++) v[j] = k_fn(a.fn, v[j] * ka[c + j] + kb[c + j]);
        k_store_t<V>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, p, c), v);
    }
}

int cuda_norm(struct CUstream_st *s, const struct cuda_norm_args *args)
{
    struct cuda_norm_args a = *args;
    int64_t pixels = k_pixels(&a.x);
    if (a.groups < 1 || a.x.c < 1 || a.x.c % a.groups || a.x.c > 12288 || a.x.n < 1 || a.x.n > K_MAX_ROWS ||
        pixels < 1 || pixels > INT32_MAX || !k_float(a.x.t) || !k_float(a.y.t))
        return CUDA_K_UNSUPPORTED;
    int chunk = 32768 / a.x.c > 1 ? 32768 / a.x.c : 1;
    dim3 grid((unsigned)((pixels + chunk - 1) / chunk), (unsigned)a.x.n);
    size_t smem = (size_t)a.x.c * 2 * sizeof(float);
    if (k_act_ok(&a.x) && k_act_ok(&a.y)) return DL_LAUNCH(norm_kernel<8>, grid, K_THREADS, smem, s, a, chunk);
    return DL_LAUNCH(norm_kernel<1>, grid, K_THREADS, smem, s, a, chunk);
}
