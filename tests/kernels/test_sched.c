/* dl_op_sched_step with DDPM's tables, which use all that a step has: noise, learned variance, dynamic threshold,
 * guidance. Held to engine/sched.c, whose arrays are contiguous and know nothing of rows, pitches and types. */
#include "engine/sched.h"
#include "pipelines/sched.h"
#include "tests/kernels/oracle.h"

enum { TURNS = 8, IMAGES = 3, H = 9, W = 7, C = 3, PIXELS = H * W, N = PIXELS * C };

static void call_step(struct dl_run *r, void *arg) { dl_op_sched_step(r, *(struct dl_sched_step *)arg); }

static const int32_t c_rows[IMAGES] = {4, 1, 3}, u_rows[IMAGES] = {0, 0, 2};

static struct sched_table *ddpm(bool learned, double threshold)
{
    struct sched_table *t;
    struct dl_err e = {0};
    struct sched_config c = {.kind = SCHED_DDPM,
                             .train_steps = 1000,
                             .betas = SCHED_COSINE,
                             .spacing = SCHED_LEADING,
                             .learned_var = learned,
                             .threshold = threshold,
                             .threshold_max = 1.5};
    if (sched_plan(&t, &c, TURNS, 0, &e) < 0) fail_msg("%s", e.msg);
    assert_true(t->use_var == learned && t->step[0].draws && !t->step[TURNS - 1].draws);
    return t;
}

/* Contiguous copy [N] of channels [from, from + C). */
static void flat(float *d, dl_act a, int64_t i, int64_t from)
{
    for (int64_t k = 0; k < N; k++) d[k] = (float)t_at(a, i, k / C, from + k % C);
}

/* What sched.c makes of image i, and in e what the exponential of a learned variance may add on a device. */
static void want_image(const struct dl_sched_step *a, int step, int i, struct val *want)
{
    static float x[N], c[N], u[N], var[N], noise[N], work[N];
    struct sched_image im = {.x = x, .cond = c, .uncond = a->u_row ? u : NULL, .var = var, .noise = noise};
    flat(x, a->latent, i, 0);
    flat(c, a->eps, c_rows[i], 0);
    flat(u, a->eps, u_rows[i], 0);
    if (a->table->use_var) flat(var, a->eps, c_rows[i], C);
    if (a->noise.p) flat(noise, a->noise, i, 0);
    if (a->table->threshold > 0) im.threshold = sched_threshold(a->table, step, a->guidance, &im, N, work);
    sched_apply(a->table, step, a->guidance, &im, N);
    for (int k = 0; k < N; k++)
        want[k] = (struct val){(double)x[k], a->table->use_var ? 4 * u_acc * fabs((double)noise[k]) : 0};
}

static void bits(const char *name, dl_act y, int64_t row, const struct val *want)
{
    for (int64_t k = 0; k < N; k++)
        if (t_at(y, row, k / C, k % C) != want[k].v)
            fail_msg("%s (%s): element %d of row %d is %.9g, not %.9g", name, rig.variant, (int)k, (int)row,
                     t_at(y, row, k / C, k % C), want[k].v);
}

struct sched_case {
    const char *name;
    bool learned, guided;
    double threshold;
};

static void one_case(const struct sched_case *k, int table, int t, int step)
{
    struct sched_table *plan = ddpm(k->learned, k->threshold);
    struct dl_sched_step a = {.table = plan, .c_row = c_rows, .u_row = k->guided ? u_rows : NULL, .guidance = 7};
    a.eps = t_random(t_act(t, 5, H, W, k->learned ? 2 * C : C, 1), 0, 1);
    a.latent = t_random(t_act(DL_F32, IMAGES, H, W, C, 2), 0, 1);
    if (plan->step[step].draws) a.noise = t_random(t_act(DL_F32, IMAGES, H, W, C, 1), 0, 3);
    struct val *want = t_want(a.latent);
    for (int i = 0; i < IMAGES; i++) want_image(&a, step, i, want + i * N);
    dl_act before = t_act(DL_F32, IMAGES, H, W, C, 2);
    memcpy(before.p, a.latent.p, (size_t)dl_act_bytes(before));
    rig_run(table, t, step, call_step, &a);
    t_compare(k->name, table, a.latent, want);
#ifndef RIG_CUDA
    for (int i = 0; i < IMAGES; i++) bits(k->name, a.latent, i, want + i * N);
#else
    if (!k->learned)
        for (int i = 0; i < IMAGES; i++) bits(k->name, a.latent, i, want + i * N);
#endif
    /* each image alone, by the same device: what the others are has no influence */
    for (int i = 0; i < IMAGES; i++) {
        struct dl_sched_step one = a;
        one.latent = t_row(before, i), one.noise = t_row(a.noise, i);
        one.c_row = c_rows + i, one.u_row = a.u_row ? u_rows + i : NULL;
        rig_run(table, t, step, call_step, &one);
        for (int64_t p = 0; p < PIXELS; p++)
            assert_memory_equal((float *)a.latent.p + t_index(a.latent, i, p, 0),
                                (float *)before.p + t_index(before, i, p, 0), C * sizeof(float));
    }
    sched_close(plan);
}

static void ddpm_steps(void **state)
{
    (void)state;
    static const struct sched_case cases[] = {
        {"ddpm", false, false, 0},
        {"ddpm guided", false, true, 0},
        {"ddpm learned variance", true, true, 0},
        {"ddpm threshold", false, true, 0.95},
        {"ddpm threshold, learned, guided", true, true, 0.95},
        {"ddpm threshold at the median", true, false, 0.5},
    };
    static const int steps[] = {0, 3, TURNS - 1}; /* the last draws nothing */
    for (size_t q = 0; q < sizeof cases / sizeof cases[0]; q++)
        for (int table = 0; table < TABLES; table++)
            for (int t = DL_F32; t <= DL_BF16; t++) {
                one_case(&cases[q], table, t, steps[(q + (size_t)t) % 3]);
                rig_clear(NULL);
            }
}

/* A whole image with channels enough that the threshold is seen to work: with values far above 1 it lies between its
 * limits, and what remains is within +-1. */
static void threshold_clips(void **state)
{
    (void)state;
    for (int table = 0; table < TABLES; table++) {
        struct sched_table *plan = ddpm(false, 0.95);
        struct dl_sched_step a = {.table = plan, .c_row = c_rows};
        a.eps = t_random(t_act(DL_F32, 5, H, W, C, 0), 0, 0.01);
        a.latent = t_random(t_act(DL_F32, IMAGES, H, W, C, 0), 0, 40);
        rig_run(table, DL_F32, TURNS - 1, call_step, &a); /* x' is the predicted clean image there */
        int at_limit = 0;
        for (int64_t k = 0; k < IMAGES * N; k++) {
            double v = fabs(t_at(a.latent, k / N, k % N / C, k % C));
            assert_true(v <= 1);
            at_limit += v == 1;
        }
        assert_true(at_limit > IMAGES * N / 2); /* most of 40 is beyond the largest threshold, 1.5 */
        sched_close(plan);
        rig_clear(NULL);
    }
}

/* A step that draws says so where it is given no noise, or noise of another shape. */
static void noise_is_asked_for(void **state)
{
    (void)state;
    struct sched_table *plan = ddpm(true, 0.95);
    for (int table = 0; table < TABLES; table++)
        for (int wrong = 0; wrong < 2; wrong++) {
            static _Alignas(DL_ALIGN) uint8_t mem[64];
            struct dl_run r;
            struct dl_err e = {0};
            struct dl_sched_step a = {.table = plan, .c_row = c_rows};
            a.eps = t_act(DL_F32, 5, H, W, 2 * C, 0), a.latent = t_act(DL_F32, IMAGES, H, W, C, 0);
            if (wrong) a.noise = t_act(DL_F32, IMAGES, H, W, C + 1, 0);
            dl_run_open(&r, rig.be[table], rig.ctx[table], DL_F32);
            dl_run_bind(&r, mem, sizeof mem);
            dl_op_sched_step(&r, a);
            assert_int_equal(dl_run_check(&r, &e), -1);
            assert_non_null(strstr(e.msg, wrong ? "noise is" : "takes noise"));
            dl_run_close(&r);
        }
    sched_close(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(ddpm_steps, rig_clear),
        cmocka_unit_test_teardown(threshold_clips, rig_clear),
        cmocka_unit_test_teardown(noise_is_asked_for, rig_clear),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
