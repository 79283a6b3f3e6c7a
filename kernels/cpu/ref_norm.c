/* Reference norms: group norm's statistics and application, layer norm, RMS norm; sums in f64, the variance in a pass
 * of its own. */
#include "kernels/cpu/ref_norm.h"

#include <math.h>

struct gnorm {
    const struct dl_gnorm *a;
    float *out;
    float *tmp; /* [workers][c / groups] */
};

static void gnorm_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct gnorm *g = arg;
    const dl_act *x = &g->a->x;
    int64_t size = x->c / g->a->groups, pixels = cpu_pixels(x), esize = dl_type_bytes(x->t);
    float *tmp = g->tmp + worker * size;
    for (int64_t item = from; item < to; item++) {
        int64_t i = item / g->a->groups, skip = item % g->a->groups * size * esize;
        double mean = 0, var = 0;
        for (int64_t p = 0; p < pixels; p++) {
            const float *v = cpu_f32((uint8_t *)cpu_at(x, i, p) + skip, x->t, size, tmp);
            for (int64_t c = 0; c < size; c++) mean += (double)v[c];
        }
        mean /= (double)(pixels * size);
        for (int64_t p = 0; p < pixels; p++) {
            const float *v = cpu_f32((uint8_t *)cpu_at(x, i, p) + skip, x->t, size, tmp);
            for (int64_t c = 0; c < size; c++) var += ((double)v[c] - mean) * ((double)v[c] - mean);
        }
        g->out[2 * item] = (float)mean;
        g->out[2 * item + 1] = (float)(1 / sqrt(var / (double)(pixels * size) + (double)g->a->eps));
    }
}

void ref_gnorm(struct dl_run *r, const struct dl_gnorm *a, float *mean_rstd)
{
    r->variant = "reference";
    struct gnorm g = {.a = a, .out = mean_rstd};
    struct dl_mark mark = dl_arena_mark(&r->arena);
    g.tmp = cpu_scratch(r, (int64_t)r->ctx->threads * (a->x.c / a->groups) * 4);
    if (!dl_run_is_dry(r) && !r->arena.failed) pool_for(r->ctx->pool, (int64_t)a->x.n * a->groups, 1, gnorm_items, &g);
    dl_arena_release_hi(&r->arena, mark);
}

bool ref_affine_open(struct ref_affine *o, struct dl_run *r, const struct dl_stat *s, int t, int32_t c)
{
    *o = (struct ref_affine){.s = s, .c = c};
    if (s->gamma) o->gamma = cpu_w_wide(r, s->gamma, t);
    if (s->beta) o->beta = cpu_w_wide(r, s->beta, t);
    o->ab = cpu_scratch(r, (int64_t)c * 2 * 8);
    return dl_run_ok(r) && !r->arena.failed;
}

void ref_affine_row(struct ref_affine *o, const struct dl_run *r, int64_t i)
{
    const struct dl_stat *s = o->s;
    int32_t size = o->c / s->groups;
    for (int32_t c = 0; c < o->c; c++) {
        const float *mr = s->mean_rstd + (i * s->groups + c / size) * 2;
        double a = (double)mr[1] * (o->gamma ? (double)o->gamma[c] : 1);
        double b = (o->beta ? (double)o->beta[c] : 0) - (double)mr[0] * a;
        double k = s->scale.p ? 1 + (double)dl_load(cpu_vec_at(r, s->scale, i), s->scale.t, c) : 1;
        double d = s->shift.p ? (double)dl_load(cpu_vec_at(r, s->shift, i), s->shift.t, c) : 0;
        o->ab[2 * c] = a * k;
        o->ab[2 * c + 1] = b * k + d;
    }
}

void ref_affine_pixel(const struct ref_affine *o, int fn, const float *x, float *y)
{
    for (int32_t c = 0; c < o->c; c++) y[c] = (float)ref_fn(fn, (double)x[c] * o->ab[2 * c] + o->ab[2 * c + 1]);
}

struct norm {
    const struct dl_norm *a;
    struct ref_affine aff;
    float *tmp; /* [workers][c] */
    int64_t row;
};

static void norm_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct norm *g = arg;
    const struct dl_norm *a = g->a;
    float *tmp = g->tmp + worker * (int64_t)a->x.c;
    for (int64_t p = from; p < to; p++) {
        const float *x = cpu_f32(cpu_at(&a->x, g->row, p), a->x.t, a->x.c, tmp);
        ref_affine_pixel(&g->aff, a->fn, x, tmp);
        dl_convert(cpu_at(&a->y, g->row, p), a->y.t, tmp, DL_F32, a->x.c);
    }
}

void ref_norm(struct dl_run *r, const struct dl_norm *a)
{
    r->variant = "reference";
    struct norm g = {.a = a};
    struct dl_mark mark = dl_arena_mark(&r->arena);
    bool ok = ref_affine_open(&g.aff, r, &a->s, a->x.t, a->x.c);
    g.tmp = cpu_scratch(r, (int64_t)r->ctx->threads * a->x.c * 4);
    if (ok && !dl_run_is_dry(r) && !r->arena.failed)
        for (g.row = 0; g.row < a->x.n; g.row++) {
            ref_affine_row(&g.aff, r, g.row);
            pool_for(r->ctx->pool, cpu_pixels(&a->x), 16, norm_items, &g);
        }
    dl_arena_release_hi(&r->arena, mark);
}

struct lnorm {
    const struct dl_run *r;
    const struct dl_lnorm *a;
    const float *gamma, *beta;
    float *tmp; /* [workers][c] */
};

static void lnorm_pixel(const struct lnorm *g, int64_t i, int64_t p, float *tmp)
{
    const struct dl_lnorm *a = g->a;
    const float *x = cpu_f32(cpu_at(&a->x, i, p), a->x.t, a->x.c, tmp);
    double mean = 0, var = 0;
    for (int32_t c = 0; c < a->x.c && !a->rms; c++) mean += (double)x[c];
    mean /= a->x.c;
    for (int32_t c = 0; c < a->x.c; c++) var += ((double)x[c] - mean) * ((double)x[c] - mean);
    double rstd = 1 / sqrt(var / a->x.c + (double)a->eps);
    for (int32_t c = 0; c < a->x.c; c++) {
        double v = ((double)x[c] - mean) * rstd;
        if (g->gamma) v *= (double)g->gamma[c];
        if (g->beta) v += (double)g->beta[c];
        if (a->scale.p) v *= 1 + (double)dl_load(cpu_vec_at(g->r, a->scale, i), a->scale.t, c);
        if (a->shift.p) v += (double)dl_load(cpu_vec_at(g->r, a->shift, i), a->shift.t, c);
        tmp[c] = (float)v;
    }
    dl_convert(cpu_at(&a->y, i, p), a->y.t, tmp, DL_F32, a->x.c);
}

static void lnorm_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct lnorm *g = arg;
    int64_t pixels = cpu_pixels(&g->a->x);
    for (int64_t p = from; p < to; p++) lnorm_pixel(g, p / pixels, p % pixels, g->tmp + worker * (int64_t)g->a->x.c);
}

void ref_lnorm(struct dl_run *r, const struct dl_lnorm *a)
{
    r->variant = "reference";
    struct lnorm g = {.r = r, .a = a};
    if (a->gamma) g.gamma = cpu_w_wide(r, a->gamma, a->x.t);
    if (a->beta) g.beta = cpu_w_wide(r, a->beta, a->x.t);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    g.tmp = cpu_scratch(r, (int64_t)r->ctx->threads * a->x.c * 4);
    if (dl_run_ok(r) && !dl_run_is_dry(r) && !r->arena.failed)
        pool_for(r->ctx->pool, a->x.n * cpu_pixels(&a->x), 16, lnorm_items, &g);
    dl_arena_release_hi(&r->arena, mark);
}
