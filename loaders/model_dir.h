/* model_dir.h: what the user gave with --model, resolved to a folder in diffusers layout.
 *
 * Accepted: a folder with model_index.json; a hub id "org/name" that lies in the local Hugging Face cache
 * (HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub; there
 * models--org--name/refs/main names the folder in snapshots/); such a models--org--name folder itself. Links are
 * followed; the network is never touched. Anything else (one checkpoint file, a component's folder, an empty folder) is
 * an error that says what it is and the way out.
 */
#ifndef MODEL_DIR_H
#define MODEL_DIR_H

#include "engine/err.h"
#include "loaders/config.h"
#include "loaders/safetensors.h"

#include <stdbool.h>

struct model_part {
    char *name;       /* the component's folder: "unet" */
    char *library;    /* "diffusers", "transformers" */
    char *class_name; /* "UNet2DConditionModel" */
};

struct model_dir {
    char *spec;              /* as the user gave it */
    char *path;              /* the folder, without a slash at its end */
    char *class_name;        /* "StableDiffusionPipeline" */
    struct cfg *index;       /* model_index.json, for its other keys (force_zeros_for_empty_prompt) */
    struct model_part *part; /* [n_parts] components that are not null, in the file's order */
    int n_parts;
};

int model_dir_open(struct model_dir *m, const char *spec, struct dl_err *e);
void model_dir_close(struct model_dir *m); /* a zeroed struct is fine */

/* Whether model_index.json names this component, other than as null. Whether its folder is really there shows when it
 * is opened. */
bool model_dir_has(const struct model_dir *m, const char *part);
/* Its class name, or NULL. */
const char *model_dir_class(const struct model_dir *m, const char *part);

/* path/part/file (file may be NULL) as a new string, to be freed. NULL when memory is out. Nothing is checked. */
char *model_dir_join(const struct model_dir *m, const char *part, const char *file, struct dl_err *e);
/* A file of a component that must exist: the same, with an error that names it and what to do when it is absent. */
char *model_dir_file(const struct model_dir *m, const char *part, const char *file, struct dl_err *e);

/* Opens part/config.json (scheduler: scheduler_config.json). */
int model_dir_config(const struct model_dir *m, const char *part, struct cfg **c, struct dl_err *e);
/* Opens the weights of a component: stem "model" for classes of transformers, else "diffusion_pytorch_model". */
int model_dir_weights(const struct model_dir *m, const char *part, struct st_set **s, struct dl_err *e);

#endif
