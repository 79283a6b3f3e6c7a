/* misc.cu: the small ops: epilogue pass, embedding, sinusoids, copy, add, pick, resize, image.
 *
 * Computes: what engine/op.h says of each; sums and functions in f32, one rounding at the end.
 * Needs: sm_80; any pitches and types. V = 8 where every operand allows 16-byte accesses, else V = 1.
 * How: a thread takes V neighbouring channels of one pixel (copy: of two), blockIdx.y the row; nothing is shared. Types
 *     are branched on at run time instead of being compiled in every combination; so that a branch does not wait for
 *     its load, all operands are fetched as they lie in memory before the first is widened. The pixel of an item comes
 *     by a multiplication (k_div).
 * Budget: no shared memory; at most 64 registers (epi 62, resize 48, copy 32, add 28 on sm_90a).
 * Speed: not measured yet. Computed for an H200 as in norm.cu (11 KB and more needed; 110 slots for 16 bytes of a
 *     thread), bf16 but for epi's sums in f32: copy 64 KB under way on a multiprocessor, 43 % of the slots; add 64 KB,
 *     40 %; epi with a bias 32 KB, 45 %, with a residual 48 KB, as GEGLU 64 KB, 55 %; resize 16 KB (nearest: a fifth of
 *     the traffic is loads) and 80 KB. Embedding, sinusoids and image run once a picture.
 * Traps: y may be x (each thread reads what it writes); with glu y must not be x. Sinusoids of large angles would take
 *     sinf's slow path through local memory, hence the reduction in double.
 */
#include "kernels/cuda/dev/epilogue.cuh"

/* Which (pixel, first channel) item u of a thread's U is; per: of a pixel's items. False: none. */
template <int V, int U>
__device__ __forceinline__ bool item(const dl_act &y, k_divisor per, int u, uint32_t *pixel, int *c)
{
    uint32_t i = (blockIdx.x * U + u) * (uint32_t)K_THREADS + threadIdx.x;
    *pixel = k_div(i, per);
    *c = (int)(i - *pixel * per.d) * V;
    return *pixel < (uint32_t)(y.h * y.w);
}

static unsigned item_blocks(const dl_act *y, int v, int u)
{
    int64_t items = k_pixels(y) * (y->c / v);
    return items > INT32_MAX - 2 * K_THREADS ? 0 : k_blocks((items + u - 1) / u);
}

/* u: items of a thread. */
#define K_EACH(kernel, u, v8, y, s, ...)                                                                               \
    ((v8) ? DL_LAUNCH(kernel<8>, dim3(item_blocks(&(y), 8, u), (unsigned)(y).n), K_THREADS, 0, s, __VA_ARGS__,         \
                      k_divisor_of((y).c / 8))                                                                         \
          : DL_LAUNCH(kernel<1>, dim3(item_blocks(&(y), 1, u), (unsigned)(y).n), K_THREADS, 0, s, __VA_ARGS__,         \
                      k_divisor_of((y).c)))

static bool y_ok(const dl_act *y)
{
    return y->n >= 1 && y->n <= K_MAX_ROWS && y->c >= 1 && item_blocks(y, 1, 1) > 0 && k_float(y->t);
}

template <int V> __global__ void __launch_bounds__(K_THREADS, 4) epi_kernel(cuda_epi_args a, k_divisor per)
{
    uint32_t p;
    int c;
    if (!item<V, 1>(a.y, per, 0, &p, &c)) return;
    float s[V], s2[V], v[V];
    k_raw<V> x, x2, res;
    k_fetch(x, a.x.p, a.x.t, k_at(a.x, blockIdx.y, p, c));
    if (a.glu) k_fetch(x2, a.x.p, a.x.t, k_at(a.x, blockIdx.y, p, a.y.c + c));
    if (a.res.p) k_fetch(res, a.res.p, a.res.t, k_at(a.res, blockIdx.y, p, c));
    int step = k_step(a.step);
    k_widen(s, x, a.x.t);
    if (a.glu) k_widen(s2, x2, a.x.t);
    if (a.row_scale) k_epi_scale<V>(a, blockIdx.y * (int64_t)a.y.h * a.y.w + p, c, s, s2);
    k_epi_inner<V>(a, step, blockIdx.y, c, s, s2);
    if (a.res.p) {
        k_widen(v, res, a.res.t);
        for (int j = 0; j < V; j++) s[j] += v[j];
    }
    for (int j = 0; j < V; j++) s[j] *= a.scale;
    k_store_t<V>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, p, c), s);
}

int cuda_epi(struct CUstream_st *s, const struct cuda_epi_args *args)
{
    struct cuda_epi_args a = *args;
    if (!y_ok(&a.y) || !k_float(a.x.t) || (a.res.p && !k_float(a.res.t))) return CUDA_K_UNSUPPORTED;
    if (a.scale == 0) a.scale = 1;
    bool v8 = k_act_ok(&a.x) && k_act_ok(&a.y) && (!a.res.p || k_act_ok(&a.res)) && k_vec_ok(&a.add) &&
              k_vec_ok(&a.gate) && k_ptr_ok(a.bias) && k_ptr_ok(a.col_scale);
    return K_EACH(epi_kernel, 1, v8, a.y, s, a);
}

template <int V> __global__ void __launch_bounds__(K_THREADS) embed_kernel(cuda_embed_args a, k_divisor per)
{
    uint32_t p;
    int c;
    if (!item<V, 1>(a.y, per, 0, &p, &c)) return;
    float v[V], w[V];
    int64_t id = dl_ld(a.ids + (int64_t)blockIdx.y * a.y.w + p);
    k_load_t<V>(v, a.table, a.y.t, id * a.y.c + c);
    if (a.pos) {
        k_load_t<V>(w, a.pos, a.y.t, (int64_t)p * a.y.c + c);
        for (int j = 0; j < V; j++) v[j] += w[j];
    }
    k_store_t<V>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, p, c), v);
}

int cuda_embed(struct CUstream_st *s, const struct cuda_embed_args *args)
{
    struct cuda_embed_args a = *args;
    if (!y_ok(&a.y) || a.y.h != 1) return CUDA_K_UNSUPPORTED;
    bool v8 = k_act_ok(&a.y) && k_ptr_ok(a.table) && k_ptr_ok(a.pos);
    return K_EACH(embed_kernel, 1, v8, a.y, s, a);
}

/* The angle as diffusers rounds it, in f32 step by step; then a reduction in double and sinpi. */
__global__ void __launch_bounds__(K_THREADS) sinus_kernel(cuda_sinus_args a)
{
    int half = a.y.c / 2, j = (int)(blockIdx.x * K_THREADS + threadIdx.x);
    if (j >= half) return;
    float e = dl_div_rn(dl_mul_rn(-9.210340371976184f, (float)j), dl_sub_rn((float)half, a.shift));
    float angle = dl_mul_rn(dl_ld(a.t + blockIdx.y), (float)exp((double)e));
    double turn = (double)angle * 0.31830988618379067154;
    float x = (float)(turn - 2 * rint(turn / 2)), s = dl_sinpi(x), c = dl_cospi(x);
    int64_t at = k_at(a.y, blockIdx.y, 0, 0);
    k_store_t<1>(a.y.p, a.y.t, at + (a.flip ? half + j : j), &s);
    k_store_t<1>(a.y.p, a.y.t, at + (a.flip ? j : half + j), &c);
}

int cuda_sinus(struct CUstream_st *s, const struct cuda_sinus_args *args)
{
    struct cuda_sinus_args a = *args;
    if (!y_ok(&a.y) || a.y.c % 2) return CUDA_K_UNSUPPORTED;
    return DL_LAUNCH(sinus_kernel, dim3(k_blocks(a.y.c / 2), (unsigned)a.y.n), K_THREADS, 0, s, a);
}

template <int V> __global__ void __launch_bounds__(K_THREADS) copy_kernel(cuda_copy_args a, k_divisor per)
{
    int64_t row = a.row ? dl_ld(a.row + blockIdx.y) : a.x.n == 1 ? 0 : blockIdx.y;
    uint32_t p[2];
    int c[2];
    bool mine[2];
    k_raw<V> r[2];
#pragma unroll
    for (int u = 0; u < 2; u++) {
        mine[u] = item<V, 2>(a.y, per, u, &p[u], &c[u]);
        if (mine[u]) k_fetch(r[u], a.x.p, a.x.t, k_at(a.x, row, p[u], c[u]));
    }
#pragma unroll
    for (int u = 0; u < 2; u++) {
        if (!mine[u]) continue;
        float v[V];
        k_widen(v, r[u], a.x.t);
        for (int j = 0; j < V; j++) v[j] = v[j] * a.a + a.b;
        k_fn_each<V>(a.fn, v);
        k_store_t<V>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, p[u], c[u]), v);
    }
}

int cuda_copy(struct CUstream_st *s, const struct cuda_copy_args *args)
{
    struct cuda_copy_args a = *args;
    if (!y_ok(&a.y) || !k_float(a.x.t)) return CUDA_K_UNSUPPORTED;
    if (a.a == 0) a.a = 1;
    return K_EACH(copy_kernel, 2, k_act_ok(&a.x) && k_act_ok(&a.y), a.y, s, a);
}

template <int V> __global__ void __launch_bounds__(K_THREADS) add_kernel(cuda_add_args a, k_divisor per)
{
    uint32_t p;
    int c;
    if (!item<V, 1>(a.y, per, 0, &p, &c)) return;
    float v[V], w[V];
    k_raw<V> x, z;
    k_fetch(x, a.a.p, a.a.t, k_at(a.a, blockIdx.y, p, c));
    k_fetch(z, a.b.p, a.b.t, k_at(a.b, blockIdx.y, p, c));
    k_widen(v, x, a.a.t);
    k_widen(w, z, a.b.t);
    for (int j = 0; j < V; j++) v[j] += w[j];
    k_store_t<V>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, p, c), v);
}

int cuda_add(struct CUstream_st *s, const struct cuda_add_args *args)
{
    struct cuda_add_args a = *args;
    if (!y_ok(&a.y) || !k_float(a.a.t) || !k_float(a.b.t)) return CUDA_K_UNSUPPORTED;
    return K_EACH(add_kernel, 1, k_act_ok(&a.a) && k_act_ok(&a.b) && k_act_ok(&a.y), a.y, s, a);
}

template <int V> __global__ void __launch_bounds__(K_THREADS) pick_kernel(cuda_pick_args a, k_divisor per)
{
    uint32_t p;
    int c;
    if (!item<V, 1>(a.y, per, 0, &p, &c)) return;
    float v[V];
    k_load_vec<V>(v, a.table, k_step(a.step), dl_ld(a.row + blockIdx.y), c);
    k_store_t<V>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, p, c), v);
}

int cuda_pick(struct CUstream_st *s, const struct cuda_pick_args *args)
{
    struct cuda_pick_args a = *args;
    if (!y_ok(&a.y) || k_pixels(&a.y) != 1 || !k_float(a.table.t)) return CUDA_K_UNSUPPORTED;
    return K_EACH(pick_kernel, 1, k_act_ok(&a.y) && k_vec_ok(&a.table), a.y, s, a);
}

template <int V>
__global__ void __launch_bounds__(K_THREADS) resize_kernel(cuda_resize_args a, k_divisor width, k_divisor height,
                                                           k_divisor per)
{
    uint32_t p;
    int c;
    if (!item<V, 1>(a.y, per, 0, &p, &c)) return;
    uint32_t row = k_div(p, width), column = p - row * width.d;
    float v[V], w[V];
    k_raw<V> r[4];
    if (a.kind == DL_RESIZE_NEAREST) {
        uint32_t from = k_div(row * a.x.h, height) * a.x.w + k_div(column * a.x.w, width);
        k_fetch(r[0], a.x.p, a.x.t, k_at(a.x, blockIdx.y, from, c));
        k_widen(v, r[0], a.x.t);
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t from = (2 * row + k / 2) * a.x.w + 2 * column + k % 2;
            k_fetch(r[k], a.x.p, a.x.t, k_at(a.x, blockIdx.y, from, c));
        }
        for (int j = 0; j < V; j++) v[j] = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            k_widen(w, r[k], a.x.t);
            for (int j = 0; j < V; j++) v[j] += w[j];
        }
        for (int j = 0; j < V; j++) v[j] *= 0.25f;
    }
    k_store_t<V>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, p, c), v);
}

int cuda_resize(struct CUstream_st *s, const struct cuda_resize_args *args)
{
    struct cuda_resize_args a = *args;
    if (!y_ok(&a.y) || !k_float(a.x.t) || k_pixels(&a.x) > INT32_MAX || (int64_t)a.x.h * a.y.h > INT32_MAX ||
        (int64_t)a.x.w * a.y.w > INT32_MAX)
        return CUDA_K_UNSUPPORTED;
    return K_EACH(resize_kernel, 1, k_act_ok(&a.x) && k_act_ok(&a.y), a.y, s, a, k_divisor_of(a.y.w),
                  k_divisor_of(a.y.h));
}

/* A pixel a thread. */
__global__ void __launch_bounds__(K_THREADS) image_kernel(cuda_image_args a)
{
    int64_t pixels = (int64_t)a.x.h * a.x.w, p = blockIdx.x * (int64_t)K_THREADS + threadIdx.x;
    if (p >= pixels) return;
    for (int c = 0; c < 3; c++) {
        float v;
        k_load_t<1>(&v, a.x.p, a.x.t, k_at(a.x, blockIdx.y, p, c));
        v = v / 2 + 0.5f;
        v = v > 0 ? v < 1 ? v : 1 : 0; /* a NaN becomes 0 */
        dl_st(a.u8 + (blockIdx.y * pixels + p) * 3 + c, (uint8_t)rintf(v * 255));
    }
}

int cuda_image(struct CUstream_st *s, const struct cuda_image_args *args)
{
    struct cuda_image_args a = *args;
    if (!y_ok(&a.x) || a.x.c < 3) return CUDA_K_UNSUPPORTED;
    return DL_LAUNCH(image_kernel, dim3(k_blocks(k_pixels(&a.x)), (unsigned)a.x.n), K_THREADS, 0, s, a);
}
