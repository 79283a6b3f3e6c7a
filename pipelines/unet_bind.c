#include "pipelines/unet.h"

#include <stdlib.h>

static void bind_resnet(struct unet *u, struct unet_resnet *n, int in, int out, struct bind *b)
{
    int64_t temb = 4 * (int64_t)u->cfg.channels[0];
    n->in = in, n->out = out, n->temb_at = u->table_width;
    u->table_width += out;
    bind_norm(b, &n->n1_g, &n->n1_b, "norm1", in);
    bind_conv(b, &n->conv1, &n->conv1_b, "conv1", out, in, 3);
    bind_linear(b, &n->temb, &n->temb_b, "time_emb_proj", out, temb);
    bind_norm(b, &n->n2_g, &n->n2_b, "norm2", out);
    bind_conv(b, &n->conv2, &n->conv2_b, "conv2", out, out, 3);
    if (in != out) bind_conv(b, &n->shortcut, &n->shortcut_b, "conv_shortcut", out, in, 1);
}

static void bind_block(struct unet *u, struct unet_block *k, int64_t c, struct bind *b)
{
    static const char *const qkv[] = {"attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"};
    static const char *const kv[] = {"attn2.to_k.weight", "attn2.to_v.weight"};
    int64_t rows[] = {c, c, c};
    k->kv_at = u->kv_width;
    u->kv_width += 2 * c;
    bind_norm(b, &k->ln1_g, &k->ln1_b, "norm1", c);
    bind_stack(b, &k->qkv, BIND_MATRIX, 3, qkv, rows, c);
    bind_linear(b, &k->out1, &k->out1_b, "attn1.to_out.0", c, c);
    bind_norm(b, &k->ln2_g, &k->ln2_b, "norm2", c);
    bind_linear(b, &k->q, NULL, "attn2.to_q", c, c);
    bind_stack(b, &k->kv, BIND_MATRIX, 2, kv, rows, u->cfg.cross_dim);
    bind_linear(b, &k->out2, &k->out2_b, "attn2.to_out.0", c, c);
    bind_norm(b, &k->ln3_g, &k->ln3_b, "norm3", c);
    bind_linear(b, &k->ff1, &k->ff1_b, "ff.net.0.proj", 8 * c, c);
    bind_linear(b, &k->ff2, &k->ff2_b, "ff.net.2", c, 4 * c);
}

static int bind_attn(struct unet *u, struct unet_attn *a, int c, int heads, int depth, struct bind *b, struct dl_err *e)
{
    a->c = c, a->heads = heads, a->depth = depth;
    a->block = calloc((size_t)depth, sizeof *a->block);
    if (!a->block) return dl_fail(e, DL_ENOMEM, "no memory for %d transformer blocks", depth);
    bind_norm(b, &a->n_g, &a->n_b, "norm", c);
    if (u->cfg.linear_projection)
        bind_linear(b, &a->in, &a->in_b, "proj_in", c, c);
    else
        bind_conv(b, &a->in, &a->in_b, "proj_in", c, c, 1);
    for (int i = 0; i < depth; i++) {
        bind_in(b, "transformer_blocks.%d", i);
        bind_block(u, &a->block[i], c, b);
        bind_out(b);
    }
    if (u->cfg.linear_projection)
        bind_linear(b, &a->out, &a->out_b, "proj_out", c, c);
    else
        bind_conv(b, &a->out, &a->out_b, "proj_out", c, c, 1);
    return 0;
}

/* Resnets and transformers of one level; in(j) are the resnets' input widths. */
static int bind_level(struct unet *u, struct unet_level *l, int level, const int *in, struct bind *b, struct dl_err *e)
{
    const struct unet_config *c = &u->cfg;
    int out = c->channels[level];
    for (int j = 0; j < l->n; j++) {
        bind_in(b, "resnets.%d", j);
        bind_resnet(u, &l->resnet[j], in[j], out, b);
        bind_out(b);
        if (!l->cross) continue;
        bind_in(b, "attentions.%d", j);
        int rc = bind_attn(u, &l->attn[j], out, c->heads[level], c->depth[level], b, e);
        bind_out(b);
        if (rc < 0) return -1;
    }
    return 0;
}

static int bind_down(struct unet *u, int i, struct bind *b, struct dl_err *e)
{
    const struct unet_config *c = &u->cfg;
    struct unet_level *l = &u->down[i];
    l->n = c->layers[i], l->cross = c->cross_down[i], l->sampler = i + 1 < c->levels;
    int in[UNET_LAYERS + 1];
    for (int j = 0; j < l->n; j++) in[j] = j || !i ? c->channels[i] : c->channels[i - 1];
    if (bind_level(u, l, i, in, b, e) < 0) return -1;
    if (l->sampler) bind_conv(b, &l->sample, &l->sample_b, "downsamplers.0.conv", c->channels[i], c->channels[i], 3);
    return 0;
}

static int bind_up(struct unet *u, int i, struct bind *b, struct dl_err *e)
{
    const struct unet_config *c = &u->cfg;
    struct unet_level *l = &u->up[i];
    int level = c->levels - 1 - i, own = c->channels[level];
    int before = i ? c->channels[level + 1] : own, below = c->channels[level ? level - 1 : 0];
    l->n = c->layers[level] + 1, l->cross = c->cross_up[i], l->sampler = level > 0;
    int in[UNET_LAYERS + 1];
    for (int j = 0; j < l->n; j++) in[j] = (j ? own : before) + (j + 1 < l->n ? own : below);
    if (bind_level(u, l, level, in, b, e) < 0) return -1;
    if (l->sampler) bind_conv(b, &l->sample, &l->sample_b, "upsamplers.0.conv", own, own, 3);
    return 0;
}

static int bind_mid(struct unet *u, struct bind *b, struct dl_err *e)
{
    const struct unet_config *c = &u->cfg;
    int last = c->levels - 1, width = c->channels[last];
    bind_in(b, "resnets.0");
    bind_resnet(u, &u->mid_res[0], width, width, b);
    bind_out(b);
    bind_in(b, "attentions.0");
    int rc = bind_attn(u, &u->mid_attn, width, c->heads[last], c->depth[last], b, e);
    bind_out(b);
    bind_in(b, "resnets.1");
    bind_resnet(u, &u->mid_res[1], width, width, b);
    bind_out(b);
    return rc;
}

int unet_bind(struct unet *u, const struct unet_config *c, struct bind *b, struct dl_err *e)
{
    u->cfg = *c;
    u->table_width = u->kv_width = 0;
    int64_t c0 = c->channels[0];
    bind_linear(b, &u->time1, &u->time1_b, "time_embedding.linear_1", 4 * c0, c0);
    bind_linear(b, &u->time2, &u->time2_b, "time_embedding.linear_2", 4 * c0, 4 * c0);
    if (c->pooled) {
        int64_t in = c->pooled + UNET_SIZES * (int64_t)c->time_ids_width;
        bind_linear(b, &u->add1, &u->add1_b, "add_embedding.linear_1", 4 * c0, in);
        bind_linear(b, &u->add2, &u->add2_b, "add_embedding.linear_2", 4 * c0, 4 * c0);
    }
    bind_conv(b, &u->conv_in, &u->conv_in_b, "conv_in", c0, c->in_c, 3);
    int rc = 0;
    for (int i = 0; i < c->levels && rc == 0; i++) {
        bind_in(b, "down_blocks.%d", i);
        rc = bind_down(u, i, b, e);
        bind_out(b);
    }
    if (rc == 0) {
        bind_in(b, "mid_block");
        rc = bind_mid(u, b, e);
        bind_out(b);
    }
    for (int i = 0; i < c->levels && rc == 0; i++) {
        bind_in(b, "up_blocks.%d", i);
        rc = bind_up(u, i, b, e);
        bind_out(b);
    }
    bind_norm(b, &u->out_g, &u->out_b, "conv_norm_out", c0);
    bind_conv(b, &u->conv_out, &u->conv_out_b, "conv_out", c->out_c, c0, 3);
    return rc;
}

void unet_close(struct unet *u)
{
    dl_wset_close(&u->weights);
    for (int i = 0; i < UNET_LEVELS; i++)
        for (int j = 0; j <= UNET_LAYERS; j++) free(u->down[i].attn[j].block), free(u->up[i].attn[j].block);
    free(u->mid_attn.block);
    *u = (struct unet){0};
}
