/* e4m3.h: matrix products in 8 bits: which ones, and how their operands are rounded.
 *
 * A run opened with DL_E4M3 keeps its activations in bf16 (run.t) and does those products of which dl_e4m3_takes says
 * so (run.e4m3) on operands of one byte: each row of the weight (one output channel) and each pixel's channels of x are
 * scaled so that their largest value becomes 448, and rounded to e4m3; sums are f32, the scales return with the sum:
 *
 *   y[m][o] = epi(sx[m] sw[o] sum_k qx[m][k] qw[o][k])
 *
 * Everything else runs as in bf16. Weights are quantised as they lie in the file, once, when they are loaded. Row-wise
 * scales are those of "FP8-LM" (2310.18313) and of torch's _scaled_mm. The CPU backend emulates it, exactly but for the
 * order of sums, so that its error can be measured on any machine. */
#ifndef DL_E4M3_H
#define DL_E4M3_H

#include "engine/run.h"

/* Whether this product of the run is done in e4m3: not marked fine, at least 16 pixels a row, channels on both sides
 * multiples of 16 and at least 32. The batch has no part in it. */
bool dl_e4m3_takes(const struct dl_run *r, const struct dl_gemm *a);

/* What a row's values are multiplied by before they are rounded, and (scale) what returns them; amax: its largest
 * magnitude, NaN left aside. A row below 1e-30 becomes zero. */
static inline float dl_e4m3_gain(float amax) { return amax > 1e-30f ? 448.0f / amax : 0; }
static inline float dl_e4m3_scale(float amax) { return amax / 448.0f; }

/* q [n] = the row v [n] quantised; returns its scale. dl_e4m3_round leaves the rounded values, still to be multiplied
 * by the scale, in v. A NaN stays one. */
float dl_e4m3_row(uint8_t *q, const float *v, int64_t n);
float dl_e4m3_round(float *v, int64_t n);

#endif
