/* FLUX.1 schnell and dev: configs restated at full size, and small ones that keep what is peculiar to them: double and
 * single blocks, heads turned along three axes of unlike widths, packed latents of 16 channels, a VAE with shift and
 * without post_quant_conv, a pooled vector and text states of other widths than the transformer's, dev's guidance input
 * and shifted schedule. */
#include "tools/synth.h"

#include "pipelines/flux.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    const char *axes; /* further keys of the transformer's config */
    int heads, head_dim, doubles, singles;
    struct synth_clip clip;
    struct synth_t5 t5;
    const char *vae_channels;
    int vae_groups, vae_layers, vae_sample;
};

static const struct shape shapes[2] = {
    {.axes = "  'axes_dims_rope': [4, 6, 6],\n",
     .heads = 3,
     .head_dim = 16,
     .doubles = 2,
     .singles = 3,
     .clip = {.class_name = "CLIPTextModel",
              .act = "quick_gelu",
              .width = 40,
              .ff = 64,
              .layers = 4,
              .heads = 5,
              .projection = 40},
     .t5 = {.width = 32, .ff = 48, .layers = 4, .heads = 3, .head_dim = 8},
     .vae_channels = "[8, 8, 16, 16]",
     .vae_groups = 4,
     .vae_layers = 1,
     .vae_sample = 128},
    {.axes = "",
     .heads = 24,
     .head_dim = 128,
     .doubles = 19,
     .singles = 38,
     .clip = {.class_name = "CLIPTextModel",
              .act = "quick_gelu",
              .width = 768,
              .ff = 3072,
              .layers = 12,
              .heads = 12,
              .projection = 768,
              .vocab = 49408},
     .t5 = {.width = 4096, .ff = 10240, .layers = 24, .heads = 64, .head_dim = 64, .vocab = 32128},
     .vae_channels = "[128, 256, 512, 512]",
     .vae_groups = 32,
     .vae_layers = 2,
     .vae_sample = 1024},
};

/* Shifts, scales and gates of ordinary size; the stream grows by branches of which the gates pass a part. */
static const struct synth_gain gains[] = {
    {"norm_out.linear", 0.7f},  {"norm1", 1},       {"norm.linear", 1}, {"ff.net.2", 1.5f},
    {"ff_context.net.2", 1.5f}, {"linear_2", 1.5f}, {NULL, 0},
};

static struct synth_plan plan(void *user, const struct synth_tensor *t)
{
    (void)user;
    return synth_plan_of(t, gains);
}

int synth_flux_weights(const struct synth_opts *o, struct dl_err *e)
{
    char folder[4000], path[4200];
    struct flux_config c;
    if (synth_join(folder, sizeof folder, o->out, "transformer", e) < 0 ||
        synth_join(path, sizeof path, folder, "config.json", e) < 0 || flux_config_read(&c, path, e) < 0)
        return -1;
    struct synth_list l = {0};
    struct bind b;
    struct flux f = {0};
    if (bind_open_list(&b, synth_collect, &l, e) < 0) return -1;
    int rc = flux_bind(&f, &c, &b, e);
    flux_close(&f);
    if (bind_close(&b, e) < 0) rc = -1;
    if (rc == 0) rc = synth_shards(folder, "diffusion_pytorch_model", &l, o, plan, NULL, e);
    synth_list_close(&l);
    return rc;
}

int synth_flux_transformer(const struct synth_opts *o, bool dev, struct dl_err *e)
{
    const struct shape *s = &shapes[o->full];
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "transformer", e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_text(folder, "config.json", e,
                   "{\n  '_class_name': 'FluxTransformer2DModel',\n  '_diffusers_version': '0.30.0.dev0',\n"
                   "  'attention_head_dim': %d,\n%s  'guidance_embeds': %s,\n  'in_channels': 64,\n"
                   "  'joint_attention_dim': %d,\n  'num_attention_heads': %d,\n  'num_layers': %d,\n"
                   "  'num_single_layers': %d,\n  'patch_size': 1,\n  'pooled_projection_dim': %d\n}\n",
                   s->head_dim, s->axes, dev ? "true" : "false", s->t5.width, s->heads, s->doubles, s->singles,
                   s->clip.width) < 0)
        return -1;
    return synth_flux_weights(o, e);
}

static int write_vae(const struct synth_opts *o, const struct shape *s, struct dl_err *e)
{
#define FOUR(x) "'" x "', '" x "', '" x "', '" x "'"
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "vae", e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_text(folder, "config.json", e,
                   "{\n  '_class_name': 'AutoencoderKL',\n  'act_fn': 'silu',\n  'block_out_channels': %s,\n"
                   "  'down_block_types': [" FOUR(
                       "DownEncoderBlock2D") "],\n  'force_upcast': true,\n"
                                             "  'in_channels': 3,\n  'latent_channels': 16,\n  'latents_mean': null,\n"
                                             "  'latents_std': null,\n  'layers_per_block': %d,\n  "
                                             "'mid_block_add_attention': true,\n"
                                             "  'norm_num_groups': %d,\n  'out_channels': 3,\n  'sample_size': %d,\n"
                                             "  'scaling_factor': 0.3611,\n  'shift_factor': 0.1159,\n"
                                             "  'up_block_types': [" FOUR(
                                                 "UpDecoderBlock2D") "],\n"
                                                                     "  'use_post_quant_conv': false,\n  "
                                                                     "'use_quant_conv': false\n}\n",
                   s->vae_channels, s->vae_layers, s->vae_groups, s->vae_sample) < 0)
        return -1;
    return synth_vae(o, "vae", e);
#undef FOUR
}

static int write_scheduler(const struct synth_opts *o, bool dev, struct dl_err *e)
{
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, "scheduler", e) < 0 || synth_folder(folder, e) < 0) return -1;
    return synth_text(folder, "scheduler_config.json", e,
                      "{\n  '_class_name': 'FlowMatchEulerDiscreteScheduler',\n"
                      "  '_diffusers_version': '0.30.0.dev0',\n  'base_image_seq_len': 256,\n"
                      "  'base_shift': 0.5,\n  'max_image_seq_len': 4096,\n  'max_shift': 1.15,\n"
                      "  'num_train_timesteps': 1000,\n  'shift': %s,\n  'use_dynamic_shifting': %s\n}\n",
                      dev ? "3.0" : "1.0", dev ? "true" : "false");
}

static int write_index(const struct synth_opts *o, struct dl_err *e)
{
    if (synth_readme(o, e) < 0) return -1;
    return synth_text(o->out, "model_index.json", e,
                      "{\n  '_class_name': 'FluxPipeline',\n  '_diffusers_version': '0.30.0.dev0',\n"
                      "  '_name_or_path': 'synthetic, like %s, seed %llu',\n"
                      "  'scheduler': ['diffusers', 'FlowMatchEulerDiscreteScheduler'],\n"
                      "  'text_encoder': ['transformers', 'CLIPTextModel'],\n"
                      "  'text_encoder_2': ['transformers', 'T5EncoderModel'],\n"
                      "  'tokenizer': ['transformers', 'CLIPTokenizer'],\n"
                      "  'tokenizer_2': ['transformers', 'T5TokenizerFast'],\n"
                      "  'transformer': ['diffusers', 'FluxTransformer2DModel'],\n"
                      "  'vae': ['diffusers', 'AutoencoderKL']\n}\n",
                      o->like, (unsigned long long)o->seed);
}

int synth_flux(const struct synth_opts *o, bool dev, struct dl_err *e)
{
    const struct shape *s = &shapes[o->full];
    struct synth_clip clip = s->clip;
    struct synth_t5 t5 = s->t5;
    if (synth_folder(o->out, e) < 0) return -1;
    if (synth_tokenizer(o, "tokenizer", "<|endoftext|>", &clip.vocab, e) < 0 ||
        synth_t5_tokenizer(o, "tokenizer_2", &t5.vocab, e) < 0 || synth_clip(o, "text_encoder", &clip, e) < 0 ||
        synth_t5(o, "text_encoder_2", &t5, e) < 0 || write_scheduler(o, dev, e) < 0 ||
        synth_flux_transformer(o, dev, e) < 0 || write_vae(o, s, e) < 0)
        return -1;
    return write_index(o, e); /* last: without it the folder is no model */
}
