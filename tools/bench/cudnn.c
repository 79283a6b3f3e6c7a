#include "tools/bench/cudnn.h"
#ifdef DLENS_HAVE_CUDA
#include "kernels/cuda/cudnn.h"
#endif

#include <stdlib.h>

enum { REPEATS = 20 };

int bench_cudnn(struct dl_ctx *ctx, int type, const int64_t nhw[3], int64_t in, int64_t out_c, int64_t k,
                int64_t stride, int repeat, struct library_time *out, struct dl_err *e)
{
    int rc = 0;
#ifdef DLENS_HAVE_CUDA
    struct cuda_conv_shape s = {nhw[0], nhw[1], nhw[2], in, out_c, k, stride, type};
    int n = repeat ? repeat : REPEATS;
    double *us = malloc((size_t)n * sizeof *us);
    if (!us) return dl_fail(e, DL_ENOMEM, "no memory for %d times", n);
    rc = cuda_cudnn_time(ctx, &s, n, us, e);
    if (rc == 1) out->name = "cuDNN", out->t = timing_of(us, n);
    free(us);
#else
    (void)ctx, (void)type, (void)nhw, (void)in, (void)out_c, (void)k, (void)stride, (void)repeat, (void)out, (void)e;
#endif
    return rc;
}
