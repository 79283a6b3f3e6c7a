/* denoise.h: the denoising and decoding phase, as all product models share it.
 *
 * A struct dn lives inside a model's own state. It owns the run, the arenas (keep: what lives through the phase; work:
 * what one program needs), the sampler's table, latents, history, row maps and the VAE. What differs from model to
 * model is a handful of programs over dn->run (struct dn_net), which are run dry to be measured and then for real.
 *
 * Rows. A batch has images; images that start from equal noise share a latent in the first step; a row is a (latent,
 * condition) pair. With guidance every image has an unconditional row beside its own, shared where it is the same.
 */
#ifndef DL_DENOISE_H
#define DL_DENOISE_H

#include "engine/stream.h"
#include "pipelines/net.h"
#include "pipelines/vae.h"

struct dn_batch {
    int images, latents, rows;
    int32_t *in_row;             /* [latents]: image whose latent it is */
    int32_t *lat_row, *cond_row; /* [rows]: latent; condition */
    int32_t *u_row, *c_row;      /* [images]; u_row NULL without guidance */
};

/* What a model adds. p->dn is the phase, p->impl the model. */
struct dn_net {
    /* Maps and binds the denoiser; idempotent. */
    int (*open)(struct pipe *p, struct dl_err *e);
    /* Its weights, for dl_run_load. */
    struct dl_wset *(*weights)(struct pipe *p);
    /* Takes what lives through the phase (K/V of the text, step tables; for dn->gen.conds conditions and dn->table->n
     * steps) from dn->run's arena at the low end. */
    void (*lay_out)(struct pipe *p);
    /* What depends on the steps alone; once after loading. NULL: nothing does. */
    void (*steps)(struct pipe *p);
    /* What depends on the conditions; once for each group. text [conds][1][tokens][width] of the run's type, pooled f32
     * [conds][1][1][pooled] (p NULL where the model has none). */
    void (*conditions)(struct pipe *p, dl_act text, dl_act pooled);
    /* Both or neither. Weights that `conditions` alone uses, in stages that it goes through once (FLUX's modulation, a
     * quarter of its weights): they pass through memory and are let go. `group` looks at a group's conditions on the
     * host before that: 1 where `conditions` will use them, 0 where not (what is there serves), < 0. In a dry run it
     * uses them. */
    struct dl_wset *(*prep)(struct pipe *p);
    int (*group)(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e);
    /* One call of the network in step dn->run.step: x [latents][h][w][in_c] of the run's type, eps [rows][h][w][out_c].
     * dn->conds conditions are there. */
    void (*step)(struct pipe *p, const struct dn_batch *b, dl_act x, dl_act eps);
    /* Closes weights and files. */
    void (*close)(struct pipe *p);
};

struct dn {
    /* Set by the model when it is opened. */
    const struct dn_net *net;
    int in_c, out_c;    /* channels of the network in a latent's layout; in_c above a latent's own: the rest is the
                           upscaler's input (pipe_image.lowres) */
    bool sd_rules;      /* the scheduler's file is read as StableDiffusionPipeline does */
    bool flow;          /* the network predicts a velocity for flow matching */
    bool has_vae;       /* else the latent is the picture */
    bool vae_overflows; /* in f16 as its weights stand (SDXL): there it is scaled (vae_shrink) */
    struct vae_config vae_cfg;

    struct dl_run run;
    struct pipe_gen gen;
    struct pipe_plan plan;
    struct sched_table *table;
    float *times;                     /* [table->n] timesteps, host */
    int latent_h, latent_w, latent_c; /* in the network's layout */
    struct vae vae;
    uint8_t vae_type; /* what it computes in */
    struct net vae_net;
    void *keep, *work;
    bool unloaded; /* the plan stands, but nothing that it measured is there any more */
    int conds;     /* conditions that are there now */
    /* inside keep: */
    dl_act latent, history, eps;
    dl_act noise;  /* of this step; absent where none is drawn */
    dl_act lowres; /* absent but for upscalers */
    uint8_t *rgb;
    int32_t *rows;                /* host memory of the row maps, and of a program's key */
    struct dl_replay steps_again; /* every step but a batch's first */
    /* of the denoiser's weights where plan.streamed, and while conditions use net->prep; see dn_stream.h */
    struct dl_stream *stream, *prep_stream;
    int64_t stream_bytes; /* of the forms that `stream` knows */
};

/* Opens the runs' state; the model has set what is above. dn_close takes everything back. */
void dn_open(struct pipe *p);
void dn_close(struct pipe *p);

/* The command-line name of the folder's own scheduler goes to p->def. */
int dn_read_scheduler(struct pipe *p, struct dl_err *e);
/* Maps and binds the VAE (component "vae"); idempotent. */
int dn_open_vae(struct pipe *p, struct dl_err *e);

/* pipe.h's functions of the same names. */
int dn_plan(struct pipe *p, const struct pipe_gen *g, struct pipe_plan *out, struct dl_err *e);
int dn_load(struct pipe *p, struct dl_err *e);
void dn_unload(struct pipe *p);
int dn_conditions(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e);
int dn_denoise(struct pipe *p, struct pipe_image *im, int n, const struct pipe_progress *pr, struct dl_err *e);
int dn_decode(struct pipe *p, const float *latent, uint8_t *rgb, const struct pipe_progress *pr, struct dl_err *e);

/* x in the run's type, at the arena's high end where it has another. */
dl_act dn_cast(struct dl_run *r, dl_act x);

/* The programs (dn_prog.c). Row maps of a batch of n images for the first step, where equal noise is shared, or any
 * other; x3 [n][h][w][3] may end as pixels in rgb. */
struct dn_batch dn_batch_of(struct pipe *p, const struct pipe_image *im, int n, bool first);
void dn_prog_conditions(struct pipe *p, dl_act text, dl_act pooled);
void dn_prog_step(struct pipe *p, const struct dn_batch *b);
void dn_prog_decode(struct pipe *p, dl_act z, dl_act x, uint8_t *rgb);

#endif
