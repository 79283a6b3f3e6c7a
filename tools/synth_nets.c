/* The networks that several models have. */
#include "tools/synth.h"

#include "pipelines/clip.h"
#include "pipelines/unet.h"
#include "pipelines/vae.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Branches that are added to a stream are damped, so that the stream keeps its size; what follows an activation is
 * raised by what the activation took; attention is sharpened, so that it does not merely average. */
static const struct synth_gain clip_gains[] = {
    {"token_embedding", 0.5f},
    {"position_embedding", 0.25f},
    {"q_proj", 1.5f},
    {"k_proj", 1.5f},
    {"out_proj", 0.8f},
    {"fc2", 0.8f},
    {NULL, 0},
};
static const struct synth_gain unet_gains[] = {
    {"time_embedding.linear_2", 1.5f},
    {"time_emb_proj", 1.5f},
    {"conv1", 1.5f},
    {"conv2", 0.7f},
    {"attn2.to_q", 2},
    {"attn2.to_k", 2},
    {"attn2.to_out", 2},
    {"attn1.to_q", 1.5f},
    {"attn1.to_k", 1.5f},
    {"ff.net.2", 1},
    {"proj_out", 0.5f},
    {"conv_in", 0.3f},
    {"conv_out", 1},
    {NULL, 0},
};
/* Where several blocks follow each other, each takes less: errors of rounding would grow from block to block. */
static const struct synth_gain deep_unet_gains[] = {
    {"time_embedding.linear_2", 1.5f},
    {"add_embedding.linear_2", 1.5f},
    {"time_emb_proj", 1.5f},
    {"conv1", 1.5f},
    {"conv2", 0.7f},
    {"attn2.to_q", 1.3f},
    {"attn2.to_k", 1.3f},
    {"attn2.to_out", 0.8f},
    {"attn1.to_out", 0.5f},
    {"ff.net.2", 0.5f},
    {"proj_out", 0.5f},
    {"conv_in", 0.3f},
    {"conv_out", 1},
    {NULL, 0},
};
static const struct synth_gain vae_gains[] = {
    {"decoder.conv_in", 0.2f},  {"conv1", 1.5f}, {"conv2", 0.7f}, {"to_q", 1.5f}, {"to_k", 1.5f},
    {"decoder.conv_out", 0.7f}, {NULL, 0},
};

static struct synth_plan plan_plain(void *user, const struct synth_tensor *t) { return synth_plan_of(t, user); }

struct unet_plan {
    char last[96]; /* the last resnet's shortcut */
    bool hand_on;  /* noise prediction: the network's input shows in its output */
    const struct synth_gain *gains;
};

static struct synth_plan plan_unet(void *user, const struct synth_tensor *t)
{
    const struct unet_plan *u = user;
    struct synth_plan p = synth_plan_of(t, u->gains);
    if (!strcmp(t->name, "conv_in.weight"))
        p.echo = SYNTH_SPREAD, p.echo_gain = 0.5f;
    else if (!strcmp(t->name, u->last))
        p.echo = SYNTH_PASS, p.echo_gain = u->hand_on ? 4 : 1, p.std *= 0.7f;
    else if (!strcmp(t->name, "conv_out.weight") && u->hand_on)
        p.echo = SYNTH_GATHER, p.echo_gain = 4.9f / (float)t->dim[1], p.std *= 0.3f;
    return p;
}

/* Ends the binding of a list and writes its tensors. */
static int finish(struct bind *b, int rc, struct synth_list *l, const char *folder, const char *stem,
                  const struct synth_opts *o, struct synth_plan (*plan)(void *, const struct synth_tensor *),
                  void *user, struct dl_err *e)
{
    char path[4096];
    if (bind_close(b, e) < 0) rc = -1;
    if (rc == 0) rc = synth_join(path, sizeof path, folder, stem, e);
    if (rc == 0) rc = synth_tensors(path, l, o, plan, user, e);
    synth_list_close(l);
    return rc;
}

/* Where a network's folder and its config.json are. */
struct place {
    char folder[4000], config[4096];
};

static int place_of(struct place *p, const struct synth_opts *o, const char *folder, struct dl_err *e)
{
    if (synth_join(p->folder, sizeof p->folder, o->out, folder, e) < 0) return -1;
    return synth_join(p->config, sizeof p->config, p->folder, "config.json", e);
}

int synth_clip(const struct synth_opts *o, const char *folder, const struct synth_clip *s, struct dl_err *e)
{
    struct place at;
    struct clip_config c;
    if (place_of(&at, o, folder, e) < 0 || synth_folder(at.folder, e) < 0) return -1;
    if (synth_text(at.folder, "config.json", e,
                   "{\n  'architectures': ['%s'],\n  'attention_dropout': 0.0,\n  'bos_token_id': 0,\n"
                   "  'dropout': 0.0,\n  'eos_token_id': 2,\n  'hidden_act': '%s',\n  'hidden_size': %d,\n"
                   "  'initializer_factor': 1.0,\n  'initializer_range': 0.02,\n  'intermediate_size': %d,\n"
                   "  'layer_norm_eps': 1e-05,\n  'max_position_embeddings': 77,\n  'model_type': 'clip_text_model',\n"
                   "  'num_attention_heads': %d,\n  'num_hidden_layers': %d,\n  'pad_token_id': 1,\n"
                   "  'projection_dim': %d,\n  'torch_dtype': 'float32',\n  'vocab_size': %d\n}\n",
                   s->class_name, s->act, s->width, s->ff, s->heads, s->layers, s->projection, s->vocab) < 0)
        return -1;
    if (clip_config_read(&c, at.config, e) < 0) return -1;
    struct synth_list l = {0};
    struct bind b;
    struct clip m = {0};
    if (bind_open_list(&b, synth_collect, &l, e) < 0) return -1;
    int rc = clip_bind(&m, &c, &b, e);
    clip_close(&m);
    return finish(&b, rc, &l, at.folder, "model.safetensors", o, plan_plain, (void *)(uintptr_t)clip_gains, e);
}

int synth_unet(const struct synth_opts *o, const char *folder, bool hand_on, struct dl_err *e)
{
    struct place at;
    struct unet_config c;
    if (place_of(&at, o, folder, e) < 0 || unet_config_read(&c, at.config, e) < 0) return -1;
    struct synth_list l = {0};
    struct bind b;
    struct unet *u = calloc(1, sizeof *u);
    if (!u) return dl_fail(e, DL_ENOMEM, "%s: no memory", at.folder);
    if (bind_open_list(&b, synth_collect, &l, e) < 0) {
        free(u);
        return -1;
    }
    int rc = unet_bind(u, &c, &b, e);
    unet_close(u);
    free(u);
    struct unet_plan p = {.hand_on = hand_on, .gains = unet_gains};
    for (int i = 0; i < c.levels; i++)
        if (c.depth[i] > 1) p.gains = deep_unet_gains;
    snprintf(p.last, sizeof p.last, "up_blocks.%d.resnets.%d.conv_shortcut.weight", c.levels - 1, c.layers[0]);
    return finish(&b, rc, &l, at.folder, "diffusion_pytorch_model.safetensors", o, plan_unet, &p, e);
}

int synth_vae(const struct synth_opts *o, const char *folder, struct dl_err *e)
{
    struct place at;
    struct vae_config c;
    if (place_of(&at, o, folder, e) < 0 || vae_config_read(&c, at.config, e) < 0) return -1;
    struct synth_list l = {0};
    struct bind b;
    struct vae *v = calloc(1, sizeof *v);
    if (!v) return dl_fail(e, DL_ENOMEM, "%s: no memory", at.folder);
    if (bind_open_list(&b, synth_collect, &l, e) < 0) {
        free(v);
        return -1;
    }
    vae_bind(v, &c, &b);
    vae_close(v);
    free(v);
    return finish(&b, 0, &l, at.folder, "diffusion_pytorch_model.safetensors", o, plan_plain,
                  (void *)(uintptr_t)vae_gains, e);
}
