/* check.h: a backend's result of one op against the C reference's, on the same inputs.
 *
 * Budget of an element: two roundings to the output's type, and C u for sums in f32 (2^-13 in e4m3) times the largest
 * that the sum could be: the reference run on the magnitudes of all inputs (for attention: v's magnitudes, and what the
 * scores' own errors do to them). What is neither product nor attention gets C u times the largest value of the output.
 * Large products are held to it in a few output channels, attention in one head and a few queries: the reference
 * computes only those.
 */
#ifndef BENCH_CHECK_H
#define BENCH_CHECK_H

#include "tools/bench/case.h"

struct check {
    double share;     /* of the budget that the worst element used: at most 1 is right; infinite for NaN */
    int64_t elements; /* that were looked at */
    double got, want; /* of the worst */
};

/* `ran` has just run its set 0, once, and is done. ref: the CPU backend with reference_only. */
int check_case(struct case_run *ran, const struct dl_backend *ref, struct dl_ctx *ref_ctx, struct check *out,
               struct dl_err *e);

/* Of a product, convolution or attention, where one reference serves several runs: the part that is held to it, then a
 * whole output in host memory, [dl_act_bytes] as it lies in the backend's. */
struct check_want;
int check_want_open(struct check_want **w, const struct tape_case *k, const struct dl_backend *ref,
                    struct dl_ctx *ref_ctx, struct dl_err *e);
void check_output(const struct check_want *w, const void *got, struct check *out);
/* Two whole outputs of it, both in host memory, against each other: twice the budget, at the part's largest magnitude
 * for all elements. Sees what is wrong outside the part. */
void check_pair(const struct check_want *w, dl_act one, dl_act other, struct check *out);
void check_want_close(struct check_want *w); /* NULL is fine */

#endif
