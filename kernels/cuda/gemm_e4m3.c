/* Matrix products in e4m3 (engine/e4m3.h): x is quantised into scratch, cuBLASLt multiplies.
 *
 * Where the library scales by row and column itself (sm_90) and nothing but a bias follows, it writes y. Otherwise it
 * leaves f32 sums (gemm_sums.h). */
#include "engine/e4m3.h"
#include "kernels/cuda/gemm_sums.h"

struct job {
    struct dl_run *r;
    const struct dl_gemm *a;
    const uint8_t *w, *q; /* [out][in]; [n][pixels][in] */
    const float *sw, *sx; /* [out]; [n][pixels] */
    void *workspace;
    int64_t pixels, in, out;
};

static struct cuda_lt_e4m3 product(const struct job *j, int64_t row, int64_t from, int64_t m)
{
    int64_t at = row * j->pixels + from;
    return (struct cuda_lt_e4m3){
        .x = j->q + at * j->in, .w = j->w, .m = m, .in = j->in, .out = j->out, .ld = j->out, .y_t = DL_F32};
}

static void sums(void *user, dl_act y, int64_t row, int64_t from)
{
    const struct job *j = user;
    struct cuda_lt_e4m3 g = product(j, row, from, (int64_t)y.n * y.w);
    g.y = y.p;
    cuda_blas_e4m3(j->r, &g, j->workspace);
}

static void scaled_by_library(const struct job *j, const void *bias)
{
    const dl_act *y = &j->a->y;
    bool flat = y->n == 1 || y->rs == j->pixels * y->ld;
    for (int64_t row = 0; row < (flat ? 1 : y->n) && cuda_live(j->r); row++) {
        struct cuda_lt_e4m3 g = product(j, row, 0, flat ? y->n * j->pixels : j->pixels);
        g.sx = j->sx + row * j->pixels, g.sw = j->sw, g.bias = bias;
        g.y = cuda_piece_of(*y, row, 1, 0, 1).p, g.y_t = y->t, g.ld = y->ld;
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

void cuda_gemm_e4m3(struct dl_run *r, const struct dl_gemm *a)
{
    bool whole = library_suffices(r->ctx, a);
    struct job j = {.r = r, .a = a, .pixels = (int64_t)a->x.h * a->x.w, .in = a->x.c, .out = a->w->dim[0]};
    struct cuda_sums s = {.r = r, .a = a, .out = j.out, .product = sums, .user = &j};
    int64_t m = a->x.n * j.pixels;
    r->variant = whole ? "cublaslt e4m3, scales in it" : "cublaslt e4m3 + scales";
    j.w = cuda_w_e4m3(r, a->w);
    const void *bias = NULL;
    if (a->e.bias && whole) bias = cuda_w_plain(r, a->e.bias, DL_BF16);
    if (a->e.bias && !whole) s.bias = cuda_w_wide(r, a->e.bias, DL_BF16);
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct cuda_quant_args k = {.x = a->x};
    j.workspace = dl_arena_hi(&r->arena, CUDA_LT_WORKSPACE);
    j.q = k.q = dl_arena_hi(&r->arena, m * j.in);
    j.sx = k.scale = dl_arena_hi(&r->arena, m * 4);
    if (!whole) s.sums = dl_arena_hi(&r->arena, cuda_sums_bytes(&s));
    if (cuda_live(r)) cuda_launched(r, "gemm: quantise", cuda_quant(r->ctx->stream, &k));
    if (cuda_live(r)) {
        j.sw = (const float *)(const void *)(j.w + j.out * j.in);
        s.row_scale = j.sx, s.col_scale = j.sw;
        if (whole)
            scaled_by_library(&j, bias);
        else
            cuda_sums_run(&s);
    }
    dl_arena_release_hi(&r->arena, mark);
}
