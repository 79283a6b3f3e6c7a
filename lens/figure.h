/* figure.h: the figure of a sweep: a grid of titled pictures under one title (the NNsight tutorial's), PNG, PDF or SVG.
 *
 * One layout, three outputs, chosen by the file's suffix: text is set by pango (any script, long titles wrapped,
 * nothing read as markup) and painted with cairo or written as SVG. Text stays text in PDF and SVG; pictures are
 * embedded without loss. Lengths are pixels, 96 to the inch in PDF. The same figure gives the same bytes on one
 * machine. A title of more than ten lines is cut and ends in an ellipsis.
 *
 * A picture smaller than its cell is enlarged by a whole factor without smoothing; a larger one is reduced (PDF and SVG
 * carry all its pixels). A cell without a picture, or whose file does not exist, is a thin frame that says "missing".
 * Columns are as wide as their pictures, so upright formats stand close together.
 */
#ifndef LENS_FIGURE_H
#define LENS_FIGURE_H

#include "engine/err.h"
#include "lens/manifest.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct figure_cell {
    const char *title;  /* UTF-8; NULL for none */
    const uint8_t *rgb; /* [h][w][3], or NULL */
    int w, h;
    const char *path; /* PNG to read when rgb is NULL; NULL: missing */
};

struct figure_spec {
    const char *title; /* UTF-8; NULL for none */
    int columns;       /* 0: figure_columns(n_cells) */
    int cell_px;       /* FIGURE_CELL_MIN..FIGURE_CELL_MAX; 0: 256 */
    const struct figure_cell *cell;
    int n_cells; /* at least 1 */
};

enum { FIGURE_CELL_MIN = 32, FIGURE_CELL_MAX = 4096 };

int figure_columns(int n_cells); /* ceil(sqrt(n)) */
bool figure_built(void);         /* whether this build draws figures */

/* A suffix other than .png, .pdf and .svg and a figure that is too large are DL_EUSAGE; a bad PNG DL_EINPUT. */
int figure_draw(const struct figure_spec *s, const char *path, struct dl_err *e);

/* The figures of a sweep's folder, one per prompt and seed. */
enum figure_titles { FIGURE_TITLES_SWEEP, FIGURE_TITLES_LAYER, FIGURE_TITLES_BLOCK };

/* Whether pictures are titled by block. */
static inline bool figure_by_block(enum figure_titles t, const struct manifest_doc *d)
{
    const char *run = json_string_value(json_object_get(d->run, "titles"));
    return t == FIGURE_TITLES_BLOCK || (t == FIGURE_TITLES_SWEEP && run && !strcmp(run, "block"));
}

struct figure_sweep {
    int columns, cell_px;      /* 0: the rules above; cells are 512 for SDXL and FLUX */
    enum figure_titles titles; /* SWEEP: what "titles" of the manifest's "run" says, "layer" or "block" */
    const char *out;           /* file; NULL: names_grid in the folder, as PNG. Of several figures every one gets
                                * "_p000_s17" before the suffix */
};

/* Draws all of them from a folder and its manifest, one cell for each of its layers in their order. Each file's path is
 * handed to `made` (may be NULL). */
int figure_sweep(const char *dir, const struct manifest_doc *d, const struct figure_sweep *o,
                 void (*made)(void *ctx, const char *path), void *ctx, struct dl_err *e);

#endif
