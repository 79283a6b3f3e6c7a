#include "loaders/config.h"
#include "pipelines/unet_if.h"

static const char family[] = "this UNet is not one of DeepFloyd IF";

/* A key that must hold this string; absence counts as `absent`. */
static void must_be(struct cfg *c, const char *key, const char *absent, const char *value)
{
    const char *found = cfg_str(c, key, absent);
    if (*found && strcmp(found, value)) cfg_fail(c, key, "\"%s\", not \"%s\": %s", found, value, family);
}

/* What makes this UNet one of IF, and what diffusers' UNet can do beyond that and this code does not compute. */
static void refuse_others(struct cfg *c)
{
    static const char *const absent[] = {"num_class_embeds",
                                         "num_attention_heads",
                                         "time_cond_proj_dim",
                                         "timestep_post_act",
                                         "projection_class_embeddings_input_dim",
                                         "addition_time_embed_dim",
                                         "reverse_transformer_layers_per_block"};
    static const char *const off[] = {"center_input_sample", "dual_cross_attention", "only_cross_attention",
                                      "mid_block_only_cross_attention", "class_embeddings_concat"};
    must_be(c, "act_fn", "silu", "gelu");
    must_be(c, "resnet_time_scale_shift", "default", "scale_shift");
    must_be(c, "addition_embed_type", "null", "text");
    must_be(c, "cross_attention_norm", "null", "group_norm");
    must_be(c, "encoder_hid_dim_type", "text_proj", "text_proj");
    must_be(c, "time_embedding_type", "positional", "positional");
    must_be(c, "attention_type", "default", "default");
    must_be(c, "mid_block_type", "UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn");
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (cfg_has(c, absent[i])) cfg_fail(c, absent[i], "is set: %s", family);
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (cfg_has(c, off[i]) && cfg_bool(c, off[i], false)) cfg_fail(c, off[i], "is true: %s", family);
    cfg_int(c, "conv_in_kernel", 3, 3, 3);
    cfg_int(c, "conv_out_kernel", 3, 3, 3);
}

/* Which positions of a list of block types have attention. */
static void read_types(struct cfg *c, const char *key, int levels, const char *plain, const char *cross, bool *out)
{
    const char *type[UNET_LEVELS];
    int n = cfg_strs(c, key, levels, levels, type);
    for (int i = 0; i < n; i++) {
        out[i] = !strcmp(type[i], cross);
        if (!out[i] && strcmp(type[i], plain))
            cfg_fail(c, key, "\"%s\": in DeepFloyd IF dlens knows %s and %s", type[i], plain, cross);
    }
}

/* The embedding is activated once: by itself (stage II), or by every resnet (stage I), which is the same. */
static void check_activation(struct cfg *c)
{
    bool itself = cfg_has(c, "time_embedding_act_fn"), skip = cfg_bool(c, "resnet_skip_time_act", false);
    if (itself) must_be(c, "time_embedding_act_fn", "gelu", "gelu");
    if (itself != skip)
        cfg_fail(c, "resnet_skip_time_act",
                 "is %s with%s time_embedding_act_fn: dlens computes UNets whose time "
                 "embedding is activated once",
                 skip ? "true" : "false", itself ? "" : "out");
}

static void check_widths(struct cfg *c, const struct unet_if_config *u)
{
    for (int i = 0; i < u->levels; i++) {
        int wide = u->channels[i];
        if (wide % u->groups)
            cfg_fail(c, "block_out_channels", "%d is no multiple of norm_num_groups %d", wide, u->groups);
        bool attends = u->cross_down[i] || u->cross_up[u->levels - 1 - i] || i == u->levels - 1;
        if (attends && wide % u->head_dim)
            cfg_fail(c, "attention_head_dim", "%d channels are not heads of %d channels", wide, u->head_dim);
    }
    if (u->head_dim % 8) cfg_fail(c, "attention_head_dim", "%d: a head needs a multiple of 8 channels", u->head_dim);
    if (u->channels[0] % 2) cfg_fail(c, "block_out_channels", "%d: the first must be even", u->channels[0]);
    if (u->cross_dim % 32)
        cfg_fail(c, "cross_attention_dim", "%d is no multiple of 32, the groups of the text's norm", u->cross_dim);
    if (u->text_dim % u->pool_heads || u->text_dim / u->pool_heads % 8)
        cfg_fail(c, "addition_embed_type_num_heads",
                 "%d heads over encoder_hid_dim %d: a head needs a multiple of 8 channels", u->pool_heads, u->text_dim);
}

int unet_if_config_read(struct unet_if_config *u, const char *path, struct dl_err *e)
{
    struct cfg *c;
    if (cfg_open(&c, path, e) < 0) return -1;
    *u = (struct unet_if_config){0};
    static const char *const embed[] = {"timestep"};
    int64_t wide[UNET_LEVELS], layers[UNET_LEVELS], head[UNET_LEVELS], cross[UNET_LEVELS];
    refuse_others(c); /* first: a UNet of another family is called that */
    int n = u->levels = cfg_ints(c, "block_out_channels", 1, UNET_LEVELS, wide, 1, 65536);
    u->in_c = (int)cfg_int(c, "in_channels", 4, 1, 256);
    u->out_c = (int)cfg_int(c, "out_channels", 4, 1, 256);
    u->sample_size = (int)cfg_int(c, "sample_size", 64, 1, 65536);
    u->groups = (int)cfg_int(c, "norm_num_groups", 32, 1, 65536);
    u->eps = (float)cfg_float(c, "norm_eps", 1e-5, 1e-20, 1);
    u->mid_scale = (float)cfg_float(c, "mid_block_scale_factor", 1, 1e-3, 1e3);
    u->out_scale = (float)cfg_float(c, "resnet_out_scale_factor", 1, 1e-3, 1e3);
    u->flip_sin_cos = cfg_bool(c, "flip_sin_to_cos", true);
    u->freq_shift = (float)cfg_float(c, "freq_shift", 0, -1e3, 0.5);
    u->text_dim = (int)cfg_int(c, "encoder_hid_dim", CFG_REQUIRED, 8, 65536);
    u->pool_heads = (int)cfg_int(c, "addition_embed_type_num_heads", 64, 1, 1024);
    u->noise_level = cfg_has(c, "class_embed_type") && cfg_choice(c, "class_embed_type", 0, 1, embed) == 0;
    cfg_spread(c, "layers_per_block", n, layers, 2, 1, UNET_LAYERS);
    cfg_spread(c, "attention_head_dim", n, head, 8, 1, 1024);
    cfg_spread(c, "cross_attention_dim", n, cross, 1280, 1, 65536);
    read_types(c, "down_block_types", n, "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", u->cross_down);
    read_types(c, "up_block_types", n, "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D", u->cross_up);
    check_activation(c);
    u->head_dim = (int)head[0], u->cross_dim = (int)cross[0];
    u->temb = (int)cfg_int(c, "time_embedding_dim", 4 * wide[0], 1, 262144);
    for (int i = 0; i < n; i++) {
        u->channels[i] = (int)wide[i], u->layers[i] = (int)layers[i];
        if (head[i] != head[0])
            cfg_fail(c, "attention_head_dim", "dlens computes UNets of DeepFloyd IF with one head size at all levels");
        if (cross[i] != cross[0])
            cfg_fail(c, "cross_attention_dim", "dlens computes UNets with one text width at all levels");
    }
    check_widths(c, u);
    int rc = cfg_check(c, e);
    cfg_close(c);
    return rc;
}
