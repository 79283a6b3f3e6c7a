/* Attention in bf16 on oneDNN's matmul: the online softmax of attn.c with blocks large enough for AMX. Scores, softmax
 * and sums in f32; the weights of a block, at most 1, are rounded to bf16 for their product with the values, as PyTorch
 * does. */
#include "kernels/cpu/fast.h"
#include "kernels/cpu/onednn_prim.h"

#include <math.h>
#include <string.h>

enum { BLOCK_Q = 256, BLOCK_K = 512, PAD = 32 };

struct attn {
    struct dl_run *r;
    const struct simd *s;
    const struct dl_attn *a;
    int64_t tq, tk, d, q_blocks, tk_pad;
    int64_t block_q, block_k;    /* the full blocks; the last may be smaller */
    const struct prim *qk[2][2]; /* [last block of queries][last block of keys] */
    const struct prim *pv[2][2];
    uint16_t *k, *v; /* [heads][tk_pad][d] of the row of keys under way, zero beyond tk */
    int64_t row, kv;
    uint8_t *scratch; /* [workers][scratch_n] */
    int64_t scratch_n, own_bytes;
    int failed;
};

/* A worker's scratch. */
struct work {
    float *score, *part, *out; /* [block_q][block_k], [block_q][d] of a block of keys, [block_q][d] */
    uint16_t *p, *q;           /* [block_q][block_k], [block_q][d] */
    void *own;                 /* the primitives' */
};

/* Where a worker's arrays begin, in bytes from its scratch; the last is the end. */
static void offsets(const struct attn *g, int64_t at[7])
{
    int64_t size[6] = {g->block_q * g->block_k * 4, g->block_q * g->d * 4, g->block_q * g->d * 4,
                       g->block_q * g->block_k * 2, g->block_q * g->d * 2, g->own_bytes};
    at[0] = 0;
    for (int i = 0; i < 6; i++) at[i + 1] = at[i] + (size[i] + 63) / 64 * 64;
}

static struct work work_at(const struct attn *g, int worker)
{
    int64_t at[7];
    uint8_t *base = g->scratch + worker * g->scratch_n;
    offsets(g, at);
    return (struct work){.score = (void *)(base + at[0]),
                         .part = (void *)(base + at[1]),
                         .out = (void *)(base + at[2]),
                         .p = (void *)(base + at[3]),
                         .q = (void *)(base + at[4]),
                         .own = base + at[5]};
}

/* Item: one head's keys and values [PAD] at a time. */
static void pack_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct attn *g = arg;
    const struct dl_attn *a = g->a;
    int64_t d = g->d, row = d * 2, per_head = g->tk_pad / PAD;
    for (int64_t item = from; item < to; item++) {
        int64_t head = item / per_head, p = item % per_head * PAD;
        uint16_t *k = g->k + (head * g->tk_pad + p) * d, *v = g->v + (head * g->tk_pad + p) * d;
        for (int64_t j = 0; j < PAD; j++, p++, k += d, v += d) {
            if (p < g->tk) {
                memcpy(k, (const uint16_t *)cpu_at(&a->k, g->kv, p) + head * d, (size_t)row);
                memcpy(v, (const uint16_t *)cpu_at(&a->v, g->kv, p) + head * d, (size_t)row);
            } else {
                memset(k, 0, (size_t)row), memset(v, 0, (size_t)row);
            }
        }
    }
}

/* Scores of one block of keys become bf16 weights; outputs and sums so far are scaled to the new largest score. */
static void soften(const struct attn *g, struct work *w, int64_t head, int64_t q0, int64_t m, int64_t k0, int64_t wide,
                   float *top, float *sum)
{
    const struct dl_attn *a = g->a;
    int64_t n = g->tk - k0 < wide ? g->tk - k0 : wide;
    bool masked = n < wide || a->causal || a->key_mask || a->bias.p;
    for (int64_t b = 0; b < m; b++) {
        float *s = w->score + b * wide, max = g->s->scale_max_row(s, wide, a->scale * LOG2E);
        if (masked) {
            fast_attn_mask(a, head, q0 + b, 1, g->kv, k0, n, s, wide, wide);
            max = g->s->max_row(s, wide);
        }
        if (max > top[b]) {
            float *o = w->out + b * g->d, f = top[b] == -INFINITY ? 0 : exp2f(top[b] - max);
            g->s->linear(o, DL_F32, o, DL_F32, f, NULL, 0, 0, g->d, DL_NONE);
            sum[b] *= f, top[b] = max;
        }
        sum[b] += g->s->exp2_bf16_row(w->p + b * wide, s, wide, top[b] == -INFINITY ? 0 : top[b]);
    }
}

static int attn_item(const struct attn *g, int64_t head, int64_t q0, int worker)
{
    const struct dl_attn *a = g->a;
    struct work w = work_at(g, worker);
    int64_t m = g->tq - q0 < g->block_q ? g->tq - q0 : g->block_q, d = g->d;
    int64_t keys = a->causal && q0 + m < g->tk ? q0 + m : g->tk;
    float top[BLOCK_Q], sum[BLOCK_Q];
    for (int64_t b = 0; b < m; b++) {
        memcpy(w.q + b * d, (const uint16_t *)cpu_at(&a->q, g->row, q0 + b) + head * d, (size_t)d * 2);
        top[b] = -INFINITY, sum[b] = 0;
    }
    memset(w.out, 0, (size_t)(m * d) * 4);
    for (int64_t k0 = 0; k0 < keys; k0 += g->block_k) {
        int64_t wide = g->tk_pad - k0 < g->block_k ? g->tk_pad - k0 : g->block_k;
        int lq = m < g->block_q, lk = wide < g->block_k;
        const uint16_t *k = g->k + (head * g->tk_pad + k0) * d, *v = g->v + (head * g->tk_pad + k0) * d;
        if (prim_run(g->qk[lq][lk], worker, w.q, k, w.score, w.own) < 0) return -1;
        soften(g, &w, head, q0, m, k0, wide, top, sum);
        if (prim_run(g->pv[lq][lk], worker, w.p, v, w.part, w.own) < 0) return -1;
        g->s->linear(w.out, DL_F32, w.out, DL_F32, 1, w.part, DL_F32, 1, m * d, DL_NONE);
    }
    for (int64_t b = 0; b < m; b++)
        g->s->linear((uint8_t *)cpu_at(&a->y, g->row, q0 + b) + head * d * dl_type_bytes(a->y.t), a->y.t, w.out + b * d,
                     DL_F32, sum[b] > 0 ? 1 / sum[b] : 0, NULL, 0, 0, d, DL_NONE);
    return 0;
}

static void attn_items(void *arg, int64_t from, int64_t to, int worker)
{
    struct attn *g = arg;
    for (int64_t i = from; i < to; i++)
        if (attn_item(g, i / g->q_blocks, i % g->q_blocks * g->block_q, worker) < 0)
            __atomic_store_n(&g->failed, 1, __ATOMIC_RELAXED);
}

static bool attn_prims(struct attn *g)
{
    for (int lq = 0; lq < 2; lq++)
        for (int lk = 0; lk < 2; lk++) {
            int64_t m = lq ? g->tq % g->block_q : g->block_q, n = lk ? g->tk_pad % g->block_k : g->block_k;
            if (m == 0 || n == 0) continue;
            struct prim_key qk = {.m = m, .n = n, .k = g->d, .lda = g->d, .plain = 1};
            struct prim_key pv = {.m = m, .n = g->d, .k = n, .lda = n, .plain = 2};
            g->qk[lq][lk] = prim_get(g->r, &qk, NULL), g->pv[lq][lk] = prim_get(g->r, &pv, NULL);
            if (!g->qk[lq][lk] || !g->pv[lq][lk]) return false;
            const struct prim *both[2] = {g->qk[lq][lk], g->pv[lq][lk]};
            for (int i = 0; i < 2; i++)
                if (prim_scratch_bytes(both[i]) > g->own_bytes) g->own_bytes = prim_scratch_bytes(both[i]);
        }
    return true;
}

bool onednn_attn(struct dl_run *r, const struct simd *s, const struct dl_attn *a)
{
    struct attn g = {.r = r, .s = s, .a = a, .tq = cpu_pixels(&a->q), .tk = cpu_pixels(&a->k), .d = a->q.c / a->heads};
    if (a->q.t != DL_BF16 || a->k.t != DL_BF16 || a->v.t != DL_BF16 || g.d % 8) return false;
    g.tk_pad = (g.tk + PAD - 1) / PAD * PAD;
    g.block_q = g.tq < BLOCK_Q ? g.tq : BLOCK_Q, g.block_k = g.tk_pad < BLOCK_K ? g.tk_pad : BLOCK_K;
    g.q_blocks = (g.tq + g.block_q - 1) / g.block_q;
    if (!attn_prims(&g)) return !dl_run_ok(r);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    r->variant = "bf16 flash onednn";
    g.k = cpu_scratch(r, a->heads * g.tk_pad * g.d * 2);
    g.v = cpu_scratch(r, a->heads * g.tk_pad * g.d * 2);
    int64_t at[7];
    offsets(&g, at);
    g.scratch_n = at[6];
    g.scratch = cpu_scratch(r, r->ctx->threads * g.scratch_n);
    int64_t packed = -1;
    for (g.row = 0; g.row < a->q.n && !dl_run_is_dry(r) && !r->arena.failed; g.row++) {
        g.kv = a->kv_row ? a->kv_row[g.row] : a->k.n == 1 ? 0 : g.row;
        if (g.kv != packed) pool_for(r->ctx->pool, a->heads * (g.tk_pad / PAD), 16, pack_items, &g);
        packed = g.kv;
        pool_for(r->ctx->pool, a->heads * g.q_blocks, 1, attn_items, &g);
    }
    if (g.failed) dl_fail(&r->err, DL_EFAIL, "oneDNN failed to run attention's matmul");
    dl_arena_release_hi(&r->arena, mark);
    return true;
}
