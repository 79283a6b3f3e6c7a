/* roofline.h: the roofline picture: each op by its FLOPs per byte and its rate, under the machine's measured roof. */
#ifndef BENCH_ROOFLINE_H
#define BENCH_ROOFLINE_H

#include "engine/err.h"

#include <stdbool.h>

struct roofline_point {
    double intensity, flops; /* FLOP per byte; FLOP/s */
    double share;            /* of the whole time: the point's area */
    int group;               /* its colour */
};

struct roofline {
    const char *title;
    double peak_flops, peak_bytes;      /* per second */
    const struct roofline_point *point; /* [n] */
    int n;
    const char *const *group; /* [n_groups] names */
    int n_groups;
};

bool roofline_built(void); /* false: this build has no cairo */

/* Writes path: an SVG where it ends in .svg, else a PNG. */
int roofline_draw(const char *path, const struct roofline *r, struct dl_err *e);

#endif
