/* igemm.h: our own matrix product and convolution, one kernel family ("implicit GEMM"), and plain attention; launch
 * functions in the manner of kernels.h (all pointers are device memory, nothing is allocated, all may be captured).
 *
 * y[n][pixel][out] = epi(sum over taps and channels of x . w). A convolution is the product whose rows are output
 * pixels of all images counted through, and whose columns are (tap, channel) pairs, gathered on load; k = 1 with stride
 * 1 is an ordinary matrix product. Nearest-neighbour enlargement (`up`) happens in the gather, at no cost.
 *
 * There are several ways to compute one product: tiles of several sizes, and for few tiles the inner dimension split
 * among blocks. Which is the fastest depends on the card, so it is to be measured: cuda_igemm_ways lists what serves
 * the arguments, cuda_igemm runs one of the list. Ways that do not split add in the same order (taps, channels) and
 * give the same bits; those that split round differently, each deterministically, and all keep the kernel budget.
 *
 *     struct cuda_igemm_way way[CUDA_IGEMM_WAYS];
 *     int n = cuda_igemm_ways(&a, sms, way);       // 0: unsupported
 *     scratch = ... way[i].scratch_bytes bytes ...       // any content
 *     cuda_igemm(stream, &a, &way[i], scratch);
 */
#ifndef DL_CUDA_IGEMM_H
#define DL_CUDA_IGEMM_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/op.h"

struct CUstream_st;

struct cuda_igemm_args {
    dl_act x, y;   /* f32, f16, bf16, any pitch; y may be of another type; its parts are written where it has them */
                   /* x and w may be of e4m3: k = stride = 1, x on 16 bytes as w, its channels and pitch multiples of
                      16, its pixels at one pitch through all images */
    const void *w; /* [out][k][k][in] in x's type; [2 out][in] with glu */
    int32_t k, stride;
    bool up;           /* x is enlarged to y's h and w */
    const float *bias; /* [out], [2 out] with glu, or NULL */
    int32_t fn;        /* enum dl_fn */
    bool glu;          /* k = 1 only */
    dl_vec add, gate;
    dl_act res;  /* may be y */
    float scale; /* 0 means 1 */
    const int32_t *step;
    /* Of e4m3, both: sums are multiplied by row_scale [n][h * w] and col_scale [out] ([2 out]) first. */
    const float *row_scale, *col_scale;
};

enum { CUDA_IGEMM_WAYS = 6 };

struct cuda_igemm_way {
    const char *name;    /* "mma 96x160x32" (pixels x channels x slice), "mma 64x64x64 split 4", "plain 64x64x16";
                            static, and the way's identity: no two have the same, and a name keeps its meaning */
    int64_t scratch_bytes;     /* bytes; 0: none */
    int32_t tile, split; /* which kernel; parts of the inner dimension */
};

/* The ways that serve these arguments and are not hopeless, the best guess first; their number, 0 when no kernel takes
 * them (CUDA_K_UNSUPPORTED would follow). From shapes, types and the alignment of addresses (those of a dry run are
 * as aligned as the real ones) and the number of multiprocessors alone. f16 and bf16 with channels a multiple of 8, x
 * and w on 16 bytes, go by tensor cores; the rest has one way, the plain one. */
int cuda_igemm_ways(const struct cuda_igemm_args *a, int sms, struct cuda_igemm_way way[CUDA_IGEMM_WAYS]);

/* Whether the current device runs those of e4m3: compute capability 8.9 or later, and there is code for it. */
bool cuda_igemm_has_e4m3(void);

/* 0, a cudaError_t, or CUDA_K_UNSUPPORTED (kernels.h), also for a way that cannot serve these arguments. scratch:
 * way->scratch_bytes bytes on 16, used by nothing else until the launch is done, or NULL where that is 0. */
int cuda_igemm(struct CUstream_st *s, const struct cuda_igemm_args *a, const struct cuda_igemm_way *way, void *scratch);

/* Attention of any type and head dim, one block a query: for what cuda_attn does not take (f32, odd head dims). Scores
 * of one query lie in shared memory, which bounds the keys. */
struct cuda_attn_args;
int cuda_attn_plain(struct CUstream_st *s, const struct cuda_attn_args *a);

#ifdef __cplusplus
}
#endif
#endif
