/* rig_cuda.h: what the GPU tests share: the device, or a skip; memory that host and device both see at one address
 * (pinned, mapped), so that a test's plain loops and the kernels work on the same arrays. */
#ifndef TESTS_RIG_CUDA_H
#define TESTS_RIG_CUDA_H

#include "kernels/cuda/cuda.h"

#include <cuda_runtime_api.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { RIG_CUDA_SKIP = 77 }; /* CTest's SKIP_RETURN_CODE of these tests */
static const int64_t rig_cuda_bytes = (int64_t)1 << 28;

static struct {
    uint8_t *base;
    int64_t used;
} rig_cuda;

/* Memory of the tests' arrays. DLENS_TEST_MANAGED=1: pages that move between host and device instead of the host's, to
 * tell whether an instruction that failed cannot read the host's. */
static inline cudaError_t rig_cuda_take(void)
{
#ifdef cudaMemAttachGlobal /* the shim has none */
    const char *managed = getenv("DLENS_TEST_MANAGED");
    if (managed && *managed == '1')
        return cudaMallocManaged((void **)&rig_cuda.base, (size_t)rig_cuda_bytes, cudaMemAttachGlobal);
#endif
    return cudaHostAlloc((void **)&rig_cuda.base, (size_t)rig_cuda_bytes,
                         cudaHostAllocMapped | cudaHostAllocPortable);
}

/* Opens GPU 0, or ends the program as skipped where there is none. A GPU that is there and does not open fails.
 * DLENS_TEST_OWN=1 runs without cuBLASLt; DLENS_TEST_WAY=n: of several ways to compute an op always the n-th, or the
 * last. Without it the best guess: which way is fastest is no test's matter but test_tune's. */
static inline void rig_cuda_open(const struct dl_backend **be, struct dl_ctx **ctx)
{
    struct dl_err e = {0};
    const char *own = getenv("DLENS_TEST_OWN"), *way = getenv("DLENS_TEST_WAY");
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("skipped: no NVIDIA GPU on this machine\n");
        exit(RIG_CUDA_SKIP);
    }
    struct dl_cuda_opts o = {.no_libraries = own && *own == '1', .no_tuning = true, .way = way ? atoi(way) : 0};
#ifdef RIG_CUDA_PIECE_BYTES
    o.piece_bytes = RIG_CUDA_PIECE_BYTES;
#endif
    if (cuda_open(be, ctx, &o, &e) < 0) {
        printf("cannot open the GPU: %s\n", e.msg);
        exit(1);
    }
    printf("%s\n", (*be)->device);
    if (rig_cuda_take() != cudaSuccess) {
        printf("cannot pin %lld bytes\n", (long long)rig_cuda_bytes);
        exit(1);
    }
}

static inline void *rig_cuda_mem(int64_t bytes)
{
    int64_t size = (bytes + 255) & ~(int64_t)255;
    assert_true(size <= rig_cuda_bytes - rig_cuda.used);
    void *p = rig_cuda.base + rig_cuda.used;
    rig_cuda.used += size;
    return p;
}

static inline void rig_cuda_clear(void)
{
    (void)cudaDeviceSynchronize();
    rig_cuda.used = 0;
}

#endif
