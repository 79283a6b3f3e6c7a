#include "tools/bench/case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETS_MAX = 512, BLOCK = 1024 };

/* How an operand's values are made: uniform in mean +- amp, or their absolute values. */
struct values {
    float mean, amp;
    bool magnitude;
};

static const float unit = 1.7320508f; /* half width of a uniform distribution of variance 1 */

static void fill(void *p, int t, int64_t n, uint64_t seed, struct values v)
{
    float block[BLOCK];
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t c = n - at < BLOCK ? n - at : BLOCK;
        for (int64_t i = 0; i < c; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            float f = v.mean + v.amp * ((float)(int32_t)(x >> 32) * 0x1p-31f);
            block[i] = v.magnitude ? fabsf(f) : f;
        }
        dl_convert((uint8_t *)p + at * dl_type_bytes(t), t, block, DL_F32, c);
    }
}

static int64_t aligned(int64_t bytes) { return (bytes + DL_ALIGN - 1) & ~(int64_t)(DL_ALIGN - 1); }

static bool same_place(const dl_act *a, const dl_act *b)
{
    return a->p == b->p && a->n == b->n && a->h == b->h && a->w == b->w && a->c == b->c && a->ld == b->ld &&
           a->rs == b->rs && a->t == b->t;
}

/* Where each operand lies in a set's memory. */
struct layout {
    struct operands o;
    int64_t act[8], vec[6], block[2], bytes;
};

static void lay_out(enum op_kind kind, union op_args *a, struct layout *l)
{
    *l = (struct layout){0};
    op_operands(kind, a, &l->o);
    for (int i = 0; i < l->o.n_act; i++) {
        l->act[i] = -1;
        for (int j = 0; j < i && l->o.act[i].twin; j++)
            if (l->o.act[j].a == l->o.act[i].twin && same_place(l->o.act[i].a, l->o.act[j].a)) l->act[i] = l->act[j];
        if (l->act[i] >= 0) continue;
        l->act[i] = l->bytes;
        l->bytes += aligned(dl_act_bytes(*l->o.act[i].a));
    }
    for (int i = 0; i < l->o.n_vec; i++) {
        l->vec[i] = l->bytes;
        l->bytes += aligned(l->o.vec[i].count * dl_type_bytes(l->o.vec[i].v->t));
    }
    for (int i = 0; i < l->o.n_block; i++) l->block[i] = l->bytes, l->bytes += aligned(l->o.block[i].bytes);
}

/* Mean and reciprocal deviation of nearly normalised data; their magnitudes make the largest normalised magnitude. */
static void fill_stats(float *p, int64_t n, bool magnitude)
{
    for (int64_t i = 0; i < n; i++) {
        float m = 0.1f * (float)(i % 7 - 3) / 3;
        p[2 * i] = magnitude ? -fabsf(m) : m, p[2 * i + 1] = 1 + 0.05f * (float)(i % 5);
    }
}

static void fill_angles(float *p, int64_t pairs)
{
    for (int64_t i = 0; i < pairs; i++) p[2 * i] = cosf((float)i * 0.37f), p[2 * i + 1] = sinf((float)i * 0.37f);
}

/* Parts of x [dl_act_bytes] as a product would have left them; only a gnorm reads any. */
static void fill_parts(float *p, const dl_act *a, const void *x)
{
    int64_t sets = (int64_t)a->h * a->w / DL_PART_PIXELS;
    for (int64_t i = 0; i < a->n * sets * a->c; i++) {
        int64_t c = i % a->c, row = i / a->c / sets, set = i / a->c % sets;
        int64_t from = row * a->rs + set * DL_PART_PIXELS * a->ld + c;
        double mean = 0, square = 0, v[DL_PART_PIXELS];
        for (int k = 0; k < DL_PART_PIXELS; k++) v[k] = (double)dl_load(x, a->t, from + k * a->ld);
        for (int k = 0; k < DL_PART_PIXELS; k++) mean += v[k] / DL_PART_PIXELS;
        for (int k = 0; k < DL_PART_PIXELS; k++) square += (v[k] - mean) * (v[k] - mean);
        float *to = p + ((row * sets + set) * a->ld + c) * 2;
        to[0] = (float)mean, to[1] = (float)square;
    }
}

static void fill_image(struct case_run *c, struct layout *l, enum case_values how)
{
    bool mag = how == CASE_MAGNITUDES;
    uint8_t *at = c->image;
    for (int i = 0; i < l->o.n_act; i++) {
        const dl_act *a = l->o.act[i].a;
        int64_t bytes = dl_act_bytes(*a);
        bool read = !l->o.act[i].out || c->k->kind == OP_SCHED_STEP;
        bool abs_v = how == CASE_ABS_V && c->k->kind == OP_ATTN && i == 3; /* y, q, k, v */
        if (read)
            fill(at + l->act[i], a->t, bytes / dl_type_bytes(a->t), 11 + (uint64_t)i,
                 (struct values){0, unit, mag || abs_v});
        else
            memset(at + l->act[i], 0xff, (size_t)bytes);
    }
    for (int i = 0; i < l->o.n_vec; i++)
        fill(at + l->vec[i], l->o.vec[i].v->t, l->o.vec[i].count, 31 + (uint64_t)i, (struct values){0, 0.5f, mag});
    for (int i = 0; i < l->o.n_block; i++) {
        float *p = (float *)(void *)(at + l->block[i]);
        if (l->o.block[i].what == BLOCK_STATS) fill_stats(p, l->o.block[i].bytes / 8, mag);
        if (l->o.block[i].what == BLOCK_ANGLES) fill_angles(p, l->o.block[i].bytes / 8);
        if (l->o.block[i].what == BLOCK_PARTS && !l->o.block[i].out)
            fill_parts(p, l->o.act[0].a, at + l->act[0]);
        if (l->o.block[i].what == BLOCK_PIXELS) memset(p, 0xaa, (size_t)l->o.block[i].bytes);
    }
}

/* Norm gains are vectors that are no bias. */
static struct values weight_values(const struct case_run *c, const struct dl_w *w, bool mag)
{
    int64_t in = w->dim[0] ? dl_w_count(w) / w->dim[0] : 1;
    size_t n = strlen(w->name);
    bool bias = n > 5 && !strcmp(w->name + n - 5, ".bias");
    if (c->k->kind == OP_EMBED || c->k->kind == OP_REL_BIAS) return (struct values){0, unit, mag};
    if (w->nd == 1 && !bias) return (struct values){1, 0.1f, mag};
    if (w->nd == 1) return (struct values){0, 0.1f, mag};
    return (struct values){0, unit / sqrtf((float)in), mag};
}

/* In which weights lie. */
static int stored_type(const struct tape_case *k) { return k->run_t == DL_E4M3 ? DL_BF16 : k->run_t; }

static int fill_weights(struct case_run *c, struct layout *l, enum case_values how, struct dl_err *e)
{
    for (int i = 0; i < l->o.n_w; i++) {
        const struct dl_w *w = *l->o.w[i];
        int64_t n = dl_w_count(w);
        c->host_w[i] = malloc((size_t)n * (size_t)dl_type_bytes(stored_type(c->k)));
        if (!c->host_w[i]) return dl_fail(e, DL_ENOMEM, "no memory for a benchmark's weights");
        fill(c->host_w[i], stored_type(c->k), n, 51 + (uint64_t)i, weight_values(c, w, how == CASE_MAGNITUDES));
    }
    return 0;
}

static int open_set(struct case_run *c, struct case_set *s, bool runs, struct dl_err *e)
{
    struct layout l;
    s->a = c->k->a;
    lay_out(c->k->kind, &s->a, &l);
    if (c->be->alloc(c->ctx, c->set_bytes, &s->mem, e) < 0) return -1;
    if (c->be->upload(c->ctx, s->mem, c->image, c->set_bytes, e) < 0) return -1;
    uint8_t *at = s->mem;
    for (int i = 0; i < l.o.n_act; i++) l.o.act[i].a->p = at + l.act[i];
    for (int i = 0; i < l.o.n_vec; i++) l.o.vec[i].v->p = at + l.vec[i], l.o.vec[i].v->ss = 0;
    for (int i = 0; i < l.o.n_block; i++) *l.o.block[i].p = at + l.block[i];
    for (int i = 0; i < l.o.n_w; i++) {
        const struct dl_w *from = *l.o.w[i];
        s->w[i] = (struct dl_w){.nd = from->nd, .n_parts = 1};
        memcpy(s->w[i].dim, from->dim, sizeof from->dim);
        s->w[i].part[0] = (struct dl_wpart){.file = c->host_w[i], .rows = from->dim[0], .t = (uint8_t)stored_type(c->k)};
        if (dl_wset_add(&s->weights, &s->w[i], from->name, e) < 0) return -1;
        *l.o.w[i] = &s->w[i];
    }
    if (!runs) return 0;
    dl_run_dry(&c->run);
    case_enqueue(c, (int)(s - c->set));
    if (dl_run_check(&c->run, e) < 0) return -1;
    c->scratch_bytes = c->run.arena.peak_bytes;
    return dl_run_load(&c->run, &s->weights, e);
}

static int open_all(struct case_run *c, const struct tape_case *k, const struct dl_backend *be, struct dl_ctx *ctx,
                    int sets, bool runs, enum case_values values, struct dl_err *e)
{
    *c = (struct case_run){.k = k, .be = be, .ctx = ctx};
    struct layout l;
    union op_args a = k->a;
    lay_out(k->kind, &a, &l);
    dl_run_open(&c->run, be, ctx, k->run_t);
    c->set_bytes = l.bytes;
    c->image = malloc((size_t)l.bytes + 1);
    c->set = calloc((size_t)sets, sizeof *c->set);
    if (!c->image || !c->set) {
        dl_fail(e, DL_ENOMEM, "no memory for the operands of %s %s", op_name(k->kind), k->shape);
        goto fail;
    }
    fill_image(c, &l, values);
    if (fill_weights(c, &l, values, e) < 0) goto fail;
    for (; c->n_sets < sets; c->n_sets++)
        if (open_set(c, &c->set[c->n_sets], runs, e) < 0) {
            c->n_sets++; /* what it has is freed */
            goto fail;
        }
    if (runs && be->alloc(ctx, c->scratch_bytes + DL_ALIGN, &c->scratch, e) < 0) goto fail;
    return 0;
fail:
    dl_fail_in(e, "%s %s", op_name(k->kind), k->shape);
    case_close(c);
    return -1;
}

int case_open(struct case_run *c, const struct tape_case *k, const struct dl_backend *be, struct dl_ctx *ctx, int sets,
              enum case_values values, struct dl_err *e)
{
    return open_all(c, k, be, ctx, sets, true, values, e);
}

int case_operands(struct case_run *c, const struct tape_case *k, const struct dl_backend *be, struct dl_ctx *ctx,
                  enum case_values values, struct dl_err *e)
{
    return open_all(c, k, be, ctx, 1, false, values, e);
}

void case_close(struct case_run *c)
{
    for (int i = 0; i < c->n_sets; i++) {
        dl_wset_close(&c->set[i].weights);
        if (c->set[i].mem) c->be->free(c->ctx, c->set[i].mem);
    }
    for (int i = 0; i < 6; i++) free(c->host_w[i]);
    if (c->scratch) c->be->free(c->ctx, c->scratch);
    free(c->set);
    free(c->image);
    dl_run_close(&c->run);
    *c = (struct case_run){0};
}

void case_enqueue(struct case_run *c, int i)
{
    struct dl_mark m = dl_arena_mark(&c->run.arena);
    op_call(&c->run, c->k->kind, &c->set[i].a, &c->stat);
    dl_arena_release(&c->run.arena, m);
}

int case_once(struct case_run *c, int i, struct dl_err *e)
{
    dl_run_bind(&c->run, c->scratch, c->scratch_bytes);
    case_enqueue(c, i);
    c->variant = c->run.variant;
    return dl_run_check(&c->run, e);
}

int case_sets_for(const struct tape_case *k, int64_t bytes)
{
    int64_t n = k->bytes > 0 ? bytes / k->bytes + 1 : 1;
    return n < SETS_MAX ? (int)n : SETS_MAX;
}

static struct tape_case plain(enum op_kind kind, int type)
{
    return (struct tape_case){.kind = kind, .phase = TAPE_OFF, .run_t = (uint8_t)type, .count = 1};
}

/* Any address that is not NULL stands for memory. */
static dl_act somewhere(int type, int64_t m, int64_t n)
{
    static char place;
    return dl_act_at(&place, type, 1, 1, (int32_t)m, (int32_t)n);
}

struct tape_case case_gemm(struct dl_w *w, int type, int64_t m, int64_t n, int64_t k)
{
    struct tape_case c = plain(OP_GEMM, type);
    *w = (struct dl_w){.name = "plain.weight", .nd = 2, .dim = {n, k, 1, 1}, .n_parts = 1};
    c.a.gemm = (struct dl_gemm){.x = somewhere(type, m, k), .y = somewhere(type, m, n), .w = w};
    c.flops = 2 * m * n * k;
    c.bytes = (m * k + n * k + m * n) * dl_type_bytes(type);
    snprintf(c.shape, sizeof c.shape, "%lld->%lld %lld", (long long)k, (long long)n, (long long)m);
    return c;
}

struct tape_case case_copy(int type, int64_t m, int64_t n)
{
    struct tape_case c = plain(OP_COPY, type);
    c.a.copy = (struct dl_copy){.x = somewhere(type, m, n), .y = somewhere(type, m, n)};
    c.a.copy.y.p = (char *)c.a.copy.y.p + 1; /* apart */
    c.bytes = 2 * m * n * dl_type_bytes(type);
    snprintf(c.shape, sizeof c.shape, "%lldx%lld", (long long)m, (long long)n);
    return c;
}
