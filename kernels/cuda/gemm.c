/* Matrix products and convolutions: the ways to compute one, weight forms, scratch, and the choice among them (tune.h).
 *
 * A product whose epilogue cuBLASLt has goes there. For the others, and for those whose result has parts (op.h: a pass
 * more behind the library, none behind most of ours), kernels of ours that fuse the whole epilogue (igemm.h,
 * hopper/hopper.h), ones that also normalise on load (nconv.h), and cuBLASLt with a pass of ours behind it
 * (gemm_sums.h) take part in a race, once for each shape. Each of them gives the result within the same error budget. */
#include "engine/e4m3.h"
#include "kernels/cuda/gemm_sums.h"
#include "kernels/cuda/gemm_ways.h"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/igemm.h"
#include "kernels/cuda/nconv.h"

_Static_assert(CUDA_IGEMM_WAYS + CUDA_NCONV_WAYS + CUDA_CONV_HOPPER_WAYS + 1 <= CUDA_WAYS, "room for all");

enum kind { OWN, HOPPER, NORM_ON_LOAD, LIBRARY, LIBRARY_WHOLE };

struct way {
    enum kind kind;
    const char *name;
    int64_t scratch_bytes;
    struct cuda_igemm_way own; /* OWN */
};

/* One op, in all forms that its ways want. */
struct product {
    struct dl_run *r;
    const char *op;              /* for messages */
    struct cuda_nconv_args a;    /* the product, and the norm or activation before it, if any */
    dl_act ready;                /* where a pass leaves the normalised x; p NULL: x needs none */
    const struct dl_gemm *whole; /* for the library; NULL: not offered */
    const void *bias;            /* in y's type, where the library does all of it */
    struct way way[CUDA_WAYS];
    int n;
    void *scratch, *workspace;
};

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- the ways ---- */

static struct way *offer(struct product *p, enum kind kind, const char *name, int64_t scratch_bytes)
{
    struct way *w = &p->way[p->n++];
    *w = (struct way){.kind = kind, .name = name, .scratch_bytes = scratch_bytes};
    return w;
}

static void offer_own(struct product *p, const struct cuda_igemm_args *a)
{
    struct cuda_igemm_way own[CUDA_IGEMM_WAYS];
    int n = cuda_igemm_ways(a, p->r->ctx->sms, own);
    for (int i = 0; i < n; i++) offer(p, OWN, own[i].name, own[i].scratch_bytes)->own = own[i];
}

static void offer_norm_on_load(struct product *p)
{
    struct cuda_nconv_way way[CUDA_NCONV_WAYS];
    int n = cuda_nconv_ways(&p->a, way);
    for (int i = 0; i < n; i++) offer(p, NORM_ON_LOAD, way[i].name, way[i].scratch_bytes);
}

/* The library's product for `whole`, without its epilogue. */
static struct dl_gemm bare(const struct dl_gemm *whole, dl_act y)
{
    return (struct dl_gemm){.x = whole->x, .y = y, .w = whole->w, .e = {.scale = 1}};
}

static void offer_library(struct product *p)
{
    const struct dl_gemm *g = p->whole;
    struct dl_gemm b = bare(g, dl_act_at(NULL, DL_F32, g->y.n, g->y.h, g->y.w, (int32_t)g->w->dim[0]));
    struct cuda_sums s = {.r = p->r, .a = g, .out = g->w->dim[0]};
    if (cuda_blas_takes(p->r->ctx, g)) offer(p, LIBRARY_WHOLE, "cublaslt", 0);
    else if (cuda_blas_takes(p->r->ctx, &b)) offer(p, LIBRARY, "cublaslt + epilogue", cuda_sums_bytes(&s));
}

/* What serves the product, the best guess first. */
static void list_ways(struct product *p)
{
    struct cuda_igemm_args a = p->a.c;
    const char *hopper[CUDA_WAYS];
    if (p->ready.p) a.x = p->ready;
    int n = cuda_tier_conv(p->r->ctx, &a, hopper);
    for (int i = 0; i < n; i++) offer(p, HOPPER, hopper[i], 0);
    if (n > 0 && p->r->ctx->hopper_always) return;
    offer_own(p, &a);
    offer_norm_on_load(p);
    if (p->whole) offer_library(p);
}

/* ---- running one ---- */

/* x normalised and activated into p->ready. */
static int prepare(const struct product *p)
{
    const struct cuda_nconv_args *a = &p->a;
    cudaStream_t s = p->r->ctx->stream;
    if (!a->mean_rstd) {
        struct cuda_copy_args c = {.x = a->c.x, .y = p->ready, .a = 1, .fn = a->pre_fn};
        return cuda_copy(s, &c);
    }
    struct cuda_norm_args n = {.x = a->c.x,
                               .y = p->ready,
                               .mean_rstd = a->mean_rstd,
                               .groups = a->groups,
                               .gamma = a->gamma,
                               .beta = a->beta,
                               .scale = a->scale,
                               .shift = a->shift,
                               .step = a->c.step,
                               .fn = a->pre_fn};
    return cuda_norm(s, &n);
}

static void library_sums(void *user, dl_act y, int64_t row, int64_t from)
{
    const struct product *p = user;
    struct dl_gemm g = bare(p->whole, y);
    g.x = cuda_piece_of(g.x, row, y.n, from, y.w);
    cuda_blas_gemm(p->r, &g, p->a.c.w, NULL, p->workspace);
}

/* Failures go into the run. */
static void run_library(struct product *p, const struct way *w, dl_act y)
{
    struct dl_gemm g = *p->whole;
    g.y = y;
    if (w->kind == LIBRARY_WHOLE) {
        cuda_blas_gemm(p->r, &g, p->a.c.w, p->bias, p->workspace);
        return;
    }
    struct cuda_sums s = {.r = p->r,
                          .a = &g,
                          .out = g.w->dim[0],
                          .sums = p->scratch,
                          .bias = p->a.c.bias,
                          .product = library_sums,
                          .user = p};
    cuda_sums_run(&s);
}

static int run_way(void *user, int i, dl_act y)
{
    struct product *p = user;
    const struct way *w = &p->way[i];
    struct cuda_nconv_args a = p->a;
    struct dl_ctx *c = p->r->ctx;
    int rc = 0;
    a.c.y = y;
    if (w->kind == NORM_ON_LOAD) return cuda_nconv(c->stream, &a, w->name, p->scratch);
    if (p->ready.p) rc = prepare(p), a.c.x = p->ready;
    if (rc == 0 && w->kind == OWN) rc = cuda_igemm(c->stream, &a.c, &w->own, p->scratch);
    if (rc == 0 && w->kind == HOPPER) rc = cuda_tier_conv_run(c, &a.c, w->name);
    if (w->kind < LIBRARY || rc != 0) return rc;
    run_library(p, w, y);
    return y.parts && dl_run_ok(p->r) ? cuda_parts(c->stream, &y) : 0;
}

static void run_product(struct product *p)
{
    struct dl_run *r = p->r;
    struct cuda_ways ways = {.r = r, .op = p->op, .go = run_way, .user = p};
    int64_t scratch_bytes = 0;
    list_ways(p);
    if (p->n == 0) {
        cuda_launched(r, p->op, CUDA_K_UNSUPPORTED);
        return;
    }
    for (int i = 0; i < p->n; i++) {
        ways.name[i] = p->way[i].name;
        scratch_bytes = most(scratch_bytes, p->way[i].scratch_bytes);
        if (p->way[i].kind >= LIBRARY) p->workspace = dl_arena_hi(&r->arena, CUDA_LT_WORKSPACE);
    }
    if (scratch_bytes) p->scratch = dl_arena_hi(&r->arena, scratch_bytes);
    if (cuda_live(r)) p->a.c.step = cuda_step(r);
    ways.n = p->n, ways.x_ld = p->a.c.x.ld, ways.y = p->a.c.y, ways.res = p->a.c.res;
    cuda_ways_run(&ways);
}

/* ---- the ops ---- */

static struct cuda_igemm_args args_of(dl_act x, dl_act y, const void *w, const struct dl_epi *e, const float *bias)
{
    return (struct cuda_igemm_args){.x = x,
                                    .y = y,
                                    .w = w,
                                    .k = 1,
                                    .stride = 1,
                                    .bias = bias,
                                    .fn = e->fn,
                                    .glu = e->glu,
                                    .add = e->add,
                                    .gate = e->gate,
                                    .res = e->res,
                                    .scale = e->scale};
}

void cuda_op_gemm(struct dl_run *r, const struct dl_gemm *a)
{
    int t = a->x.t;
    if (dl_e4m3_takes(r, a)) {
        cuda_gemm_e4m3(r, a);
        return;
    }
    const void *w = cuda_w_plain(r, a->w, t);
    struct dl_mark m = dl_arena_mark(&r->arena);
    const void *bias = NULL;
    if (a->e.bias && cuda_blas_takes(r->ctx, a))
        bias = a->y.t == t ? cuda_w_plain(r, a->e.bias, t) : (const void *)cuda_w_wide(r, a->e.bias, t);
    if (cuda_blas_takes(r->ctx, a) && !a->y.parts) {
        r->variant = "cublaslt";
        void *workspace = dl_arena_hi(&r->arena, CUDA_LT_WORKSPACE);
        if (cuda_live(r)) cuda_blas_gemm(r, a, w, bias, workspace);
    } else {
        struct product p = {.r = r, .op = "gemm", .whole = a, .bias = bias};
        p.a.c = args_of(a->x, a->y, w, &a->e, cuda_w_wide(r, a->e.bias, t));
        run_product(&p);
    }
    dl_arena_release_hi(&r->arena, m);
}

void cuda_op_conv(struct dl_run *r, const struct dl_conv *a)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    const struct dl_stat *s = &a->pre;
    struct product p = {.r = r, .op = "conv"};
    p.a = (struct cuda_nconv_args){.mean_rstd = s->mean_rstd,
                                   .groups = s->groups,
                                   .scale = s->scale,
                                   .shift = s->shift,
                                   .pre_fn = a->pre_fn};
    if (s->mean_rstd) p.a.gamma = cuda_w_wide(r, s->gamma, a->x.t), p.a.beta = cuda_w_wide(r, s->beta, a->x.t);
    if (s->mean_rstd || a->pre_fn) p.ready = dl_act_hi(r, a->x.t, a->x.n, a->x.h, a->x.w, a->x.c);
    if (a->k == 1 && a->stride == 1 && !a->up) {
        struct dl_gemm g = {.x = a->x, .y = a->y, .w = a->w, .e = a->e, .fine = true};
        p.a.c.x = a->x;
        if (cuda_live(r)) p.a.c.step = cuda_step(r);
        if (p.ready.p) g.x = p.ready;
        if (p.ready.p && cuda_live(r)) cuda_launched(r, "conv: norm", prepare(&p));
        cuda_op_gemm(r, &g);
    } else {
        p.a.c = args_of(a->x, a->y, cuda_w_ohwi(r, a->w, a->x.t), &a->e, cuda_w_wide(r, a->e.bias, a->x.t));
        p.a.c.k = a->k, p.a.c.stride = a->stride, p.a.c.up = a->up;
        run_product(&p);
    }
    dl_arena_release_hi(&r->arena, m);
}
