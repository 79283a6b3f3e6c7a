/* ref_tile.h: the inner loop of the reference: dot products of f32 rows with f64 sums.
 *
 * A product of two f32 values is exact in f64, so the sum's rounding (2^-53 per term) is the only error. Each dot
 * product adds in one fixed order, whatever tile it stands in: four interleaved sums, then the rest one by one.
 */
#ifndef REF_TILE_H
#define REF_TILE_H

#include <stdint.h>

enum { TILE_M = 16, TILE_N = 64 }; /* largest tile that a caller asks for: rows of x, rows of w */

/* sum[i * ld + j] = x[i][0..n) . w[j][0..n), i < m, j < c; x and w are arrays of row pointers. */
void ref_tile(const float *const *x, int m, const float *const *w, int c, int64_t n, double *sum, int ld);

#endif
