/* In the place of cudnn.c where there is no cuDNN. */
#include "kernels/cuda/cudnn.h"

int cuda_cudnn_open(struct dl_ctx *ctx, const struct cuda_conv_shape *s, struct cuda_cudnn **c, struct dl_err *e)
{
    (void)ctx, (void)s, (void)e;
    *c = NULL;
    return 0;
}

int cuda_cudnn_run(struct cuda_cudnn *c, const void *x, const void *w, void *y, struct dl_err *e)
{
    (void)c, (void)x, (void)w, (void)y;
    return dl_fail(e, DL_EFAIL, "this build has no cuDNN");
}

void cuda_cudnn_close(struct cuda_cudnn *c) { (void)c; }

int cuda_cudnn_time(struct dl_ctx *ctx, const struct cuda_conv_shape *s, int repeats, double *us, struct dl_err *e)
{
    (void)ctx, (void)s, (void)repeats, (void)us, (void)e;
    return 0;
}
