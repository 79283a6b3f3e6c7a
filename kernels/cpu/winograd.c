/* Convolution 3 x 3, stride 1, by Winograd's F(4x4, 3x3) in f32: 36 products for 16 outputs instead of 144.
 *
 * y = A^T [(G g G^T) . (B^T d B)] A for each 6 x 6 tile d of the input (Lavin and Gray, arXiv:1509.09308), summed over
 * input channels before the last transform. The points are 0, +-5/8, +-3/2 and infinity: the squares are exact in f32
 * and the transforms well conditioned. Measured against f64 on 320 channels (relative L2): 1.5e-6, with the usual
 * points 0, +-1, +-2 3.3e-6, and 1.0e-6 for the plain sum in ascending order.
 *
 * How it runs, for a block of at most TILES_MAX tiles (rows of the batch counted through) at a time:
 *
 * 1. In parallel over tiles, inputs are transformed (enlarging on the way) to v[chunk][36][tile][WINO_KC], chunks being
 * of WINO_KC channels.
 *
 * 2. In parallel over weight panels: for each chunk the panel's weights are transformed into the worker's scratch,
 * multiplied position by position, and the sums m[36][tile][nr] are transformed back and finished. Transformed weights
 * are never stored: they would take four times the memory of the plain ones, and transforming costs a few percent.
 *
 * The choice of this variant depends on one row's shape alone, and no sum on the blocks, so rows do not see each other.
 */
#include "kernels/cpu/fast.h"

#include <string.h>

enum {
    TILES_MAX = 96,
    TILES_MIN = 24,
    SKEW = 16,          /* floats between positions, so that the 36 do not share one set of the cache */
    V_BYTES = 12 << 20, /* what transformed input may take, so that it stays in the last-level cache */
};

struct wino {
    const struct simd *s;
    const struct dl_conv *a;
    dl_act x; /* f32, after pre */
    struct fast_epi epi;
    const float *w;
    int64_t th, tw, tiles; /* tiles of a row: th * tw; of all rows */
    int64_t block, first;  /* tiles of a block (a multiple of mr); first tile of the block under way */
    int64_t vps;           /* floats of v from position to position */
    int64_t chunks, panels, parts;
    float *v, *zeros; /* zeros [in] */
    float *scratch;   /* [workers][scratch_n] */
    int64_t scratch_n;
};

bool fast_wino_takes(const struct simd *s, const struct dl_conv *a)
{
    return a->k == 3 && a->stride == 1 && a->x.c >= 64 && a->x.c % s->vw == 0 && a->y.c >= 64 &&
           (int64_t)a->y.h * a->y.w >= 64 && a->y.h >= 4 && a->y.w >= 4;
}

static void input_tile(const struct wino *g, int64_t slot)
{
    const dl_act *x = &g->x, *y = &g->a->y;
    int64_t t = g->first + slot, i = t / (g->th * g->tw), ty = t / g->tw % g->th * 4 - 1, tx = t % g->tw * 4 - 1;
    const float *src[WINO_POS];
    for (int64_t k = 0; k < WINO_POS; k++) {
        int64_t py = ty + k / 6, px = tx + k % 6;
        src[k] = g->zeros;
        if (t >= g->tiles || py < 0 || px < 0 || py >= y->h || px >= y->w) continue;
        if (g->a->up) py = py * x->h / y->h, px = px * x->w / y->w;
        src[k] = cpu_at(x, i, py * x->w + px);
    }
    for (int64_t c = 0; c < g->chunks; c++) {
        int64_t from = c * WINO_KC, kc = x->c - from < WINO_KC ? x->c - from : WINO_KC;
        g->s->wino_in(src, from, kc, g->v + c * WINO_POS * g->vps + slot * WINO_KC, g->vps);
    }
}

static void input_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    for (int64_t i = from; i < to; i++) input_tile(arg, i);
}

static void output_tile(const struct wino *g, int64_t t, int64_t panel, const float *m, int64_t ps, float *o)
{
    const dl_act *y = &g->a->y;
    int64_t i = t / (g->th * g->tw), ty = t / g->tw % g->th * 4, tx = t % g->tw * 4, nr = g->s->nr;
    int64_t n = y->c - panel * nr < nr ? y->c - panel * nr : nr;
    g->s->wino_out(m, ps, o);
    for (int64_t p = 0; p < 16; p++)
        if (ty + p / 4 < y->h && tx + p % 4 < y->w)
            fast_epi_line(&g->epi, g->s, i, (ty + p / 4) * y->w + tx + p % 4, panel * nr, n, o + p * nr, NULL, nr);
}

/* One panel over one part of the block's tiles. */
static void panel_item(const struct wino *g, int64_t item, float *u)
{
    const struct simd *s = g->s;
    int64_t in = g->x.c, panel = item / g->parts, part = item % g->parts;
    int64_t left = g->tiles - g->first < g->block ? g->tiles - g->first : g->block;
    int64_t groups = (left + s->mr - 1) / s->mr, g0 = groups * part / g->parts, g1 = groups * (part + 1) / g->parts;
    int64_t ups = (int64_t)WINO_KC * s->nr + SKEW, ps = (g1 - g0) * s->mr * s->nr + SKEW,
            group = (int64_t)s->mr * WINO_KC;
    float *o = u + WINO_POS * ups, *m = o + 16 * s->nr;
    for (int64_t c = 0; c < g->chunks; c++) {
        int64_t from = c * WINO_KC, kc = in - from < WINO_KC ? in - from : WINO_KC;
        s->wino_w(g->w + (panel * 9 * in + from) * s->nr, in * s->nr, kc, u, ups);
        for (int64_t k = 0; k < WINO_POS; k++)
            for (int64_t j = g0; j < g1; j++) {
                const float *v = g->v + (c * WINO_POS + k) * g->vps + j * group;
                for (int64_t i = group; i < 2 * group; i += 16)
                    __builtin_prefetch(v + i); /* the next tile's, from far */
                s->tile(kc, v, WINO_KC, u + k * ups, m + k * ps + (j - g0) * s->mr * s->nr, s->nr, c > 0);
            }
    }
    for (int64_t t = g0 * s->mr; t < g1 * s->mr && t < left; t++)
        output_tile(g, g->first + t, panel, m + (t - g0 * s->mr) * s->nr, ps, o);
}

static void panel_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct wino *g = arg;
    for (int64_t i = from; i < to; i++) panel_item(g, i, g->scratch + worker * g->scratch_n);
}

static void wino_cut(struct wino *g, int threads)
{
    const dl_act *y = &g->a->y;
    int64_t mr = g->s->mr, nr = g->s->nr, most = V_BYTES / (WINO_POS * 4 * (int64_t)g->x.c);
    g->th = (y->h + 3) / 4, g->tw = (y->w + 3) / 4, g->tiles = y->n * g->th * g->tw;
    g->chunks = (g->x.c + WINO_KC - 1) / WINO_KC, g->panels = (y->c + nr - 1) / nr;
    most = most > TILES_MAX ? TILES_MAX : most < TILES_MIN ? TILES_MIN : most;
    int64_t blocks = (g->tiles + most - 1) / most;
    g->block = ((g->tiles + blocks - 1) / blocks + mr - 1) / mr * mr;
    g->parts = (4 * (int64_t)threads + g->panels - 1) / g->panels;
    if (g->parts > g->block / mr) g->parts = g->block / mr;
    g->vps = g->block * WINO_KC + SKEW;
    g->scratch_n = (WINO_POS * (WINO_KC + g->block) + 16) * nr + 2 * WINO_POS * SKEW;
}

void fast_wino(struct dl_run *r, const struct simd *s, const struct dl_conv *a)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct wino g = {.s = s, .a = a, .x = fast_pre(r, s, a, DL_F32, false)};
    r->variant = s->vw == 16 ? "f32 winograd 4x4 avx512" : "f32 winograd 4x4 avx2";
    wino_cut(&g, r->ctx->threads);
    g.w = fast_w_panels(r, a->w, a->x.t, s, 1);
    g.v = cpu_scratch(r, g.chunks * WINO_POS * g.vps * 4);
    g.zeros = cpu_scratch(r, (int64_t)g.x.c * 4);
    g.scratch = cpu_scratch(r, r->ctx->threads * g.scratch_n * 4);
    if (fast_epi_open(&g.epi, r, &a->e, &a->y, a->x.t) && !dl_run_is_dry(r) && !r->arena.failed) {
        memset(g.zeros, 0, (size_t)g.x.c * 4);
        for (g.first = 0; g.first < g.tiles; g.first += g.block) {
            pool_for(r->ctx->pool, g.block, 4, input_items, &g);
            pool_for(r->ctx->pool, g.panels * g.parts, 1, panel_items, &g);
        }
    }
    dl_arena_release_hi(&r->arena, mark);
}
