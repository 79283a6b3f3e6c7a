/* The op table's entries over the launch functions of kernels.h: weight forms, scratch, device copies of host arrays.
 */
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/igemm.h"

#include <stdio.h>
#include <stdlib.h>

static void op_gnorm(struct dl_run *r, const struct dl_gnorm *a, float *mean_rstd)
{
    struct cuda_gnorm_args g = {.x = a->x, .groups = a->groups, .eps = a->eps, .mean_rstd = mean_rstd};
    struct dl_mark m = dl_arena_mark(&r->arena);
    r->variant = "hand-written";
    if (!a->x.parts) g.scratch = dl_arena_hi(&r->arena, cuda_gnorm_scratch(&g));
    if (cuda_live(r))
        cuda_launched(r, "gnorm", (a->x.parts ? cuda_gnorm_parts : cuda_gnorm)(r->ctx->stream, &g));
    dl_arena_release_hi(&r->arena, m);
}

static void op_norm(struct dl_run *r, const struct dl_norm *a)
{
    struct cuda_norm_args n = {.x = a->x,
                               .y = a->y,
                               .mean_rstd = a->s.mean_rstd,
                               .groups = a->s.groups,
                               .scale = a->s.scale,
                               .shift = a->s.shift,
                               .fn = a->fn};
    r->variant = "hand-written";
    n.gamma = cuda_w_wide(r, a->s.gamma, a->x.t), n.beta = cuda_w_wide(r, a->s.beta, a->x.t);
    if (!cuda_live(r)) return;
    n.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, "norm", cuda_norm(r->ctx->stream, &n));
}

static void op_lnorm(struct dl_run *r, const struct dl_lnorm *a)
{
    struct cuda_lnorm_args n = {
        .x = a->x, .y = a->y, .eps = a->eps, .rms = a->rms, .scale = a->scale, .shift = a->shift};
    r->variant = "hand-written";
    n.gamma = cuda_w_wide(r, a->gamma, a->x.t), n.beta = cuda_w_wide(r, a->beta, a->x.t);
    if (!cuda_live(r)) return;
    n.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, "lnorm", cuda_lnorm(r->ctx->stream, &n));
}

struct attn_job {
    const struct dl_ctx *ctx;
    struct cuda_attn_args a;
};

static bool attn_go(void *user, int way)
{
    const struct attn_job *j = user;
    return cuda_tier_attn_run(j->ctx, &j->a, way) == 0;
}

static void op_attn(struct dl_run *r, const struct dl_attn *a)
{
    struct attn_job j = {.ctx = r->ctx,
                         .a = {.q = a->q,
                               .k = a->k,
                               .v = a->v,
                               .y = a->y,
                               .heads = a->heads,
                               .scale = a->scale,
                               .causal = a->causal,
                               .bias = a->bias,
                               .key_mask = a->key_mask}};
    const char *name[CUDA_WAYS];
    char key[CUDA_TUNE_KEY];
    int n = cuda_tier_attn(r->ctx, &j.a, name), way = 0;
    if (cuda_live(r)) {
        j.a.key_mask = cuda_const(r, a->key_mask, (int64_t)a->k.n * a->k.h * a->k.w);
        j.a.kv_row = cuda_const(r, a->kv_row, (int64_t)a->q.n * 4);
    }
    if (n > 0) {
        snprintf(key, sizeof key, "attn %s ld%d,%d,%d,%d", r->shape, a->q.ld, a->k.ld, a->v.ld, a->y.ld);
        way = cuda_choose(r, key, n, name, cuda_live(r) && a->y.p != a->q.p ? attn_go : NULL, &j);
    }
    r->variant = n > 0 ? name[way] : "plain";
    if (!cuda_live(r)) return;
    cuda_launched(r, "attn", n > 0 ? cuda_tier_attn_run(r->ctx, &j.a, way) : cuda_attn_plain(r->ctx->stream, &j.a));
}

/* A host array of an op that stands outside captured programs: into scratch. */
static const void *to_scratch(struct dl_run *r, const char *op, const void *host, int64_t bytes)
{
    void *p = dl_arena_hi(&r->arena, bytes);
    if (!cuda_live(r)) return NULL;
    if (r->mode == DL_CAPTURE) {
        dl_fail(&r->err, DL_EFAIL, "op %s reads host memory and cannot be captured", op);
        return NULL;
    }
    return cuda_upload(r->ctx, p, host, bytes, &r->err) < 0 ? NULL : p;
}

static void op_embed(struct dl_run *r, const struct dl_embed *a)
{
    struct cuda_embed_args g = {.y = a->y, .table = cuda_w_plain(r, a->table, a->y.t)};
    struct dl_mark m = dl_arena_mark(&r->arena);
    r->variant = "hand-written";
    if (a->pos) g.pos = cuda_w_plain(r, a->pos, a->y.t);
    g.ids = to_scratch(r, "embed", a->ids, (int64_t)a->y.n * a->y.w * 4);
    if (cuda_live(r)) cuda_launched(r, "embed", cuda_embed(r->ctx->stream, &g));
    dl_arena_release_hi(&r->arena, m);
}

static void op_sinus(struct dl_run *r, const struct dl_sinus *a)
{
    struct cuda_sinus_args g = {.y = a->y, .flip = a->flip, .shift = a->shift};
    struct dl_mark m = dl_arena_mark(&r->arena);
    r->variant = "hand-written";
    g.t = to_scratch(r, "sinus", a->t, (int64_t)a->y.n * 4);
    if (cuda_live(r)) cuda_launched(r, "sinus", cuda_sinus(r->ctx->stream, &g));
    dl_arena_release_hi(&r->arena, m);
}

static void op_copy(struct dl_run *r, const struct dl_copy *a)
{
    struct cuda_copy_args g = {.x = a->x, .y = a->y, .a = a->a, .b = a->b, .fn = a->fn};
    r->variant = "hand-written";
    g.row = cuda_const(r, a->row, (int64_t)a->y.n * 4);
    if (cuda_live(r)) cuda_launched(r, "copy", cuda_copy(r->ctx->stream, &g));
}

static void op_add(struct dl_run *r, const struct dl_add *a)
{
    struct cuda_add_args g = {.a = a->a, .b = a->b, .y = a->y};
    r->variant = "hand-written";
    if (cuda_live(r)) cuda_launched(r, "add", cuda_add(r->ctx->stream, &g));
}

static void op_pick(struct dl_run *r, const struct dl_pick *a)
{
    struct cuda_pick_args g = {.table = a->table, .y = a->y};
    r->variant = "hand-written";
    if (!cuda_live(r)) return;
    g.row = cuda_const(r, a->row, (int64_t)a->y.n * 4), g.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, "pick", cuda_pick(r->ctx->stream, &g));
}

static void op_rope(struct dl_run *r, const struct dl_rope *a)
{
    struct cuda_rope_args g = {.x = a->x, .y = a->y, .heads = a->heads, .eps = a->eps, .table = a->table};
    r->variant = "hand-written";
    for (int k = 0; k < 2; k++) g.gamma[k] = cuda_w_wide(r, a->gamma[k] ? a->gamma[k] : a->gamma[0], a->x.t);
    if (cuda_live(r)) cuda_launched(r, "rope", cuda_rope(r->ctx->stream, &g));
}

static void op_resize(struct dl_run *r, const struct dl_resize *a)
{
    struct cuda_resize_args g = {.x = a->x, .y = a->y, .kind = a->kind};
    r->variant = "hand-written";
    if (cuda_live(r)) cuda_launched(r, "resize", cuda_resize(r->ctx->stream, &g));
}

/* Buckets are made on the host, so that no device's logarithm moves a boundary. */
static const int32_t *buckets_of(struct dl_run *r, const struct dl_rel_bias *a)
{
    int64_t n = (int64_t)a->y.h + a->y.w - 1;
    int32_t *b = malloc((size_t)n * sizeof *b);
    if (!b) {
        dl_fail(&r->err, DL_ENOMEM, "no memory for the buckets of %lld distances", (long long)n);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++)
        b[i] = dl_rel_bucket((int32_t)(i - (a->y.h - 1)), (int32_t)a->table->dim[0], a->max_distance);
    const int32_t *p = cuda_const(r, b, n * 4);
    free(b);
    return p;
}

static void op_rel_bias(struct dl_run *r, const struct dl_rel_bias *a)
{
    struct cuda_rel_bias_args g = {.table = cuda_w_wide(r, a->table, r->t), .y = a->y};
    r->variant = "hand-written";
    if (cuda_live(r)) g.bucket = buckets_of(r, a);
    if (cuda_live(r)) cuda_launched(r, "rel_bias", cuda_rel_bias(r->ctx->stream, &g));
}

static void op_token_mean(struct dl_run *r, const struct dl_token_mean *a)
{
    struct cuda_token_mean_args g = {.x = a->x, .y = a->y, .pos = cuda_w_wide(r, a->pos, a->x.t)};
    r->variant = "hand-written";
    if (cuda_live(r)) cuda_launched(r, "token_mean", cuda_token_mean(r->ctx->stream, &g));
}

static const struct sched_step *steps_of(struct dl_run *r, const struct sched_table *t)
{
    return cuda_const(r, t->step, t->n * (int64_t)sizeof t->step[0]);
}

static void op_sched_in(struct dl_run *r, const struct dl_sched_in *a)
{
    struct cuda_sched_in_args g = {.latent = a->latent, .y = a->y};
    r->variant = "hand-written";
    if (!cuda_live(r)) return;
    g.steps = steps_of(r, a->table), g.row = cuda_const(r, a->row, (int64_t)a->y.n * 4), g.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, "sched_in", cuda_sched_in(r->ctx->stream, &g));
}

static void op_sched_step(struct dl_run *r, const struct dl_sched_step *a)
{
    struct cuda_sched_step_args g = {.eps = a->eps,
                                     .guidance = a->guidance,
                                     .latent = a->latent,
                                     .history = a->history,
                                     .threshold = a->table->threshold,
                                     .threshold_max = a->table->threshold_max,
                                     .use_var = a->table->learned_var && a->table->use_var,
                                     .noise = a->noise};
    struct dl_mark m = dl_arena_mark(&r->arena);
    r->variant = "hand-written";
    if (g.threshold != 0) g.quantile = dl_arena_hi(&r->arena, (int64_t)a->latent.n * 4);
    if (cuda_live(r)) {
        g.steps = steps_of(r, a->table), g.step = cuda_step(r);
        g.u_row = cuda_const(r, a->u_row, (int64_t)a->latent.n * 4),
        g.c_row = cuda_const(r, a->c_row, (int64_t)a->latent.n * 4);
    }
    if (cuda_live(r)) cuda_launched(r, "sched_step", cuda_sched_step(r->ctx->stream, &g));
    dl_arena_release_hi(&r->arena, m);
}

static void op_image(struct dl_run *r, const struct dl_image *a)
{
    struct cuda_image_args g = {.x = a->x, .u8 = a->u8};
    r->variant = "hand-written";
    if (cuda_live(r)) cuda_launched(r, "image", cuda_image(r->ctx->stream, &g));
}

void cuda_ops_init(struct dl_ops *ops)
{
    *ops = (struct dl_ops){
        .gemm = cuda_op_gemm,
        .conv = cuda_op_conv,
        .gnorm = op_gnorm,
        .norm = op_norm,
        .lnorm = op_lnorm,
        .attn = op_attn,
        .embed = op_embed,
        .sinus = op_sinus,
        .copy = op_copy,
        .add = op_add,
        .pick = op_pick,
        .rope = op_rope,
        .resize = op_resize,
        .rel_bias = op_rel_bias,
        .token_mean = op_token_mean,
        .sched_in = op_sched_in,
        .sched_step = op_sched_step,
        .image = op_image,
    };
}
