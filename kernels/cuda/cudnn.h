/* cudnn.h: cuDNN's convolution as a yardstick for benchmarks; no model uses it. cuDNN 9 is optional: without it (see
 * CMakeLists.txt) opening says that there is none, and the rest is never called.
 *
 * One forward convolution, graph API: x [n][h][w][in], w [out][k][k][in], y [n][h / stride][w / stride][out], dense
 * channels-last, f16 or bf16, sums in f32, zero padding k / 2, no epilogue. Of the engines that cuDNN proposes the
 * fastest is kept, timed on the operands of the first run; that run must not be captured, later ones may be. */
#ifndef DL_CUDA_CUDNN_H
#define DL_CUDA_CUDNN_H

#include "engine/run.h"

struct cuda_conv_shape {
    int64_t n, h, w, in, out, k, stride;
    int type; /* DL_F16 or DL_BF16 */
};

struct cuda_cudnn; /* one convolution; owned */

/* *c NULL (and 0): no cuDNN in this build, or none of its engines takes the shape. */
int cuda_cudnn_open(struct dl_ctx *ctx, const struct cuda_conv_shape *s, struct cuda_cudnn **c, struct dl_err *e);
/* Enqueues it on the backend's stream; device pointers on 16 bytes. */
int cuda_cudnn_run(struct cuda_cudnn *c, const void *x, const void *w, void *y, struct dl_err *e);
void cuda_cudnn_close(struct cuda_cudnn *c); /* NULL is fine; waits for its runs */

/* us [repeats]: device time of one convolution, as cuda_time_graph measures it, over operands larger together than
 * three times the second-level cache. Returns 1, 0 where cuda_cudnn_open gives NULL, < 0 with the error. */
int cuda_cudnn_time(struct dl_ctx *ctx, const struct cuda_conv_shape *s, int repeats, double *us, struct dl_err *e);

#endif
