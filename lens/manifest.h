/* manifest.h: manifest.json, what a folder of lens images is and how far it has come.
 *
 *     {"schema": 1, "dlens": "0.1.0", "command": "sweep",
 *      "model": {"title": "Stable Diffusion 1.5", "name": "...", "class": "StableDiffusionPipeline",
 *                "fingerprint": "..."},
 *      "settings": {...},     every setting, defaults included; they make the images: a resumed run must have the same
 *      "run": {...},          how it was computed last (device, batch, threads, choices.h): recorded, never compared
 *      "prompts": [{"text": "...", "negative": null, "seeds": [17]}],
 *      "layers": [{"layer": 1, "block": 0}, ...],
 *      "images": [{"prompt": 0, "seed": 17, "layer": 1, "block": 0, "file": "images/p000_s17_k01.png",
 *                  "state": "done", "sha256": "..."}, ...]}
 *
 * Layers are k; block is k - 1, null for k = 0. A seed above 2^53, which not every JSON reader holds exactly, is
 * a string of decimal digits. An entry's file is always the one that names.h gives.
 *
 * Resume. manifest_open on a folder of the same settings goes on where the last run stopped: an image is done when its
 * file has the SHA-256 that the manifest says, or when the manifest missed its end (a killed run) and the file is a
 * complete PNG that carries exactly the settings that would be embedded now. A done image is never made again. The
 * manifest is written atomically, at most about once a second and at the close.
 *
 * Errors: another sweep's folder (the first difference is named with both values), a folder with files but no manifest,
 * one that another process is writing: DL_EUSAGE. A manifest that is no manifest: DL_EINPUT. Disk: DL_EFAIL.
 */
#ifndef LENS_MANIFEST_H
#define LENS_MANIFEST_H

#include "engine/err.h"
#include "lens/names.h"
#include "lens/sha256.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { MANIFEST_SCHEMA = 1 };

struct manifest_prompt {
    const char *text;     /* UTF-8 */
    const char *negative; /* NULL: none given */
};

struct manifest_image {
    int prompt; /* index into prompts */
    uint64_t seed;
    int k;
    /* Filled by manifest_read, not looked at in a spec. */
    bool done;
    char sha256[SHA256_HEX]; /* "" while pending */
    char file[NAMES_MAX];    /* relative to the folder */
};

struct manifest_model {
    const char *title;       /* for people and figures: "Stable Diffusion 1.5" */
    const char *name;        /* hub id or path, as given; recorded, not compared (folders move) */
    const char *class_name;  /* pipeline class */
    const char *fingerprint; /* of configs and weight files; what makes two models the same */
};

/* What a run is about to do. Everything is borrowed for the length of manifest_open. */
struct manifest_spec {
    const char *dlens;   /* version */
    const char *command; /* "sweep", "replay" */
    struct manifest_model model;
    const json_t *settings; /* object, every setting, defaults included; keys are named as the options, for messages */
    const json_t *run;      /* object or NULL */
    const struct manifest_prompt *prompt;
    int n_prompts;
    const int *layer; /* [n_layers] k in the order of the figure */
    int n_layers;
    const struct manifest_image *image; /* [n_images] in the order of computing; no two alike */
    int64_t n_images;
};

struct manifest;

/* Makes the folder (and images/) or resumes it, locks it against other processes, writes the first manifest. */
int manifest_open(struct manifest **m, const char *dir, const struct manifest_spec *s, struct dl_err *e);
/* Writes what is not yet written, unlocks, frees. NULL is fine. */
int manifest_close(struct manifest *m, struct dl_err *e);

bool manifest_is_done(struct manifest *m, int64_t image);
int64_t manifest_n_done(struct manifest *m);
bool manifest_is_resumed(const struct manifest *m);
/* Images that an earlier run finished and whose files are now missing or changed; they count as not done. */
int64_t manifest_n_lost(const struct manifest *m);
/* dir/images/..., owned by the manifest. */
const char *manifest_path(const struct manifest *m, int64_t image);
/* The JSON for an image's iTXt chunk "dlens" (png.h): model (without its path), prompt, negative, seed, layer,
 * block, settings. Owned by the caller; NULL when memory is out. A picture must carry it for manifest_open to
 * recognise it. */
char *manifest_image_text(const struct manifest *m, int64_t image);

/* An image's file is complete. May be called on another thread than the rest; the signature is writer_done's with the
 * manifest as context. An index < 0 (a picture without entry, as stage1/) is ignored. */
int manifest_done(void *m, int64_t image, const char *sha256, int64_t bytes, struct dl_err *e);

/* run.choices: `what` was computed in the way `how`. Written with the next image or at the close. */
void manifest_choice(struct manifest *m, const char *what, const char *how);

/* A manifest that is only read: for figures and reports, also while a sweep is writing. Strings point into `root`. */
struct manifest_doc {
    json_t *root; /* owned */
    const char *dlens, *command;
    struct manifest_model model;
    const json_t *settings, *run;
    struct manifest_prompt *prompt; /* [n_prompts] */
    int n_prompts;
    int *layer; /* [n_layers] */
    int n_layers;
    struct manifest_image *image; /* [n_images] */
    int64_t n_images;
};

int manifest_read(struct manifest_doc *d, const char *dir, struct dl_err *e);
void manifest_doc_close(struct manifest_doc *d); /* a zeroed struct is fine */

/* The images of one prompt and seed, which are shown together. */
struct manifest_group {
    int prompt; /* index into prompts */
    uint64_t seed;
    int64_t first; /* its first image */
};

/* All of them in the order of their first images: *group [*n], owned by the caller. */
int manifest_groups(const struct manifest_doc *d, struct manifest_group **group, int64_t *n, struct dl_err *e);

#endif
