/* Norms, activations, copies and sums: bound by memory, so each is one pass (group norm's statistics one more) in
 * vectors over all threads. */
#include "kernels/cpu/fast.h"

#include <math.h>
#include <string.h>

float *fast_norm_coefs(struct dl_run *r, const struct dl_stat *s, const dl_act *x)
{
    const float *gamma = s->gamma ? cpu_w_wide(r, s->gamma, x->t) : NULL;
    const float *beta = s->beta ? cpu_w_wide(r, s->beta, x->t) : NULL;
    float *ab = cpu_scratch(r, (int64_t)x->n * 2 * x->c * 4);
    if (!dl_run_ok(r) || !ab) return NULL;
    int32_t size = x->c / s->groups;
    for (int64_t i = 0; i < x->n && !dl_run_is_dry(r); i++)
        for (int64_t c = 0; c < x->c; c++) {
            const float *mr = s->mean_rstd + (i * s->groups + c / size) * 2;
            double a = (double)mr[1] * (gamma ? (double)gamma[c] : 1);
            double b = (beta ? (double)beta[c] : 0) - (double)mr[0] * a;
            double k = s->scale.p ? 1 + (double)dl_load(cpu_vec_at(r, s->scale, i), s->scale.t, c) : 1;
            double d = s->shift.p ? (double)dl_load(cpu_vec_at(r, s->shift, i), s->shift.t, c) : 0;
            ab[2 * i * x->c + c] = (float)(a * k);
            ab[(2 * i + 1) * x->c + c] = (float)(b * k + d);
        }
    return ab;
}

struct apply {
    const struct simd *s;
    const dl_act *x, *y;
    const float *ab; /* [n][2][c] or NULL */
    int fn;
    bool up; /* y is x enlarged by nearest neighbour */
};

static void apply_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct apply *g = arg;
    const dl_act *x = g->x, *y = g->y;
    int64_t pixels = cpu_pixels(y), c = x->c;
    for (int64_t p = from; p < to; p++) {
        int64_t i = p / pixels, q = p % pixels, src = q;
        const float *a = g->ab ? g->ab + 2 * i * c : NULL;
        if (g->up) src = q / y->w * x->h / y->h * x->w + q % y->w * x->w / y->w;
        g->s->affine(cpu_at(y, i, q), y->t, cpu_at(x, i, src), x->t, a, a ? a + c : NULL, c, g->fn);
    }
}

/* Pixels in a chunk of work: about 64 KiB of f32. */
static int64_t grain_of(const dl_act *x) { return 1 + 16384 / x->c; }

dl_act fast_pre(struct dl_run *r, const struct simd *s, const struct dl_conv *a, int t, bool dense)
{
    bool norm = a->pre.mean_rstd != NULL, up = dense && a->up;
    bool as_is = !norm && a->pre_fn == DL_NONE && a->x.t == t;
    if (as_is && (!dense || (!up && a->x.ld == a->x.c))) return a->x;
    dl_act y = dl_act_hi(r, t, a->x.n, up ? a->y.h : a->x.h, up ? a->y.w : a->x.w, a->x.c);
    struct apply g = {.s = s, .x = &a->x, .y = &y, .fn = a->pre_fn, .up = up};
    if (norm) g.ab = fast_norm_coefs(r, &a->pre, &a->x);
    if (dl_run_ok(r) && !dl_run_is_dry(r) && !r->arena.failed)
        pool_for(r->ctx->pool, y.n * cpu_pixels(&y), grain_of(&y), apply_items, &g);
    return y;
}

void fast_norm(struct dl_run *r, const struct simd *s, const struct dl_norm *a)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct apply g = {.s = s, .x = &a->x, .y = &a->y, .fn = a->fn};
    r->variant = s->name;
    g.ab = fast_norm_coefs(r, &a->s, &a->x);
    if (dl_run_ok(r) && !dl_run_is_dry(r) && !r->arena.failed)
        pool_for(r->ctx->pool, a->x.n * cpu_pixels(&a->x), grain_of(&a->x), apply_items, &g);
    dl_arena_release_hi(&r->arena, mark);
}

/* Group norm's statistics: an item sums, for each channel, the differences of SLAB pixels from the row's first pixel
 * (and their squares); the slabs are then added up in f64 around the group's mean. */
enum { SLAB = 64 };

struct gnorm {
    const struct simd *s;
    const struct dl_gnorm *a;
    float *part;  /* [n][slabs][2][c] */
    float *pivot; /* [n][c] */
    int64_t slabs;
};

static void gnorm_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct gnorm *g = arg;
    const dl_act *x = &g->a->x;
    int64_t c = x->c, pixels = cpu_pixels(x);
    for (int64_t item = from; item < to; item++) {
        int64_t i = item / g->slabs, p = item % g->slabs * SLAB, end = p + SLAB < pixels ? p + SLAB : pixels;
        float *sum = g->part + item * 2 * c;
        memset(sum, 0, (size_t)(2 * c) * 4);
        for (; p < end; p++) g->s->moments(sum, sum + c, cpu_at(x, i, p), x->t, g->pivot + i * c, c);
    }
}

static void gnorm_close(const struct gnorm *g, int64_t i, int64_t group, float *mean_rstd)
{
    const dl_act *x = &g->a->x;
    int64_t c = x->c, size = c / g->a->groups, pixels = cpu_pixels(x), from = group * size;
    double n = (double)pixels, mean = 0, var = 0;
    const float *pivot = g->pivot + i * c;
    for (int64_t b = 0; b < g->slabs; b++)
        for (int64_t j = from; j < from + size; j++) mean += (double)g->part[(i * g->slabs + b) * 2 * c + j];
    for (int64_t j = from; j < from + size; j++) mean += n * (double)pivot[j];
    mean /= n * (double)size;
    for (int64_t j = from; j < from + size; j++) {
        double s = 0, q = 0, d = (double)pivot[j] - mean;
        for (int64_t b = 0; b < g->slabs; b++) {
            const float *part = g->part + (i * g->slabs + b) * 2 * c;
            s += (double)part[j], q += (double)part[c + j];
        }
        var += q + 2 * s * d + n * d * d;
    }
    var /= n * (double)size;
    mean_rstd[0] = (float)mean;
    mean_rstd[1] = (float)(1 / sqrt((var > 0 ? var : 0) + (double)g->a->eps));
}

void fast_gnorm(struct dl_run *r, const struct simd *s, const struct dl_gnorm *a, float *mean_rstd)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct gnorm g = {.s = s, .a = a, .slabs = (cpu_pixels(&a->x) + SLAB - 1) / SLAB};
    r->variant = s->name;
    g.part = cpu_scratch(r, a->x.n * g.slabs * 2 * a->x.c * 4);
    g.pivot = cpu_scratch(r, (int64_t)a->x.n * a->x.c * 4);
    if (!dl_run_is_dry(r) && !r->arena.failed) {
        for (int64_t i = 0; i < a->x.n; i++)
            dl_convert(g.pivot + i * a->x.c, DL_F32, cpu_at(&a->x, i, 0), a->x.t, a->x.c);
        pool_for(r->ctx->pool, a->x.n * g.slabs, 1, gnorm_items, &g);
        for (int64_t i = 0; i < a->x.n; i++)
            for (int64_t j = 0; j < a->groups; j++) gnorm_close(&g, i, j, mean_rstd + (i * a->groups + j) * 2);
    }
    dl_arena_release_hi(&r->arena, mark);
}

struct lnorm {
    const struct simd *s;
    const struct dl_lnorm *a;
    const float *gb; /* [n][2][c] */
};

static void lnorm_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct lnorm *g = arg;
    const struct dl_lnorm *a = g->a;
    int64_t pixels = cpu_pixels(&a->x), c = a->x.c;
    for (int64_t p = from; p < to; p++) {
        int64_t i = p / pixels;
        const float *gb = g->gb + i * 2 * c;
        g->s->lnorm(cpu_at(&a->y, i, p % pixels), a->y.t, cpu_at(&a->x, i, p % pixels), a->x.t, gb, gb + c, c, a->eps,
                    a->rms);
    }
}

void fast_lnorm(struct dl_run *r, const struct simd *s, const struct dl_lnorm *a)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct lnorm g = {.s = s, .a = a};
    int64_t c = a->x.c;
    r->variant = s->name;
    const float *gamma = a->gamma ? cpu_w_wide(r, a->gamma, a->x.t) : NULL;
    const float *beta = a->beta ? cpu_w_wide(r, a->beta, a->x.t) : NULL;
    float *gb = cpu_scratch(r, a->x.n * 2 * c * 4);
    if (dl_run_ok(r) && !dl_run_is_dry(r) && gb) {
        for (int64_t i = 0; i < a->x.n; i++)
            for (int64_t j = 0; j < c; j++) {
                float k = a->scale.p ? 1 + dl_load(cpu_vec_at(r, a->scale, i), a->scale.t, j) : 1;
                float d = a->shift.p ? dl_load(cpu_vec_at(r, a->shift, i), a->shift.t, j) : 0;
                gb[2 * i * c + j] = (gamma ? gamma[j] : 1) * k;
                gb[(2 * i + 1) * c + j] = (beta ? beta[j] : 0) * k + d;
            }
        g.gb = gb;
        pool_for(r->ctx->pool, a->x.n * cpu_pixels(&a->x), grain_of(&a->x), lnorm_items, &g);
    }
    dl_arena_release_hi(&r->arena, mark);
}

struct rope {
    const struct simd *s;
    const struct dl_rope *a;
    const float *gamma[2]; /* [d] of each half of the heads; NULL: no norm */
};

static void rope_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct rope *g = arg;
    const struct dl_rope *a = g->a;
    int64_t tokens = cpu_pixels(&a->x), d = a->x.c / a->heads;
    for (int64_t q = from; q < to; q++) {
        int64_t p = q % tokens;
        uint8_t *y = cpu_at(&a->y, q / tokens, p);
        const uint8_t *x = cpu_at(&a->x, q / tokens, p);
        for (int64_t h = 0; h < a->heads; h++)
            g->s->rope(y + h * d * dl_type_bytes(a->y.t), a->y.t, x + h * d * dl_type_bytes(a->x.t), a->x.t,
                       g->gamma[2 * h >= a->heads], a->table ? a->table + p * d : NULL, d, a->eps);
    }
}

void fast_rope(struct dl_run *r, const struct simd *s, const struct dl_rope *a)
{
    struct rope g = {.s = s, .a = a};
    r->variant = s->name;
    if (a->gamma[0]) g.gamma[0] = g.gamma[1] = cpu_w_wide(r, a->gamma[0], a->x.t);
    if (a->gamma[1]) g.gamma[1] = cpu_w_wide(r, a->gamma[1], a->x.t);
    if (dl_run_ok(r) && !dl_run_is_dry(r))
        pool_for(r->ctx->pool, a->x.n * cpu_pixels(&a->x), grain_of(&a->x), rope_items, &g);
}

struct copy {
    const struct simd *s;
    const struct dl_copy *a;
};

static void copy_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct simd *s = ((const struct copy *)arg)->s;
    const struct dl_copy *a = ((const struct copy *)arg)->a;
    int64_t pixels = cpu_pixels(&a->y), c = a->y.c;
    for (int64_t p = from; p < to; p++) {
        int64_t i = p / pixels, row = a->row ? a->row[i] : a->x.n == 1 ? 0 : i;
        s->linear(cpu_at(&a->y, i, p % pixels), a->y.t, cpu_at(&a->x, row, p % pixels), a->x.t, a->a, NULL, 0, a->b, c,
                  a->fn);
    }
}

void fast_copy(struct dl_run *r, const struct simd *s, const struct dl_copy *a)
{
    struct copy g = {s, a};
    r->variant = s->name;
    if (!dl_run_is_dry(r)) pool_for(r->ctx->pool, a->y.n * cpu_pixels(&a->y), grain_of(&a->y), copy_items, &g);
}

struct add {
    const struct simd *s;
    const struct dl_add *a;
};

static void add_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct simd *s = ((const struct add *)arg)->s;
    const struct dl_add *a = ((const struct add *)arg)->a;
    int64_t pixels = cpu_pixels(&a->y), c = a->y.c;
    for (int64_t p = from; p < to; p++) {
        int64_t i = p / pixels, q = p % pixels;
        s->linear(cpu_at(&a->y, i, q), a->y.t, cpu_at(&a->a, i, q), a->a.t, 1, cpu_at(&a->b, i, q), a->b.t, 1, c,
                  DL_NONE);
    }
}

void fast_add(struct dl_run *r, const struct simd *s, const struct dl_add *a)
{
    struct add g = {s, a};
    r->variant = s->name;
    if (!dl_run_is_dry(r)) pool_for(r->ctx->pool, a->y.n * cpu_pixels(&a->y), grain_of(&a->y), add_items, &g);
}
