#include "loaders/config.h"
#include "pipelines/vae.h"

#include <stdio.h>

int vae_config_read(struct vae_config *v, const char *path, struct dl_err *e)
{
    static const char *const act[] = {"silu"}, *const down[] = {"DownEncoderBlock2D"},
                             *const up[] = {"UpDecoderBlock2D"};
    struct cfg *c;
    if (cfg_open(&c, path, e) < 0) return -1;
    *v = (struct vae_config){0};
    int64_t wide[VAE_LEVELS];
    const char *types[VAE_LEVELS];
    v->levels = cfg_ints(c, "block_out_channels", 1, VAE_LEVELS, wide, 1, 65536);
    v->image_c = (int)cfg_int(c, "out_channels", 3, 3, 3);
    v->latent_c = (int)cfg_int(c, "latent_channels", 4, 1, 256);
    v->layers = (int)cfg_int(c, "layers_per_block", 1, 1, VAE_LAYERS);
    v->groups = (int)cfg_int(c, "norm_num_groups", 32, 1, 65536);
    v->sample_size = (int)cfg_int(c, "sample_size", 512, 1, 65536);
    v->scaling = (float)cfg_float(c, "scaling_factor", 0.18215, 1e-6, 1e6);
    v->shift = (float)cfg_float(c, "shift_factor", 0, -1e6, 1e6);
    v->post_quant = cfg_bool(c, "use_post_quant_conv", true);
    v->force_upcast = cfg_bool(c, "force_upcast", false); /* not said of those that are known to fit f16 */
    cfg_choice(c, "act_fn", 0, 1, act);
    if (!cfg_bool(c, "mid_block_add_attention", true))
        cfg_fail(c, "mid_block_add_attention", "false: dlens computes VAEs with attention in the middle");
    if (cfg_has(c, "latents_mean") || cfg_has(c, "latents_std"))
        cfg_fail(c, "latents_mean", "dlens computes VAEs with one scaling_factor");
    int n = cfg_strs(c, "up_block_types", v->levels, v->levels, types);
    for (int i = 0; i < n; i++)
        if (strcmp(types[i], up[0])) cfg_fail(c, "up_block_types", "\"%s\": dlens knows %s", types[i], up[0]);
    n = cfg_strs(c, "down_block_types", v->levels, v->levels, types);
    for (int i = 0; i < n; i++)
        if (strcmp(types[i], down[0])) cfg_fail(c, "down_block_types", "\"%s\": dlens knows %s", types[i], down[0]);
    for (int i = 0; i < v->levels; i++) {
        v->channels[i] = (int)wide[i];
        if (wide[i] % v->groups)
            cfg_fail(c, "block_out_channels", "%d is no multiple of norm_num_groups %d", (int)wide[i], v->groups);
    }
    int rc = cfg_check(c, e);
    cfg_close(c);
    return rc;
}

static void bind_resnet(struct vae_resnet *n, int in, int out, struct bind *b)
{
    n->in = in, n->out = out;
    bind_norm(b, &n->n1_g, &n->n1_b, "norm1", in);
    bind_conv(b, &n->conv1, &n->conv1_b, "conv1", out, in, 3);
    bind_norm(b, &n->n2_g, &n->n2_b, "norm2", out);
    bind_conv(b, &n->conv2, &n->conv2_b, "conv2", out, out, 3);
    if (in != out) bind_conv(b, &n->shortcut, &n->shortcut_b, "conv_shortcut", out, in, 1);
}

/* Checkpoints from before diffusers 0.18 call the projections query, key, value and proj_attn. */
static void bind_attn(struct vae *v, int64_t c, struct bind *b)
{
    bool old = bind_has(b, "query.weight");
    const char *const w[] = {old ? "query.weight" : "to_q.weight", old ? "key.weight" : "to_k.weight",
                             old ? "value.weight" : "to_v.weight"};
    const char *const bias[] = {old ? "query.bias" : "to_q.bias", old ? "key.bias" : "to_k.bias",
                                old ? "value.bias" : "to_v.bias"};
    int64_t rows[] = {c, c, c};
    bind_norm(b, &v->attn_g, &v->attn_b, "group_norm", c);
    bind_stack(b, &v->qkv, BIND_MATRIX, 3, w, rows, c);
    bind_stack(b, &v->qkv_b, BIND_BIAS, 3, bias, rows, 0);
    bind_linear(b, &v->attn_out, &v->attn_out_b, old ? "proj_attn" : "to_out.0", c, c);
}

static void bind_decoder(struct vae *v, struct bind *b)
{
    const struct vae_config *c = &v->cfg;
    int top = c->channels[c->levels - 1], prev = top;
    bind_conv(b, &v->conv_in, &v->conv_in_b, "conv_in", top, c->latent_c, 3);
    for (int j = 0; j < 2; j++) {
        bind_in(b, "mid_block.resnets.%d", j);
        bind_resnet(&v->mid[j], top, top, b);
        bind_out(b);
    }
    bind_in(b, "mid_block.attentions.0");
    bind_attn(v, top, b);
    bind_out(b);
    for (int i = 0; i < c->levels; i++) {
        int out = c->channels[c->levels - 1 - i];
        bind_in(b, "up_blocks.%d", i);
        for (int j = 0; j <= c->layers; j++) {
            bind_in(b, "resnets.%d", j);
            bind_resnet(&v->up[i][j], j ? out : prev, out, b);
            bind_out(b);
        }
        if (i + 1 < c->levels) bind_conv(b, &v->sample[i], &v->sample_b[i], "upsamplers.0.conv", out, out, 3);
        bind_out(b);
        prev = out;
    }
    bind_norm(b, &v->out_g, &v->out_b, "conv_norm_out", c->channels[0]);
    bind_conv(b, &v->conv_out, &v->conv_out_b, "conv_out", c->image_c, c->channels[0], 3);
}

static void skip_pair(struct bind *b, enum bind_role role, const char *name, int nd, const int64_t *dim)
{
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    bind_skip(b, role, full, nd, dim);
    snprintf(full, sizeof full, "%s.bias", name);
    bind_skip(b, BIND_BIAS, full, 1, dim);
}

static void skip_conv(struct bind *b, const char *name, int64_t out, int64_t in, int64_t k)
{
    skip_pair(b, BIND_MATRIX, name, 4, (int64_t[]){out, in, k, k});
}

static void skip_resnet(struct bind *b, int64_t in, int64_t out)
{
    skip_pair(b, BIND_GAIN, "norm1", 1, &in);
    skip_conv(b, "conv1", out, in, 3);
    skip_pair(b, BIND_GAIN, "norm2", 1, &out);
    skip_conv(b, "conv2", out, out, 3);
    if (in != out) skip_conv(b, "conv_shortcut", out, in, 1);
}

static void skip_encoder(const struct vae_config *c, struct bind *b)
{
    int64_t top = c->channels[c->levels - 1], prev = c->channels[0];
    skip_conv(b, "conv_in", prev, c->image_c, 3);
    for (int i = 0; i < c->levels; i++) {
        int64_t out = c->channels[i];
        bind_in(b, "down_blocks.%d", i);
        for (int j = 0; j < c->layers; j++) {
            bind_in(b, "resnets.%d", j);
            skip_resnet(b, j ? out : prev, out);
            bind_out(b);
        }
        if (i + 1 < c->levels) skip_conv(b, "downsamplers.0.conv", out, out, 3);
        bind_out(b);
        prev = out;
    }
    for (int j = 0; j < 2; j++) {
        bind_in(b, "mid_block.resnets.%d", j);
        skip_resnet(b, top, top);
        bind_out(b);
    }
    bind_in(b, "mid_block.attentions.0");
    bool old = bind_has(b, "query.weight");
    const char *const name[] = {old ? "query" : "to_q", old ? "key" : "to_k", old ? "value" : "to_v",
                                old ? "proj_attn" : "to_out.0"};
    skip_pair(b, BIND_GAIN, "group_norm", 1, &top);
    for (int i = 0; i < 4; i++) skip_pair(b, BIND_MATRIX, name[i], 2, (int64_t[]){top, top});
    bind_out(b);
    skip_pair(b, BIND_GAIN, "conv_norm_out", 1, &top);
    skip_conv(b, "conv_out", 2 * (int64_t)c->latent_c, top, 3);
}

void vae_bind(struct vae *v, const struct vae_config *c, struct bind *b)
{
    v->cfg = *c;
    v->scale = 1;
    int64_t z = c->latent_c;
    bind_in(b, "encoder");
    skip_encoder(c, b);
    bind_out(b);
    bind_in(b, "decoder");
    bind_decoder(v, b);
    bind_out(b);
    if (c->post_quant) {
        skip_conv(b, "quant_conv", 2 * z, 2 * z, 1);
        bind_conv(b, &v->post_quant, &v->post_quant_b, "post_quant_conv", z, z, 1);
    }
}
