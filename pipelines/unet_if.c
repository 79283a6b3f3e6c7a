#include "pipelines/unet_if.h"

#include <math.h>

struct pass {
    struct dl_run *r;
    struct unet_if *u;
    const struct unet_if_rows *rows;
    struct unet_skips skips;
    dl_act picked; /* [R][1][1][table_width] f32: this step's scales and shifts of each row */
};

int unet_if_multiple(const struct unet_if_config *c) { return 1 << (c->levels - 1); }

static struct dl_stat norm_of(struct pass *p, dl_act x, struct dl_w *g, struct dl_w *b, float eps)
{
    return dl_op_gnorm(p->r, (struct dl_gnorm){.x = x, .groups = p->u->cfg.groups, .eps = eps, .gamma = g, .beta = b});
}

/* s with the scale and shift that the time embedding gives resnet n. */
static struct dl_stat modulated(const struct pass *p, const struct unet_if_resnet *n, struct dl_stat s)
{
    const float *at = (const float *)p->picked.p + n->row_at;
    s.scale = (dl_vec){.p = at, .rs = p->u->table_width, .t = DL_F32};
    s.shift = (dl_vec){.p = at + n->out, .rs = p->u->table_width, .t = DL_F32};
    return s;
}

/* h = conv1(gelu(norm1 x)), and the statistics of its norm2. With up, x is enlarged to h's size before conv1. */
static struct dl_stat resnet_in(struct pass *p, struct unet_if_resnet *n, dl_act x, dl_act h, bool up)
{
    struct dl_stat s = norm_of(p, x, &n->n1_g, &n->n1_b, p->u->cfg.eps);
    dl_op_conv(
        p->r,
        (struct dl_conv){
            .x = x, .y = h, .w = &n->conv1, .k = 3, .up = up, .pre = s, .pre_fn = DL_GELU, .e = {.bias = &n->conv1_b}});
    return norm_of(p, h, &n->n2_g, &n->n2_b, p->u->cfg.eps);
}

/* y = (res + conv2(gelu(norm2(h) (1 + scale) + shift))) / divisor. res may be y. */
static void resnet_out(struct pass *p, struct unet_if_resnet *n, dl_act h, struct dl_stat s, dl_act res, dl_act y,
                       float divisor)
{
    dl_op_conv(p->r, (struct dl_conv){.x = h,
                                      .y = y,
                                      .w = &n->conv2,
                                      .k = 3,
                                      .pre = modulated(p, n, s),
                                      .pre_fn = DL_GELU,
                                      .e = {.bias = &n->conv2_b, .res = res, .scale = 1 / divisor}});
}

/* ResnetBlock2D. y does not overlap x. */
static void run_resnet(struct pass *p, struct unet_if_resnet *n, dl_act x, dl_act y, float divisor)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act h = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, n->out)), res = x;
    struct dl_stat s = resnet_in(p, n, x, h, false);
    if (n->in != n->out) {
        res = dl_parts_none(y);
        dl_op_conv(r, (struct dl_conv){.x = x, .y = res, .w = &n->shortcut, .k = 1, .e = {.bias = &n->shortcut_b}});
    }
    resnet_out(p, n, h, s, res, y, divisor);
    dl_arena_release_hi(&r->arena, m);
}

/* The first resnet for rows that share latents: up to the statistics of norm2 on x [latents], from there on all rows.
 * all: x expanded by the map `expand`. */
static void run_shared_resnet(struct pass *p, struct unet_if_resnet *n, dl_act x, dl_act all, const int32_t *expand,
                              dl_act y)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    const int groups = p->u->cfg.groups;
    dl_act few = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, n->out));
    dl_act h = dl_act_hi(r, r->t, y.n, y.h, y.w, n->out);
    dl_act stats = dl_act_hi(r, DL_F32, y.n, 1, 1, 2 * groups);
    struct dl_stat s = resnet_in(p, n, x, few, false);
    dl_op_copy(r, (struct dl_copy){.x = few, .y = h, .row = expand});
    dl_act of_few = dl_act_at((void *)(uintptr_t)s.mean_rstd, DL_F32, x.n, 1, 1, 2 * groups);
    dl_op_copy(r, (struct dl_copy){.x = of_few, .y = stats, .row = expand});
    s.mean_rstd = stats.p;
    resnet_out(p, n, h, s, all, y, p->u->cfg.out_scale);
    dl_arena_release_hi(&r->arena, m);
}

/* A resnet as sampler, to y's size: both branches are enlarged (nearest), or averaged over 2x2, after norm1 and its
 * activation. y does not overlap x. */
static void run_sampler(struct pass *p, struct unet_if_resnet *n, dl_act x, dl_act y, bool up)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act h = dl_parts_hi(r, dl_act_hi(r, r->t, y.n, y.h, y.w, n->out)), res = dl_parts_none(y);
    struct dl_stat s;
    if (up) {
        s = resnet_in(p, n, x, h, true);
    } else {
        dl_act half = dl_act_hi(r, r->t, y.n, y.h, y.w, n->in);
        struct dl_mark inner = dl_arena_mark(&r->arena);
        dl_act whole = dl_act_hi(r, r->t, x.n, x.h, x.w, n->in);
        s = norm_of(p, x, &n->n1_g, &n->n1_b, p->u->cfg.eps);
        dl_op_norm(r, (struct dl_norm){.x = x, .y = whole, .s = s, .fn = DL_GELU});
        dl_op_resize(r, (struct dl_resize){.x = whole, .y = half, .kind = DL_RESIZE_MEAN2});
        dl_arena_release_hi(&r->arena, inner);
        dl_op_conv(r, (struct dl_conv){.x = half, .y = h, .w = &n->conv1, .k = 3, .e = {.bias = &n->conv1_b}});
        s = norm_of(p, h, &n->n2_g, &n->n2_b, p->u->cfg.eps);
    }
    dl_op_resize(r, (struct dl_resize){.x = x, .y = res, .kind = up ? DL_RESIZE_NEAREST : DL_RESIZE_MEAN2});
    resnet_out(p, n, h, s, res, y, p->u->cfg.out_scale);
    dl_arena_release_hi(&r->arena, m);
}

/* y = x + out(attention of the pixels over [text | pixels]).
 *
 * q, k, v of the pixels are one GEMM's columns, behind room for the text's tokens, into which their K and V are copied:
 * 2 c values for each of 77 tokens, row and step (IF-I-L: 6.6 MB a row in f16 over all layers), which is little beside
 * what an attention over two ranges of keys would ask of every backend. */
static void run_attn(struct pass *p, struct unet_if_attn *a, dl_act x, dl_act y)
{
    struct dl_run *r = p->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    const int c = a->c, tokens = p->rows->tokens, heads = c / p->u->cfg.head_dim;
    dl_act out = dl_act_hi(r, r->t, x.n, 1, x.h * x.w, c);
    dl_act joint = dl_act_hi(r, r->t, x.n, 1, tokens + x.h * x.w, 3 * c), text = joint, image = joint;
    if (!dl_run_ok(r)) return;
    text.w = tokens;
    image.p = (uint8_t *)joint.p + (int64_t)tokens * 3 * c * dl_type_bytes(r->t);
    image.h = x.h, image.w = x.w;
    struct dl_stat s = norm_of(p, x, &a->n_g, &a->n_b, 1e-5f);
    dl_op_conv(r, (struct dl_conv){.x = x, .y = image, .w = &a->qkv, .k = 1, .pre = s, .e = {.bias = &a->qkv_b}});
    dl_op_copy(r, (struct dl_copy){.x = unet_if_kv_of(a, p->rows->kv, p->rows->conds, tokens, r->t),
                                   .y = dl_act_cols(text, c, 2 * c),
                                   .row = p->rows->cond_row});
    dl_op_attn(r, (struct dl_attn){.q = dl_act_cols(dl_act_tokens(image), 0, c),
                                   .k = dl_act_cols(joint, c, c),
                                   .v = dl_act_cols(joint, 2 * c, c),
                                   .y = out,
                                   .heads = heads,
                                   .scale = 1 / sqrtf((float)p->u->cfg.head_dim)});
    dl_op_gemm(r,
               (struct dl_gemm){
                   .x = out, .y = dl_act_tokens(y), .w = &a->out, .e = {.bias = &a->out_b, .res = dl_act_tokens(x)}});
    dl_arena_release_hi(&r->arena, m);
}

/* One resnet of the way down, with its attention where the level has one. */
static void run_down_layer(struct pass *p, int i, int j, dl_act x, dl_act y)
{
    struct dl_run *r = p->r;
    struct unet_if_level *l = &p->u->down[i];
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act t = l->cross ? dl_parts_hi(r, dl_act_hi(r, r->t, y.n, y.h, y.w, y.c)) : y;
    run_resnet(p, &l->resnet[j], x, t, p->u->cfg.out_scale);
    dl_tap(r, t, "down_blocks.%d.resnets.%d", i, j);
    if (l->cross) {
        run_attn(p, &l->attn[j], t, y);
        dl_tap(r, y, "down_blocks.%d.attentions.%d", i, j);
    }
    dl_arena_release_hi(&r->arena, m);
}

/* conv_in and the first layer, which share work between rows of one latent; x is the latent. Returns the first skip
 * but one. */
static dl_act run_first(struct pass *p, dl_act x, const int32_t *expand)
{
    struct dl_run *r = p->r;
    struct unet_if *u = p->u;
    const int R = p->rows->n, c0 = u->cfg.channels[0];
    dl_act all = unet_skip_push(&p->skips, R, x.h, x.w, c0);
    dl_act y = unet_skip_push(&p->skips, R, x.h, x.w, c0);
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act h = expand ? dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, c0)) : all;
    dl_op_conv(r, (struct dl_conv){.x = x, .y = h, .w = &u->conv_in, .k = 3, .e = {.bias = &u->conv_in_b}});
    dl_tap(r, h, "conv_in");
    if (!expand) {
        run_down_layer(p, 0, 0, h, y);
        return y;
    }
    struct unet_if_level *l = &u->down[0];
    dl_act t = l->cross ? dl_parts_hi(r, dl_act_hi(r, r->t, y.n, y.h, y.w, y.c)) : y;
    dl_op_copy(r, (struct dl_copy){.x = h, .y = all, .row = expand});
    run_shared_resnet(p, &l->resnet[0], h, all, expand, t);
    if (l->cross) run_attn(p, &l->attn[0], t, y);
    dl_arena_release_hi(&r->arena, m);
    return y;
}

/* The way down: returns the last activation, which is the last skip. */
static dl_act run_down(struct pass *p, dl_act x, const int32_t *expand)
{
    struct unet_if *u = p->u;
    dl_act h = run_first(p, x, expand);
    for (int i = 0; i < u->cfg.levels; i++) {
        struct unet_if_level *l = &u->down[i];
        int c = u->cfg.channels[i];
        for (int j = i ? 0 : 1; j < l->n; j++) {
            dl_act y = unet_skip_push(&p->skips, h.n, h.h, h.w, c);
            run_down_layer(p, i, j, h, y);
            h = y;
        }
        if (!l->sampler) continue;
        dl_act y = unet_skip_push(&p->skips, h.n, h.h / 2, h.w / 2, c);
        run_sampler(p, &l->sample, h, y, false);
        dl_tap(p->r, y, "down_blocks.%d.downsamplers.0", i);
        h = y;
    }
    return h;
}

static void run_mid(struct pass *p, dl_act x)
{
    struct dl_run *r = p->r;
    struct unet_if *u = p->u;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act a = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, x.c)),
           b = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, x.c)), y = unet_skip_head(&p->skips);
    run_resnet(p, &u->mid_res[0], x, a, u->cfg.mid_scale);
    dl_tap(r, a, "mid_block.resnets.0");
    run_attn(p, &u->mid_attn, a, b);
    dl_tap(r, b, "mid_block.attentions.0");
    run_resnet(p, &u->mid_res[1], b, y, u->cfg.mid_scale);
    dl_tap(r, y, "mid_block.resnets.1");
    dl_arena_release_hi(&r->arena, m);
}

/* One up resnet with its attention: reads the skip's buffer and gives it back before the attention runs. */
static void run_up_layer(struct pass *p, int i, int j, const struct unet_skip *s, dl_act y)
{
    struct dl_run *r = p->r;
    struct unet_if_level *l = &p->u->up[i];
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act t = l->cross ? dl_parts_hi(r, dl_act_hi(r, r->t, y.n, y.h, y.w, y.c)) : y;
    run_resnet(p, &l->resnet[j], s->both, t, p->u->cfg.out_scale);
    dl_tap(r, t, "up_blocks.%d.resnets.%d", i, j);
    dl_arena_release_lo(&r->arena, s->before);
    if (l->cross) {
        run_attn(p, &l->attn[j], t, y);
        dl_tap(r, y, "up_blocks.%d.attentions.%d", i, j);
    }
    dl_arena_release_hi(&r->arena, m);
}

/* The way up; returns the last level's output, at the arena's high end. */
static dl_act run_up(struct pass *p)
{
    struct dl_run *r = p->r;
    struct unet_if *u = p->u;
    dl_act y = {0};
    for (int i = 0; i < u->cfg.levels; i++) {
        struct unet_if_level *l = &u->up[i];
        struct dl_mark m = dl_arena_mark(&r->arena);
        for (int j = 0; j < l->n; j++) {
            const struct unet_skip s = unet_skip_pop(&p->skips);
            const dl_act x = s.both;
            bool last = j + 1 == l->n;
            y = last ? dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, l->resnet[j].out)) : unet_skip_head(&p->skips);
            run_up_layer(p, i, j, &s, y);
        }
        if (!l->sampler) continue; /* the last level: y stays for conv_out */
        dl_act to = unet_skip_head(&p->skips);
        run_sampler(p, &l->sample, y, to, true);
        dl_tap(r, to, "up_blocks.%d.upsamplers.0", i);
        dl_arena_release_hi(&r->arena, m);
    }
    return y;
}

static void pass_open(struct pass *p)
{
    const struct unet_if *u = p->u;
    const struct unet_if_rows *rows = p->rows;
    const int64_t width = u->table_width;
    for (int i = 0; i < u->cfg.levels; i++)
        for (int j = 0; j < u->up[i].n; j++) p->skips.up_in[p->skips.n_ups++] = u->up[i].resnet[j].in;
    p->picked = dl_act_hi(p->r, DL_F32, rows->n, 1, 1, (int32_t)width);
    dl_op_pick(p->r, (struct dl_pick){.table = {.p = rows->table, .rs = width, .ss = width * rows->conds, .t = DL_F32},
                                      .row = rows->cond_row,
                                      .y = p->picked});
}

void unet_if_step(struct dl_run *r, struct unet_if *u, dl_act x, const struct unet_if_rows *rows, dl_act y)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    struct pass p = {.r = r, .u = u, .rows = rows, .skips.r = r};
    const int multiple = unet_if_multiple(&u->cfg);
    if (x.h % multiple || x.w % multiple) {
        dl_fail(&r->err, DL_EFAIL,
                "an image of %d x %d pixels does not halve %d times: IF's UNet needs multiples of %d", x.w, x.h,
                u->cfg.levels - 1, multiple);
        return;
    }
    bool same = rows->n == x.n;
    for (int i = 0; same && i < rows->n; i++) same = rows->lat_row[i] == i;
    pass_open(&p);
    dl_act h = run_down(&p, x, same ? NULL : rows->lat_row);
    run_mid(&p, h);
    h = run_up(&p);
    struct dl_stat s = norm_of(&p, h, &u->out_g, &u->out_b, u->cfg.eps);
    dl_op_conv(
        r, (struct dl_conv){
               .x = h, .y = y, .w = &u->conv_out, .k = 3, .pre = s, .pre_fn = DL_GELU, .e = {.bias = &u->conv_out_b}});
    dl_tap(r, y, "conv_out");
    dl_arena_release(&r->arena, m);
}
