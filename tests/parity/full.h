/* full.h: what the tests of full-size checkpoints share: where those are, inputs that both sides make by the same
 * integer arithmetic (tools/ref/refs.py: noise), and the comparison of a step.
 */
#ifndef TESTS_FULL_H
#define TESTS_FULL_H

#include "tests/parity/net.h"
#include "tests/parity/ref.h"

#include <time.h>
#include <unistd.h>

enum { FULL_PATH = 1000 };

/* Puts the path of folder NAME in DLENS_FULL_DIR in `folder`; skips, aloud, where that is not set. `bytes` says how
 * much room a checkpoint wants. Whether `file` in it is still to be made. */
static inline bool full_missing(char folder[FULL_PATH], const char *name, const char *file, const char *bytes)
{
    const char *dir = getenv("DLENS_FULL_DIR");
    char path[FULL_PATH + 100];
    if (!dir || !*dir) {
        print_message("skipped: DLENS_FULL_DIR is not set; it names a folder for the full-size checkpoint, %s\n",
                      bytes);
        skip();
    }
    snprintf(folder, FULL_PATH, "%s/%s", dir, name);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    bool missing = access(path, F_OK) != 0;
    if (missing) print_message("making %s\n", folder);
    return missing;
}

/* A 32-bit hash of salt and place as numbers in [-2, 2), times scale; to be freed. */
static inline float *full_noise(uint32_t salt, int64_t n, float scale)
{
    float *out = malloc((size_t)n * sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)i + salt * 0x9e3779b9u;
        x = (x ^ x >> 16) * 0x85ebca6bu;
        x = (x ^ x >> 13) * 0xc2b2ae35u;
        x ^= x >> 16;
        out[i] = ((float)(x >> 8) / 4194304 - 2) * scale;
    }
    return out;
}

/* That noise as an activation; net_free. */
static inline dl_act full_input(const struct machine *mc, int type, uint32_t salt, float scale, int n, int h, int w,
                                int c)
{
    int64_t count = (int64_t)n * h * w * c;
    float *x = full_noise(salt, count, scale);
    dl_act a = dl_act_at(net_put(mc, type, x, count), type, n, h, w, c);
    free(x);
    return a;
}

/* Relative L2 error of an f32 result against tensor `name` of the reference. */
static inline double full_error(const struct st_file *ref, const char *name, dl_act y)
{
    int64_t n;
    const float *want = ref_floats(ref, name, &n);
    assert_int_equal(n, (int64_t)y.n * y.h * y.w * y.c);
    return l2_error(y.p, want, n);
}

/* Time of a logged run by op and variant. */
static inline void full_times(const struct dl_run *r, const char *what)
{
    double all = 0;
    for (int64_t i = 0; i < r->n_log; i++) all += r->log[i].ms;
    print_message("%s: %.0f ms, %.1f GFLOP, peak %.1f MB\n", what, all, (double)r->account.flops * 1e-9,
                  (double)r->arena.peak_bytes * 1e-6);
    for (int64_t i = 0; i < r->n_log; i++) {
        const struct dl_log *l = &r->log[i];
        double ms = 0, flops = 0;
        int64_t n = 0;
        for (int64_t k = 0; k < r->n_log; k++) {
            const struct dl_log *o = &r->log[k];
            if (strcmp(o->op, l->op) || strcmp(o->variant, l->variant)) continue;
            if (k < i) break; /* counted with the first of its kind */
            ms += o->ms, flops += (double)o->flops, n++;
        }
        if (n)
            print_message("  %-11s %-28s %4d ops %8.1f ms %5.1f %% %7.1f GFLOP/s\n", l->op, l->variant, (int)n, ms,
                          100 * ms / all, flops / ms * 1e-6);
    }
}

static inline double full_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#endif
