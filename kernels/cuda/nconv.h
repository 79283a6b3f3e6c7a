/* nconv.h: group norm, activation and 3 x 3 convolution in one pass; launch functions in the manner of kernels.h.
 *
 * y[n][pixel][out] = epi(sum over taps and channels of w . fn(norm(x))): what cuda_norm into scratch and cuda_igemm do,
 * where the normalised x is neither written nor read nine times. The normalised value is rounded to x's type before it
 * is multiplied, as there; the zero padding comes after the norm. A row of the batch gets the same bits alone. All ways
 * sum in one order (slices of 32 channels, in them taps, in them channels), so the choice among them changes no sum.
 */
#ifndef DL_CUDA_NCONV_H
#define DL_CUDA_NCONV_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/igemm.h"

struct cuda_nconv_args {
    struct cuda_igemm_args c; /* k = 3, stride 1, no glu; fn: the epilogue's */
    const float *mean_rstd;   /* [n][groups][2]; NULL: x is not normalised, what follows but for `pre_fn` unused */
    int32_t groups;
    const float *gamma, *beta; /* [c] or NULL */
    dl_vec scale, shift;       /* [n][c], tables of all steps allowed */
    int32_t pre_fn;            /* enum dl_fn, of x or of the normalised x */
};

/* One way to compute it. */
struct cuda_nconv_way {
    const char *name;      /* "halo 128x128": pixels and outputs of a block's tile; unique and static */
    int64_t scratch_bytes; /* that cuda_nconv needs, on 16 bytes */
};
enum { CUDA_NCONV_WAYS = 8 }; /* the most there are */

/* Fills `way` with the ways that serve these arguments, the likely best first, and returns how many they are; 0: none.
 * Judged from shapes, types and alignment alone: f16 or bf16 x, channels of x and y multiples of 8, all on 16 bytes. */
int cuda_nconv_ways(const struct cuda_nconv_args *a, struct cuda_nconv_way way[CUDA_NCONV_WAYS]);

/* Runs the way of this name. 0, a cudaError_t, or CUDA_K_UNSUPPORTED (kernels.h). */
int cuda_nconv(struct CUstream_st *s, const struct cuda_nconv_args *a, const char *way, void *scratch);

#ifdef __cplusplus
}
#endif
#endif
