/* Stable Diffusion 1.5 and 2.1: configs restated at full size, and small ones that keep what is peculiar to each: one
 * number of heads for all levels (1.5) or a list (2.1), quick_gelu or gelu, convolutions or matrices around the
 * transformers, a plain last level, PNDM with noise prediction or DDIM with v prediction, padding by the end token or
 * by "!". */
#include "tools/synth.h"

struct shape {
    const char *act;
    int text_width, text_ff, text_layers, text_heads;
    const char *channels, *down, *up, *heads; /* of the UNet, JSON lists */
    const char *linear;                       /* use_linear_projection */
    int groups, sample, layers;
    const char *vae_channels, *vae_down, *vae_up;
    int vae_groups, vae_sample, vae_layers;
    const char *extra; /* further keys of the UNet's config */
};

#define CROSS_DOWN "'CrossAttnDownBlock2D'"
#define CROSS_UP "'CrossAttnUpBlock2D'"
#define DOWN4 "[" CROSS_DOWN ", " CROSS_DOWN ", " CROSS_DOWN ", 'DownBlock2D']"
#define UP4 "['UpBlock2D', " CROSS_UP ", " CROSS_UP ", " CROSS_UP "]"
#define DOWN3 "[" CROSS_DOWN ", " CROSS_DOWN ", 'DownBlock2D']"
#define UP3 "['UpBlock2D', " CROSS_UP ", " CROSS_UP "]"
#define ENCODER "'DownEncoderBlock2D'"
#define DECODER "'UpDecoderBlock2D'"
#define VAE_DOWN4 "[" ENCODER ", " ENCODER ", " ENCODER ", " ENCODER "]"
#define VAE_UP4 "[" DECODER ", " DECODER ", " DECODER ", " DECODER "]"
#define VAE_DOWN3 "[" ENCODER ", " ENCODER ", " ENCODER "]"
#define VAE_UP3 "[" DECODER ", " DECODER ", " DECODER "]"
#define SD21_EXTRA "  'dual_cross_attention': false,\n  'only_cross_attention': false,\n  'upcast_attention': true,\n"

static const struct shape shapes[2][2] = {
    {
        {.act = "quick_gelu",
         .text_width = 32,
         .text_ff = 64,
         .text_layers = 4,
         .text_heads = 2,
         .channels = "[16, 16, 32]",
         .down = DOWN3,
         .up = UP3,
         .heads = "2",
         .linear = "false",
         .groups = 8,
         .sample = 16,
         .layers = 2,
         .vae_channels = "[8, 8, 16]",
         .vae_down = VAE_DOWN3,
         .vae_up = VAE_UP3,
         .vae_groups = 4,
         .vae_sample = 64,
         .vae_layers = 1,
         .extra = ""},
        {.act = "quick_gelu",
         .text_width = 768,
         .text_ff = 3072,
         .text_layers = 12,
         .text_heads = 12,
         .channels = "[320, 640, 1280, 1280]",
         .down = DOWN4,
         .up = UP4,
         .heads = "8",
         .linear = "false",
         .groups = 32,
         .sample = 64,
         .layers = 2,
         .vae_channels = "[128, 256, 512, 512]",
         .vae_down = VAE_DOWN4,
         .vae_up = VAE_UP4,
         .vae_groups = 32,
         .vae_sample = 512,
         .vae_layers = 2,
         .extra = ""},
    },
    {
        {.act = "gelu",
         .text_width = 32,
         .text_ff = 96,
         .text_layers = 3,
         .text_heads = 4,
         .channels = "[16, 16, 32]",
         .down = DOWN3,
         .up = UP3,
         .heads = "[1, 2, 4]",
         .linear = "true",
         .groups = 8,
         .sample = 12,
         .layers = 2,
         .vae_channels = "[8, 8, 16]",
         .vae_down = VAE_DOWN3,
         .vae_up = VAE_UP3,
         .vae_groups = 4,
         .vae_sample = 48,
         .vae_layers = 1,
         .extra = SD21_EXTRA},
        {.act = "gelu",
         .text_width = 1024,
         .text_ff = 4096,
         .text_layers = 23,
         .text_heads = 16,
         .channels = "[320, 640, 1280, 1280]",
         .down = DOWN4,
         .up = UP4,
         .heads = "[5, 10, 20, 20]",
         .linear = "true",
         .groups = 32,
         .sample = 96,
         .layers = 2,
         .vae_channels = "[128, 256, 512, 512]",
         .vae_down = VAE_DOWN4,
         .vae_up = VAE_UP4,
         .vae_groups = 32,
         .vae_sample = 768,
         .vae_layers = 2,
         .extra = SD21_EXTRA},
    },
};

static int write_text_encoder(const struct synth_opts *o, const struct shape *s, int vocab, struct dl_err *e)
{
    return synth_clip(o, "text_encoder",
                      &(struct synth_clip){.class_name = "CLIPTextModel",
                                           .act = s->act,
                                           .width = s->text_width,
                                           .ff = s->text_ff,
                                           .layers = s->text_layers,
                                           .heads = s->text_heads,
                                           .projection = s->text_width,
                                           .vocab = vocab},
                      e);
}

static int write_unet(const struct synth_opts *o, const struct shape *s, bool v2, struct dl_err *e)
{
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "unet", e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_text(
            folder, "config.json", e,
            "{\n  '_class_name': 'UNet2DConditionModel',\n  'act_fn': 'silu',\n  'attention_head_dim': %s,\n"
            "  'block_out_channels': %s,\n  'center_input_sample': false,\n  'cross_attention_dim': %d,\n"
            "  'down_block_types': %s,\n  'downsample_padding': 1,\n%s  'flip_sin_to_cos': true,\n"
            "  'freq_shift': 0,\n  'in_channels': 4,\n  'layers_per_block': %d,\n  'mid_block_scale_factor': 1,\n"
            "  'norm_eps': 1e-05,\n  'norm_num_groups': %d,\n  'out_channels': 4,\n  'sample_size': %d,\n"
            "  'up_block_types': %s,\n  'use_linear_projection': %s\n}\n",
            s->heads, s->channels, s->text_width, s->down, s->extra, s->layers, s->groups, s->sample, s->up,
            s->linear) < 0)
        return -1;
    return synth_unet(o, "unet", !v2, e);
}

static int write_vae(const struct synth_opts *o, const struct shape *s, struct dl_err *e)
{
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "vae", e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_text(
            folder, "config.json", e,
            "{\n  '_class_name': 'AutoencoderKL',\n  'act_fn': 'silu',\n  'block_out_channels': %s,\n"
            "  'down_block_types': %s,\n  'in_channels': 3,\n  'latent_channels': 4,\n  'layers_per_block': %d,\n"
            "  'norm_num_groups': %d,\n  'out_channels': 3,\n  'sample_size': %d,\n  'up_block_types': %s\n}\n",
            s->vae_channels, s->vae_down, s->vae_layers, s->vae_groups, s->vae_sample, s->vae_up) < 0)
        return -1;
    return synth_vae(o, "vae", e);
}

static int write_scheduler(const struct synth_opts *o, bool v2, struct dl_err *e)
{
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "scheduler", e) < 0 || synth_folder(folder, e) < 0) return -1;
    return synth_text(folder, "scheduler_config.json", e,
                      "{\n  '_class_name': '%s',\n  'beta_end': 0.012,\n  'beta_schedule': 'scaled_linear',\n"
                      "  'beta_start': 0.00085,\n  'clip_sample': false,\n  'num_train_timesteps': 1000,\n"
                      "  'prediction_type': '%s',\n  'set_alpha_to_one': false,\n  'skip_prk_steps': true,\n"
                      "  'steps_offset': 1,\n  'trained_betas': null\n}\n",
                      v2 ? "DDIMScheduler" : "PNDMScheduler", v2 ? "v_prediction" : "epsilon");
}

static int write_index(const struct synth_opts *o, bool v2, struct dl_err *e)
{
    if (synth_readme(o, e) < 0) return -1;
    return synth_text(o->out, "model_index.json", e,
                      "{\n  '_class_name': 'StableDiffusionPipeline',\n  '_diffusers_version': '0.8.0',\n"
                      "  '_name_or_path': 'synthetic, like %s, seed %llu',\n"
                      "  'feature_extractor': [null, null],\n  'requires_safety_checker': false,\n"
                      "  'safety_checker': [null, null],\n  'scheduler': ['diffusers', '%s'],\n"
                      "  'text_encoder': ['transformers', 'CLIPTextModel'],\n"
                      "  'tokenizer': ['transformers', 'CLIPTokenizer'],\n"
                      "  'unet': ['diffusers', 'UNet2DConditionModel'],\n  'vae': ['diffusers', 'AutoencoderKL']\n}\n",
                      o->like, (unsigned long long)o->seed, v2 ? "DDIMScheduler" : "PNDMScheduler");
}

int synth_sd(const struct synth_opts *o, bool v2, struct dl_err *e)
{
    const struct shape *s = &shapes[v2][o->full];
    int vocab = o->full ? 49408 : 0;
    if (synth_folder(o->out, e) < 0 || synth_tokenizer(o, "tokenizer", v2 ? "!" : "<|endoftext|>", &vocab, e) < 0)
        return -1;
    if (write_scheduler(o, v2, e) < 0 || write_text_encoder(o, s, vocab, e) < 0) return -1;
    if (write_unet(o, s, v2, e) < 0 || write_vae(o, s, e) < 0) return -1;
    return write_index(o, v2, e); /* last: without it the folder is no model */
}
