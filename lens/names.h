/* names.h: what the files of a sweep and the entries in them are called.
 *
 * Prompts have at least three digits and layers two, more when the number needs more; seeds are plain decimal. Prompts
 * count from 0, layers are k (range.h).
 */
#ifndef LENS_NAMES_H
#define LENS_NAMES_H

#include <stdbool.h>
#include <stdint.h>

enum { NAMES_MAX = 96 }; /* bytes that every name here fits in, the final zero included */

/* "images/p000_s17_k05.png"; `folder` is "images" or "stage1" (at most 16 bytes). */
void names_image(char out[NAMES_MAX], const char *folder, int prompt, uint64_t seed, int k);

/* "p000.s17.k05", a latent's key in latents.safetensors. */
void names_latent(char out[NAMES_MAX], int prompt, uint64_t seed, int k);

/* "p000.text_encoder.hidden_states", a snapshot's key; `folder` is the encoder's, both have at most 32 bytes. */
void names_snapshot(char out[NAMES_MAX], int prompt, const char *folder, const char *what);

/* "grid.png" when the folder has one figure, else "grid_p000_s17.png"; `suffix` is "png", "pdf" or "svg". */
void names_grid(char out[NAMES_MAX], bool only_one, int prompt, uint64_t seed, const char *suffix);

/* Where the suffix of a file's path begins, its point included; the path's end where it has none. */
const char *names_suffix(const char *path);

/* "Layer 5", how pictures of layer k are titled; with `blocks` by the tutorial's numbers, where the output of block b
 * is "Layer b" and k = 0 is "Embeddings". */
void names_title(char out[NAMES_MAX], bool blocks, int k);

#endif
