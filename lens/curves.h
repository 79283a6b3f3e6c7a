/* curves.h: layer curves and "which noun appears first", from annotation files (marks.h). Pure numbers.
 *
 * Source: the annotation files of Toker et al., ACL 2024, and the plots on their site. The paper's text does not say
 * how the plots were computed, so the rules were inferred: several were tried until one gave the published plots from
 * the published files. What fits: the curve of familiar animals in DeepFloyd IF with its band, and all four bars. The
 * curves of unfamiliar animals and of famous people come out near (within 8 points); those plots seem to use more
 * annotations than were published. Both could in principle be coincidences.
 *
 * Rule "final": of the images that are right at the final layer, the percentage that is right at each layer; missing
 * cells do not count. It is computed for every seed by itself; the curve is the mean over seeds, its band +- their
 * sample standard deviation (n - 1). So every curve ends at 100 %. A seed without such an image at a layer takes no
 * part there. Rule "all": the percentage over the images of all seeds together, whatever the final layer shows; it has
 * no band, because it is not a mean over seeds.
 *
 * Derived numbers, always of the images that are right at the final layer: `earliest`, the mean over images of the
 * first layer that is right; `stable`, of the first layer from which on every one is right (a missing cell is not);
 * `half`, the first layer at which the curve of rule "final" is 50 % or more.
 */
#ifndef LENS_CURVES_H
#define LENS_CURVES_H

#include "lens/marks.h"

enum curves_rule { CURVES_FINAL, CURVES_ALL };

struct curve_point {
    int k;            /* layer */
    double mean, sd;  /* per cent; NaN: no image; sd is NaN for fewer than two seeds and for rule "all" */
    int seeds;        /* that took part */
    int64_t n, right; /* cells that counted, and those with a 1 */
};

struct curve {
    struct curve_point *point; /* [n_points], k ascending */
    int n_points;
    int n_seeds;               /* in the file */
    int64_t n_images, n_final; /* rows; rows that are right at the final layer */
    double earliest, stable;   /* layers; NaN when n_final is 0 */
    int half;                  /* layer, -1 when there is none */
};

int curves_compute(struct curve *c, const struct marks *m, enum curves_rule rule, struct dl_err *e);
void curves_close(struct curve *c); /* a zeroed struct is fine */

/* Which of two nouns appears first, from the three files of a series and model that ask whether the picture is right
 * (IsCorrect), has the first noun (IsFirstClass) and has the second (IsSecondClass). For every image that is right at
 * the final layer, the first layer at which exactly one of the nouns is there decides; an image without one is a tie.
 * A missing cell is no noun. Images are matched by prompt and seed (several of the same in their order); one that a
 * file of a noun lacks is left out. */
struct curves_bars {
    int64_t n, first, second, tie; /* images; n is the sum of the three */
    int64_t n_unmatched;           /* right at the final layer, and left out */
};

/* Files whose layers differ are DL_EINPUT. */
int curves_bars(struct curves_bars *b, const struct marks *correct, const struct marks *first,
                const struct marks *second, struct dl_err *e);

/* The files of bars by their names: m [n] as group[3 * g + 0..2], indices of correct, first and second of group g,
 * groups in the order in which they first come. *n_groups of them; group has room for 3 * n. A file that is none of
 * these, comes twice, or whose companions lack, is DL_EUSAGE. */
int curves_group(int *group, int *n_groups, const struct marks *m, int n, struct dl_err *e);

#endif
