/* GEMM and implicit-GEMM convolution in f32 on simd.h's tiles.
 *
 * A convolution is a GEMM whose left-hand row of an output pixel is the k x k x in values around it. An item of work is
 * a block of at most BLOCK_M output pixels (rows of the batch counted through) times some weight panels. For each chunk
 * of at most CHUNK_K terms the item gathers its rows into scratch [row][LDA] (here enlargement, padding and conversion
 * happen), then runs over panels and tiles; sums stay in scratch between chunks and are finished at the end. */
#include "kernels/cpu/fast.h"

#include <string.h>

enum {
    BLOCK_M = 96,
    CHUNK_K = 384,
    LDA = CHUNK_K + 16, /* keeps the rows of a tile in different sets of the cache */
    PANELS_MAX = 40,
    PANELS_MIN = 5,
};

struct mm {
    const struct simd *s;
    const dl_act *x, *y;
    struct fast_epi epi;
    const float *w[2]; /* panels; second half of a GLU */
    int64_t k;         /* terms of a sum: taps * in */
    int32_t taps, stride;
    bool up;
    int64_t m, blocks, block_m; /* output pixels of all rows; blocks of block_m */
    int64_t panels, per_item;   /* of weights; panels in an item */
    float *scratch;             /* [workers][scratch_n] */
    int64_t scratch_n, halves;
};

struct place {
    int32_t i, y, x; /* row, and output pixel */
};

/* Where tap t of an output pixel reads; NULL in the padding. */
static const uint8_t *source(const struct mm *g, const struct place *p, int32_t t)
{
    const dl_act *x = g->x;
    int64_t h = g->up ? g->y->h : x->h, w = g->up ? g->y->w : x->w;
    int64_t sy = (int64_t)p->y * g->stride, sx = (int64_t)p->x * g->stride;
    if (g->taps == 9) sy += t / 3 - 1, sx += t % 3 - 1;
    if (sy < 0 || sx < 0 || sy >= h || sx >= w) return NULL;
    if (g->up) sy = sy * x->h / h, sx = sx * x->w / w;
    return cpu_at(x, p->i, sy * x->w + sx);
}

/* Terms [k0, k0 + n) of the rows of a block; rows up to the next whole tile are zero. */
static void gather(const struct mm *g, const struct place *p, int64_t rows, int64_t k0, int64_t n, float *a)
{
    int64_t in = g->x->c, es = dl_type_bytes(g->x->t), i = 0;
    for (; i < rows; i++)
        for (int64_t k = k0; k < k0 + n;) {
            int64_t c = k % in, part = in - c < k0 + n - k ? in - c : k0 + n - k;
            const uint8_t *src = source(g, p + i, (int32_t)(k / in));
            float *d = a + i * LDA + (k - k0);
            if (!src)
                memset(d, 0, (size_t)part * 4);
            else if (g->x->t == DL_F32)
                memcpy(d, src + c * es, (size_t)part * 4);
            else
                g->s->affine(d, DL_F32, src + c * es, g->x->t, NULL, NULL, part, DL_NONE);
            k += part;
        }
    for (; i % g->s->mr; i++) memset(a + i * LDA, 0, (size_t)n * 4);
}

static void place_rows(const struct mm *g, int64_t first, int64_t rows, struct place *p)
{
    int64_t pixels = cpu_pixels(g->y);
    for (int64_t i = 0; i < rows; i++) {
        int64_t pix = (first + i) % pixels;
        p[i] = (struct place){(int32_t)((first + i) / pixels), (int32_t)(pix / g->y->w), (int32_t)(pix % g->y->w)};
    }
}

static void mm_item(const struct mm *g, int64_t block, int64_t panel0, float *scratch)
{
    const struct simd *s = g->s;
    struct place p[BLOCK_M];
    int64_t first = block * g->block_m, rows = g->m - first < g->block_m ? g->m - first : g->block_m;
    int64_t tall = (rows + s->mr - 1) / s->mr * s->mr, cs = tall * s->nr;
    int64_t panels = g->panels - panel0 < g->per_item ? g->panels - panel0 : g->per_item;
    float *a = scratch, *c = scratch + (BLOCK_M + SIMD_MR_MAX) * LDA;
    place_rows(g, first, rows, p);
    for (int64_t k0 = 0; k0 < g->k; k0 += CHUNK_K) {
        int64_t n = g->k - k0 < CHUNK_K ? g->k - k0 : CHUNK_K;
        gather(g, p, rows, k0, n, a);
        for (int64_t h = 0; h < g->halves; h++)
            for (int64_t q = 0; q < panels; q++) {
                const float *b = g->w[h] + ((panel0 + q) * g->k + k0) * s->nr;
                bool narrow = g->y->c - (panel0 + q) * s->nr <= s->vw;
                for (int64_t i = 0; i < tall; i += s->mr)
                    (narrow ? s->tile1 : s->tile)(n, a + i * LDA, LDA, b, c + (h * panels + q) * cs + i * s->nr, s->nr,
                                                  k0 > 0);
            }
    }
    int64_t from = panel0 * s->nr, cols = g->y->c - from < panels * s->nr ? g->y->c - from : panels * s->nr;
    for (int64_t i = 0; i < rows; i++)
        fast_epi_line(&g->epi, s, p[i].i, (int64_t)p[i].y * g->y->w + p[i].x, from, cols, c + i * s->nr,
                      g->halves == 2 ? c + panels * cs + i * s->nr : NULL, cs);
}

static void mm_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct mm *g = arg;
    for (int64_t i = from; i < to; i++)
        mm_item(g, i % g->blocks, i / g->blocks * g->per_item, g->scratch + worker * g->scratch_n);
}

/* Cuts the work into items: blocks of equal height, and panels so that each thread gets several items. */
static void mm_cut(struct mm *g, int threads)
{
    const struct simd *s = g->s;
    int64_t want = 8 * (int64_t)threads;
    g->m = (int64_t)g->y->n * cpu_pixels(g->y);
    g->blocks = (g->m + BLOCK_M - 1) / BLOCK_M;
    g->block_m = ((g->m + g->blocks - 1) / g->blocks + s->mr - 1) / s->mr * s->mr;
    g->blocks = (g->m + g->block_m - 1) / g->block_m;
    g->panels = (g->y->c + s->nr - 1) / s->nr;
    int64_t parts = (want + g->blocks - 1) / g->blocks;
    g->per_item = (g->panels + parts - 1) / parts;
    if (g->per_item < PANELS_MIN) g->per_item = PANELS_MIN;
    if (g->per_item > PANELS_MAX / g->halves) g->per_item = PANELS_MAX / g->halves;
    if (g->per_item > g->panels) g->per_item = g->panels;
    g->scratch_n = (BLOCK_M + SIMD_MR_MAX) * LDA + g->halves * g->per_item * (BLOCK_M + SIMD_MR_MAX) * s->nr;
}

static void mm_run(struct mm *g, struct dl_run *r, struct dl_w *w, const struct dl_epi *e, int w_t)
{
    g->halves = e->glu ? 2 : 1;
    mm_cut(g, r->ctx->threads);
    g->w[0] = fast_w_panels(r, w, w_t, g->s, (int)g->halves);
    g->scratch = cpu_scratch(r, r->ctx->threads * g->scratch_n * 4);
    if (!fast_epi_open(&g->epi, r, e, g->y, w_t) || dl_run_is_dry(r) || r->arena.failed) return;
    g->w[1] = g->w[0] + g->panels * g->k * g->s->nr;
    pool_for(r->ctx->pool, g->blocks * ((g->panels + g->per_item - 1) / g->per_item), 1, mm_items, g);
}

void fast_gemm(struct dl_run *r, const struct simd *s, const struct dl_gemm *a)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct mm g = {.s = s, .x = &a->x, .y = &a->y, .k = a->x.c, .taps = 1, .stride = 1};
    r->variant = s->vw == 16 ? "f32 tiles avx512" : "f32 tiles avx2";
    mm_run(&g, r, a->w, &a->e, a->x.t);
    dl_arena_release_hi(&r->arena, mark);
}

void fast_conv(struct dl_run *r, const struct simd *s, const struct dl_conv *a)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    dl_act x = fast_pre(r, s, a, DL_F32, false);
    struct mm g = {.s = s, .x = &x, .y = &a->y, .stride = a->stride, .up = a->up};
    g.taps = a->k * a->k;
    g.k = (int64_t)g.taps * x.c;
    r->variant = s->vw == 16 ? "f32 implicit gemm avx512" : "f32 implicit gemm avx2";
    mm_run(&g, r, a->w, &a->e, a->x.t);
    dl_arena_release_hi(&r->arena, mark);
}
