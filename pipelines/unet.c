#include "pipelines/unet.h"

#include <math.h>

struct pass {
    struct dl_run *r;
    struct unet *u;
    const struct unet_rows *rows;
    dl_vec temb; /* [rows][table_width], the step table's row of each row */
    struct unet_skips skips;
};

int64_t unet_kv_bytes(const struct unet *u, int conds, int tokens, int type)
{
    return u->kv_width * conds * tokens * dl_type_bytes(type);
}

int64_t unet_table_bytes(const struct unet *u, int steps) { return u->table_width * steps * dl_type_bytes(DL_F32); }

/* K and V [conds][1][tokens][2c] of one cross attention inside the K/V buffer. */
static dl_act kv_of(const struct unet_block *k, const void *kv, int c, int rows, int tokens, int type)
{
    uint8_t *p = (uint8_t *)(uintptr_t)kv + k->kv_at * rows * tokens * dl_type_bytes(type);
    return dl_act_at(p, type, rows, 1, tokens, 2 * c);
}

static void text_of(struct dl_run *r, struct unet_attn *a, dl_act text, void *kv)
{
    for (int i = 0; i < a->depth; i++)
        dl_op_gemm(r, (struct dl_gemm){
                          .x = text, .y = kv_of(&a->block[i], kv, a->c, text.n, text.w, r->t), .w = &a->block[i].kv});
}

void unet_text(struct dl_run *r, struct unet *u, dl_act text, void *kv)
{
    for (int i = 0; i < u->cfg.levels; i++)
        for (int j = 0; u->down[i].cross && j < u->down[i].n; j++) text_of(r, &u->down[i].attn[j], text, kv);
    text_of(r, &u->mid_attn, text, kv);
    for (int i = 0; i < u->cfg.levels; i++)
        for (int j = 0; u->up[i].cross && j < u->up[i].n; j++) text_of(r, &u->up[i].attn[j], text, kv);
}

/* The columns of one resnet in the step table, from the activated embedding of all steps. */
static void resnet_rows(struct dl_run *r, struct unet_resnet *n, dl_act emb, dl_act all)
{
    dl_op_gemm(
        r, (struct dl_gemm){
               .x = emb, .y = dl_act_cols(all, (int32_t)n->temb_at, n->out), .w = &n->temb, .e = {.bias = &n->temb_b}});
}

/* table [emb.n][emb.w][table_width]: every resnet's row from the activated embedding [n][1][steps][4 c0]. */
static void all_rows(struct dl_run *r, struct unet *u, dl_act emb, float *table)
{
    dl_act all = dl_act_at(table, DL_F32, emb.n, 1, emb.w, (int32_t)u->table_width);
    for (int i = 0; i < u->cfg.levels; i++) {
        for (int j = 0; j < u->down[i].n; j++) resnet_rows(r, &u->down[i].resnet[j], emb, all);
        for (int j = 0; j < u->up[i].n; j++) resnet_rows(r, &u->up[i].resnet[j], emb, all);
    }
    for (int j = 0; j < 2; j++) resnet_rows(r, &u->mid_res[j], emb, all);
}

/* silu(linear_1(sinusoids of the timesteps)) [1][1][steps][4 c0]. */
static dl_act time_hidden(struct dl_run *r, struct unet *u, const float *t, int steps)
{
    int c0 = u->cfg.channels[0];
    dl_act wave = dl_act_hi(r, r->t, 1, 1, steps, c0), hidden = dl_act_hi(r, r->t, 1, 1, steps, 4 * c0);
    dl_act each = wave; /* the sinusoid op counts timesteps as rows */
    each.n = steps, each.w = 1, each.rs = each.ld;
    dl_op_sinus(r, (struct dl_sinus){.t = t, .y = each, .flip = u->cfg.flip_sin_cos, .shift = u->cfg.freq_shift});
    dl_op_gemm(r, (struct dl_gemm){.x = wave, .y = hidden, .w = &u->time1, .e = {.bias = &u->time1_b, .fn = DL_SILU}});
    return hidden;
}

void unet_steps(struct dl_run *r, struct unet *u, const float *t, int steps, float *table)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act hidden = time_hidden(r, u, t, steps), emb = dl_act_hi(r, r->t, 1, 1, steps, hidden.c);
    /* Every resnet takes silu(emb), so it is applied once, here. */
    dl_op_gemm(r, (struct dl_gemm){.x = hidden, .y = emb, .w = &u->time2, .e = {.bias = &u->time2_b, .fn = DL_SILU}});
    all_rows(r, u, emb, table);
    dl_arena_release_hi(&r->arena, m);
}

/* The added embedding of each condition [n][1][1][4 c0] f32: an MLP over the pooled vector and the sizes' sinusoids. */
static dl_act added_of(struct dl_run *r, struct unet *u, dl_act pooled, const float sizes[UNET_SIZES])
{
    const struct unet_config *c = &u->cfg;
    int wide = UNET_SIZES * c->time_ids_width, temb = 4 * c->channels[0];
    dl_act out = dl_act_hi(r, DL_F32, pooled.n, 1, 1, temb), hidden = dl_act_hi(r, r->t, pooled.n, 1, 1, temb);
    dl_act in = dl_act_hi(r, r->t, pooled.n, 1, 1, c->pooled + wide),
           wave = dl_act_hi(r, r->t, UNET_SIZES, 1, 1, c->time_ids_width), waves = wave;
    dl_op_sinus(r, (struct dl_sinus){.t = sizes, .y = wave, .flip = c->flip_sin_cos, .shift = c->freq_shift});
    waves.n = 1, waves.c = waves.ld = wide; /* the sizes side by side, the same for all conditions */
    dl_op_copy(r, (struct dl_copy){.x = pooled, .y = dl_act_cols(in, 0, c->pooled)});
    dl_op_copy(r, (struct dl_copy){.x = waves, .y = dl_act_cols(in, c->pooled, wide)});
    dl_op_gemm(r, (struct dl_gemm){.x = in, .y = hidden, .w = &u->add1, .e = {.bias = &u->add1_b, .fn = DL_SILU}});
    dl_op_gemm(r, (struct dl_gemm){.x = hidden, .y = out, .w = &u->add2, .e = {.bias = &u->add2_b}});
    return out;
}

void unet_steps_added(struct dl_run *r, struct unet *u, const float *t, int steps, dl_act pooled,
                      const float sizes[UNET_SIZES], float *table)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act hidden = time_hidden(r, u, t, steps), added = added_of(r, u, pooled, sizes);
    dl_act emb = dl_act_hi(r, r->t, pooled.n, 1, steps, hidden.c);
    hidden.n = pooled.n, hidden.rs = 0; /* the same timesteps for every condition */
    dl_op_gemm(r, (struct dl_gemm){.x = hidden,
                                   .y = emb,
                                   .w = &u->time2,
                                   .e = {.bias = &u->time2_b, .add = {.p = added.p, .rs = added.rs, .t = added.t}}});
    dl_op_copy(r, (struct dl_copy){.x = emb, .y = emb, .fn = DL_SILU});
    all_rows(r, u, emb, table);
    dl_arena_release_hi(&r->arena, m);
}

static struct dl_stat norm_of(struct dl_run *r, const struct unet *u, dl_act x, struct dl_w *g, struct dl_w *b,
                              float eps)
{
    return dl_op_gnorm(r, (struct dl_gnorm){.x = x, .groups = u->cfg.groups, .eps = eps, .gamma = g, .beta = b});
}

/* ResnetBlock2D: y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1 x)) + temb))). y does not overlap x. */
static void run_resnet(struct pass *p, struct unet_resnet *n, dl_act x, dl_act y)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act h = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, n->out)), res = x;
    struct dl_stat s = norm_of(r, p->u, x, &n->n1_g, &n->n1_b, p->u->cfg.eps);
    dl_vec temb = p->temb;
    temb.p = (const float *)temb.p + n->temb_at;
    dl_op_conv(r, (struct dl_conv){.x = x,
                                   .y = h,
                                   .w = &n->conv1,
                                   .k = 3,
                                   .pre = s,
                                   .pre_fn = DL_SILU,
                                   .e = {.bias = &n->conv1_b, .add = temb}});
    s = norm_of(r, p->u, h, &n->n2_g, &n->n2_b, p->u->cfg.eps);
    if (n->in != n->out) {
        res = dl_parts_none(y);
        dl_op_conv(r, (struct dl_conv){.x = x, .y = res, .w = &n->shortcut, .k = 1, .e = {.bias = &n->shortcut_b}});
    }
    dl_op_conv(r, (struct dl_conv){.x = h,
                                   .y = y,
                                   .w = &n->conv2,
                                   .k = 3,
                                   .pre = s,
                                   .pre_fn = DL_SILU,
                                   .e = {.bias = &n->conv2_b, .res = res}});
    dl_arena_release_hi(&r->arena, m);
}

static void layer_norm(struct dl_run *r, dl_act x, dl_act y, struct dl_w *g, struct dl_w *b)
{
    dl_op_lnorm(r, (struct dl_lnorm){.x = x, .y = y, .gamma = g, .beta = b, .eps = 1e-5f});
}

static void self_attention(struct dl_run *r, const struct unet_attn *a, struct unet_block *k, dl_act t)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    int c = a->c;
    dl_act norm = dl_act_hi(r, r->t, t.n, 1, t.w, c), qkv = dl_act_hi(r, r->t, t.n, 1, t.w, 3 * c);
    layer_norm(r, t, norm, &k->ln1_g, &k->ln1_b);
    dl_op_gemm(r, (struct dl_gemm){.x = norm, .y = qkv, .w = &k->qkv});
    dl_op_attn(r, (struct dl_attn){.q = dl_act_cols(qkv, 0, c),
                                   .k = dl_act_cols(qkv, c, c),
                                   .v = dl_act_cols(qkv, 2 * c, c),
                                   .y = norm,
                                   .heads = a->heads,
                                   .scale = 1 / sqrtf((float)(c / a->heads))});
    dl_op_gemm(r, (struct dl_gemm){.x = norm, .y = t, .w = &k->out1, .e = {.bias = &k->out1_b, .res = t}});
    dl_arena_release_hi(&r->arena, m);
}

/* all += attention of t's queries over the text; t has all's rows, or the latents' rows (then `expand` maps all's rows
 * to t's, and all is filled with the expanded t first). */
static void cross_attention(struct pass *p, const struct unet_attn *a, struct unet_block *k, dl_act t, dl_act all,
                            const int32_t *expand)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    int c = a->c;
    dl_act q = dl_act_hi(r, r->t, all.n, 1, all.w, c), norm = dl_act_hi(r, r->t, all.n, 1, all.w, c);
    if (expand) {
        dl_act few = dl_act_rows(norm, 0, t.n), few_q = dl_act_hi(r, r->t, t.n, 1, t.w, c);
        layer_norm(r, t, few, &k->ln2_g, &k->ln2_b);
        dl_op_gemm(r, (struct dl_gemm){.x = few, .y = few_q, .w = &k->q});
        dl_op_copy(r, (struct dl_copy){.x = few_q, .y = q, .row = expand});
        dl_op_copy(r, (struct dl_copy){.x = t, .y = all, .row = expand});
    } else {
        layer_norm(r, all, norm, &k->ln2_g, &k->ln2_b);
        dl_op_gemm(r, (struct dl_gemm){.x = norm, .y = q, .w = &k->q});
    }
    dl_act kv = kv_of(k, p->rows->kv, c, p->rows->conds, p->rows->tokens, r->t);
    dl_op_attn(r, (struct dl_attn){.q = q,
                                   .k = dl_act_cols(kv, 0, c),
                                   .v = dl_act_cols(kv, c, c),
                                   .y = norm,
                                   .heads = a->heads,
                                   .scale = 1 / sqrtf((float)(c / a->heads)),
                                   .kv_row = p->rows->cond_row});
    dl_op_gemm(r, (struct dl_gemm){.x = norm, .y = all, .w = &k->out2, .e = {.bias = &k->out2_b, .res = all}});
    dl_arena_release_hi(&r->arena, m);
}

static void feed_forward(struct dl_run *r, int c, struct unet_block *k, dl_act t)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act wide = dl_act_hi(r, r->t, t.n, 1, t.w, 4 * c), norm = dl_act_hi(r, r->t, t.n, 1, t.w, c);
    layer_norm(r, t, norm, &k->ln3_g, &k->ln3_b);
    dl_op_gemm(
        r, (struct dl_gemm){.x = norm, .y = wide, .w = &k->ff1, .e = {.bias = &k->ff1_b, .fn = DL_GELU, .glu = true}});
    dl_op_gemm(r, (struct dl_gemm){.x = wide, .y = t, .w = &k->ff2, .e = {.bias = &k->ff2_b, .res = t}});
    dl_arena_release_hi(&r->arena, m);
}

/* Transformer2DModel: y = x + proj_out(blocks(proj_in(norm x))). With `expand`, x has the latents' rows and y all rows.
 */
static void run_attn(struct pass *p, struct unet_attn *a, dl_act x, dl_act y, const int32_t *expand)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act all = dl_act_hi(r, r->t, y.n, y.h, y.w, a->c), t = all, res = x;
    if (expand) t = dl_act_hi(r, r->t, x.n, x.h, x.w, a->c);
    struct dl_stat s = norm_of(r, p->u, x, &a->n_g, &a->n_b, 1e-6f);
    dl_op_conv(r, (struct dl_conv){.x = x, .y = t, .w = &a->in, .k = 1, .pre = s, .e = {.bias = &a->in_b}});
    for (int i = 0; i < a->depth; i++) {
        self_attention(r, a, &a->block[i], dl_act_tokens(t));
        cross_attention(p, a, &a->block[i], dl_act_tokens(t), dl_act_tokens(all), i == 0 ? expand : NULL);
        t = all;
        feed_forward(r, a->c, &a->block[i], dl_act_tokens(t));
    }
    if (expand) {
        res = dl_parts_none(y);
        dl_op_copy(r, (struct dl_copy){.x = x, .y = res, .row = expand});
    }
    dl_op_conv(r, (struct dl_conv){.x = t, .y = y, .w = &a->out, .k = 1, .e = {.bias = &a->out_b, .res = res}});
    dl_arena_release_hi(&r->arena, m);
}

static void pass_open(struct pass *p)
{
    const struct unet *u = p->u;
    for (int i = 0; i < u->cfg.levels; i++)
        for (int j = 0; j < u->up[i].n; j++) p->skips.up_in[p->skips.n_ups++] = u->up[i].resnet[j].in;
}

/* The way down: returns the last activation, which is the last skip. `x` is the latent. */
static dl_act run_down(struct pass *p, dl_act x, const int32_t *expand)
{
    struct dl_run *r = p->r;
    struct unet *u = p->u;
    const int R = p->rows->n, c0 = u->cfg.channels[0];
    struct dl_mark m = dl_arena_mark(&r->arena);

    dl_act all = unet_skip_push(&p->skips, R, x.h, x.w, c0), h = all;
    if (expand) h = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, c0));
    dl_op_conv(r, (struct dl_conv){.x = x, .y = h, .w = &u->conv_in, .k = 3, .e = {.bias = &u->conv_in_b}});
    dl_tap(r, h, "conv_in");
    if (expand) dl_op_copy(r, (struct dl_copy){.x = h, .y = all, .row = expand});
    if (expand && (!u->down[0].cross || p->rows->table_steps)) {
        h = all, expand = NULL;
        dl_arena_release_hi(&r->arena, m);
    }

    for (int i = 0; i < u->cfg.levels; i++) {
        struct unet_level *l = &u->down[i];
        int c = u->cfg.channels[i];
        for (int j = 0; j < l->n; j++) {
            dl_act y = unet_skip_push(&p->skips, R, h.h, h.w, c);
            if (l->cross) {
                struct dl_mark inner = dl_arena_mark(&r->arena);
                dl_act t = dl_parts_hi(r, dl_act_hi(r, r->t, h.n, h.h, h.w, c));
                run_resnet(p, &l->resnet[j], h, t);
                dl_tap(r, t, "down_blocks.%d.resnets.%d", i, j);
                run_attn(p, &l->attn[j], t, y, expand);
                dl_tap(r, y, "down_blocks.%d.attentions.%d", i, j);
                dl_arena_release_hi(&r->arena, inner);
                if (expand) dl_arena_release_hi(&r->arena, m);
                expand = NULL;
            } else {
                run_resnet(p, &l->resnet[j], h, y);
                dl_tap(r, y, "down_blocks.%d.resnets.%d", i, j);
            }
            h = y;
        }
        if (!l->sampler) continue;
        dl_act y = unet_skip_push(&p->skips, R, (h.h + 1) / 2, (h.w + 1) / 2, c);
        dl_op_conv(r,
                   (struct dl_conv){.x = h, .y = y, .w = &l->sample, .k = 3, .stride = 2, .e = {.bias = &l->sample_b}});
        dl_tap(r, y, "down_blocks.%d.downsamplers.0", i);
        h = y;
    }
    return h;
}

static void run_mid(struct pass *p, dl_act x)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act a = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, x.c)),
           b = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, x.c)), y = unet_skip_head(&p->skips);
    run_resnet(p, &p->u->mid_res[0], x, a);
    dl_tap(r, a, "mid_block.resnets.0");
    run_attn(p, &p->u->mid_attn, a, b, NULL);
    dl_tap(r, b, "mid_block.attentions.0");
    run_resnet(p, &p->u->mid_res[1], b, y);
    dl_tap(r, y, "mid_block.resnets.1");
    dl_arena_release_hi(&r->arena, m);
}

/* One up resnet with its transformer: reads the skip's buffer and gives it back before the transformer runs. */
static void run_up_layer(struct pass *p, int i, int j, const struct unet_skip *s, dl_act y)
{
    struct dl_run *r = p->r;
    struct unet_level *l = &p->u->up[i];
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act t = l->cross ? dl_parts_hi(r, dl_act_hi(r, r->t, y.n, y.h, y.w, y.c)) : y;
    run_resnet(p, &l->resnet[j], s->both, t);
    dl_tap(r, t, "up_blocks.%d.resnets.%d", i, j);
    dl_arena_release_lo(&r->arena, s->before);
    if (l->cross) {
        run_attn(p, &l->attn[j], t, y, NULL);
        dl_tap(r, y, "up_blocks.%d.attentions.%d", i, j);
    }
    dl_arena_release_hi(&r->arena, m);
}

/* The way up; returns the last level's output, at the arena's high end. */
static dl_act run_up(struct pass *p)
{
    struct dl_run *r = p->r;
    struct unet *u = p->u;
    dl_act y = {0};
    for (int i = 0; i < u->cfg.levels; i++) {
        struct unet_level *l = &u->up[i];
        struct dl_mark m = dl_arena_mark(&r->arena);
        for (int j = 0; j < l->n; j++) {
            const struct unet_skip s = unet_skip_pop(&p->skips);
            const dl_act x = s.both;
            bool last = j + 1 == l->n;
            y = last ? dl_act_hi(r, r->t, x.n, x.h, x.w, l->resnet[j].out) : unet_skip_head(&p->skips);
            if (last && !l->sampler) y = dl_parts_hi(r, y); /* an upsampler has no norm */
            run_up_layer(p, i, j, &s, y);
        }
        if (!l->sampler) continue; /* the last level: y stays for conv_out */
        dl_act to = unet_skip_head(&p->skips);
        dl_op_conv(r,
                   (struct dl_conv){.x = y, .y = to, .w = &l->sample, .k = 3, .up = true, .e = {.bias = &l->sample_b}});
        dl_tap(r, to, "up_blocks.%d.upsamplers.0", i);
        dl_arena_release_hi(&r->arena, m);
    }
    return y;
}

/* Where each condition has its own step table, this step's rows are taken out of them first. */
static dl_vec temb_of(struct pass *p)
{
    const struct unet_rows *rows = p->rows;
    int64_t width = p->u->table_width;
    if (!rows->table_steps) return (dl_vec){.p = rows->table, .ss = width, .t = DL_F32};
    dl_act picked = dl_act_hi(p->r, DL_F32, rows->n, 1, 1, (int32_t)width);
    dl_op_pick(p->r,
               (struct dl_pick){.table = {.p = rows->table, .rs = width * rows->table_steps, .ss = width, .t = DL_F32},
                                .row = rows->cond_row,
                                .y = picked});
    return (dl_vec){.p = picked.p, .rs = width, .t = DL_F32};
}

void unet_step(struct dl_run *r, struct unet *u, dl_act x, const struct unet_rows *rows, dl_act y)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    struct pass p = {.r = r, .u = u, .rows = rows, .skips.r = r};
    bool same = rows->n == x.n;
    for (int i = 0; same && i < rows->n; i++) same = rows->lat_row[i] == i;
    pass_open(&p);
    p.temb = temb_of(&p);
    dl_act h = run_down(&p, x, same ? NULL : rows->lat_row);
    run_mid(&p, h);
    h = run_up(&p);
    struct dl_stat s = norm_of(r, u, h, &u->out_g, &u->out_b, u->cfg.eps);
    dl_op_conv(
        r, (struct dl_conv){
               .x = h, .y = y, .w = &u->conv_out, .k = 3, .pre = s, .pre_fn = DL_SILU, .e = {.bias = &u->conv_out_b}});
    dl_tap(r, y, "conv_out");
    dl_arena_release(&r->arena, m);
}
