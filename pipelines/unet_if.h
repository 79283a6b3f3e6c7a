/* unet_if.h: the pixel UNets of DeepFloyd IF, stages I and II (diffusers' UNet2DConditionModel with SimpleCrossAttn and
 * Resnet blocks; deep-floyd/IF, deepfloyd_if/model/unet.py).
 *
 * What differs from unet.h: the time embedding enters each resnet as a scale and a shift of its second norm; samplers
 * are resnets whose two branches are averaged or enlarged; an attention has the text in front of its own pixels as keys
 * [text | image], no transformer around it; and the text, pooled by an attention of its own, is part of the time
 * embedding, so that the rows of the step table depend on step and text. Stage II also takes the noise level of its
 * upscaled image (a class embedding), and twice the channels: latent, then that image.
 *
 * The work is split by what each part depends on: unet_if_text (text alone: K and V of the text for every attention,
 * and the pooled embedding), unet_if_steps (step and text: scale and shift of every resnet), unet_if_step, which alone
 * sees the latent. A "condition" is one text: a lens layer of a prompt, or the negative.
 *
 * Rows. A step computes R rows, each a (latent, condition) pair: latent row lat_row[i], condition cond_row[i]. Rows of
 * one latent share what stands before the text enters: the first convolution, and the first resnet up to the
 * statistics of its second norm.
 */
#ifndef DL_UNET_IF_H
#define DL_UNET_IF_H

#include "engine/run.h"
#include "loaders/bind.h"
#include "pipelines/unet_skip.h" /* UNET_LEVELS, UNET_LAYERS */

struct unet_if_config {
    int in_c, out_c, levels;
    int channels[UNET_LEVELS], layers[UNET_LEVELS];
    bool cross_down[UNET_LEVELS], cross_up[UNET_LEVELS]; /* by position in the lists of block types */
    int head_dim;
    int text_dim, cross_dim; /* widths of the text encoder's states (encoder_hid_dim) and of their projection */
    int pool_heads;          /* of the attention that pools the text */
    int temb;                /* width of the time embedding */
    int groups, sample_size;
    float eps, mid_scale, out_scale; /* resnet outputs are divided by these: middle; down and up */
    bool noise_level;                /* class_embed_type "timestep": stage II */
    bool flip_sin_cos;
    float freq_shift;
};

struct unet_if_resnet {
    int in, out;
    int64_t row_at; /* first of its 2 out columns of the step table: scale, then shift */
    struct dl_w n1_g, n1_b, conv1, conv1_b, temb, temb_b, n2_g, n2_b, conv2, conv2_b; /* temb [2 out, temb] */
    struct dl_w shortcut, shortcut_b;                                                 /* 1x1, only where in != out */
};

struct unet_if_attn {
    int c;
    int64_t kv_at;                              /* column sum of the K/V buffer, see unet_if_kv_bytes */
    struct dl_w n_g, n_b, qkv, qkv_b;           /* qkv [3c, c] */
    struct dl_w cross_g, cross_b, text, text_b; /* norm over the text [cross_dim]; text: K and V [2c, cross_dim] */
    struct dl_w out, out_b;
};

struct unet_if_level {
    int n; /* resnets */
    struct unet_if_resnet resnet[UNET_LAYERS + 1];
    struct unet_if_attn attn[UNET_LAYERS + 1]; /* used where the level has attention */
    bool cross, sampler;
    struct unet_if_resnet sample; /* down- or upsampler */
};

struct unet_if {
    struct unet_if_config cfg;
    struct dl_w time1, time1_b, time2, time2_b, level1, level1_b, level2, level2_b;
    struct dl_w hid, hid_b;                                                      /* encoder_hid_proj */
    struct dl_w ln1_g, ln1_b, pos, q, q_b, kv, kv_b, proj, proj_b, ln2_g, ln2_b; /* add_embedding */
    struct dl_w conv_in, conv_in_b, out_g, out_b, conv_out, conv_out_b;
    struct unet_if_level down[UNET_LEVELS], up[UNET_LEVELS];
    struct unet_if_resnet mid_res[2];
    struct unet_if_attn mid_attn;
    int64_t table_width; /* columns of the step table: sum of 2 out over all resnets, samplers included */
    int64_t kv_width;    /* columns of the K/V buffer: sum of 2c over all attentions */
    struct dl_wset weights;
};

/* Reads unet/config.json at `path`. Anything that this code does not compute is an error that names the key. */
int unet_if_config_read(struct unet_if_config *c, const char *path, struct dl_err *e);
void unet_if_bind(struct unet_if *u, const struct unet_if_config *c, struct bind *b);
void unet_if_close(struct unet_if *u);

/* Height and width of a latent are multiples of this (a level halves and doubles): 8 in stage I, 16 in stage II. */
int unet_if_multiple(const struct unet_if_config *c);

/* Memory of the K/V of `conds` conditions of `tokens` tokens, of their pooled embeddings (f32), and of the step table
 * (f32). */
int64_t unet_if_kv_bytes(const struct unet_if *u, int conds, int tokens, int type);
int64_t unet_if_emb_bytes(const struct unet_if *u, int conds);
int64_t unet_if_table_bytes(const struct unet_if *u, int steps, int conds);

/* text [conds][1][tokens][text_dim], the encoder's normed states, all tokens, padding included. kv, emb: memory of the
 * backend of unet_if_kv_bytes and unet_if_emb_bytes; emb becomes [conds][temb] f32. */
void unet_if_text(struct dl_run *r, struct unet_if *u, dl_act text, void *kv, float *emb);

/* table: [steps][conds][table_width] f32 in backend memory; t host [steps]; level host [1], the noise level of stage II
 * (NULL in stage I); emb as unet_if_text left it. */
void unet_if_steps(struct dl_run *r, struct unet_if *u, const float *t, int steps, const float *level, const float *emb,
                   int conds, float *table);

struct unet_if_rows {
    int n;                   /* R */
    const int32_t *lat_row;  /* host [R]: rows of x */
    const int32_t *cond_row; /* host [R]: conditions */
    const void *kv;          /* as unet_if_text left it */
    int conds, tokens;
    const float *table; /* as unet_if_steps left it */
};

/* y [R][h][w][out_c] = the network's prediction (noise, then variance) for x [latents][h][w][in_c] in step r->step. */
void unet_if_step(struct dl_run *r, struct unet_if *u, dl_act x, const struct unet_if_rows *rows, dl_act y);

/* Within unet_if_*.c: K and V [conds][1][tokens][2c] of one attention inside the K/V buffer. */
dl_act unet_if_kv_of(const struct unet_if_attn *a, const void *kv, int conds, int tokens, int type);

#endif
