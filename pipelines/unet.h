/* unet.h: UNet2DConditionModel of Stable Diffusion 1.x, 2.x (Rombach et al. 2022) and XL (Podell et al. 2024;
 * diffusers' unet_2d_condition.py).
 *
 * The network is split by what each part depends on, see DESIGN: unet_text (K and V of the text for every cross
 * attention, once per text condition), unet_steps (the time embedding's row in every resnet, for all steps at once),
 * and unet_step, which alone sees the latent.
 *
 * Rows. A step computes R rows, each a (latent, text) pair: latent row lat_row[i], condition cond_row[i]. Conditional
 * and unconditional rows of one image have the same latent, so all that stands before the first cross attention is
 * computed once per latent and then expanded.
 *
 * SDXL adds a pooled text vector and six sizes to the time embedding, so its step table depends on the text condition
 * as well: one table for each condition, made by unet_steps_added in place of unet_steps. Of its network only the first
 * convolution is then shared by rows of one latent.
 */
#ifndef DL_UNET_H
#define DL_UNET_H

#include "engine/run.h"
#include "loaders/bind.h"
#include "pipelines/unet_skip.h" /* UNET_LEVELS, UNET_LAYERS */

struct unet_config {
    int in_c, out_c, levels;
    int channels[UNET_LEVELS], layers[UNET_LEVELS];
    bool cross_down[UNET_LEVELS], cross_up[UNET_LEVELS]; /* by position in the lists of block types */
    int heads[UNET_LEVELS]; /* number of heads ("attention_head_dim" holds it, see diffusers #2011) */
    int depth[UNET_LEVELS]; /* transformer blocks per transformer */
    int cross_dim, groups, sample_size;
    float eps;
    bool linear_projection, flip_sin_cos;
    float freq_shift;
    int time_ids_width; /* of the sinusoid of each size ("addition_time_embed_dim"); 0: no added embedding */
    int pooled;         /* width of the pooled text vector; 0: no added embedding */
};

struct unet_resnet {
    int in, out;
    int64_t temb_at; /* column of the step table */
    struct dl_w n1_g, n1_b, conv1, conv1_b, temb, temb_b, n2_g, n2_b, conv2, conv2_b;
    struct dl_w shortcut, shortcut_b; /* 1x1, only where in != out */
};

struct unet_block {                                   /* BasicTransformerBlock */
    int64_t kv_at;                                    /* column sum of the K/V buffer, see unet_kv_bytes */
    struct dl_w ln1_g, ln1_b, qkv, out1, out1_b;      /* self attention; qkv [3c, c] */
    struct dl_w ln2_g, ln2_b, q, kv, out2, out2_b;    /* cross attention; kv [2c, cross_dim] */
    struct dl_w ln3_g, ln3_b, ff1, ff1_b, ff2, ff2_b; /* GEGLU: ff1 [8c, c] */
};

struct unet_attn { /* Transformer2DModel */
    int c, heads, depth;
    struct dl_w n_g, n_b, in, in_b, out, out_b;
    struct unet_block *block; /* [depth], owned */
};

struct unet_level {
    int n; /* resnets */
    struct unet_resnet resnet[UNET_LAYERS + 1];
    struct unet_attn attn[UNET_LAYERS + 1]; /* used where the level has cross attention */
    bool cross, sampler;
    struct dl_w sample, sample_b; /* down- or upsampler's convolution */
};

struct unet {
    struct unet_config cfg;
    struct dl_w time1, time1_b, time2, time2_b, conv_in, conv_in_b;
    struct dl_w add1, add1_b, add2, add2_b; /* the added embedding's MLP, where cfg.pooled */
    struct unet_level down[UNET_LEVELS], up[UNET_LEVELS];
    struct unet_resnet mid_res[2];
    struct unet_attn mid_attn;
    struct dl_w out_g, out_b, conv_out, conv_out_b;
    int64_t table_width; /* columns of the step table */
    int64_t kv_width;    /* columns of the K/V buffer: sum of 2c over all cross attentions */
    struct dl_wset weights;
};

int unet_config_read(struct unet_config *c, const char *path, struct dl_err *e);
int unet_bind(struct unet *u, const struct unet_config *c, struct bind *b, struct dl_err *e);
void unet_close(struct unet *u);

/* Memory of the K/V of `conds` text conditions of `tokens` tokens, and of one step table of n steps (f32). */
int64_t unet_kv_bytes(const struct unet *u, int conds, int tokens, int type);
int64_t unet_table_bytes(const struct unet *u, int steps);

/* kv: unet_kv_bytes(conds) of backend memory; text [conds][1][tokens][cross_dim]. */
void unet_text(struct dl_run *r, struct unet *u, dl_act text, void *kv);

/* table: [steps][table_width] f32 in backend memory; t host [steps]. */
void unet_steps(struct dl_run *r, struct unet *u, const float *t, int steps, float *table);

/* SDXL: the sizes that the network is told of, in its order and in pixels. */
enum { UNET_SIZES = 6 /* original height, width; crop top, left; target height, width */ };

/* table: [pooled.n][steps][table_width] f32, a table for each text condition; pooled [conditions][1][1][cfg.pooled] of
 * any type; sizes host [UNET_SIZES]. */
void unet_steps_added(struct dl_run *r, struct unet *u, const float *t, int steps, dl_act pooled,
                      const float sizes[UNET_SIZES], float *table);

struct unet_rows {
    int n;                   /* R */
    const int32_t *lat_row;  /* host [R]: rows of x */
    const int32_t *cond_row; /* host [R]: conditions */
    const void *kv;          /* as unet_text left it */
    int conds, tokens;
    const float *table; /* as unet_steps or unet_steps_added left it */
    int table_steps;    /* steps in a table where each condition has its own; 0: one table for all */
};

/* y [R][h][w][out_c] = the network's prediction for x [latents][h][w][in_c] in step r->step. */
void unet_step(struct dl_run *r, struct unet *u, dl_act x, const struct unet_rows *rows, dl_act y);

#endif
