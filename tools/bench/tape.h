/* tape.h: which ops a program runs, recorded from its dry run.
 *
 * A tape is a backend whose ops write themselves down and compute nothing. Any model program run dry on it leaves its
 * ops there, equal ones counted together, each with copies of all that its arguments refer to, so that a case outlives
 * the model and can be run alone on another backend (case.h). Ops are told apart by what the op log says of them:
 * kind, shape, FLOPs and bytes.
 *
 * Nothing here belongs to a device: shapes, FLOPs and bytes are those of engine/op.c, and the weights that a program
 * asks for count in the run's type. So a tape serves predictions for machines that are not there.
 */
#ifndef BENCH_TAPE_H
#define BENCH_TAPE_H

#include "tools/bench/operand.h"

/* What a program is for; where ops are counted. */
enum tape_phase {
    TAPE_OFF = -1,   /* nothing is recorded */
    TAPE_TEXT,       /* the encoders, once per prompt */
    TAPE_PREPARE,    /* what depends on steps or conditions alone, once */
    TAPE_FIRST,      /* a batch's first step, where images share work */
    TAPE_STEP,       /* any other step */
    TAPE_DECODE,     /* one image */
    TAPE_REST_FIRST, /* the two kinds of step for the last, smaller batch */
    TAPE_REST_STEP,
    TAPE_PHASES
};

const char *tape_phase_name(int phase); /* "step" */

struct tape_case {
    enum op_kind kind;
    int8_t phase;
    uint8_t run_t;        /* enum dl_type of the run; DL_E4M3 for the products that it does in e4m3 alone */
    int count;            /* in the phase */
    int64_t flops, bytes; /* of one */
    char shape[120];      /* as in the op log */
    union op_args a;      /* weights, host arrays: the tape's own copies; device addresses: those of the dry run */
};

struct tape {
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    int phase;           /* enum tape_phase of what is recorded now; TAPE_OFF at first */
    struct tape_case *c; /* [n], in the order of their first occurrence */
    int n;
};

/* memory_bytes: what the backend says is free; plans are made to fit it. parts: as in struct dl_backend. */
int tape_open(struct tape **t, int64_t memory_bytes, bool parts, struct dl_err *e);
void tape_close(struct tape *t); /* NULL is fine */

/* Memory that ran out while recording, or 0. */
int tape_check(const struct tape *t, struct dl_err *e);

/* Sums over a phase. */
struct tape_sum {
    int64_t ops, flops, bytes;
};
struct tape_sum tape_sum_of(const struct tape *t, int phase);

#endif
