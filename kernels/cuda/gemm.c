/* Matrix products and convolutions: which variant, weight forms, scratch. */
#include "engine/e4m3.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/igemm.h"

/* Our own kernel. k and taps come from the op; w in the run's type. */
static void run_igemm(struct dl_run *r, const char *op, const dl_act *x, const dl_act *y, const void *w, int k,
                      int stride, bool up, const struct dl_epi *e, const float *bias)
{
    struct cuda_igemm_args g = {.x = *x,
                                .y = *y,
                                .w = w,
                                .k = k,
                                .stride = stride,
                                .up = up,
                                .bias = bias,
                                .fn = e->fn,
                                .glu = e->glu,
                                .add = e->add,
                                .gate = e->gate,
                                .res = e->res,
                                .scale = e->scale};
    bool hopper;
    r->variant = cuda_tier_conv(r->ctx, &g, &hopper);
    if (!cuda_live(r)) return;
    g.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, op, cuda_tier_conv_run(r->ctx, &g, hopper));
}

void cuda_op_gemm(struct dl_run *r, const struct dl_gemm *a)
{
    int t = a->x.t;
    if (dl_e4m3_takes(r, a)) {
        cuda_gemm_e4m3(r, a);
        return;
    }
    const void *w = cuda_w_plain(r, a->w, t);
    if (!cuda_blas_takes(r->ctx, a)) {
        const float *bias = cuda_w_wide(r, a->e.bias, t);
        run_igemm(r, "gemm", &a->x, &a->y, w, 1, 1, false, &a->e, bias);
        return;
    }
    r->variant = "cublaslt";
    const void *bias = !a->e.bias ? NULL : a->y.t == t ? cuda_w_plain(r, a->e.bias, t) : cuda_w_wide(r, a->e.bias, t);
    struct dl_mark m = dl_arena_mark(&r->arena);
    void *workspace = dl_arena_hi(&r->arena, CUDA_LT_WORKSPACE);
    if (cuda_live(r)) cuda_blas_gemm(r, a, w, bias, workspace);
    dl_arena_release_hi(&r->arena, m);
}

/* x normalised and activated into scratch. */
static dl_act prepared(struct dl_run *r, const struct dl_conv *a)
{
    dl_act x = dl_act_hi(r, a->x.t, a->x.n, a->x.h, a->x.w, a->x.c);
    const struct dl_stat *s = &a->pre;
    if (!s->mean_rstd) {
        struct cuda_copy_args c = {.x = a->x, .y = x, .a = 1, .fn = a->pre_fn};
        if (cuda_live(r)) cuda_launched(r, "conv: activation", cuda_copy(r->ctx->stream, &c));
        return x;
    }
    struct cuda_norm_args n = {.x = a->x,
                               .y = x,
                               .mean_rstd = s->mean_rstd,
                               .groups = s->groups,
                               .scale = s->scale,
                               .shift = s->shift,
                               .fn = a->pre_fn};
    n.gamma = cuda_w_wide(r, s->gamma, a->x.t), n.beta = cuda_w_wide(r, s->beta, a->x.t);
    if (cuda_live(r)) n.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, "conv: norm", cuda_norm(r->ctx->stream, &n));
    return x;
}

void cuda_op_conv(struct dl_run *r, const struct dl_conv *a)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act x = a->pre.mean_rstd || a->pre_fn ? prepared(r, a) : a->x;
    if (a->k == 1 && a->stride == 1 && !a->up) {
        struct dl_gemm g = {.x = x, .y = a->y, .w = a->w, .e = a->e, .fine = true};
        cuda_op_gemm(r, &g);
    } else {
        const void *w = cuda_w_ohwi(r, a->w, a->x.t);
        const float *bias = cuda_w_wide(r, a->e.bias, a->x.t);
        run_igemm(r, "conv", &x, &a->y, w, a->k, a->stride, a->up, &a->e, bias);
    }
    dl_arena_release_hi(&r->arena, m);
}
