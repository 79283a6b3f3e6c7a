/* latents.h: latents.safetensors, the final latents of a sweep's images.
 *
 * Key p000.s17.k05 (names.h), f32 [c][h][w] as diffusers has them: the scheduler's last output, before the VAE's
 * scaling. The file is rewritten as a whole, so it is always complete; what it held when a sweep is resumed is kept.
 */
#ifndef LENS_LATENTS_H
#define LENS_LATENTS_H

#include "engine/err.h"
#include "lens/manifest.h"

struct latents;

/* Opens or begins dir/latents.safetensors for latents of [h][w][c]; a file of other shapes is refused. */
int latents_open(struct latents **l, const char *dir, int h, int w, int c, struct dl_err *e);
bool latents_has(const struct latents *l, const struct manifest_image *im);
/* latent [h][w][c] is copied. */
int latents_put(struct latents *l, const struct manifest_image *im, const float *latent, struct dl_err *e);
/* Writes the file if anything is new. */
int latents_flush(struct latents *l, struct dl_err *e);
void latents_close(struct latents *l); /* NULL is fine; writes nothing */

#endif
