/* curves.h: what `dlens curves` found out, and the ways to tell it (cmd_curves.c computes, curves_out.c tells). */
#ifndef TOOLS_CURVES_H
#define TOOLS_CURVES_H

#include "lens/curves.h"
#include "lens/plot.h"

#include <jansson.h>

struct curves_found {
    enum curves_rule rule;
    int threshold;       /* for graded files */
    struct marks *marks; /* [n_files] */
    int n_files;
    struct curve *curve;      /* [n_files]; NULL when there are bars */
    struct curves_bars *bars; /* [n_groups], or NULL */
    int *group;               /* [n_groups][3] files of bars, see curves_group */
    int n_groups;
    struct marks_labels labels; /* of the curves, or of the groups */
};

/* A table for people on stdout. */
void curves_print(const struct curves_found *f);
/* All numbers into an object. */
void curves_json(const struct curves_found *f, json_t *o);
/* One row a curve and layer, or a group of bars, with all digits. */
int curves_write_csv(const struct curves_found *f, const char *path, struct dl_err *e);
/* `title` NULL: what the labels have in common; w and h 0: the usual size. */
int curves_plot(const struct curves_found *f, const char *title, int w, int h, const char *path, struct dl_err *e);

#endif
