/* parts.h: a CPU backend that wants partial statistics (dl_act's parts) and does not trust them: they are made of what
 * each op wrote, and when a group norm comes they must be those of what it reads. So models are tested, not kernels:
 * whether parts travel with their activation, and whether every group norm that could have them has them.
 */
#ifndef TESTS_PARTS_H
#define TESTS_PARTS_H

#include "tests/parity/net.h"

static struct {
    const struct dl_backend *real;
    struct dl_backend be;
    struct dl_ops ops;
    int norms; /* that had parts, in eager runs */
} parts_machine;

/* Mean and squared deviations of set `set` of row `row`, channel c. */
static inline void parts_of(dl_act a, int64_t row, int64_t set, int64_t c, float out[2])
{
    float v[DL_PART_PIXELS], mean = 0, square = 0;
    for (int k = 0; k < DL_PART_PIXELS; k++) {
        v[k] = dl_load(a.p, a.t, row * a.rs + (set * DL_PART_PIXELS + k) * a.ld + c);
        mean += v[k] / DL_PART_PIXELS;
    }
    for (int k = 0; k < DL_PART_PIXELS; k++) square += (v[k] - mean) * (v[k] - mean);
    out[0] = mean, out[1] = square;
}

/* Parts are written, or held against the values. */
static inline void parts_each(struct dl_run *r, dl_act a, bool write)
{
    const int64_t sets = (int64_t)a.h * a.w / DL_PART_PIXELS;
    if (dl_run_is_dry(r) || !dl_run_ok(r) || !a.parts) return;
    for (int64_t i = 0; i < a.n * sets * a.c; i++) {
        int64_t c = i % a.c, set = i / a.c % sets, row = i / a.c / sets;
        float *p = a.parts + ((row * sets + set) * a.ld + c) * 2, want[2];
        parts_of(a, row, set, c, want);
        if (write) p[0] = want[0], p[1] = want[1];
        else if (memcmp(p, want, sizeof want))
            fail_msg("gnorm [%d,%d,%d,%d]: channel %d of set %d has parts of other values", a.n, a.h, a.w, a.c, (int)c,
                     (int)set);
    }
}

static inline void parts_gemm(struct dl_run *r, const struct dl_gemm *a)
{
    parts_machine.real->ops->gemm(r, a);
    parts_each(r, a->y, true);
}

static inline void parts_conv(struct dl_run *r, const struct dl_conv *a)
{
    parts_machine.real->ops->conv(r, a);
    parts_each(r, a->y, true);
}

/* Norms without gamma are those of IF's text, behind no product. */
static inline void parts_gnorm(struct dl_run *r, const struct dl_gnorm *a, float *mean_rstd)
{
    if (!a->x.parts && a->x.h * a->x.w % DL_PART_PIXELS == 0 && a->gamma)
        fail_msg("gnorm [%d,%d,%d,%d] has no parts", a->x.n, a->x.h, a->x.w, a->x.c);
    parts_each(r, a->x, false);
    if (a->x.parts && !dl_run_is_dry(r)) parts_machine.norms++;
    parts_machine.real->ops->gnorm(r, a, mean_rstd);
}

/* Calls rows(mc, r, model) for each model, with runs in f32 on the default backend, checked in this way. */
static inline void parts_each_model(const char *const *models, int n,
                                    void (*rows)(const struct machine *mc, struct dl_run *r, const char *model))
{
    struct machine mc = machine_open(false);
    parts_machine.real = mc.be, parts_machine.be = *mc.be, parts_machine.ops = *mc.be->ops;
    parts_machine.be.parts = true, parts_machine.be.ops = &parts_machine.ops;
    parts_machine.ops.gemm = parts_gemm, parts_machine.ops.conv = parts_conv, parts_machine.ops.gnorm = parts_gnorm;
    for (int i = 0; i < n; i++) {
        struct machine parts = {.be = &parts_machine.be, .ctx = mc.ctx, .name = "parts"};
        struct dl_run r;
        parts_machine.norms = 0;
        dl_run_open(&r, parts.be, parts.ctx, DL_F32);
        rows(&parts, &r, models[i]);
        print_message("%s: %d group norms had the right parts\n", models[i], parts_machine.norms);
        assert_true(parts_machine.norms > 0);
        dl_run_close(&r);
    }
    machine_close(&mc);
}

#endif
