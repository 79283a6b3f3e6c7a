/* op.h: the op contract, what models are written in and what backends implement.
 *
 * A model phase is a C function that calls these ops one after the other. Each dl_op_* checks its arguments, adds the
 * op to the run's account (FLOPs, bytes, log) and calls the backend's entry in struct dl_ops. The same calls happen in
 * a dry run, where pointers are arena addresses with nothing behind them: an entry then only chooses its variant, asks
 * for the weight forms that it needs (dl_w_want) and takes its scratch from the arena.
 *
 * Conventions
 * - Activations are channels-last, struct dl_act; a UNet's tokens are its pixels. `ld` may exceed `c`, so an output can
 *   be placed inside a wider buffer (concat) and q, k, v may be columns of one matrix.
 * - Fusion is declared in the arguments. A backend may run it as several passes, and never fuses what is not declared.
 * - Row i of a result is the same, bit for bit on the CPU, whatever the other rows and the batch are.
 * - Ops return nothing. A wrong shape or a failing backend sets the run's sticky error, which names op and shapes, and
 *   every later op of the run returns at once.
 * - Sums are accumulated in f32 (or better) whatever the storage type; the result is rounded once, at the end.
 */
#ifndef DL_OP_H
#define DL_OP_H

#include "engine/type.h"
#include "engine/weight.h"

#include <stdbool.h>
#include <stdint.h>

struct dl_run;
struct sched_table; /* engine/sched.h */

enum { DL_PART_PIXELS = 32 };

/* Activation [n][h][w][c]; a plain value that owns nothing.
 *
 * parts: partial statistics beside it, for the group norm that will read it: mean and sum of squared deviations of each
 * channel over each set of DL_PART_PIXELS pixels, of the values as stored, f32 [n][h w / DL_PART_PIXELS][ld][2]. The
 * sets divide an image's pixels; how, is up to the op that writes them, and channels that two ops write may be divided
 * in two ways. An op that writes an activation with parts writes these as well: gemm, conv and copy do, the others
 * refuse it. They take 1/8 of the memory of a 16-bit activation, so only what is normed has them. */
typedef struct {
    void *p;      /* arena address; NULL: absent */
    int32_t n;    /* rows (images) */
    int32_t h, w; /* pixels; tokens have h = 1 */
    int32_t c;    /* channels */
    int32_t ld;   /* elements from pixel to pixel, >= c */
    int64_t rs;   /* elements from row to row */
    uint8_t t;    /* enum dl_type */
    float *parts; /* backend memory; NULL: none */
} dl_act;

/* A vector of channels for each row [n][c], perhaps out of a table of all steps: element j of row i in step s is at
 * p + s * ss + i * rs + j. rs = 0: the same for all rows; ss = 0: the same in all steps. */
typedef struct {
    const void *p; /* NULL: absent */
    int64_t rs, ss;
    uint8_t t;
} dl_vec;

enum dl_fn { DL_NONE, DL_SILU, DL_GELU /* erf */, DL_GELU_TANH, DL_QUICK_GELU /* x sigmoid(1.702 x) */ };

/* What happens to a GEMM's or convolution's sum before it is stored, in this order:
 * + bias, fn (or GLU), + add, * gate, + res, * scale. */
struct dl_epi {
    struct dl_w *bias; /* [out] ([2 out] with glu), or NULL */
    uint8_t fn;        /* enum dl_fn */
    bool glu;          /* the weight has 2 out rows: y = (first half) * fn(second half); diffusers' GEGLU order */
    dl_vec add;        /* [n][out], e.g. the time embedding's row */
    dl_vec gate;       /* [n][out], e.g. adaLN's gate */
    dl_act res;        /* residual of y's shape; may be y itself */
    float scale;       /* 0 means 1 */
};

/* y[n][pixel][out] = epi(x[n][pixel][in] . w^T), w [out, in] or [out, in, 1, 1]. */
struct dl_gemm {
    dl_act x, y;
    struct dl_w *w;
    struct dl_epi e;
    bool fine; /* not to be done in e4m3: where a network begins and ends */
};

/* Statistics of a group norm over x, made by dl_op_gnorm and consumed by dl_op_conv (.pre) or dl_op_norm: y = fn((x -
 * mean) * rstd * gamma + beta), then * (1 + scale) + shift before fn where these are given. */
struct dl_stat {
    const float *mean_rstd; /* [n][groups][2], f32, backend memory; NULL: no norm */
    int32_t groups;
    struct dl_w *gamma, *beta; /* [c] */
    dl_vec scale, shift;       /* [n][c]; IF's scale_shift */
};

struct dl_gnorm {
    dl_act x; /* with parts: these may be read in its place */
    int32_t groups;
    float eps;
    struct dl_w *gamma, *beta;
    dl_vec scale, shift;
};

/* y = fn(normalised x), materialised; x's shape, its own pitch. y may be x. */
struct dl_norm {
    dl_act x, y;
    struct dl_stat s;
    uint8_t fn;
};

/* Convolution k x k (1 or 3), zero padding k/2, stride 1 or 2: y[n][h/stride][w/stride][out]. With `up`, x is first
 * enlarged to y's h and w by nearest neighbour (source row = floor(i * x.h / y.h)). With `pre`, x is first normalised
 * and passed through pre_fn; the zero padding comes after that. w [out, in, k, k] (k = 1 also [out, in]). */
struct dl_conv {
    dl_act x, y;
    struct dl_w *w;
    int32_t k, stride; /* stride 0 means 1 */
    bool up;
    struct dl_stat pre;
    uint8_t pre_fn;
    struct dl_epi e; /* no glu */
};

/* Layer norm over c: y = (x - mean) / sqrt(var + eps) * gamma + beta, then * (1 + scale) + shift (adaLN). gamma and
 * beta may be NULL. With rms: y = x / sqrt(mean(x^2) + eps) * gamma (T5, q/k norms). */
struct dl_lnorm {
    dl_act x, y;
    struct dl_w *gamma, *beta;
    float eps;
    bool rms;
    dl_vec scale, shift;
};

/* y[i][tq][heads d] = softmax(scale q k^T + bias, masked) v, each head by itself; q, k, v hold head h in channels
 * [h d, (h+1) d). Row i of q uses row kv_row[i] of k and v; kv_row == NULL: row i (k.n == q.n), or row 0 (k.n == 1).
 * The host array kv_row [q.n] must stay valid while the run executes. */
struct dl_attn {
    dl_act q, k, v, y;
    int32_t heads;
    float scale;
    bool causal;             /* key j takes part in query i only if j <= i */
    dl_act bias;             /* n = heads, w = tk, h = tq, c = 1: f32, added to the scores (T5); absent: none */
    const uint8_t *key_mask; /* [k.n][tk] host bytes, 0 = masked; NULL: none */
    const int32_t *kv_row;
};

/* y[n][1][tokens][c] = table[ids[n][token]] + pos[token]; ids are host memory, checked against the table. pos may be
 * NULL. */
struct dl_embed {
    const int32_t *ids;
    dl_act y;
    struct dl_w *table, *pos; /* [vocab, c], [positions, c] */
};

/* Sinusoids of timesteps (Ho et al. 2020; diffusers' get_timestep_embedding): y[i][1][1][c], half = c / 2,
 * angle = t[i] * exp(-ln(10000) j / (half - shift)); [cos | sin] with flip, else [sin | cos]. t is host memory [n]. */
struct dl_sinus {
    const float *t;
    dl_act y;
    bool flip;
    float shift;
};

/* y[i] = x[row[i]] * a + b, with conversion of type and pitch; fn last. row == NULL: row i, or row 0 when x.n == 1. row
 * is host memory [y.n]. Serves as the expansion of shared rows, as activation and as scaling. Where y has parts, x has
 * them too, and nothing but pitch and rows may differ. */
struct dl_copy {
    dl_act x, y;
    const int32_t *row;
    float a, b; /* a == 0 means 1 */
    uint8_t fn;
};

/* y = a + b, all of one shape, each with its own type. */
struct dl_add {
    dl_act a, b, y;
};

/* y[i] [1][1][c] = row row[i] of a table of vectors in this step: table.p + step * table.ss + row[i] * table.rs, with
 * conversion of type. row is host memory [y.n]; how many rows the table has is the caller's to know. */
struct dl_pick {
    dl_vec table;
    const int32_t *row;
    dl_act y;
};

/* RMS norm of each head (where gamma is given), then rotary positions: x, y [n][1][t][heads * d]. gamma[0] [d] serves
 * the first half of the heads and gamma[1] the second (q and k side by side); gamma[1] NULL: gamma[0] serves all;
 * gamma[0] NULL: no norm. table f32 [t][d / 2][2] (cos, sin) in backend memory, the same for all rows; NULL: no
 * rotation. Pairs are neighbours: (x[2j], x[2j + 1]) become (x0 cos - x1 sin, x1 cos + x0 sin). y may be x. A span of
 * tokens takes the table from its first token on. "RoFormer" (2104.09864); diffusers' apply_rotary_emb, FLUX's form. */
struct dl_rope {
    dl_act x, y;
    int32_t heads;
    struct dl_w *gamma[2];
    float eps; /* of the norm */
    const float *table;
};

enum dl_resize_kind {
    DL_RESIZE_NEAREST, /* source row = floor(i * x.h / y.h), columns alike; to any size */
    DL_RESIZE_MEAN2,   /* mean of 2 x 2 pixels, y.h = floor(x.h / 2), y.w alike */
};

/* y [n][h'][w'][c] = x [n][h][w][c] in another size; y is not x. */
struct dl_resize {
    dl_act x, y;
    uint8_t kind; /* enum dl_resize_kind */
};

/* T5's relative position bias, bidirectional: y[head][q][k] = table[dl_rel_bucket(k - q)][head], table [buckets,
 * heads]. y: n = heads, h = queries, w = keys, c = 1, f32, which is what struct dl_attn takes as its bias. */
struct dl_rel_bias {
    struct dl_w *table;
    int32_t max_distance;
    dl_act y;
};

/* y[i] [1][1][c] = mean over all tokens of x[i] [h][w][c], + pos [c] where given (IF's attention pooling). */
struct dl_token_mean {
    dl_act x, y;
    struct dl_w *pos; /* or NULL */
};

/* The network's input of this step: y[i] = latent[row[i]] * in_scale(step). */
struct dl_sched_in {
    const struct sched_table *table;
    dl_act latent; /* f32 [images] */
    dl_act y;
    const int32_t *row; /* host [y.n] */
};

/* Guidance and one scheduler step, in place: e = u + guidance * (c - u), u = eps[u_row[i]], c = eps[c_row[i]] (u_row
 * NULL: no guidance, e = c), then the step's update of latent[i] and of the history that the scheduler needs, with
 * dynamic threshold, learned variance and noise where the table has them: engine/sched.h says what a step is. eps has
 * at least C channels, 2 C where the table uses a learned variance (the second C, of the conditional row). */
struct dl_sched_step {
    const struct sched_table *table;
    dl_act eps;                   /* the network's output, any rows */
    const int32_t *u_row, *c_row; /* host [latent.n] */
    float guidance;
    dl_act latent;  /* f32 */
    dl_act history; /* f32, n = latent.n * table's slots, slot-major: slot k of image i is row k * latent.n + i; p NULL
                       when none */
    dl_act noise;   /* f32, latent's shape, standard normal: for steps that draw (struct sched_step.draws); p NULL where
                       there is none. A recorded program gives it in every step. */
};

/* u8[n][h][w][3] = round(255 clamp(x / 2 + 1/2, 0, 1)), half to even; x has at least 3 channels. */
struct dl_image {
    dl_act x;
    uint8_t *u8; /* backend memory */
};

/* Adds up what the run's rows need; each entry is called with checked arguments, in dry runs as well. */
struct dl_ops {
    void (*gemm)(struct dl_run *, const struct dl_gemm *);
    void (*conv)(struct dl_run *, const struct dl_conv *);
    void (*gnorm)(struct dl_run *, const struct dl_gnorm *, float *mean_rstd /* [n][groups][2] */);
    void (*norm)(struct dl_run *, const struct dl_norm *);
    void (*lnorm)(struct dl_run *, const struct dl_lnorm *);
    void (*attn)(struct dl_run *, const struct dl_attn *);
    void (*embed)(struct dl_run *, const struct dl_embed *);
    void (*sinus)(struct dl_run *, const struct dl_sinus *);
    void (*copy)(struct dl_run *, const struct dl_copy *);
    void (*add)(struct dl_run *, const struct dl_add *);
    void (*pick)(struct dl_run *, const struct dl_pick *);
    void (*rope)(struct dl_run *, const struct dl_rope *);
    void (*resize)(struct dl_run *, const struct dl_resize *);
    void (*rel_bias)(struct dl_run *, const struct dl_rel_bias *);
    void (*token_mean)(struct dl_run *, const struct dl_token_mean *);
    void (*sched_in)(struct dl_run *, const struct dl_sched_in *);
    void (*sched_step)(struct dl_run *, const struct dl_sched_step *);
    void (*image)(struct dl_run *, const struct dl_image *);
};

void dl_op_gemm(struct dl_run *r, struct dl_gemm a);
void dl_op_conv(struct dl_run *r, struct dl_conv a);
/* The statistics live at the arena's high end until the caller's mark is released. */
struct dl_stat dl_op_gnorm(struct dl_run *r, struct dl_gnorm a);
void dl_op_norm(struct dl_run *r, struct dl_norm a);
void dl_op_lnorm(struct dl_run *r, struct dl_lnorm a);
void dl_op_attn(struct dl_run *r, struct dl_attn a);
void dl_op_embed(struct dl_run *r, struct dl_embed a);
void dl_op_sinus(struct dl_run *r, struct dl_sinus a);
void dl_op_copy(struct dl_run *r, struct dl_copy a);
void dl_op_add(struct dl_run *r, struct dl_add a);
void dl_op_pick(struct dl_run *r, struct dl_pick a);
void dl_op_rope(struct dl_run *r, struct dl_rope a);
void dl_op_resize(struct dl_run *r, struct dl_resize a);
void dl_op_rel_bias(struct dl_run *r, struct dl_rel_bias a);
void dl_op_token_mean(struct dl_run *r, struct dl_token_mean a);
void dl_op_sched_in(struct dl_run *r, struct dl_sched_in a);
void dl_op_sched_step(struct dl_run *r, struct dl_sched_step a);
void dl_op_image(struct dl_run *r, struct dl_image a);

/* T5's bucket of the distance key - query, in [0, buckets): half of the buckets for each direction, of which half are
 * exact and the rest grow with the logarithm up to max_distance; in f32 as transformers has it. buckets: a multiple of
 * 4, max_distance > buckets / 4. */
int32_t dl_rel_bucket(int32_t distance, int32_t buckets, int32_t max_distance);

/* Activations from the run's arena, contiguous: low end, high end. In case of failure p is NULL and the run's error
 * set. */
dl_act dl_act_lo(struct dl_run *r, int t, int32_t n, int32_t h, int32_t w, int32_t c);
dl_act dl_act_hi(struct dl_run *r, int t, int32_t n, int32_t h, int32_t w, int32_t c);
/* A contiguous activation over memory that the caller has. */
dl_act dl_act_at(void *p, int t, int32_t n, int32_t h, int32_t w, int32_t c);
/* Channels [from, from + c) of a; rows [from, from + n) of a. */
dl_act dl_act_cols(dl_act a, int32_t from, int32_t c);
dl_act dl_act_rows(dl_act a, int32_t from, int32_t n);
/* The same memory seen as tokens [n][1][h*w][c], and as pixels. */
dl_act dl_act_tokens(dl_act a);
dl_act dl_act_pixels(dl_act a, int32_t h, int32_t w);
int64_t dl_act_bytes(dl_act a); /* from the first element to the last */

/* The same with parts from the run's arena, low end, high end: where the backend makes them and an image's pixels fall
 * into whole sets (dl_parts_wanted); else without. */
bool dl_parts_wanted(const struct dl_run *r, const dl_act *a);
dl_act dl_parts_lo(struct dl_run *r, dl_act a);
dl_act dl_parts_hi(struct dl_run *r, dl_act a);
dl_act dl_parts_none(dl_act a);   /* the same without */
int64_t dl_parts_bytes(dl_act a); /* from the first part to the last */

#endif
