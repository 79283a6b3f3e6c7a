/* choices.h: what a backend chose by measurement (struct dl_backend's choices), kept in manifests, so that a sweep that
 * is resumed, or another one, computes in the same way and gives the same bytes on the same kind of GPU.
 *
 *     "run": {..., "choices": {"gemm 320->2560 4096 n24 f16 ...": "mma 128x160x32", ...}}
 */
#ifndef LENS_CHOICES_H
#define LENS_CHOICES_H

#include "engine/run.h"
#include "lens/manifest.h"

/* Gives the backend the choices that a manifest holds, and *out them as an object for a new manifest's run, the
 * caller's. A backend without choices: nothing, an empty object. What the backend cannot honour it measures anew. */
int choices_recall(const struct dl_backend *be, struct dl_ctx *ctx, const struct manifest_doc *d, json_t **out,
                   struct dl_err *e);

/* Notes what the backend has used so far in the manifest, which is written with the next image. */
void choices_note(const struct dl_backend *be, struct dl_ctx *ctx, struct manifest *m);

#endif
