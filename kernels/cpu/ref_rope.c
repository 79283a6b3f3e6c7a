/* Reference of what attention needs besides products: norms of heads with rotary positions, T5's position bias, the
 * mean over tokens. Sums in f64. */
#include "kernels/cpu/cpu_priv.h"

#include <math.h>

struct rope {
    const struct dl_rope *a;
    const float *gamma[2]; /* [d] of each half of the heads; NULL: no norm */
    float *tmp;            /* [workers][c] */
};

/* x [d] -> y [d], which may be the same; turn [d / 2][2] or NULL. */
static void rope_head(const float *x, float *y, int64_t d, const float *gamma, float eps, const float *turn)
{
    double sum = 0;
    for (int64_t j = 0; j < d && gamma; j++) sum += (double)x[j] * (double)x[j];
    double rstd = gamma ? 1 / sqrt(sum / (double)d + (double)eps) : 1;
    if (!turn) {
        for (int64_t j = 0; j < d; j++) y[j] = (float)((double)x[j] * rstd * (gamma ? (double)gamma[j] : 1));
        return;
    }
    for (int64_t j = 0; j < d; j += 2) {
        double x0 = (double)x[j] * rstd * (gamma ? (double)gamma[j] : 1);
        double x1 = (double)x[j + 1] * rstd * (gamma ? (double)gamma[j + 1] : 1);
        y[j] = (float)(x0 * (double)turn[j] - x1 * (double)turn[j + 1]);
        y[j + 1] = (float)(x1 * (double)turn[j] + x0 * (double)turn[j + 1]);
    }
}

static void rope_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct rope *g = arg;
    const struct dl_rope *a = g->a;
    int64_t c = a->x.c, d = c / a->heads, tokens = cpu_pixels(&a->x);
    float *tmp = g->tmp + worker * c;
    for (int64_t q = from; q < to; q++) {
        int64_t p = q % tokens;
        const float *x = cpu_f32(cpu_at(&a->x, q / tokens, p), a->x.t, c, tmp),
                    *turn = a->table ? a->table + p * d : NULL;
        for (int64_t h = 0; h < a->heads; h++)
            rope_head(x + h * d, tmp + h * d, d, g->gamma[2 * h >= a->heads], a->eps, turn);
        dl_convert(cpu_at(&a->y, q / tokens, p), a->y.t, tmp, DL_F32, c);
    }
}

void ref_rope(struct dl_run *r, const struct dl_rope *a)
{
    r->variant = "reference";
    struct rope g = {.a = a};
    if (a->gamma[0]) g.gamma[0] = g.gamma[1] = cpu_w_wide(r, a->gamma[0], a->x.t);
    if (a->gamma[1]) g.gamma[1] = cpu_w_wide(r, a->gamma[1], a->x.t);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    g.tmp = cpu_scratch(r, (int64_t)r->ctx->threads * a->x.c * 4);
    if (dl_run_ok(r) && !dl_run_is_dry(r) && !r->arena.failed)
        pool_for(r->ctx->pool, a->x.n * cpu_pixels(&a->x), 16, rope_items, &g);
    dl_arena_release_hi(&r->arena, mark);
}

struct rel_bias {
    const struct dl_rel_bias *a;
    const float *table;
    int32_t *bucket; /* [queries + keys - 1] of the distance i - (queries - 1) */
    float *line; /* [workers][queries + keys - 1] a head's values by distance: query q has those from queries - 1 - q */
};

static void rel_bias_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct rel_bias *g = arg;
    const dl_act *y = &g->a->y;
    int64_t distances = (int64_t)y->h + y->w - 1;
    float *line = g->line + worker * distances;
    for (int64_t head = from; head < to; head++) {
        for (int64_t i = 0; i < distances; i++) line[i] = g->table[(int64_t)g->bucket[i] * y->n + head];
        for (int64_t q = 0; q < y->h; q++) {
            float *d = cpu_at(y, head, q * y->w);
            const float *s = line + y->h - 1 - q;
            if (y->ld == 1) memcpy(d, s, (size_t)y->w * sizeof *d);
            for (int64_t k = 0; k < y->w && y->ld > 1; k++) d[k * y->ld] = s[k];
        }
    }
}

void ref_rel_bias(struct dl_run *r, const struct dl_rel_bias *a)
{
    r->variant = "reference";
    struct rel_bias g = {.a = a, .table = cpu_w_wide(r, a->table, r->t)};
    struct dl_mark mark = dl_arena_mark(&r->arena);
    int64_t distances = (int64_t)a->y.h + a->y.w - 1;
    g.bucket = cpu_scratch(r, distances * 4);
    g.line = cpu_scratch(r, (int64_t)r->ctx->threads * distances * 4);
    if (dl_run_ok(r) && !dl_run_is_dry(r) && !r->arena.failed) {
        for (int64_t i = 0; i < distances; i++)
            g.bucket[i] = dl_rel_bucket((int32_t)(i - (a->y.h - 1)), (int32_t)a->table->dim[0], a->max_distance);
        pool_for(r->ctx->pool, a->y.n, 1, rel_bias_items, &g);
    }
    dl_arena_release_hi(&r->arena, mark);
}

struct token_mean {
    const struct dl_token_mean *a;
    const float *pos;
    double *sum; /* [workers][c] */
    float *tmp;  /* [workers][c] */
};

static void token_mean_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct token_mean *g = arg;
    const dl_act *x = &g->a->x;
    int64_t c = x->c, tokens = cpu_pixels(x);
    double *sum = g->sum + worker * c;
    float *tmp = g->tmp + worker * c;
    for (int64_t i = from; i < to; i++) {
        memset(sum, 0, (size_t)c * sizeof *sum);
        for (int64_t p = 0; p < tokens; p++) {
            const float *v = cpu_f32(cpu_at(x, i, p), x->t, c, tmp);
            for (int64_t j = 0; j < c; j++) sum[j] += (double)v[j];
        }
        for (int64_t j = 0; j < c; j++) tmp[j] = (float)(sum[j] / (double)tokens + (g->pos ? (double)g->pos[j] : 0));
        dl_convert(cpu_at(&g->a->y, i, 0), g->a->y.t, tmp, DL_F32, c);
    }
}

void ref_token_mean(struct dl_run *r, const struct dl_token_mean *a)
{
    r->variant = "reference";
    struct token_mean g = {.a = a};
    if (a->pos) g.pos = cpu_w_wide(r, a->pos, a->x.t);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    g.sum = cpu_scratch(r, (int64_t)r->ctx->threads * a->x.c * 8);
    g.tmp = cpu_scratch(r, (int64_t)r->ctx->threads * a->x.c * 4);
    if (dl_run_ok(r) && !dl_run_is_dry(r) && !r->arena.failed) pool_for(r->ctx->pool, a->x.n, 1, token_mean_items, &g);
    dl_arena_release_hi(&r->arena, mark);
}
