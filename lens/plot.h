/* plot.h: charts of percentages: curves over layers with bands, and bars in groups; PNG, PDF or SVG.
 *
 * From top to bottom: the title, the legend, what the vertical axis says, the plot, the layers, what the horizontal
 * axis says. The vertical axis is not written sideways, so that it is read like the rest. All texts and lines grow with
 * the picture. Curves are told apart by colour (Okabe and Ito's, for the colour-blind, without their yellow, which does
 * not show on white) and by the form of their markers; 42 curves differ in one or the other. Bands and lines are cut
 * off at 0 and 100 %. Text is set as in figure.h: any script, long labels wrapped, text in PDF and SVG; the same chart
 * gives the same bytes on one machine.
 */
#ifndef LENS_PLOT_H
#define LENS_PLOT_H

#include "engine/err.h"

enum {
    PLOT_CURVES_MAX = 42,
    PLOT_BARS_MAX = 7, /* in a group: one colour each */
    PLOT_WIDTH = 960,  /* pixels, 96 to the inch */
    PLOT_HEIGHT = 600,
    PLOT_SIDE_MIN = 240,
    PLOT_SIDE_MAX = 9600,
};

struct plot_point {
    int k;           /* layer; ascending in a curve */
    double mean, sd; /* per cent; NaN: the line has a gap; there is no band */
};

struct plot_curve {
    const char *label; /* UTF-8; NULL keeps it out of the legend */
    const struct plot_point *point;
    int n_points; /* at least 1 */
};

struct plot_bars {
    const char *const *series; /* [n_series] of the legend */
    int n_series;
    const char *const *group; /* [n_groups] what is written under a group */
    int n_groups;             /* at least 1 */
    const double *value;      /* [n_groups][n_series] per cent */
};

struct plot_spec {
    const char *title, *x_title, *y_title; /* UTF-8; NULL for none */
    int w, h;                              /* 0: the above */
    const struct plot_curve *curve;        /* [n_curves] */
    int n_curves;                          /* 0: bars */
    struct plot_bars bars;
};

/* DL_EUSAGE: a suffix other than .png, .pdf and .svg, too many curves, a size out of range, or one in which the texts
 * leave no room for the plot. */
int plot_draw(const struct plot_spec *s, const char *path, struct dl_err *e);

#endif
