/* In the place of trace.c where cupti.h was not found. */
#include "kernels/cuda/cuda.h"

int cuda_trace_open(struct cuda_trace **t, struct dl_ctx *c, struct dl_err *e)
{
    (void)c;
    *t = NULL;
    return dl_fail(e, DL_EFAIL, "no CUPTI: this dlens was built without its header");
}

int cuda_trace_take(struct cuda_trace *t, struct cuda_span **span, int64_t *n, struct dl_err *e)
{
    (void)t;
    *span = NULL, *n = 0;
    return dl_fail(e, DL_EFAIL, "no CUPTI");
}

void cuda_trace_close(struct cuda_trace *t) { (void)t; }
