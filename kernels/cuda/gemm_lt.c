/* Matrix products by cuBLASLt: y = x . w^T (+ bias) (+ res), and of e4m3 operands (+ bias). Its GELU is not used: it is
 * made of tanh.approx, whose 11 bits are fewer than the backend promises.
 *
 * The library is column-major: our row-major y [m][out] is its D [out x m], so A is w (transposed), B is x, and the
 * bias runs along D's rows as it wants. Rows of activations that do not lie back to back become a strided batch.
 *
 * The algorithm for a shape is the fastest of the library's proposals (tune.h); what tune.h keeps of it is the library's
 * own description, 8 hexadecimal words, used only if the library accepts it (cublasLtMatmulAlgoCheck). */
#include "kernels/cuda/cuda_priv.h"

#include <cublasLt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { PROPOSALS = 8, KEY = 160 };

/* An algorithm that the library has proposed or accepted in this process. */
struct algo {
    struct algo *next;
    char key[KEY];
    cublasLtMatmulAlgo_t algo;
};

struct cuda_blas {
    cublasLtHandle_t handle;
    struct algo *algos;
};

/* Everything cuBLASLt needs to know of one product. */
struct product {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c, d;
    const void *w, *x, *res; /* res NULL: none */
    void *y;
    int64_t y_bytes;
    char key[KEY];
};

static int lt_fail(struct dl_err *e, cublasStatus_t s, const char *what)
{
    return dl_fail(e, s == CUBLAS_STATUS_ALLOC_FAILED ? DL_ENOMEM : DL_EFAIL, "cuBLASLt: %s: %s", what,
                   cublasLtGetStatusString(s));
}

static struct algo *find(const struct cuda_blas *b, const char *key)
{
    for (struct algo *k = b->algos; k; k = k->next)
        if (!strcmp(k->key, key)) return k;
    return NULL;
}

static struct algo *keep(struct dl_run *r, const char *key, const cublasLtMatmulAlgo_t *algo)
{
    struct cuda_blas *b = r->ctx->blas;
    struct algo *k = calloc(1, sizeof *k);
    if (!k) {
        dl_fail(&r->err, DL_ENOMEM, "no memory for an algorithm");
        return NULL;
    }
    snprintf(k->key, sizeof k->key, "%s", key);
    k->algo = *algo, k->next = b->algos, b->algos = k;
    return k;
}

int cuda_blas_open(struct dl_ctx *c, struct dl_err *e)
{
    struct cuda_blas *b = c->blas = calloc(1, sizeof *b);
    if (!b) return dl_fail(e, DL_ENOMEM, "no memory for cuBLASLt's state");
    cublasStatus_t s = cublasLtCreate(&b->handle);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : lt_fail(e, s, "opening");
}

void cuda_blas_close(struct dl_ctx *c)
{
    struct cuda_blas *b = c->blas;
    if (!b) return;
    for (struct algo *k = b->algos, *next; k; k = next) next = k->next, free(k);
    if (b->handle) (void)cublasLtDestroy(b->handle);
    free(b);
    c->blas = NULL;
}

size_t cuda_blas_version(void) { return cublasLtGetVersion(); }

static bool aligned(const dl_act *a)
{
    int per = 16 / dl_type_bytes(a->t);
    return (uintptr_t)a->p % 16 == 0 && a->ld % per == 0 && a->rs % per == 0 && a->c % per == 0;
}

bool cuda_blas_takes(const struct dl_ctx *c, const struct dl_gemm *a)
{
    const struct dl_epi *e = &a->e;
    if (c->opts.no_libraries || e->fn || e->glu || e->add.p || e->gate.p || e->scale != 1) return false;
    if (e->res.p && e->res.t != a->y.t) return false;
    if (a->y.t != a->x.t && a->y.t != DL_F32) return false;
    return aligned(&a->x) && aligned(&a->y) && (!e->res.p || aligned(&e->res));
}

static cudaDataType_t type_of(int t)
{
    return t == DL_F32 ? CUDA_R_32F : t == DL_F16 ? CUDA_R_16F : t == DL_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
}

static bool back_to_back(const dl_act *a) { return a->n == 1 || a->rs == (int64_t)a->h * a->w * a->ld; }

static cublasStatus_t layout(cublasLtMatrixLayout_t *l, int t, int64_t rows, int64_t cols, int64_t ld, int32_t batch,
                             int64_t stride)
{
    cublasStatus_t s = cublasLtMatrixLayoutCreate(l, type_of(t), (uint64_t)rows, (uint64_t)cols, ld);
    if (s == CUBLAS_STATUS_SUCCESS && batch > 1)
        s = cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
    if (s == CUBLAS_STATUS_SUCCESS && batch > 1)
        s = cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    return s;
}

static void product_close(struct product *p)
{
    cublasLtMatrixLayout_t l[] = {p->a, p->b, p->c, p->d};
    for (int i = 0; i < 4; i++)
        if (l[i]) (void)cublasLtMatrixLayoutDestroy(l[i]);
    if (p->op) (void)cublasLtMatmulDescDestroy(p->op);
}

/* The descriptor: w transposed; bias of type bias_t, or NULL. */
static cublasStatus_t describe(struct product *p, const void *bias, int bias_t)
{
    cublasLtEpilogue_t epi = bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    cublasOperation_t trans = CUBLAS_OP_T;
    cudaDataType_t t = type_of(bias_t);
    cublasStatus_t s = cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epi, sizeof epi);
    if (s == CUBLAS_STATUS_SUCCESS && bias)
        s = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (s == CUBLAS_STATUS_SUCCESS && bias)
        s = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &t, sizeof t);
    return s;
}

static cublasStatus_t product_open(struct product *p, const struct dl_gemm *g, const void *w, const void *bias)
{
    const dl_act *x = &g->x, *y = &g->y, *res = g->e.res.p ? &g->e.res : y;
    int64_t pixels = (int64_t)x->h * x->w, k = x->c, n = y->c;
    bool flat = back_to_back(x) && back_to_back(y) && back_to_back(res);
    int64_t m = flat ? x->n * pixels : pixels;
    int32_t batch = flat ? 1 : x->n;
    *p = (struct product){.w = w, .x = x->p, .res = g->e.res.p, .y = y->p, .y_bytes = dl_act_bytes(*y)};
    snprintf(p->key, sizeof p->key, "%s-%s out%lld in%lld m%lld b%d ld%d,%d,%d%s%s", dl_type_name(x->t),
             dl_type_name(y->t), (long long)n, (long long)k, (long long)m, batch, x->ld, res->ld, y->ld,
             bias ? " bias" : "", g->e.res.p ? " res" : "");
    cublasStatus_t s = describe(p, bias, y->t);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&p->a, x->t, k, n, k, batch, 0);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&p->b, x->t, k, m, x->ld, batch, x->rs);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&p->c, y->t, n, m, res->ld, batch, res->rs);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&p->d, y->t, n, m, y->ld, batch, y->rs);
    return s;
}

/* The scales of w's rows (sums' columns here, A) and of x's (B). Without them each operand's one scale is 1. */
static cublasStatus_t scales(struct product *p, const float *sw, const float *sx)
{
#if CUBLAS_VERSION >= 120900
    int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    cublasStatus_t s = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &sw, sizeof sw);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &sx, sizeof sx);
    return s;
#else
    (void)p, (void)sw, (void)sx;
    return CUBLAS_STATUS_NOT_SUPPORTED; /* cuda_blas_row_scales says so beforehand */
#endif
}

static cublasStatus_t product_open_e4m3(struct product *p, const struct cuda_lt_e4m3 *g)
{
    int64_t y_bytes = ((g->m - 1) * g->ld + g->out) * dl_type_bytes(g->y_t);
    *p = (struct product){.w = g->w, .x = g->x, .y = g->y, .y_bytes = y_bytes};
    snprintf(p->key, sizeof p->key, "e4m3-%s out%lld in%lld m%lld ld%lld%s%s", dl_type_name(g->y_t), (long long)g->out,
             (long long)g->in, (long long)g->m, (long long)g->ld, g->bias ? " bias" : "", g->sx ? " scales" : "");
    cublasStatus_t s = describe(p, g->bias, DL_BF16);
    if (s == CUBLAS_STATUS_SUCCESS && g->sx) s = scales(p, g->sw, g->sx);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&p->a, DL_E4M3, g->in, g->out, g->in, 1, 0);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&p->b, DL_E4M3, g->in, g->m, g->in, 1, 0);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&p->c, g->y_t, g->out, g->m, g->ld, 1, 0);
    if (s == CUBLAS_STATUS_SUCCESS) s = layout(&p->d, g->y_t, g->out, g->m, g->ld, 1, 0);
    return s;
}

static cublasStatus_t launch(const struct dl_ctx *c, const struct product *p, void *y, const cublasLtMatmulAlgo_t *algo,
                             void *workspace)
{
    const float one = 1, beta = p->res ? 1 : 0;
    return cublasLtMatmul(c->blas->handle, p->op, &one, p->w, p->a, p->x, p->b, &beta, p->res ? p->res : y, p->c, y,
                          p->d, algo, workspace, CUDA_LT_WORKSPACE, c->stream);
}

/* The library's proposals for the product, best guess first; their number, 0 with an error. */
static int propose(struct dl_run *r, const struct product *p, cublasLtMatmulHeuristicResult_t *found)
{
    cublasLtMatmulPreference_t pref = NULL;
    size_t workspace = CUDA_LT_WORKSPACE;
    uint32_t align = 16, sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* the others may add partial sums in halves */
    int n = 0;
    cublasStatus_t s = cublasLtMatmulPreferenceCreate(&pref);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                 sizeof workspace);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums, sizeof sums);
    for (int i = 0; i < 4 && s == CUBLAS_STATUS_SUCCESS; i++) {
        static const cublasLtMatmulPreferenceAttributes_t which[] = {
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
        s = cublasLtMatmulPreferenceSetAttribute(pref, which[i], &align, sizeof align);
    }
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(r->ctx->blas->handle, p->op, p->a, p->b, p->c, p->d, pref, PROPOSALS, found,
                                           &n);
    if (pref) (void)cublasLtMatmulPreferenceDestroy(pref);
    if (s == CUBLAS_STATUS_SUCCESS && n > 0) return n;
    lt_fail(&r->err, s == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_NOT_SUPPORTED : s, p->key);
    return 0;
}

static void write_algo(char text[CUDA_TUNE_VALUE], const cublasLtMatmulAlgo_t *algo)
{
    const uint64_t *v = algo->data;
    snprintf(text, CUDA_TUNE_VALUE,
             "%" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64, v[0], v[1],
             v[2], v[3], v[4], v[5], v[6], v[7]);
}

/* Whether the text describes an algorithm that the library takes for this product. */
static bool read_algo(const struct dl_ctx *c, const struct product *p, const char *text, cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t res = {0};
    uint64_t *v = algo->data;
    if (sscanf(text,
               "%" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64, v, v + 1,
               v + 2, v + 3, v + 4, v + 5, v + 6, v + 7) != 8)
        return false;
    return cublasLtMatmulAlgoCheck(c->blas->handle, p->op, p->a, p->b, p->c, p->d, algo, &res) ==
               CUBLAS_STATUS_SUCCESS &&
           res.state == CUBLAS_STATUS_SUCCESS && res.workspaceSize <= CUDA_LT_WORKSPACE;
}

struct race {
    const struct dl_ctx *c;
    const struct product *p;
    const cublasLtMatmulHeuristicResult_t *found;
    void *y, *workspace;
};

static bool go(void *user, int i)
{
    const struct race *t = user;
    return t->found[i].state == CUBLAS_STATUS_SUCCESS &&
           launch(t->c, t->p, t->y, &t->found[i].algo, t->workspace) == CUBLAS_STATUS_SUCCESS;
}

/* Chooses. A product that adds to its own result is timed into other memory, if there is some. */
static struct algo *tune(struct dl_run *r, const struct product *p, const char *key, void *workspace)
{
    struct dl_ctx *c = r->ctx;
    cublasLtMatmulHeuristicResult_t found[PROPOSALS];
    struct race t = {.c = c, .p = p, .found = found, .y = p->y, .workspace = workspace};
    void *other = NULL;
    char text[CUDA_TUNE_VALUE];
    int n = propose(r, p, found), best = -1;
    if (n == 0) return NULL;
    if (p->res == p->y && n > 1 && !c->opts.no_tuning) {
        if (cudaMalloc(&other, (size_t)p->y_bytes) != cudaSuccess) (void)cudaGetLastError();
        t.y = other;
    }
    if (n > 1 && !c->opts.no_tuning && t.y) best = cuda_tune_race(c, n, go, &t);
    if (other) (void)cudaFree(other);
    const cublasLtMatmulAlgo_t *algo = &found[best < 0 ? 0 : best].algo;
    write_algo(text, algo);
    if (cuda_tune_keep(c, key, text, best >= 0, &r->err) < 0) return NULL;
    return keep(r, p->key, algo);
}

/* The algorithm chosen for a product; new ones outside of captures only. */
static struct algo *algo_of(struct dl_run *r, const struct product *p, void *workspace)
{
    struct dl_ctx *c = r->ctx;
    char key[CUDA_TUNE_KEY];
    cublasLtMatmulAlgo_t algo;
    struct algo *k = find(c->blas, p->key);
    if (k) return k;
    if (c->capturing) {
        dl_fail(&r->err, DL_EFAIL, "cuBLASLt: %s: new in a capture; run the program once before", p->key);
        return NULL;
    }
    snprintf(key, sizeof key, "cublaslt %s", p->key);
    const char *text = cuda_tune_find(c, key);
    return text && read_algo(c, p, text, &algo) ? keep(r, p->key, &algo) : tune(r, p, key, workspace);
}

/* Runs a product that has been described, or was not (`s`), and closes it. */
static void run(struct dl_run *r, struct product *p, cublasStatus_t s, void *workspace)
{
    if (s != CUBLAS_STATUS_SUCCESS) {
        lt_fail(&r->err, s, "describing a product");
    } else {
        const struct algo *k = algo_of(r, p, workspace);
        if (k && (s = launch(r->ctx, p, p->y, &k->algo, workspace)) != CUBLAS_STATUS_SUCCESS)
            lt_fail(&r->err, s, p->key);
    }
    product_close(p);
}

void cuda_blas_gemm(struct dl_run *r, const struct dl_gemm *g, const void *w, const void *bias, void *workspace)
{
    struct product p;
    cublasStatus_t s = product_open(&p, g, w, bias);
    run(r, &p, s, workspace);
}

/* Of all GPUs those of compute capability 9.0 have these scales in cuBLASLt 12.9 to 13.x; later ones have others. */
bool cuda_blas_row_scales(const struct dl_ctx *c)
{
    return c->cc == 90 && CUBLAS_VERSION >= 120900 && cublasLtGetVersion() >= 120900;
}

void cuda_blas_e4m3(struct dl_run *r, const struct cuda_lt_e4m3 *g, void *workspace)
{
    struct product p;
    if (r->ctx->opts.no_libraries) {
        dl_fail(&r->err, DL_EFAIL, "op gemm: products in e4m3 need cuBLASLt");
        return;
    }
    cublasStatus_t s = product_open_e4m3(&p, g);
    run(r, &p, s, workspace);
}
