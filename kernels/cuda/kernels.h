/* kernels.h: the launch functions of the hand-written CUDA kernels, between the backend's ops and the .cu files.
 *
 * Each function enqueues one op (one to three kernels) on a stream and returns at once: no allocation, no
 * synchronisation, no host memory read later, so every one of them may be captured into a graph. Every pointer in the
 * arguments is device memory, also those that the op takes from the host (ids, row maps, kv_row, key_mask, timesteps):
 * the backend uploads them. dl_act and dl_vec are those of engine/op.h. What depends on the step reads the index from
 * `step`, one int32 on the device (NULL: step 0), so that one graph serves all steps.
 *
 * Activations: f32, f16 or bf16; x and y may differ in type unless said otherwise. Pitches (ld, rs) are free; where
 * pointers, pitches and channels are multiples of 16 bytes the vector variants run, else scalar ones, to the same
 * result within rounding. Weights that are vectors (gamma, beta, bias) come as f32, already rounded to the type of
 * the run. Products and convolutions (igemm.h, nconv.h, hopper.h) write y's parts, where it has them, with y; no other
 * function reads or writes parts but those of parts.cu.
 *
 * Result: 0, a cudaError_t, or CUDA_K_UNSUPPORTED for a shape or type that no kernel takes (nothing was launched).
 *
 * The same sources compile for the host under tests/simt/simt.h, with memory of simt_alloc() in the place of the
 * device's. Portable tier: sm_80 and later.
 */
#ifndef DL_CUDA_KERNELS_H
#define DL_CUDA_KERNELS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/op.h"
#include "engine/sched.h"

struct CUstream_st; /* cudaStream_t is a pointer to it */

enum { CUDA_K_UNSUPPORTED = -1, CUDA_WAYS = 24 /* ways to compute one thing, at most */ };

/* ---- norm.cu ---- */

/* y = (x - mean) * rstd * gamma + beta, then * (1 + scale) + shift; rms: y = x * rstd * gamma. y may be x. */
struct cuda_lnorm_args {
    dl_act x, y;
    const float *gamma, *beta; /* [c] or NULL */
    float eps;
    bool rms;
    dl_vec scale, shift; /* [n][c], tables of all steps allowed */
    const int32_t *step;
};
int cuda_lnorm(struct CUstream_st *s, const struct cuda_lnorm_args *a);

/* Group norm's statistics: mean_rstd [n][groups][2]. The same bits for the same x, whatever n is. */
struct cuda_gnorm_args {
    dl_act x;
    int32_t groups;
    float eps;
    float *mean_rstd;
    void *scratch; /* cuda_gnorm_scratch() bytes, 16-byte aligned */
};
int64_t cuda_gnorm_scratch(const struct cuda_gnorm_args *a); /* reads x's shape and groups only */
int cuda_gnorm(struct CUstream_st *s, const struct cuda_gnorm_args *a);

/* y = fn(affine((x - mean) * rstd)), with the statistics above. y may be x. */
struct cuda_norm_args {
    dl_act x, y;
    const float *mean_rstd; /* [n][groups][2] */
    int32_t groups;
    const float *gamma, *beta; /* [c] or NULL */
    dl_vec scale, shift;
    const int32_t *step;
    int32_t fn; /* enum dl_fn */
};
int cuda_norm(struct CUstream_st *s, const struct cuda_norm_args *a);

/* ---- parts.cu ---- */

/* The parts of y (dl_act), from its values: behind an op that did not make them itself. A set is 32 pixels in a row. */
int cuda_parts(struct CUstream_st *s, const dl_act *y);

/* As cuda_gnorm, from the parts of x alone; scratch is not used. */
int cuda_gnorm_parts(struct CUstream_st *s, const struct cuda_gnorm_args *a);

/* ---- attn.cu ---- */

/* As dl_op_attn. q, k, v, y of one type, f16 or bf16; head dim a multiple of 8 up to 256, or 512; pointers on 16
 * bytes, pitches multiples of 8 elements; scale > 0. */
struct cuda_attn_args {
    dl_act q, k, v, y;
    int32_t heads;
    float scale;
    bool causal;
    dl_act bias;             /* f32, n = heads, h = tq, w = tk, c = 1; p NULL: none */
    const uint8_t *key_mask; /* [k.n][tk], or NULL */
    const int32_t *kv_row;   /* [q.n], or NULL */
};
/* Names of the ways to compute it, the best guess first ("mma d64 128x64"); NULL: no such way, and from way 0 on
 * unsupported. All give the same result within rounding. */
const char *cuda_attn_variant(const struct cuda_attn_args *a, int way);
int cuda_attn(struct CUstream_st *s, const struct cuda_attn_args *a, int way);

/* ---- misc.cu ---- */

/* What stands after a matrix product's sums where the product did not do it itself, in struct dl_epi's order: + bias,
 * fn (or GLU), + add, * gate, + res, * scale. x [n][h][w][c] ([2 c] with glu: first half * fn(second half)). y may be x
 * (not with glu), res may be y. */
struct cuda_epi_args {
    dl_act x, y;
    const float *bias; /* [c], [2 c] with glu, or NULL */
    int32_t fn;
    bool glu;
    dl_vec add, gate;
    dl_act res;
    float scale; /* 0 means 1 */
    const int32_t *step;
    /* Of e4m3 operands, both or neither: x is multiplied by row_scale [n][h * w] and col_scale [c] ([2 c]) first. */
    const float *row_scale, *col_scale;
};
int cuda_epi(struct CUstream_st *s, const struct cuda_epi_args *a);

/* y[n][1][tokens][c] = table[ids[n][token]] + pos[token]; table and pos (or NULL) of y's type. ids were checked. */
struct cuda_embed_args {
    const int32_t *ids; /* [n][tokens] */
    dl_act y;
    const void *table, *pos;
};
int cuda_embed(struct CUstream_st *s, const struct cuda_embed_args *a);

struct cuda_sinus_args {
    const float *t; /* [n] */
    dl_act y;
    bool flip;
    float shift;
};
int cuda_sinus(struct CUstream_st *s, const struct cuda_sinus_args *a);

/* y[i] = fn(x[row[i]] * a + b); row NULL: row i, or row 0 when x.n == 1. a == 0 means 1. */
struct cuda_copy_args {
    dl_act x, y;
    const int32_t *row;
    float a, b;
    int32_t fn;
};
int cuda_copy(struct CUstream_st *s, const struct cuda_copy_args *a);

struct cuda_add_args {
    dl_act a, b, y;
};
int cuda_add(struct CUstream_st *s, const struct cuda_add_args *a);

/* y[i] [1][1][c] = row row[i] of the table in this step. */
struct cuda_pick_args {
    dl_vec table;
    const int32_t *row; /* [y.n] */
    dl_act y;
    const int32_t *step;
};
int cuda_pick(struct CUstream_st *s, const struct cuda_pick_args *a);

/* As dl_op_resize. */
struct cuda_resize_args {
    dl_act x, y;
    int32_t kind; /* enum dl_resize_kind */
};
int cuda_resize(struct CUstream_st *s, const struct cuda_resize_args *a);

/* u8 [n][h][w][3] */
struct cuda_image_args {
    dl_act x;
    uint8_t *u8;
};
int cuda_image(struct CUstream_st *s, const struct cuda_image_args *a);

/* ---- quant.cu ---- */

/* Each pixel's channels quantised as engine/e4m3.h says: q [n][h * w][c], scale [n][h * w]. c a multiple of 16; q on 16
 * bytes. */
struct cuda_quant_args {
    dl_act x;
    uint8_t *q;
    float *scale;
};
int cuda_quant(struct CUstream_st *s, const struct cuda_quant_args *a);

/* ---- made.cu ---- */

/* One part of a weight whose values are made up (engine/weight.h), as a form of the backend: y[i] is element i rounded
 * to `stored` and then to `t`, kept as y_t, which is t or f32. With taps > 1 elements are numbered [out][in][taps] and
 * y is [out][taps][in]. */
struct cuda_made_args {
    struct dl_made made;
    int64_t count;
    int32_t in, taps; /* taps 0 or 1: in is not read */
    int32_t stored, t;
    void *y;
    int32_t y_t;
};
int cuda_made(struct CUstream_st *s, const struct cuda_made_args *a);

/* Rows [rows][in] of it rounded to `stored` and quantised as engine/e4m3.h says: q [rows][in], scale [rows]. in a
 * multiple of 16; q on 16 bytes. */
struct cuda_made_e4m3_args {
    struct dl_made made;
    int64_t rows;
    int32_t in, stored;
    uint8_t *q;
    float *scale;
};
int cuda_made_e4m3(struct CUstream_st *s, const struct cuda_made_e4m3_args *a);

/* ---- rope.cu ---- */

/* As dl_op_rope. y may be x. */
struct cuda_rope_args {
    dl_act x, y;
    int32_t heads;
    const float *gamma[2]; /* [d] or NULL */
    float eps;
    const float *table; /* [t][d / 2][2] or NULL */
};
int cuda_rope(struct CUstream_st *s, const struct cuda_rope_args *a);

/* y[head][q][k] = table[bucket[k - q + queries - 1]][head]. */
struct cuda_rel_bias_args {
    const float *table;    /* [buckets][heads] */
    const int32_t *bucket; /* [queries + keys - 1], dl_rel_bucket of each distance */
    dl_act y;
};
int cuda_rel_bias(struct CUstream_st *s, const struct cuda_rel_bias_args *a);

/* As dl_op_token_mean. */
struct cuda_token_mean_args {
    dl_act x, y;
    const float *pos; /* [c] or NULL */
};
int cuda_token_mean(struct CUstream_st *s, const struct cuda_token_mean_args *a);

/* ---- sched.cu ---- */

/* y[i] = latent[row[i]] / in_div of the step. */
struct cuda_sched_in_args {
    const struct sched_step *steps; /* table's steps, uploaded as they are */
    const int32_t *step;
    dl_act latent, y; /* latent f32 */
    const int32_t *row;
};
int cuda_sched_in(struct CUstream_st *s, const struct cuda_sched_in_args *a);

/* As dl_op_sched_step. Bits are sched_apply's, but for the exponential of a learned variance, which is rounded
 * correctly here. */
struct cuda_sched_step_args {
    const struct sched_step *steps;
    const int32_t *step;
    dl_act eps;
    const int32_t *u_row, *c_row; /* [latent.n]; u_row NULL: no guidance */
    float guidance;
    dl_act latent, history;         /* f32 */
    float threshold, threshold_max; /* the table's; 0: none */
    float *quantile;                /* [latent.n] scratch, with a threshold */
    bool use_var;                   /* channels [C, 2 C) of eps are the learned variance */
    dl_act noise;                   /* f32; p NULL where no step of the table draws */
};
int cuda_sched_step(struct CUstream_st *s, const struct cuda_sched_step_args *a);

/* *step += 1, the last node of a step's graph. */
int cuda_step_next(struct CUstream_st *s, int32_t *step);

/* y = scale * one draw of torch's CUDA generator (engine/rng.h, RNG_TORCH_CUDA) of y's elements in the order
 * [row][channel][y][x], rounded to `type` before the scaling; y channels-last f32. */
struct cuda_noise_args {
    dl_act y;
    uint64_t seed, offset; /* dl_rng's, before the draw */
    int32_t sms, threads_per_sm;
    int32_t type; /* enum dl_type */
    float scale;  /* init_sigma */
};
int cuda_noise(struct CUstream_st *s, const struct cuda_noise_args *a);
uint64_t cuda_noise_advance(const struct cuda_noise_args *a); /* to be added to the offset after the draw */

#ifdef __cplusplus
}
#endif
#endif
