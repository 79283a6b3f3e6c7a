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

static inline struct machine machine_open(bool reference) {
    struct machine m = {.name = reference ? "reference" : "default"};
    must(cpu_open(&m.be, &m.ctx, &(struct dl_cpu_opts){.threads = 2, .reference_only = reference}, e));
    return m;
}

static inline void machine_close(struct machine *m) {
    m->be->close(m->ctx);
}

/* Backend memory, released by net_free. */
static inline void *net_alloc(const struct machine *m, int64_t bytes) {
    void *p = NULL;
    must(m->be->alloc(m->ctx, bytes, &p, e));
    return p;
}

static inline void net_free(const struct machine *m, void *p) {
    m->be->free(m->ctx, p);
}

/* Numbers in backend memory as type t, and a whole activation as f32 (to be freed). */
static inline void *net_put(const struct machine *m, int t, const float *x, int64_t n) {
    void *p = net_alloc(m, n * dl_type_bytes(t));
    dl_convert(p, t, x, DL_F32, n);
    return p;
}

static inline float *net_get(dl_act a) {
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
                           void (*phase)(struct dl_run *, void *), void *arg) {
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

/* Comparison of taps with a file of reference taps. A limit of 0 stands for PyTorch's own bf16 error. */
struct taps {
    const struct st_file *ref;
    const char *prefix; /* put before the names that dl_tap gives */
    double limit;       /* of the relative L2 error; 0: the reference's own bf16 error */
    bool mute;          /* look at nothing */
    int n, n_over;
    double worst;
    char worst_name[240];
    double squares; /* bf16: sum of (our error / PyTorch's)^2 */
};

static inline const float *ref_floats(const struct st_file *f, const char *name, int64_t *n) {
    const struct st_tensor *t = st_find(f, name);
    if (!t || t->t != DL_F32) fail_msg("%s: no f32 tensor \"%s\"", st_file_path(f), name);
    *n = t->bytes / 4;
    return t->data;
}

/* x [n], channels last, against the tap `name`; prints a line. */
static inline void taps_check(struct taps *k, const char *name, const float *x, int64_t n) {
    char full[240], key[260];
    int64_t kept, one;
    snprintf(full, sizeof full, "%s%s", k->prefix, name);
    const float *ref = ref_floats(k->ref, full, &kept);
    snprintf(key, sizeof key, "norm/%s", full);
    const double ref_norm = *ref_floats(k->ref, key, &one);
    snprintf(key, sizeof key, "bf16/%s", full);
    const double torch_bf16 = *ref_floats(k->ref, key, &one);
    const int64_t limit = 5120, step = n <= limit ? 1 : ((n + limit - 1) / limit) | 1;
    assert_int_equal(kept, (n + step - 1) / step);
    double sum = 0, diff = 0, own = 0;
    for (int64_t i = 0; i < n; i++) own += (double)x[i] * x[i];
    for (int64_t i = 0; i < kept; i++) {
        double d = (double)x[i * step] - ref[i];
        diff += d * d, sum += (double)ref[i] * ref[i];
    }
    const double err = sqrt(diff / sum), norm_err = fabs(sqrt(own) / ref_norm - 1);
    /* Two runs with rounding of the same quality differ by chance: over n elements an error has a relative standard
     * deviation of 1 / sqrt(2 n), the ratio of two of 1 / sqrt(n). So a tap may be over by three of these, and the mean
     * over all taps by nothing (taps_mean). */
    const double budget = k->limit > 0 ? k->limit : torch_bf16 * (1 + 3 / sqrt((double)kept));
    const bool over = !(err <= budget) || !(norm_err <= budget);
    print_message("  %-42s error %.2e  norm %.1e  limit %.2e  %5.1f %%%s\n", full, err, norm_err, budget,
                  100 * err / budget, over ? "  OVER" : "");
    k->n++, k->n_over += over ? 1 : 0;
    k->squares += k->limit > 0 ? 0 : err * err / (torch_bf16 * torch_bf16);
    if (err / budget > k->worst) {
        k->worst = err / budget;
        snprintf(k->worst_name, sizeof k->worst_name, "%s", full);
    }
}

static inline void taps_act(struct taps *k, const char *name, dl_act a) {
    float *x = net_get(a);
    taps_check(k, name, x, (int64_t)a.n * a.h * a.w * a.c);
    free(x);
}

/* For dl_run.tap; user is a struct taps. */
static inline void taps_listen(void *user, struct dl_run *r, const char *name, dl_act a) {
    struct taps *k = user;
    (void)r;
    if (k->mute || !strcmp(name, "conv_out")) return; /* the UNet's result is compared as such, in each step */
    taps_act(k, name, a);
}

/* bf16: our error in units of PyTorch's, root mean square over all taps. */
static inline double taps_mean(const struct taps *k) {
    return sqrt(k->squares / k->n);
}

#endif
