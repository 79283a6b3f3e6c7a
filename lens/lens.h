/* lens.h: the Diffusion Lens (Toker et al., ACL 2024): one image for each layer of a text encoder.
 *
 * The text phase runs the encoders once per text and turns every chosen hidden state into what the denoiser is fed
 * (struct lens_conds); the generation phase makes an image from each, batching over layers, prompts and seeds. The two
 * can be far apart: states can be stored and edited in between (snapshot.h).
 *
 * Only the prompt's encoding is looked at through a layer: a negative prompt takes the ordinary, full encoding.
 */
#ifndef LENS_LENS_H
#define LENS_LENS_H

#include "lens/manifest.h"
#include "pipelines/pipe.h"

struct lens_prompt {
    char *text;
    char *negative;  /* NULL: none given, see lens_negative_of */
    uint64_t *seeds; /* [n_seeds] as the generator takes them */
    int n_seeds;
    bool own_seed; /* the one seed came with the prompt: a snapshot keeps it */
};

/* The negative prompt that takes effect with guidance: where none is given the empty one, or (struct
 * pipe.zero_negative) NULL: a condition of zeros. */
const char *lens_negative_of(const struct pipe *p, const struct lens_prompt *prompt);

/* What is fed to the denoiser, of the prompts from `first` on: for prompt first + i and chosen layer j, cond[i *
 * n_layers
 * + j]; for its negative, negative[negative_of[i]]. */
struct lens_conds {
    int first;
    struct pipe_cond *cond, *negative;
    int *negative_of;
    int n_prompts, n_layers, n_negatives;
};

struct lens_text {
    const struct lens_prompt *prompt; /* [n_prompts] */
    int n_prompts;
    int first;    /* number of prompt[0] */
    const int *k; /* [n_layers] */
    int n_layers;
    struct pipe_lens lens;
    bool guided; /* negatives are wanted */
    /* Called after each prompt (i >= 0: its number) and negative text (i < 0) with all its states, before they are
     * freed; may be NULL. */
    int (*seen)(void *user, int i, const char *text, const struct text_states st[PIPE_ENCODERS], struct dl_err *e);
    void *user;
    const volatile sig_atomic_t *stop;
};

/* Runs the encoders over all prompts and distinct negatives; lens_conds_close frees. */
int lens_encode(struct pipe *p, const struct lens_text *t, struct lens_conds *c, struct dl_err *e);
/* Sets up *c for these prompts without conditions: negatives are told apart and numbered. Where conditions come from a
 * file. */
int lens_conds_open(struct lens_conds *c, const struct pipe *p, const struct lens_prompt *prompt, int n_prompts,
                    int n_layers, struct dl_err *e);
void lens_conds_close(struct lens_conds *c);
/* The text of negative number i; NULL: zeros. */
const char *lens_negative(const struct lens_conds *c, const struct pipe *p, const struct lens_prompt *prompt, int i);

enum lens_noise { LENS_SHARED, LENS_SEQUENTIAL };

/* A second stage that enlarges the pictures: another pipe, opened with the first one's backend. */
struct lens_upscale {
    struct pipe *pipe;     /* borrowed; NULL: none */
    struct pipe_gen gen;   /* sizes, images and conds are filled by lens_plan */
    struct pipe_plan plan; /* by lens_plan */
    bool one_seed;         /* `seed` for every picture, and not the image's own */
    uint64_t seed;
};

struct lens_job {
    const struct lens_prompt *prompt;
    int n_prompts;
    const int *k;
    int n_layers;
    struct pipe_lens lens;
    enum lens_noise noise;
    enum rng_kind rng;
    int rng_sms;
    bool save_latents;
    bool stored; /* states come from a file: what they have in common is not known beforehand */
    struct pipe_gen gen; /* images and conds are filled by lens_plan */
    struct lens_upscale up;
    int64_t round_bytes; /* conditions that are on the host at once: prompts beyond that wait for another round of
                            encoding; 0: 2 GiB */
};

/* Whether any stage has negative conditions. */
bool lens_guided(const struct pipe *p, const struct lens_job *job);

/* Sizes of the whole job on this pipe, nothing loaded: batch, memory, evaluations. Fills job->gen. */
int lens_plan(struct pipe *p, struct lens_job *job, struct pipe_plan *out, struct dl_err *e);

struct lens_progress {
    /* images finished of all (resumed ones counted), and the step under way */
    void (*tell)(void *user, int64_t done, int64_t images, int step, int steps, int batch);
    /* the same within a long step: `part` (0..1) is done of the one after `step`; may be NULL */
    void (*part)(void *user, int64_t done, int64_t images, int step, int steps, int batch, double part);
    /* the network's result for this image is not all numbers (an overflow): what is drawn means nothing; may be NULL */
    void (*spoilt)(void *user, const struct manifest_image *image);
    void *user;
    const volatile sig_atomic_t *stop;
};

/* Where conditions come from: those of prompts [first, first + n) of the job, lens_conds_close frees. */
struct lens_source {
    int (*conds)(void *user, int first, int n, struct lens_conds *c, struct dl_err *e);
    void *user;
};

/* Makes every image of the manifest that is not done yet, in its order (prompt, seed, layer as lens_images lists them),
 * and writes it; with an upscaler the enlarged one, and the small one to dir/stage1/. `job` and `plan` are as lens_plan
 * left them on this pipe. `dir` receives latents.safetensors with save_latents (of the last stage). */
int lens_generate(struct pipe *p, const struct lens_job *job, const struct pipe_plan *plan,
                  const struct lens_source *src, struct manifest *m, const char *dir, const struct lens_progress *pr,
                  struct dl_err *e);

/* The images of a job in the order of computing, for manifest_open: prompts, then seeds, then layers. *out is owned by
 * the caller; the count is returned, or < 0. */
int64_t lens_images(const struct lens_job *job, struct manifest_image **out, struct dl_err *e);

#endif
