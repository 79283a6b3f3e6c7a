/* onednn_prim.h: oneDNN's primitives for one block of work in bf16 with f32 results, kept by shape.
 *
 * Every primitive is made for one thread: the pool's workers each run their own blocks, so nothing nests and a block's
 * result depends neither on the batch nor on the number of threads. Primitives are made in dry runs and looked up
 * later; scratchpads are the caller's. Serves oneDNN 2.x and 3.x. */
#ifndef CPU_ONEDNN_PRIM_H
#define CPU_ONEDNN_PRIM_H

#include "kernels/cpu/cpu_priv.h"

/* What a primitive is made for; unused numbers are 0. A matmul is x[m][k] (pitch lda) times w[k][n]; a convolution
 * takes x[ih][iw][k] to y[oh][ow][n], dense, with `top` and `bottom` rows and `side` columns of padding. `layout` tells
 * apart forms of one weight: primitives that share it (and k, n, taps) read the same blocked weight. */
struct prim_key {
    int64_t m, n, k, lda;                                    /* matmul */
    int64_t taps, ih, iw, oh, ow, stride, top, bottom, side; /* convolution, taps > 0 */
    int64_t layout;
    int64_t plain; /* matmul: the weight is not packed but read as it lies: 1 [n][k], 2 [k][n] */
};

struct prim;

/* The primitive for `key`; in a dry run it is made when it is new, with the weight layout of `like` (NULL: the layout
 * that oneDNN likes best). NULL: oneDNN has nothing fast for it, or (and then the run's error is set) something failed.
 */
const struct prim *prim_get(struct dl_run *r, const struct prim_key *key, const struct prim *like);

int64_t prim_w_bytes(const struct prim *p);
int64_t prim_scratch_bytes(const struct prim *p);

/* Brings a plain weight block (bf16, [n][k] of pitch ldw, or convolution [n][k][taps]) into the primitive's layout. */
int prim_pack(const struct prim *p, const uint16_t *w, int64_t ldw, void *packed, struct dl_err *e);

/* Runs it on worker's behalf: bf16 x and packed weight to f32 y. Returns < 0 when oneDNN refuses. */
int prim_run(const struct prim *p, int worker, const void *x, const void *w, float *y, void *scratch);

/* Whether oneDNN has bf16 in instructions of this CPU rather than by emulation. */
bool prim_has_bf16(void);

/* bf16 ops; false: not taken, and nothing was done. */
struct simd;
bool onednn_gemm(struct dl_run *r, const struct simd *s, const struct dl_gemm *a);
bool onednn_conv(struct dl_run *r, const struct simd *s, const struct dl_conv *a);
bool onednn_attn(struct dl_run *r, const struct simd *s, const struct dl_attn *a);

#endif
