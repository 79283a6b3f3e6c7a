/* Partial statistics (kernels/cuda/parts.cu) in the shim: of values, against plain loops; group norm's statistics of them,
 * against the values. */
#include "tests/simt/check.h"

struct parts_case {
    const char *name;
    int t, n, h, w, c, groups, from, pad; /* from: first channel of a wider buffer; pad: its channels beyond the last */
    double mean, amp;
};

static const parts_case cases[] = {
    {"one set", DL_F32, 1, 4, 8, 8, 2, 0, 0, 0.3, 1},
    {"8x8, three rows", DL_F16, 3, 8, 8, 320, 32, 0, 0, -0.5, 1},
    {"8x8, three rows", DL_BF16, 3, 8, 8, 320, 32, 0, 0, -0.5, 1},
    {"columns of a wider one", DL_F16, 2, 2, 16, 40, 4, 24, 16, 0.3, 1},
    {"columns of a wider one, scalars", DL_BF16, 2, 2, 16, 30, 5, 3, 4, 0.3, 1},
    {"odd channels", DL_F32, 2, 6, 16, 35, 5, 0, 0, 0.3, 1},
    {"far from zero", DL_F32, 1, 16, 16, 32, 4, 0, 0, 1000, 0.01},
    {"far from zero, scalars", DL_F32, 1, 16, 16, 33, 3, 0, 0, -1000, 0.01},
    {"far from zero, many sets", DL_F32, 1, 64, 64, 64, 1, 0, 0, 1000, 0.01},
    {"one group of 24", DL_F16, 1, 1, 96, 24, 1, 0, 0, 0.3, 1},
    {"one group of 300 channels", DL_F16, 2, 4, 16, 300, 1, 0, 4, 0.3, 1},
    {"many sets", DL_BF16, 1, 64, 64, 80, 2, 0, 0, 2, 1},
    {"one group of 1100 channels, many sets", DL_F16, 1, 16, 16, 1100, 1, 0, 0, 0.3, 1},
};

static dl_act random_of(const parts_case &k)
{
    dl_act a = t_parts(t_act(k.t, k.n, k.h, k.w, k.from + k.c + k.pad, 0));
    a = dl_act_cols(a, k.from, k.c);
    t_random(a, k.mean, k.amp);
    for (int64_t i = 0; i < a.n; i++) /* what a row, a set and a channel have of their own */
        for (int64_t p = 0; p < (int64_t)a.h * a.w; p++)
            for (int64_t c = 0; c < a.c; c++) {
                double shift = k.amp * (double)(i + p / 32 % 5 + c % 7);
                dl_store(a.p, a.t, t_index(a, i, p, c), (float)(t_at(a, i, p, c) + shift));
            }
    return a;
}

static cuda_gnorm_args gnorm_args(dl_act x, int groups)
{
    cuda_gnorm_args g = cuda_gnorm_args();
    g.x = x, g.groups = groups, g.eps = 1e-6f;
    g.mean_rstd = (float *)simt_alloc((int64_t)x.n * groups * 2 * 4);
    return g;
}

static void stats_ok(const char *name, const cuda_gnorm_args &g)
{
    const int64_t size = g.x.c / g.groups, pixels = (int64_t)g.x.h * g.x.w;
    const double n = (double)(pixels * size);
    for (int64_t i = 0; i < g.x.n * g.groups; i++) {
        double mean = 0, big = 0, var = 0;
        int64_t row = i / g.groups, c0 = i % g.groups * size;
        for (int64_t q = 0; q < pixels * size; q++) {
            double v = t_at(g.x, row, q / size, c0 + q % size);
            mean += v / n, big += fabs(v) / n;
        }
        for (int64_t q = 0; q < pixels * size; q++) var += pow(t_at(g.x, row, q / size, c0 + q % size) - mean, 2) / n;
        double rstd = 1 / sqrt(var + (double)g.eps), got = (double)g.mean_rstd[2 * i];
        if (!(fabs(got - mean) <= C_ACC * u_acc * big))
            fail_msg("%s: group %d of row %d has mean %.9g, not %.9g", name, (int)(i % g.groups), (int)row, got, mean);
        got = (double)g.mean_rstd[2 * i + 1];
        if (!(fabs(got - rstd) <= (1e-5 + pow(C_ACC * u_acc * big * rstd, 2)) * rstd))
            fail_msg("%s: group %d of row %d has 1 / deviation %.9g, not %.9g", name, (int)(i % g.groups), (int)row, got,
                     rstd);
    }
}

static void parts_hold(void **)
{
    for (const parts_case &k : cases) {
        dl_act x = random_of(k);
        t_ran(k.name, cuda_parts(nullptr, &x));
        t_parts_ok(k.name, x, false);
        cuda_gnorm_args g = gnorm_args(x, k.groups);
        dl_act values = x;
        g.x.p = (void *)16; /* not read */
        t_ran(k.name, cuda_gnorm_parts(nullptr, &g));
        g.x = values;
        stats_ok(k.name, g);
        for (int i = 0; i < k.n; i++) { /* the same bits alone */
            cuda_gnorm_args one = gnorm_args(dl_act_rows(x, i, 1), k.groups);
            t_ran(k.name, cuda_gnorm_parts(nullptr, &one));
            assert_memory_equal(one.mean_rstd, g.mean_rstd + i * k.groups * 2, (size_t)k.groups * 8);
        }
        simt_free_all();
    }
}

/* Values whose first is far from the rest, where sums about it cancel most. */
static void outliers(void **)
{
    dl_act x = t_parts(t_random(t_act(DL_F32, 1, 8, 16, 16, 0), 0, 1));
    for (int64_t p = 0; p < 128; p += 32)
        for (int64_t c = 0; c < 16; c++) dl_store(x.p, x.t, t_index(x, 0, p, c), 1e4f);
    t_ran("outliers", cuda_parts(nullptr, &x));
    t_parts_ok("outliers", x, false);
    cuda_gnorm_args g = gnorm_args(x, 2);
    t_ran("outliers", cuda_gnorm_parts(nullptr, &g));
    stats_ok("outliers", g);
}

static void refusals(void **)
{
    const dl_act good = t_parts(t_act(DL_F16, 1, 8, 8, 16, 0));
    int launches = simt_launches();
    for (int i = 0; i < 5; i++) {
        dl_act x = good;
        if (i == 0) x.parts = NULL;
        if (i == 1) x.h = 7;
        if (i == 2) x.t = DL_E4M3;
        if (i == 3) x.n = 0;
        if (i == 4) x.n = 70000;
        cuda_gnorm_args g = gnorm_args(good, 4);
        g.x = x;
        assert_int_equal(cuda_parts(nullptr, &x), CUDA_K_UNSUPPORTED);
        assert_int_equal(cuda_gnorm_parts(nullptr, &g), CUDA_K_UNSUPPORTED);
    }
    cuda_gnorm_args g = gnorm_args(good, 3);
    assert_int_equal(cuda_gnorm_parts(nullptr, &g), CUDA_K_UNSUPPORTED);
    assert_int_equal(simt_launches(), launches);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(parts_hold, t_clear),
        cmocka_unit_test_teardown(outliers, t_clear),
        cmocka_unit_test_teardown(refusals, t_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
