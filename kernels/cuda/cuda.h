/* cuda.h: the CUDA backend, for NVIDIA GPUs of compute capability 8.0 and later.
 *
 * f16, bf16 and f32 run, sums in f32 always; from compute capability 8.9 on also e4m3 (engine/e4m3.h).
 * Matrix products go to cuBLASLt where it has the epilogue that is asked for; everything else is hand-written
 * (kernels.h, igemm.h). All work is enqueued on one stream; entries of the op table return at once, and faults of
 * kernels come up at the next sync or download.
 *
 * Memory: what a run needs comes out of its arena, workspaces included. Outside it the backend holds two pinned staging
 * buffers, the step index, and small immutable copies of host arrays (row maps, sampler tables).
 *
 * Tuning (tune.h): where there are several ways to do an op (kernels of ours, cuBLASLt's algorithms), the first eager
 * run of its shape times them and keeps the fastest, also in a file in the user's cache folder. Never during a capture.
 *
 * To tell whose fault something is: DLENS_CUDA_EAGER=1 records nothing, DLENS_CUDA_TIER (cuda_priv.h) chooses
 * kernels, and DLENS_CUDA_OWN=1 makes the program do without cuBLASLt.
 *
 * Errors of cuda_open: no driver, a driver too old for this build, no such device, one that is too old or that this
 * build has no code for: DL_ENOMEM (the exit code for "no memory, no such device"), naming what was found. */
#ifndef DL_CUDA_H
#define DL_CUDA_H

#include "engine/run.h"

struct dl_cuda_opts {
    int device;          /* index as CUDA counts, CUDA_VISIBLE_DEVICES respected */
    bool no_libraries;   /* our own kernels alone, no cuBLASLt: for tests and benchmarks */
    bool no_tuning;      /* always the best guess, no timing, no cache file */
    int way;             /* n > 0: of several ways always the n-th, or the last; as struct dl_backend's way */
    int64_t piece_bytes; /* of f32 sums that a library leaves at once for a pass of ours; 0: 64 MiB */
    /* Called before a shape is measured, `before` of them have been: the first sweep on a card does nothing else for a
     * while. NULL: nobody is told. */
    void (*measuring)(void *user, int64_t before);
    void *user;
};

/* On success *be and *ctx are set; ctx is owned by the caller (be->close). be->device reads "NVIDIA H200, compute
 * capability 9.0, 132 multiprocessors, 139.8 GiB, driver 13.0". */
int cuda_open(const struct dl_backend **be, struct dl_ctx **ctx, const struct dl_cuda_opts *o, struct dl_err *e);

/* For benchmarks. Size of the second-level cache; time by device events of each of n replays of a recorded graph in
 * step 0, us [n]; bytes per second, read plus written, of a large copy within the device. */
int64_t cuda_cache_bytes(const struct dl_ctx *c);
int cuda_time_graph(struct dl_ctx *c, struct dl_graph *g, int n, double *us, struct dl_err *e);
int cuda_copy_rate(struct dl_ctx *c, int64_t bytes, double *per_s, struct dl_err *e);

/* What the device ran and when, by CUPTI's activity records: kernels, those of graphs too, copies and fills of the
 * whole process. CUPTI is optional: without it, or where it is not allowed, opening fails and says why. It costs time
 * between kernels. A graph must be recorded while the trace is open, and be dropped with it: CUPTI may not see, or may
 * break, one from before. One trace at a time in a process. */
struct cuda_span {
    const char *name; /* as the compiler mangles it, or "[memcpy]", "[memset]"; the trace's, until it is closed */
    int64_t start_ns, end_ns;
};
struct cuda_trace;
int cuda_trace_open(struct cuda_trace **t, struct dl_ctx *c, struct dl_err *e);
/* Waits for the ops' stream; *span [*n] (to be freed) is what ran since the trace was opened, or the last take, by
 * start. Fails where a record was lost. */
int cuda_trace_take(struct cuda_trace *t, struct cuda_span **span, int64_t *n, struct dl_err *e);
void cuda_trace_close(struct cuda_trace *t); /* NULL is fine */

#endif
