/* gnorm, norm and lnorm of both CPU tables against plain loops. */
#include "tests/kernels/oracle.h"

/* Mean and 1 / sqrt(var + eps) over channels [c0, c0 + size) of all pixels [p0, p0 + pixels) of row i. */
struct moments {
    double mean, rstd, square, size; /* square: rstd of the RMS norm; size: mean of |x|, what a mean's error goes by */
};

static struct moments moments(dl_act x, int64_t i, int64_t p0, int64_t pixels, int64_t c0, int64_t size, double eps)
{
    double mean = 0, var = 0, square = 0, big = 0, n = (double)(pixels * size);
    for (int64_t q = 0; q < pixels * size; q++) {
        double v = t_at(x, i, p0 + q / size, c0 + q % size);
        mean += v / n, square += v * v / n, big += fabs(v) / n;
    }
    for (int64_t q = 0; q < pixels * size; q++) var += pow(t_at(x, i, p0 + q / size, c0 + q % size) - mean, 2) / n;
    return (struct moments){mean, 1 / sqrt(var + eps), 1 / sqrt(square + eps), big};
}

/* ((v - mean) * rstd * gamma + beta) * (1 + scale) + shift; by root mean square: v * square instead. */
static struct val affine(double v, const struct moments *m, bool rms, double gamma, double beta, double scale,
                         double shift)
{
    double k = 1 + scale, x = rms ? v * m->square : (v - m->mean) * m->rstd;
    double big = (fabs(v) + (rms ? 0 : m->size)) * (rms ? m->square : m->rstd);
    return (struct val){(x * gamma + beta) * k + shift,
                        C_ACC * u_acc * (big * fabs(gamma * k) + fabs(beta * k) + fabs(shift))};
}

struct norm_case {
    const char *name;
    uint8_t t, ty, fn;
    int n, h, w, c, groups, shift, pad, in_place;
    double mean, amp;
};

static const struct norm_case norm_cases[] = {
    {"gn 32 of 64, 8x8", DL_F32, DL_F32, DL_NONE, 2, 8, 8, 64, 32, 0, 0, 0, 0.2, 1},
    {"gn 32 of 320 silu", DL_F32, DL_F32, DL_SILU, 2, 4, 4, 320, 32, 0, 0, 0, -0.5, 2},
    {"gn one pixel", DL_F32, DL_F32, DL_NONE, 2, 1, 1, 32, 8, 0, 0, 0, 0, 1},
    {"gn far from zero", DL_F32, DL_F32, DL_NONE, 1, 16, 16, 32, 4, 0, 0, 0, 100, 1},
    {"gn pitched odd 5 of 35", DL_F32, DL_F32, DL_SILU, 3, 5, 7, 35, 5, 0, 3, 0, 0, 1},
    {"gn in place", DL_F32, DL_F32, DL_SILU, 2, 5, 3, 32, 8, 0, 0, 1, 0, 1},
    {"gn scale shift", DL_F32, DL_F32, DL_GELU, 2, 5, 3, 32, 8, 1, 4, 0, 0, 1},
    {"gn bf16", DL_BF16, DL_BF16, DL_SILU, 2, 8, 8, 64, 32, 0, 0, 0, 0.2, 1},
    {"gn bf16 -> f32", DL_BF16, DL_F32, DL_NONE, 2, 4, 8, 48, 4, 1, 2, 0, 0.2, 1},
    {"gn f16", DL_F16, DL_F16, DL_SILU, 2, 8, 8, 64, 32, 0, 0, 0, 0.2, 1},
};

struct norm_job {
    struct dl_gnorm g;
    struct dl_norm a;
    double *stat; /* [n][groups][2] as the op gave them; NULL: not wanted */
};

static void call_norm(struct dl_run *r, void *arg)
{
    struct norm_job j = *(struct norm_job *)arg;
    struct dl_mark m = dl_arena_mark(&r->arena);
    j.a.s = dl_op_gnorm(r, j.g);
    if (!dl_run_is_dry(r) && j.stat)
        for (int k = 0; k < j.g.x.n * j.g.groups * 2; k++) j.stat[k] = (double)j.a.s.mean_rstd[k];
    dl_op_norm(r, j.a);
    dl_arena_release(&r->arena, m);
}

static void norm_case(const struct norm_case *k, int table)
{
    const int step = k->shift ? 1 : 0, size = k->c / k->groups, pixels = k->h * k->w;
    dl_act x = t_random(t_act(k->t, k->n, k->h, k->w, k->c, k->pad), k->mean, k->amp);
    struct norm_job j = {.g = {.x = x, .groups = k->groups, .eps = 1e-6f}, .a = {.x = x, .fn = k->fn}};
    j.g.gamma = t_w1(k->t, k->c, 1, 0.5), j.g.beta = t_w1(DL_F32, k->c, 0, 0.5);
    j.a.y = k->in_place ? x : t_act(k->ty, k->n, k->h, k->w, k->c, k->pad);
    if (k->shift) j.g.scale = t_vec(k->t, 2, k->n, k->c, 0, 1), j.g.shift = t_vec(DL_F32, 2, k->n, k->c, 0, 1);
    j.stat = t_mem(k->n * k->groups * 2 * (int64_t)sizeof *j.stat);
    struct val *want = t_want(j.a.y), *w = want;
    for (int64_t i = 0; i < k->n; i++)
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t c = 0; c < k->c; c++) {
                struct moments m = moments(x, i, 0, pixels, c / size * size, size, 1e-6);
                double s = k->shift ? t_vec_at(j.g.scale, step, i, c) : 0;
                double d = k->shift ? t_vec_at(j.g.shift, step, i, c) : 0;
                struct val v =
                    affine(t_at(x, i, p, c), &m, false, t_w_at(j.g.gamma, c, k->t), t_w_at(j.g.beta, c, k->t), s, d);
                *w++ = t_fn(k->fn, v);
            }
    dl_act x0 = t_act(k->t, k->n, k->h, k->w, k->c, k->pad);
    memcpy(x0.p, x.p, (size_t)(x.rs * x.n * dl_type_bytes(x.t)));
    struct moments m = moments(x0, k->n - 1, 0, pixels, k->c - size, size, 1e-6);
    rig_run(table, k->t, step, call_norm, &j);
    t_compare(k->name, table, j.a.y, want);
    const double *last = j.stat + (k->n * k->groups - 1) * 2;
    assert_true(fabs(last[0] - m.mean) <= C_ACC * u_acc * m.size);
    assert_true(fabs(last[1] - m.rstd) <= 1e-4 * m.rstd);
    for (int i = 0; i < k->n; i++) {
        struct norm_job one = j;
        one.g.x = one.a.x = t_row(x0, i), one.a.y = t_act(k->ty, 1, k->h, k->w, k->c, 0), one.stat = NULL;
        one.g.scale = t_vec_row(j.g.scale, i), one.g.shift = t_vec_row(j.g.shift, i);
        rig_run(table, k->t, step, call_norm, &one);
        t_same_row(k->name, j.a.y, i, one.a.y);
    }
}

static void group_norms_hold(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof norm_cases / sizeof norm_cases[0]; i++)
        for (int table = 0; table < TABLES; table++) {
            norm_case(&norm_cases[i], table);
            rig_clear(NULL);
        }
}

struct lnorm_case {
    const char *name;
    uint8_t t, ty;
    int n, w, c, rms, weights, shift, pad;
    double mean;
};

static const struct lnorm_case lnorm_cases[] = {
    {"ln 77x768", DL_F32, DL_F32, 1, 77, 768, 0, 2, 0, 0, 0.3},
    {"ln odd 5x13 pitched", DL_F32, DL_F32, 3, 5, 13, 0, 2, 0, 3, 0},
    {"ln one channel pair", DL_F32, DL_F32, 1, 1, 2, 0, 2, 0, 0, 0},
    {"ln far from zero", DL_F32, DL_F32, 1, 3, 320, 0, 2, 0, 0, 50},
    {"ln adaLN, no weights", DL_F32, DL_F32, 2, 9, 64, 0, 0, 1, 0, 0},
    {"rms 128x64", DL_F32, DL_F32, 2, 128, 64, 1, 1, 0, 0, 0.5},
    {"rms odd, no weight", DL_F32, DL_F32, 2, 3, 37, 1, 0, 0, 1, 0.5},
    {"ln bf16", DL_BF16, DL_BF16, 2, 77, 64, 0, 2, 0, 0, 0.3},
    {"ln bf16 adaLN -> f32", DL_BF16, DL_F32, 2, 7, 48, 0, 2, 1, 4, 0.3},
    {"rms bf16", DL_BF16, DL_BF16, 2, 7, 48, 1, 1, 0, 0, 0.3},
    {"ln f16", DL_F16, DL_F16, 2, 77, 64, 0, 2, 0, 0, 0.3},
};

static void call_lnorm(struct dl_run *r, void *arg) { dl_op_lnorm(r, *(struct dl_lnorm *)arg); }

static void lnorm_case(const struct lnorm_case *k, int table)
{
    const int step = k->shift ? 1 : 0;
    struct dl_lnorm a = {.x = t_random(t_act(k->t, k->n, 1, k->w, k->c, k->pad), k->mean, 1.5)};
    a.y = t_act(k->ty, k->n, 1, k->w, k->c, k->pad), a.eps = 1e-5f, a.rms = k->rms;
    if (k->weights > 0) a.gamma = t_w1(DL_F32, k->c, 1, 0.5);
    if (k->weights > 1) a.beta = t_w1(k->t, k->c, 0, 0.5);
    if (k->shift) a.scale = t_vec(DL_F32, 2, k->n, k->c, 0, 1), a.shift = t_vec(k->t, 2, k->n, k->c, 0, 1);
    struct val *want = t_want(a.y), *w = want;
    for (int64_t i = 0; i < k->n; i++)
        for (int64_t p = 0; p < k->w; p++) {
            struct moments m = moments(a.x, i, p, 1, 0, k->c, 1e-5);
            for (int64_t c = 0; c < k->c; c++) {
                double gamma = a.gamma ? t_w_at(a.gamma, c, k->t) : 1, beta = a.beta ? t_w_at(a.beta, c, k->t) : 0;
                double s = k->shift ? t_vec_at(a.scale, step, i, c) : 0;
                double d = k->shift ? t_vec_at(a.shift, step, i, c) : 0;
                *w++ = affine(t_at(a.x, i, p, c), &m, k->rms, gamma, beta, s, d);
            }
        }
    rig_run(table, k->t, step, call_lnorm, &a);
    t_compare(k->name, table, a.y, want);
    for (int i = 0; i < k->n; i++) {
        struct dl_lnorm one = a;
        one.x = t_row(a.x, i), one.y = t_act(k->ty, 1, 1, k->w, k->c, 0);
        one.scale = t_vec_row(a.scale, i), one.shift = t_vec_row(a.shift, i);
        rig_run(table, k->t, step, call_lnorm, &one);
        t_same_row(k->name, a.y, i, one.y);
    }
}

static void layer_norms_hold(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lnorm_cases / sizeof lnorm_cases[0]; i++)
        for (int table = 0; table < TABLES; table++) {
            lnorm_case(&lnorm_cases[i], table);
            rig_clear(NULL);
        }
}

/* (-1, 1, 3) has mean 1 and variance 8/3; with eps 1/3 the divisor is sqrt(3). Its mean square is 11/3. */
static void by_hand(void **state)
{
    (void)state;
    float *x = t_copy((float[]){-1, 1, 3}, 12), *y = t_mem(12);
    struct dl_lnorm a = {.x = dl_act_at(x, DL_F32, 1, 1, 1, 3), .y = dl_act_at(y, DL_F32, 1, 1, 1, 3), .eps = 1.0f / 3};
    for (int table = 0; table < TABLES; table++) {
        a.rms = false;
        rig_run(table, DL_F32, 0, call_lnorm, &a);
        assert_true(fabs((double)y[0] + 2 / sqrt(3)) < 1e-6 && y[1] == 0 && fabs((double)y[2] - 2 / sqrt(3)) < 1e-6);
        a.rms = true;
        rig_run(table, DL_F32, 0, call_lnorm, &a);
        assert_true(fabs((double)y[0] + 0.5) < 1e-6 && fabs((double)y[2] - 1.5) < 1e-6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(by_hand, rig_clear),
        cmocka_unit_test_teardown(group_norms_hold, rig_clear),
        cmocka_unit_test_teardown(layer_norms_hold, rig_clear),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
