#include "loaders/config.h"
#include "pipelines/unet.h"

/* What diffusers' UNet can do and this code does not compute: a checkpoint that asks for it is refused by name. */
static void refuse_others(struct cfg *c)
{
    static const char *const absent[] = {"class_embed_type",     "encoder_hid_dim_type",
                                         "encoder_hid_dim",      "num_class_embeds",
                                         "time_cond_proj_dim",   "time_embedding_dim",
                                         "timestep_post_act",    "time_embedding_act_fn",
                                         "cross_attention_norm", "reverse_transformer_layers_per_block"};
    static const char *const off[] = {"center_input_sample",     "dual_cross_attention",
                                      "only_cross_attention",    "mid_block_only_cross_attention",
                                      "class_embeddings_concat", "resnet_skip_time_act"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        if (cfg_has(c, absent[i]))
            cfg_fail(c, absent[i], "is set: this UNet is not one of Stable Diffusion 1.x, 2.x or XL");
    }
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (cfg_has(c, off[i]) && cfg_bool(c, off[i], false))
            cfg_fail(c, off[i], "is true: this UNet is not one of Stable Diffusion 1.x, 2.x or XL");
    static const char *const silu[] = {"silu"}, *const scale[] = {"default"}, *const time[] = {"positional"},
                             *const attn[] = {"default"};
    cfg_choice(c, "act_fn", 0, 1, silu);
    cfg_choice(c, "resnet_time_scale_shift", 0, 1, scale);
    cfg_choice(c, "time_embedding_type", 0, 1, time);
    cfg_choice(c, "attention_type", 0, 1, attn);
    cfg_int(c, "conv_in_kernel", 3, 3, 3);
    cfg_int(c, "conv_out_kernel", 3, 3, 3);
    cfg_int(c, "downsample_padding", 1, 1, 1);
    cfg_float(c, "mid_block_scale_factor", 1, 1, 1);
    cfg_float(c, "resnet_out_scale_factor", 1, 1, 1);
    if (cfg_has(c, "mid_block_type") && strcmp(cfg_str(c, "mid_block_type", ""), "UNetMidBlock2DCrossAttn"))
        cfg_fail(c, "mid_block_type", "\"%s\": dlens knows UNetMidBlock2DCrossAttn", cfg_str(c, "mid_block_type", ""));
}

/* SDXL's pooled text vector and sizes. */
static void read_added(struct cfg *c, struct unet_config *u)
{
    static const char *const type[] = {"text_time"};
    if (!cfg_has(c, "addition_embed_type")) return;
    cfg_choice(c, "addition_embed_type", CFG_REQUIRED, 1, type);
    u->time_ids_width = (int)cfg_int(c, "addition_time_embed_dim", CFG_REQUIRED, 2, 65536);
    int64_t in = cfg_int(c, "projection_class_embeddings_input_dim", CFG_REQUIRED, 1, 1 << 20);
    u->pooled = (int)(in - UNET_SIZES * (int64_t)u->time_ids_width);
    if (u->time_ids_width % 2) cfg_fail(c, "addition_time_embed_dim", "%d is odd", u->time_ids_width);
    if (u->pooled < 1)
        cfg_fail(c, "projection_class_embeddings_input_dim", "%lld leaves no room for text beside %d sizes of %d",
                 (long long)in, UNET_SIZES, u->time_ids_width);
}

/* Which positions of a list of block types have cross attention. */
static void read_types(struct cfg *c, const char *key, int levels, const char *plain, const char *cross, bool *out)
{
    const char *type[UNET_LEVELS];
    int n = cfg_strs(c, key, levels, levels, type);
    for (int i = 0; i < n; i++) {
        out[i] = !strcmp(type[i], cross);
        if (!out[i] && strcmp(type[i], plain)) cfg_fail(c, key, "\"%s\": dlens knows %s and %s", type[i], plain, cross);
    }
}

int unet_config_read(struct unet_config *u, const char *path, struct dl_err *e)
{
    struct cfg *c;
    if (cfg_open(&c, path, e) < 0) return -1;
    *u = (struct unet_config){0};
    int64_t wide[UNET_LEVELS], layers[UNET_LEVELS], heads[UNET_LEVELS], depth[UNET_LEVELS], cross[UNET_LEVELS];
    int n = u->levels = cfg_ints(c, "block_out_channels", 1, UNET_LEVELS, wide, 1, 65536);
    u->in_c = (int)cfg_int(c, "in_channels", 4, 1, 256);
    u->out_c = (int)cfg_int(c, "out_channels", 4, 1, 256);
    u->sample_size = (int)cfg_int(c, "sample_size", 64, 1, 65536);
    u->groups = (int)cfg_int(c, "norm_num_groups", 32, 1, 65536);
    u->eps = (float)cfg_float(c, "norm_eps", 1e-5, 0, 1);
    u->linear_projection = cfg_bool(c, "use_linear_projection", false);
    u->flip_sin_cos = cfg_bool(c, "flip_sin_to_cos", true);
    u->freq_shift = (float)cfg_float(c, "freq_shift", 0, -1e3, 1e3);
    cfg_spread(c, "layers_per_block", n, layers, 2, 1, UNET_LAYERS);
    /* The key says head dim; the value has been the number of heads ever since; see diffusers issue 2011. */
    cfg_spread(c, cfg_has(c, "num_attention_heads") ? "num_attention_heads" : "attention_head_dim", n, heads, 8, 1,
               1024);
    cfg_spread(c, "transformer_layers_per_block", n, depth, 1, 1, 64);
    cfg_spread(c, "cross_attention_dim", n, cross, 1280, 1, 65536);
    read_types(c, "down_block_types", n, "DownBlock2D", "CrossAttnDownBlock2D", u->cross_down);
    read_types(c, "up_block_types", n, "UpBlock2D", "CrossAttnUpBlock2D", u->cross_up);
    refuse_others(c);
    read_added(c, u);
    u->cross_dim = (int)cross[0];
    for (int i = 0; i < n; i++) {
        u->channels[i] = (int)wide[i], u->layers[i] = (int)layers[i], u->heads[i] = (int)heads[i],
        u->depth[i] = (int)depth[i];
        if (wide[i] % u->groups)
            cfg_fail(c, "block_out_channels", "%d is no multiple of norm_num_groups %d", u->channels[i], u->groups);
        bool attends = u->cross_down[i] || u->cross_up[n - 1 - i] || i == n - 1;
        if (attends && (wide[i] % heads[i] || wide[i] / heads[i] % 8))
            cfg_fail(c, "attention_head_dim", "%d heads over %d channels: a head needs a multiple of 8 channels",
                     u->heads[i], u->channels[i]);
        if (cross[i] != cross[0])
            cfg_fail(c, "cross_attention_dim", "dlens computes UNets with one text width at all levels");
    }
    int rc = cfg_check(c, e);
    cfg_close(c);
    return rc;
}
