/* library.h: the yardstick: the same work by a vendor's library.
 *
 * CPU: oneDNN's own matmul or convolution (f32, bf16), with weights in the layout that it likes best and no epilogue
 * beside the bias. CUDA: cuBLASLt's plain product of the same size; for a convolution cuDNN's, where the build and
 * the shape have one, else the plain product that it implies.
 */
#ifndef BENCH_LIBRARY_H
#define BENCH_LIBRARY_H

#include "tools/bench/clock.h"

struct library_time {
    const char *name; /* "oneDNN conv"; NULL: the library has nothing like it */
    struct timing t;
};

/* threads: of the library on the CPU, 0: all. repeat as clock_case's. */
int library_case(const struct tape_case *k, const struct dl_backend *be, struct dl_ctx *ctx, int threads, int repeat,
                 struct library_time *out, struct dl_err *e);

#endif
