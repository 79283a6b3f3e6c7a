#include "tools/bench/watch.h"

#include <stdlib.h>
#include <string.h>

#ifdef DLENS_HAVE_CUDA

struct watch {
    struct cuda_trace *trace;
};

int watch_open(struct watch **w, const struct dl_backend *be, struct dl_ctx *ctx, struct dl_err *e)
{
    *w = NULL;
    if (strcmp(be->name, "cuda") != 0) return dl_fail(e, DL_EFAIL, "backend %s has no kernels to trace", be->name);
    struct watch *one = calloc(1, sizeof *one);
    if (!one) return dl_fail(e, DL_ENOMEM, "no memory for a trace");
    if (cuda_trace_open(&one->trace, ctx, e) < 0) {
        free(one);
        return -1;
    }
    *w = one;
    return 0;
}

int watch_look(struct watch *w, struct gaps *g, struct dl_err *e)
{
    struct cuda_span *span;
    int64_t n;
    if (cuda_trace_take(w->trace, &span, &n, e) < 0) return -1;
    gaps_of(g, span, n);
    free(span);
    return n > 0 ? 0 : dl_fail(e, DL_EFAIL, "CUPTI gave no records");
}

void watch_close(struct watch *w)
{
    if (w) cuda_trace_close(w->trace);
    free(w);
}

#else

int watch_open(struct watch **w, const struct dl_backend *be, struct dl_ctx *ctx, struct dl_err *e)
{
    (void)ctx;
    *w = NULL;
    return dl_fail(e, DL_EFAIL, "backend %s has no kernels to trace", be->name);
}

int watch_look(struct watch *w, struct gaps *g, struct dl_err *e)
{
    (void)w, (void)g;
    return dl_fail(e, DL_EFAIL, "nothing is traced");
}

void watch_close(struct watch *w) { (void)w; }

#endif
