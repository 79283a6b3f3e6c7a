/* parts.cu: partial statistics of activations (parts of struct dl_act), and group norm's statistics out of them.
 *
 * Computes: cuda_parts, cuda_gnorm_parts of kernels.h. Sums in f32 over short runs.
 * Needs: sm_80. The vector variant of cuda_parts wants what k_act_ok asks for.
 * How: the products' own epilogues make parts of what they write (dev/parts.cuh), and then x is not read for its
 *     statistics at all: a group norm reads 8 bytes for 32 pixels of a channel. parts_kernel is for products that do
 *     not: a set and V channels are four threads' of one warp, each with 8 pixels in registers, so two passes over them
 *     cost one reading. gnorm_parts is a block for each group of each image: a thread goes down a column of parts, about
 *     the first mean that it sees; means are joined first, deviations then about the joint mean. The order is the same
 *     for every batch.
 * Budget: shared memory for the sums of a block alone; parts_kernel 96 registers, gnorm_parts 52.
 * Speed: not measured yet. Computed: gnorm_parts reads an eighth of a 16-bit x, and is one kernel where gnorm_part and
 *     gnorm_join are two; parts_kernel costs what gnorm_part does.
 * Traps: one block a group is little for large images: 1,024 threads where there are more than 4,096 parts.
 */
#include "kernels/cuda/dev/parts.cuh"
#include "kernels/cuda/dev/reduce.cuh"

/* ---- parts of values ---- */

enum { PARTS_EACH = DL_PART_PIXELS / 4 /* pixels of a thread */, PARTS_ITEMS = K_THREADS / 4 };

__device__ __forceinline__ float parts_sum(float v)
{
    v += dl_shfl_xor(v, 8);
    return v + dl_shfl_xor(v, 16);
}

template <class T, int V>
__device__ __forceinline__ void parts_body(const dl_act &y, int64_t set, int c, bool real)
{
    const int quarter = (int)threadIdx.x % 32 / 8;
    const int64_t sets = (int64_t)y.h * y.w / DL_PART_PIXELS;
    const T *from = static_cast<const T *>(y.p) +
                    k_at(y, blockIdx.y, set * DL_PART_PIXELS + quarter * PARTS_EACH, c);
    float v[PARTS_EACH][V], part[2 * V];
#pragma unroll
    for (int k = 0; k < PARTS_EACH; k++) k_load<V>(v[k], from + (int64_t)k * y.ld);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float sum = 0, square = 0;
#pragma unroll
        for (int k = 0; k < PARTS_EACH; k++) sum += v[k][j];
        float mean = parts_sum(sum) / DL_PART_PIXELS;
#pragma unroll
        for (int k = 0; k < PARTS_EACH; k++) square += (v[k][j] - mean) * (v[k][j] - mean);
        part[2 * j] = mean, part[2 * j + 1] = parts_sum(square);
    }
    if (!real || quarter) return;
    float2 *to = k_part_at(y, blockIdx.y * sets + set, c);
    for (int j = 0; j < 2 * V; j += V) k_store<V>(reinterpret_cast<float *>(to) + j, part + j);
}

/* Eight neighbours of a warp have neighbouring channels. */
template <int V> __global__ void __launch_bounds__(K_THREADS, 2) parts_kernel(dl_act y)
{
    const uint32_t per = (uint32_t)y.c / V, all = (uint32_t)((int64_t)y.h * y.w / DL_PART_PIXELS) * per;
    const uint32_t mine = blockIdx.x * PARTS_ITEMS + threadIdx.x / 32 * 8 + threadIdx.x % 8;
    const bool real = mine < all;
    const uint32_t item = real ? mine : 0; /* all lanes take part in the sums */
    const int64_t set = item / per;
    const int c = (int)(item % per) * V;
    if (y.t == DL_F32) parts_body<float, V>(y, set, c, real);
    else if (y.t == DL_F16) parts_body<dl_half, V>(y, set, c, real);
    else parts_body<dl_bf16, V>(y, set, c, real);
}

static bool parts_fit(const dl_act *a)
{
    return a->parts && k_float(a->t) && a->n >= 1 && a->n <= K_MAX_ROWS && a->c >= 1 && k_pixels(a) >= 1 &&
           k_pixels(a) % DL_PART_PIXELS == 0 && k_pixels(a) <= INT32_MAX &&
           k_pixels(a) / DL_PART_PIXELS * a->c <= INT32_MAX - K_THREADS;
}

int cuda_parts(struct CUstream_st *s, const dl_act *y)
{
    if (!parts_fit(y)) return CUDA_K_UNSUPPORTED;
    const bool v8 = k_act_ok(y) && k_ptr_ok(y->parts);
    const int64_t items = k_pixels(y) / DL_PART_PIXELS * (y->c / (v8 ? 8 : 1));
    dim3 grid((unsigned)((items + PARTS_ITEMS - 1) / PARTS_ITEMS), (unsigned)y->n);
    return v8 ? DL_LAUNCH(parts_kernel<8>, grid, K_THREADS, 0, s, *y)
              : DL_LAUNCH(parts_kernel<1>, grid, K_THREADS, 0, s, *y);
}

/* ---- statistics of parts ---- */

struct gnorm_parts_job {
    dl_act x;
    int32_t groups;
    float eps;
    float *mean_rstd;
};

template <int WARPS> __global__ void __launch_bounds__(32 * WARPS) gnorm_parts(gnorm_parts_job a)
{
    DL_SHARED(float, tmp, WARPS);
    const int size = a.x.c / a.groups, columns = size < 32 * WARPS ? size : 32 * WARPS, turns = 32 * WARPS / columns;
    const int turn = (int)threadIdx.x / columns, sets = (int)((int64_t)a.x.h * a.x.w / DL_PART_PIXELS);
    float base = 0, sum = 0, square = 0, within = 0;
    int n = 0;
    for (int c = (int)threadIdx.x % columns; turn < turns && c < size; c += columns) {
        const float2 *part = k_part_at(a.x, blockIdx.y * (int64_t)sets, (int)blockIdx.x * size + c);
        if (n == 0 && turn < sets) base = dl_ld(part + (int64_t)turn * a.x.ld).x;
#pragma unroll 8
        for (int set = turn; set < sets; set += turns) {
            float2 v = dl_ld(part + (int64_t)set * a.x.ld);
            float d = v.x - base;
            sum += d, square += d * d, within += v.y, n++;
        }
    }
    const float all = (float)sets * (float)size;
    float2 mine = n > 0 ? k_part_of(base, sum, square, (float)n) : make_float2(0, 0);
    float mean = k_block_sum<WARPS>((float)n * mine.x, tmp) / all, d = mine.x - mean;
    float var = k_block_sum<WARPS>(within + DL_PART_PIXELS * (mine.y + (float)n * d * d), tmp) / (DL_PART_PIXELS * all);
    if (threadIdx.x == 0)
        dl_st(reinterpret_cast<float2 *>(a.mean_rstd) + (blockIdx.y * (int64_t)a.groups + blockIdx.x),
              make_float2(mean, dl_rsqrt(var + a.eps)));
}

int cuda_gnorm_parts(struct CUstream_st *s, const struct cuda_gnorm_args *a)
{
    gnorm_parts_job j = {a->x, a->groups, a->eps, a->mean_rstd};
    if (!parts_fit(&a->x) || a->groups < 1 || a->x.c % a->groups) return CUDA_K_UNSUPPORTED;
    dim3 grid((unsigned)a->groups, (unsigned)a->x.n);
    return k_pixels(&a->x) / DL_PART_PIXELS * (a->x.c / a->groups) > 4096
               ? DL_LAUNCH(gnorm_parts<32>, grid, 1024, 0, s, j)
               : DL_LAUNCH(gnorm_parts<8>, grid, K_THREADS, 0, s, j);
}
