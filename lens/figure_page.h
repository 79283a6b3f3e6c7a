/* figure_page.h: a figure after layout and before painting (inside of figure.h).
 *
 * Everything stands at its place in pixels, y downwards; a text line's y is its baseline. page_layout makes a page,
 * figure_cairo.c and figure_svg.c paint it.
 */
#ifndef LENS_FIGURE_PAGE_H
#define LENS_FIGURE_PAGE_H

#include "lens/figure.h"

#include <pango/pangocairo.h>

#define FIGURE_FONTS "Liberation Sans, Arial, Helvetica, sans-serif"

struct page_line {
    PangoLayoutLine *line; /* referenced; for cairo */
    char *text;            /* the same characters; for SVG */
    double x, y, w;        /* left end, baseline, width */
    double size_px;
    unsigned colour; /* 0xrrggbb */
    bool rtl;
};

struct page_picture {
    uint8_t *rgb;        /* [h][w][3], already enlarged where it is; NULL: missing, a frame is drawn */
    int w, h;            /* pixels */
    double x, y;         /* left top */
    double box_w, box_h; /* drawn size */
};

struct page {
    double w, h;
    char *title; /* for the file's own title; may be "" */
    PangoFontMap *fonts;
    PangoContext *pango;
    struct page_line *line; /* [n_lines] */
    int n_lines;
    struct page_picture *picture; /* [n_pictures] one a cell */
    int n_pictures;
};

/* `pixels`: for PNG, text fitted to whole pixels. */
int page_layout(struct page *p, const struct figure_spec *s, bool pixels, struct dl_err *e);
void page_close(struct page *p); /* a zeroed struct is fine */

/* The bytes of a whole file, owned by the caller. `name` stands in messages. */
int page_png(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e);
int page_pdf(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e);
int page_svg(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e);

#endif
