/* unet_skip.h: the skip connections of a UNet, in the arena.
 *
 * The buffer of a skip is the whole input [h | skip] of the up resnet that will read it: it is reserved on the way down
 * with the skip written in place, so the concatenation costs nothing. Skips are a stack at the arena's low end; what
 * was pushed last is read first.
 */
#ifndef DL_UNET_SKIP_H
#define DL_UNET_SKIP_H

#include "engine/run.h"

enum { UNET_LEVELS = 8, UNET_LAYERS = 8, UNET_SKIPS = UNET_LEVELS * (UNET_LAYERS + 1) + 1 };

struct unet_skip {
    dl_act both, part;     /* [rows][h][w][c_h + c_skip], and its last c_skip channels; with parts, for the norm */
    struct dl_mark before; /* low end of the arena before it was taken */
};

struct unet_skips {
    struct dl_run *r;
    struct unet_skip skip[UNET_SKIPS]; /* [n] */
    int n, n_ups;
    int up_in[UNET_SKIPS]; /* [n_ups] input width of every up resnet, in order of use; filled by the caller */
};

/* A new skip [n][h][w][c], to be written. */
dl_act unet_skip_push(struct unet_skips *s, int n, int h, int w, int c);

/* The topmost skip, no longer in the stack; its memory stays until the low end is released to `before`. */
struct unet_skip unet_skip_pop(struct unet_skips *s);

/* Where the next up resnet expects its h: the leading channels of the topmost skip's buffer. */
dl_act unet_skip_head(const struct unet_skips *s);

#endif
