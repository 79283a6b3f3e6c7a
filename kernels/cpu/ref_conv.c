/* Reference convolution: each image is made f32 (and normalised) once, then patches of TILE_M output pixels are
 * gathered and multiplied with the weights [out][k k in]; sums in f64. */
#include "kernels/cpu/ref_norm.h"
#include "kernels/cpu/ref_tile.h"

struct conv {
    const struct dl_run *r;
    const struct dl_conv *a;
    struct ref_epi epi;
    struct ref_affine pre;
    const float *w; /* [out][k][k][in] */
    float *image;   /* [h][w][in] of the row under way; NULL: x itself, which is f32 */
    float *patch;   /* [workers][TILE_M][k k in] */
    int64_t row;
};

static void prepare_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct conv *g = arg;
    for (int64_t p = from; p < to; p++) {
        float *d = g->image + p * g->a->x.c;
        dl_convert(d, DL_F32, cpu_at(&g->a->x, g->row, p), g->a->x.t, g->a->x.c);
        if (g->a->pre.mean_rstd)
            ref_affine_pixel(&g->pre, g->a->pre_fn, d, d);
        else
            for (int32_t c = 0; c < g->a->x.c && g->a->pre_fn; c++) d[c] = (float)ref_fn(g->a->pre_fn, (double)d[c]);
    }
}

/* Pixel (y, x) of the input that the kernel slides over (enlarged with `up`), or NULL in the padding. */
static const float *source(const struct conv *g, int64_t y, int64_t x)
{
    const struct dl_conv *a = g->a;
    int64_t h = a->up ? a->y.h : a->x.h, w = a->up ? a->y.w : a->x.w;
    if (y < 0 || x < 0 || y >= h || x >= w) return NULL;
    if (a->up) y = y * a->x.h / a->y.h, x = x * a->x.w / a->y.w;
    int64_t p = y * a->x.w + x;
    return g->image ? g->image + p * a->x.c : (const float *)cpu_at(&a->x, g->row, p);
}

static void gather(const struct conv *g, int64_t pix, float *d)
{
    const struct dl_conv *a = g->a;
    int64_t y = pix / a->y.w * a->stride - a->k / 2, x = pix % a->y.w * a->stride - a->k / 2;
    size_t bytes = (size_t)a->x.c * sizeof *d;
    for (int32_t i = 0; i < a->k; i++)
        for (int32_t j = 0; j < a->k; j++, d += a->x.c) {
            const float *s = source(g, y + i, x + j);
            if (s)
                memcpy(d, s, bytes);
            else
                memset(d, 0, bytes);
        }
}

static void conv_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct conv *g = arg;
    const struct dl_conv *a = g->a;
    int64_t in = (int64_t)a->k * a->k * a->x.c;
    int m = (int)(to - from);
    double sum[TILE_M * TILE_N];
    const float *x[TILE_M], *w[TILE_N];
    float *patch = g->patch + worker * TILE_M * in;
    for (int i = 0; i < m; i++) {
        gather(g, from + i, patch + i * in);
        x[i] = patch + i * in;
    }
    for (int32_t c = 0; c < a->y.c; c += TILE_N) {
        int n = a->y.c - c < TILE_N ? a->y.c - c : TILE_N;
        for (int j = 0; j < n; j++) w[j] = g->w + (c + j) * in;
        ref_tile(x, m, w, n, in, sum, TILE_N);
        for (int i = 0; i < m; i++) ref_epi_store(&g->epi, g->r, &a->y, g->row, from + i, c, n, sum + i * TILE_N, NULL);
    }
}

void ref_conv(struct dl_run *r, const struct dl_conv *a)
{
    r->variant = "reference";
    struct conv g = {.r = r, .a = a, .w = cpu_w_ohwi(r, a->w, a->x.t)};
    struct dl_mark mark = dl_arena_mark(&r->arena);
    bool ok = ref_epi_open(&g.epi, r, &a->e, a->x.t), own = a->x.t != DL_F32 || a->pre.mean_rstd || a->pre_fn;
    if (a->pre.mean_rstd) ok = ref_affine_open(&g.pre, r, &a->pre, a->x.t, a->x.c) && ok;
    if (own) g.image = cpu_scratch(r, cpu_pixels(&a->x) * a->x.c * 4);
    g.patch = cpu_scratch(r, (int64_t)r->ctx->threads * TILE_M * a->k * a->k * a->x.c * 4);
    if (ok && !dl_run_is_dry(r) && !r->arena.failed)
        for (g.row = 0; g.row < a->x.n; g.row++) {
            if (a->pre.mean_rstd) ref_affine_row(&g.pre, r, g.row);
            if (own) pool_for(r->ctx->pool, cpu_pixels(&a->x), 16, prepare_items, &g);
            pool_for(r->ctx->pool, cpu_pixels(&a->y), TILE_M, conv_items, &g);
        }
    dl_arena_release_hi(&r->arena, mark);
}
