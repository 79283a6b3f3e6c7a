/* The CUDA backend: device, stream, memory. */
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/igemm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int cuda_fail(struct dl_err *e, cudaError_t rc, const char *what, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, what);
    vsnprintf(text, sizeof text, what, ap);
    va_end(ap);
    return dl_fail(e, rc == cudaErrorMemoryAllocation ? DL_ENOMEM : DL_EFAIL, "%s: %s (%s)", text,
                   cudaGetErrorString(rc), cudaGetErrorName(rc));
}

void cuda_launched(struct dl_run *r, const char *op, int rc)
{
    if (rc == 0) return;
    if (rc == CUDA_K_UNSUPPORTED)
        dl_fail(&r->err, DL_EFAIL, "op %s: no CUDA kernel takes this shape and type (%s)", op,
                r->variant ? r->variant : "");
    else
        cuda_fail(&r->err, (cudaError_t)rc, "op %s (%s): launch", op, r->variant ? r->variant : "");
}

static int cuda_alloc(struct dl_ctx *c, int64_t bytes, void **p, struct dl_err *e)
{
    size_t free_bytes = 0, total = 0;
    *p = NULL;
    cudaError_t rc = bytes < 0 ? cudaErrorMemoryAllocation : cudaMalloc(p, bytes ? (size_t)bytes : 1);
    if (rc == cudaSuccess) return 0;
    (void)cudaGetLastError();
    if (rc != cudaErrorMemoryAllocation) return cuda_fail(e, rc, "allocating %lld bytes on the GPU", (long long)bytes);
    (void)cudaMemGetInfo(&free_bytes, &total);
    return dl_fail(
        e, DL_ENOMEM,
        "the GPU has no block of %lld MiB: %zu of %zu MiB are free (%s); a smaller --batch, --size or --dtype may fit",
        (long long)(bytes >> 20), free_bytes >> 20, total >> 20, c->name);
}

static void cuda_free(struct dl_ctx *c, void *p)
{
    (void)c;
    if (cudaFree(p) != cudaSuccess)
        (void)cudaGetLastError(); /* waits for the device, whose fault the next sync tells */
}

int cuda_stage_open(struct cuda_stage *g, struct dl_err *e)
{
    cudaError_t rc = cudaSuccess;
    for (int i = 0; i < CUDA_STAGES && rc == cudaSuccess; i++) {
        rc = cudaMallocHost(&g->p[i], CUDA_STAGE_BYTES);
        if (rc == cudaSuccess) rc = cudaEventCreateWithFlags(&g->done[i], cudaEventDisableTiming);
    }
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "pinning memory for copies to the GPU");
}

void cuda_stage_close(struct cuda_stage *g)
{
    for (int i = 0; i < CUDA_STAGES; i++) {
        if (g->done[i]) (void)cudaEventDestroy(g->done[i]);
        if (g->p[i]) (void)cudaFreeHost(g->p[i]);
    }
}

int cuda_stage_copy(struct cuda_stage *g, cudaStream_t stream, void *dst, const void *src, int64_t bytes,
                    struct dl_err *e)
{
    cudaError_t rc = cudaSuccess;
    for (int64_t at = 0, i = 0; at < bytes && rc == cudaSuccess; at += CUDA_STAGE_BYTES, i++) {
        int s = (int)(i % CUDA_STAGES);
        size_t n = (size_t)(bytes - at < CUDA_STAGE_BYTES ? bytes - at : CUDA_STAGE_BYTES);
        rc = cudaEventSynchronize(g->done[s]);
        if (rc != cudaSuccess) break;
        memcpy(g->p[s], (const uint8_t *)src + at, n);
        rc = cudaMemcpyAsync((uint8_t *)dst + at, g->p[s], n, cudaMemcpyHostToDevice, stream);
        if (rc == cudaSuccess) rc = cudaEventRecord(g->done[s], stream);
    }
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "copying %lld bytes to the GPU", (long long)bytes);
}

int cuda_upload(struct dl_ctx *c, void *dst, const void *src, int64_t bytes, struct dl_err *e)
{
    return cuda_stage_copy(&c->stage, c->stream, dst, src, bytes, e);
}

static int cuda_sync(struct dl_ctx *c, struct dl_err *e)
{
    cudaError_t rc = cudaStreamSynchronize(c->stream);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "waiting for the GPU");
}

static int cuda_download(struct dl_ctx *c, void *dst, const void *src, int64_t bytes, struct dl_err *e)
{
    cudaError_t rc = cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDeviceToHost, c->stream);
    if (rc == cudaSuccess) rc = cudaStreamSynchronize(c->stream);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "copying %lld bytes from the GPU", (long long)bytes);
}

static int64_t cuda_free_bytes(struct dl_ctx *c)
{
    size_t free_bytes = 0, total = 0;
    (void)c;
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess) return 0;
    return (int64_t)free_bytes;
}

static int cuda_draw(struct dl_ctx *c, struct dl_rng *g, dl_act y, int type, struct dl_err *e)
{
    struct cuda_noise_args a = {.y = y,
                                .seed = g->seed,
                                .offset = g->offset,
                                .sms = g->sms,
                                .threads_per_sm = g->threads_per_sm,
                                .type = type,
                                .scale = 1};
    int rc = g->kind == RNG_TORCH_CUDA ? cuda_noise(c->stream, &a) : CUDA_K_UNSUPPORTED;
    if (rc == CUDA_K_UNSUPPORTED) return 1;
    if (rc) return cuda_fail(e, (cudaError_t)rc, "drawing noise");
    g->offset += cuda_noise_advance(&a);
    return 0;
}

static bool cuda_supports(struct dl_ctx *c, int type)
{
    if (type == DL_E4M3) return c->cc >= 89 && (c->own_e4m3 || !c->opts.no_libraries);
    return type == DL_F32 || type == DL_F16 || type == DL_BF16;
}

static void cuda_close(struct dl_ctx *c)
{
    if (c->stream) (void)cudaStreamSynchronize(c->stream);
    cuda_blas_close(c);
    cuda_tune_close(c);
    cuda_consts_close(c);
    cuda_stage_close(&c->stage);
    if (c->step) (void)cudaFree(c->step);
    if (c->stream) (void)cudaStreamDestroy(c->stream);
    free(c);
}

static int version_minor(int v) { return v % 1000 / 10; }

/* Which device, and whether this build can use it. */
static int pick_device(struct dl_ctx *c, struct dl_err *e)
{
    int n = 0, driver = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    if (rc == cudaErrorInsufficientDriver && driver > 0)
        return dl_fail(e, DL_ENOMEM,
                       "the NVIDIA driver is too old: it serves CUDA %d.%d and this dlens was built with %d.%d; update "
                       "the driver, or use --device cpu",
                       driver / 1000, version_minor(driver), CUDART_VERSION / 1000, version_minor(CUDART_VERSION));
    if (rc == cudaErrorInsufficientDriver || rc == cudaErrorStubLibrary)
        return dl_fail(e, DL_ENOMEM, "no NVIDIA driver on this machine; use --device cpu");
    if (rc == cudaErrorNoDevice || (rc == cudaSuccess && n == 0))
        return dl_fail(e, DL_ENOMEM,
                       "no NVIDIA GPU is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES); use --device cpu");
    if (rc != cudaSuccess)
        return dl_fail(e, DL_ENOMEM, "no usable NVIDIA driver: %s (%s); use --device cpu", cudaGetErrorString(rc),
                       cudaGetErrorName(rc));
    if (c->opts.device < 0 || c->opts.device >= n)
        return dl_fail(e, DL_ENOMEM, "--device cuda:%d: this machine has %d GPU%s, counted from 0", c->opts.device, n,
                       n == 1 ? "" : "s");

    struct cudaDeviceProp p;
    rc = cudaGetDeviceProperties(&p, c->opts.device);
    if (rc != cudaSuccess) return cuda_fail(e, rc, "reading the properties of GPU %d", c->opts.device);
    c->device = c->opts.device, c->cc = 10 * p.major + p.minor, c->sms = p.multiProcessorCount;
    c->total_bytes = (int64_t)p.totalGlobalMem;
    snprintf(c->text, sizeof c->text, "%.80s, compute capability %d.%d, %d multiprocessors, %.1f GiB, driver %d.%d",
             p.name, p.major, p.minor, c->sms, (double)p.totalGlobalMem * 0x1p-30, driver / 1000,
             version_minor(driver));
    snprintf(c->name, sizeof c->name, "%.80s", p.name);
    for (char *s = c->name; *s; s++)
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9'))) *s = '-';
    if (p.major < 8)
        return dl_fail(e, DL_ENOMEM,
                       "%.80s has compute capability %d.%d; dlens needs 8.0 (Ampere) or later; use --device cpu",
                       p.name, p.major, p.minor);
    rc = cudaSetDevice(c->device);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "opening GPU %d (%s)", c->device, c->name);
}

/* Runs one kernel, so that a build without code for this GPU is found here and not in the middle of a sweep. */
static int probe(struct dl_ctx *c, struct dl_err *e)
{
    int32_t v = 41;
    if (cuda_upload(c, c->step, &v, sizeof v, e) < 0) return -1;
    int rc = cuda_step_next(c->stream, c->step);
    if (rc == cudaErrorNoKernelImageForDevice || rc == cudaErrorUnsupportedPtxVersion)
        return dl_fail(e, DL_ENOMEM,
                       "%s: this dlens has no code for compute capability %d.%d; build with -DDLENS_CUDA_ARCHS=all",
                       c->name, c->cc / 10, c->cc % 10);
    if (rc) return cuda_fail(e, (cudaError_t)rc, "starting a first kernel on %s", c->name);
    if (cuda_download(c, &v, c->step, sizeof v, e) < 0) return -1;
    if (v != 42) return dl_fail(e, DL_EFAIL, "%s: a first kernel gave %d and not 42", c->name, v);
    c->step_now = v;
    return 0;
}

int cuda_open(const struct dl_backend **be, struct dl_ctx **ctx, const struct dl_cuda_opts *o, struct dl_err *e)
{
    struct dl_ctx *c = calloc(1, sizeof *c);
    if (!c) return dl_fail(e, DL_ENOMEM, "no memory for the CUDA backend");
    if (o) c->opts = *o;
    if (pick_device(c, e) < 0) goto fail;
    cudaError_t rc = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (rc == cudaSuccess && cuda_stage_open(&c->stage, e) < 0) goto fail;
    if (rc == cudaSuccess) rc = cudaMalloc((void **)&c->step, sizeof *c->step);
    if (rc != cudaSuccess) {
        cuda_fail(e, rc, "setting up %s", c->name);
        goto fail;
    }
    if (probe(c, e) < 0 || cuda_tier_open(c, e) < 0) goto fail;
    if (cuda_tune_open(c, cuda_blas_version(), e) < 0) goto fail;
    if (!c->opts.no_libraries && cuda_blas_open(c, e) < 0) goto fail;
    c->own_e4m3 = cuda_igemm_has_e4m3();
    cuda_ops_init(&c->ops);
    c->be = (struct dl_backend){
        .name = "cuda",
        .device = c->text,
        .ops = &c->ops,
        .parts = true,
        .alloc = cuda_alloc,
        .free = cuda_free,
        .upload = cuda_upload,
        .download = cuda_download,
        .sync = cuda_sync,
        .free_bytes = cuda_free_bytes,
        .supports = cuda_supports,
        .record_begin = cuda_record_begin,
        .record_end = cuda_record_end,
        .replay = cuda_replay,
        .graph_free = cuda_graph_free,
        .lanes = &cuda_lane_ops,
        .noise = cuda_draw,
        .choices = cuda_tune_each,
        .choose = cuda_tune_pin,
        .way = cuda_tune_way,
        .close = cuda_close,
    };
    const char *eager = getenv("DLENS_CUDA_EAGER");
    if (eager && !strcmp(eager, "1"))
        c->be.record_begin = NULL, c->be.record_end = NULL, c->be.replay = NULL, c->be.graph_free = NULL;
    *be = &c->be, *ctx = c;
    return 0;
fail:
    cuda_close(c);
    return -1;
}
