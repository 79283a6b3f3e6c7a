/* operand.h: an op of engine/op.h as a value, and one list of all that it refers to.
 *
 * Recording an op, giving it fresh memory and holding its result against a reference all have to walk its operands;
 * this list is the one place that knows the fields of each op's struct.
 */
#ifndef BENCH_OPERAND_H
#define BENCH_OPERAND_H

#include "engine/run.h"

enum op_kind {
    OP_GEMM,
    OP_CONV,
    OP_GNORM,
    OP_NORM,
    OP_LNORM,
    OP_ATTN,
    OP_EMBED,
    OP_SINUS,
    OP_COPY,
    OP_ADD,
    OP_PICK,
    OP_ROPE,
    OP_RESIZE,
    OP_REL_BIAS,
    OP_TOKEN_MEAN,
    OP_SCHED_IN,
    OP_SCHED_STEP,
    OP_IMAGE,
    OP_KINDS
};

union op_args {
    struct dl_gemm gemm;
    struct dl_conv conv;
    struct dl_gnorm gnorm;
    struct dl_norm norm;
    struct dl_lnorm lnorm;
    struct dl_attn attn;
    struct dl_embed embed;
    struct dl_sinus sinus;
    struct dl_copy copy;
    struct dl_add add;
    struct dl_pick pick;
    struct dl_rope rope;
    struct dl_resize resize;
    struct dl_rel_bias rel_bias;
    struct dl_token_mean token_mean;
    struct dl_sched_in sched_in;
    struct dl_sched_step sched_step;
    struct dl_image image;
};

/* "gemm", "conv", ... as the op log names them. */
const char *op_name(enum op_kind kind);
size_t op_size(enum op_kind kind); /* of its struct */

/* Calls dl_op_<kind>. What it takes at the arena's high end is the caller's to release; the statistics of a gnorm are
 * returned in *stat (may be NULL). */
void op_call(struct dl_run *r, enum op_kind kind, const union op_args *a, struct dl_stat *stat);

/* Values of a block of backend memory that is no activation. */
enum op_block {
    BLOCK_STATS,  /* f32 [n][groups][2] */
    BLOCK_ANGLES, /* f32 cos, sin pairs */
    BLOCK_PIXELS, /* u8 */
    BLOCK_PARTS,  /* of an activation */
};

/* Everything that `a` refers to: pointers into *a. Absent operands (NULL pointers) are not listed. */
struct operands {
    struct {
        dl_act *a;
        bool out;     /* written */
        dl_act *twin; /* may lie at the same place (in place, or a residual that is the output) */
    } act[8];
    struct {
        dl_vec *v;
        int64_t count; /* elements that one step reads, from p on */
    } vec[6];
    struct dl_w **w[6];
    struct {
        const void **p; /* host memory */
        int64_t bytes;
        int32_t rows; /* an array of int32 indices below this; 0: anything else */
    } host[3];
    struct {
        const void **p; /* backend memory */
        int64_t bytes;
        enum op_block what;
        bool out;
    } block[2];
    int n_act, n_vec, n_w, n_host, n_block;
};

void op_operands(enum op_kind kind, union op_args *a, struct operands *o);

#endif
