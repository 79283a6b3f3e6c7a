/* Matrix products in e4m3 (engine/e4m3.h): x is quantised into scratch, cuBLASLt multiplies.
 *
 * Where the library scales by row and column itself (sm_90) and nothing but a bias follows, it writes y. Otherwise it
 * leaves f32 sums in scratch, and a pass of ours (cuda_epi) scales them and does the epilogue; that goes by pieces, so
 * that the sums take little memory and stay near the cache. */
#include "engine/e4m3.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/kernels.h"

enum { PIECE_BYTES = 64 << 20 };

struct job {
    struct dl_run *r;
    const struct dl_gemm *a;
    const uint8_t *w, *q; /* [out][in]; [n][pixels][in] */
    const float *sw, *sx; /* [out]; [n][pixels] */
    const float *bias;    /* [out], for our epilogue */
    float *sums;          /* one piece [rows][pixels][out] */
    void *workspace;
    int64_t pixels, in, out;
};

/* Rows [row, row + n), pixels [from, from + count) of each; all of them where n is above 1. */
static dl_act piece_of(dl_act a, int64_t row, int32_t n, int64_t from, int32_t count)
{
    if (a.p) a.p = (uint8_t *)a.p + (row * a.rs + from * a.ld) * dl_type_bytes(a.t);
    a.n = n, a.h = 1, a.w = count;
    return a;
}

static dl_vec vec_from(dl_vec v, int64_t row)
{
    if (v.p) v.p = (const uint8_t *)v.p + row * v.rs * dl_type_bytes(v.t);
    return v;
}

static struct cuda_lt_e4m3 product(const struct job *j, int64_t row, int64_t from, int64_t m)
{
    int64_t at = row * j->pixels + from;
    return (struct cuda_lt_e4m3){
        .x = j->q + at * j->in, .w = j->w, .m = m, .in = j->in, .out = j->out, .ld = j->out, .y_t = DL_F32};
}

static void scaled_after(const struct job *j, int64_t row, int32_t n, int64_t from, int32_t count)
{
    struct dl_run *r = j->r;
    const struct dl_epi *e = &j->a->e;
    struct cuda_lt_e4m3 g = product(j, row, from, (int64_t)n * count);
    struct cuda_epi_args k = {.x = dl_act_at(j->sums, DL_F32, n, 1, count, (int32_t)j->out),
                              .y = piece_of(j->a->y, row, n, from, count),
                              .bias = j->bias,
                              .fn = e->fn,
                              .glu = e->glu,
                              .add = vec_from(e->add, row),
                              .gate = vec_from(e->gate, row),
                              .res = piece_of(e->res, row, n, from, count),
                              .scale = e->scale,
                              .row_scale = j->sx + row * j->pixels + from,
                              .col_scale = j->sw};
    g.y = j->sums;
    cuda_blas_e4m3(r, &g, j->workspace);
    if (cuda_live(r)) k.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, "gemm: scales", cuda_epi(r->ctx->stream, &k));
}

static void scaled_by_library(const struct job *j, const void *bias)
{
    const dl_act *y = &j->a->y;
    bool flat = y->n == 1 || y->rs == j->pixels * y->ld;
    for (int64_t row = 0; row < (flat ? 1 : y->n) && cuda_live(j->r); row++) {
        struct cuda_lt_e4m3 g = product(j, row, 0, flat ? y->n * j->pixels : j->pixels);
        g.sx = j->sx + row * j->pixels, g.sw = j->sw, g.bias = bias;
        g.y = piece_of(*y, row, 1, 0, 1).p, g.y_t = y->t, g.ld = y->ld;
        cuda_blas_e4m3(j->r, &g, j->workspace);
    }
}

/* Whether the library's own scaling leaves nothing to do: no epilogue but a bias, a result that it can write, and each
 * row's scales where it can read them. */
static bool library_suffices(const struct dl_ctx *c, const struct dl_gemm *a)
{
    const struct dl_epi *e = &a->e;
    int64_t pixels = (int64_t)a->y.h * a->y.w, unit = 16 / dl_type_bytes(a->y.t);
    bool plain = e->fn == DL_NONE && !e->glu && !e->add.p && !e->gate.p && !e->res.p && e->scale == 1;
    bool writable = a->y.t == DL_BF16 && (uintptr_t)a->y.p % 16 == 0 && a->y.ld % unit == 0 && a->y.rs % unit == 0;
    bool flat = a->y.n == 1 || a->y.rs == pixels * a->y.ld;
    return cuda_blas_row_scales(c) && plain && writable && (flat || pixels % 4 == 0);
}

/* Pieces of whole rows, or of one row's pixels where a row is too large. */
static void by_pieces(const struct job *j, int64_t rows, int64_t pixels)
{
    int32_t n = j->a->x.n;
    for (int64_t row = 0; row < n; row += rows)
        for (int64_t from = 0; from < j->pixels && cuda_live(j->r); from += pixels) {
            int64_t left = n - row < rows ? n - row : rows;
            int64_t count = j->pixels - from < pixels ? j->pixels - from : pixels;
            scaled_after(j, row, (int32_t)left, from, (int32_t)count);
        }
}

void cuda_gemm_e4m3(struct dl_run *r, const struct dl_gemm *a)
{
    bool whole = library_suffices(r->ctx, a);
    struct job j = {.r = r, .a = a, .pixels = (int64_t)a->x.h * a->x.w, .in = a->x.c, .out = a->w->dim[0]};
    int64_t most = r->ctx->opts.piece_bytes ? r->ctx->opts.piece_bytes : PIECE_BYTES;
    int64_t m = a->x.n * j.pixels, fit = most / (j.out * 4), rows = fit / j.pixels, pixels = j.pixels;
    if (rows > a->x.n) rows = a->x.n;
    if (rows < 1) rows = 1, pixels = fit / 16 * 16;
    if (pixels < 16) pixels = 16;
    r->variant = whole ? "cublaslt e4m3, scales in it" : "cublaslt e4m3 + scales";
    j.w = cuda_w_e4m3(r, a->w);
    const void *bias = NULL;
    if (a->e.bias && whole) bias = cuda_w_plain(r, a->e.bias, DL_BF16);
    if (a->e.bias && !whole) j.bias = cuda_w_wide(r, a->e.bias, DL_BF16);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct cuda_quant_args k = {.x = a->x};
    j.workspace = dl_arena_hi(&r->arena, CUDA_LT_WORKSPACE);
    j.q = k.q = dl_arena_hi(&r->arena, m * j.in);
    j.sx = k.scale = dl_arena_hi(&r->arena, m * 4);
    if (!whole) j.sums = dl_arena_hi(&r->arena, rows * pixels * j.out * 4);
    if (cuda_live(r)) cuda_launched(r, "gemm: quantise", cuda_quant(r->ctx->stream, &k));
    if (cuda_live(r)) {
        j.sw = (const float *)(const void *)(j.w + j.out * j.in);
        if (whole)
            scaled_by_library(&j, bias);
        else
            by_pieces(&j, rows, pixels);
    }
    dl_arena_release_hi(&r->arena, mark);
}
