/* Reference attention: scores of BLOCK queries against all keys, largest score, then one pass over the values. Sums and
 * exponentials in f64; no score matrix beyond the block. */
#include "kernels/cpu/cpu_priv.h"
#include "kernels/cpu/ref_tile.h"

#include <math.h>

enum { BLOCK = 8 };
_Static_assert((int)BLOCK <= (int)TILE_M, "queries fit a tile");

struct attn {
    const struct dl_attn *a;
    int64_t tq, tk, d, blocks;
    uint8_t *scratch; /* [workers][worker_bytes] */
    int64_t worker_bytes;
};

/* A worker's arrays within its scratch. */
struct work {
    double *score; /* [BLOCK][tk] */
    double *acc;   /* [BLOCK][d] */
    float *q;      /* [BLOCK][d] */
    float *kv;     /* [TILE_N][d] */
};

static int64_t work_bytes(int64_t tk, int64_t d)
{
    int64_t bytes = BLOCK * (tk + d) * 8 + (BLOCK + TILE_N) * d * 4;
    return (bytes + DL_ALIGN - 1) / DL_ALIGN * DL_ALIGN;
}

static struct work work_at(const struct attn *g, int worker)
{
    struct work w = {.score = (double *)(void *)(g->scratch + worker * g->worker_bytes)};
    w.acc = w.score + BLOCK * g->tk;
    w.q = (float *)(w.acc + BLOCK * g->d);
    w.kv = w.q + BLOCK * g->d;
    return w;
}

/* Token p of row i, the channels of one head, as f32. */
static const float *head_of(const dl_act *x, int64_t i, int64_t p, int64_t head, int64_t d, float *tmp)
{
    return cpu_f32((const uint8_t *)cpu_at(x, i, p) + head * d * dl_type_bytes(x->t), x->t, d, tmp);
}

static void scores(const struct attn *g, struct work *w, int64_t i, int64_t row, int64_t head, int64_t q0, int m)
{
    const struct dl_attn *a = g->a;
    const float *q[BLOCK], *k[TILE_N];
    double sum[BLOCK * TILE_N];
    for (int b = 0; b < m; b++) q[b] = head_of(&a->q, i, q0 + b, head, g->d, w->q + b * g->d);
    for (int64_t j0 = 0; j0 < g->tk; j0 += TILE_N) {
        int n = (int)(g->tk - j0 < TILE_N ? g->tk - j0 : TILE_N);
        for (int j = 0; j < n; j++) k[j] = head_of(&a->k, row, j0 + j, head, g->d, w->kv + j * g->d);
        ref_tile(q, m, k, n, g->d, sum, TILE_N);
        for (int b = 0; b < m; b++)
            for (int j = 0; j < n; j++) {
                double s = sum[b * TILE_N + j] * (double)a->scale;
                if (a->bias.p) s += (double)*(const float *)cpu_at(&a->bias, head, (q0 + b) * g->tk + j0 + j);
                bool off = (a->causal && j0 + j > q0 + b) || (a->key_mask && !a->key_mask[row * g->tk + j0 + j]);
                w->score[b * g->tk + j0 + j] = off ? -INFINITY : s;
            }
    }
}

/* Turns scores into weights that add to 1; all 0 where every key is masked. */
static void softmax(double *s, int64_t n)
{
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) top = s[j] > top ? s[j] : top;
    for (int64_t j = 0; j < n; j++) {
        s[j] = s[j] == -INFINITY ? 0 : exp(s[j] - top);
        sum += s[j];
    }
    for (int64_t j = 0; j < n && sum != 0; j++) s[j] /= sum;
}

static void attn_item(const struct attn *g, int64_t item, struct work *w)
{
    const struct dl_attn *a = g->a;
    int64_t q0 = item % g->blocks * BLOCK, head = item / g->blocks % a->heads, i = item / g->blocks / a->heads;
    int64_t row = a->kv_row ? a->kv_row[i] : a->k.n == 1 ? 0 : i;
    int m = (int)(g->tq - q0 < BLOCK ? g->tq - q0 : BLOCK);
    scores(g, w, i, row, head, q0, m);
    for (int b = 0; b < m; b++) softmax(w->score + b * g->tk, g->tk);
    for (int64_t c = 0; c < m * g->d; c++) w->acc[c] = 0;
    for (int64_t j = 0; j < g->tk; j++) {
        const float *v = head_of(&a->v, row, j, head, g->d, w->kv);
        for (int b = 0; b < m; b++) {
            double p = w->score[b * g->tk + j];
            for (int64_t c = 0; c < g->d && p != 0; c++) w->acc[b * g->d + c] += p * (double)v[c];
        }
    }
    for (int b = 0; b < m; b++) {
        for (int64_t c = 0; c < g->d; c++) w->q[c] = (float)w->acc[b * g->d + c];
        uint8_t *y = cpu_at(&a->y, i, q0 + b);
        dl_convert(y + head * g->d * dl_type_bytes(a->y.t), a->y.t, w->q, DL_F32, g->d);
    }
}

static void attn_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct attn *g = arg;
    struct work w = work_at(g, worker);
    for (int64_t item = from; item < to; item++) attn_item(g, item, &w);
}

void ref_attn(struct dl_run *r, const struct dl_attn *a)
{
    r->variant = "reference";
    struct attn g = {.a = a, .tq = cpu_pixels(&a->q), .tk = cpu_pixels(&a->k), .d = a->q.c / a->heads};
    g.blocks = (g.tq + BLOCK - 1) / BLOCK;
    g.worker_bytes = work_bytes(g.tk, g.d);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    g.scratch = cpu_scratch(r, r->ctx->threads * g.worker_bytes);
    if (!dl_run_is_dry(r) && !r->arena.failed) pool_for(r->ctx->pool, a->q.n * a->heads * g.blocks, 1, attn_items, &g);
    dl_arena_release_hi(&r->arena, mark);
}
