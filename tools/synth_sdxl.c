/* Stable Diffusion XL: the published configs restated at full size, and a small one that keeps what is peculiar: two
 * encoders of different width, activation and padding, the second with a projection (here of another width than its
 * states), a first level without attention, transformers of several blocks, the added embedding of pooled text and
 * sizes, a VAE whose activations f16 does not hold. */
#include "tools/synth.h"

struct shape {
    struct synth_clip text[2];
    const char *channels, *heads, *depth; /* of the UNet, JSON lists */
    int groups, sample, time_ids;
    const char *vae_channels, *vae_down, *vae_up;
    int vae_groups, vae_sample, vae_layers;
};

#define ENCODER "'DownEncoderBlock2D'"
#define DECODER "'UpDecoderBlock2D'"
#define CLIP_L .class_name = "CLIPTextModel", .act = "quick_gelu"
#define CLIP_G .class_name = "CLIPTextModelWithProjection", .act = "gelu"

static const struct shape shapes[2] = {
    {.text = {{CLIP_L, .width = 32, .ff = 64, .layers = 4, .heads = 2, .projection = 32},
              {CLIP_G, .width = 48, .ff = 96, .layers = 5, .heads = 3, .projection = 40}},
     .channels = "[8, 16, 16]",
     .heads = "[1, 2, 1]",
     .depth = "[1, 2, 3]",
     .groups = 4,
     .sample = 16,
     .time_ids = 8,
     .vae_channels = "[8, 8, 16]",
     .vae_down = "[" ENCODER ", " ENCODER ", " ENCODER "]",
     .vae_up = "[" DECODER ", " DECODER ", " DECODER "]",
     .vae_groups = 4,
     .vae_sample = 64,
     .vae_layers = 1},
    {.text = {{CLIP_L, .width = 768, .ff = 3072, .layers = 12, .heads = 12, .projection = 768},
              {CLIP_G, .width = 1280, .ff = 5120, .layers = 32, .heads = 20, .projection = 1280}},
     .channels = "[320, 640, 1280]",
     .heads = "[5, 10, 20]",
     .depth = "[1, 2, 10]",
     .groups = 32,
     .sample = 128,
     .time_ids = 256,
     .vae_channels = "[128, 256, 512, 512]",
     .vae_down = "[" ENCODER ", " ENCODER ", " ENCODER ", " ENCODER "]",
     .vae_up = "[" DECODER ", " DECODER ", " DECODER ", " DECODER "]",
     .vae_groups = 32,
     .vae_sample = 1024,
     .vae_layers = 2},
};

static int write_unet(const struct synth_opts *o, const struct shape *s, struct dl_err *e)
{
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "unet", e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_text(
            folder, "config.json", e,
            "{\n  '_class_name': 'UNet2DConditionModel',\n  'act_fn': 'silu',\n"
            "  'addition_embed_type': 'text_time',\n  'addition_embed_type_num_heads': 64,\n"
            "  'addition_time_embed_dim': %d,\n  'attention_head_dim': %s,\n  'block_out_channels': %s,\n"
            "  'center_input_sample': false,\n  'class_embed_type': null,\n  'class_embeddings_concat': false,\n"
            "  'conv_in_kernel': 3,\n  'conv_out_kernel': 3,\n  'cross_attention_dim': %d,\n"
            "  'down_block_types': ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],\n"
            "  'downsample_padding': 1,\n  'flip_sin_to_cos': true,\n  'freq_shift': 0,\n  'in_channels': 4,\n"
            "  'layers_per_block': 2,\n  'mid_block_scale_factor': 1,\n"
            "  'mid_block_type': 'UNetMidBlock2DCrossAttn',\n  'norm_eps': 1e-05,\n  'norm_num_groups': %d,\n"
            "  'num_attention_heads': null,\n  'out_channels': 4,\n"
            "  'projection_class_embeddings_input_dim': %d,\n  'resnet_time_scale_shift': 'default',\n"
            "  'sample_size': %d,\n  'time_embedding_type': 'positional',\n  'transformer_layers_per_block': %s,\n"
            "  'up_block_types': ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],\n"
            "  'upcast_attention': null,\n  'use_linear_projection': true\n}\n",
            s->time_ids, s->heads, s->channels, s->text[0].width + s->text[1].width, s->groups,
            s->text[1].projection + 6 * s->time_ids, s->sample, s->depth) < 0)
        return -1;
    return synth_unet(o, "unet", true, e);
}

static int write_vae(const struct synth_opts *o, const struct shape *s, struct dl_err *e)
{
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "vae", e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_text(folder, "config.json", e,
                   "{\n  '_class_name': 'AutoencoderKL',\n  'act_fn': 'silu',\n  'block_out_channels': %s,\n"
                   "  'down_block_types': %s,\n  'force_upcast': true,\n  'in_channels': 3,\n"
                   "  'latent_channels': 4,\n  'layers_per_block': %d,\n  'norm_num_groups': %d,\n"
                   "  'out_channels': 3,\n  'sample_size': %d,\n  'scaling_factor': 0.13025,\n"
                   "  'up_block_types': %s\n}\n",
                   s->vae_channels, s->vae_down, s->vae_layers, s->vae_groups, s->vae_sample, s->vae_up) < 0)
        return -1;
    return synth_vae(o, "vae", e);
}

static int write_scheduler(const struct synth_opts *o, struct dl_err *e)
{
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "scheduler", e) < 0 || synth_folder(folder, e) < 0) return -1;
    return synth_text(folder, "scheduler_config.json", e,
                      "{\n  '_class_name': 'EulerDiscreteScheduler',\n  'beta_end': 0.012,\n"
                      "  'beta_schedule': 'scaled_linear',\n  'beta_start': 0.00085,\n  'clip_sample': false,\n"
                      "  'interpolation_type': 'linear',\n  'num_train_timesteps': 1000,\n"
                      "  'prediction_type': 'epsilon',\n  'sample_max_value': 1.0,\n"
                      "  'set_alpha_to_one': false,\n  'skip_prk_steps': true,\n  'steps_offset': 1,\n"
                      "  'timestep_spacing': 'leading',\n  'trained_betas': null,\n"
                      "  'use_karras_sigmas': false\n}\n");
}

static int write_index(const struct synth_opts *o, struct dl_err *e)
{
    if (synth_readme(o, e) < 0) return -1;
    return synth_text(o->out, "model_index.json", e,
                      "{\n  '_class_name': 'StableDiffusionXLPipeline',\n  '_diffusers_version': '0.19.0',\n"
                      "  '_name_or_path': 'synthetic, like %s, seed %llu',\n  'add_watermarker': null,\n"
                      "  'force_zeros_for_empty_prompt': true,\n"
                      "  'scheduler': ['diffusers', 'EulerDiscreteScheduler'],\n"
                      "  'text_encoder': ['transformers', 'CLIPTextModel'],\n"
                      "  'text_encoder_2': ['transformers', 'CLIPTextModelWithProjection'],\n"
                      "  'tokenizer': ['transformers', 'CLIPTokenizer'],\n"
                      "  'tokenizer_2': ['transformers', 'CLIPTokenizer'],\n"
                      "  'unet': ['diffusers', 'UNet2DConditionModel'],\n  'vae': ['diffusers', 'AutoencoderKL']\n}\n",
                      o->like, (unsigned long long)o->seed);
}

int synth_sdxl(const struct synth_opts *o, struct dl_err *e)
{
    static const char *const encoder[] = {"text_encoder", "text_encoder_2"},
                             *const tokens[] = {"tokenizer", "tokenizer_2"}, *const pad[] = {"<|endoftext|>", "!"};
    const struct shape *s = &shapes[o->full];
    if (synth_folder(o->out, e) < 0) return -1;
    for (int i = 0; i < 2; i++) {
        struct synth_clip text = s->text[i];
        text.vocab = o->full ? 49408 : 0;
        if (synth_tokenizer(o, tokens[i], pad[i], &text.vocab, e) < 0) return -1;
        if (synth_clip(o, encoder[i], &text, e) < 0) return -1;
    }
    if (write_scheduler(o, e) < 0 || write_unet(o, s, e) < 0 || write_vae(o, s, e) < 0) return -1;
    return write_index(o, e); /* last: without it the folder is no model */
}
