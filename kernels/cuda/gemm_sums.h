/* gemm_sums.h: matrix products whose sums a library leaves in f32 scratch, and a pass of ours (cuda_epi) finishes: for
 * epilogues and scales that the library does not have. It goes by pieces of rows or of one row's pixels, so that the
 * sums take little memory and stay near the cache. */
#ifndef DL_CUDA_GEMM_SUMS_H
#define DL_CUDA_GEMM_SUMS_H

#include "kernels/cuda/cuda_priv.h"

struct cuda_sums {
    struct dl_run *r;
    const struct dl_gemm *a; /* y and the epilogue, res p may be y's */
    int64_t out;             /* columns of the sums: rows of the weight */
    float *sums;             /* [cuda_sums_bytes] */
    const float *bias;       /* [out] or NULL */
    /* Of quantised operands: [n][pixels] and [out]; or both NULL. */
    const float *row_scale, *col_scale;
    /* Enqueues the sums of rows [row, row + y.n), pixels [from, from + y.w) of each, into y: f32, h = 1. Failures go
     * into r. */
    void (*product)(void *user, dl_act y, int64_t row, int64_t from);
    void *user;
};

/* Of one piece, from r, a and out. */
int64_t cuda_sums_bytes(const struct cuda_sums *s);
void cuda_sums_run(const struct cuda_sums *s);

/* Rows [row, row + n), pixels [from, from + count) of each, as h = 1; all of the pixels where n is above 1. */
dl_act cuda_piece_of(dl_act a, int64_t row, int32_t n, int64_t from, int32_t count);

#endif
