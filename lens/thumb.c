#include "lens/thumb.h"

#include <string.h>

void thumb_size(int w, int h, int side_px, int *thumb_w, int *thumb_h)
{
    int longer = w > h ? w : h;
    *thumb_w = w, *thumb_h = h;
    if (longer <= side_px) return;
    *thumb_w = (int)(((int64_t)w * side_px + longer / 2) / longer);
    *thumb_h = (int)(((int64_t)h * side_px + longer / 2) / longer);
    if (!*thumb_w) *thumb_w = 1;
    if (!*thumb_h) *thumb_h = 1;
}

/* In units of 1/m, pixel i of m covers [i * n, (i + 1) * n), and pixel j of n covers [j * m, (j + 1) * m). */
static int64_t overlap(int64_t i, int64_t n, int64_t j, int64_t m)
{
    int64_t from = i * n > j * m ? i * n : j * m;
    int64_t to = (i + 1) * n < (j + 1) * m ? (i + 1) * n : (j + 1) * m;
    return to - from;
}

/* The first pixel of n behind those that pixel i of m covers. */
static int64_t end_of(int64_t i, int64_t n, int64_t m) { return ((i + 1) * n + m - 1) / m; }

void thumb_make(const uint8_t *rgb, int w, int h, uint8_t *thumb, int thumb_w, int thumb_h, uint64_t *sum)
{
    uint64_t whole = (uint64_t)w * (uint64_t)h;
    for (int64_t y = 0; y < thumb_h; y++) {
        memset(sum, 0, (size_t)w * 3 * sizeof *sum);
        for (int64_t v = y * h / thumb_h; v < end_of(y, h, thumb_h); v++) {
            uint64_t weight = (uint64_t)overlap(y, h, v, thumb_h);
            const uint8_t *row = rgb + v * w * 3;
            for (int64_t i = 0; i < (int64_t)w * 3; i++) sum[i] += weight * row[i];
        }
        for (int64_t x = 0; x < thumb_w; x++) {
            uint64_t all[3] = {whole / 2, whole / 2, whole / 2};
            for (int64_t u = x * w / thumb_w; u < end_of(x, w, thumb_w); u++) {
                uint64_t weight = (uint64_t)overlap(x, w, u, thumb_w);
                for (int c = 0; c < 3; c++) all[c] += weight * sum[u * 3 + c];
            }
            for (int c = 0; c < 3; c++) *thumb++ = (uint8_t)(all[c] / whole);
        }
    }
}
