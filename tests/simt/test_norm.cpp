/* Layer norm, RMS norm and group norm of kernels/cuda/norm.cu in the shim, against plain loops. */
#include "tests/simt/check.h"

struct moments {
    double mean, rstd, square, size; /* square: 1 / root mean square; size: mean of |x|, what a mean's error goes by */
};

static moments moments_of(dl_act x, int64_t i, int64_t p0, int64_t pixels, int64_t c0, int64_t size, double eps)
{
    double mean = 0, var = 0, square = 0, big = 0, n = (double)(pixels * size);
    for (int64_t q = 0; q < pixels * size; q++) {
        double v = t_at(x, i, p0 + q / size, c0 + q % size);
        mean += v / n, square += v * v / n, big += fabs(v) / n;
    }
    for (int64_t q = 0; q < pixels * size; q++) var += pow(t_at(x, i, p0 + q / size, c0 + q % size) - mean, 2) / n;
    return {mean, 1 / sqrt(var + eps), 1 / sqrt(square + eps), big};
}

static val affine(double v, const moments &m, bool rms, double gamma, double beta, double scale, double shift)
{
    double k = 1 + scale, x = rms ? v * m.square : (v - m.mean) * m.rstd;
    double big = (fabs(v) + (rms ? 0 : m.size)) * (rms ? m.square : m.rstd);
    return {(x * gamma + beta) * k + shift, C_ACC * u_acc * (big * fabs(gamma * k) + fabs(beta * k) + fabs(shift))};
}

enum { GAMMA = 1, BETA = 2, SCALE = 4, SHIFT = 8, RMS = 16, IN_PLACE = 32, STEPS = 64 };

struct lnorm_case {
    const char *name;
    int t, ty, n, tokens, c, pad, parts;
    double mean;
};

static const lnorm_case lnorm_cases[] = {
    {"ln 8", DL_F16, DL_F16, 2, 5, 8, 0, GAMMA | BETA, 0},
    {"ln 40 pitched", DL_F16, DL_F16, 2, 5, 40, 8, GAMMA | BETA, 1},
    {"ln 320 bf16", DL_BF16, DL_BF16, 2, 9, 320, 0, GAMMA | BETA, 0.3},
    {"ln 512 f32 far from zero", DL_F32, DL_F32, 1, 3, 512, 0, GAMMA | BETA, 100},
    {"ln 768 in place", DL_F16, DL_F16, 3, 7, 768, 0, GAMMA | BETA | IN_PLACE, 0},
    {"ln 1280 adaLN of steps", DL_F16, DL_F16, 2, 5, 1280, 0, SCALE | SHIFT | STEPS, 0},
    {"ln 1304, two warps a token", DL_F16, DL_F16, 2, 3, 1304, 0, GAMMA | BETA, 0},
    {"ln 1536, two warps, pitched", DL_BF16, DL_BF16, 2, 3, 1536, 8, GAMMA | BETA, 1},
    {"ln 640 all of it, pitched", DL_F16, DL_F16, 2, 5, 640, 16, GAMMA | BETA | SCALE | SHIFT | IN_PLACE, -3},
    {"ln 16, three tokens a thread", DL_BF16, DL_BF16, 1, 24593, 16, 0, GAMMA | BETA | IN_PLACE, 0},
    {"ln 776, two tokens a thread", DL_F16, DL_F16, 1, 4099, 776, 0, SCALE | SHIFT, 0},
    {"rms 776 f32, two tokens a thread", DL_F32, DL_F32, 3, 1367, 776, 0, GAMMA | RMS, 0},
    {"ln 3072 adaLN bf16", DL_BF16, DL_BF16, 2, 3, 3072, 0, SCALE | SHIFT, 0},
    {"ln 4104 f32, eight warps", DL_F32, DL_F32, 2, 2, 4104, 0, GAMMA | BETA, 0},
    {"rms 64", DL_BF16, DL_BF16, 2, 9, 64, 0, GAMMA | RMS, 0},
    {"rms 4096", DL_F32, DL_F32, 1, 2, 4096, 0, GAMMA | RMS, 0},
    {"rms 6144 in place", DL_F32, DL_F32, 2, 2, 6144, 0, GAMMA | RMS | IN_PLACE, 0},
    {"ln 6152, too many for registers", DL_F16, DL_F16, 1, 2, 6152, 0, GAMMA | BETA, 0},
    {"rms 4096 bf16", DL_BF16, DL_BF16, 2, 2, 4096, 0, GAMMA | RMS, 0},
    {"ln 35 odd", DL_F16, DL_F16, 2, 5, 35, 3, GAMMA | BETA | SCALE | SHIFT | STEPS, 0},
    {"ln 320 f16 -> f32", DL_F16, DL_F32, 2, 3, 320, 0, GAMMA, 0},
    {"ln plain, pitch of 4", DL_F32, DL_BF16, 1, 3, 36, 0, 0, -2},
};

static void lnorms(void **)
{
    for (const lnorm_case &k : lnorm_cases) {
        cuda_lnorm_args a = cuda_lnorm_args();
        int steps = k.parts & STEPS ? 3 : 1, step = steps - 1;
        a.x = t_random(t_act(k.t, k.n, 1, k.tokens, k.c, k.pad), k.mean, 1);
        a.y = k.parts & IN_PLACE ? a.x : t_act(k.ty, k.n, 1, k.tokens, k.c, k.pad);
        if (k.parts & GAMMA) a.gamma = t_floats(k.c, 1, 0.5);
        if (k.parts & BETA) a.beta = t_floats(k.c, 0, 1);
        if (k.parts & SCALE) a.scale = t_vec(k.t, steps, k.n, k.c, 0, 1);
        if (k.parts & SHIFT) a.shift = t_vec(DL_F32, steps, k.n, k.c, 0, 1);
        a.rms = k.parts & RMS, a.eps = 1e-5f, a.step = t_ints({step});
        std::vector<val> want;
        for (int i = 0; i < k.n; i++)
            for (int p = 0; p < k.tokens; p++) {
                moments m = moments_of(a.x, i, p, 1, 0, k.c, (double)a.eps);
                for (int c = 0; c < k.c; c++)
                    want.push_back(affine(t_at(a.x, i, p, c), m, a.rms, a.gamma ? (double)a.gamma[c] : 1,
                                          a.beta ? (double)a.beta[c] : 0,
                                          a.scale.p ? t_vec_at(a.scale, step, i, c) : 0,
                                          a.shift.p ? t_vec_at(a.shift, step, i, c) : 0));
            }
        t_ran(k.name, cuda_lnorm(nullptr, &a));
        t_compare(k.name, "lnorm", a.y, want);
    }
}

struct norm_case {
    const char *name;
    int t, ty, fn, n, h, w, c, groups, pad, parts;
    double mean;
};

static const norm_case norm_cases[] = {
    {"gn 32 of 64, 8x8", DL_F32, DL_F32, DL_NONE, 2, 8, 8, 64, 32, 0, GAMMA | BETA, 0.2},
    {"gn 32 of 320 silu", DL_F16, DL_F16, DL_SILU, 2, 4, 4, 320, 32, 0, GAMMA | BETA, -0.5},
    {"gn 32 of 320, three chunks", DL_F16, DL_F16, DL_SILU, 2, 10, 13, 320, 32, 8, GAMMA | BETA, -0.5},
    {"gn one pixel", DL_F32, DL_F32, DL_NONE, 2, 1, 1, 32, 8, 0, GAMMA | BETA, 0},
    {"gn far from zero", DL_F32, DL_F32, DL_NONE, 1, 16, 16, 32, 4, 0, GAMMA | BETA, 100},
    {"gn pitched odd 5 of 35", DL_F32, DL_F32, DL_SILU, 3, 5, 7, 35, 5, 3, GAMMA | BETA, 0},
    {"gn odd 5 of 35 bf16, two chunks", DL_BF16, DL_BF16, DL_SILU, 2, 7, 11, 35, 5, 0, GAMMA | BETA, 0},
    {"gn in place", DL_F32, DL_F32, DL_SILU, 2, 5, 3, 32, 8, 0, GAMMA | BETA | IN_PLACE, 0},
    {"gn scale shift gelu", DL_F32, DL_F32, DL_GELU, 2, 5, 3, 32, 8, 4, GAMMA | BETA | SCALE | SHIFT | STEPS, 0},
    {"gn bf16 -> f32", DL_BF16, DL_F32, DL_NONE, 2, 4, 8, 48, 4, 2, GAMMA | BETA | SCALE | SHIFT, 0.2},
    {"gn 32 of 2560", DL_F16, DL_F16, DL_SILU, 1, 1, 3, 2560, 32, 0, GAMMA | BETA, 0},
    {"gn 32 of 960 bf16", DL_BF16, DL_BF16, DL_SILU, 2, 2, 3, 960, 32, 0, GAMMA | BETA, 1},
    {"gn 32 of 128 f32", DL_F32, DL_F32, DL_SILU, 1, 9, 9, 128, 32, 0, GAMMA | BETA, 1},
    {"gn 32 of 1280, two slabs, six chunks", DL_F16, DL_F16, DL_SILU, 2, 8, 8, 1280, 32, 8, GAMMA | BETA, 2},
    {"gn 32 of 1280 f32, two slabs", DL_F32, DL_F32, DL_NONE, 1, 5, 7, 1280, 32, 0, GAMMA | BETA | SCALE | SHIFT, 0},
    {"gn 30 of 600 bf16, idle threads", DL_BF16, DL_BF16, DL_SILU, 1, 13, 11, 600, 30, 0, GAMMA | BETA | IN_PLACE, 0},
    {"gn 32 of 320, 8 pixels a thread", DL_F16, DL_F16, DL_SILU, 1, 21, 33, 320, 32, 0, GAMMA | BETA, 0.5},
    {"gn 5 of 35, 161 chunks", DL_F16, DL_F32, DL_NONE, 1, 90, 100, 35, 5, 1, GAMMA | BETA, 3},
    {"gn 2 of 4, 2 batches of pixels", DL_F16, DL_F16, DL_SILU, 2, 361, 728, 4, 2, 0, GAMMA | BETA, 0},
    {"gn 32 of 128, 4 batches of pixels", DL_BF16, DL_BF16, DL_SILU, 1, 131, 128, 128, 32, 0, GAMMA | BETA, 0},
    {"gn 1 of 24, 67 pixels", DL_F16, DL_F16, DL_NONE, 1, 1, 67, 24, 1, 0, 0, 0},
};

static cuda_gnorm_args gnorm_args(dl_act x, int groups, float eps)
{
    cuda_gnorm_args g = cuda_gnorm_args();
    g.x = x, g.groups = groups, g.eps = eps;
    g.mean_rstd = (float *)simt_alloc((int64_t)x.n * groups * 2 * 4);
    g.scratch = simt_alloc(cuda_gnorm_scratch(&g));
    return g;
}

static void norms(void **)
{
    for (const norm_case &k : norm_cases) {
        int steps = k.parts & STEPS ? 3 : 1, step = steps - 1, size = k.c / k.groups;
        dl_act x = t_random(t_act(k.t, k.n, k.h, k.w, k.c, k.pad), k.mean, 1);
        cuda_gnorm_args g = gnorm_args(x, k.groups, 1e-5f);
        cuda_norm_args a = cuda_norm_args();
        a.x = x, a.y = k.parts & IN_PLACE ? x : t_act(k.ty, k.n, k.h, k.w, k.c, k.pad);
        a.mean_rstd = g.mean_rstd, a.groups = k.groups, a.fn = k.fn, a.step = t_ints({step});
        if (k.parts & GAMMA) a.gamma = t_floats(k.c, 1, 0.5);
        if (k.parts & BETA) a.beta = t_floats(k.c, 0, 1);
        if (k.parts & SCALE) a.scale = t_vec(DL_F16, steps, k.n, k.c, 0, 1);
        if (k.parts & SHIFT) a.shift = t_vec(DL_F32, steps, k.n, k.c, 0, 1);
        std::vector<val> want;
        std::vector<moments> all;
        for (int i = 0; i < k.n; i++)
            for (int j = 0; j < k.groups; j++)
                all.push_back(moments_of(x, i, 0, (int64_t)k.h * k.w, j * size, size, 1e-5));
        for (int i = 0; i < k.n; i++)
            for (int p = 0; p < k.h * k.w; p++)
                for (int c = 0; c < k.c; c++)
                    want.push_back(t_fn(k.fn, affine(t_at(x, i, p, c), all[(size_t)(i * k.groups + c / size)], false,
                                                     a.gamma ? (double)a.gamma[c] : 1, a.beta ? (double)a.beta[c] : 0,
                                                     a.scale.p ? t_vec_at(a.scale, step, i, c) : 0,
                                                     a.shift.p ? t_vec_at(a.shift, step, i, c) : 0)));
        t_ran(k.name, cuda_gnorm(nullptr, &g));
        for (size_t j = 0; j < all.size(); j++) {
            assert_true(fabs((double)g.mean_rstd[2 * j] - all[j].mean) <= C_ACC * u_acc * all[j].size);
            assert_true(fabs((double)g.mean_rstd[2 * j + 1] / all[j].rstd - 1) <=
                        C_ACC * u_acc * (1 + all[j].size * all[j].rstd));
        }
        t_ran(k.name, cuda_norm(nullptr, &a));
        t_compare(k.name, "gnorm_part, _join, norm", a.y, want);
    }
}

/* A row's statistics have the same bits alone and in a batch, and in every order of threads. */
static void rows_alone(void **)
{
    for (int c = 320; c <= 1280; c += 960) { /* one slab and two */
        dl_act x = t_random(t_act(DL_F16, 3, 9, 11, c, 0), 1, 2);
        cuda_gnorm_args all = gnorm_args(x, 32, 1e-6f);
        t_ran("batch", cuda_gnorm(nullptr, &all));
        for (int i = 0; i < 3; i++) {
            cuda_gnorm_args one = gnorm_args(dl_act_rows(x, i, 1), 32, 1e-6f);
            simt_seed += 99;
            t_ran("row", cuda_gnorm(nullptr, &one));
            assert_memory_equal(one.mean_rstd, all.mean_rstd + i * 64, 256);
        }
    }
}

/* At most 1,024 chunks, as many as the second kernel's threads have places for, whatever the image. */
static void scratch_is_bounded(void **)
{
    for (int side = 8; side <= 16384; side *= 2)
        for (int c = 8; c <= 2560; c *= 4) {
            cuda_gnorm_args g = cuda_gnorm_args();
            g.x = dl_act_at(NULL, DL_F16, 3, side, side + 1, c), g.groups = 8;
            int64_t chunks = cuda_gnorm_scratch(&g) / (3 * 8 * 8);
            assert_true(chunks >= 1 && chunks <= 1024);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(lnorms, t_clear),
        cmocka_unit_test_teardown(norms, t_clear),
        cmocka_unit_test_teardown(rows_alone, t_clear),
        cmocka_unit_test_teardown(scratch_is_bounded, t_clear),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
