#include "pipelines/unet_if.h"

static void bind_resnet(struct unet_if *u, struct unet_if_resnet *n, int in, int out, struct bind *b)
{
    n->in = in, n->out = out, n->row_at = u->table_width;
    u->table_width += 2 * (int64_t)out;
    bind_norm(b, &n->n1_g, &n->n1_b, "norm1", in);
    bind_conv(b, &n->conv1, &n->conv1_b, "conv1", out, in, 3);
    bind_linear(b, &n->temb, &n->temb_b, "time_emb_proj", 2 * (int64_t)out, u->cfg.temb);
    bind_norm(b, &n->n2_g, &n->n2_b, "norm2", out);
    bind_conv(b, &n->conv2, &n->conv2_b, "conv2", out, out, 3);
    if (in != out) bind_conv(b, &n->shortcut, &n->shortcut_b, "conv_shortcut", out, in, 1);
}

static void bind_attn(struct unet_if *u, struct unet_if_attn *a, int c, struct bind *b)
{
    static const char *const qkv[] = {"to_q.weight", "to_k.weight", "to_v.weight"};
    static const char *const qkv_b[] = {"to_q.bias", "to_k.bias", "to_v.bias"};
    static const char *const text[] = {"add_k_proj.weight", "add_v_proj.weight"};
    static const char *const text_b[] = {"add_k_proj.bias", "add_v_proj.bias"};
    const int64_t rows[] = {c, c, c};
    a->c = c, a->kv_at = u->kv_width;
    u->kv_width += 2 * (int64_t)c;
    bind_norm(b, &a->n_g, &a->n_b, "group_norm", c);
    bind_stack(b, &a->qkv, BIND_MATRIX, 3, qkv, rows, c);
    bind_stack(b, &a->qkv_b, BIND_BIAS, 3, qkv_b, rows, 0);
    bind_norm(b, &a->cross_g, &a->cross_b, "norm_cross", u->cfg.cross_dim);
    bind_stack(b, &a->text, BIND_MATRIX, 2, text, rows, u->cfg.cross_dim);
    bind_stack(b, &a->text_b, BIND_BIAS, 2, text_b, rows, 0);
    bind_linear(b, &a->out, &a->out_b, "to_out.0", c, c);
}

/* Resnets and attentions of one level, and its sampler; in [l->n] are the resnets' input widths. */
static void bind_level(struct unet_if *u, struct unet_if_level *l, int out, const int *in, const char *sampler,
                       struct bind *b)
{
    for (int j = 0; j < l->n; j++) {
        bind_in(b, "resnets.%d", j);
        bind_resnet(u, &l->resnet[j], in[j], out, b);
        bind_out(b);
        if (!l->cross) continue;
        bind_in(b, "attentions.%d", j);
        bind_attn(u, &l->attn[j], out, b);
        bind_out(b);
    }
    if (!l->sampler) return;
    bind_in(b, "%s.0", sampler);
    bind_resnet(u, &l->sample, out, out, b);
    bind_out(b);
}

static void bind_down(struct unet_if *u, int i, struct bind *b)
{
    const struct unet_if_config *c = &u->cfg;
    struct unet_if_level *l = &u->down[i];
    l->n = c->layers[i], l->cross = c->cross_down[i], l->sampler = i + 1 < c->levels;
    int in[UNET_LAYERS + 1];
    for (int j = 0; j < l->n; j++) in[j] = j || !i ? c->channels[i] : c->channels[i - 1];
    bind_in(b, "down_blocks.%d", i);
    bind_level(u, l, c->channels[i], in, "downsamplers", b);
    bind_out(b);
}

static void bind_up(struct unet_if *u, int i, struct bind *b)
{
    const struct unet_if_config *c = &u->cfg;
    struct unet_if_level *l = &u->up[i];
    int level = c->levels - 1 - i, own = c->channels[level];
    int before = i ? c->channels[level + 1] : own, below = c->channels[level ? level - 1 : 0];
    l->n = c->layers[level] + 1, l->cross = c->cross_up[i], l->sampler = level > 0;
    int in[UNET_LAYERS + 1];
    for (int j = 0; j < l->n; j++) in[j] = (j ? own : before) + (j + 1 < l->n ? own : below);
    bind_in(b, "up_blocks.%d", i);
    bind_level(u, l, own, in, "upsamplers", b);
    bind_out(b);
}

static void bind_mid(struct unet_if *u, struct bind *b)
{
    int width = u->cfg.channels[u->cfg.levels - 1];
    bind_in(b, "mid_block");
    for (int j = 0; j < 2; j++) {
        bind_in(b, "resnets.%d", j);
        bind_resnet(u, &u->mid_res[j], width, width, b);
        bind_out(b);
    }
    bind_in(b, "attentions.0");
    bind_attn(u, &u->mid_attn, width, b);
    bind_out(b);
    bind_out(b);
}

static void bind_pool(struct unet_if *u, struct bind *b)
{
    static const char *const kv[] = {"pool.k_proj.weight", "pool.v_proj.weight"};
    static const char *const kv_b[] = {"pool.k_proj.bias", "pool.v_proj.bias"};
    const int64_t d = u->cfg.text_dim, rows[] = {d, d};
    bind_in(b, "add_embedding");
    bind_norm(b, &u->ln1_g, &u->ln1_b, "norm1", d);
    bind_w(b, &u->pos, BIND_TABLE, "pool.positional_embedding", 2, (int64_t[]){1, d});
    bind_linear(b, &u->q, &u->q_b, "pool.q_proj", d, d);
    bind_stack(b, &u->kv, BIND_MATRIX, 2, kv, rows, d);
    bind_stack(b, &u->kv_b, BIND_BIAS, 2, kv_b, rows, 0);
    bind_linear(b, &u->proj, &u->proj_b, "proj", u->cfg.temb, d);
    bind_norm(b, &u->ln2_g, &u->ln2_b, "norm2", u->cfg.temb);
    bind_out(b);
}

void unet_if_bind(struct unet_if *u, const struct unet_if_config *c, struct bind *b)
{
    u->cfg = *c;
    u->table_width = u->kv_width = 0;
    const int64_t c0 = c->channels[0], temb = c->temb;
    bind_linear(b, &u->time1, &u->time1_b, "time_embedding.linear_1", temb, c0);
    bind_linear(b, &u->time2, &u->time2_b, "time_embedding.linear_2", temb, temb);
    if (c->noise_level) {
        bind_linear(b, &u->level1, &u->level1_b, "class_embedding.linear_1", temb, c0);
        bind_linear(b, &u->level2, &u->level2_b, "class_embedding.linear_2", temb, temb);
    }
    bind_linear(b, &u->hid, &u->hid_b, "encoder_hid_proj", c->cross_dim, c->text_dim);
    bind_pool(u, b);
    bind_conv(b, &u->conv_in, &u->conv_in_b, "conv_in", c0, c->in_c, 3);
    for (int i = 0; i < c->levels; i++) bind_down(u, i, b);
    bind_mid(u, b);
    for (int i = 0; i < c->levels; i++) bind_up(u, i, b);
    bind_norm(b, &u->out_g, &u->out_b, "conv_norm_out", c0);
    bind_conv(b, &u->conv_out, &u->conv_out_b, "conv_out", c->out_c, c0, 3);
}

void unet_if_close(struct unet_if *u)
{
    dl_wset_close(&u->weights);
    *u = (struct unet_if){0};
}
