#include "pipelines/vae_tile.h"

#include <stdlib.h>
#include <string.h>

struct tile {
    float *p; /* [h][w][c] */
    int h, w;
};

static int least(int a, int b) { return a < b ? a : b; }

/* The first `extent` rows of b go over from the last ones of a, which stands above it. */
static void blend_down(const struct tile *a, struct tile *b, int extent, int c)
{
    extent = least(extent, least(a->h, b->h));
    int64_t row = (int64_t)least(a->w, b->w) * c;
    for (int y = 0; y < extent; y++) {
        const float *pa = a->p + (int64_t)(a->h - extent + y) * a->w * c;
        float *pb = b->p + (int64_t)y * b->w * c, t = (float)y / (float)extent;
        for (int64_t i = 0; i < row; i++) pb[i] = pa[i] * (1 - t) + pb[i] * t;
    }
}

static void blend_right(const struct tile *a, struct tile *b, int extent, int c)
{
    extent = least(extent, least(a->w, b->w));
    for (int y = 0; y < least(a->h, b->h); y++)
        for (int x = 0; x < extent; x++) {
            const float *pa = a->p + ((int64_t)y * a->w + a->w - extent + x) * c;
            float *pb = b->p + ((int64_t)y * b->w + x) * c, t = (float)x / (float)extent;
            for (int i = 0; i < c; i++) pb[i] = pa[i] * (1 - t) + pb[i] * t;
        }
}

int vae_tile_run(int h, int w, int c, int tile, int f, vae_tile_decoder decode, void *user, float *image,
                 struct dl_err *e)
{
    int stride = tile * 3 / 4, blend = tile * f / 4, keep = tile * f - blend, columns = (w + stride - 1) / stride,
        rc = -1;
    int64_t size = (int64_t)tile * f * tile * f * c;
    struct tile *row = calloc(2 * (size_t)columns, sizeof *row); /* the row above and this one */
    if (!row) return dl_fail(e, DL_ENOMEM, "no memory for VAE tiles");
    for (int j = 0; j < 2 * columns; j++) {
        row[j].p = malloc((size_t)size * sizeof(float));
        if (!row[j].p) {
            dl_fail(e, DL_ENOMEM, "no memory for VAE tiles");
            goto done;
        }
    }
    for (int i = 0, y = 0; y < h; i++, y += stride) {
        struct tile *above = row + (i & 1 ? 0 : columns), *here = row + (i & 1 ? columns : 0);
        for (int j = 0, x = 0; x < w; j++, x += stride) {
            struct tile *t = &here[j];
            int th = least(tile, h - y), tw = least(tile, w - x);
            t->h = th * f, t->w = tw * f;
            if (decode(user, y, x, th, tw, t->p, e) < 0) goto done;
            if (i) blend_down(&above[j], t, blend, c);
            if (j) blend_right(&here[j - 1], t, blend, c);
            int rows = least(keep, t->h), cols = least(keep, t->w);
            for (int v = 0; v < rows && y * f + v < h * f; v++) {
                int64_t at = ((int64_t)(y * f + v) * w * f + (int64_t)x * f) * c;
                memcpy(image + at, t->p + (int64_t)v * t->w * c,
                       (size_t)least(cols, w * f - x * f) * (size_t)c * sizeof(float));
            }
        }
    }
    rc = 0;
done:
    for (int j = 0; j < 2 * columns; j++) free(row[j].p);
    free(row);
    return rc;
}
