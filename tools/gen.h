/* gen.h: the options that say what to generate, shared by sweep and replay, and the generation that both run. */
#ifndef TOOLS_GEN_H
#define TOOLS_GEN_H

#include "lens/range.h"
#include "tools/cli.h"
#include "tools/prompts.h"

#include <stdio.h>

enum { GEN_SEEDS_MAX = 4096 };

struct gen_args {
    const char *model, *out, *prompt, *prompts_file, *layers, *encoder, *size, *scheduler, *negative, *dtype, *batch,
        *preset, *title;
    const char *preset_prompt; /* taken when the command line has none */
    const char *preset_class;  /* the pipeline that the preset is for */
    bool preset_layers;        /* `layers` is the preset's */
    bool blocks;               /* `layers` counts blocks */
    bool seed_offset;          /* seed + index of the prompt */
    bool norm, save_latents, titles_block, rng_set;
    uint64_t seeds[GEN_SEEDS_MAX];
    int n_seeds;
    int64_t steps;   /* 0: the model's default */
    double guidance; /* NAN: the model's default */
    enum lens_noise noise;
    enum rng_kind rng;
    int64_t rng_sms;
    enum text_mode text;
    int64_t vae_tile; /* -1: auto */
    unsigned given;   /* enum pipe_option: what was asked for that not every model honours */
    bool other_prompt, clean_caption;
    enum pipe_pooled pooled;
    int64_t max_tokens; /* 0: the model's own */
    const char *vae_dtype, *original_size, *crop, *target_size;
    enum pipe_resident resident;
    const char *choices; /* folder of a sweep whose choices are taken, or NULL */
    const char *upscale; /* model folder of the second stage, or NULL */
    int64_t upscale_steps;
    double upscale_guidance; /* NAN: the model's default */
    bool upscale_seed_set;
    uint64_t upscale_seed;
};

/* getopt_long values */
enum {
    GEN_MODEL = CLI_OWN,
    GEN_OUT,
    GEN_PROMPT,
    GEN_PROMPTS,
    GEN_LAYERS,
    GEN_BLOCKS,
    GEN_ENCODER,
    GEN_STEPS,
    GEN_GUIDANCE,
    GEN_SIZE,
    GEN_SCHEDULER,
    GEN_NEGATIVE,
    GEN_NORM,
    GEN_NOISE,
    GEN_DTYPE,
    GEN_BATCH,
    GEN_PRESET,
    GEN_RNG,
    GEN_SEED,
    GEN_SEEDS,
    GEN_SEED_OFFSET,
    GEN_TEXT,
    GEN_TITLES,
    GEN_SAVE_LATENTS,
    GEN_VAE_TILE,
    GEN_TITLE,
    GEN_OTHER,
    GEN_POOLED,
    GEN_MAX_TOKENS,
    GEN_UPSCALE,
    GEN_UPSCALE_STEPS,
    GEN_UPSCALE_GUIDANCE,
    GEN_UPSCALE_SEED,
    GEN_CLEAN_CAPTION,
    GEN_VAE_DTYPE,
    GEN_ORIGINAL_SIZE,
    GEN_CROP,
    GEN_TARGET_SIZE,
    GEN_RESIDENT,
    GEN_CHOICES,
    GEN_END
};
#define GEN_COMMON_OPTIONS                                                                                             \
    {"model", required_argument, NULL, GEN_MODEL}, {"out", required_argument, NULL, GEN_OUT},                          \
        {"layers", required_argument, NULL, GEN_LAYERS}, {"blocks", required_argument, NULL, GEN_BLOCKS},              \
        {"encoder", required_argument, NULL, GEN_ENCODER}, {"steps", required_argument, NULL, GEN_STEPS},              \
        {"guidance", required_argument, NULL, GEN_GUIDANCE}, {"size", required_argument, NULL, GEN_SIZE},              \
        {"scheduler", required_argument, NULL, GEN_SCHEDULER}, {"norm", required_argument, NULL, GEN_NORM},            \
        {"noise", required_argument, NULL, GEN_NOISE}, {"dtype", required_argument, NULL, GEN_DTYPE},                  \
        {"batch", required_argument, NULL, GEN_BATCH}, {"rng", required_argument, NULL, GEN_RNG},                      \
        {"seed", required_argument, NULL, GEN_SEED}, {"seeds", required_argument, NULL, GEN_SEEDS},                    \
        {"seed-offset", no_argument, NULL, GEN_SEED_OFFSET}, {"titles", required_argument, NULL, GEN_TITLES},          \
        {"save-latents", no_argument, NULL, GEN_SAVE_LATENTS}, {"vae-tile", required_argument, NULL, GEN_VAE_TILE},    \
        {"title", required_argument, NULL, GEN_TITLE}, {"other", required_argument, NULL, GEN_OTHER},                  \
        {"pooled", required_argument, NULL, GEN_POOLED}, {"max-tokens", required_argument, NULL, GEN_MAX_TOKENS},      \
        {"upscale", required_argument, NULL, GEN_UPSCALE},                                                             \
        {"upscale-steps", required_argument, NULL, GEN_UPSCALE_STEPS},                                                 \
        {"upscale-guidance", required_argument, NULL, GEN_UPSCALE_GUIDANCE},                                           \
        {"upscale-seed", required_argument, NULL, GEN_UPSCALE_SEED},                                                   \
        {"vae-dtype", required_argument, NULL, GEN_VAE_DTYPE},                                                         \
        {"original-size", required_argument, NULL, GEN_ORIGINAL_SIZE}, {"crop", required_argument, NULL, GEN_CROP},    \
        {"target-size", required_argument, NULL, GEN_TARGET_SIZE}, {"choices", required_argument, NULL, GEN_CHOICES},  \
    {                                                                                                                  \
        "resident", required_argument, NULL, GEN_RESIDENT                                                              \
    }
#define GEN_TEXT_OPTIONS                                                                                               \
    {"prompt", required_argument, NULL, GEN_PROMPT}, {"prompts", required_argument, NULL, GEN_PROMPTS},                \
        {"negative", required_argument, NULL, GEN_NEGATIVE}, {"text", required_argument, NULL, GEN_TEXT},              \
        {"clean-caption", required_argument, NULL, GEN_CLEAN_CAPTION},                                                 \
    {                                                                                                                  \
        "preset", required_argument, NULL, GEN_PRESET                                                                  \
    }

/* The part of --help that describes GEN_COMMON_OPTIONS. */
extern const char gen_help[];

void gen_defaults(struct gen_args *a);
/* Takes option v (with optarg); < 0 with the error. gen_preset_first looks for --preset anywhere in argv (the command's
 * options) and sets its values, before any option is taken, so that order does not matter; its errors come from
 * gen_take. */
int gen_take(struct gen_args *a, int v, struct dl_err *e);
void gen_preset_first(struct gen_args *a, int argc, char **argv, const struct option *options);

/* The prompts of --prompt or --prompts. */
int gen_prompts(const struct gen_args *a, struct prompts *ps, struct dl_err *e);

/* Opens device and model as the options say. */
struct gen_model {
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct pipe *pipe;
    struct pipe *upscaler; /* NULL without --upscale */
};
int gen_open(const struct cli *c, const struct gen_args *a, struct gen_model *m, struct dl_err *e);
void gen_close(struct gen_model *m);

/* How prompts are looked at on this pipe: encoder, norm, what the other encoder is fed. */
int gen_lens(const struct gen_args *a, const struct pipe *p, struct pipe_lens *l, struct dl_err *e);

/* From options to a job on this pipe: layers (in *r), defaults filled in, everything checked; prompts are borrowed. */
int gen_job(const struct gen_args *a, const struct gen_model *m, const struct prompts *ps, struct range *r,
            struct lens_job *job, struct dl_err *e);

/* Says a plan (memory, work) on stderr, or where it is the result (`out`) on that stream, and puts it into the JSON
 * result. */
void gen_tell_plan(struct cli *c, const struct lens_job *job, const struct pipe_plan *plan, FILE *out);

/* Warns of what was cut off a text that has been encoded: prompt i, or (i < 0) a negative. Signature like
 * lens_text.seen. */
void gen_warn_cut(struct cli *c, int i, const struct text_states st[PIPE_ENCODERS]);

/* Collects the figures that are drawn; gen_figure_made has the signature that figure_sweep asks for. */
struct gen_figures {
    json_t *list; /* array of paths */
    char *line;   /* [4096] paths, one a line, as many as fit */
    size_t at;
};
void gen_figure_made(void *user, const char *path);

/* The folder of a sweep or replay that a command reads: an absent manifest is told as such. */
int gen_read_folder(const char *dir, struct manifest_doc *d, struct dl_err *e);

/* The HTML page of a folder (report.h): tells its size on stderr and puts it into the JSON result; line [4096] (may be
 * NULL) receives its path. */
struct report_opts;
int gen_report(struct cli *c, const char *dir, const struct manifest_doc *d, const struct report_opts *o, char *line,
               struct dl_err *e);

/* What a sweep ends with: its figures, and the page beside them. A page that is too large is left out with a warning.
 */
int gen_show(struct cli *c, const char *dir, struct gen_figures *f, struct dl_err *e);

/* Everything after the plan: folder, conditions from `source` (only when images are to be made), images,
 * figures, report. On success path [4096] has the figures' paths, one a line; of many figures the folder. */
struct gen_run {
    struct cli *cli;
    const struct gen_args *args;
    struct pipe *pipe;
    struct lens_job *job;
    const struct pipe_plan *plan;
    struct lens_source source;
    const char *snapshots; /* SHA-256 of the file that the conditions come from; NULL: the text encoder */
    const volatile sig_atomic_t *stop;
};
int gen_run(struct gen_run *g, char *path, struct dl_err *e);

/* Every setting that makes the images, named as the options are, for the manifest. */
json_t *gen_settings(const struct gen_run *g, struct dl_err *e);

#endif
