/* Each op: check, account, log, the backend's entry, its failure. FLOPs count products and sums of gemm, conv and attn,
 * as the field does; norms and the rest count in bytes alone. */
#include "engine/e4m3.h"
#include "engine/op_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int64_t elements(const dl_act *a) { return (int64_t)a->n * a->h * a->w * a->c; }

static int64_t bytes_of(const dl_act *a) { return a->p ? elements(a) * dl_type_bytes(a->t) : 0; }

static int64_t w_bytes(const struct dl_w *w, int t) { return w ? dl_w_count(w) * dl_type_bytes(t) : 0; }

static int64_t vec_bytes(const dl_vec *v, int32_t n, int32_t c)
{
    return v->p ? (int64_t)(v->rs ? n : 1) * c * dl_type_bytes(v->t) : 0;
}

static int64_t parts_bytes(const dl_act *a) { return a->parts ? elements(a) / DL_PART_PIXELS * 2 * 4 : 0; }

static int64_t epi_bytes(const struct dl_epi *e, const dl_act *y, int t)
{
    return bytes_of(y) + parts_bytes(y) + bytes_of(&e->res) + w_bytes(e->bias, t) + vec_bytes(&e->add, y->n, y->c) +
           vec_bytes(&e->gate, y->n, y->c);
}

static int64_t stat_bytes(const struct dl_stat *s, const dl_act *x)
{
    if (!s->mean_rstd) return 0;
    return (int64_t)x->n * s->groups * 2 * 4 + w_bytes(s->gamma, x->t) + w_bytes(s->beta, x->t) +
           vec_bytes(&s->scale, x->n, x->c) + vec_bytes(&s->shift, x->n, x->c);
}

/* Between the check and the backend's entry. Returns whether the op may run. */
static bool begin(struct dl_run *r, struct dl_log *l, bool has_entry)
{
    if (!has_entry) {
        dl_fail(&r->err, DL_EFAIL, "op %s: backend %s does not have it", l->op, r->be->name);
        return false;
    }
    r->variant = "", r->shape = l->shape;
    if (r->time_on && r->mode == DL_EAGER) {
        if (r->be->sync && r->be->sync(r->ctx, &r->err) < 0) return false;
        l->ms = now_ms();
    }
    return true;
}

static void keep(struct dl_run *r, const struct dl_log *l)
{
    if (r->n_log == r->cap_log) {
        int64_t cap = r->cap_log ? 2 * r->cap_log : 256;
        struct dl_log *more = realloc(r->log, (size_t)cap * sizeof *more);
        if (!more) {
            dl_fail(&r->err, DL_ENOMEM, "no memory for the log of ops");
            return;
        }
        r->log = more, r->cap_log = cap;
    }
    r->log[r->n_log++] = *l;
}

static void end(struct dl_run *r, struct dl_log *l)
{
    r->shape = NULL;
    if (r->arena.failed)
        dl_fail(&r->err, DL_ENOMEM, "op %s %s: arena of %lld bytes is too small for its scratch", l->op, l->shape,
                (long long)r->arena.cap_bytes);
    if (!dl_run_ok(r)) return;
    if (r->time_on && r->mode == DL_EAGER) {
        if (r->be->sync && r->be->sync(r->ctx, &r->err) < 0) return;
        l->ms = now_ms() - l->ms;
    }
    r->account.flops += l->flops;
    r->account.bytes += l->bytes;
    r->account.ops++;
    l->variant = r->variant;
    if (r->log_on) keep(r, l);
}

/* RUN(gemm, &a) with the log line `l`: the part that is the same for all ops. */
#define RUN(entry, ...)                                                                                                \
    do {                                                                                                               \
        if (!begin(r, &l, r->be->ops->entry != NULL)) return;                                                          \
        r->be->ops->entry(r, __VA_ARGS__);                                                                             \
        end(r, &l);                                                                                                    \
    } while (0)

#define SHAPE(...) snprintf(l.shape, sizeof l.shape, __VA_ARGS__)

static const char *fn_text(int fn)
{
    static const char *const name[] = {"", " silu", " gelu", " gelu_tanh", " quick_gelu"};
    return name[fn];
}

static const char *parts_text(const dl_act *a) { return a->parts ? " parts" : ""; }

/* " bias silu add ..." as far as given. */
struct text {
    char s[64];
};

static struct text epi_text(const struct dl_epi *e, const dl_act *y)
{
    struct text t;
    snprintf(t.s, sizeof t.s, "%s%s%s%s%s%s%s", e->bias ? " bias" : "", fn_text(e->fn), e->glu ? " glu" : "",
             e->add.p ? " add" : "", e->gate.p ? " gate" : "", e->res.p ? " res" : "", parts_text(y));
    return t;
}

void dl_op_gemm(struct dl_run *r, struct dl_gemm a)
{
    if (!dl_run_ok(r) || !dl_check_gemm(r, &a)) return;
    int64_t m = (int64_t)a.x.n * a.x.h * a.x.w;
    struct dl_log l = {.op = "gemm", .flops = 2 * m * a.w->dim[0] * a.x.c};
    l.bytes = bytes_of(&a.x) + w_bytes(a.w, dl_e4m3_takes(r, &a) ? DL_E4M3 : a.x.t);
    l.bytes += epi_bytes(&a.e, &a.y, a.x.t);
    SHAPE("%d->%lld %d n%d %s%s", a.x.c, (long long)a.w->dim[0], a.x.h * a.x.w, a.x.n, dl_type_name(a.x.t),
          epi_text(&a.e, &a.y).s);
    RUN(gemm, &a);
}

void dl_op_conv(struct dl_run *r, struct dl_conv a)
{
    if (!dl_run_ok(r) || !dl_check_conv(r, &a)) return;
    struct dl_log l = {.op = "conv", .flops = 2 * elements(&a.y) * a.x.c * a.k * a.k};
    l.bytes = bytes_of(&a.x) + w_bytes(a.w, a.x.t) + stat_bytes(&a.pre, &a.x) + epi_bytes(&a.e, &a.y, a.x.t);
    SHAPE("k%d s%d %d->%d %dx%d n%d %s%s%s%s%s", a.k, a.stride, a.x.c, a.y.c, a.y.h, a.y.w, a.x.n, dl_type_name(a.x.t),
          a.up ? " up" : "", a.pre.mean_rstd ? " pre" : "", fn_text(a.pre_fn), epi_text(&a.e, &a.y).s);
    RUN(conv, &a);
}

static void run_gnorm(struct dl_run *r, const struct dl_gnorm *a, float *mean_rstd)
{
    struct dl_log l = {.op = "gnorm", .bytes = a->x.parts ? parts_bytes(&a->x) : bytes_of(&a->x)};
    l.bytes += (int64_t)a->x.n * a->groups * 2 * 4;
    SHAPE("g%d %d %dx%d n%d %s%s", a->groups, a->x.c, a->x.h, a->x.w, a->x.n, dl_type_name(a->x.t), parts_text(&a->x));
    RUN(gnorm, a, mean_rstd);
}

struct dl_stat dl_op_gnorm(struct dl_run *r, struct dl_gnorm a)
{
    struct dl_stat none = {0};
    if (!dl_run_ok(r) || !dl_check_gnorm(r, &a)) return none;
    float *mean_rstd = dl_arena_hi(&r->arena, (int64_t)a.x.n * a.groups * 2 * 4);
    if (!mean_rstd) {
        dl_fail(&r->err, DL_ENOMEM, "op gnorm: arena of %lld bytes is too small for the statistics",
                (long long)r->arena.cap_bytes);
        return none;
    }
    run_gnorm(r, &a, mean_rstd);
    return (struct dl_stat){mean_rstd, a.groups, a.gamma, a.beta, a.scale, a.shift};
}

void dl_op_norm(struct dl_run *r, struct dl_norm a)
{
    if (!dl_run_ok(r) || !dl_check_norm(r, &a)) return;
    struct dl_log l = {.op = "norm", .bytes = bytes_of(&a.x) + bytes_of(&a.y) + stat_bytes(&a.s, &a.x)};
    SHAPE("g%d %d %dx%d n%d %s%s", a.s.groups, a.x.c, a.x.h, a.x.w, a.x.n, dl_type_name(a.x.t), fn_text(a.fn));
    RUN(norm, &a);
}

void dl_op_lnorm(struct dl_run *r, struct dl_lnorm a)
{
    if (!dl_run_ok(r) || !dl_check_lnorm(r, &a)) return;
    struct dl_log l = {.op = "lnorm", .bytes = bytes_of(&a.x) + bytes_of(&a.y)};
    l.bytes += w_bytes(a.gamma, a.x.t) + w_bytes(a.beta, a.x.t);
    l.bytes += vec_bytes(&a.scale, a.x.n, a.x.c) + vec_bytes(&a.shift, a.x.n, a.x.c);
    SHAPE("%s%d %d n%d %s", a.rms ? "rms " : "", a.x.c, a.x.h * a.x.w, a.x.n, dl_type_name(a.x.t));
    RUN(lnorm, &a);
}

void dl_op_attn(struct dl_run *r, struct dl_attn a)
{
    if (!dl_run_ok(r) || !dl_check_attn(r, &a)) return;
    int64_t tq = (int64_t)a.q.h * a.q.w, tk = (int64_t)a.k.h * a.k.w, pairs = tq * tk;
    if (a.causal) {
        int64_t corner = tq < tk ? tq : tk; /* queries that do not see all keys */
        pairs = corner * (corner + 1) / 2 + (tq - corner) * tk;
    }
    struct dl_log l = {.op = "attn", .flops = 4 * pairs * a.q.c * a.q.n};
    l.bytes = bytes_of(&a.q) + bytes_of(&a.k) + bytes_of(&a.v) + bytes_of(&a.y) + bytes_of(&a.bias);
    SHAPE("h%d d%d q%lld k%lld n%d/%d %s%s%s%s", a.heads, a.q.c / a.heads, (long long)tq, (long long)tk, a.q.n, a.k.n,
          dl_type_name(a.q.t), a.causal ? " causal" : "", a.bias.p ? " bias" : "", a.key_mask ? " mask" : "");
    RUN(attn, &a);
}

void dl_op_embed(struct dl_run *r, struct dl_embed a)
{
    if (!dl_run_ok(r) || !dl_check_embed(r, &a)) return;
    struct dl_log l = {.op = "embed", .bytes = (a.pos ? 3 : 2) * bytes_of(&a.y)};
    SHAPE("%lldx%d %d n%d %s", (long long)a.table->dim[0], a.y.c, a.y.w, a.y.n, dl_type_name(a.y.t));
    RUN(embed, &a);
}

void dl_op_sinus(struct dl_run *r, struct dl_sinus a)
{
    if (!dl_run_ok(r) || !dl_check_sinus(r, &a)) return;
    struct dl_log l = {.op = "sinus", .bytes = bytes_of(&a.y)};
    SHAPE("%d n%d %s", a.y.c, a.y.n, dl_type_name(a.y.t));
    RUN(sinus, &a);
}

/* An activation's parts as an activation of twice the channels. */
static dl_act parts_of(const dl_act *a)
{
    int32_t sets = (int32_t)((int64_t)a->h * a->w / DL_PART_PIXELS);
    dl_act p = dl_act_at(a->parts, DL_F32, a->n, 1, sets, 2 * a->ld);
    p.c = 2 * a->c;
    return p;
}

static void run_copy(struct dl_run *r, struct dl_copy a)
{
    struct dl_log l = {.op = "copy", .bytes = elements(&a.y) * dl_type_bytes(a.x.t) + bytes_of(&a.y)};
    SHAPE("%d %dx%d n%d/%d %s->%s%s", a.y.c, a.y.h, a.y.w, a.y.n, a.x.n, dl_type_name(a.x.t), dl_type_name(a.y.t),
          fn_text(a.fn));
    RUN(copy, &a);
}

/* Parts are copied by an op of their own. */
void dl_op_copy(struct dl_run *r, struct dl_copy a)
{
    if (!dl_run_ok(r) || !dl_check_copy(r, &a)) return;
    struct dl_copy parts = {.x = parts_of(&a.x), .y = parts_of(&a.y), .row = a.row, .a = 1};
    a.x.parts = a.y.parts = NULL;
    run_copy(r, a);
    if (parts.y.p && dl_run_ok(r)) run_copy(r, parts);
}

void dl_op_add(struct dl_run *r, struct dl_add a)
{
    if (!dl_run_ok(r) || !dl_check_add(r, &a)) return;
    struct dl_log l = {.op = "add", .bytes = bytes_of(&a.a) + bytes_of(&a.b) + bytes_of(&a.y)};
    SHAPE("%d %dx%d n%d %s", a.y.c, a.y.h, a.y.w, a.y.n, dl_type_name(a.y.t));
    RUN(add, &a);
}

void dl_op_pick(struct dl_run *r, struct dl_pick a)
{
    if (!dl_run_ok(r) || !dl_check_pick(r, &a)) return;
    struct dl_log l = {.op = "pick", .bytes = elements(&a.y) * dl_type_bytes(a.table.t) + bytes_of(&a.y)};
    SHAPE("%d n%d %s->%s", a.y.c, a.y.n, dl_type_name(a.table.t), dl_type_name(a.y.t));
    RUN(pick, &a);
}

void dl_op_rope(struct dl_run *r, struct dl_rope a)
{
    if (!dl_run_ok(r) || !dl_check_rope(r, &a)) return;
    int64_t tokens = (int64_t)a.x.h * a.x.w;
    int32_t d = a.x.c / a.heads;
    struct dl_log l = {.op = "rope", .bytes = bytes_of(&a.x) + bytes_of(&a.y) + (a.table ? tokens * d * 4 : 0)};
    l.bytes += w_bytes(a.gamma[0], a.x.t) + w_bytes(a.gamma[1], a.x.t);
    SHAPE("h%d d%d %lld n%d %s%s%s", a.heads, d, (long long)tokens, a.x.n, dl_type_name(a.x.t),
          a.gamma[0] ? " rms" : "", a.table ? "" : " no rotation");
    RUN(rope, &a);
}

void dl_op_resize(struct dl_run *r, struct dl_resize a)
{
    if (!dl_run_ok(r) || !dl_check_resize(r, &a)) return;
    struct dl_log l = {.op = "resize", .bytes = bytes_of(&a.x) + bytes_of(&a.y)};
    SHAPE("%s %d %dx%d->%dx%d n%d %s", a.kind == DL_RESIZE_MEAN2 ? "mean2" : "nearest", a.x.c, a.x.h, a.x.w, a.y.h,
          a.y.w, a.x.n, dl_type_name(a.x.t));
    RUN(resize, &a);
}

void dl_op_rel_bias(struct dl_run *r, struct dl_rel_bias a)
{
    if (!dl_run_ok(r) || !dl_check_rel_bias(r, &a)) return;
    struct dl_log l = {.op = "rel_bias", .bytes = bytes_of(&a.y) + w_bytes(a.table, r->t)};
    SHAPE("h%d q%d k%d b%lld", a.y.n, a.y.h, a.y.w, (long long)a.table->dim[0]);
    RUN(rel_bias, &a);
}

void dl_op_token_mean(struct dl_run *r, struct dl_token_mean a)
{
    if (!dl_run_ok(r) || !dl_check_token_mean(r, &a)) return;
    struct dl_log l = {.op = "token_mean", .bytes = bytes_of(&a.x) + bytes_of(&a.y) + w_bytes(a.pos, a.x.t)};
    SHAPE("%d %lld n%d %s", a.x.c, (long long)a.x.h * a.x.w, a.x.n, dl_type_name(a.x.t));
    RUN(token_mean, &a);
}

void dl_op_sched_in(struct dl_run *r, struct dl_sched_in a)
{
    if (!dl_run_ok(r) || !dl_check_sched_in(r, &a)) return;
    struct dl_log l = {.op = "sched_in", .bytes = bytes_of(&a.latent) + bytes_of(&a.y)};
    SHAPE("%d %dx%d n%d/%d", a.y.c, a.y.h, a.y.w, a.y.n, a.latent.n);
    RUN(sched_in, &a);
}

void dl_op_sched_step(struct dl_run *r, struct dl_sched_step a)
{
    if (!dl_run_ok(r) || !dl_check_sched_step(r, &a)) return;
    struct dl_log l = {.op = "sched_step", .bytes = bytes_of(&a.eps)};
    l.bytes += 2 * bytes_of(&a.latent) + 2 * bytes_of(&a.history) + bytes_of(&a.noise);
    SHAPE("%d %dx%d n%d", a.latent.c, a.latent.h, a.latent.w, a.latent.n);
    RUN(sched_step, &a);
}

void dl_op_image(struct dl_run *r, struct dl_image a)
{
    if (!dl_run_ok(r) || !dl_check_image(r, &a)) return;
    struct dl_log l = {.op = "image", .bytes = bytes_of(&a.x) + (int64_t)a.x.n * a.x.h * a.x.w * 3};
    SHAPE("%dx%d n%d %s", a.x.h, a.x.w, a.x.n, dl_type_name(a.x.t));
    RUN(image, &a);
}

int32_t dl_rel_bucket(int32_t distance, int32_t buckets, int32_t max_distance)
{
    int32_t half = buckets / 2, exact = half / 2, base = distance > 0 ? half : 0;
    int64_t far = distance < 0 ? -(int64_t)distance : distance;
    if (far < exact) return base + (int32_t)far;
    float scale = (float)log((double)max_distance / exact);
    float more = logf((float)far / (float)exact) / scale * (float)(half - exact);
    return base + (more < (float)(half - exact) ? exact + (int32_t)more : half - 1);
}
