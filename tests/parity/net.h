/* net.h: what the tests of networks share: a backend with memory and activations, runs from dry to eager. */
#ifndef TESTS_NET_H
#define TESTS_NET_H

#include "kernels/cpu/cpu.h"
#include "tests/unit/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct machine {
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    const char *name;
};

static inline struct machine machine_open(bool reference)
{
    struct machine m = {.name = reference ? "reference" : "default"};
    must(cpu_open(&m.be, &m.ctx, &(struct dl_cpu_opts){.threads = 2, .reference_only = reference}, e));
    return m;
}

static inline void machine_close(struct machine *m) { m->be->close(m->ctx); }

/* Backend memory, released by net_free. */
static inline void *net_alloc(const struct machine *m, int64_t bytes)
{
    void *p = NULL;
    must(m->be->alloc(m->ctx, bytes, &p, e));
    return p;
}

static inline void net_free(const struct machine *m, void *p) { m->be->free(m->ctx, p); }

/* An activation in backend memory of its own. */
static inline dl_act net_act(const struct machine *m, int t, int n, int h, int w, int c)
{
    return dl_act_at(net_alloc(m, (int64_t)n * h * w * c * dl_type_bytes(t)), t, n, h, w, c);
}

/* The same, of rows `row` [n] of f32 data [..][h][w][c]. */
static inline dl_act net_pick(const struct machine *m, int t, const float *from, const int32_t *row, int n, int h,
                              int w, int c)
{
    int64_t each = (int64_t)h * w * c;
    dl_act a = net_act(m, t, n, h, w, c);
    for (int i = 0; i < n; i++)
        dl_convert((uint8_t *)a.p + i * each * dl_type_bytes(t), t, from + row[i] * each, DL_F32, each);
    return a;
}

/* Numbers in backend memory as type t, and a whole activation as f32 (to be freed). */
static inline void *net_put(const struct machine *m, int t, const float *x, int64_t n)
{
    void *p = net_alloc(m, n * dl_type_bytes(t));
    dl_convert(p, t, x, DL_F32, n);
    return p;
}

static inline float *net_get(dl_act a)
{
    int64_t pixels = (int64_t)a.h * a.w, n = a.n * pixels * a.c;
    float *out = malloc((size_t)n * sizeof *out), *to = out;
    assert_non_null(out);
    for (int i = 0; i < a.n; i++)
        for (int64_t p = 0; p < pixels; p++, to += a.c)
            dl_convert(to, DL_F32, (uint8_t *)a.p + (i * a.rs + p * a.ld) * dl_type_bytes(a.t), a.t, a.c);
    return out;
}

/* Runs a phase twice: dry, to learn its memory and weight forms, then for real. */
static inline void net_run(struct dl_run *r, const struct machine *m, struct dl_wset *weights,
                           void (*phase)(struct dl_run *, void *), void *arg)
{
    dl_run_dry(r);
    phase(r, arg);
    must(dl_run_check(r, e));
    must(dl_run_load(r, weights, e));
    int64_t peak = r->arena.peak_bytes;
    void *arena = net_alloc(m, peak);
    memset(arena, 0xff, (size_t)peak); /* NaN where something is read before it is written */
    dl_run_bind(r, arena, peak);
    phase(r, arg);
    must(dl_run_check(r, e));
    assert_int_equal(r->arena.peak_bytes, peak); /* as planned */
    net_free(m, arena);
}

/* n rows of one run from from_a on are those of another, byte for byte. */
static inline void net_same_rows(dl_act a, int from_a, dl_act b, int from_b, int n, const char *what)
{
    dl_act x = dl_act_rows(a, from_a, n), y = dl_act_rows(b, from_b, n);
    if (dl_act_bytes(x) != dl_act_bytes(y) || memcmp(x.p, y.p, (size_t)dl_act_bytes(x)))
        fail_msg("%s: row %d of one run is not row %d of the other", what, from_a, from_b);
}

/* Calls rows(mc, r, model) for each model, with runs in f32 and bf16 on the default backend. */
static inline void net_each_type(const char *const *models, int n,
                                 void (*rows)(const struct machine *mc, struct dl_run *r, const char *model))
{
    static const int types[] = {DL_F32, DL_BF16};
    struct machine mc = machine_open(false);
    for (int i = 0; i < 2 * n; i++) {
        struct dl_run r;
        int t = types[i % 2];
        if (!mc.be->supports(mc.ctx, t)) print_message("no bf16 primitives here: rows of the reference\n");
        dl_run_open(&r, mc.be, mc.ctx, t);
        rows(&mc, &r, models[i / 2]);
        dl_run_close(&r);
    }
    machine_close(&mc);
}

#endif
