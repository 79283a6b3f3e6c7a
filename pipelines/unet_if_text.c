/* What is prepared before the loop: everything that does not see the latent. */
#include "pipelines/unet_if.h"

#include <math.h>

int64_t unet_if_kv_bytes(const struct unet_if *u, int conds, int tokens, int type)
{
    return u->kv_width * conds * tokens * dl_type_bytes(type);
}

int64_t unet_if_emb_bytes(const struct unet_if *u, int conds)
{
    return (int64_t)u->cfg.temb * conds * dl_type_bytes(DL_F32);
}

int64_t unet_if_table_bytes(const struct unet_if *u, int steps, int conds)
{
    return u->table_width * steps * conds * dl_type_bytes(DL_F32);
}

dl_act unet_if_kv_of(const struct unet_if_attn *a, const void *kv, int conds, int tokens, int type)
{
    uint8_t *p = (uint8_t *)(uintptr_t)kv + a->kv_at * conds * tokens * dl_type_bytes(type);
    return dl_act_at(p, type, conds, 1, tokens, 2 * a->c);
}

static void layer_norm(struct dl_run *r, dl_act x, dl_act y, struct dl_w *g, struct dl_w *b)
{
    dl_op_lnorm(r, (struct dl_lnorm){.x = x, .y = y, .gamma = g, .beta = b, .eps = 1e-5f});
}

/* TextTimeEmbedding: norm, a token that is the mean of all attends to itself and them, projection, norm. */
static void pool_text(struct dl_run *r, struct unet_if *u, dl_act text, float *emb)
{
    const int d = u->cfg.text_dim, n = text.n;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act out = dl_act_hi(r, r->t, n, 1, 1, u->cfg.temb), y = dl_act_at(emb, DL_F32, n, 1, 1, u->cfg.temb);
    dl_act q = dl_act_hi(r, r->t, n, 1, 1, d), pooled = dl_act_hi(r, r->t, n, 1, 1, d);
    dl_act seq = dl_act_hi(r, r->t, n, 1, text.w + 1, d), kv = dl_act_hi(r, r->t, n, 1, text.w + 1, 2 * d);
    if (!dl_run_ok(r)) return;
    dl_act mean = seq, tokens = seq;
    mean.w = 1;
    tokens.w = text.w, tokens.p = (uint8_t *)seq.p + d * dl_type_bytes(r->t);
    layer_norm(r, text, tokens, &u->ln1_g, &u->ln1_b);
    dl_op_token_mean(r, (struct dl_token_mean){.x = tokens, .y = mean, .pos = &u->pos});
    dl_op_gemm(r, (struct dl_gemm){.x = mean, .y = q, .w = &u->q, .e = {.bias = &u->q_b}});
    dl_op_gemm(r, (struct dl_gemm){.x = seq, .y = kv, .w = &u->kv, .e = {.bias = &u->kv_b}});
    dl_op_attn(r, (struct dl_attn){.q = q,
                                   .k = dl_act_cols(kv, 0, d),
                                   .v = dl_act_cols(kv, d, d),
                                   .y = pooled,
                                   .heads = u->cfg.pool_heads,
                                   .scale = 1 / sqrtf((float)(d / u->cfg.pool_heads))});
    dl_op_gemm(r, (struct dl_gemm){.x = pooled, .y = out, .w = &u->proj, .e = {.bias = &u->proj_b}});
    layer_norm(r, out, y, &u->ln2_g, &u->ln2_b);
    dl_tap(r, y, "add_embedding");
    dl_arena_release_hi(&r->arena, m);
}

/* What the text of all conditions is while its K and V are made. */
struct text {
    dl_act hid, norm;    /* [conds][1][tokens][cross_dim] projected, and normed for one attention */
    struct dl_stat stat; /* of hid: the same for every attention, with its own gain and bias */
    void *kv;
};

static void text_of(struct dl_run *r, struct unet_if_attn *a, struct text *t)
{
    dl_act kv = unet_if_kv_of(a, t->kv, t->hid.n, t->hid.w, r->t);
    t->stat.gamma = &a->cross_g, t->stat.beta = &a->cross_b;
    dl_op_norm(r, (struct dl_norm){.x = t->hid, .y = t->norm, .s = t->stat});
    dl_op_gemm(r, (struct dl_gemm){.x = t->norm, .y = kv, .w = &a->text, .e = {.bias = &a->text_b}});
}

void unet_if_text(struct dl_run *r, struct unet_if *u, dl_act text, void *kv, float *emb)
{
    enum { GROUPS = 32 }; /* whatever norm_num_groups is */
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act x = text;
    if (text.t != r->t) {
        x = dl_act_hi(r, r->t, text.n, 1, text.w, text.c);
        dl_op_copy(r, (struct dl_copy){.x = text, .y = x});
    }
    pool_text(r, u, x, emb);
    struct text t = {.kv = kv};
    t.hid = dl_act_hi(r, r->t, text.n, 1, text.w, u->cfg.cross_dim);
    t.norm = dl_act_hi(r, r->t, text.n, 1, text.w, u->cfg.cross_dim);
    dl_op_gemm(r, (struct dl_gemm){.x = x, .y = t.hid, .w = &u->hid, .e = {.bias = &u->hid_b}});
    dl_tap(r, t.hid, "encoder_hid_proj");
    t.stat = dl_op_gnorm(r, (struct dl_gnorm){.x = t.hid, .groups = GROUPS, .eps = 1e-5f});
    for (int i = 0; i < u->cfg.levels; i++) {
        for (int j = 0; u->down[i].cross && j < u->down[i].n; j++) text_of(r, &u->down[i].attn[j], &t);
        for (int j = 0; u->up[i].cross && j < u->up[i].n; j++) text_of(r, &u->up[i].attn[j], &t);
    }
    text_of(r, &u->mid_attn, &t);
    dl_arena_release_hi(&r->arena, m);
}

/* The same memory with pixels as rows; the sinusoid op counts timesteps so, and a vector can be added to each. */
static dl_act as_rows(dl_act a)
{
    a.n = a.w, a.w = 1, a.rs = a.ld;
    return a;
}

/* TimestepEmbedding of t [y.w] by the MLP w: first matrix and bias, second matrix and bias. y [1][1][steps][temb]. */
static void embed(struct dl_run *r, const struct unet_if *u, const float *t, struct dl_w *const w[4], dl_act y)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act wave = dl_act_hi(r, r->t, 1, 1, y.w, u->cfg.channels[0]), hidden = dl_act_hi(r, r->t, 1, 1, y.w, y.c);
    dl_op_sinus(r,
                (struct dl_sinus){.t = t, .y = as_rows(wave), .flip = u->cfg.flip_sin_cos, .shift = u->cfg.freq_shift});
    dl_op_gemm(r, (struct dl_gemm){.x = wave, .y = hidden, .w = w[0], .e = {.bias = w[1], .fn = DL_GELU}});
    dl_op_gemm(r, (struct dl_gemm){.x = hidden, .y = y, .w = w[2], .e = {.bias = w[3]}});
    dl_arena_release_hi(&r->arena, m);
}

/* y = x + one vector for all rows; all [rows][1][1][temb] f32. y may be x. */
static void add_to_rows(struct dl_run *r, dl_act x, const float *vector, dl_act y)
{
    dl_act b = dl_act_at((void *)(uintptr_t)vector, DL_F32, x.n, 1, 1, x.c);
    b.rs = 0;
    dl_op_add(r, (struct dl_add){.a = x, .b = b, .y = y});
}

/* The columns of one resnet in one condition's rows of the table [1][1][steps][table_width]. */
static void rows_of(struct dl_run *r, struct unet_if_resnet *n, dl_act emb, dl_act rows)
{
    dl_op_gemm(r, (struct dl_gemm){.x = emb,
                                   .y = dl_act_cols(rows, (int32_t)n->row_at, 2 * n->out),
                                   .w = &n->temb,
                                   .e = {.bias = &n->temb_b}});
}

static void level_rows(struct dl_run *r, struct unet_if_level *l, dl_act emb, dl_act rows)
{
    for (int j = 0; j < l->n; j++) rows_of(r, &l->resnet[j], emb, rows);
    if (l->sampler) rows_of(r, &l->sample, emb, rows);
}

void unet_if_steps(struct dl_run *r, struct unet_if *u, const float *t, int steps, const float *level, const float *emb,
                   int conds, float *table)
{
    struct dl_w *const time[] = {&u->time1, &u->time1_b, &u->time2, &u->time2_b};
    struct dl_w *const noise[] = {&u->level1, &u->level1_b, &u->level2, &u->level2_b};
    const int temb = u->cfg.temb;
    struct dl_mark m = dl_arena_mark(&r->arena);
    if (conds < 1 || u->table_width > INT32_MAX / conds) {
        dl_fail(&r->err, DL_EFAIL, "a step table of %d conditions is not possible", conds);
        return;
    }
    dl_act of_step = dl_act_hi(r, DL_F32, 1, 1, steps, temb), sum = dl_act_hi(r, DL_F32, 1, 1, steps, temb);
    dl_act act = dl_act_hi(r, r->t, 1, 1, steps, temb);
    embed(r, u, t, time, of_step);
    if (u->cfg.noise_level) {
        dl_act of_level = dl_act_hi(r, DL_F32, 1, 1, 1, temb);
        embed(r, u, level, noise, of_level);
        add_to_rows(r, as_rows(of_step), of_level.p, as_rows(of_step));
    }
    for (int k = 0; k < conds; k++) { /* one by one, so that a condition's rows do not depend on the others */
        dl_act rows = dl_act_at(table + k * u->table_width, DL_F32, 1, 1, steps, (int32_t)u->table_width);
        rows.ld = (int32_t)u->table_width * conds;
        add_to_rows(r, as_rows(of_step), emb + (int64_t)k * temb, as_rows(sum));
        dl_op_copy(r, (struct dl_copy){.x = sum, .y = act, .fn = DL_GELU});
        for (int i = 0; i < u->cfg.levels; i++)
            level_rows(r, &u->down[i], act, rows), level_rows(r, &u->up[i], act, rows);
        for (int j = 0; j < 2; j++) rows_of(r, &u->mid_res[j], act, rows);
    }
    dl_arena_release_hi(&r->arena, m);
}
