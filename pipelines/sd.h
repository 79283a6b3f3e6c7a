/* sd.h: Stable Diffusion 1.x and 2.x, the parts that sd_*.c share (diffusers' pipeline_stable_diffusion.py).
 *
 * One CLIP encoder, a UNet, a VAE. The text encoder runs in f32 whatever the denoiser's type: it is a thousandth of the
 * work. Latents, guidance and scheduler are f32 as well.
 */
#ifndef DL_SD_H
#define DL_SD_H

#include "pipelines/clip.h"
#include "pipelines/pipe.h"
#include "pipelines/unet.h"
#include "pipelines/vae.h"

/* A network's file mapping and weights are opened together: `ready` once bound. */
struct sd_net {
    struct st_set *files;
    bool ready;
};

struct sd {
    struct clip_config clip_cfg;
    struct unet_config unet_cfg;
    struct vae_config vae_cfg;
    struct clip_bpe *bpe;
    int tokens;

    struct clip clip;
    struct unet unet;
    struct vae vae;
    struct sd_net clip_net, unet_net, vae_net;

    /* Text phase: states [(N + 1)][1][tokens][width] at the arena's low end. */
    struct dl_run text_run;
    void *text_work;
    int64_t text_work_bytes;
    int64_t text_plan_bytes; /* what encoding needs; 0: not measured yet */

    /* Denoising and decoding. */
    struct dl_run run;
    struct pipe_gen gen;
    struct pipe_plan plan;
    struct sched_table *table;
    float *times; /* [table->n] timesteps, host */
    int latent_h, latent_w;
    void *keep, *work;
    int conds; /* rows that kv holds now */
    /* inside keep: */
    void *kv;
    float *steps;
    dl_act latent, history, eps;
    uint8_t *rgb;
    int32_t *rows;                /* host memory of the row maps, see struct sd_batch */
    struct dl_replay steps_again; /* every step but a batch's first */
};

/* One call of the denoiser: which rows there are and what they share. Arrays are in sd->rows. */
struct sd_batch {
    int images, latents, rows;
    int32_t *in_row;           /* [latents]: image whose latent it is */
    int32_t *lat_row, *kv_row; /* [rows] */
    int32_t *u_row, *c_row;    /* [images]; u_row NULL without guidance */
};

/* Map and bind one network, once; idempotent. */
int sd_open_clip(struct pipe *p, struct dl_err *e);
int sd_open_unet(struct pipe *p, struct dl_err *e);
int sd_open_vae(struct pipe *p, struct dl_err *e);

int sd_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e);
int sd_encode(struct pipe *p, const char *text, struct text_states st[PIPE_ENCODERS], struct dl_err *e);
int sd_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], int k, bool norm, struct pipe_cond *c,
                 struct dl_err *e);
void sd_drop_text(struct pipe *p);
/* Opens the encoder and measures it: weight and arena bytes of the text phase. */
int sd_plan_text(struct pipe *p, struct dl_err *e);

int sd_plan(struct pipe *p, const struct pipe_gen *g, struct pipe_plan *out, struct dl_err *e);
int sd_load(struct pipe *p, struct dl_err *e);
void sd_drop_denoiser(struct pipe *p);

int sd_conditions(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e);
int sd_denoise(struct pipe *p, struct pipe_image *im, int n, const struct pipe_progress *pr, struct dl_err *e);
int sd_decode(struct pipe *p, const float *latent, uint8_t *rgb, const struct pipe_progress *pr, struct dl_err *e);

/* The programs, as run dry by sd_plan and for real by the rest; all work on s->run. */
void sd_prog_conditions(struct sd *s, dl_act text);
void sd_prog_step(struct sd *s, const struct sd_batch *b);
void sd_prog_decode(struct sd *s, dl_act z, dl_act x, uint8_t *rgb);

/* Row maps of a batch of n images for the first step (noise shared by `noise` number) or any other. */
struct sd_batch sd_batch_of(struct sd *s, const struct pipe_image *im, int n, bool first);

#endif
