/* cpu_priv.h: what the CPU backend's own files share: its context, weight forms, small helpers, and the reference's
 * entries, to which a variant may hand over the cases that it does not take.
 *
 * Entries receive arguments that engine/op.c has checked and completed (dl_epi.scale, dl_copy.a and dl_conv.stride
 * are never 0). In a dry run an entry touches no memory: it asks for its weight forms, takes and releases the same
 * scratch as later, and returns. Every entry sets r->variant.
 */
#ifndef CPU_PRIV_H
#define CPU_PRIV_H

#include "engine/run.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pool.h"

struct dl_ctx {
    struct dl_backend be; /* what cpu_open hands out; its name, ops and functions */
    struct dl_ops ops;
    int threads;
    bool reference_only;
    struct pool *pool;
    void *onednn;                   /* state of onednn_*.c (engine, stream, primitive cache); NULL until it makes it */
    void (*onednn_close)(void *st); /* frees it; NULL: nothing to free */
};

/* Keys of weight packs (struct dl_pack.key), made with CPU_FORM(form, t). t is the type that the weight is rounded to
 * first: the run's, as PyTorch does with a half-precision model. */
enum cpu_form {
    CPU_FORM_PLAIN = 1,     /* file's order, elements of type t; t = f32 is also the wide form */
    CPU_FORM_WIDE = 2,      /* file's order, f32 elements that were rounded to t */
    CPU_FORM_WIDE_OHWI = 3, /* convolution [out][kh][kw][in], f32 elements that were rounded to t */
    CPU_FORM_E4M3 = 4,      /* matrix: f32 elements that were rounded to e4m3 row by row, then the scales of the rows */
    CPU_FORM_ONEDNN = 16,   /* 16 and above: onednn_*.c's own, see onednn.h */
};
#define CPU_FORM(form, t) ((uint64_t)(form) << 8 | (uint64_t)(t))

/* The weight's pack, ready for use; asks for it in a dry run (and returns NULL then). A NULL outside dry runs has set
 * the run's error. */
const void *cpu_w_plain(struct dl_run *r, struct dl_w *w, int t);
const float *cpu_w_wide(struct dl_run *r, struct dl_w *w, int t);
const float *cpu_w_ohwi(struct dl_run *r, struct dl_w *w, int t);
const float *cpu_w_e4m3(struct dl_run *r, struct dl_w *w); /* [out][in], then [out] */

/* Scratch at the arena's high end; NULL when the arena is full (op.c reports it). */
static inline void *cpu_scratch(struct dl_run *r, int64_t bytes) { return dl_arena_hi(&r->arena, bytes); }

/* Address of pixel `pix` (row-major h, w) of row i. */
static inline void *cpu_at(const dl_act *a, int64_t i, int64_t pix)
{
    return (uint8_t *)a->p + (i * a->rs + pix * a->ld) * dl_type_bytes(a->t);
}

static inline int64_t cpu_pixels(const dl_act *a) { return (int64_t)a->h * a->w; }

/* First element of row i of v in the run's step. v.p must not be NULL. */
static inline const void *cpu_vec_at(const struct dl_run *r, dl_vec v, int64_t i)
{
    return (const uint8_t *)v.p + (r->step * v.ss + i * v.rs) * dl_type_bytes(v.t);
}

/* n elements as f32: the array itself when it is f32, else converted into tmp [n]. */
static inline const float *cpu_f32(const void *p, int t, int64_t n, float *tmp)
{
    if (t == DL_F32) return p;
    dl_convert(tmp, DL_F32, p, t, n);
    return tmp;
}

/* fn of enum dl_fn; by the C library, in double. */
double ref_fn(int fn, double v);

/* An epilogue made ready: weights fetched. */
struct ref_epi {
    const struct dl_epi *e;
    const float *bias; /* [out] or [2 out], f32; NULL: none */
};

/* Fetches what the epilogue needs for a run whose weights are rounded to t; false when something failed. Call it in dry
 * runs too. */
bool ref_epi_open(struct ref_epi *o, struct dl_run *r, const struct dl_epi *e, int t);

/* Finishes sums [out] ([2 out] with glu, first half first) of pixel `pix` of row i and stores channels [from, from + n)
 * of y there; sum[0] belongs to channel `from` (and, with glu, sum2[0]). */
void ref_epi_store(const struct ref_epi *o, const struct dl_run *r, const dl_act *y, int64_t i, int64_t pix,
                   int32_t from, int32_t n, const double *sum, const double *sum2);

void ref_gemm(struct dl_run *, const struct dl_gemm *);
void ref_conv(struct dl_run *, const struct dl_conv *);
void ref_gnorm(struct dl_run *, const struct dl_gnorm *, float *mean_rstd);
void ref_norm(struct dl_run *, const struct dl_norm *);
void ref_lnorm(struct dl_run *, const struct dl_lnorm *);
void ref_attn(struct dl_run *, const struct dl_attn *);
void ref_embed(struct dl_run *, const struct dl_embed *);
void ref_sinus(struct dl_run *, const struct dl_sinus *);
void ref_copy(struct dl_run *, const struct dl_copy *);
void ref_add(struct dl_run *, const struct dl_add *);
void ref_pick(struct dl_run *, const struct dl_pick *);
void ref_rope(struct dl_run *, const struct dl_rope *);
void ref_resize(struct dl_run *, const struct dl_resize *);
void ref_rel_bias(struct dl_run *, const struct dl_rel_bias *);
void ref_token_mean(struct dl_run *, const struct dl_token_mean *);
void ref_sched_in(struct dl_run *, const struct dl_sched_in *);
void ref_sched_step(struct dl_run *, const struct dl_sched_step *);
void ref_image(struct dl_run *, const struct dl_image *);

/* Fills the whole table. */
void ref_init(struct dl_ops *ops);

#endif
