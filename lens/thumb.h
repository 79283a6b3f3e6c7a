/* thumb.h: smaller pictures, by area averaging: a pixel is the mean of what it covers, to the nearest step. The sums
 * are exact integers, so every machine gives the same bytes.
 */
#ifndef LENS_THUMB_H
#define LENS_THUMB_H

#include <stdint.h>

/* The size of a w x h picture whose longer side is at most side_px; never larger than it was, at least 1 x 1. */
void thumb_size(int w, int h, int side_px, int *thumb_w, int *thumb_h);

/* rgb [h][w][3] to thumb [thumb_h][thumb_w][3], which is at most as large; at most 2^28 pixels. sum [w][3] is room for
 * work. */
void thumb_make(const uint8_t *rgb, int w, int h, uint8_t *thumb, int thumb_w, int thumb_h, uint64_t *sum);

#endif
