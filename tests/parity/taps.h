/* taps.h: comparison of a network's inner activations (taps) with a file of reference taps; tools/ref/networks.py says
 * how they are stored.
 *
 * In f32 every tap is held to `limit`, or to three times PyTorch's own f32 error against float64 where the file has
 * that ("f32/NAME") and it is larger. In bf16 (limit 0) the yardstick is PyTorch's own bf16 error, and two runs with
 * rounding of the same quality differ by chance, the more so as few attention weights decide over much: over 16 rows a
 * single tap's ratio scatters by some percent about its mean. So what is held to at most 1 is the root mean square of
 * the ratios, once over a network's results and once over all its taps.
 */
#ifndef TESTS_TAPS_H
#define TESTS_TAPS_H

#include "tests/parity/net.h"
#include "tests/parity/ref.h"

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

/* A denoiser's results y [n] in the steps, as the taps "step.0" and on. */
static inline void taps_steps(struct taps *k, const dl_act *y, int n)
{
    k->mute = false;
    for (int s = 0; s < n; s++) {
        char name[40];
        snprintf(name, sizeof name, "step.%d", s);
        taps_act(k, name, y[s]);
    }
}

/* How many taps were over; none that is stored may have been passed over. */
static inline int taps_over(const struct taps *k)
{
    int stored = 0;
    for (int64_t i = 0; i < st_file_count(k->ref); i++) stored += !strncmp(st_file_at(k->ref, i)->name, "norm/", 5);
    assert_int_equal(k->n, stored);
    return k->n_over;
}

/* A model's networks against its reference in a type, limit as in struct taps; returns taps_over. */
typedef int taps_compare(const struct machine *mc, const char *model, int type, double limit);

/* Each model on both backends, in f32 and (where the backend has it) in bf16: no tap is over. */
static inline void taps_f32(taps_compare *compare, const char *const *models, int n)
{
    for (int reference = 0; reference < 2; reference++) {
        struct machine mc = machine_open(reference);
        for (int i = 0; i < n; i++) assert_int_equal(compare(&mc, models[i], DL_F32, 1e-5), 0);
        machine_close(&mc);
    }
}

static inline void taps_bf16(taps_compare *compare, const char *const *models, int n)
{
    for (int reference = 1; reference >= 0; reference--) {
        struct machine mc = machine_open(reference);
        bool can = reference || mc.be->supports(mc.ctx, DL_BF16);
        if (!can)
            print_message("skipped: this machine has no bf16 primitives; the reference was held to the same limits\n");
        for (int i = 0; i < n && can; i++) assert_int_equal(compare(&mc, models[i], DL_BF16, 0), 0);
        machine_close(&mc);
    }
}

#endif
