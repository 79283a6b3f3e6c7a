/* marks.h: annotation files: which images show what was asked for, layer by layer.
 *
 * The format is that of the files published with the Diffusion Lens (Toker et al., ACL 2024; human_annotations/ and
 * gpt_annotations/ of https://github.com/tokeron/DiffusionLens), and what `dlens report` saves: a CSV file (loaders/
 * csv.h) with a header and one row for each prompt and seed. The columns, in any order:
 *
 *     prompt   the text; with the seed it says which rows of two files belong together
 *     0 4 8    one column a layer k, the position in hidden_states; the highest is the final layer
 *     seed     0..2^64-1. In the published files it is an image's place in its batch, 0 to 3
 *
 * Other columns are left out (pandas adds one for its index). A cell is 1 (right), 0 (wrong) or blank (not annotated).
 * A file in which a number above 1 stands is graded: the answers of a vision language model, 0 to 10. There a cell is
 * right from a threshold on. 6 is where the published grades agree best with the published human annotations: in 84.7 %
 * of the 34,314 cells that both have, Cohen's kappa 0.691 (5: 84.2 %, 0.679; 7: 83.9 %, 0.678; 8: 80.0 %, 0.605; 10:
 * 71.7 %, 0.453), counted by tests/unit/test_curves.c. Such files also hold refusals ("Error", "I'm sorry, ..."): a
 * cell that is no number is missing, as a blank one, and counted.
 *
 * Numbers outside 0..10, bad seeds and bad headers are DL_EINPUT; the message names file, line and column.
 */
#ifndef LENS_MARKS_H
#define LENS_MARKS_H

#include "engine/err.h"
#include "loaders/csv.h"

#include <stdbool.h>
#include <stdint.h>

enum { MARKS_THRESHOLD = 6, MARKS_LAYER_MAX = 9999 };

/* What a file's name says: <series>_<Question>_<model>, with what may follow ("_famous_1702657046.847111.csv") dropped.
 * The question is the part in CamelCase. A name of another form is all series. Strings are owned, "" for none. */
struct marks_name {
    char *series, *question, *model;
};

struct marks {
    char *path;
    struct marks_name name;
    int n_layers, n_rows; /* at least 1 each */
    int *layer;           /* [n_layers] k, ascending */
    signed char *mark;    /* [n_rows][n_layers] 1, 0, or -1: missing */
    const char **prompt;  /* [n_rows] in `csv` */
    uint64_t *seed;       /* [n_rows] */
    bool graded;
    int threshold;                 /* from which on a cell is right; 1 where not graded */
    int64_t n_blank, n_unreadable; /* cells */
    int unreadable_line;           /* the first such cell: its line, layer and text */
    int unreadable_layer;
    const char *unreadable; /* in `csv` */
    int n_ignored;          /* columns */
    const char *ignored;    /* the first one's title, in `csv` */
    struct csv csv;
};

/* `threshold` is for graded files, 1..10. */
int marks_open(struct marks *m, const char *path, int threshold, struct dl_err *e);
int marks_open_memory(struct marks *m, const void *data, size_t n, const char *name, int threshold, struct dl_err *e);
void marks_close(struct marks *m); /* a zeroed struct is fine */

static inline int marks_at(const struct marks *m, int row, int layer_index)
{
    return m->mark[(size_t)row * (size_t)m->n_layers + (size_t)layer_index];
}

/* Names for curves. `full` says all: "common animals, correct animal, DeepFloyd IF", with "graded" behind it for graded
 * files. `brief` leaves out what all n of them have in common, and `common` is that; where some are graded, the others
 * say "annotated" there. Underscores become spaces, the published names' "auto_prompts_" and "positional_" and the "Is"
 * of questions go, "df" and "sd" are written out. Where two would be the same the files' paths are taken. */
struct marks_labels {
    char **full, **brief; /* [n] */
    char *common;         /* "" where there is nothing, and for a single file */
    int n;
};
int marks_label(struct marks_labels *l, const struct marks *m, int n, struct dl_err *e);
void marks_labels_close(struct marks_labels *l); /* a zeroed struct is fine */

/* For marks.c: NULL strings mean no memory. */
void marks_name_read(struct marks_name *n, const char *path);
void marks_name_close(struct marks_name *n);

#endif
