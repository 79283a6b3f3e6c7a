/* Device time by events, for benchmarks. */
#include "kernels/cuda/cuda_priv.h"

int64_t cuda_cache_bytes(const struct dl_ctx *c)
{
    int bytes = 0;
    if (cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, c->device) != cudaSuccess || bytes <= 0)
        bytes = 64 << 20;
    return bytes;
}

struct span {
    cudaEvent_t from, to;
};

static int span_open(struct span *s, struct dl_err *e)
{
    *s = (struct span){0};
    cudaError_t rc = cudaEventCreate(&s->from);
    if (rc == cudaSuccess) rc = cudaEventCreate(&s->to);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "making events");
}

static void span_close(struct span *s)
{
    if (s->from) (void)cudaEventDestroy(s->from);
    if (s->to) (void)cudaEventDestroy(s->to);
}

/* Microseconds between the two events, once the second has come. */
static int span_us(const struct span *s, double *us, struct dl_err *e)
{
    float ms = 0;
    cudaError_t rc = cudaEventSynchronize(s->to);
    if (rc == cudaSuccess) rc = cudaEventElapsedTime(&ms, s->from, s->to);
    *us = (double)ms * 1e3;
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "timing by events");
}

/* Events just around the launch: the step index is set before them. */
static int time_replay(struct dl_ctx *c, struct dl_graph *g, const struct span *s, struct dl_err *e)
{
    if (cuda_set_step(c, 0, e) < 0) return -1;
    cudaError_t rc = cudaEventRecord(s->from, c->stream);
    if (rc == cudaSuccess && cuda_replay(c, g, 0, e) < 0) return -1;
    if (rc == cudaSuccess) rc = cudaEventRecord(s->to, c->stream);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "timing by events");
}

/* Some replays at a time, all enqueued before the first is waited for, and one before them whose time is not taken: a
 * device that waits for its host's launches would count them. */
static int time_some(struct dl_ctx *c, struct dl_graph *g, struct span *s, int n, double *us, struct dl_err *e)
{
    int rc = cuda_replay(c, g, 0, e);
    for (int i = 0; i < n && rc == 0; i++) rc = time_replay(c, g, &s[i], e);
    for (int i = 0; i < n && rc == 0; i++) rc = span_us(&s[i], &us[i], e);
    return rc;
}

int cuda_time_graph(struct dl_ctx *c, struct dl_graph *g, int n, double *us, struct dl_err *e)
{
    enum { AT_ONCE = 16 };
    struct span s[AT_ONCE] = {0};
    int opened = 0, rc = 0;
    while (opened < AT_ONCE && opened < n && rc == 0) rc = span_open(&s[opened++], e);
    for (int at = 0; at < n && rc == 0; at += AT_ONCE)
        rc = time_some(c, g, s, n - at < AT_ONCE ? n - at : AT_ONCE, us + at, e);
    for (int i = 0; i < opened; i++) span_close(&s[i]);
    return rc;
}

int cuda_copy_rate(struct dl_ctx *c, int64_t bytes, double *per_s, struct dl_err *e)
{
    enum { COPIES = 10 };
    struct span s;
    void *a = NULL, *b = NULL;
    int rc = span_open(&s, e);
    cudaError_t cu = cudaSuccess;
    if (rc == 0) cu = cudaMalloc(&a, (size_t)bytes);
    if (rc == 0 && cu == cudaSuccess) cu = cudaMalloc(&b, (size_t)bytes);
    if (rc == 0 && cu == cudaSuccess) cu = cudaMemsetAsync(a, 0x3c, (size_t)bytes, c->stream);
    for (int i = -2; i < COPIES && rc == 0 && cu == cudaSuccess; i++) { /* two to warm up */
        if (i == 0) cu = cudaEventRecord(s.from, c->stream);
        if (cu == cudaSuccess) cu = cudaMemcpyAsync(b, a, (size_t)bytes, cudaMemcpyDeviceToDevice, c->stream);
    }
    if (rc == 0 && cu == cudaSuccess) cu = cudaEventRecord(s.to, c->stream);
    double us = 1;
    if (rc == 0) rc = cu == cudaSuccess ? span_us(&s, &us, e) : cuda_fail(e, cu, "copying on the device");
    *per_s = 2.0 * (double)bytes * COPIES / us * 1e6;
    if (a) (void)cudaFree(a);
    if (b) (void)cudaFree(b);
    span_close(&s);
    return rc;
}
