/* Matrix products in e4m3 (engine/e4m3.h): x is quantised into scratch, then multiplied in one of several ways, the
 * choice among which is a race (tune.h): kernels of ours with scales and epilogue in them (igemm.h, hopper/hopper.h);
 * cuBLASLt where it scales by row and column itself (sm_90) and nothing but a bias follows; cuBLASLt that leaves f32 sums
 * (gemm_sums.h).
 *
 * On sm_90 the portable tiles go last: they multiply in f16 there, at half the rate (igemm_e4m3.cu). */
#include "engine/e4m3.h"
#include "kernels/cuda/gemm_sums.h"
#include "kernels/cuda/gemm_ways.h"
#include "kernels/cuda/igemm.h"

struct job {
    struct dl_run *r;
    const struct dl_gemm *a;
    const uint8_t *w, *q; /* [out][in]; [n][pixels][in] */
    const float *sw, *sx; /* [out]; [n][pixels] */
    const void *bias;     /* bf16, for the library */
    int64_t pixels, in, out;
    int64_t scratch_bytes; /* the largest need of any way */
    void *scratch, *workspace;
    struct cuda_sums sums;
    struct cuda_igemm_args own;
    struct cuda_igemm_way way[CUDA_IGEMM_WAYS];
    const char *hopper[CUDA_WAYS]; /* name of a way, where it is the Hopper tier's */
    int kind[CUDA_WAYS];           /* of all ways: index of ours, or: */
};

enum { WHOLE = -1, SUMS = -2 /* the library's */, HOPPER = -3 };

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

static void scaled_by_library(const struct job *j, dl_act y)
{
    bool flat = y.n == 1 || y.rs == j->pixels * y.ld;
    for (int64_t row = 0; row < (flat ? 1 : y.n) && cuda_live(j->r); row++) {
        struct cuda_lt_e4m3 g = product(j, row, 0, flat ? y.n * j->pixels : j->pixels);
        g.sx = j->sx + row * j->pixels, g.sw = j->sw, g.bias = j->bias;
        g.y = cuda_piece_of(y, row, 1, 0, 1).p, g.y_t = y.t, g.ld = y.ld;
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

static void offer(struct job *j, struct cuda_ways *w, int kind, const char *name, int64_t scratch_bytes)
{
    j->kind[w->n] = kind, w->name[w->n++] = name;
    if (scratch_bytes > j->scratch_bytes) j->scratch_bytes = scratch_bytes;
}

static void offer_own(struct job *j, struct cuda_ways *w)
{
    struct dl_ctx *c = j->r->ctx;
    int n = c->own_e4m3 ? cuda_igemm_ways(&j->own, c->sms, j->way) : 0;
    for (int i = 0; i < n; i++) offer(j, w, i, j->way[i].name, j->way[i].scratch_bytes);
}

static void offer_hopper(struct job *j, struct cuda_ways *w)
{
    const char *name[CUDA_WAYS];
    int n = cuda_tier_conv(j->r->ctx, &j->own, name);
    for (int i = 0; i < n; i++) {
        j->hopper[w->n] = name[i];
        offer(j, w, HOPPER, name[i], 0);
    }
}

static void offer_library(struct job *j, struct cuda_ways *w)
{
    if (j->r->ctx->opts.no_libraries) return;
    j->workspace = dl_arena_hi(&j->r->arena, CUDA_LT_WORKSPACE);
    if (library_suffices(j->r->ctx, j->a)) {
        offer(j, w, WHOLE, "cublaslt e4m3, scales in it", 0);
        if (j->a->e.bias) j->bias = cuda_w_plain(j->r, j->a->e.bias, DL_BF16);
    }
    offer(j, w, SUMS, "cublaslt e4m3 + scales", cuda_sums_bytes(&j->sums));
}

static int go(void *user, int i, dl_act y)
{
    struct job *j = user;
    struct dl_ctx *c = j->r->ctx;
    struct cuda_igemm_args a = j->own;
    a.y = y;
    if (j->kind[i] >= 0) return cuda_igemm(c->stream, &a, &j->way[j->kind[i]], j->scratch);
    if (j->kind[i] == HOPPER) return cuda_tier_conv_run(c, &a, j->hopper[i]);
    if (j->kind[i] == SUMS) {
        struct dl_gemm g = *j->a;
        struct cuda_sums s = j->sums;
        g.y = y, s.a = &g, s.sums = j->scratch;
        cuda_sums_run(&s);
    } else {
        scaled_by_library(j, y);
    }
    return y.parts && dl_run_ok(j->r) ? cuda_parts(c->stream, &y) : 0;
}

static struct cuda_igemm_args own_args(const struct job *j)
{
    const struct dl_epi *e = &j->a->e;
    return (struct cuda_igemm_args){.x = dl_act_at((void *)(uintptr_t)j->q, DL_E4M3, j->a->x.n, j->a->x.h, j->a->x.w,
                                                   (int32_t)j->in),
                                    .y = j->a->y,
                                    .w = j->w,
                                    .k = 1,
                                    .stride = 1,
                                    .bias = j->sums.bias,
                                    .fn = e->fn,
                                    .glu = e->glu,
                                    .add = e->add,
                                    .gate = e->gate,
                                    .res = e->res,
                                    .scale = e->scale,
                                    .row_scale = j->sx,
                                    .col_scale = j->sw};
}

void cuda_gemm_e4m3(struct dl_run *r, const struct dl_gemm *a)
{
    struct job j = {.r = r, .a = a, .pixels = (int64_t)a->x.h * a->x.w, .in = a->x.c, .out = a->w->dim[0]};
    struct cuda_ways ways = {
        .r = r, .op = "gemm e4m3", .x_ld = a->x.ld, .y = a->y, .res = a->e.res, .go = go, .user = &j};
    int64_t m = a->x.n * j.pixels;
    struct dl_mark mark = dl_arena_mark(&r->arena);
    uint8_t *q = dl_arena_hi(&r->arena, m * j.in);
    float *sx = dl_arena_hi(&r->arena, m * 4);
    struct cuda_quant_args k = {.x = a->x, .q = q, .scale = sx};
    j.q = q, j.sx = sx, j.w = cuda_w_e4m3(r, a->w);
    if (j.w) j.sw = (const float *)(const void *)(j.w + j.out * j.in);
    j.sums = (struct cuda_sums){
        .r = r, .a = a, .out = j.out, .row_scale = sx, .col_scale = j.sw, .product = sums, .user = &j};
    if (a->e.bias) j.sums.bias = cuda_w_wide(r, a->e.bias, DL_BF16);
    j.own = own_args(&j);
    offer_hopper(&j, &ways);
    if (!ways.n || !r->ctx->hopper_always) {
        if (r->ctx->cc != 90) offer_own(&j, &ways);
        offer_library(&j, &ways);
        if (r->ctx->cc == 90) offer_own(&j, &ways);
    }
    if (j.scratch_bytes) j.scratch = dl_arena_hi(&r->arena, j.scratch_bytes);
    if (cuda_live(r)) j.own.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, "gemm: quantise", cuda_quant(r->ctx->stream, &k));
    if (ways.n > 0) cuda_ways_run(&ways);
    else cuda_launched(r, ways.op, CUDA_K_UNSUPPORTED);
    dl_arena_release_hi(&r->arena, mark);
}
