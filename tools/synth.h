/* synth.h: synthetic checkpoints, the library behind `dlens synth`.
 *
 * A synthetic checkpoint has the layout, configs, tensor names and shapes of a real model, or of a small one with all
 * of the real one's peculiarities, and values made by a counter-based generator: a value depends on the seed, the
 * tensor's name and the element's index alone, through integer hashing and single float operations, so the same bytes
 * come out everywhere. It is read by dlens and by diffusers, and its activations stay of ordinary size through a whole
 * sampling loop; its images mean nothing. For tests, benchmarks and trying things out without a download.
 *
 * The tensor lists are those of the models' own binding functions in list mode.
 */
#ifndef TOOLS_SYNTH_H
#define TOOLS_SYNTH_H

#include "engine/err.h"
#include "engine/type.h"
#include "loaders/bind.h"

#include <stdbool.h>
#include <stdint.h>

struct synth_opts {
    const char *like; /* one of synth_names() */
    bool full;        /* the real model's size; otherwise a small one of about 2 MB */
    const char *out;  /* folder, made with those above it; a synthetic model in it is replaced, any other refused */
    const char *tokenizer; /* folder with vocab.json and merges.txt, or spiece.model, copied; NULL: one is made up */
    int type;              /* DL_F32, DL_F16 or DL_BF16 */
    uint64_t seed;
    bool hollow; /* no values: the files have the right length and no room on the disk, and read as zeros */
};

/* Writes the checkpoint in diffusers layout. Needs a few MB of memory, whatever the model's size. An unknown name is
 * DL_EUSAGE, a bad tokenizer DL_EINPUT. */
int synth_write(const struct synth_opts *o, struct dl_err *e);

/* The known names, "sd15, sd21". */
const char *synth_names(void);

/* What follows is shared by synth_*.c. */

struct synth_tensor {
    char *name; /* owned by the list */
    int64_t dim[4], count;
    int nd;
    enum bind_role role;
};

struct synth_list {
    struct synth_tensor *t; /* [n], owned */
    int64_t n, cap;
    bool failed; /* memory ran out */
};

/* The callback for bind_open_list; user is a struct synth_list. */
void synth_collect(void *user, const char *name, const int64_t *dim, int nd, enum bind_role role);
void synth_list_close(struct synth_list *l);

/* An orderly part of a tensor's values beside the random one, see synth_value.c. */
enum synth_echo { SYNTH_PLAIN, SYNTH_SPREAD, SYNTH_PASS, SYNTH_GATHER };

/* How a tensor's values are distributed. */
struct synth_plan {
    float mean, std;
    enum synth_echo echo;
    float echo_gain;
};

/* A gain for tensors whose name contains `part`; the first that fits holds. */
struct synth_gain {
    const char *part; /* NULL ends a table */
    float gain;
};

/* The plan by role and shape: matrices have std = gain / sqrt(fan in), tables std = gain. */
struct synth_plan synth_plan_of(const struct synth_tensor *t, const struct synth_gain *table);

/* Values [from, from + n) of a tensor into out [n]. */
void synth_values(const struct synth_tensor *t, const struct synth_plan *p, uint64_t seed, int64_t from, int64_t n,
                  float *out);

/* Writes all tensors of a list into one safetensors file marked as synthetic. plan is called for each tensor. */
int synth_tensors(const char *path, const struct synth_list *l, const struct synth_opts *o,
                  struct synth_plan (*plan)(void *user, const struct synth_tensor *t), void *user, struct dl_err *e);
/* The same into <folder>/<stem>.safetensors, or, where that would be larger than 10 GB (stem "model": 5 GB), into
 * shards with an index. */
typedef struct synth_plan synth_planner(void *user, const struct synth_tensor *t);
int synth_shards(const char *folder, const char *stem, const struct synth_list *l, const struct synth_opts *o,
                 synth_planner *plan, void *user, struct dl_err *e);

/* Makes a folder and those above it. */
int synth_folder(const char *path, struct dl_err *e);
/* Writes a text file; every ' in it becomes ". fmt is printf style. */
int synth_text(const char *folder, const char *file, struct dl_err *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Writes <out>/README.md. */
int synth_readme(const struct synth_opts *o, struct dl_err *e);

/* out [cap] = a/b. */
int synth_join(char *out, size_t cap, const char *a, const char *b, struct dl_err *e);

/* Writes the CLIP tokenizer <out>/<folder>; of a copied one, "tokenizer" keeps its own settings. *vocab: in, the number
 * of ids that the model must have, or 0 for as many as there are; out, the size of the token table. pad: the padding
 * token, "!" or "<|endoftext|>". */
int synth_tokenizer(const struct synth_opts *o, const char *folder, const char *pad, int *vocab, struct dl_err *e);

struct synth_clip {
    const char *class_name, *act; /* "CLIPTextModel", "quick_gelu" */
    int width, ff, layers, heads, projection, vocab;
};

/* <out>/<folder>: config and weights of a CLIP text encoder. */
int synth_clip(const struct synth_opts *o, const char *folder, const struct synth_clip *s, struct dl_err *e);

/* The weights of one network, as the config.json in <out>/<folder> wants them. hand_on: noise prediction, where the
 * UNet's input shows in its output. */
int synth_unet(const struct synth_opts *o, const char *folder, bool hand_on, struct dl_err *e);
int synth_vae(const struct synth_opts *o, const char *folder, struct dl_err *e);

/* Stable Diffusion 1.x and 2.x: everything but the tokenizer. */
int synth_sd(const struct synth_opts *o, bool v2, struct dl_err *e);
/* The same of Stable Diffusion XL. */
int synth_sdxl(const struct synth_opts *o, struct dl_err *e);
/* A T5 encoder, <out>/<folder>: config and weights. */
struct synth_t5 {
    int width, ff, layers, heads, head_dim, vocab;
};
int synth_t5(const struct synth_opts *o, const char *folder, const struct synth_t5 *s, struct dl_err *e);
/* Writes the T5 tokenizer <out>/<folder>, made up or copied. *vocab: in, the size of the model's token table, or 0;
 * then, out, what this vocabulary needs. */
int synth_t5_tokenizer(const struct synth_opts *o, const char *folder, int *vocab, struct dl_err *e);
/* Copies a file of --tokenizer; absent is fine where it may be. `expected` says what such a folder holds. Returns 1
 * when copied, 0 when absent, -1. */
int synth_copy(const char *from, const char *to, const char *file, bool optional, const char *expected,
               struct dl_err *e);
/* The words of the small vocabularies, with a space between them. */
extern const char synth_words[];

/* DeepFloyd IF: stage I, or (stage 2) the one that enlarges; `size` is 'M', 'L' or 'X' (XL). */
int synth_if(const struct synth_opts *o, int stage, char size, struct dl_err *e);

/* One of IF's UNets. */
struct synth_if_unet {
    const char *channels, *layers, *down, *up; /* JSON; block types from outside in, and back */
    const char *temb;                          /* width of the time embedding, or null */
    int stage, head, cross, text, pool, groups, sample;
};
/* Its config.json alone, in <folder>. */
int synth_if_unet_config(const char *folder, const struct synth_if_unet *s, struct dl_err *e);

/* FLUX.1 schnell, or dev: everything. */
int synth_flux(const struct synth_opts *o, bool dev, struct dl_err *e);
/* Its transformer alone, with its config: <out>/transformer. */
int synth_flux_transformer(const struct synth_opts *o, bool dev, struct dl_err *e);
/* Its weights alone, as the config.json in <out>/transformer wants them. */
int synth_flux_weights(const struct synth_opts *o, struct dl_err *e);

#endif
