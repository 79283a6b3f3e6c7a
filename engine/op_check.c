#include "engine/op_check.h"
#include "engine/sched.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

/* What a message says about an op: its shapes, written only when something is wrong. */
struct view {
    struct dl_run *r;
    const char *op;
    const dl_act *x, *y; /* NULL where there is none */
    const struct dl_w *w;
};

__attribute__((format(printf, 2, 3))) static bool bad(const struct view *v, const char *fmt, ...)
{
    char s[400], what[300];
    int n = snprintf(s, sizeof s, "op %s:", v->op);
    const dl_act *acts[2] = {v->x, v->y};
    for (int i = 0; i < 2; i++)
        if (acts[i])
            n += snprintf(s + n, sizeof s - (size_t)n, " %s [%d,%d,%d,%d] %s", i ? "y" : "x", acts[i]->n, acts[i]->h,
                          acts[i]->w, acts[i]->c, dl_type_name(acts[i]->t));
    if (v->w) {
        n += snprintf(s + n, sizeof s - (size_t)n, " w [");
        for (int i = 0; i < v->w->nd && i < 4; i++)
            n += snprintf(s + n, sizeof s - (size_t)n, "%s%lld", i ? "," : "", (long long)v->w->dim[i]);
        snprintf(s + n, sizeof s - (size_t)n, "] %.120s", v->w->name ? v->w->name : "(not bound)");
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    dl_fail(&v->r->err, DL_EFAIL, "%s: %s", s, what);
    return false;
}

static bool is_float(int t) { return t == DL_F32 || t == DL_F16 || t == DL_BF16; }

/* An operand: present, possible sizes and pitches. Rows of an output may not lie on each other. */
static bool act_ok(const struct view *v, const dl_act *a, const char *name, bool out)
{
    if (!a->p) return bad(v, "%s is absent", name);
    if (!is_float(a->t)) return bad(v, "%s has type %s, not f32, f16 or bf16", name, dl_type_name(a->t));
    if (a->n < 1 || a->h < 1 || a->w < 1 || a->c < 1) return bad(v, "%s is empty", name);
    if (a->ld < a->c) return bad(v, "%s has pitch %d, less than its %d channels", name, a->ld, a->c);
    int64_t row = ((int64_t)a->h * a->w - 1) * a->ld + a->c;
    if (out && a->parts) return bad(v, "%s has partial statistics, which the op does not write", name);
    if (a->n > 1 && a->rs < row && (out || a->rs != 0))
        return bad(v, "%s has row stride %lld, less than a row of %lld", name, (long long)a->rs, (long long)row);
    return true;
}

static bool same_pixels(const dl_act *a, const dl_act *b) { return a->h == b->h && a->w == b->w; }

static bool parts_ok(const struct view *v, const dl_act *a, const char *name)
{
    return !a->parts || (int64_t)a->h * a->w % DL_PART_PIXELS == 0 ||
           bad(v, "%s has partial statistics, and not whole sets of %d pixels", name, DL_PART_PIXELS);
}

/* The output of an op that writes parts. */
static bool y_ok(const struct view *v, const dl_act *a)
{
    dl_act values = dl_parts_none(*a);
    return act_ok(v, &values, "y", true) && parts_ok(v, a, "y");
}

static bool vec_ok(const struct view *v, const dl_vec *a, int64_t c, const char *name)
{
    if (!a->p) return true;
    if (!is_float(a->t)) return bad(v, "%s has type %s, not f32, f16 or bf16", name, dl_type_name(a->t));
    if ((a->rs != 0 && a->rs < c) || (a->ss != 0 && a->ss < c))
        return bad(v, "%s has strides %lld (row), %lld (step), less than %lld channels", name, (long long)a->rs,
                   (long long)a->ss, (long long)c);
    return true;
}

/* A weight vector of c elements; `opt`: may be NULL. */
static bool wvec_ok(const struct view *v, const struct dl_w *w, int64_t c, const char *name, bool opt)
{
    if (!w && opt) return true;
    if (!w || w->n_parts == 0) return bad(v, "%s is not bound", name);
    if (dl_w_count(w) != c)
        return bad(v, "%s %.100s has %lld elements, not %lld", name, w->name ? w->name : "", (long long)dl_w_count(w),
                   (long long)c);
    return true;
}

/* A host row map [n] into rows [0, rows). */
static bool rows_ok(const struct view *v, const int32_t *row, int32_t n, int32_t rows, const char *name)
{
    if (dl_run_is_dry(v->r)) return true;
    for (int32_t i = 0; i < n; i++)
        if (row[i] < 0 || row[i] >= rows) return bad(v, "%s[%d] is %d, outside the %d rows", name, i, row[i], rows);
    return true;
}

static bool fn_ok(const struct view *v, int fn)
{
    return fn <= DL_QUICK_GELU || bad(v, "%d is no activation function", fn);
}

static bool epi_ok(const struct view *v, struct dl_epi *e)
{
    int64_t out = v->y->c;
    if (e->scale == 0) e->scale = 1;
    if (!isfinite(e->scale)) return bad(v, "scale %g", (double)e->scale);
    if (!fn_ok(v, e->fn) || !wvec_ok(v, e->bias, e->glu ? 2 * out : out, "bias", true)) return false;
    if (!vec_ok(v, &e->add, out, "add") || !vec_ok(v, &e->gate, out, "gate")) return false;
    if (!e->res.p) return true;
    if (!act_ok(v, &e->res, "residual", false)) return false;
    if (e->res.n != v->y->n || !same_pixels(&e->res, v->y) || e->res.c != v->y->c)
        return bad(v, "residual is [%d,%d,%d,%d], not y's shape", e->res.n, e->res.h, e->res.w, e->res.c);
    return true;
}

bool dl_check_gemm(struct dl_run *r, struct dl_gemm *a)
{
    struct view v = {r, "gemm", &a->x, &a->y, a->w};
    if (!act_ok(&v, &a->x, "x", false) || !y_ok(&v, &a->y)) return false;
    if (!a->w || a->w->n_parts == 0) return bad(&v, "weight is not bound");
    if (a->w->nd < 2 || a->w->nd > 4) return bad(&v, "weight has %d dimensions", a->w->nd);
    for (int i = 2; i < a->w->nd; i++)
        if (a->w->dim[i] != 1) return bad(&v, "weight is a convolution larger than 1x1");
    if (a->w->dim[1] != a->x.c) return bad(&v, "weight takes %lld channels", (long long)a->w->dim[1]);
    int64_t out = (int64_t)a->y.c * (a->e.glu ? 2 : 1);
    if (a->w->dim[0] != out)
        return bad(&v, "weight gives %lld channels, not %lld", (long long)a->w->dim[0], (long long)out);
    if (a->x.n != a->y.n || (int64_t)a->x.h * a->x.w != (int64_t)a->y.h * a->y.w)
        return bad(&v, "x and y differ in rows or pixels");
    return epi_ok(&v, &a->e);
}

static bool stat_ok(const struct view *v, const struct dl_stat *s, int32_t c)
{
    if (!s->mean_rstd) return bad(v, "statistics are absent");
    if (s->groups < 1 || c % s->groups) return bad(v, "%d channels do not make %d groups", c, s->groups);
    return wvec_ok(v, s->gamma, c, "gamma", true) && wvec_ok(v, s->beta, c, "beta", true) &&
           vec_ok(v, &s->scale, c, "scale") && vec_ok(v, &s->shift, c, "shift");
}

bool dl_check_conv(struct dl_run *r, struct dl_conv *a)
{
    struct view v = {r, "conv", &a->x, &a->y, a->w};
    if (!act_ok(&v, &a->x, "x", false) || !y_ok(&v, &a->y)) return false;
    if (a->stride == 0) a->stride = 1;
    if (a->k != 1 && a->k != 3) return bad(&v, "kernel of %d, not 1 or 3", a->k);
    if (a->stride != 1 && a->stride != 2) return bad(&v, "stride of %d, not 1 or 2", a->stride);
    if (a->up && a->stride != 1) return bad(&v, "stride of 2 after enlarging");
    if (a->e.glu) return bad(&v, "a convolution has no GLU");
    if (!a->w || a->w->n_parts == 0) return bad(&v, "weight is not bound");
    bool flat = a->k == 1 && a->w->nd == 2;
    if (!flat && (a->w->nd != 4 || a->w->dim[2] != a->k || a->w->dim[3] != a->k))
        return bad(&v, "weight is not %d x %d", a->k, a->k);
    if (a->w->dim[0] != a->y.c || a->w->dim[1] != a->x.c) return bad(&v, "weight takes or gives other channels");
    if (a->x.n != a->y.n) return bad(&v, "x and y differ in rows");
    int32_t h = (a->x.h - 1) / a->stride + 1, w = (a->x.w - 1) / a->stride + 1;
    if (a->up ? a->y.h < a->x.h || a->y.w < a->x.w : a->y.h != h || a->y.w != w)
        return bad(&v, a->up ? "y is smaller than x" : "y is not %d x %d pixels", h, w);
    if (a->pre.mean_rstd && !stat_ok(&v, &a->pre, a->x.c)) return false;
    if (!a->pre.mean_rstd && (a->pre.gamma || a->pre.beta || a->pre.scale.p || a->pre.shift.p))
        return bad(&v, "the norm before it has no statistics");
    return fn_ok(&v, a->pre_fn) && epi_ok(&v, &a->e);
}

bool dl_check_gnorm(struct dl_run *r, struct dl_gnorm *a)
{
    struct view v = {r, "gnorm", &a->x, NULL, a->gamma};
    if (!act_ok(&v, &a->x, "x", false) || !parts_ok(&v, &a->x, "x")) return false;
    if (a->groups < 1 || a->x.c % a->groups) return bad(&v, "%d channels do not make %d groups", a->x.c, a->groups);
    if (!(a->eps > 0)) return bad(&v, "eps of %g", (double)a->eps);
    return wvec_ok(&v, a->gamma, a->x.c, "gamma", true) && wvec_ok(&v, a->beta, a->x.c, "beta", true) &&
           vec_ok(&v, &a->scale, a->x.c, "scale") && vec_ok(&v, &a->shift, a->x.c, "shift");
}

/* y has x's shape. */
static bool alike(const struct view *v)
{
    if (!act_ok(v, v->x, "x", false) || !act_ok(v, v->y, "y", true)) return false;
    if (v->x->n != v->y->n || !same_pixels(v->x, v->y) || v->x->c != v->y->c) return bad(v, "x and y differ in shape");
    return true;
}

bool dl_check_norm(struct dl_run *r, struct dl_norm *a)
{
    struct view v = {r, "norm", &a->x, &a->y, a->s.gamma};
    return alike(&v) && stat_ok(&v, &a->s, a->x.c) && fn_ok(&v, a->fn);
}

bool dl_check_lnorm(struct dl_run *r, struct dl_lnorm *a)
{
    struct view v = {r, "lnorm", &a->x, &a->y, a->gamma};
    if (!alike(&v)) return false;
    if (!(a->eps > 0)) return bad(&v, "eps of %g", (double)a->eps);
    if (a->rms && a->beta) return bad(&v, "an RMS norm has no beta");
    return wvec_ok(&v, a->gamma, a->x.c, "gamma", true) && wvec_ok(&v, a->beta, a->x.c, "beta", true) &&
           vec_ok(&v, &a->scale, a->x.c, "scale") && vec_ok(&v, &a->shift, a->x.c, "shift");
}

bool dl_check_attn(struct dl_run *r, struct dl_attn *a)
{
    struct view v = {r, "attn", &a->q, &a->y, NULL};
    if (!alike(&v) || !act_ok(&v, &a->k, "k", false) || !act_ok(&v, &a->v, "v", false)) return false;
    int64_t tk = (int64_t)a->k.h * a->k.w, tq = (int64_t)a->q.h * a->q.w;
    if (a->heads < 1 || a->q.c % a->heads) return bad(&v, "%d channels do not make %d heads", a->q.c, a->heads);
    if (a->k.c != a->q.c || a->v.c != a->q.c) return bad(&v, "k has %d and v %d channels", a->k.c, a->v.c);
    if (a->k.t != a->q.t || a->v.t != a->q.t)
        return bad(&v, "k is %s and v %s", dl_type_name(a->k.t), dl_type_name(a->v.t));
    if (a->v.n != a->k.n || (int64_t)a->v.h * a->v.w != tk)
        return bad(&v, "k is [%d,%d,%d] and v [%d,%d,%d]", a->k.n, a->k.h, a->k.w, a->v.n, a->v.h, a->v.w);
    if (a->scale == 0 || !isfinite(a->scale)) return bad(&v, "scale of %g", (double)a->scale);
    if (a->bias.p) {
        dl_act b = a->bias;
        if (!act_ok(&v, &b, "bias", false)) return false;
        if (b.t != DL_F32 || b.n != a->heads || b.w != tk || b.h != tq || b.c != 1)
            return bad(&v, "bias is [%d,%d,%d,%d] %s, not [heads, queries, keys, 1] f32", b.n, b.h, b.w, b.c,
                       dl_type_name(b.t));
    }
    if (a->kv_row) return rows_ok(&v, a->kv_row, a->q.n, a->k.n, "kv_row");
    return a->k.n == a->q.n || a->k.n == 1 || bad(&v, "k has %d rows and there is no kv_row", a->k.n);
}

bool dl_check_embed(struct dl_run *r, struct dl_embed *a)
{
    struct view v = {r, "embed", NULL, &a->y, a->table};
    if (!act_ok(&v, &a->y, "y", true)) return false;
    if (a->y.h != 1) return bad(&v, "y has %d pixel rows; tokens have one", a->y.h);
    if (!a->table || a->table->n_parts == 0) return bad(&v, "table is not bound");
    if (a->table->nd != 2 || a->table->dim[1] != a->y.c) return bad(&v, "table is not [vocabulary, %d]", a->y.c);
    if (a->pos && (a->pos->n_parts == 0 || a->pos->nd != 2 || a->pos->dim[1] != a->y.c || a->pos->dim[0] < a->y.w))
        return bad(&v, "positions are not bound or not [%d or more, %d]", a->y.w, a->y.c);
    if (dl_run_is_dry(r)) return true;
    if (!a->ids) return bad(&v, "ids are absent");
    for (int64_t i = 0; i < (int64_t)a->y.n * a->y.w; i++)
        if (a->ids[i] < 0 || a->ids[i] >= a->table->dim[0])
            return bad(&v, "token id %d of row %lld is outside the table", a->ids[i], (long long)(i / a->y.w));
    return true;
}

bool dl_check_sinus(struct dl_run *r, struct dl_sinus *a)
{
    struct view v = {r, "sinus", NULL, &a->y, NULL};
    if (!act_ok(&v, &a->y, "y", true)) return false;
    if (a->y.h != 1 || a->y.w != 1 || a->y.c % 2) return bad(&v, "y is not [n,1,1,even]");
    if (!(a->shift < a->y.c / 2)) return bad(&v, "shift of %g", (double)a->shift);
    return dl_run_is_dry(r) || a->t || bad(&v, "timesteps are absent");
}

bool dl_check_copy(struct dl_run *r, struct dl_copy *a)
{
    struct view v = {r, "copy", &a->x, &a->y, NULL};
    if (!act_ok(&v, &a->x, "x", false) || !y_ok(&v, &a->y) || !fn_ok(&v, a->fn)) return false;
    if (a->a == 0) a->a = 1;
    if (!same_pixels(&a->x, &a->y) || a->x.c != a->y.c) return bad(&v, "x and y differ in shape");
    if (a->y.parts && (!a->x.parts || a->x.t != a->y.t || a->a != 1 || a->b != 0 || a->fn))
        return bad(&v, "y has partial statistics, and is not x's values with theirs");
    if (a->row) return rows_ok(&v, a->row, a->y.n, a->x.n, "row");
    return a->x.n == a->y.n || a->x.n == 1 || bad(&v, "x has %d rows and there is no row map", a->x.n);
}

bool dl_check_add(struct dl_run *r, struct dl_add *a)
{
    struct view v = {r, "add", &a->a, &a->y, NULL};
    if (!alike(&v) || !act_ok(&v, &a->b, "b", false)) return false;
    if (a->b.n != a->y.n || !same_pixels(&a->b, &a->y) || a->b.c != a->y.c)
        return bad(&v, "b is [%d,%d,%d,%d]", a->b.n, a->b.h, a->b.w, a->b.c);
    return true;
}

bool dl_check_pick(struct dl_run *r, struct dl_pick *a)
{
    struct view v = {r, "pick", NULL, &a->y, NULL};
    if (!act_ok(&v, &a->y, "y", true) || !vec_ok(&v, &a->table, a->y.c, "table")) return false;
    if (!a->table.p) return bad(&v, "table is absent");
    if (a->y.h != 1 || a->y.w != 1) return bad(&v, "y is not [n,1,1,c]");
    if (dl_run_is_dry(r)) return true;
    if (r->step < 0) return bad(&v, "step %d", r->step);
    if (!a->row) return bad(&v, "row map is absent");
    return rows_ok(&v, a->row, a->y.n, INT32_MAX, "row");
}

bool dl_check_rope(struct dl_run *r, struct dl_rope *a)
{
    struct view v = {r, "rope", &a->x, &a->y, a->gamma[0]};
    if (!alike(&v)) return false;
    if (a->heads < 1 || a->x.c % a->heads) return bad(&v, "%d channels do not make %d heads", a->x.c, a->heads);
    int32_t d = a->x.c / a->heads;
    if (a->table && d % 2) return bad(&v, "heads of %d channels are no pairs", d);
    if (!a->gamma[0]) return !a->gamma[1] || bad(&v, "gamma[1] is given without gamma[0]");
    if (!(a->eps > 0)) return bad(&v, "eps of %g", (double)a->eps);
    if (a->gamma[1] && a->heads % 2) return bad(&v, "%d heads have no halves", a->heads);
    return wvec_ok(&v, a->gamma[0], d, "gamma[0]", false) && wvec_ok(&v, a->gamma[1], d, "gamma[1]", true);
}

bool dl_check_resize(struct dl_run *r, struct dl_resize *a)
{
    struct view v = {r, "resize", &a->x, &a->y, NULL};
    if (!act_ok(&v, &a->x, "x", false) || !act_ok(&v, &a->y, "y", true)) return false;
    if (a->x.n != a->y.n || a->x.c != a->y.c) return bad(&v, "x and y differ in rows or channels");
    if (a->x.p == a->y.p) return bad(&v, "y is x");
    if (a->kind != DL_RESIZE_NEAREST && a->kind != DL_RESIZE_MEAN2) return bad(&v, "%d is no kind of resize", a->kind);
    if (a->kind == DL_RESIZE_MEAN2 && (a->y.h != a->x.h / 2 || a->y.w != a->x.w / 2))
        return bad(&v, "y is not half of x");
    return true;
}

bool dl_check_rel_bias(struct dl_run *r, struct dl_rel_bias *a)
{
    struct view v = {r, "rel_bias", NULL, &a->y, a->table};
    if (!act_ok(&v, &a->y, "y", true)) return false;
    if (a->y.t != DL_F32 || a->y.c != 1) return bad(&v, "y is not f32 [heads, queries, keys, 1]");
    if (!a->table || a->table->n_parts == 0) return bad(&v, "table is not bound");
    if (a->table->nd != 2 || a->table->dim[1] != a->y.n) return bad(&v, "table is not [buckets, %d]", a->y.n);
    int64_t buckets = a->table->dim[0];
    if (buckets < 4 || buckets % 4 || buckets > INT32_MAX) return bad(&v, "%lld buckets", (long long)buckets);
    return a->max_distance > buckets / 4 || bad(&v, "largest distance of %d", a->max_distance);
}

bool dl_check_token_mean(struct dl_run *r, struct dl_token_mean *a)
{
    struct view v = {r, "token_mean", &a->x, &a->y, a->pos};
    if (!act_ok(&v, &a->x, "x", false) || !act_ok(&v, &a->y, "y", true)) return false;
    if (a->y.h != 1 || a->y.w != 1 || a->y.n != a->x.n || a->y.c != a->x.c) return bad(&v, "y is not [n,1,1,c] of x");
    return wvec_ok(&v, a->pos, a->y.c, "pos", true);
}

bool dl_check_sched_in(struct dl_run *r, struct dl_sched_in *a)
{
    struct view v = {r, "sched_in", &a->latent, &a->y, NULL};
    if (!act_ok(&v, &a->latent, "latent", false) || !act_ok(&v, &a->y, "y", true)) return false;
    if (!a->table) return bad(&v, "scheduler table is absent");
    if (!dl_run_is_dry(r) && (r->step < 0 || r->step >= a->table->n))
        return bad(&v, "step %d of a table of %d", r->step, a->table->n);
    if (a->latent.t != DL_F32) return bad(&v, "latent is not f32");
    if (!same_pixels(&a->latent, &a->y) || a->latent.c != a->y.c) return bad(&v, "latent and y differ in shape");
    if (!a->row && !dl_run_is_dry(r)) return bad(&v, "row map is absent");
    return rows_ok(&v, a->row, a->y.n, a->latent.n, "row");
}

/* Whether the step that runs draws; a recording is of all steps. */
static bool needs_noise(const struct dl_run *r, const struct sched_table *t)
{
    if (dl_run_is_dry(r)) return false;
    if (r->mode == DL_EAGER) return t->step[r->step].draws != 0;
    for (int32_t k = 0; k < t->n; k++)
        if (t->step[k].draws) return true;
    return false;
}

bool dl_check_sched_step(struct dl_run *r, struct dl_sched_step *a)
{
    struct view v = {r, "sched_step", &a->eps, &a->latent, NULL};
    if (!act_ok(&v, &a->eps, "eps", false) || !act_ok(&v, &a->latent, "latent", true)) return false;
    if (!a->table) return bad(&v, "scheduler table is absent");
    if (!dl_run_is_dry(r) && (r->step < 0 || r->step >= a->table->n))
        return bad(&v, "step %d of a table of %d", r->step, a->table->n);
    if (a->latent.t != DL_F32) return bad(&v, "latent is not f32");
    int32_t c = a->latent.c * (a->table->learned_var && a->table->use_var ? 2 : 1);
    if (!same_pixels(&a->eps, &a->latent) || a->eps.c < c) return bad(&v, "eps and latent differ in shape");
    if (a->table->slots && !a->history.p) return bad(&v, "history of %d slots is absent", a->table->slots);
    if (a->table->slots) {
        if (!act_ok(&v, &a->history, "history", true)) return false;
        if (a->history.t != DL_F32 || a->history.n < a->latent.n * a->table->slots ||
            !same_pixels(&a->history, &a->latent) || a->history.c != a->latent.c)
            return bad(&v, "history is [%d,%d,%d,%d] %s, not %d slots of the latent's shape", a->history.n,
                       a->history.h, a->history.w, a->history.c, dl_type_name(a->history.t), a->table->slots);
    }
    if (a->noise.p) {
        if (!act_ok(&v, &a->noise, "noise", false)) return false;
        if (a->noise.t != DL_F32 || a->noise.n != a->latent.n || !same_pixels(&a->noise, &a->latent) ||
            a->noise.c != a->latent.c)
            return bad(&v, "noise is [%d,%d,%d,%d] %s, not the latent's shape in f32", a->noise.n, a->noise.h,
                       a->noise.w, a->noise.c, dl_type_name(a->noise.t));
    }
    if (!a->noise.p && needs_noise(r, a->table)) return bad(&v, "the scheduler's step takes noise, and there is none");
    if (!a->c_row && !dl_run_is_dry(r)) return bad(&v, "row map c_row is absent");
    if (!isfinite(a->guidance)) return bad(&v, "guidance of %g", (double)a->guidance);
    return rows_ok(&v, a->c_row, a->latent.n, a->eps.n, "c_row") &&
           (!a->u_row || rows_ok(&v, a->u_row, a->latent.n, a->eps.n, "u_row"));
}

bool dl_check_image(struct dl_run *r, struct dl_image *a)
{
    struct view v = {r, "image", &a->x, NULL, NULL};
    if (!act_ok(&v, &a->x, "x", false)) return false;
    if (a->x.c < 3) return bad(&v, "x has less than 3 channels");
    return a->u8 || bad(&v, "the image's memory is absent");
}
