/* cuda_priv.h: what the CUDA backend's own files share.
 *
 * Entries receive arguments that engine/op.c has checked and completed. In a dry run an entry asks for its weight
 * forms, takes and releases the same scratch as later, sets r->variant and launches nothing; its choice of variant
 * depends on its arguments alone (addresses of a dry arena are as aligned as those of a real one). In a capture an
 * entry must find everything made by an eager run of the same program: copies of host arrays, tuned algorithms. */
#ifndef CUDA_PRIV_H
#define CUDA_PRIV_H

#include "engine/run.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/tune.h"

#include <cuda_runtime_api.h>

enum { CUDA_STAGE_BYTES = 16 << 20, CUDA_STAGES = 2 };

/* Pinned staging buffers: what goes to the GPU is copied through them, piece by piece. */
struct cuda_stage {
    void *p[CUDA_STAGES]; /* [CUDA_STAGE_BYTES] */
    cudaEvent_t done[CUDA_STAGES];
};

struct cuda_blas;  /* gemm_lt.c: handle, algorithms; NULL with no_libraries */
struct cuda_const; /* consts.c */

struct dl_ctx {
    struct dl_backend be; /* what cuda_open hands out */
    struct dl_ops ops;
    struct dl_cuda_opts opts;
    int device, cc, sms;
    int64_t total_bytes;
    char text[160]; /* struct dl_backend's device */
    char name[96];  /* device name without blanks, for file names */
    cudaStream_t stream;
    int32_t *step;    /* device: the step index that kernels read */
    int32_t step_now; /* its value once the stream is done; -1: not known */
    struct cuda_stage stage;
    bool capturing;
    void *tma_encode;   /* the driver's cuTensorMapEncodeTiled where the Hopper tier runs, else NULL */
    bool own_e4m3;      /* our own products in e4m3 run here */
    bool hopper_always; /* also for shapes at which the portable tier is thought to be better: for tests */
    struct cuda_const *consts;
    struct cuda_tune *tune;
    struct cuda_blas *blas;
};

/* Fails with the name and text of a CUDA error, what was tried before it; DL_ENOMEM when memory was out. */
int cuda_fail(struct dl_err *e, cudaError_t rc, const char *what, ...) __attribute__((format(printf, 3, 4)));

/* What a launch function of kernels.h or igemm.h returned, into the run's error. */
void cuda_launched(struct dl_run *r, const char *op, int rc);

/* The device's step index, made equal to the run's in eager runs. */
const int32_t *cuda_step(struct dl_run *r);
int cuda_set_step(struct dl_ctx *c, int32_t step, struct dl_err *e); /* enqueues a copy where it is another */

/* A device copy of a small host array, of immutable content: the same content gives the same address. NULL in a dry
 * run, for a NULL array and after a failure (in r->err). */
const void *cuda_const(struct dl_run *r, const void *host, int64_t bytes);
void cuda_consts_close(struct dl_ctx *c);

/* Weight forms. `t` is the run's type, to which values are rounded first: plain in t, file's order; f32 elements; a
 * convolution's [out][kh][kw][in] in t; a matrix [out][in] quantised from the file's values (engine/e4m3.h), followed
 * by the scales f32 [out], in and out multiples of 16. NULL in a dry run (the form is asked for) and after a failure.
 */
const void *cuda_w_plain(struct dl_run *r, struct dl_w *w, int t);
const float *cuda_w_wide(struct dl_run *r, struct dl_w *w, int t);
const void *cuda_w_ohwi(struct dl_run *r, struct dl_w *w, int t);
const uint8_t *cuda_w_e4m3(struct dl_run *r, struct dl_w *w);

/* Whether the entry is to launch: not in a dry run, not after a failure. */
static inline bool cuda_live(const struct dl_run *r) { return !dl_run_is_dry(r) && dl_run_ok(r) && !r->arena.failed; }

int cuda_upload(struct dl_ctx *c, void *dst, const void *src, int64_t bytes, struct dl_err *e);

int cuda_stage_open(struct cuda_stage *g, struct dl_err *e);
void cuda_stage_close(struct cuda_stage *g); /* nothing may be under way */
/* Enqueues the copy on `stream`; src is free again on return. */
int cuda_stage_copy(struct cuda_stage *g, cudaStream_t stream, void *dst, const void *src, int64_t bytes,
                    struct dl_err *e);

/* Copies of weights beside the stream of the ops, see engine/run.h. `by` NULL: on the stream of the ops. */
extern const struct dl_lane_ops cuda_lane_ops;
cudaStream_t cuda_stream_of(const struct dl_ctx *c, const struct dl_lane *by);
int cuda_upload_by(struct dl_ctx *c, struct dl_lane *by, void *dst, const void *src, int64_t bytes, struct dl_err *e);

/* Capture, see engine/run.h. */
int cuda_record_begin(struct dl_ctx *c, struct dl_err *e);
int cuda_record_end(struct dl_ctx *c, struct dl_graph **g, struct dl_err *e);
int cuda_replay(struct dl_ctx *c, struct dl_graph *g, int32_t step, struct dl_err *e);
void cuda_graph_free(struct dl_ctx *c, struct dl_graph *g);

/* tier.c. DLENS_CUDA_TIER: auto (or unset), portable, hopper (wherever it serves); another word is an error. */
int cuda_tier_open(struct dl_ctx *c, struct dl_err *e);
/* Names of the ways to do this attention, of which key_mask may be the host's, the best guess first; their number, 0
 * where neither tier serves it. */
int cuda_tier_attn(const struct dl_ctx *c, const struct cuda_attn_args *a, const char *name[CUDA_WAYS]);
int cuda_tier_attn_run(const struct dl_ctx *c, const struct cuda_attn_args *a, int way);
/* The Hopper tier's ways to do a product or convolution; 0: none. igemm.h has the portable ones. */
struct cuda_igemm_args;
int cuda_tier_conv(const struct dl_ctx *c, const struct cuda_igemm_args *a, const char *name[CUDA_WAYS]);
int cuda_tier_conv_run(const struct dl_ctx *c, const struct cuda_igemm_args *a, const char *name);

/* cuBLASLt. */
enum { CUDA_LT_WORKSPACE = 32 << 20 };
int cuda_blas_open(struct dl_ctx *c, struct dl_err *e);
void cuda_blas_close(struct dl_ctx *c);
size_t cuda_blas_version(void); /* as the library counts; 0 without one */
/* Whether the library does this product whole, epilogue included; from the arguments alone. */
bool cuda_blas_takes(const struct dl_ctx *c, const struct dl_gemm *a);
/* bias in y's type; workspace [CUDA_LT_WORKSPACE]. */
void cuda_blas_gemm(struct dl_run *r, const struct dl_gemm *a, const void *w, const void *bias, void *workspace);

/* A product of quantised operands, y [m][out] = x . w^T in f32 sums, rows of y `ld` apart; m any, in and out multiples
 * of 16, all pointers on 16 bytes. With sx and sw sums are scaled by row and column, which cuda_blas_row_scales says
 * that the library does on this device; bias (of bf16, NULL: none) is added after that. */
struct cuda_lt_e4m3 {
    const uint8_t *x, *w;
    const float *sx, *sw; /* [m], [out]; both or neither */
    const void *bias;
    void *y;
    int y_t; /* DL_BF16 or DL_F32 */
    int64_t m, in, out, ld;
};
bool cuda_blas_row_scales(const struct dl_ctx *c);
void cuda_blas_e4m3(struct dl_run *r, const struct cuda_lt_e4m3 *g, void *workspace);

void cuda_gemm_e4m3(struct dl_run *r, const struct dl_gemm *a); /* gemm_e4m3.c: of which dl_e4m3_takes says so */
void cuda_op_gemm(struct dl_run *r, const struct dl_gemm *a);
void cuda_op_conv(struct dl_run *r, const struct dl_conv *a);
void cuda_ops_init(struct dl_ops *ops);

#endif
