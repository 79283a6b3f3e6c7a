#include "tools/bench/tape.h"

#include "engine/e4m3.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dl_ctx {
    struct tape tape; /* first: a tape's address is its own */
    struct dl_backend be, blank_be;
    struct dl_ops ops, blank_ops;
    struct dl_run account; /* tells what the op log says of one op */
    int64_t memory_bytes;
    int cap;
    void **owned; /* [n_owned] copies of host arrays and weights */
    int n_owned, cap_owned;
    bool failed;
};

const char *tape_phase_name(int phase)
{
    static const char *const name[TAPE_PHASES] = {"text",   "prepare",          "first step", "step",
                                                  "decode", "first step, rest", "step, rest"};
    return phase >= 0 && phase < TAPE_PHASES ? name[phase] : "";
}

/* A copy that lives as long as the tape; NULL (and failed) without memory. */
static void *keep(struct dl_ctx *c, const void *from, size_t bytes)
{
    if (c->n_owned == c->cap_owned) {
        int cap = c->cap_owned ? 2 * c->cap_owned : 256;
        void **more = realloc(c->owned, (size_t)cap * sizeof *more);
        if (!more) return c->failed = true, NULL;
        c->owned = more, c->cap_owned = cap;
    }
    void *p = malloc(bytes ? bytes : 1);
    if (!p) return c->failed = true, NULL;
    memcpy(p, from, bytes);
    return c->owned[c->n_owned++] = p;
}

/* A weight's shape and name, without its values. */
static struct dl_w *keep_weight(struct dl_ctx *c, const struct dl_w *w)
{
    struct dl_w copy = {.nd = w->nd, .n_parts = 1, .name = w->name ? w->name : ""};
    memcpy(copy.dim, w->dim, sizeof copy.dim);
    copy.part[0] = (struct dl_wpart){.rows = w->dim[0], .t = DL_F32};
    copy.name = keep(c, copy.name, strlen(copy.name) + 1);
    return copy.name ? keep(c, &copy, sizeof copy) : NULL;
}

/* Makes a case its own master: host arrays and weights are copied. What a dry run leaves in a row map may be
 * anything, and becomes row 0 where it is out of range. */
static void keep_operands(struct dl_ctx *c, struct tape_case *k)
{
    struct operands o;
    op_operands(k->kind, &k->a, &o);
    for (int i = 0; i < o.n_w; i++) *o.w[i] = keep_weight(c, *o.w[i]);
    for (int i = 0; i < o.n_host; i++) {
        int32_t *row = keep(c, *o.host[i].p, (size_t)o.host[i].bytes);
        for (int64_t j = 0; row && o.host[i].rows && j < o.host[i].bytes / 4; j++)
            if (row[j] < 0 || row[j] >= o.host[i].rows) row[j] = 0;
        *o.host[i].p = row;
    }
}

/* What the op log says of this op. */
static const struct dl_log *account_of(struct dl_ctx *c, enum op_kind kind, const union op_args *a, uint8_t t)
{
    struct dl_run *r = &c->account;
    r->e4m3 = t == DL_E4M3, r->t = r->e4m3 ? (uint8_t)DL_BF16 : t;
    dl_run_dry(r);
    op_call(r, kind, a, NULL);
    return dl_run_ok(r) && r->n_log == 1 ? r->log : NULL;
}

static struct tape_case *find(struct dl_ctx *c, enum op_kind kind, uint8_t t, const struct dl_log *l)
{
    for (int i = 0; i < c->tape.n; i++) {
        struct tape_case *k = &c->tape.c[i];
        if (k->kind == kind && k->phase == c->tape.phase && k->run_t == t && k->flops == l->flops &&
            k->bytes == l->bytes && !strcmp(k->shape, l->shape))
            return k;
    }
    return NULL;
}

/* So that plans know the weights' size. */
static int never(struct dl_pack *p, const struct dl_w *w, void *arg, struct dl_err *e)
{
    (void)p, (void)arg;
    return dl_fail(e, DL_EFAIL, "weight %s: a tape has no weights", w->name);
}

static void want_weights(struct dl_run *r, enum op_kind kind, union op_args *a)
{
    struct operands o;
    op_operands(kind, a, &o);
    for (int i = 0; i < o.n_w; i++) {
        struct dl_w *w = *o.w[i];
        uint64_t key = r->t;
        if (w->set && !dl_w_pack(w, key) && !dl_w_want(w, key, dl_w_count(w) * dl_type_bytes(r->t), never, NULL, NULL))
            dl_fail(&r->err, DL_ENOMEM, "no memory for the forms of weight %s", w->name);
    }
}

static void record(struct dl_run *r, enum op_kind kind, const void *args)
{
    struct dl_ctx *c = r->ctx;
    struct tape *t = &c->tape;
    union op_args a;
    memset(&a, 0, sizeof a);
    memcpy(&a, args, op_size(kind));
    r->variant = "tape";
    if (!dl_run_is_dry(r)) {
        dl_fail(&r->err, DL_EFAIL, "op %s: a tape computes nothing", op_name(kind));
        return;
    }
    want_weights(r, kind, &a);
    if (t->phase == TAPE_OFF) return;
    uint8_t type = kind == OP_GEMM && dl_e4m3_takes(r, &a.gemm) ? (uint8_t)DL_E4M3 : r->t;
    const struct dl_log *l = account_of(c, kind, &a, type);
    if (!l) {
        c->failed = true;
        return;
    }
    struct tape_case *k = find(c, kind, type, l);
    if (k) {
        k->count++;
        return;
    }
    if (t->n == c->cap) {
        int cap = c->cap ? 2 * c->cap : 128;
        struct tape_case *more = realloc(t->c, (size_t)cap * sizeof *more);
        if (!more) {
            c->failed = true;
            return;
        }
        t->c = more, c->cap = cap;
    }
    k = &t->c[t->n++];
    *k = (struct tape_case){.kind = kind,
                            .phase = (int8_t)t->phase,
                            .run_t = type,
                            .count = 1,
                            .flops = l->flops,
                            .bytes = l->bytes,
                            .a = a};
    memcpy(k->shape, l->shape, sizeof k->shape);
    keep_operands(c, k);
}

#define ENTRY(name, KIND)                                                                                              \
    static void rec_##name(struct dl_run *r, const struct dl_##name *a) { record(r, KIND, a); }                        \
    static void blank_##name(struct dl_run *r, const struct dl_##name *a) { (void)r, (void)a; }

ENTRY(gemm, OP_GEMM)
ENTRY(conv, OP_CONV)
ENTRY(norm, OP_NORM)
ENTRY(lnorm, OP_LNORM)
ENTRY(attn, OP_ATTN)
ENTRY(embed, OP_EMBED)
ENTRY(sinus, OP_SINUS)
ENTRY(copy, OP_COPY)
ENTRY(add, OP_ADD)
ENTRY(pick, OP_PICK)
ENTRY(rope, OP_ROPE)
ENTRY(resize, OP_RESIZE)
ENTRY(rel_bias, OP_REL_BIAS)
ENTRY(token_mean, OP_TOKEN_MEAN)
ENTRY(sched_in, OP_SCHED_IN)
ENTRY(sched_step, OP_SCHED_STEP)
ENTRY(image, OP_IMAGE)

static void rec_gnorm(struct dl_run *r, const struct dl_gnorm *a, float *mean_rstd)
{
    (void)mean_rstd;
    record(r, OP_GNORM, a);
}

static void blank_gnorm(struct dl_run *r, const struct dl_gnorm *a, float *mean_rstd)
{
    (void)r, (void)a, (void)mean_rstd;
}

#define TABLE(kind)                                                                                                    \
    (struct dl_ops)                                                                                                    \
    {                                                                                                                  \
        .gemm = kind##_gemm, .conv = kind##_conv, .gnorm = kind##_gnorm, .norm = kind##_norm, .lnorm = kind##_lnorm,   \
        .attn = kind##_attn, .embed = kind##_embed, .sinus = kind##_sinus, .copy = kind##_copy, .add = kind##_add,     \
        .pick = kind##_pick, .rope = kind##_rope, .resize = kind##_resize, .rel_bias = kind##_rel_bias,                \
        .token_mean = kind##_token_mean, .sched_in = kind##_sched_in, .sched_step = kind##_sched_step,                 \
        .image = kind##_image                                                                                          \
    }

static int no_memory(struct dl_ctx *c, int64_t bytes, void **p, struct dl_err *e)
{
    (void)c, (void)p;
    return dl_fail(e, DL_EFAIL, "a tape has no memory to compute in (%lld bytes were asked for)", (long long)bytes);
}

static void no_free(struct dl_ctx *c, void *p) { (void)c, (void)p; }

static int no_move(struct dl_ctx *c, void *dst, const void *src, int64_t bytes, struct dl_err *e)
{
    (void)dst, (void)src;
    return no_memory(c, bytes, NULL, e);
}

static int no_sync(struct dl_ctx *c, struct dl_err *e)
{
    (void)c, (void)e;
    return 0;
}

static int64_t free_bytes(struct dl_ctx *c) { return c->memory_bytes; }

static bool supports(struct dl_ctx *c, int type)
{
    (void)c, (void)type;
    return true;
}

/* Plans are made as for a device with memory of its own; nothing is ever loaded. */
static const struct dl_lane_ops lanes = {.workers = 1};

int tape_open(struct tape **out, int64_t memory_bytes, bool parts, struct dl_err *e)
{
    struct dl_ctx *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return dl_fail(e, DL_ENOMEM, "no memory for a list of ops");
    c->memory_bytes = memory_bytes;
    c->ops = TABLE(rec), c->blank_ops = TABLE(blank);
    c->be = (struct dl_backend){.name = "tape",
                                .ops = &c->ops,
                                .parts = parts,
                                .alloc = no_memory,
                                .free = no_free,
                                .upload = no_move,
                                .download = no_move,
                                .sync = no_sync,
                                .free_bytes = free_bytes,
                                .supports = supports,
                                .lanes = &lanes};
    c->blank_be = c->be;
    c->blank_be.ops = &c->blank_ops;
    dl_run_open(&c->account, &c->blank_be, c, DL_F32);
    c->account.log_on = true;
    c->tape = (struct tape){.be = &c->be, .ctx = c, .phase = TAPE_OFF};
    *out = &c->tape;
    return 0;
}

void tape_close(struct tape *t)
{
    if (!t) return;
    struct dl_ctx *c = t->ctx;
    for (int i = 0; i < c->n_owned; i++) free(c->owned[i]);
    free(c->owned);
    free(c->tape.c);
    dl_run_close(&c->account);
    free(c);
}

int tape_check(const struct tape *t, struct dl_err *e)
{
    return t->ctx->failed ? dl_fail(e, DL_ENOMEM, "no memory for a list of ops") : 0;
}

struct tape_sum tape_sum_of(const struct tape *t, int phase)
{
    struct tape_sum s = {0};
    for (int i = 0; i < t->n; i++) {
        const struct tape_case *k = &t->c[i];
        if (k->phase != phase) continue;
        s.ops += k->count, s.flops += k->count * k->flops, s.bytes += k->count * k->bytes;
    }
    return s;
}
