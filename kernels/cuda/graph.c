/* Capture of a program into a CUDA graph, its replay, and the step index on the device.
 *
 * The graph's last node increments the index, so a loop over the steps is one launch a step. */
#include "kernels/cuda/cuda_priv.h"

#include <stdlib.h>

struct dl_graph {
    cudaGraphExec_t exec;
};

int cuda_set_step(struct dl_ctx *c, int32_t step, struct dl_err *e)
{
    if (c->step_now == step) return 0;
    c->step_now = -1;
    if (cuda_upload(c, c->step, &step, sizeof step, e) < 0) return -1;
    c->step_now = step;
    return 0;
}

const int32_t *cuda_step(struct dl_run *r)
{
    if (r->mode == DL_EAGER) (void)cuda_set_step(r->ctx, r->step, &r->err);
    return r->ctx->step;
}

int cuda_record_begin(struct dl_ctx *c, struct dl_err *e)
{
    cudaError_t rc = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);
    if (rc != cudaSuccess) return cuda_fail(e, rc, "beginning a capture");
    c->capturing = true;
    return 0;
}

int cuda_record_end(struct dl_ctx *c, struct dl_graph **out, struct dl_err *e)
{
    cudaGraph_t graph = NULL;
    int next = cuda_step_next(c->stream, c->step);
    cudaError_t rc = cudaStreamEndCapture(c->stream, &graph);
    c->capturing = false;
    if (!out) { /* the program failed: what was recorded is thrown away */
        if (graph) (void)cudaGraphDestroy(graph);
        (void)cudaGetLastError();
        return 0;
    }
    *out = NULL;
    if (rc == cudaSuccess && next) rc = (cudaError_t)next;
    struct dl_graph *g = rc == cudaSuccess ? calloc(1, sizeof *g) : NULL;
    if (rc == cudaSuccess && g) rc = cudaGraphInstantiate(&g->exec, graph, 0);
    if (rc == cudaSuccess && g) rc = cudaGraphUpload(g->exec, c->stream);
    if (graph) (void)cudaGraphDestroy(graph);
    if (rc == cudaSuccess && g) {
        *out = g;
        return 0;
    }
    cuda_graph_free(c, g);
    if (rc == cudaSuccess) return dl_fail(e, DL_ENOMEM, "no memory for a graph");
    return cuda_fail(e, rc, "ending a capture");
}

int cuda_replay(struct dl_ctx *c, struct dl_graph *g, int32_t step, struct dl_err *e)
{
    if (cuda_set_step(c, step, e) < 0) return -1;
    cudaError_t rc = cudaGraphLaunch(g->exec, c->stream);
    if (rc != cudaSuccess) return cuda_fail(e, rc, "launching a graph");
    c->step_now = step + 1;
    return 0;
}

void cuda_graph_free(struct dl_ctx *c, struct dl_graph *g)
{
    (void)c;
    if (g && g->exec) (void)cudaGraphExecDestroy(g->exec);
    free(g);
}
