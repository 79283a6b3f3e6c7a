/* DeepFloyd IF: the published configs of both stages at full size, and small ones that keep what is peculiar to them:
 * a T5 encoder whose inner width is not its own, UNets on pixels with resnets as samplers, attention to text and pixels
 * together, pooled text in the time embedding, a learned variance; in stage II the noise level, activated embeddings,
 * damped branches and levels of unlike depth. */
#include "tools/synth.h"

#include "pipelines/unet_if.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define D "'ResnetDownsampleBlock2D'"
#define DX "'SimpleCrossAttnDownBlock2D'"
#define U "'ResnetUpsampleBlock2D'"
#define UX "'SimpleCrossAttnUpBlock2D'"
#define STAGE1                                                                                                         \
    .stage = 1, .layers = "3", .down = "[" D ", " DX ", " DX ", " DX "]", .up = "[" UX ", " UX ", " UX ", " U "]",     \
    .temb = "null", .head = 64, .text = 4096, .pool = 64, .groups = 32, .sample = 64

static const struct shape {
    char size;
    struct synth_if_unet unet;
} full[] = {
    {'M', {STAGE1, .channels = "[192, 384, 576, 768]", .cross = 768}},
    {'L', {STAGE1, .channels = "[320, 640, 960, 1280]", .cross = 1280}},
    {'X', {STAGE1, .channels = "[704, 1408, 2112, 2816]", .cross = 2816}},
    {'L',
     {.stage = 2,
      .channels = "[160, 320, 640, 960, 1280]",
      .layers = "[2, 2, 3, 5, 5]",
      .down = "[" D ", " D ", " D ", " DX ", " DX "]",
      .up = "[" UX ", " UX ", " U ", " U ", " U "]",
      .temb = "1280",
      .head = 64,
      .cross = 1280,
      .text = 4096,
      .pool = 64,
      .groups = 32,
      .sample = 256}},
};

/* The norm over the text has several channels in a group, as the real one: with one, the end token of an empty prompt
 * alone makes its variance, and attention turns on the last bits. */
static const struct synth_if_unet tiny[2] = {
    {.stage = 1,
     .channels = "[16, 32, 48]",
     .layers = "2",
     .down = "[" D ", " DX ", " DX "]",
     .up = "[" UX ", " UX ", " U "]",
     .temb = "null",
     .head = 16,
     .cross = 128,
     .text = 48,
     .pool = 6,
     .groups = 8,
     .sample = 16},
    {.stage = 2,
     .channels = "[16, 16, 32, 48]",
     .layers = "[1, 2, 1, 3]",
     .down = "[" D ", " D ", " DX ", " DX "]",
     .up = "[" UX ", " UX ", " U ", " U "]",
     .temb = "40",
     .head = 16,
     .cross = 128,
     .text = 48,
     .pool = 3,
     .groups = 8,
     .sample = 64},
};

static const struct synth_t5 encoder[2] = {
    {.width = 48, .ff = 80, .layers = 4, .heads = 4, .head_dim = 16},
    {.width = 4096, .ff = 10240, .layers = 24, .heads = 64, .head_dim = 64, .vocab = 32128},
};

int synth_if_unet_config(const char *folder, const struct synth_if_unet *s, struct dl_err *e)
{
    bool second = s->stage == 2;
    const char *scale = second ? "1.4142271248762552" : "1.0";
    return synth_text(
        folder, "config.json", e,
        "{\n  '_class_name': 'UNet2DConditionModel',\n  '_diffusers_version': '0.15.0.dev0',\n  'act_fn': 'gelu',\n"
        "  'addition_embed_type': 'text',\n  'addition_embed_type_num_heads': %d,\n  'attention_head_dim': %d,\n"
        "  'block_out_channels': %s,\n  'center_input_sample': false,\n  'class_embed_type': %s,\n"
        "  'class_embeddings_concat': false,\n  'conv_in_kernel': 3,\n  'conv_out_kernel': 3,\n"
        "  'cross_attention_dim': %d,\n  'cross_attention_norm': 'group_norm',\n  'down_block_types': %s,\n"
        "  'downsample_padding': 1,\n  'dual_cross_attention': false,\n  'encoder_hid_dim': %d,\n"
        "  'flip_sin_to_cos': true,\n  'freq_shift': 0,\n  'in_channels': %d,\n  'layers_per_block': %s,\n"
        "  'mid_block_only_cross_attention': null,\n  'mid_block_scale_factor': %s,\n"
        "  'mid_block_type': 'UNetMidBlock2DSimpleCrossAttn',\n  'norm_eps': 1e-05,\n  'norm_num_groups': %d,\n"
        "  'num_class_embeds': null,\n  'only_cross_attention': false,\n  'out_channels': 6,\n"
        "  'projection_class_embeddings_input_dim': null,\n  'resnet_out_scale_factor': %s,\n"
        "  'resnet_skip_time_act': %s,\n  'resnet_time_scale_shift': 'scale_shift',\n  'sample_size': %d,\n"
        "  'time_cond_proj_dim': null,\n  'time_embedding_act_fn': %s,\n  'time_embedding_dim': %s,\n"
        "  'time_embedding_type': 'positional',\n  'timestep_post_act': null,\n  'up_block_types': %s,\n"
        "  'upcast_attention': false,\n  'use_linear_projection': false\n}\n",
        s->pool, s->head, s->channels, second ? "'timestep'" : "null", s->cross, s->down, s->text, second ? 6 : 3,
        s->layers, scale, s->groups, scale, second ? "true" : "false", s->sample, second ? "'gelu'" : "null", s->temb,
        s->up);
}

/* Branches added to a stream are damped, what follows an activation is raised, attention is sharpened. */
static const struct synth_gain gains[] = {
    {"embedding.linear_2", 1.5f},
    {"time_emb_proj", 0.7f},
    {"conv1", 1.5f},
    {"conv2", 0.5f},
    {"to_out", 0.5f},
    {"to_q", 1.3f},
    {"to_k", 1.3f},
    {"add_k_proj", 1.3f},
    {"pool.q_proj", 1.7f},
    {"pool.k_proj", 1.7f},
    {"positional_embedding", 0.3f},
    {"conv_in", 0.3f},
    {NULL, 0},
};

struct path {
    char last[96]; /* the last resnet's shortcut */
};

/* The network hands its input on, see synth_value.c. */
static struct synth_plan plan(void *user, const struct synth_tensor *t)
{
    const struct path *u = user;
    struct synth_plan p = synth_plan_of(t, gains);
    if (!strcmp(t->name, "conv_in.weight"))
        p.echo = SYNTH_SPREAD, p.echo_gain = 0.5f;
    else if (!strcmp(t->name, u->last))
        p.echo = SYNTH_PASS, p.echo_gain = 4, p.std *= 0.7f;
    else if (!strcmp(t->name, "conv_out.weight"))
        p.echo = SYNTH_GATHER, p.echo_gain = 4.9f / (float)t->dim[1], p.std *= 0.1f;
    return p;
}

static int write_unet(const struct synth_opts *o, const struct synth_if_unet *s, struct dl_err *e)
{
    char folder[4000], config[4096];
    struct unet_if_config c;
    if (synth_join(folder, sizeof folder, o->out, "unet", e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_if_unet_config(folder, s, e) < 0 || synth_join(config, sizeof config, folder, "config.json", e) < 0 ||
        unet_if_config_read(&c, config, e) < 0)
        return -1;
    struct synth_list l = {0};
    struct bind b;
    struct path p;
    struct unet_if *u = calloc(1, sizeof *u);
    if (!u) return dl_fail(e, DL_ENOMEM, "%s: no memory", folder);
    if (bind_open_list(&b, synth_collect, &l, e) < 0) {
        free(u);
        return -1;
    }
    unet_if_bind(u, &c, &b);
    unet_if_close(u);
    free(u);
    snprintf(p.last, sizeof p.last, "up_blocks.%d.resnets.%d.conv_shortcut.weight", c.levels - 1, c.layers[0]);
    int rc = bind_close(&b, e);
    if (rc == 0) rc = synth_shards(folder, "diffusion_pytorch_model", &l, o, plan, &p, e);
    synth_list_close(&l);
    return rc;
}

static int write_scheduler(const struct synth_opts *o, const char *part, double ratio, const char *most, bool learned,
                           struct dl_err *e)
{
    char folder[4000];
    if (synth_join(folder, sizeof folder, o->out, part, e) < 0 || synth_folder(folder, e) < 0) return -1;
    return synth_text(folder, "scheduler_config.json", e,
                      "{\n  '_class_name': 'DDPMScheduler',\n  '_diffusers_version': '0.15.0.dev0',\n"
                      "  'beta_end': 0.02,\n  'beta_schedule': 'squaredcos_cap_v2',\n  'beta_start': 0.0001,\n"
                      "  'clip_sample': true,\n  'clip_sample_range': 1.0,\n  'dynamic_thresholding_ratio': %g,\n"
                      "  'num_train_timesteps': 1000,\n  'prediction_type': 'epsilon',\n  'sample_max_value': %s,\n"
                      "  'thresholding': %s,\n  'trained_betas': null,\n  'variance_type': '%s'\n}\n",
                      ratio, most, learned ? "true" : "false", learned ? "learned_range" : "fixed_small");
}

static int write_index(const struct synth_opts *o, bool second, struct dl_err *e)
{
    if (synth_readme(o, e) < 0) return -1;
    return synth_text(o->out, "model_index.json", e,
                      "{\n  '_class_name': '%s',\n  '_diffusers_version': '0.15.0.dev0',\n"
                      "  '_name_or_path': 'synthetic, like %s, seed %llu',\n  'feature_extractor': [null, null],\n"
                      "%s  'requires_safety_checker': false,\n  'safety_checker': [null, null],\n"
                      "  'scheduler': ['diffusers', 'DDPMScheduler'],\n"
                      "  'text_encoder': ['transformers', 'T5EncoderModel'],\n"
                      "  'tokenizer': ['transformers', 'T5Tokenizer'],\n"
                      "  'unet': ['diffusers', 'UNet2DConditionModel'],\n  'watermarker': [null, null]\n}\n",
                      second ? "IFSuperResolutionPipeline" : "IFPipeline", o->like, (unsigned long long)o->seed,
                      second ? "  'image_noising_scheduler': ['diffusers', 'DDPMScheduler'],\n" : "");
}

int synth_if(const struct synth_opts *o, int stage, char size, struct dl_err *e)
{
    const struct synth_if_unet *unet = &tiny[stage - 1];
    for (size_t i = 0; o->full && i < sizeof full / sizeof *full; i++)
        if (full[i].size == size && full[i].unet.stage == stage) unet = &full[i].unet;
    struct synth_t5 text = encoder[o->full];
    if (synth_folder(o->out, e) < 0 || synth_t5_tokenizer(o, "tokenizer", &text.vocab, e) < 0 ||
        synth_t5(o, "text_encoder", &text, e) < 0 || write_unet(o, unet, e) < 0 ||
        write_scheduler(o, "scheduler", 0.95, stage == 2 ? "1.0" : "1.5", true, e) < 0)
        return -1;
    if (stage == 2 && write_scheduler(o, "image_noising_scheduler", 0.995, "1.0", false, e) < 0) return -1;
    return write_index(o, stage == 2, e); /* last: without it the folder is no model */
}
