/* GEMM and convolution in bf16 on oneDNN's primitives: products of bf16, sums and epilogue in f32, one rounding at the
 * end.
 *
 * An item of work is one block of one row's output (M_BLOCK pixels, or a band of image rows) times at most n_part
 * output channels: one primitive, into f32 scratch, then the epilogue while it is still in cache. How a row is cut
 * depends on its own shape alone. */
#include "kernels/cpu/fast.h"
#include "kernels/cpu/onednn_prim.h"

#include <stdlib.h>
#include <string.h>

enum { M_BLOCK = 256, N_PART = 320, N_PART_SMALL = 160, N_PART_WIDE = 128, WIDE = 2048, KINDS = 3 };

struct bf {
    struct dl_run *r;
    const struct simd *s;
    dl_act x;
    const dl_act *y;
    struct fast_epi epi;
    const struct prim
        *prim[KINDS][2];         /* first (or only), middle, last block of a row; full and last part of channels */
    const uint8_t *w;            /* [halves][parts], each as its primitive wants it */
    int64_t blocks, block, step; /* blocks of a row; pixels in a full one; image rows in one (convolution) */
    int64_t parts, part, halves, taps, stride;
    uint8_t *scratch; /* [workers][scratch_n]: sums, then the primitive's own */
    int64_t scratch_n, sums_n;
    int failed;
};

static int kind_of(const struct bf *g, int64_t b) { return b == 0 ? 0 : b == g->blocks - 1 ? 2 : 1; }

static int64_t part_n(const struct bf *g, int64_t part)
{
    int64_t left = g->y->c - part * g->part;
    return left < g->part ? left : g->part;
}

/* 1 when the part is the shorter last one. */
static int tail_of(const struct bf *g, int64_t part) { return part_n(g, part) < g->part; }

/* First input row that block b of a convolution reads, before padding is cut off. */
static int64_t in_row(const struct bf *g, int64_t b) { return b * g->step * g->stride - (g->taps == 9); }

/* Weight forms. A pack's fill needs the primitives, and they live as long as the context. */
struct form {
    const struct simd *s;
    const struct prim *prim[2];
    int64_t halves, parts, part, out, k; /* out: of one half */
};

static int64_t form_at(const struct form *f, int64_t half, int64_t part)
{
    int64_t full = (prim_w_bytes(f->prim[0]) + 63) / 64 * 64;
    int64_t tail = f->prim[1] ? (prim_w_bytes(f->prim[1]) + 63) / 64 * 64 : full;
    return half * ((f->parts - 1) * full + tail) + part * full;
}

/* Rows [from, from + n) of the weight as bf16: where they lie in the file, or converted into tmp [n][k]. */
static const uint16_t *rows_at(const struct form *f, const struct dl_w *w, int64_t from, int64_t n, uint16_t *tmp)
{
    int64_t first = 0, done = 0;
    for (int i = 0; i < w->n_parts && done < n; first += w->part[i].rows, i++) {
        const struct dl_wpart *p = &w->part[i];
        int64_t at = from + done - first, rows = p->rows - at;
        if (rows <= 0) continue;
        if (rows > n - done) rows = n - done;
        uint16_t *to = tmp + done * f->k;
        if (p->made_up) {
            dl_wpart_read(p, at * f->k, rows * f->k, to, DL_BF16);
        } else {
            const uint8_t *src = (const uint8_t *)p->file + at * f->k * dl_type_bytes(p->t);
            if (rows == n && p->t == DL_BF16 && (uintptr_t)src % 2 == 0) return (const uint16_t *)(const void *)src;
            f->s->affine(to, DL_BF16, src, p->t, NULL, NULL, rows * f->k, DL_NONE);
        }
        done += rows;
    }
    return tmp;
}

static int fill_form(struct dl_pack *p, const struct dl_w *w, void *arg, struct dl_err *e)
{
    const struct form *f = arg;
    if (dl_w_need_values(w, e) < 0) return -1;
    uint16_t *tmp = malloc((size_t)(f->part * f->k) * sizeof *tmp);
    if (!tmp) return dl_fail(e, DL_ENOMEM, "no memory to reorder weight %s", w->name);
    int err = 0;
    for (int64_t h = 0; h < f->halves; h++)
        for (int64_t j = 0; j < f->parts && !err; j++) {
            const struct prim *prim = f->prim[f->prim[1] && j == f->parts - 1];
            int64_t from = j * f->part, n = f->out - from < f->part ? f->out - from : f->part;
            const uint16_t *rows = rows_at(f, w, h * f->out + from, n, tmp);
            err = prim_pack(prim, rows, f->k, (uint8_t *)p->data + form_at(f, h, j), e);
        }
    free(tmp);
    return err;
}

/* The weight in the layout of block 0's primitives. */
static const uint8_t *form_get(struct bf *g, struct dl_w *w, int64_t layout)
{
    uint64_t key = CPU_FORM(CPU_FORM_ONEDNN + 8 + layout * 256, DL_BF16);
    struct dl_run *r = g->r;
    struct dl_pack *p = dl_w_pack(w, key);
    if (p && (p->data || dl_run_is_dry(r))) return p->data;
    if (!dl_run_is_dry(r)) {
        dl_fail(&r->err, DL_EFAIL, "weight %s: its form was not asked for in a dry run, or not loaded", w->name);
        return NULL;
    }
    struct form *f = calloc(1, sizeof *f);
    if (f) {
        *f = (struct form){g->s,    {g->prim[0][0], g->prim[0][1]}, g->halves, g->parts, g->part,
                           g->y->c, dl_w_count(w) / w->dim[0]};
        if (!f->prim[0]) f->prim[0] = f->prim[1], f->prim[1] = NULL; /* a single, short part */
        p = dl_w_want(w, key, form_at(f, f->halves, 0), fill_form, f, free);
    }
    if (!p) {
        free(f);
        dl_fail(&r->err, DL_ENOMEM, "no memory for a form of weight %s", w->name);
    }
    return NULL;
}

static void bf_item(struct bf *g, int64_t item, int worker)
{
    int64_t b = item % g->blocks, part = item / g->blocks % g->parts, i = item / g->blocks / g->parts;
    int64_t n = part_n(g, part), first = b * g->block, pixels = cpu_pixels(g->y);
    int64_t m = pixels - first < g->block ? pixels - first : g->block;
    const struct prim *p = g->prim[kind_of(g, b)][tail_of(g, part)];
    struct form f = {g->s, {g->prim[0][0], g->prim[0][1]}, g->halves, g->parts, g->part, g->y->c, 0};
    if (!f.prim[0]) f.prim[0] = f.prim[1], f.prim[1] = NULL;
    float *sums = (float *)(void *)(g->scratch + worker * g->scratch_n), *sums2 = sums + g->sums_n;
    int64_t at = first;
    if (g->taps) at = in_row(g, b) < 0 ? 0 : in_row(g, b) * g->x.w;
    const void *x = cpu_at(&g->x, i, at);
    void *own = sums + g->halves * g->sums_n;
    int err = prim_run(p, worker, x, g->w + form_at(&f, 0, part), sums, own);
    if (g->halves == 2) err |= prim_run(p, worker, x, g->w + form_at(&f, 1, part), sums2, own);
    if (err) __atomic_store_n(&g->failed, 1, __ATOMIC_RELAXED);
    for (int64_t j = 0; j < m; j++)
        fast_epi_line(&g->epi, g->s, i, first + j, part * g->part, n, sums + j * n,
                      g->halves == 2 ? sums2 + j * n : NULL, g->s->nr);
}

static void bf_items(void *arg, int64_t from, int64_t to, int worker)
{
    for (int64_t i = from; i < to; i++) bf_item(arg, i, worker);
}

/* Primitives of all kinds of blocks and parts; `layout` numbers the cut. False: not all are fast. */
static bool bf_prims(struct bf *g, int64_t layout)
{
    int64_t pixels = cpu_pixels(g->y);
    for (int tail = 0; tail < 2; tail++)
        for (int kind = 0; kind < KINDS; kind++) {
            int64_t b = kind == 0 ? 0 : kind == 1 ? 1 : g->blocks - 1;
            if (kind == 1 && g->blocks < 3) continue;
            if (kind == 2 && g->blocks < 2) continue;
            if (tail_of(g, tail ? g->parts - 1 : 0) != tail) continue;
            int64_t m = pixels - b * g->block < g->block ? pixels - b * g->block : g->block;
            struct prim_key key = {.n = part_n(g, tail ? g->parts - 1 : 0), .k = g->x.c, .layout = layout};
            if (g->taps) {
                int64_t side = g->taps == 9 ? 3 : 1, y0 = in_row(g, b), rows = m / g->y->w;
                int64_t y1 = y0 + (rows - 1) * g->stride + side; /* beyond the last row read */
                key.taps = g->taps, key.stride = g->stride, key.iw = g->x.w, key.ow = g->y->w, key.oh = rows;
                key.top = y0 < 0 ? -y0 : 0, key.bottom = y1 > g->x.h ? y1 - g->x.h : 0, key.side = side / 2;
                key.ih = y1 - key.bottom - (y0 + key.top);
            } else {
                key.m = m, key.lda = g->x.ld;
            }
            g->prim[kind][tail] = prim_get(g->r, &key, kind ? g->prim[0][tail] : NULL);
            if (!g->prim[kind][tail]) return false;
        }
    return true;
}

static void bf_scratch(struct bf *g)
{
    int64_t own = 0;
    for (int kind = 0; kind < KINDS; kind++)
        for (int tail = 0; tail < 2; tail++)
            if (g->prim[kind][tail] && prim_scratch_bytes(g->prim[kind][tail]) > own)
                own = prim_scratch_bytes(g->prim[kind][tail]);
    g->sums_n = (g->block * (g->part < g->y->c ? g->part : g->y->c) + 2 * SIMD_NR_MAX + 63) / 64 * 64;
    g->scratch_n = g->halves * g->sums_n * 4 + (own + 255) / 256 * 256;
    g->scratch = cpu_scratch(g->r, g->r->ctx->threads * g->scratch_n);
}

static void bf_run(struct bf *g, struct dl_w *w, const struct dl_epi *e, int64_t layout)
{
    struct dl_run *r = g->r;
    g->w = form_get(g, w, layout);
    bf_scratch(g);
    if (!fast_epi_open(&g->epi, r, e, g->y, DL_BF16) || dl_run_is_dry(r) || r->arena.failed) return;
    pool_for(r->ctx->pool, g->y->n * g->parts * g->blocks, 1, bf_items, g);
    if (g->failed) dl_fail(&r->err, DL_EFAIL, "oneDNN failed to run a primitive for weight %s", w->name);
}

bool onednn_gemm(struct dl_run *r, const struct simd *s, const struct dl_gemm *a)
{
    if (a->x.t != DL_BF16 || a->x.c < 32 || a->y.c < 16) return false;
    struct bf g = {.r = r, .s = s, .x = a->x, .y = &a->y, .part = N_PART, .halves = a->e.glu ? 2 : 1};
    struct dl_conv plain = {.x = a->x};
    g.x.ld = g.x.c; /* oneDNN's fast matmul takes no pitch */
    int64_t pixels = cpu_pixels(&a->y);
    g.block = pixels < M_BLOCK ? pixels : M_BLOCK;
    g.blocks = (pixels + g.block - 1) / g.block;
    if (pixels < M_BLOCK) g.part = N_PART_SMALL;
    /* There are items enough, and oneDNN pads parts to multiples of 64. */
    if (pixels < M_BLOCK && a->y.c >= WIDE && a->y.c % N_PART_WIDE == 0) g.part = N_PART_WIDE;
    g.parts = (a->y.c + g.part - 1) / g.part;
    int64_t layout = g.block * 2;
    if (!bf_prims(&g, layout) || !dl_run_ok(r)) return !dl_run_ok(r);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    g.x = fast_pre(r, s, &plain, DL_BF16, true);
    r->variant = "bf16 onednn matmul";
    bf_run(&g, a->w, &a->e, layout);
    dl_arena_release_hi(&r->arena, mark);
    return true;
}

bool onednn_conv(struct dl_run *r, const struct simd *s, const struct dl_conv *a)
{
    if (a->x.t != DL_BF16 || a->x.c < 32 || a->y.c < 16) return false;
    struct bf g = {.r = r, .s = s, .x = a->x, .y = &a->y, .halves = 1, .taps = a->k * a->k, .stride = a->stride};
    int64_t pixels = cpu_pixels(&a->y);
    g.step = M_BLOCK / a->y.w < 1 ? 1 : M_BLOCK / a->y.w > a->y.h ? a->y.h : M_BLOCK / a->y.w;
    g.block = g.step * a->y.w, g.blocks = (a->y.h + g.step - 1) / g.step;
    g.part = pixels < 4 * M_BLOCK ? N_PART_SMALL : N_PART;
    g.parts = (a->y.c + g.part - 1) / g.part;
    /* What the convolution reads is dense, and enlarged already. */
    g.x.ld = g.x.c;
    if (a->up) g.x.h = a->y.h, g.x.w = a->y.w;
    int64_t layout = g.block * 2 + 1 + ((int64_t)a->y.w << 16) + (g.part << 32) + ((int64_t)a->stride << 44);
    if (!bf_prims(&g, layout) || !dl_run_ok(r)) return !dl_run_ok(r);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    g.x = fast_pre(r, s, a, DL_BF16, true);
    r->variant = "bf16 onednn convolution";
    bf_run(&g, a->w, &a->e, layout);
    dl_arena_release_hi(&r->arena, mark);
    return true;
}
