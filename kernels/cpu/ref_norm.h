/* ref_norm.h: a group norm's application as one multiply-add for each channel, shared by norm and conv. */
#ifndef REF_NORM_H
#define REF_NORM_H

#include "kernels/cpu/cpu_priv.h"

struct ref_affine {
    const struct dl_stat *s;
    const float *gamma, *beta; /* [c] or NULL */
    double *ab;                /* [c][2] of the row under way: y = fn(a x + b); scratch of the caller's mark */
    int32_t c;
};

/* Fetches weights (rounded to t) and scratch; in dry runs too. False: failed, or no room. */
bool ref_affine_open(struct ref_affine *o, struct dl_run *r, const struct dl_stat *s, int t, int32_t c);
void ref_affine_row(struct ref_affine *o, const struct dl_run *r, int64_t i);
/* x [c] and y [c] may be the same. */
void ref_affine_pixel(const struct ref_affine *o, int fn, const float *x, float *y);

#endif
