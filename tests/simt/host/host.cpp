/* See cuda_runtime_api.h beside this file. Allocations are kept until the end: the shim frees all or nothing. */
#include "tests/simt/host/cuda_runtime_api.h"

#include "tests/simt/simt.h"

#include <chrono>
#include <stdlib.h>
#include <string.h>

struct CUevent_st {
    double ms;
};
struct CUgraph_st {
    simt::recording launches;
};
struct CUgraphExec_st {
    simt::recording launches;
};

static bool spoilt; /* the capture under way */

static double now_ms()
{
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

extern "C" {
#include "kernels/cuda/cuda_priv.h"

/* Of a call that a capture forbids. */
static cudaError_t outside_captures()
{
    if (!simt::recorder) return cudaSuccess;
    spoilt = true;
    return cudaErrorStreamCaptureUnsupported;
}

const char *cudaGetErrorName(cudaError_t rc)
{
    return rc == cudaErrorLaunchFailure              ? "launch failure"
           : rc == cudaErrorStreamCaptureUnsupported ? "not in a capture"
           : rc == cudaErrorStreamCaptureInvalidated ? "a capture in which something failed"
           : rc                                      ? "error"
                                                     : "success";
}
const char *cudaGetErrorString(cudaError_t rc)
{
    return rc == cudaErrorLaunchFailure ? simt_report() : cudaGetErrorName(rc);
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) { return *n = 1, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *v) { return *v = CUDART_VERSION, cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    *p = cudaDeviceProp();
    strcpy(p->name, "SIMT shim");
    simt_cc = getenv("SIMT_CC") ? atoi(getenv("SIMT_CC")) : 89;
    p->major = simt_cc / 10, p->minor = simt_cc % 10, p->multiProcessorCount = 1, p->totalGlobalMem = (size_t)1 << 32;
    return cudaSuccess;
}

/* Anything but NULL will do: tests/simt/hopper.h. */
cudaError_t cudaGetDriverEntryPointByVersion(const char *, void **f, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *found)
{
    static char somewhere;
    return *f = &somewhere, *found = cudaDriverEntryPointSuccess, cudaSuccess;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return outside_captures(); }

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    *p = nullptr;
    if (outside_captures()) return cudaErrorStreamCaptureUnsupported;
    /* The shim ends a buffer at its last byte, at an address of 16 n; CUDA gives 256 n. */
    return *p = simt_alloc((int64_t)((bytes + 255) / 256 * 256)), cudaSuccess;
}

cudaError_t cudaFree(void *) { return outside_captures(); }
cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    return *p = malloc(bytes), *p ? outside_captures() : cudaErrorMemoryAllocation;
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) { return cudaMalloc(p, bytes); }
cudaError_t cudaFreeHost(void *p) { return free(p), outside_captures(); }
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    return *free_bytes = *total = (size_t)1 << 32, cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, int, cudaStream_t)
{
    if (outside_captures()) return cudaErrorStreamCaptureUnsupported;
    return memcpy(dst, src, bytes), cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t)
{
    if (outside_captures()) return cudaErrorStreamCaptureUnsupported;
    return memset(dst, value, bytes), cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int) { return *value = 1 << 22, cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { return *s = nullptr, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return outside_captures(); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { return *e = new CUevent_st(), cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    return *ms = (float)(to->ms - from->ms), cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) { return e->ms = now_ms(), cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return outside_captures(); }
cudaError_t cudaStreamBeginCapture(cudaStream_t, int)
{
    if (simt::recorder) return cudaErrorStreamCaptureUnsupported;
    spoilt = false;
    return simt::recorder = new simt::recording, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *g)
{
    *g = spoilt ? nullptr : new CUgraph_st{*simt::recorder};
    delete simt::recorder;
    simt::recorder = nullptr;
    return spoilt ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    return *x = new CUgraphExec_st{g->launches}, outside_captures();
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return outside_captures(); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t)
{
    if (outside_captures()) return cudaErrorStreamCaptureUnsupported;
    for (auto &launch : x->launches)
        if (int rc = launch()) return (cudaError_t)rc;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) { return delete g, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) { return delete x, cudaSuccess; }

/* In the place of gemm_lt.c: a library that takes products of e4m3, by plain loops; with DLENS_SIMT_ROW_SCALES it
 * scales them too. With DLENS_SIMT_LIBRARY it also takes bare products into f32. */
int cuda_blas_open(dl_ctx *, dl_err *) { return 0; }
void cuda_blas_close(dl_ctx *) {}
size_t cuda_blas_version(void) { return 0; }
bool cuda_blas_takes(const dl_ctx *, const dl_gemm *a)
{
    return getenv("DLENS_SIMT_LIBRARY") && a->y.t == DL_F32 && a->y.c == a->w->dim[0] && !a->e.bias && !a->e.fn &&
           !a->e.add.p && !a->e.gate.p && !a->e.res.p && a->e.scale == 1;
}
void cuda_blas_gemm(dl_run *, const dl_gemm *g, const void *w, const void *, void *)
{
    for (int64_t i = 0; i < g->y.n; i++)
        for (int64_t p = 0; p < (int64_t)g->y.h * g->y.w; p++)
            for (int64_t o = 0; o < g->y.c; o++) {
                double s = 0;
                for (int64_t c = 0; c < g->x.c; c++)
                    s += (double)dl_load(g->x.p, g->x.t, i * g->x.rs + p * g->x.ld + c) *
                         (double)dl_load(w, g->x.t, o * g->x.c + c);
                dl_store(g->y.p, DL_F32, i * g->y.rs + p * g->y.ld + o, (float)s);
            }
}
bool cuda_blas_row_scales(const dl_ctx *) { return getenv("DLENS_SIMT_ROW_SCALES") != nullptr; }
void cuda_blas_e4m3(dl_run *, const cuda_lt_e4m3 *g, void *)
{
    const uint16_t *bias = static_cast<const uint16_t *>(g->bias);
    for (int64_t m = 0; m < g->m; m++)
        for (int64_t o = 0; o < g->out; o++) {
            float s = 0;
            for (int64_t i = 0; i < g->in; i++)
                s += dl_e4m3_to(g->x[m * g->in + i]) * dl_e4m3_to(g->w[o * g->in + i]);
            if (g->sx) s *= g->sx[m] * g->sw[o];
            if (bias) s += dl_bf16_to(bias[o]);
            dl_store(g->y, g->y_t, m * g->ld + o, s);
        }
}
}
