/* net.h: what the parity tests share: a backend, runs from dry to eager, and comparison with stored reference taps
 * (tools/ref/networks.py says how they are stored).
 */
#ifndef TESTS_NET_H
#define TESTS_NET_H

#include "kernels/cpu/cpu.h"
#include "loaders/safetensors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A call that reports failure by a message. */
#define must(call)                                                                                                     \
    do {                                                                                                               \
        struct dl_err must_e = {0}, *e = &must_e;                                                                      \
        if ((call) < 0) fail_msg("%s: %s", #call, must_e.msg);                                                         \
    } while (0)

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

/* Comparison of taps with a file of reference taps.
 *
 * In f32 every tap is held to `limit`, or to three times PyTorch's own f32 error against float64 where the file has
 * that ("f32/NAME") and it is larger. In bf16 (limit 0) the yardstick is PyTorch's own bf16 error, and two runs with
 * rounding of the same quality differ by chance, the more so as few attention weights decide over much: over 16 rows a
 * single tap's ratio scatters by some percent about its mean. So what is held to at most 1 is the root mean square of
 * the ratios, once over a network's results and once over all its taps. */
struct taps {
    const struct st_file *ref;
    const char *prefix; /* put before the names that dl_tap gives */
    double limit;       /* of the relative L2 error; 0: PyTorch's bf16 error */
    bool mute;          /* look at nothing */
    int n, n_over;
    double squares[2]; /* (error / yardstick)^2 in this network: of all taps, of results */
    int count[2];
    double worst;
};

static inline const float *ref_floats(const struct st_file *f, const char *name, int64_t *n)
{
    const struct st_tensor *t = st_find(f, name);
    if (!t || t->t != DL_F32) fail_msg("%s: no f32 tensor \"%s\"", st_file_path(f), name);
    *n = t->bytes / 4;
    return t->data;
}

/* x [n], channels last, against the tap `name`; prints a line. */
static inline void taps_check(struct taps *k, const char *name, const float *x, int64_t n)
{
    char full[240], key[260];
    int64_t kept, one;
    snprintf(full, sizeof full, "%s%s", k->prefix, name);
    const float *ref = ref_floats(k->ref, full, &kept);
    snprintf(key, sizeof key, "norm/%s", full);
    const double ref_norm = *ref_floats(k->ref, key, &one);
    double yard = k->limit;
    snprintf(key, sizeof key, "%s/%s", k->limit > 0 ? "f32" : "bf16", full);
    if (k->limit == 0) yard = *ref_floats(k->ref, key, &one);
    if (k->limit > 0 && st_find(k->ref, key)) yard = fmax(yard, 3 * *ref_floats(k->ref, key, &one));
    const char *most = st_meta(k->ref, "limit"); /* elements of a tap that are stored */
    const int64_t limit = most ? atoll(most) : 5120, step = n <= limit ? 1 : ((n + limit - 1) / limit) | 1;
    assert_int_equal(kept, (n + step - 1) / step);
    double sum = 0, diff = 0, own = 0;
    for (int64_t i = 0; i < n; i++) own += (double)x[i] * x[i];
    for (int64_t i = 0; i < kept; i++) {
        double d = (double)x[i * step] - ref[i];
        diff += d * d, sum += (double)ref[i] * ref[i];
    }
    const double err = sqrt(diff / sum), norm_err = fabs(sqrt(own) / ref_norm - 1);
    const double ratio = err / yard;
    const bool result = !strncmp(name, "final.", 6) || !strncmp(name, "step.", 5) || !strcmp(name, "decoder.conv_out");
    const bool over = k->limit > 0 && (!(ratio <= 1) || !(norm_err <= yard));
    print_message("  %-42s error %.2e  norm %.1e  %s %.2e  %5.1f %%%s\n", full, err, norm_err,
                  k->limit > 0 ? "limit" : "PyTorch", yard, 100 * ratio, over ? "  OVER" : "");
    k->n++, k->n_over += over ? 1 : 0;
    for (int i = 0; i <= result; i++) k->squares[i] += ratio * ratio, k->count[i]++;
    if (ratio > k->worst) k->worst = ratio;
}

static inline void taps_act(struct taps *k, const char *name, dl_act a)
{
    float *x = net_get(a);
    taps_check(k, name, x, (int64_t)a.n * a.h * a.w * a.c);
    free(x);
}

/* For dl_run.tap; user is a struct taps. */
static inline void taps_listen(void *user, struct dl_run *r, const char *name, dl_act a)
{
    struct taps *k = user;
    (void)r;
    if (k->mute || !strcmp(name, "conv_out")) return; /* the UNet's result is compared as such, in each step */
    taps_act(k, name, a);
}

/* Begins and ends the taps of a network. */
static inline void taps_begin(struct taps *k, const char *prefix)
{
    *k = (struct taps){.ref = k->ref, .prefix = prefix, .limit = k->limit, .n = k->n, .n_over = k->n_over};
}

static inline void taps_end(struct taps *k)
{
    double all = sqrt(k->squares[0] / k->count[0]), results = sqrt(k->squares[1] / k->count[1]);
    bool over = k->limit == 0 && (!(all <= 1) || !(results <= 1));
    print_message("  %s results %.1f %% of %s, all taps %.1f %%, worst %.1f %%%s\n", k->prefix, 100 * results,
                  k->limit > 0 ? "the limit" : "PyTorch's error", 100 * all, 100 * k->worst, over ? "  OVER" : "");
    k->n_over += over ? 1 : 0;
}

#endif
