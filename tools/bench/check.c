#include "tools/bench/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { C_ACC = 32, QUERIES = 64 };
static const double u_acc = 0x1p-24, flops_most = 6e7; /* of one reference run */

static double u_of(int t) { return t == DL_F32 ? 0x1p-24 : t == DL_F16 ? 0x1p-11 : 0x1p-8; }

/* A part of a case's operands, as arguments that compute that part alone on host memory. */
struct part {
    union op_args a;
    struct dl_w w[2]; /* channels of weight and bias */
    dl_act y;         /* of a.*.y: own contiguous memory */
    dl_act place;     /* where it lies in the whole output */
};

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

/* Output channels [from, from + n) of a weight whose first dimension is channels (twice, with glu). */
static struct dl_w *slice_weight(struct dl_w *to, const struct dl_w *w, int32_t channels, bool glu, int32_t from,
                                 int32_t n)
{
    int64_t row = dl_w_count(w) / w->dim[0] * dl_type_bytes(w->part[0].t);
    const uint8_t *p = w->part[0].file;
    *to = (struct dl_w){.nd = w->nd, .n_parts = glu ? 2 : 1};
    memcpy(to->dim, w->dim, sizeof to->dim);
    to->dim[0] = glu ? 2 * n : n;
    for (int i = 0; i < to->n_parts; i++)
        to->part[i] = (struct dl_wpart){.file = p + ((int64_t)i * channels + from) * row, .rows = n, .t = w->part[0].t};
    return to;
}

static dl_vec vec_from(dl_vec v, int32_t from)
{
    if (v.p) v.p = (const uint8_t *)v.p + (int64_t)from * dl_type_bytes(v.t);
    return v;
}

static void slice_epilogue(struct part *p, struct dl_epi *e, int32_t channels, int32_t from, int32_t n)
{
    if (e->bias) e->bias = slice_weight(&p->w[1], e->bias, channels, e->glu, from, n);
    e->add = vec_from(e->add, from), e->gate = vec_from(e->gate, from);
    if (e->res.p) e->res = dl_act_cols(e->res, from, n);
}

/* How many of c output channels the reference can afford, each of so many FLOPs; the middle ones, whole units. */
static int32_t affordable(int64_t flops, int32_t c, int32_t unit, int32_t *from)
{
    int32_t n = (int32_t)(flops_most / ((double)flops / c + 1)) / unit * unit;
    n = n < unit ? smaller(unit, c) : smaller(n, c);
    *from = (c - n) / 2;
    return n;
}

/* The part of k on set 0 of `c`, with own memory for y, which is the caller's to free. */
static int cut(struct part *p, const struct case_run *c, struct dl_err *e)
{
    const struct tape_case *k = c->k;
    int32_t from = 0, n;
    p->a = c->set[0].a;
    dl_act *y;
    if (k->kind == OP_GEMM) {
        struct dl_gemm *g = &p->a.gemm;
        int32_t channels = g->y.c;
        n = affordable(k->flops, channels, k->run_t == DL_E4M3 ? 32 : 1 /* fewer would be done in bf16 */, &from);
        g->w = slice_weight(&p->w[0], g->w, channels, g->e.glu, from, n);
        slice_epilogue(p, &g->e, channels, from, n);
        y = &g->y;
        p->place = dl_act_cols(*y, from, n);
    } else if (k->kind == OP_CONV) {
        struct dl_conv *g = &p->a.conv;
        n = affordable(k->flops, g->y.c, 1, &from);
        g->w = slice_weight(&p->w[0], g->w, g->y.c, false, from, n);
        slice_epilogue(p, &g->e, g->y.c, from, n);
        y = &g->y;
        p->place = dl_act_cols(*y, from, n);
    } else {
        struct dl_attn *g = &p->a.attn;
        int32_t d = g->q.c / g->heads, head = g->heads / 2, row = g->q.n - 1, tq = g->q.h * g->q.w,
                tk = g->k.h * g->k.w;
        int32_t kv = g->kv_row ? g->kv_row[row] : g->k.n == 1 ? 0 : row, nq = smaller(tq, QUERIES);
        from = g->causal ? 0 : (tq - nq) / 2;
        dl_act q = dl_act_cols(dl_act_rows(dl_act_tokens(g->q), row, 1), head * d, d);
        q.p = (uint8_t *)q.p + (int64_t)from * q.ld * dl_type_bytes(q.t), q.w = nq;
        p->place = dl_act_cols(dl_act_rows(dl_act_tokens(g->y), row, 1), head * d, d);
        p->place.p = (uint8_t *)p->place.p + (int64_t)from * p->place.ld * dl_type_bytes(p->place.t), p->place.w = nq;
        g->q = q;
        g->k = dl_act_cols(dl_act_rows(dl_act_tokens(g->k), kv, 1), head * d, d);
        g->v = dl_act_cols(dl_act_rows(dl_act_tokens(g->v), kv, 1), head * d, d);
        if (g->bias.p) {
            g->bias = dl_act_rows(g->bias, head, 1);
            g->bias.p = (uint8_t *)g->bias.p + (int64_t)from * g->bias.w * g->bias.ld * 4, g->bias.h = nq;
        }
        if (g->key_mask) g->key_mask += (int64_t)kv * tk;
        g->kv_row = NULL, g->heads = 1;
        y = &g->y;
    }
    p->y = dl_act_at(NULL, p->place.t, p->place.n, p->place.h, p->place.w, p->place.c);
    p->y.p = malloc((size_t)dl_act_bytes(p->y));
    if (!p->y.p) return dl_fail(e, DL_ENOMEM, "no memory for a check");
    *y = p->y;
    return 0;
}

/* Runs the part on the reference backend. */
static int run_part(struct part *p, struct case_run *c, const struct dl_backend *ref, struct dl_ctx *ctx,
                    struct dl_err *e)
{
    struct dl_run r;
    struct dl_wset set = {0};
    void *mem = NULL;
    int rc = -1;
    dl_run_open(&r, ref, ctx, c->k->run_t);
    for (int i = 0; i < 2; i++)
        if (p->w[i].n_parts && dl_wset_add(&set, &p->w[i], "slice", e) < 0) goto out;
    op_call(&r, c->k->kind, &p->a, NULL);
    if (dl_run_check(&r, e) < 0 || dl_run_load(&r, &set, e) < 0) goto out;
    if (dl_run_load(&r, &c->set[0].weights, e) < 0) goto out; /* a norm's */
    int64_t peak = r.arena.peak_bytes;
    if (ref->alloc(ctx, peak, &mem, e) < 0) goto out;
    dl_run_bind(&r, mem, peak);
    op_call(&r, c->k->kind, &p->a, NULL);
    rc = dl_run_check(&r, e);
out:
    if (mem) ref->free(ctx, mem);
    dl_wset_close(&set);
    dl_run_close(&r);
    return rc;
}

static double at(dl_act a, int64_t n, int64_t pixel, int64_t c)
{
    return (double)dl_load(a.p, a.t, n * a.rs + pixel * a.ld + c);
}

static void meet(struct check *out, double got, double want, double budget)
{
    double share = fabs(got - want) / budget;
    if (!(got == got) || !(share == share)) share = INFINITY;
    if (share >= out->share) out->share = share, out->got = got, out->want = want;
    out->elements++;
}

/* The largest length of a row of channels, for a bound on scores. */
static double longest(dl_act a)
{
    double most = 0;
    for (int64_t t = 0; t < (int64_t)a.h * a.w; t++) {
        double sum = 0;
        for (int32_t c = 0; c < a.c; c++) sum += at(a, 0, t, c) * at(a, 0, t, c);
        most = fmax(most, sum);
    }
    return sqrt(most);
}

/* Relative error that each term of attention's sum may have. */
static double attention_error(const struct dl_attn *a)
{
    double score = fabs((double)a->scale) * longest(a->q) * longest(a->k) + 4;
    return 2 * C_ACC * u_acc * score + C_ACC * u_acc + (a->q.t == DL_F32 ? 0 : 2 * u_of(a->q.t));
}

/* The magnitudes' activation functions are the identity: |f(x)| <= 1.13 |x| for all of them. */
static void linearise(struct part *p, enum op_kind kind)
{
    if (kind == OP_GEMM) p->a.gemm.e.fn = DL_NONE;
    if (kind == OP_CONV) p->a.conv.e.fn = DL_NONE, p->a.conv.pre_fn = DL_NONE;
}

/* Products and attention: a part of the output as it should be. */
struct check_want {
    dl_act y, most;   /* results; the same of magnitudes. Own memory */
    dl_act place;     /* where y lies in the whole output */
    int64_t at_bytes; /* place.p from the whole output's */
    double rel;       /* of `most`, which each element may be off by */
};

static const dl_act *result_of(enum op_kind kind, const union op_args *a)
{
    return kind == OP_GEMM ? &a->gemm.y : kind == OP_CONV ? &a->conv.y : &a->attn.y;
}

int check_want_open(struct check_want **out, const struct tape_case *k, const struct dl_backend *ref,
                    struct dl_ctx *ctx, struct dl_err *e)
{
    struct check_want *w = *out = calloc(1, sizeof *w);
    if (!w) return dl_fail(e, DL_ENOMEM, "no memory for a check");
    int rc = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        enum case_values v = i == 0 ? CASE_SIGNED : k->kind == OP_ATTN ? CASE_ABS_V : CASE_MAGNITUDES;
        struct case_run c = {0};
        struct part p = {.y = {0}};
        rc = case_operands(&c, k, ref, ctx, v, e);
        if (rc == 0) rc = cut(&p, &c, e);
        if (i == 1) linearise(&p, k->kind);
        if (rc == 0) rc = run_part(&p, &c, ref, ctx, e);
        if (rc == 0 && i == 0) {
            w->place = p.place;
            w->at_bytes = (uint8_t *)p.place.p - (uint8_t *)result_of(k->kind, &c.set[0].a)->p;
            w->rel = k->kind == OP_ATTN ? attention_error(&p.a.attn) : 1.3 * C_ACC * u_acc;
            if (k->run_t == DL_E4M3) w->rel = 0x1p-13; /* tensor cores' sums */
            if (k->kind == OP_CONV && p.a.conv.pre.mean_rstd && k->run_t != DL_F32) w->rel += u_of(k->run_t);
        }
        *(i == 0 ? &w->y : &w->most) = p.y;
        case_close(&c);
    }
    if (rc == 0) return 0;
    check_want_close(w);
    *out = NULL;
    return -1;
}

void check_want_close(struct check_want *w)
{
    if (!w) return;
    free(w->y.p), free(w->most.p);
    free(w);
}

void check_output(const struct check_want *w, const void *got, struct check *out)
{
    dl_act y = w->place;
    y.p = (uint8_t *)(uintptr_t)got + w->at_bytes;
    *out = (struct check){.share = 0};
    for (int64_t n = 0; n < y.n; n++)
        for (int64_t q = 0; q < (int64_t)y.h * y.w; q++)
            for (int32_t i = 0; i < y.c; i++) {
                double want = at(w->y, n, q, i), most = at(w->most, n, q, i);
                meet(out, at(y, n, q, i), want, 2 * u_of(y.t) * fabs(want) + w->rel * fabs(most) + 1e-30);
            }
}

void check_pair(const struct check_want *w, dl_act one, dl_act other, struct check *out)
{
    double most = 0;
    *out = (struct check){.share = 0};
    for (int64_t n = 0; n < w->most.n; n++)
        for (int64_t q = 0; q < (int64_t)w->most.h * w->most.w; q++)
            for (int32_t i = 0; i < w->most.c; i++) most = fmax(most, fabs(at(w->most, n, q, i)));
    for (int64_t n = 0; n < one.n; n++)
        for (int64_t q = 0; q < (int64_t)one.h * one.w; q++)
            for (int32_t i = 0; i < one.c; i++) {
                double a = at(one, n, q, i), b = at(other, n, q, i);
                meet(out, a, b, 4 * u_of(one.t) * fabs(b) + 2 * w->rel * most + 1e-30);
            }
}

/* Sines of angles up to some thousand radians, and quantiles, lose more. */
static double slack(enum op_kind kind) { return kind == OP_SINUS ? 4096 : 2 * C_ACC; }

static void compare_act(dl_act got, dl_act want, double slack_u, struct check *out)
{
    double most = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t n = 0; n < want.n; n++)
            for (int64_t q = 0; q < (int64_t)want.h * want.w; q++)
                for (int32_t c = 0; c < want.c; c++) {
                    double v = at(want, n, q, c);
                    if (pass == 0)
                        most = fmax(most, fabs(v));
                    else
                        meet(out, at(got, n, q, c), v, 2 * u_of(want.t) * fabs(v) + slack_u * u_acc * most + 1e-30);
                }
}

/* Everything else, whole. */
static int check_whole(const struct case_run *ran, const uint8_t *got, const float *got_stat,
                       const struct dl_backend *ref, struct dl_ctx *ctx, struct check *out, struct dl_err *e)
{
    struct case_run c;
    struct operands o;
    enum op_kind kind = ran->k->kind;
    if (case_open(&c, ran->k, ref, ctx, 1, CASE_SIGNED, e) < 0) return -1;
    int rc = case_once(&c, 0, e);
    const uint8_t *mem = c.set[0].mem;
    op_operands(kind, &c.set[0].a, &o);
    for (int i = 0; i < o.n_act && rc == 0; i++) {
        dl_act want = *o.act[i].a, y = want;
        if (!o.act[i].out || (kind == OP_SCHED_STEP && i > 0)) continue; /* of the history one slot alone is written */
        y.p = (void *)(uintptr_t)(got + ((const uint8_t *)want.p - mem));
        compare_act(y, want, slack(kind), out);
    }
    for (int i = 0; i < o.n_block && rc == 0; i++) {
        if (!o.block[i].out) continue;
        const uint8_t *want = *o.block[i].p, *y = got + (want - mem);
        for (int64_t j = 0; j < o.block[i].bytes; j++) meet(out, y[j], want[j], 1); /* a rounding at the edge */
    }
    if (kind == OP_GNORM && rc == 0) {
        dl_act want =
            dl_act_at((void *)(uintptr_t)c.stat.mean_rstd, DL_F32, ran->k->a.gnorm.x.n, 1, 1, c.stat.groups * 2);
        dl_act y = want;
        y.p = (void *)(uintptr_t)got_stat;
        compare_act(y, want, slack(kind), out);
    }
    case_close(&c);
    return rc;
}

static int check_product(struct case_run *ran, const struct dl_backend *ref, struct dl_ctx *ctx, struct check *out,
                         struct dl_err *e)
{
    const dl_act *y = result_of(ran->k->kind, &ran->set[0].a);
    struct check_want *w;
    if (check_want_open(&w, ran->k, ref, ctx, e) < 0) return -1;
    void *got = malloc((size_t)dl_act_bytes(*y));
    int rc = got ? ran->be->download(ran->ctx, got, y->p, dl_act_bytes(*y), e)
                 : dl_fail(e, DL_ENOMEM, "no memory for a check");
    if (rc == 0) check_output(w, got, out);
    free(got);
    check_want_close(w);
    return rc;
}

int check_case(struct case_run *ran, const struct dl_backend *ref, struct dl_ctx *ctx, struct check *out,
               struct dl_err *e)
{
    enum op_kind kind = ran->k->kind;
    *out = (struct check){.share = 0};
    if (kind == OP_GEMM || kind == OP_CONV || kind == OP_ATTN) return check_product(ran, ref, ctx, out, e);
    uint8_t *got = malloc((size_t)ran->set_bytes + 1);
    int64_t stat_bytes = kind == OP_GNORM ? (int64_t)ran->k->a.gnorm.x.n * ran->k->a.gnorm.groups * 8 : 0;
    float *stat = malloc((size_t)stat_bytes + 4);
    int rc = -1;
    if (!got || !stat) {
        dl_fail(e, DL_ENOMEM, "no memory for a check");
        goto out;
    }
    if (ran->be->download(ran->ctx, got, ran->set[0].mem, ran->set_bytes, e) < 0) goto out;
    if (stat_bytes && ran->be->download(ran->ctx, stat, ran->stat.mean_rstd, stat_bytes, e) < 0) goto out;
    rc = check_whole(ran, got, stat, ref, ctx, out, e);
out:
    free(got), free(stat);
    return rc;
}
