/* report.h: a sweep's folder as one self-contained HTML page: a slider over layers with all prompts side by side, a
 * table of all layers, a large view, and scoring of pictures into the paper authors' CSV format.
 *
 * The page (lens/report/) is one file that loads nothing: a Content-Security-Policy allows its own style and scripts,
 * by their hashes, and pictures in data: URIs. Every picture stands in it once, in a table that is complete without
 * script. Text of the manifest is escaped (web.h). The same folder gives the same page.
 *
 * A picture at full size is the PNG file's own bytes, after it was decoded to its end. A larger one than `cell_px` is
 * reduced (thumb.h). A picture whose file does not exist is a frame that says "missing". With --upscale images/ holds
 * the second stage's pictures, and those are shown.
 */
#ifndef LENS_REPORT_H
#define LENS_REPORT_H

#include "lens/figure.h"
#include "lens/manifest.h"

#include <stdint.h>

enum { REPORT_CELL_MIN = 16, REPORT_CELL_MAX = 4096 };

struct report_opts {
    const char *out;      /* file; NULL: report.html in the folder */
    const int *prompt;    /* [n_prompts] their numbers, in the page's order; NULL: all */
    const int *layer;     /* [n_layers] k, in the page's order; NULL: the manifest's */
    const uint64_t *seed; /* [n_seeds] in the page's order; NULL: each prompt's own */
    int n_prompts, n_layers, n_seeds;
    int cell_px; /* longer side of the pictures; 0: full size, or the largest of 512, 384, 256, 192, 128, 96 and 64
                    whose page is not larger than max_bytes */
    int64_t max_bytes; /* 0: 64 MiB */
    enum figure_titles titles;
};

struct report_made {
    int64_t bytes;      /* of the page */
    int64_t full_bytes; /* about what it would be at full size; 0: not looked at */
    int64_t pictures, missing;
    int rows;    /* prompts x seeds */
    int cell_px; /* 0: full size */
};

/* Writes the page of a folder and its manifest. A selection without pictures (a seed that no prompt has) and a page
 * that is too large are DL_EUSAGE and say what can be done; a manifest without images and a bad PNG are DL_EINPUT. */
int report_write(const char *dir, const struct manifest_doc *d, const struct report_opts *o, struct report_made *made,
                 struct dl_err *e);

/* Where it goes: o->out, or the default. */
int report_path(char *path, int64_t room, const char *dir, const struct report_opts *o, struct dl_err *e);

#endif
