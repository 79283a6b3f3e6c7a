/* Weights on their way to the GPU while it computes: each thread that fills has a stream and pinned buffers of its own.
 *
 * Two kinds of events keep copies and ops apart, both on the device alone: used[slot], recorded on the ops' stream when
 * a slot is left, is what the copies into it wait for; filled[slot] of each lane, recorded behind its copies, is what
 * the ops that enter it wait for. A host thread only waits for its pinned buffers. One copying thread moves what one
 * core's memcpy does, less than the bus: hence several. */
#include "kernels/cuda/cuda_priv.h"

#include <stdlib.h>

enum { WORKERS = 4, MAX_WORKERS = 8, MAX_SLOTS = 2 };

struct dl_lane {
    cudaStream_t stream;
    struct cuda_stage stage;
    cudaEvent_t filled[MAX_SLOTS];
};

struct dl_lanes {
    struct dl_ctx *ctx;
    int workers, slots;
    struct dl_lane lane[MAX_WORKERS];
    cudaEvent_t used[MAX_SLOTS];
};

cudaStream_t cuda_stream_of(const struct dl_ctx *c, const struct dl_lane *by) { return by ? by->stream : c->stream; }

int cuda_upload_by(struct dl_ctx *c, struct dl_lane *by, void *dst, const void *src, int64_t bytes, struct dl_err *e)
{
    return by ? cuda_stage_copy(&by->stage, by->stream, dst, src, bytes, e) : cuda_upload(c, dst, src, bytes, e);
}

static void lanes_close(struct dl_lanes *l)
{
    (void)cudaStreamSynchronize(l->ctx->stream);
    for (int i = 0; i < l->workers; i++) {
        struct dl_lane *a = &l->lane[i];
        if (a->stream) (void)cudaStreamSynchronize(a->stream);
        cuda_stage_close(&a->stage);
        for (int s = 0; s < l->slots; s++)
            if (a->filled[s]) (void)cudaEventDestroy(a->filled[s]);
        if (a->stream) (void)cudaStreamDestroy(a->stream);
    }
    for (int s = 0; s < l->slots; s++)
        if (l->used[s]) (void)cudaEventDestroy(l->used[s]);
    free(l);
}

static cudaError_t lane_open(struct dl_lane *a, int slots)
{
    cudaError_t rc = cudaStreamCreateWithFlags(&a->stream, cudaStreamNonBlocking);
    for (int s = 0; s < slots && rc == cudaSuccess; s++)
        rc = cudaEventCreateWithFlags(&a->filled[s], cudaEventDisableTiming);
    return rc;
}

static int lanes_open(struct dl_ctx *c, int workers, int slots, struct dl_lanes **out, struct dl_err *e)
{
    *out = NULL;
    if (workers > MAX_WORKERS || slots > MAX_SLOTS)
        return dl_fail(e, DL_EFAIL, "%d threads that copy into %d slots, at most %d and %d", workers, slots,
                       MAX_WORKERS, MAX_SLOTS);
    struct dl_lanes *l = calloc(1, sizeof *l);
    if (!l) return dl_fail(e, DL_ENOMEM, "no memory to stream weights");
    l->ctx = c, l->workers = workers, l->slots = slots;
    cudaError_t rc = cudaSuccess;
    for (int s = 0; s < slots && rc == cudaSuccess; s++)
        rc = cudaEventCreateWithFlags(&l->used[s], cudaEventDisableTiming);
    for (int i = 0; i < workers && rc == cudaSuccess; i++) {
        rc = lane_open(&l->lane[i], slots);
        if (rc == cudaSuccess && cuda_stage_open(&l->lane[i].stage, e) < 0) {
            lanes_close(l);
            return -1;
        }
    }
    if (rc != cudaSuccess) {
        cuda_fail(e, rc, "setting up %d ways to stream weights", workers);
        lanes_close(l);
        return -1;
    }
    *out = l;
    return 0;
}

static int lanes_begin(struct dl_lanes *l, int worker, int slot, struct dl_lane **lane, struct dl_err *e)
{
    *lane = &l->lane[worker];
    cudaError_t rc = cudaSetDevice(l->ctx->device); /* a thread begins with device 0 */
    if (rc == cudaSuccess) rc = cudaStreamWaitEvent(l->lane[worker].stream, l->used[slot], 0);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "streaming weights");
}

static int lanes_end(struct dl_lanes *l, int worker, int slot, struct dl_err *e)
{
    cudaError_t rc = cudaEventRecord(l->lane[worker].filled[slot], l->lane[worker].stream);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "streaming weights");
}

static int lanes_enter(struct dl_lanes *l, int slot, struct dl_err *e)
{
    cudaError_t rc = cudaSuccess;
    for (int i = 0; i < l->workers && rc == cudaSuccess; i++)
        rc = cudaStreamWaitEvent(l->ctx->stream, l->lane[i].filled[slot], 0);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "waiting for streamed weights");
}

static int lanes_leave(struct dl_lanes *l, int slot, struct dl_err *e)
{
    cudaError_t rc = cudaEventRecord(l->used[slot], l->ctx->stream);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "leaving streamed weights");
}

const struct dl_lane_ops cuda_lane_ops = {
    .workers = WORKERS,
    .open = lanes_open,
    .begin = lanes_begin,
    .end = lanes_end,
    .enter = lanes_enter,
    .leave = lanes_leave,
    .close = lanes_close,
};
