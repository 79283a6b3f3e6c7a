/* vae_tile.h: decoding a large latent in overlapping tiles, with the overlaps blended.
 *
 * The latent is cut every 3/4 tile; neighbouring tiles overlap by a quarter, and in the image the overlap is a linear
 * ramp from the upper or left tile to the next. Memory is then that of one tile, and the result differs a little from
 * decoding the whole, because norms and attention see one tile each. Source: diffusers' AutoencoderKL.tiled_decode.
 */
#ifndef DL_VAE_TILE_H
#define DL_VAE_TILE_H

#include "engine/err.h"

#include <stdint.h>

/* Decodes rows [y, y + h) and columns [x, x + w) of the latent into out [f h][f w][c]. */
typedef int (*vae_tile_decoder)(void *user, int y, int x, int h, int w, float *out, struct dl_err *e);

/* image [f h][f w][c] from a latent of h x w, tiles of at most `tile` latent pixels a side. */
int vae_tile_run(int h, int w, int c, int tile, int f, vae_tile_decoder decode, void *user, float *image,
                 struct dl_err *e);

#endif
