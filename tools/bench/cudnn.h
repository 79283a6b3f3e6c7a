/* cudnn.h: cuDNN's convolution beside ours, in builds that have it. */
#ifndef BENCH_CUDNN_H
#define BENCH_CUDNN_H

#include "tools/bench/library.h"

/* x [n][h][w][in] (enlarged already), k x k, of type f16 or bf16. Returns 1 when *out was measured, 0 where there is no
 * CUDA, no cuDNN or no engine of its own for this, < 0 with the error. */
int bench_cudnn(struct dl_ctx *ctx, int type, const int64_t nhw[3], int64_t in, int64_t out_c, int64_t k,
                int64_t stride, int repeat, struct library_time *out, struct dl_err *e);

#endif
