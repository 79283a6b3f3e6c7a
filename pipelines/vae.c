#include "pipelines/vae.h"

#include <math.h>

/* Every norm stands over activations that vae_shrink scales, and their variance with them. */
static const float norm_eps = 1e-6f;

int vae_factor(const struct vae_config *c) { return 1 << (c->levels - 1); }

static struct dl_stat norm_of(struct dl_run *r, const struct vae *v, dl_act x, struct dl_w *g, struct dl_w *b)
{
    float eps = norm_eps * v->scale * v->scale;
    return dl_op_gnorm(r, (struct dl_gnorm){.x = x, .groups = v->cfg.groups, .eps = eps, .gamma = g, .beta = b});
}

static void run_resnet(struct dl_run *r, struct vae *v, struct vae_resnet *n, dl_act x, dl_act y)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act h = dl_parts_hi(r, dl_act_hi(r, r->t, x.n, x.h, x.w, n->out)), res = x;
    struct dl_stat s = norm_of(r, v, x, &n->n1_g, &n->n1_b);
    dl_op_conv(r, (struct dl_conv){
                      .x = x, .y = h, .w = &n->conv1, .k = 3, .pre = s, .pre_fn = DL_SILU, .e = {.bias = &n->conv1_b}});
    s = norm_of(r, v, h, &n->n2_g, &n->n2_b);
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

/* The middle's attention: one head of all channels over all pixels; y = x + out(attention(norm x)). */
static void run_attn(struct dl_run *r, struct vae *v, dl_act x, dl_act y)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    int c = x.c;
    dl_act norm = dl_act_hi(r, r->t, x.n, x.h, x.w, c), qkv = dl_act_hi(r, r->t, x.n, 1, x.h * x.w, 3 * c),
           t = dl_act_tokens(norm);
    dl_op_norm(r, (struct dl_norm){.x = x, .y = norm, .s = norm_of(r, v, x, &v->attn_g, &v->attn_b)});
    dl_op_gemm(r, (struct dl_gemm){.x = t, .y = qkv, .w = &v->qkv, .e = {.bias = &v->qkv_b}});
    dl_op_attn(r, (struct dl_attn){.q = dl_act_cols(qkv, 0, c),
                                   .k = dl_act_cols(qkv, c, c),
                                   .v = dl_act_cols(qkv, 2 * c, c),
                                   .y = t,
                                   .heads = 1,
                                   .scale = 1 / sqrtf((float)c)});
    dl_op_gemm(r, (struct dl_gemm){.x = t,
                                   .y = dl_act_tokens(y),
                                   .w = &v->attn_out,
                                   .e = {.bias = &v->attn_out_b, .res = dl_act_tokens(x)}});
    dl_arena_release_hi(&r->arena, m);
}

/* Two buffers at the arena's low end take turns, each as large as the largest activation. One has parts, the latest: a
 * norm reads them before the next is written. */
struct flip {
    struct dl_run *r;
    void *p[2];
    float *parts;
    int at;
};

static struct flip flip_open(struct dl_run *r, int64_t elements)
{
    int64_t bytes = elements * dl_type_bytes(r->t);
    struct flip f = {.r = r, .p = {dl_arena_lo(&r->arena, bytes), dl_arena_lo(&r->arena, bytes)}};
    if (r->be->parts) f.parts = dl_arena_lo(&r->arena, elements / DL_PART_PIXELS * 2 * 4);
    return f;
}

static dl_act flip_next(struct flip *f, int n, int h, int w, int c)
{
    f->at ^= 1;
    dl_act a = dl_act_at(f->p[f->at], f->r->t, n, h, w, c);
    if (dl_parts_wanted(f->r, &a)) a.parts = f->parts;
    return a;
}

/* Elements of the largest activation that the decoder hands from layer to layer. */
static int64_t largest(const struct vae_config *c, int64_t h, int64_t w)
{
    int64_t most = 0;
    for (int i = c->levels - 1; i >= 0; i--) {
        if (h * w * c->channels[i] > most) most = h * w * c->channels[i];
        if (i) h *= 2, w *= 2;
        if (h * w * c->channels[i] > most) most = h * w * c->channels[i];
    }
    return most;
}

void vae_decode(struct dl_run *r, struct vae *v, dl_act z, dl_act x)
{
    const struct vae_config *c = &v->cfg;
    struct dl_mark m = dl_arena_mark(&r->arena);
    int top = c->channels[c->levels - 1], h = z.h, w = z.w;
    struct flip f = flip_open(r, largest(c, h, w) * z.n);

    dl_act a = dl_act_hi(r, r->t, z.n, h, w, c->latent_c), y;
    dl_op_copy(r, (struct dl_copy){.x = z, .y = a, .a = 1 / c->scaling, .b = c->shift});
    if (c->post_quant) {
        dl_act b = dl_act_hi(r, r->t, z.n, h, w, c->latent_c);
        dl_op_conv(r, (struct dl_conv){.x = a, .y = b, .w = &v->post_quant, .k = 1, .e = {.bias = &v->post_quant_b}});
        a = b;
    }
    y = flip_next(&f, z.n, h, w, top);
    dl_op_conv(r, (struct dl_conv){.x = a, .y = y, .w = &v->conv_in, .k = 3, .e = {.bias = &v->conv_in_b}});
    dl_tap(r, y, "decoder.conv_in");
    a = y, y = flip_next(&f, z.n, h, w, top);
    run_resnet(r, v, &v->mid[0], a, y);
    dl_tap(r, y, "decoder.mid_block.resnets.0");
    a = y, y = flip_next(&f, z.n, h, w, top);
    run_attn(r, v, a, y);
    dl_tap(r, y, "decoder.mid_block.attentions.0");
    a = y, y = flip_next(&f, z.n, h, w, top);
    run_resnet(r, v, &v->mid[1], a, y);
    dl_tap(r, y, "decoder.mid_block.resnets.1");
    for (int i = 0; i < c->levels; i++) {
        for (int j = 0; j <= c->layers; j++) {
            a = y, y = flip_next(&f, z.n, h, w, v->up[i][j].out);
            if (j == c->layers && i + 1 < c->levels) y = dl_parts_none(y); /* an upsampler has no norm */
            run_resnet(r, v, &v->up[i][j], a, y);
            dl_tap(r, y, "decoder.up_blocks.%d.resnets.%d", i, j);
        }
        if (i + 1 == c->levels) break;
        h *= 2, w *= 2;
        a = y, y = flip_next(&f, z.n, h, w, a.c);
        dl_op_conv(r, (struct dl_conv){
                          .x = a, .y = y, .w = &v->sample[i], .k = 3, .up = true, .e = {.bias = &v->sample_b[i]}});
        dl_tap(r, y, "decoder.up_blocks.%d.upsamplers.0", i);
    }
    struct dl_stat s = norm_of(r, v, y, &v->out_g, &v->out_b);
    dl_op_conv(
        r, (struct dl_conv){
               .x = y, .y = x, .w = &v->conv_out, .k = 3, .pre = s, .pre_fn = DL_SILU, .e = {.bias = &v->conv_out_b}});
    dl_tap(r, x, "decoder.conv_out");
    dl_arena_release(&r->arena, m);
}
