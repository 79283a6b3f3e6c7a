/* case.h: one recorded op on fresh memory of a backend, alone.
 *
 * Every operand gets memory and values of its own, the same on every backend: activations of variance 1, matrices of
 * variance 1 / fan in, outputs poisoned with NaN. Operands that lay at one place (in place, a residual that is the
 * output) do so again. `sets` copies of all that take turns, so that a timing loop can go round a working set larger
 * than the caches.
 */
#ifndef BENCH_CASE_H
#define BENCH_CASE_H

#include "tools/bench/tape.h"

enum case_values {
    CASE_SIGNED,
    CASE_MAGNITUDES, /* the absolute values of the same: for error bounds */
    CASE_ABS_V,      /* attention's v alone is made positive */
};

struct case_set {
    union op_args a;
    struct dl_w w[6];
    struct dl_wset weights;
    void *mem; /* backend memory of all operands */
};

struct case_run {
    const struct tape_case *k; /* borrowed */
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct dl_run run;
    struct case_set *set;
    int n_sets;
    void *image; /* [set_bytes] host: what every set's memory holds at first */
    int64_t set_bytes;
    void *host_w[6]; /* values of the weights, shared by the sets */
    void *scratch;
    int64_t scratch_bytes;
    struct dl_stat stat; /* of the latest gnorm */
    const char *variant; /* as the backend chose */
};

/* On failure everything is closed. */
int case_open(struct case_run *c, const struct tape_case *k, const struct dl_backend *be, struct dl_ctx *ctx, int sets,
              enum case_values values, struct dl_err *e);
/* One set of operands alone, to cut parts from: no forms of the weights, nothing that could be run. */
int case_operands(struct case_run *c, const struct tape_case *k, const struct dl_backend *be, struct dl_ctx *ctx,
                  enum case_values values, struct dl_err *e);
void case_close(struct case_run *c); /* zeroed is fine */

/* Runs the op on set i, eagerly; a backend with a queue may not be done. */
int case_once(struct case_run *c, int i, struct dl_err *e);
/* The same inside a recording or a sequence of ops: no error is fetched, memory is taken and released. */
void case_enqueue(struct case_run *c, int i);

/* Sets that make more than `bytes` of traffic in one round, within 1..512: what moves less than a 512th of it is timed
 * partly in the cache. */
int case_sets_for(const struct tape_case *k, int64_t bytes);

/* A case that no model has: a plain product x [1][1][m][k] . w [n][k], and a copy of [1][1][m][n]. *w is used. */
struct tape_case case_gemm(struct dl_w *w, int type, int64_t m, int64_t n, int64_t k);
struct tape_case case_copy(int type, int64_t m, int64_t n);

#endif
