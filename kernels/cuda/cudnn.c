#include "kernels/cuda/cudnn.h"
#include "kernels/cuda/cuda_priv.h"

#include <cudnn.h>
#include <stdlib.h>

enum { PLANS = 5, TIMED_RUNS = 5, UID_X = 1, UID_W, UID_Y };

/* What a convolution is made of. PLANS is the most proposals looked at: some are compiled, which takes seconds. */
struct cuda_cudnn {
    struct dl_ctx *ctx;
    struct cuda_conv_shape s;
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t x, w, y, conv, op, graph, heuristics;
    cudnnBackendDescriptor_t config[PLANS], plan[PLANS];
    int64_t workspace_bytes[PLANS];
    int plans, best; /* best -1: not chosen yet */
    void *workspace; /* as large as the largest */
};

static int nn_fail(struct dl_err *e, cudnnStatus_t s, const char *what)
{
    return dl_fail(e, s == CUDNN_STATUS_ALLOC_FAILED ? DL_ENOMEM : DL_EFAIL, "cuDNN: %s: %s", what,
                   cudnnGetErrorString(s));
}

/* One attribute; the first failure in *s stays. */
static void set(cudnnStatus_t *s, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *v)
{
    if (*s == CUDNN_STATUS_SUCCESS) *s = cudnnBackendSetAttribute(d, name, type, n, v);
}

static void make(cudnnStatus_t *s, cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *d)
{
    if (*s == CUDNN_STATUS_SUCCESS) *s = cudnnBackendCreateDescriptor(type, d);
}

static void finish(cudnnStatus_t *s, cudnnBackendDescriptor_t d)
{
    if (*s == CUDNN_STATUS_SUCCESS) *s = cudnnBackendFinalize(d);
}

/* [n][h][w][c] in memory, which cuDNN calls n, c, h, w with these strides. */
static void tensor(cudnnStatus_t *s, cudnnBackendDescriptor_t *d, int64_t uid, int type, int64_t n, int64_t h,
                   int64_t w, int64_t c)
{
    int64_t dim[4] = {n, c, h, w}, stride[4] = {h * w * c, 1, w * c, c}, align = 16;
    cudnnDataType_t t = type == DL_F16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16;
    make(s, CUDNN_BACKEND_TENSOR_DESCRIPTOR, d);
    set(s, *d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t);
    set(s, *d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim);
    set(s, *d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
    set(s, *d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(s, *d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    finish(s, *d);
}

static void convolution(cudnnStatus_t *s, struct cuda_cudnn *c)
{
    int64_t dims = 2, pad[2] = {c->s.k / 2, c->s.k / 2}, stride[2] = {c->s.stride, c->s.stride}, one[2] = {1, 1};
    cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    float alpha = 1, beta = 0;
    make(s, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, &c->conv);
    set(s, c->conv, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    set(s, c->conv, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    set(s, c->conv, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(s, c->conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    set(s, c->conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
    set(s, c->conv, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, one);
    set(s, c->conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    finish(s, c->conv);
    make(s, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, &c->op);
    set(s, c->op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->x);
    set(s, c->op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->w);
    set(s, c->op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->y);
    set(s, c->op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->conv);
    set(s, c->op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha);
    set(s, c->op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta);
    finish(s, c->op);
    make(s, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, &c->graph);
    set(s, c->graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->op);
    set(s, c->graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &c->handle);
    finish(s, c->graph);
}

/* Proposals, best guess first, of which those that make a plan are kept. None is no failure. */
static void propose(cudnnStatus_t *s, struct cuda_cudnn *c)
{
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    int64_t n = 0;
    make(s, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &c->heuristics);
    set(s, c->heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->graph);
    set(s, c->heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finish(s, c->heuristics);
    for (int i = 0; i < PLANS; i++) make(s, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &c->config[i]);
    if (*s != CUDNN_STATUS_SUCCESS ||
        cudnnBackendGetAttribute(c->heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, PLANS, &n,
                                 c->config) != CUDNN_STATUS_SUCCESS)
        return;
    for (int64_t i = 0; i < n && i < PLANS; i++) {
        cudnnStatus_t ok = CUDNN_STATUS_SUCCESS;
        cudnnBackendDescriptor_t plan = NULL;
        int64_t got = 0;
        make(&ok, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan);
        set(&ok, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &c->handle);
        set(&ok, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->config[i]);
        finish(&ok, plan);
        if (ok == CUDNN_STATUS_SUCCESS)
            ok = cudnnBackendGetAttribute(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got,
                                          &c->workspace_bytes[c->plans]);
        if (ok == CUDNN_STATUS_SUCCESS)
            c->plan[c->plans++] = plan;
        else if (plan)
            (void)cudnnBackendDestroyDescriptor(plan);
    }
}

int cuda_cudnn_open(struct dl_ctx *ctx, const struct cuda_conv_shape *s, struct cuda_cudnn **out, struct dl_err *e)
{
    int64_t most = 0;
    struct cuda_cudnn *c = *out = NULL;
    if (s->type != DL_F16 && s->type != DL_BF16) return 0;
    c = calloc(1, sizeof *c);
    if (!c) return dl_fail(e, DL_ENOMEM, "no memory for a convolution of cuDNN's");
    c->ctx = ctx, c->s = *s, c->best = -1;
    cudnnStatus_t rc = cudnnCreate(&c->handle);
    if (rc == CUDNN_STATUS_SUCCESS) rc = cudnnSetStream(c->handle, ctx->stream);
    tensor(&rc, &c->x, UID_X, s->type, s->n, s->h, s->w, s->in);
    tensor(&rc, &c->w, UID_W, s->type, s->out, s->k, s->k, s->in);
    tensor(&rc, &c->y, UID_Y, s->type, s->n, (s->h + s->stride - 1) / s->stride, (s->w + s->stride - 1) / s->stride,
           s->out);
    convolution(&rc, c);
    propose(&rc, c);
    for (int i = 0; i < c->plans; i++)
        if (c->workspace_bytes[i] > most) most = c->workspace_bytes[i];
    int status = rc == CUDNN_STATUS_SUCCESS ? 0 : nn_fail(e, rc, "describing a convolution");
    cudaError_t cu = status == 0 && most > 0 ? cudaMalloc(&c->workspace, (size_t)most) : cudaSuccess;
    if (cu != cudaSuccess) status = cuda_fail(e, cu, "allocating %lld bytes for cuDNN", (long long)most);
    if (status == 0 && c->plans > 0)
        *out = c;
    else
        cuda_cudnn_close(c);
    return status;
}

static cudnnStatus_t run_plan(struct cuda_cudnn *c, int i, const void *x, const void *w, void *y)
{
    cudnnStatus_t s = CUDNN_STATUS_SUCCESS;
    cudnnBackendDescriptor_t pack = NULL;
    const void *data[] = {x, w, y};
    int64_t uid[] = {UID_X, UID_W, UID_Y};
    make(&s, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    set(&s, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, uid);
    set(&s, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, data);
    set(&s, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &c->workspace);
    finish(&s, pack);
    if (s == CUDNN_STATUS_SUCCESS) s = cudnnBackendExecute(c->handle, c->plan[i], pack);
    if (pack) (void)cudnnBackendDestroyDescriptor(pack);
    return s;
}

/* The least time of a few runs in ms; a large number for a plan that fails. */
static float time_of(struct cuda_cudnn *c, int i, const void *x, const void *w, void *y, cudaEvent_t from,
                     cudaEvent_t to)
{
    float least = 1e30f;
    for (int k = 0; k <= TIMED_RUNS; k++) { /* the first loads code */
        float ms = 0;
        (void)cudaEventRecord(from, c->ctx->stream);
        if (run_plan(c, i, x, w, y) != CUDNN_STATUS_SUCCESS) return 1e30f;
        (void)cudaEventRecord(to, c->ctx->stream);
        if (cudaEventSynchronize(to) != cudaSuccess || cudaEventElapsedTime(&ms, from, to) != cudaSuccess) return 1e30f;
        if (k > 0 && ms < least) least = ms;
    }
    return least;
}

static int choose(struct cuda_cudnn *c, const void *x, const void *w, void *y, struct dl_err *e)
{
    cudaEvent_t from = NULL, to = NULL;
    float least = 1e30f;
    cudaError_t rc = cudaEventCreate(&from);
    if (rc == cudaSuccess) rc = cudaEventCreate(&to);
    for (int i = 0; i < c->plans && rc == cudaSuccess; i++) {
        float ms = time_of(c, i, x, w, y, from, to);
        if (ms < least) least = ms, c->best = i;
    }
    if (from) (void)cudaEventDestroy(from);
    if (to) (void)cudaEventDestroy(to);
    if (rc != cudaSuccess) return cuda_fail(e, rc, "making an event");
    (void)cudaGetLastError(); /* of a plan that failed */
    if (c->best < 0) return dl_fail(e, DL_EFAIL, "cuDNN: no engine ran the convolution that it was proposed for");
    return 0;
}

int cuda_cudnn_run(struct cuda_cudnn *c, const void *x, const void *w, void *y, struct dl_err *e)
{
    if (c->best < 0 && choose(c, x, w, y, e) < 0) return -1;
    cudnnStatus_t s = run_plan(c, c->best, x, w, y);
    return s == CUDNN_STATUS_SUCCESS ? 0 : nn_fail(e, s, "running a convolution");
}

static void drop(cudnnBackendDescriptor_t d)
{
    if (d) (void)cudnnBackendDestroyDescriptor(d);
}

void cuda_cudnn_close(struct cuda_cudnn *c)
{
    if (!c) return;
    (void)cudaStreamSynchronize(c->ctx->stream);
    for (int i = 0; i < PLANS; i++) drop(c->plan[i]), drop(c->config[i]);
    drop(c->heuristics), drop(c->graph), drop(c->op), drop(c->conv), drop(c->y), drop(c->w), drop(c->x);
    if (c->handle) (void)cudnnDestroy(c->handle);
    if (c->workspace) (void)cudaFree(c->workspace);
    free(c);
}

/* ---- timing ---- */

enum { SETS_MAX = 64, ROUND_US = 500, ROUND_MAX = 1024 };

/* x, w and y of one convolution among several that lie in one block. */
struct operands {
    uint8_t *base;
    int64_t x_bytes, w_bytes, set_bytes;
    int sets;
};

static int run_set(struct cuda_cudnn *c, const struct operands *o, int i, struct dl_err *e)
{
    uint8_t *at = o->base + i % o->sets * o->set_bytes;
    return cuda_cudnn_run(c, at, at + o->x_bytes, at + o->x_bytes + o->w_bytes, e);
}

static int64_t round_up(int64_t bytes) { return (bytes + 255) & ~(int64_t)255; }

static int give_operands(struct operands *o, const struct cuda_cudnn *c, struct dl_err *e)
{
    const struct cuda_conv_shape *s = &c->s;
    int64_t size = dl_type_bytes(s->type),
            pixels = (s->h + s->stride - 1) / s->stride * ((s->w + s->stride - 1) / s->stride);
    o->x_bytes = round_up(s->n * s->h * s->w * s->in * size),
    o->w_bytes = round_up(s->out * s->k * s->k * s->in * size);
    o->set_bytes = o->x_bytes + o->w_bytes + round_up(s->n * pixels * s->out * size);
    int64_t sets = 3 * cuda_cache_bytes(c->ctx) / o->set_bytes + 1;
    o->sets = (int)(sets < SETS_MAX ? sets : SETS_MAX);
    cudaError_t rc = cudaMalloc((void **)&o->base, (size_t)(o->sets * o->set_bytes));
    /* Bytes of 0x3c are small numbers in both types: zeros can run faster than data. */
    if (rc == cudaSuccess) rc = cudaMemsetAsync(o->base, 0x3c, (size_t)(o->sets * o->set_bytes), c->ctx->stream);
    return rc == cudaSuccess ? 0 : cuda_fail(e, rc, "allocating operands for cuDNN");
}

/* Mean time of a call in a round of all sets, warmed up. */
static int about(struct cuda_cudnn *c, const struct operands *o, float *us, struct dl_err *e)
{
    cudaEvent_t from = NULL, to = NULL;
    float ms = 0;
    cudaError_t cu = cudaEventCreate(&from);
    if (cu == cudaSuccess) cu = cudaEventCreate(&to);
    int rc = cu == cudaSuccess ? run_set(c, o, 0, e) : 0;
    if (cu == cudaSuccess) cu = cudaEventRecord(from, c->ctx->stream);
    for (int i = 0; i < o->sets && rc == 0; i++) rc = run_set(c, o, i, e);
    if (cu == cudaSuccess) cu = cudaEventRecord(to, c->ctx->stream);
    if (cu == cudaSuccess) cu = cudaEventSynchronize(to);
    if (cu == cudaSuccess) cu = cudaEventElapsedTime(&ms, from, to);
    if (from) (void)cudaEventDestroy(from);
    if (to) (void)cudaEventDestroy(to);
    *us = ms * 1e3f / (float)o->sets;
    if (rc == 0 && cu != cudaSuccess) rc = cuda_fail(e, cu, "timing cuDNN");
    return rc;
}

static int record(struct cuda_cudnn *c, const struct operands *o, int ops, struct dl_graph **g, struct dl_err *e)
{
    int rc = 0;
    if (cuda_record_begin(c->ctx, e) < 0) return -1;
    for (int i = 0; i < ops && rc == 0; i++) rc = run_set(c, o, i, e);
    if (rc == 0) return cuda_record_end(c->ctx, g, e);
    cuda_record_end(c->ctx, NULL, NULL);
    return -1;
}

int cuda_cudnn_time(struct dl_ctx *ctx, const struct cuda_conv_shape *s, int repeats, double *us, struct dl_err *e)
{
    struct cuda_cudnn *c;
    struct operands o = {0};
    struct dl_graph *g = NULL;
    float once = 1;
    if (cuda_cudnn_open(ctx, s, &c, e) < 0) return -1;
    if (!c) return 0;
    int rc = give_operands(&o, c, e);
    if (rc == 0) rc = about(c, &o, &once, e);
    int ops = (int)((float)ROUND_US / (once > 1 ? once : 1)) + 1;
    ops = (ops + o.sets - 1) / o.sets * o.sets; /* whole rounds */
    if (ops > ROUND_MAX) ops = ROUND_MAX / o.sets * o.sets;
    double first;
    if (rc == 0) rc = record(c, &o, ops, &g, e);
    if (rc == 0) rc = cuda_time_graph(ctx, g, 1, &first, e); /* the first uploads the graph */
    if (rc == 0) rc = cuda_time_graph(ctx, g, repeats, us, e);
    for (int i = 0; i < repeats && rc == 0; i++) us[i] /= ops;
    if (g) cuda_graph_free(ctx, g);
    cuda_cudnn_close(c);
    if (o.base) (void)cudaFree(o.base);
    return rc < 0 ? -1 : 1;
}
