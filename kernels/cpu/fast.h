/* fast.h: the CPU backend's own f32 kernels (any storage type, f32 arithmetic) on simd.h's loops.
 *
 * Each entry takes all of its op's cases or hands over to the reference. `s` is the machine's table. Results depend
 * neither on the batch nor on the number of threads. */
#ifndef CPU_FAST_H
#define CPU_FAST_H

#include "kernels/cpu/cpu_priv.h"
#include "kernels/cpu/simd.h"

enum { CPU_FORM_PANELS = CPU_FORM_ONEDNN }; /* four forms: panel width, halves */

/* Weight in panels, both halves of a GLU apart: [halves][panels][taps][in][nr] f32, rounded
 * to t first. NULL in a dry run, where it is asked for, and after a failure. */
const float *fast_w_panels(struct dl_run *r, struct dl_w *w, int t, const struct simd *s, int halves);

/* Everything about an epilogue that does not change from pixel to pixel. */
struct fast_epi {
    const struct dl_run *r;
    const struct dl_epi *e;
    const dl_act *y;
    const float *bias;
};

bool fast_epi_open(struct fast_epi *o, struct dl_run *r, const struct dl_epi *e, const dl_act *y, int t);

/* Finishes n columns from column `from` of pixel `pix` of row i; sums as in struct simd_line. */
void fast_epi_line(const struct fast_epi *o, const struct simd *s, int64_t i, int64_t pix, int64_t from, int64_t n,
                   const float *c, const float *c2, int64_t cs);

/* The convolution's input, normalised and activated where it asks for it: x itself, or a contiguous copy of type t in
 * scratch (made at once, nothing in a dry run). Types other than t are converted too. `dense`: pitch and enlargement
 * must be gone as well. */
dl_act fast_pre(struct dl_run *r, const struct simd *s, const struct dl_conv *a, int t, bool dense);

/* Per row and channel factors of a normalisation: y = x * ab[i][0][c] + ab[i][1][c]; [n][2][c] scratch, filled
 * unless the run is dry. NULL after a failure. */
float *fast_norm_coefs(struct dl_run *r, const struct dl_stat *s, const dl_act *x);

void fast_gemm(struct dl_run *r, const struct simd *s, const struct dl_gemm *a);
void fast_conv(struct dl_run *r, const struct simd *s, const struct dl_conv *a);
bool fast_wino_takes(const struct simd *s, const struct dl_conv *a);
void fast_wino(struct dl_run *r, const struct simd *s, const struct dl_conv *a);
#define LOG2E 1.44269504f

/* Bias and masks over scores [m][lds] in base 2 of queries from q0 and keys [k0, k0 + n) of row kv; keys up to `wide`
 * are padding. */
void fast_attn_mask(const struct dl_attn *a, int64_t head, int64_t q0, int64_t m, int64_t kv, int64_t k0, int64_t n,
                    float *s, int64_t wide, int64_t lds);

void fast_attn(struct dl_run *r, const struct simd *s, const struct dl_attn *a);
void fast_gnorm(struct dl_run *r, const struct simd *s, const struct dl_gnorm *a, float *mean_rstd);
void fast_norm(struct dl_run *r, const struct simd *s, const struct dl_norm *a);
void fast_lnorm(struct dl_run *r, const struct simd *s, const struct dl_lnorm *a);
void fast_rope(struct dl_run *r, const struct simd *s, const struct dl_rope *a);
void fast_copy(struct dl_run *r, const struct simd *s, const struct dl_copy *a);
void fast_add(struct dl_run *r, const struct simd *s, const struct dl_add *a);

#endif
