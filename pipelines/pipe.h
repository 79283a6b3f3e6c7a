/* pipe.h: what the lens needs of a product model (a checkpoint folder with its encoders, denoiser and VAE).
 *
 * A struct pipe is opened from a model folder without touching any weights: it knows the encoders, defaults and limits.
 * Work then goes in three phases, so that memory is their maximum and not their sum:
 *
 *   text      pipe_encode: one pass of every encoder over one text, all hidden states to the host (struct text_states);
 *             pipe_condition: from states and a layer to what the denoiser is fed (struct pipe_cond); pipe_drop_text.
 *   denoise   pipe_plan: sizes, batch and memory of a generation, nothing loaded; pipe_load; then per group of
 *             conditions pipe_conditions, and per batch pipe_denoise.
 *   decode    pipe_decode: a latent to pixels.
 *
 * One implementation per product model fills struct pipe_class (sd.c): its text phase, and through struct dn_net its
 * networks; what the denoising phases have in common is denoise.c. All are single-threaded from the caller's side.
 *
 * Latents lie in the network's order from noise to decoding: [h][w][c], or (latent_patch 2, FLUX) packed in patches
 * of 2 x 2 as [h/2][w/2][4c] with channel 4c' + 2y + x for the patch's pixel (y, x); pipe_unpack undoes that.
 */
#ifndef DL_PIPE_H
#define DL_PIPE_H

#include "engine/rng.h"
#include "engine/run.h"
#include "loaders/bind.h"
#include "loaders/clip_bpe.h"
#include "loaders/model_dir.h"
#include "pipelines/sched.h"

#include <signal.h>

enum { PIPE_ENCODERS = 2, PIPE_SIZE_MAX = 16384 /* pixels a side */ };

struct pipe_encoder {
    const char *folder; /* "text_encoder" */
    int blocks;         /* N: hidden states are k = 0..N */
    int width, tokens;  /* of one hidden state [tokens][width]; tokens as --max-tokens leaves them */
    int pooled;         /* width of its pooled vector; 0: the product model uses none */
    int left_out;       /* last blocks that the ordinary image does without, and without the norm (SDXL: 1) */
    bool clip_skip;     /* other programs can choose its layer, for the same purpose */
};

/* Where the pooled vector of a model that has one beside its text comes from, when the encoder that gives it is looked
 * through: from the chosen state like the text, from the whole encoder, or from the whole encoder fed "". */
enum pipe_pooled { PIPE_POOLED_LENS, PIPE_POOLED_FULL, PIPE_POOLED_EMPTY };

/* How a prompt is looked at. */
struct pipe_lens {
    int encoder;       /* the one studied */
    bool both;         /* PIPE_BOTH: the other one as well, at the same depth (pipe_depth) */
    bool norm;         /* its final norm is applied to the chosen state */
    bool other_prompt; /* the encoder that is not studied is fed the prompt, and not "" */
    enum pipe_pooled pooled;
};

/* Options that a model may honour, bits of struct pipe.honours. */
enum pipe_option {
    PIPE_OTHER = 1,
    PIPE_POOLED = 2,
    PIPE_MAX_TOKENS = 4,
    PIPE_UPSCALE = 8,
    PIPE_CLEAN_CAPTION = 16,
    PIPE_CROP = 32, /* original and target size, crop */
    PIPE_RESIDENT = 64,
    PIPE_BOTH = 128, /* both encoders looked through */
    PIPE_VAE = 256,  /* the VAE's tiles and type */
};

struct pipe_defaults {
    int width, height, steps; /* pixels; steps asked of the scheduler */
    float guidance;
    const char *scheduler; /* command-line name */
};

/* One text through one encoder. Owned; text_states_close. */
struct text_states {
    const char *encoder; /* folder name, the pipe's */
    int blocks, tokens, width;
    float *hidden;       /* [blocks + 1][tokens][width], pre-norm */
    float *final;        /* [tokens][width], the normed last state */
    int32_t *ids;        /* [tokens] */
    uint8_t *mask;       /* [tokens] 1 where the encoder is told to look; all 1 for CLIP */
    float *pooled;       /* [pooled_width] of the whole encoder, or NULL */
    float *pooled_empty; /* likewise, of the empty text, where PIPE_POOLED_EMPTY asks for it; else NULL */
    int pooled_width;
    int eos;         /* position of the first end token */
    char *truncated; /* what was cut off, "" if nothing */
};

/* What is fed to the denoiser for one row: host f32. */
struct pipe_cond {
    float *text;   /* [tokens][width], owned */
    float *pooled; /* [pooled_width], owned; NULL where the model has none */
    int tokens, width, pooled_width;
};

/* One image to make. */
struct pipe_image {
    int32_t cond, negative; /* rows of the current conditions; negative is not looked at without guidance */
    int64_t noise;          /* images with the same number start from the same noise: their first step shares work */
    float *latent;      /* host [h][w][c] f32: the initial noise on entry (unit variance), the final latent on return */
    struct dl_rng *rng; /* noise of the steps that draw some; not looked at where pipe_plan.draws is 0 */
    const float *lowres; /* an upscaler's input, host [h][w][c] in -1..1 at the network's size; else NULL */
};

enum pipe_resident { PIPE_RESIDENT_AUTO, PIPE_RESIDENT_ALL, PIPE_RESIDENT_STREAM };

struct pipe_gen {
    int width, height, steps;
    float guidance;
    enum sched_kind scheduler;   /* SCHED_FILE: the folder's own */
    int type;                    /* enum dl_type of activations and weights in denoiser and VAE; DL_E4M3: bf16, and the
                                    denoiser's products of each step in e4m3 (engine/e4m3.h) */
    int batch;                   /* 0: choose */
    int64_t reserved_bytes;      /* of the backend's memory, that others will take */
    int64_t images;              /* how many there are at most to batch: bounds the batch */
    int conds;                   /* most conditions at once (pipe_conditions), negatives included */
    bool one_pooled;             /* conditions have one pooled vector in common */
    int vae_tile;                /* -1: tile when memory asks for it; 0: never; else side in latent pixels */
    int vae_type;                /* enum dl_type of the VAE; -1: the model's choice for `type` */
    enum pipe_resident resident; /* PIPE_RESIDENT: whether weights stay or are streamed block by block */
    /* PIPE_CROP: what the model is told of the picture, in pixels; 0 means the size (and crop at the corner). */
    int original_w, original_h, crop_x, crop_y, target_w, target_h;
};

struct pipe_plan {
    int batch;                                     /* images at once */
    int evaluations;                               /* calls of the denoiser for one image */
    int draws;                                     /* steps that draw noise after the initial one, for one image */
    int vae_type;                                  /* enum dl_type that the VAE computes in */
    bool streamed;                                 /* denoiser weights are streamed; denoiser_bytes are the slots */
    int vae_tile;                                  /* 0: the whole image at once */
    int64_t text_bytes, denoiser_bytes, vae_bytes; /* weights as the backend holds them */
    int64_t keep_bytes, work_bytes;                /* arenas of the denoising phase */
    int64_t text_work_bytes;                       /* arena of the text phase */
    int64_t peak_bytes;                            /* the largest sum that is alive at once */
    int64_t step_flops, step_bytes, decode_flops;  /* one full batch; one image */
};

struct pipe_progress {
    void (*step)(void *user, int step, int steps); /* after each evaluation; may be NULL */
    /* Within evaluation step + 1 of a large network, where the backend's ops are done when they return: `part` (0..1)
     * of it is done; may be NULL. */
    void (*part)(void *user, int step, int steps, double part);
    void *user;
    const volatile sig_atomic_t *stop; /* when it becomes non-zero the call ends with DL_EINTERRUPT; may be NULL */
};

struct dn;
struct pipe;

struct pipe_class {
    const char *pipeline; /* class in model_index.json */
    const char *models;   /* for people: "Stable Diffusion 1.x and 2.x" */
    int (*open)(struct pipe *p, struct dl_err *e);
    int (*tokens)(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e);
    int (*encode)(struct pipe *p, const char *text, const struct pipe_lens *l, struct text_states st[PIPE_ENCODERS],
                  struct dl_err *e);
    /* NULL: of no use. */
    int (*announce)(struct pipe *p, const char *const *text, int n, const struct pipe_lens *l, struct dl_err *e);
    /* c comes allocated and zeroed. */
    int (*condition)(struct pipe *p, const struct text_states st[PIPE_ENCODERS], const struct pipe_lens *l, int k,
                     struct pipe_cond *c, struct dl_err *e);
    /* Weight and arena bytes of the text phase; measured, nothing loaded. */
    int (*plan_text)(struct pipe *p, int64_t *weight_bytes, int64_t *work_bytes, struct dl_err *e);
    void (*drop_text)(struct pipe *p);
    /* An upscaler's input (pipe_image.lowres) from the small picture [h / f][w / f][c] and noise [h][w][c], f =
     * pipe.upscales; NULL in other models. */
    void (*lowres)(const struct pipe *p, int w, int h, const float *small, const float *noise, float *out);
    int (*check)(struct pipe *p, void (*part)(void *user, const char *name, const struct st_set *files), void *user,
                 struct dl_err *e);
    void (*close)(struct pipe *p);
};

struct pipe {
    const struct pipe_class *cls;
    struct model_dir dir;
    char title[96]; /* "Stable Diffusion 1.5" */
    struct pipe_encoder encoder[PIPE_ENCODERS];
    int n_encoders;
    int studied; /* the encoder that a lens looks through by default */
    struct pipe_defaults def;
    unsigned honours;  /* enum pipe_option */
    int size_multiple; /* width and height must be multiples of it */
    int latent_c, latent_factor, latent_patch;
    int cond_tokens, cond_width, cond_pooled; /* shape of a condition; cond_pooled 0: none */
    bool zero_negative;                       /* without a negative prompt the negative condition is zeros (SDXL) */
    bool embedded_guidance;                   /* guidance is an input of the network: there are no negatives (FLUX) */
    int max_tokens;                           /* as asked for; 0: the model's own */
    bool clean_caption;                       /* PIPE_CLEAN_CAPTION */
    int upscales;                /* it enlarges pictures by this factor; 0: it makes them out of noise alone */
    const struct dl_backend *be; /* borrowed */
    struct dl_ctx *ctx;
    enum text_mode text;
    void *impl;    /* the class's own state */
    struct dn *dn; /* its denoising phase, inside impl */
    /* Set before pipe_check: each tensor that is missing, extra, mis-shaped or of a wrong type. */
    void (*report)(void *user, enum bind_fault fault, const char *name, const char *text);
    void *report_user;
    /* Inner activations of every real run are shown to this listener, for parity tests. */
    void (*tap)(void *user, struct dl_run *, const char *name, dl_act a);
    void *tap_user;
};

struct pipe_opts {
    const struct dl_backend *be; /* borrowed, open as long as the pipe */
    struct dl_ctx *ctx;
    enum text_mode text;
    int max_tokens; /* 0: the model's own */
    bool clean_caption;
};

/* spec: a folder or a hub id, see model_dir.h. Fails for classes that dlens does not know, naming those that it does.
 */
int pipe_open(struct pipe **p, const char *spec, const struct pipe_opts *o, struct dl_err *e);
void pipe_close(struct pipe *p); /* NULL is fine */

/* For a class's open: that model_index.json names all these components. */
int pipe_needs(const struct pipe *p, const char *const *parts, size_t n, struct dl_err *e);

/* What encoder number `encoder` is fed for a text; token_list_free. */
int pipe_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e);
/* Says which texts pipe_encode will be called for next with l, in order: encoders whose weights are streamed then take
 * several in one pass. pipe_drop_text forgets them. */
int pipe_announce(struct pipe *p, const char *const *text, int n, const struct pipe_lens *l, struct dl_err *e);
/* All states of a text. With l, the encoder that is not studied is fed as l says; NULL: every encoder gets the text. */
int pipe_encode(struct pipe *p, const char *text, const struct pipe_lens *l, struct text_states st[PIPE_ENCODERS],
                struct dl_err *e);
/* What the denoiser is fed for state k of the studied encoder; l == NULL: the ordinary encoding, k is not looked at. st
 * as pipe_encode left it, or read from a file: then `final` may be NULL. pipe_cond_close frees. */
int pipe_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], const struct pipe_lens *l, int k,
                   struct pipe_cond *c, struct dl_err *e);
/* The state of encoder q that stands beside state k of encoder `of` where both are looked through: as far from its
 * ends, the ordinary state N - 1 beside N - 1, the last beside the last. */
int pipe_depth(const struct pipe *p, int of, int k, int q);
/* A condition of zeros: the negative of a model with zero_negative. */
int pipe_cond_open(const struct pipe *p, struct pipe_cond *c, struct dl_err *e);
void pipe_drop_text(struct pipe *p);
/* Whether images of this guidance have negative conditions. */
bool pipe_guided(const struct pipe *p, float guidance);
int pipe_plan(struct pipe *p, const struct pipe_gen *g, struct pipe_plan *out, struct dl_err *e);
/* Loads what pipe_plan measured; nothing happens when it is there. pipe_unload lets it go, until the next pipe_load. */
int pipe_load(struct pipe *p, struct dl_err *e);
void pipe_unload(struct pipe *p);
int pipe_conditions(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e);
int pipe_denoise(struct pipe *p, struct pipe_image *im, int n, const struct pipe_progress *pr, struct dl_err *e);
/* out [height][width][c]: an upscaler's input from a small picture and noise of this size. */
void pipe_lowres(const struct pipe *p, int width, int height, const float *small, const float *noise, float *out);
/* rgb [height][width][3]. */
int pipe_decode(struct pipe *p, const float *latent, uint8_t *rgb, const struct pipe_progress *pr, struct dl_err *e);

/* Opens and checks the tensors of every network, going on after the first bad one; part is told of each whose files
 * could be opened. -1 with the first fault. */
int pipe_check(struct pipe *p, void (*part)(void *user, const char *name, const struct st_set *files), void *user,
               struct dl_err *e);

/* Noise of one image (the initial one, or a step's), as torch draws it for [1][c][h][w] of the given type, in the order
 * of latents. The generator goes on from where it is. */
int pipe_noise(const struct pipe *p, struct dl_rng *g, int width, int height, int type, float *out, struct dl_err *e);
int64_t pipe_latent_count(const struct pipe *p, int width, int height);
/* out [h][w][c] of a latent in the network's order; a plain copy where latent_patch is 1. */
void pipe_unpack(const struct pipe *p, int width, int height, const float *latent, float *out);

void text_states_close(struct text_states st[PIPE_ENCODERS]);
void pipe_cond_close(struct pipe_cond *c);

#endif
