#include "pipelines/flux.h"

#include <math.h>

static const float norm_eps = 1e-6f;

int64_t flux_table_bytes(const struct flux *f, int steps, int conds)
{
    return f->table_width * steps * conds * dl_type_bytes(DL_F32);
}

void flux_text(struct dl_run *r, struct flux *f, dl_act text, dl_act y)
{
    dl_op_gemm(r, (struct dl_gemm){.x = text, .y = y, .w = &f->context, .fine = true, .e = {.bias = &f->context_b}});
    dl_tap(r, y, "context_embedder");
}

/* The same rows n times. */
static dl_act repeat(dl_act a, int n)
{
    a.n = n, a.rs = 0;
    return a;
}

static dl_vec rows_vec(dl_act a) { return (dl_vec){.p = a.p, .rs = a.rs, .t = a.t}; }

/* silu(l1 sinusoid) of n numbers, as tokens [1][1][n][width]. */
static dl_act wave_hidden(struct dl_run *r, struct flux *f, struct flux_mlp *m, const float *t, int n)
{
    dl_act wave = dl_act_hi(r, r->t, n, 1, 1, FLUX_WAVE), hidden = dl_act_hi(r, r->t, 1, 1, n, f->cfg.width);
    dl_op_sinus(r, (struct dl_sinus){.t = t, .y = wave, .flip = true});
    wave.n = 1, wave.w = n;
    dl_op_gemm(
        r, (struct dl_gemm){.x = wave, .y = hidden, .w = &m->l1, .fine = true, .e = {.bias = &m->l1_b, .fn = DL_SILU}});
    return hidden;
}

/* silu(temb) [conds][1][steps][width]. */
static dl_act time_and_text(struct dl_run *r, struct flux *f, const float *t, int steps, const float *guide,
                            dl_act pooled)
{
    int d = f->cfg.width, conds = pooled.n;
    dl_act act = dl_act_hi(r, r->t, conds, 1, steps, d), hidden = dl_act_hi(r, r->t, conds, 1, 1, d),
           text = dl_act_hi(r, DL_F32, conds, 1, 1, d), temb = dl_act_hi(r, DL_F32, conds, 1, steps, d);
    dl_vec guided = {0};
    if (f->cfg.guidance) {
        dl_act h = wave_hidden(r, f, &f->guide, guide, 1), y = dl_act_hi(r, DL_F32, 1, 1, 1, d);
        dl_op_gemm(r, (struct dl_gemm){.x = h, .y = y, .w = &f->guide.l2, .fine = true, .e = {.bias = &f->guide.l2_b}});
        guided = (dl_vec){.p = y.p, .t = DL_F32};
    }
    dl_op_gemm(
        r,
        (struct dl_gemm){
            .x = pooled, .y = hidden, .w = &f->pooled.l1, .fine = true, .e = {.bias = &f->pooled.l1_b, .fn = DL_SILU}});
    dl_op_gemm(
        r,
        (struct dl_gemm){
            .x = hidden, .y = text, .w = &f->pooled.l2, .fine = true, .e = {.bias = &f->pooled.l2_b, .add = guided}});
    dl_act wave = wave_hidden(r, f, &f->time, t, steps);
    dl_op_gemm(r, (struct dl_gemm){.x = repeat(wave, conds),
                                   .y = temb,
                                   .w = &f->time.l2,
                                   .fine = true,
                                   .e = {.bias = &f->time.l2_b, .add = rows_vec(text)}});
    dl_tap(r, temb, "time_text_embed");
    dl_op_copy(r, (struct dl_copy){.x = temb, .y = act, .fn = DL_SILU});
    return act;
}

static void mod_rows(struct dl_run *r, dl_act emb, dl_act all, int64_t at, struct dl_w *w, struct dl_w *bias)
{
    dl_act y = dl_act_cols(all, (int32_t)at, (int32_t)w->dim[0]);
    dl_op_gemm(r, (struct dl_gemm){.x = emb, .y = y, .w = w, .fine = true, .e = {.bias = bias}});
}

void flux_steps(struct dl_run *r, struct flux *f, const float *t, int steps, const float *guide, dl_act pooled,
                float *table)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act emb = time_and_text(r, f, t, steps, guide, pooled),
           all = dl_act_at(table, DL_F32, pooled.n, 1, steps, (int32_t)f->table_width);
    for (int i = 0; i < f->cfg.doubles; i++) {
        struct flux_part *p[] = {&f->dbl[i].image, &f->dbl[i].text};
        dl_stage(r, i);
        for (int j = 0; j < 2; j++) mod_rows(r, emb, all, p[j]->mod_at, &p[j]->mod, &p[j]->mod_b);
    }
    for (int i = 0; i < f->cfg.singles; i++) {
        dl_stage(r, f->cfg.doubles + i);
        mod_rows(r, emb, all, f->sgl[i].mod_at, &f->sgl[i].mod, &f->sgl[i].mod_b);
    }
    dl_stage(r, f->cfg.doubles + f->cfg.singles);
    mod_rows(r, emb, all, f->head_at, &f->head, &f->head_b);
    dl_tap(r, all, "modulation");
    dl_arena_release_hi(&r->arena, m);
}

/* One step. The buffers live through it: the joint stream and what every block overwrites. */
struct pass {
    struct dl_run *r;
    struct flux *f;
    int text;   /* tokens of the text */
    dl_vec mod; /* the table's rows of this step: columns begin at mod.p */
    const float *rope;
    dl_act h, norm, qkv; /* [R][1][L][width], the same, [R][1][L][3 width] */
};

/* Tokens [from, from + n) of every row. */
static dl_act span(dl_act a, int32_t from, int32_t n)
{
    if (a.p) a.p = (uint8_t *)a.p + (int64_t)from * a.ld * dl_type_bytes(a.t);
    a.w = n;
    return a;
}

/* Piece i, a width long, of the modulation that begins at column `at`. */
static dl_vec mod_of(const struct pass *p, int64_t at, int i)
{
    dl_vec v = p->mod;
    v.p = (const float *)v.p + at + (int64_t)i * p->f->cfg.width;
    return v;
}

static void modulated_norm(struct pass *p, dl_act x, dl_act y, dl_vec scale, dl_vec shift)
{
    dl_op_lnorm(p->r, (struct dl_lnorm){.x = x, .y = y, .eps = norm_eps, .scale = scale, .shift = shift});
}

/* q and k of the span of tokens that begins at `from`: norm of each head, then its position. */
static void place_heads(struct pass *p, int32_t from, int32_t n, struct dl_w *q_g, struct dl_w *k_g)
{
    const struct flux_config *c = &p->f->cfg;
    dl_act qk = span(dl_act_cols(p->qkv, 0, 2 * c->width), from, n);
    dl_op_rope(p->r, (struct dl_rope){.x = qk,
                                      .y = qk,
                                      .heads = 2 * c->heads,
                                      .gamma = {q_g, k_g},
                                      .eps = norm_eps,
                                      .table = p->rope + (int64_t)from * c->head_dim});
}

static void attend(struct pass *p, dl_act y)
{
    int d = p->f->cfg.width;
    dl_op_attn(p->r, (struct dl_attn){.q = dl_act_cols(p->qkv, 0, d),
                                      .k = dl_act_cols(p->qkv, d, d),
                                      .v = dl_act_cols(p->qkv, 2 * d, d),
                                      .y = y,
                                      .heads = p->f->cfg.heads,
                                      .scale = 1 / sqrtf((float)p->f->cfg.head_dim)});
}

static void part_before(struct pass *p, struct flux_part *b, int32_t from, int32_t n)
{
    dl_act norm = span(p->norm, from, n);
    modulated_norm(p, span(p->h, from, n), norm, mod_of(p, b->mod_at, 1), mod_of(p, b->mod_at, 0));
    dl_op_gemm(p->r, (struct dl_gemm){.x = norm, .y = span(p->qkv, from, n), .w = &b->qkv, .e = {.bias = &b->qkv_b}});
    place_heads(p, from, n, &b->q_g, &b->k_g);
}

static void part_after(struct pass *p, struct flux_part *b, int32_t from, int32_t n)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act h = span(p->h, from, n), norm = span(p->norm, from, n),
           wide = dl_act_hi(r, r->t, h.n, 1, n, 4 * p->f->cfg.width);
    dl_op_gemm(
        r, (struct dl_gemm){
               .x = norm, .y = h, .w = &b->out, .e = {.bias = &b->out_b, .gate = mod_of(p, b->mod_at, 2), .res = h}});
    modulated_norm(p, h, norm, mod_of(p, b->mod_at, 4), mod_of(p, b->mod_at, 3));
    dl_op_gemm(r, (struct dl_gemm){.x = norm, .y = wide, .w = &b->ff1, .e = {.bias = &b->ff1_b, .fn = DL_GELU_TANH}});
    dl_op_gemm(
        r, (struct dl_gemm){
               .x = wide, .y = h, .w = &b->ff2, .e = {.bias = &b->ff2_b, .gate = mod_of(p, b->mod_at, 5), .res = h}});
    dl_arena_release_hi(&r->arena, m);
}

static void tap_stream(struct pass *p, const char *list, int i)
{
    dl_tap(p->r, span(p->h, 0, p->text), "%s.%d.text", list, i);
    dl_tap(p->r, span(p->h, p->text, p->h.w - p->text), "%s.%d.image", list, i);
}

static void run_double(struct pass *p, int i)
{
    struct flux_double *b = &p->f->dbl[i];
    int32_t text = p->text, image = p->h.w - text;
    dl_stage(p->r, i);
    part_before(p, &b->text, 0, text);
    part_before(p, &b->image, text, image);
    attend(p, p->norm);
    dl_tap(p->r, p->norm, "transformer_blocks.%d.attn", i);
    part_after(p, &b->text, 0, text);
    part_after(p, &b->image, text, image);
    tap_stream(p, "transformer_blocks", i);
}

static void run_single(struct pass *p, int i)
{
    struct dl_run *r = p->r;
    struct flux_single *b = &p->f->sgl[i];
    struct dl_mark m = dl_arena_mark(&r->arena);
    int d = p->f->cfg.width;
    dl_act both = dl_act_hi(r, r->t, p->h.n, 1, p->h.w, 5 * d); /* [attention | mlp] */
    dl_stage(r, p->f->cfg.doubles + i);
    modulated_norm(p, p->h, p->norm, mod_of(p, b->mod_at, 1), mod_of(p, b->mod_at, 0));
    dl_op_gemm(r, (struct dl_gemm){.x = p->norm, .y = p->qkv, .w = &b->qkv, .e = {.bias = &b->qkv_b}});
    place_heads(p, 0, p->h.w, &b->q_g, &b->k_g);
    dl_op_gemm(r, (struct dl_gemm){.x = p->norm,
                                   .y = dl_act_cols(both, d, 4 * d),
                                   .w = &b->mlp,
                                   .e = {.bias = &b->mlp_b, .fn = DL_GELU_TANH}});
    attend(p, dl_act_cols(both, 0, d));
    dl_tap(r, both, "single_transformer_blocks.%d.branches", i);
    dl_op_gemm(r, (struct dl_gemm){.x = both,
                                   .y = p->h,
                                   .w = &b->out,
                                   .e = {.bias = &b->out_b, .gate = mod_of(p, b->mod_at, 2), .res = p->h}});
    tap_stream(p, "single_transformer_blocks", i);
    dl_arena_release_hi(&r->arena, m);
}

/* The rows' modulation in this step. */
static dl_vec pick_mod(struct dl_run *r, const struct flux *f, const struct flux_rows *rows)
{
    dl_vec all = {.p = rows->table, .rs = rows->steps * f->table_width, .ss = f->table_width, .t = DL_F32};
    if (rows->table_conds == 1) {
        all.rs = 0;
        return all;
    }
    dl_act mine = dl_act_hi(r, DL_F32, rows->n, 1, 1, (int32_t)f->table_width);
    dl_op_pick(r, (struct dl_pick){.table = all, .row = rows->cond_row, .y = mine});
    return rows_vec(mine);
}

/* x_embedder of each latent once, to every row that has it. */
static void embed_image(struct pass *p, dl_act x, const struct flux_rows *rows)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act to = span(p->h, p->text, x.w), y = to;
    bool same = rows->n == x.n;
    for (int i = 0; same && i < rows->n; i++) same = rows->lat_row[i] == i;
    if (!same) y = dl_act_hi(r, to.t, x.n, 1, x.w, to.c);
    dl_op_gemm(r, (struct dl_gemm){.x = x, .y = y, .w = &p->f->x, .fine = true, .e = {.bias = &p->f->x_b}});
    if (!same) dl_op_copy(r, (struct dl_copy){.x = y, .y = to, .row = rows->lat_row});
    dl_tap(r, to, "x_embedder");
    dl_arena_release_hi(&r->arena, m);
}

void flux_step(struct dl_run *r, struct flux *f, dl_act x, const struct flux_rows *rows, dl_act y)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    int d = f->cfg.width, tokens = rows->text.w, all = tokens + x.h * x.w;
    struct pass p = {.r = r, .f = f, .text = tokens, .rope = rows->rope};
    p.h = dl_act_hi(r, r->t == DL_F16 ? DL_F32 : r->t, rows->n, 1, all, d);
    p.norm = dl_act_hi(r, r->t, rows->n, 1, all, d);
    p.qkv = dl_act_hi(r, r->t, rows->n, 1, all, 3 * d);
    p.mod = pick_mod(r, f, rows);
    dl_op_copy(r, (struct dl_copy){.x = rows->text, .y = span(p.h, 0, tokens), .row = rows->cond_row});
    embed_image(&p, dl_act_tokens(x), rows);
    for (int i = 0; i < f->cfg.doubles; i++) run_double(&p, i);
    for (int i = 0; i < f->cfg.singles; i++) run_single(&p, i);
    dl_act h = span(p.h, tokens, x.h * x.w), norm = span(p.norm, tokens, x.h * x.w);
    modulated_norm(&p, h, norm, mod_of(&p, f->head_at, 0), mod_of(&p, f->head_at, 1));
    dl_op_gemm(
        r, (struct dl_gemm){.x = norm, .y = dl_act_tokens(y), .w = &f->out, .fine = true, .e = {.bias = &f->out_b}});
    dl_arena_release(&r->arena, m);
}
