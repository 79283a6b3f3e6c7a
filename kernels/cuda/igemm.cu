/* igemm.cu: the implicit GEMM's ways: which serve, how good they may be, launch, and the sum of split ones' parts.
 *
 * A split way is two kernels: igemm_mma with the blocks of every part side by side, each writing f32 sums to its own
 * place, and igemm_add, which adds the parts of an output in their order, first to last, and does the epilogue. No
 * atomics, so the same bits each time. Traffic: 8 bytes an output and part, which stays in the second-level cache for
 * the few tiles that are split.
 * Speed: not measured yet. guess_of is a rough model, there to have something where nothing was measured and to
 * leave out what is hopeless.
 */
#include "kernels/cuda/igemm.cuh"

/* ---- the sum of parts ---- */

enum { ADD_THREADS = 128 };

/* The parts of V columns from column c on, added in order. */
template <int V> __device__ __forceinline__ void igemm_parts(const igemm_params &p, int32_t row, int32_t c, float *s)
{
    const float *from = p.part + ((int64_t)row * p.part_ld + c);
    k_load<V>(s, from);
    for (int q = 1; q < p.split; q++) {
        float v[V];
        from += p.part_rows * p.part_ld;
        k_load<V>(v, from);
        for (int j = 0; j < V; j++) s[j] += v[j];
    }
}

template <int V> __global__ void __launch_bounds__(ADD_THREADS) igemm_add(const igemm_params p)
{
    const int32_t each = p.out / V, item = (int32_t)(blockIdx.x * ADD_THREADS + threadIdx.x);
    const int32_t row = item / each, o = (item - row * each) * V, c = igemm_column(p, o);
    if (row >= p.m) return;
    float s[V], s2[V];
    igemm_parts<V>(p, row, c, s);
    if (p.e.glu) igemm_parts<V>(p, row, c + 8, s2);
    if (p.e.row_scale) k_epi_scale<V>(p.e, row, o, s, s2);
    igemm_store<V>(p, k_step(p.e.step), row, o, s, s2);
}

/* ---- choice ---- */

enum { SPLIT_MOST = 8, PART_LEAST = 256 /* of the inner dimension */, BLOCKS_MOST = 1 << 30 };

static int64_t up(int64_t n, int64_t of) { return (n + of - 1) / of; }

static int64_t pixels_of(const cuda_igemm_args *a) { return (int64_t)a->y.n * a->y.h * a->y.w; }
static int64_t rows_of_w(const cuda_igemm_args *a) { return (int64_t)a->y.c * (a->glu ? 2 : 1); }

static bool of_e4m3(const cuda_igemm_args *a) { return a->x.t == DL_E4M3; }

static bool e4m3_serves(const cuda_igemm_args *a)
{
    return a->k == 1 && a->stride == 1 && !a->up && k_ptr_ok(a->x.p) && k_ptr_ok(a->w) && a->x.ld % 16 == 0 &&
           (a->x.n == 1 || a->x.rs == k_pixels(&a->x) * a->x.ld) && a->x.c % 16 == 0;
}

static bool serves(const cuda_igemm_args *a)
{
    int64_t inner = (int64_t)a->k * a->k * a->x.c;
    if (of_e4m3(a) ? !e4m3_serves(a) : !k_float(a->x.t)) return false;
    if (!k_float(a->y.t) || (a->res.p && !k_float(a->res.t))) return false;
    if (a->k < 1 || a->stride < 1 || a->x.c < 1 || (a->glu && a->k != 1)) return false;
    if (a->up && ((int64_t)a->y.h * a->x.h > INT32_MAX || (int64_t)a->y.w * a->x.w > INT32_MAX)) return false;
    return pixels_of(a) < INT32_MAX - 1024 && rows_of_w(a) < INT32_MAX - 1024 && inner < 1 << 29 &&
           (int64_t)a->x.h * a->x.w < INT32_MAX && up(pixels_of(a), 32) * up(rows_of_w(a), 32) < BLOCKS_MOST;
}

static bool mma_serves(const cuda_igemm_args *a)
{
    if (of_e4m3(a)) return serves(a);
    return (a->x.t == DL_F16 || a->x.t == DL_BF16) && k_act_ok(&a->x) && k_ptr_ok(a->w);
}

static int tiles_n(const cuda_igemm_args *a) { return of_e4m3(a) ? igemm_e4m3_tiles_n : igemm_tiles_n; }
static const igemm_tile *tile_of(const cuda_igemm_args *a, int tile)
{
    return of_e4m3(a) ? &igemm_e4m3_tiles[tile] : &igemm_tiles[tile];
}

static int64_t tiles_of(const cuda_igemm_args *a, const igemm_tile *t)
{
    return up(pixels_of(a), t->tm) * up(rows_of_w(a), t->tn);
}

static int64_t slices_of(const cuda_igemm_args *a, const igemm_tile *t)
{
    return (int64_t)a->k * a->k * up(a->x.c, t->tk);
}

bool igemm_way(const cuda_igemm_args *a, int tile, int split, cuda_igemm_way *way)
{
    int k = 0;
    if (!serves(a)) return false;
    *way = {"plain 64x64x16", 0, tile, split};
    if (tile == IGEMM_PLAIN_TILE) return split == 1 && !of_e4m3(a);
    if (tile < 0 || tile >= tiles_n(a) || !mma_serves(a)) return false;
    while (1 << k < split) k++;
    const igemm_tile *t = tile_of(a, tile);
    if (split < 1 || split > SPLIT_MOST || 1 << k != split || split > slices_of(a, t)) return false;
    way->name = t->name[k];
    way->scratch_bytes = split > 1 ? tiles_of(a, t) * t->tm * t->tn * split * 4 : 0;
    return tiles_of(a, t) * split < BLOCKS_MOST && (split == 1 || pixels_of(a) * a->y.c <= INT32_MAX - ADD_THREADS);
}

/* Splitting is for grids that leave half of the card idle, into parts that are worth a block. */
static bool split_pays(const cuda_igemm_args *a, const igemm_tile *t, int sms, int split)
{
    int64_t places = (int64_t)sms * t->blocks, blocks = tiles_of(a, t) * split;
    return tiles_of(a, t) * 2 < places && blocks <= places && slices_of(a, t) * t->tk >= (int64_t)split * PART_LEAST;
}

/* Clock cycles, roughly: each multiprocessor does its share of the blocks one after the other, whole tiles, padding
 * included; 512 products a cycle, and 64 bytes a cycle for what a slice loads. (Tensor rates are 1,024 on sm_80, 512 on
 * A6000, 256 on GeForce: the larger, the more the loads count.) A second kernel is 3,000, and its traffic 16 bytes a
 * cycle and multiprocessor. */
static double guess_of(const cuda_igemm_args *a, const cuda_igemm_way *way, int sms)
{
    const igemm_tile *t = tile_of(a, way->tile);
    int split = way->split;
    double slice = t->tm * t->tn * t->tk / 512.0 + (t->tm + t->tn) * t->tk * dl_type_bytes(a->x.t) / 64.0;
    double cycles = (double)up(tiles_of(a, t) * split, sms) * (double)up(slices_of(a, t), split) * slice;
    return split == 1 ? cycles : cycles + 3000 + 2.0 * (double)way->scratch_bytes / (16.0 * sms);
}

int cuda_igemm_ways(const struct cuda_igemm_args *a, int sms, struct cuda_igemm_way way[CUDA_IGEMM_WAYS])
{
    double guess[CUDA_IGEMM_WAYS];
    int n = 0;
    if (!mma_serves(a)) return igemm_way(a, IGEMM_PLAIN_TILE, 1, way);
    if (sms < 1) sms = 1;
    for (int tile = 0; tile < tiles_n(a); tile++)
        for (int split = 1; split <= SPLIT_MOST; split *= 2) {
            cuda_igemm_way w;
            if (!igemm_way(a, tile, split, &w)) continue;
            if (split > 1 && !split_pays(a, tile_of(a, tile), sms, split)) continue;
            double g = guess_of(a, &w, sms);
            int at = n;
            while (at > 0 && guess[at - 1] > g) at--;
            if (at == CUDA_IGEMM_WAYS) continue;
            if (n < CUDA_IGEMM_WAYS) n++;
            for (int j = n - 1; j > at; j--) guess[j] = guess[j - 1], way[j] = way[j - 1];
            guess[at] = g, way[at] = w;
        }
    while (n > 1 && guess[n - 1] > 2 * guess[0]) n--;
    return n;
}

/* ---- launch ---- */

/* Whether the epilogue may read and write 8 channels at a time. */
static bool wide(const cuda_igemm_args *a)
{
    return k_act_ok(&a->y) && (!a->res.p || k_act_ok(&a->res)) && k_vec_ok(&a->add) && k_vec_ok(&a->gate) &&
           k_ptr_ok(a->bias) && k_ptr_ok(a->col_scale);
}

int cuda_igemm(struct CUstream_st *s, const struct cuda_igemm_args *a, const struct cuda_igemm_way *way, void *scratch)
{
    cuda_igemm_way checked;
    if (!igemm_way(a, way->tile, way->split, &checked) || (checked.scratch_bytes && !scratch))
        return CUDA_K_UNSUPPORTED;
    if (of_e4m3(a) != (a->row_scale && a->col_scale)) return CUDA_K_UNSUPPORTED;
    if (pixels_of(a) <= 0 || a->y.c <= 0) return 0;
    igemm_params p = igemm_params();
    p.e = k_epi_of(*a);
    p.x = a->x, p.w = a->w, p.k = a->k, p.stride = a->stride, p.up = a->up;
    p.see_h = a->up ? a->y.h : a->x.h, p.see_w = a->up ? a->y.w : a->x.w;
    p.m = (int32_t)pixels_of(a), p.out = a->y.c, p.in = a->x.c;
    p.taps = a->k * a->k, p.inner = p.taps * p.in, p.pixels = a->y.h * a->y.w, p.wide = wide(a);
    if (way->tile == IGEMM_PLAIN_TILE) {
        p.columns = (int32_t)up(p.out, IGEMM_PLAIN);
        int rc = igemm_plain_run(s, p, (unsigned)(up(p.m, IGEMM_PLAIN) * p.columns));
        return rc || !a->y.parts ? rc : cuda_parts(s, &a->y);
    }

    const igemm_tile *t = tile_of(a, way->tile);
    p.columns = (int32_t)up(rows_of_w(a), t->tn), p.slices = (int32_t)up(p.in, t->tk), p.split = way->split;
    p.part = (float *)scratch, p.part_rows = up(p.m, t->tm) * t->tm, p.part_ld = p.columns * t->tn;
    int rc = (of_e4m3(a) ? igemm_e4m3_run : igemm_mma_run)(s, way->tile, p, (unsigned)(tiles_of(a, t) * p.split));
    if (rc || p.split == 1) return rc;
    unsigned blocks = (unsigned)up((int64_t)p.m * (p.out / (p.wide ? 8 : 1)), ADD_THREADS);
    rc = p.wide ? DL_LAUNCH(igemm_add<8>, dim3(blocks), dim3(ADD_THREADS), 0, s, p)
                : DL_LAUNCH(igemm_add<1>, dim3(blocks), dim3(ADD_THREADS), 0, s, p);
    return rc || !a->y.parts ? rc : cuda_parts(s, &a->y);
}
