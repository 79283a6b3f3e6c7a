/* figure_page.h: a figure after layout and before painting (inside of figure.h and plot.h).
 *
 * Everything stands at its place in pixels, y downwards; a text line's y is its baseline. figure_page.c lays out grids
 * of pictures and plot.c charts, both with figure_text.c; figure_cairo.c and figure_svg.c paint any page:
 * pictures first, shapes over them in their order, text over all.
 */
#ifndef LENS_FIGURE_PAGE_H
#define LENS_FIGURE_PAGE_H

#include "lens/figure.h"

#include <pango/pangocairo.h>

#define FIGURE_FONTS "Liberation Sans, Arial, Helvetica, sans-serif"

enum { PAGE_INK = 0x1a1a1a, PAGE_FAINT = 0x8a8a8a };

/* Where a line stays when it is set with another font, as SVG may be. */
enum page_anchor { PAGE_MIDDLE, PAGE_LEFT, PAGE_RIGHT };

struct page_line {
    PangoLayoutLine *line; /* referenced; for cairo */
    char *text;            /* the same characters; for SVG */
    double x, y, w;        /* left end, baseline, width */
    double size_px;
    unsigned colour; /* 0xrrggbb */
    bool rtl;
    enum page_anchor anchor;
};

struct page_picture {
    uint8_t *rgb;        /* [h][w][3], already enlarged where it is; NULL: missing, a frame is drawn */
    int w, h;            /* pixels */
    double x, y;         /* left top */
    double box_w, box_h; /* drawn size */
};

enum page_form { PAGE_POLYLINE, PAGE_POLYGON, PAGE_CIRCLE };

struct page_shape {
    enum page_form form;
    double *xy; /* [n][2] corners; of a circle its centre */
    int n;
    double radius;  /* of a circle */
    unsigned fill;  /* 0xrrggbb, not of a polyline */
    double opacity; /* of the fill, 0 for none */
    unsigned stroke;
    double stroke_w; /* 0 for none; corners and ends are round */
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
    struct page_shape *shape; /* [n_shapes] */
    int n_shapes;
};

/* Makes a page of a spec. `pixels`: for PNG, text fitted to whole pixels. */
typedef int page_maker(struct page *p, const void *spec, bool pixels, struct dl_err *e);
page_maker page_layout;          /* a struct figure_spec */
page_maker plot_layout;          /* a struct plot_spec */
void page_close(struct page *p); /* a zeroed struct is fine */

/* Makes, paints and writes a page in the format that the path's suffix says. */
int page_draw(page_maker *make, const void *spec, const char *path, struct dl_err *e);

/* Text (figure_text.c). Call page_fonts before page_text. Strings and layouts are owned by the caller. */
void page_fonts(struct page *p, bool pixels);
/* Text from anywhere as text that can be set and written as XML: valid UTF-8, no control characters, not endless. */
char *page_text_clean(const char *s);
/* Clean text, wrapped to a width (0: not) and centred in it. */
PangoLayout *page_text(struct page *p, const char *text, double size_px, double width);
/* Cuts the text until it has no more than `lines` lines, an ellipsis at its end. */
void page_text_cut(PangoLayout *l, int lines);
/* Narrows a layout as far as it keeps its number of lines, so that no word stands alone on the last one. */
void page_text_balance(PangoLayout *l);
double page_text_width(PangoLayout *l); /* whole pixels */
double page_text_height(PangoLayout *l);
/* Takes the lines of a layout over into the page, its left top at x, y. */
void page_text_add(struct page *p, PangoLayout *l, double x, double y, double size_px, unsigned colour);

/* The bytes of a whole file, owned by the caller. `name` stands in messages. */
int page_png(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e);
int page_pdf(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e);
int page_svg(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e);

#endif
