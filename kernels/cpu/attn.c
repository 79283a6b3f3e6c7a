/* Attention in f32 without a score matrix: softmax online over blocks of keys (Dao et al., arXiv:2205.14135; Rabe and
 * Staats, arXiv:2112.05682).
 *
 * For one row of keys and values at a time, all heads of K are packed as panels of transposed keys [panel][d][nr],
 * those of V as panels of channels [panel][key][nr]. An item is a block of BLOCK_Q queries of one head. For each block
 * of BLOCK_K keys: scores (tiles), bias and masks, new largest score, old sums scaled down when it rose, exponentials,
 * and values added (tiles). Scores carry log2 e, so exponentials are powers of 2 (simd_body.h's v_exp2, relative error
 * below 2e-7). Every query's sums run over the keys in order, whatever block it is in. */
#include "kernels/cpu/fast.h"

#include <math.h>
#include <string.h>

enum {
    BLOCK_Q = 48, /* a multiple of every mr */
    BLOCK_K = 128,
    SLD = BLOCK_K + 16, /* pitch of scores: keeps the rows of a tile in different sets of the cache */
};

void fast_attn_mask(const struct dl_attn *a, int64_t head, int64_t q0, int64_t m, int64_t kv, int64_t k0, int64_t n,
                    float *s, int64_t wide, int64_t lds)
{
    int64_t tk = cpu_pixels(&a->k);
    const uint8_t *keep = a->key_mask ? a->key_mask + kv * tk + k0 : NULL;
    for (int64_t b = 0; b < m; b++, s += lds) {
        int64_t seen = a->causal && q0 + b + 1 - k0 < n ? q0 + b + 1 - k0 : n; /* keys before this one take part */
        if (a->bias.p) {
            const float *bias = cpu_at(&a->bias, head, (q0 + b) * tk + k0);
            for (int64_t j = 0; j < n; j++) s[j] += bias[j * a->bias.ld] * LOG2E;
        }
        for (int64_t j = 0; keep && j < n; j++)
            if (!keep[j]) s[j] = -INFINITY;
        for (int64_t j = seen < 0 ? 0 : seen; j < wide; j++) s[j] = -INFINITY;
    }
}

struct attn {
    const struct simd *s;
    const struct dl_attn *a;
    int64_t tq, tk, d, blocks;
    int64_t tk_pad, d_pad; /* to whole panels */
    float *k, *v;          /* [heads][tk_pad * d], [heads][d_pad * tk_pad]: of the row of keys under way */
    int64_t row, kv;       /* query row under way, its row of keys */
    float *scratch;        /* [workers][scratch_n]: q [BLOCK_Q][d_ld], scores [BLOCK_Q][SLD], sums [BLOCK_Q][d_pad] */
    int64_t scratch_n, d_ld;
};

static const uint8_t *head_at(const dl_act *x, int64_t i, int64_t p, int64_t head, int64_t d)
{
    return (const uint8_t *)cpu_at(x, i, p) + head * d * dl_type_bytes(x->t);
}

/* Item: one panel of nr keys of one head, of both K and V. */
static void pack_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct attn *g = arg;
    const struct dl_attn *a = g->a;
    int64_t nr = g->s->nr, d = g->d, per_head = g->tk_pad / nr;
    float *tmp = g->scratch + worker * g->scratch_n; /* [d_pad] */
    for (int64_t item = from; item < to; item++) {
        int64_t head = item / per_head, p0 = item % per_head * nr;
        float *k = g->k + head * g->tk_pad * d + p0 * d, *v = g->v + head * g->d_pad * g->tk_pad;
        memset(tmp, 0, (size_t)g->d_pad * 4);
        for (int64_t j = 0; j < nr; j++) {
            bool in = p0 + j < g->tk;
            if (in)
                g->s->linear(tmp, DL_F32, head_at(&a->k, g->kv, p0 + j, head, d), a->k.t, a->scale * LOG2E, NULL, 0, 0,
                             d, 0);
            for (int64_t c = 0; c < d; c++) k[c * nr + j] = in ? tmp[c] : 0;
            if (in) g->s->linear(tmp, DL_F32, head_at(&a->v, g->kv, p0 + j, head, d), a->v.t, 1, NULL, 0, 0, d, 0);
            for (int64_t c = 0; c < g->d_pad; c += nr)
                for (int64_t l = 0; l < nr; l++) v[c * g->tk_pad + (p0 + j) * nr + l] = in ? tmp[c + l] : 0;
        }
    }
}

/* Scores of m queries become weights relative to the largest so far; sums and outputs so far are scaled to it. */
static void soften(const struct attn *g, int64_t m, int64_t wide, float *s, float *out, float *top, float *sum)
{
    for (int64_t b = 0; b < m; b++, s += SLD) {
        float max = g->s->max_row(s, wide);
        if (max > top[b]) {
            float *o = out + b * g->d_pad, f = top[b] == -INFINITY ? 0 : exp2f(top[b] - max);
            g->s->linear(o, DL_F32, o, DL_F32, f, NULL, 0, 0, g->d_pad, DL_NONE);
            sum[b] *= f, top[b] = max;
        }
        sum[b] += g->s->exp2_row(s, wide, top[b] == -INFINITY ? 0 : top[b]);
    }
}

static void attn_item(const struct attn *g, int64_t head, int64_t q0, float *scratch)
{
    const struct dl_attn *a = g->a;
    const struct simd *s = g->s;
    int64_t m = g->tq - q0 < BLOCK_Q ? g->tq - q0 : BLOCK_Q, tall = (m + s->mr - 1) / s->mr * s->mr, d = g->d;
    float *q = scratch, *score = q + BLOCK_Q * g->d_ld, *out = score + BLOCK_Q * SLD, top[BLOCK_Q], sum[BLOCK_Q] = {0};
    const float *k = g->k + head * g->tk_pad * d, *v = g->v + head * g->d_pad * g->tk_pad;
    for (int64_t b = 0; b < m; b++) {
        g->s->linear(q + b * g->d_ld, DL_F32, head_at(&a->q, g->row, q0 + b, head, d), a->q.t, 1, NULL, 0, 0, d,
                     DL_NONE);
        top[b] = -INFINITY;
    }
    memset(q + m * g->d_ld, 0, (size_t)((tall - m) * g->d_ld) * 4);
    memset(out, 0, (size_t)(tall * g->d_pad) * 4);
    int64_t keys = a->causal && q0 + m < g->tk ? q0 + m : g->tk;
    for (int64_t k0 = 0; k0 < keys; k0 += BLOCK_K) {
        int64_t n = g->tk - k0 < BLOCK_K ? g->tk - k0 : BLOCK_K, wide = (n + s->nr - 1) / s->nr * s->nr;
        for (int64_t p = 0; p < wide; p += s->nr)
            for (int64_t b = 0; b < tall; b += s->mr)
                s->tile(d, q + b * g->d_ld, g->d_ld, k + (k0 + p) * d, score + b * SLD + p, SLD, false);
        if (n < wide || a->causal || a->key_mask || a->bias.p)
            fast_attn_mask(a, head, q0, m, g->kv, k0, n, score, wide, SLD);
        soften(g, m, wide, score, out, top, sum);
        for (int64_t c = 0; c < d; c += s->nr)
            for (int64_t b = 0; b < tall; b += s->mr)
                (d - c <= s->vw ? s->tile1 : s->tile)(wide, score + b * SLD, SLD, v + c * g->tk_pad + k0 * s->nr,
                                                      out + b * g->d_pad + c, g->d_pad, true);
    }
    for (int64_t b = 0; b < m; b++)
        s->linear((uint8_t *)cpu_at(&a->y, g->row, q0 + b) + head * d * dl_type_bytes(a->y.t), a->y.t,
                  out + b * g->d_pad, DL_F32, sum[b] > 0 ? 1 / sum[b] : 0, NULL, 0, 0, d, DL_NONE);
}

static void attn_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct attn *g = arg;
    for (int64_t i = from; i < to; i++)
        attn_item(g, i / g->blocks, i % g->blocks * BLOCK_Q, g->scratch + worker * g->scratch_n);
}

void fast_attn(struct dl_run *r, const struct simd *s, const struct dl_attn *a)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct attn g = {.s = s, .a = a, .tq = cpu_pixels(&a->q), .tk = cpu_pixels(&a->k), .d = a->q.c / a->heads};
    r->variant = s->vw == 16 ? "f32 flash avx512" : "f32 flash avx2";
    g.blocks = (g.tq + BLOCK_Q - 1) / BLOCK_Q;
    g.tk_pad = (g.tk + s->nr - 1) / s->nr * s->nr, g.d_pad = (g.d + s->nr - 1) / s->nr * s->nr;
    g.d_ld = g.d_pad + 16;
    g.scratch_n = BLOCK_Q * (g.d_ld + SLD + g.d_pad);
    g.k = cpu_scratch(r, a->heads * g.tk_pad * g.d * 4);
    g.v = cpu_scratch(r, a->heads * g.d_pad * g.tk_pad * 4);
    g.scratch = cpu_scratch(r, r->ctx->threads * g.scratch_n * 4);
    int64_t packed = -1;
    for (g.row = 0; g.row < a->q.n && !dl_run_is_dry(r) && !r->arena.failed; g.row++) {
        g.kv = a->kv_row ? a->kv_row[g.row] : a->k.n == 1 ? 0 : g.row;
        if (g.kv != packed) pool_for(r->ctx->pool, a->heads * (g.tk_pad / s->nr), 4, pack_items, &g);
        packed = g.kv;
        pool_for(r->ctx->pool, a->heads * g.blocks, 1, attn_items, &g);
    }
    dl_arena_release_hi(&r->arena, mark);
}
