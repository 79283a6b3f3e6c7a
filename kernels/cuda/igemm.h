/* igemm.h: our own matrix product and convolution, one kernel family ("implicit GEMM"), and plain attention; launch
 * functions in the manner of kernels.h (all pointers are device memory, nothing is allocated, all may be captured).
 *
 * y[n][pixel][out] = epi(sum over taps and channels of x . w). A convolution is the product whose rows are output
 * pixels of all images counted through, and whose columns are (tap, channel) pairs, gathered on load; k = 1 with stride
 * 1 is an ordinary matrix product. Nearest-neighbour enlargement (`up`) happens in the gather, at no cost.
 */
#ifndef DL_CUDA_IGEMM_H
#define DL_CUDA_IGEMM_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/op.h"

struct CUstream_st;

struct cuda_igemm_args {
    dl_act x, y;   /* f32, f16, bf16, any pitch; y may be of another type */
    const void *w; /* [out][k][k][in] in x's type; [2 out][in] with glu */
    int32_t k, stride;
    bool up;           /* x is enlarged to y's h and w */
    const float *bias; /* [out], [2 out] with glu, or NULL */
    int32_t fn;        /* enum dl_fn */
    bool glu;          /* k = 1 only */
    dl_vec add, gate;
    dl_act res; /* may be y */
    float scale;
    const int32_t *step;
};

/* 0, a cudaError_t, or CUDA_K_UNSUPPORTED (kernels.h). */
int cuda_igemm(struct CUstream_st *s, const struct cuda_igemm_args *a);
/* What it would run, from shapes, types and alignment alone: "mma 128x128x32" (f16, bf16; channels a multiple of 8, x
 * and w on 16 bytes), "plain 64x64x16" for the rest. */
const char *cuda_igemm_variant(const struct cuda_igemm_args *a);

/* Attention of any type and head dim, one block a query: for what cuda_attn does not take (f32, odd head dims). Scores
 * of one query lie in shared memory, which bounds the keys. */
struct cuda_attn_args;
int cuda_attn_plain(struct CUstream_st *s, const struct cuda_attn_args *a);

#ifdef __cplusplus
}
#endif
#endif
