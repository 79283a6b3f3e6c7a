/* Reference GEMM and the epilogue: y = epi(x . w^T), sums in f64; in e4m3 too (engine/e4m3.h). */
#include "engine/e4m3.h"
#include "kernels/cpu/cpu_priv.h"
#include "kernels/cpu/ref_tile.h"

#include <math.h>

double ref_fn(int fn, double v)
{
    switch (fn) {
    case DL_SILU: return v / (1 + exp(-v));
    case DL_GELU: return 0.5 * v * (1 + erf(v * M_SQRT1_2));
    case DL_GELU_TANH: return 0.5 * v * (1 + tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v)));
    case DL_QUICK_GELU: return v / (1 + exp(-1.702 * v));
    default: return v;
    }
}

bool ref_epi_open(struct ref_epi *o, struct dl_run *r, const struct dl_epi *e, int t)
{
    *o = (struct ref_epi){.e = e};
    if (e->bias) o->bias = cpu_w_wide(r, e->bias, t);
    return dl_run_ok(r);
}

enum { PIECE = 64 };

static const float *vec_part(const struct dl_run *r, dl_vec v, int64_t i, int32_t from, int32_t n, float *tmp)
{
    const uint8_t *p = cpu_vec_at(r, v, i);
    return cpu_f32(p + (int64_t)from * dl_type_bytes(v.t), v.t, n, tmp);
}

static void store_piece(const struct ref_epi *o, const struct dl_run *r, const dl_act *y, int64_t i, int64_t pix,
                        int32_t from, int32_t n, const double *sum, const double *sum2)
{
    const struct dl_epi *e = o->e;
    double v[PIECE];
    float out[PIECE], tmp[PIECE];
    for (int32_t j = 0; j < n; j++) {
        double b = o->bias ? (double)o->bias[from + j] : 0;
        double b2 = o->bias && e->glu ? (double)o->bias[y->c + from + j] : 0;
        v[j] = e->glu ? (sum[j] + b) * ref_fn(e->fn, sum2[j] + b2) : ref_fn(e->fn, sum[j] + b);
    }
    if (e->add.p) {
        const float *a = vec_part(r, e->add, i, from, n, tmp);
        for (int32_t j = 0; j < n; j++) v[j] += (double)a[j];
    }
    if (e->gate.p) {
        const float *g = vec_part(r, e->gate, i, from, n, tmp);
        for (int32_t j = 0; j < n; j++) v[j] *= (double)g[j];
    }
    if (e->res.p) {
        const uint8_t *p = cpu_at(&e->res, i, pix);
        const float *s = cpu_f32(p + (int64_t)from * dl_type_bytes(e->res.t), e->res.t, n, tmp);
        for (int32_t j = 0; j < n; j++) v[j] += (double)s[j];
    }
    for (int32_t j = 0; j < n; j++) out[j] = (float)(v[j] * (double)e->scale);
    uint8_t *p = cpu_at(y, i, pix);
    dl_convert(p + (int64_t)from * dl_type_bytes(y->t), y->t, out, DL_F32, n);
}

void ref_epi_store(const struct ref_epi *o, const struct dl_run *r, const dl_act *y, int64_t i, int64_t pix,
                   int32_t from, int32_t n, const double *sum, const double *sum2)
{
    for (int32_t j = 0; j < n; j += PIECE)
        store_piece(o, r, y, i, pix, from + j, n - j < PIECE ? n - j : PIECE, sum + j, sum2 ? sum2 + j : NULL);
}

enum { BAND = 4 * TILE_N }; /* output channels of one item of work */

struct gemm {
    const struct dl_run *r;
    const struct dl_gemm *a;
    struct ref_epi epi;
    const float *w;     /* [out][in] */
    const float *scale; /* e4m3: [out]; else NULL */
    float *x;       /* [workers][TILE_M][in], for x that is not f32 */
    int64_t m, bands;
};

/* Products of e4m3: the scales of row (x) and column (w) return. */
static void rescale(double *sum, int m, int n, const float *sx, const float *sw)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) sum[i * TILE_N + j] *= (double)sx[i] * (double)sw[j];
}

/* Item: TILE_M pixels (of all rows counted through) times one band of channels. */
static void gemm_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct gemm *g = arg;
    const struct dl_gemm *a = g->a;
    int64_t pixels = cpu_pixels(&a->x), in = a->x.c, out = a->y.c;
    double sum[TILE_M * TILE_N], sum2[TILE_M * TILE_N];
    for (int64_t item = from; item < to; item++) {
        int64_t first = item / g->bands * TILE_M, band = item % g->bands * BAND;
        int m = (int)(g->m - first < TILE_M ? g->m - first : TILE_M);
        const float *x[TILE_M], *w[TILE_N];
        float sx[TILE_M];
        for (int i = 0; i < m; i++) {
            float *own = g->x ? g->x + (worker * (int64_t)TILE_M + i) * in : NULL;
            x[i] = cpu_f32(cpu_at(&a->x, (first + i) / pixels, (first + i) % pixels), a->x.t, in, own);
            if (g->scale) sx[i] = dl_e4m3_round(own, in);
        }
        for (int64_t c = band; c < out && c < band + BAND; c += TILE_N) {
            int n = (int)(out - c < TILE_N ? out - c : TILE_N);
            for (int j = 0; j < n; j++) w[j] = g->w + (c + j) * in;
            ref_tile(x, m, w, n, in, sum, TILE_N);
            for (int j = 0; a->e.glu && j < n; j++) w[j] += out * in;
            if (a->e.glu) ref_tile(x, m, w, n, in, sum2, TILE_N);
            if (g->scale) rescale(sum, m, n, sx, g->scale + c);
            if (g->scale && a->e.glu) rescale(sum2, m, n, sx, g->scale + out + c);
            for (int i = 0; i < m; i++)
                ref_epi_store(&g->epi, g->r, &a->y, (first + i) / pixels, (first + i) % pixels, (int32_t)c, n,
                              sum + i * TILE_N, a->e.glu ? sum2 + i * TILE_N : NULL);
        }
    }
}

void ref_gemm(struct dl_run *r, const struct dl_gemm *a)
{
    bool e4m3 = dl_e4m3_takes(r, a);
    r->variant = e4m3 ? "reference e4m3" : "reference";
    struct gemm g = {.r = r, .a = a, .w = e4m3 ? cpu_w_e4m3(r, a->w) : cpu_w_wide(r, a->w, a->x.t)};
    if (e4m3 && g.w) g.scale = g.w + dl_w_count(a->w);
    if (!ref_epi_open(&g.epi, r, &a->e, a->x.t)) return;
    struct dl_mark mark = dl_arena_mark(&r->arena);
    if (a->x.t != DL_F32) g.x = cpu_scratch(r, (int64_t)r->ctx->threads * TILE_M * a->x.c * 4);
    if (!dl_run_is_dry(r) && !r->arena.failed) {
        g.m = (int64_t)a->x.n * cpu_pixels(&a->x);
        g.bands = (a->y.c + BAND - 1) / BAND;
        pool_for(r->ctx->pool, (g.m + TILE_M - 1) / TILE_M * g.bands, 1, gemm_items, &g);
    }
    dl_arena_release_hi(&r->arena, mark);
}
