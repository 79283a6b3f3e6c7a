/* The small ops of kernels/cuda/misc.cu in the shim: epilogue pass, embedding, sinusoids, copy, add, image. */
#include "tests/simt/check.h"

#include "kernels/cuda/dev/convert.cuh"

enum { BIAS = 1, GLU = 2, ADD = 4, GATE = 8, RES = 16, SELF = 32, STEPS = 64, IN_PLACE = 128 };

struct epi_case {
    const char *name;
    int tx, t, fn, n, h, w, c, pad, parts;
    float scale;
};

static const epi_case epi_cases[] = {
    {"epi bias", DL_F32, DL_F16, DL_NONE, 2, 3, 5, 40, 0, BIAS, 0},
    {"epi bias silu", DL_F16, DL_F16, DL_SILU, 2, 3, 5, 320, 8, BIAS | IN_PLACE, 0},
    {"epi geglu", DL_F16, DL_F16, DL_GELU, 2, 1, 7, 64, 0, BIAS | GLU, 0},
    {"epi geglu bf16 odd", DL_BF16, DL_BF16, DL_GELU_TANH, 1, 1, 7, 33, 1, BIAS | GLU, 0},
    {"epi everything, tables of steps", DL_F32, DL_F16, DL_QUICK_GELU, 3, 2, 3, 48, 8, BIAS | ADD | GATE | RES | STEPS,
     0.70710678f},
    {"epi residual onto itself", DL_F32, DL_BF16, DL_NONE, 2, 2, 3, 35, 3, BIAS | SELF, 0},
    {"epi gelu f32", DL_F32, DL_F32, DL_GELU, 2, 2, 3, 32, 0, ADD, 0},
};

static void epilogues(void **)
{
    for (const epi_case &k : epi_cases) {
        cuda_epi_args a = cuda_epi_args();
        int steps = k.parts & STEPS ? 3 : 1, step = steps - 1, glu = k.parts & GLU ? 2 : 1;
        a.x = t_random(t_act(k.tx, k.n, k.h, k.w, k.c * glu, k.pad), 0, 3);
        a.y = k.parts & IN_PLACE ? a.x : t_act(k.t, k.n, k.h, k.w, k.c, k.pad);
        if (k.parts & SELF) t_random(a.y, 0, 1);
        if (k.parts & BIAS) a.bias = t_floats(k.c * glu, 0, 1);
        if (k.parts & ADD) a.add = t_vec(k.t, steps, k.n, k.c, 0, 1);
        if (k.parts & GATE) a.gate = t_vec(DL_F32, steps, k.n, k.c, 0.5, 1);
        if (k.parts & RES) a.res = t_random(t_act(k.t, k.n, k.h, k.w, k.c, k.pad), 0, 2);
        if (k.parts & SELF) a.res = a.y;
        a.fn = k.fn, a.glu = k.parts & GLU, a.scale = k.scale, a.step = t_ints({step});
        std::vector<val> want;
        for (int i = 0; i < k.n; i++)
            for (int p = 0; p < k.h * k.w; p++)
                for (int c = 0; c < k.c; c++) {
                    val x = {t_at(a.x, i, p, c), 0}, x2 = {a.glu ? t_at(a.x, i, p, k.c + c) : 0, 0};
                    want.push_back(t_finished(a, a.res, step, x, x2, i, p, c));
                }
        t_ran(k.name, cuda_epi(nullptr, &a));
        t_compare(k.name, "epi", a.y, want);
    }
}

static void embeddings(void **)
{
    for (int v = 0; v < 4; v++) {
        int c = v & 1 ? 35 : 64, t = v & 2 ? DL_BF16 : DL_F16;
        cuda_embed_args a = cuda_embed_args();
        dl_act table = t_random(t_act(t, 1, 1, 11, c, 0), 0, 1), pos = t_random(t_act(t, 1, 1, 5, c, 0), 0, 1);
        a.ids = t_ints({3, 10, 0, 3, 7, 1, 1, 10, 9, 2});
        a.y = t_act(t, 2, 1, 5, c, 8), a.table = table.p, a.pos = v < 3 ? pos.p : NULL;
        std::vector<val> want;
        for (int i = 0; i < 2; i++)
            for (int p = 0; p < 5; p++)
                for (int j = 0; j < c; j++) {
                    double s = t_at(table, 0, a.ids[i * 5 + p], j) + (a.pos ? t_at(pos, 0, p, j) : 0);
                    want.push_back({s, u_acc * fabs(s)});
                }
        t_ran("embed", cuda_embed(nullptr, &a));
        t_compare(a.pos ? "embed with positions" : "embed", "embed", a.y, want);
    }
}

/* Against the reference's own f32 angle, so that what is tested is the sine of it. */
static void sinusoids(void **)
{
    static const struct {
        int c, flip, t;
        float shift;
    } cases[] = {{320, 1, DL_F32, 0}, {256, 0, DL_F32, 1}, {34, 1, DL_F16, 0.5f}};
    for (auto &k : cases) {
        cuda_sinus_args a = cuda_sinus_args();
        float *t = (float *)simt_alloc(4 * 4);
        t[0] = 0, t[1] = 1, t[2] = 999, t[3] = 437.25f;
        a.t = t, a.y = t_act(k.t, 4, 1, 1, k.c, 3), a.flip = k.flip, a.shift = k.shift;
        std::vector<val> want;
        int half = k.c / 2;
        for (int i = 0; i < 4; i++)
            for (int c = 0; c < k.c; c++) {
                int j = c % half;
                double angle =
                    (double)(t[i] * (float)exp((double)(-9.210340371976184f * (float)j / ((float)half - k.shift))));
                bool cosine = (c < half) == (bool)k.flip;
                want.push_back({cosine ? cos(angle) : sin(angle), 8 * u_acc});
            }
        t_ran("sinus", cuda_sinus(nullptr, &a));
        t_compare("sinus", "sinus", a.y, want);
    }
}

static void copies_and_sums(void **)
{
    static const struct {
        const char *name;
        int tx, ty, xn, w, c, pad, rows, fn;
        float a, b;
    } cases[] = {
        {"copy f32 -> f16", DL_F32, DL_F16, 3, 7, 40, 0, 0, DL_NONE, 0, 0},
        {"copy of one row", DL_BF16, DL_F32, 1, 7, 40, 8, 0, DL_NONE, 0, 0},
        {"copy by a map, odd", DL_F16, DL_F16, 2, 7, 35, 3, 1, DL_NONE, 0, 0},
        {"copy scaled, silu", DL_F32, DL_BF16, 2, 7, 16, 8, 1, DL_SILU, 0.5f, -1},
        {"copy quick gelu", DL_F16, DL_F16, 3, 7, 24, 0, 0, DL_QUICK_GELU, 2, 1},
        {"copy gelu of large values", DL_F32, DL_F32, 3, 7, 24, 0, 0, DL_GELU_TANH, 60, 0},
        {"copy gelu of all sizes", DL_F32, DL_F32, 3, 131, 8, 0, 0, DL_GELU, 9, 0},
        {"copy of 1,310 items", DL_BF16, DL_BF16, 2, 131, 40, 8, 1, DL_NONE, 0, 0},
        {"copy of 516 items, odd", DL_F16, DL_F32, 1, 86, 3, 1, 0, DL_NONE, 0, 0},
    };
    for (auto &k : cases) {
        cuda_copy_args a = cuda_copy_args();
        a.x = t_random(t_act(k.tx, k.xn, 2, k.w, k.c, k.pad), 0, 2);
        a.y = t_act(k.ty, 3, 2, k.w, k.c, 8 - k.pad);
        std::vector<int32_t> rows = {1, 1, 0};
        if (k.rows) a.row = t_ints(rows);
        a.a = k.a, a.b = k.b, a.fn = k.fn;
        std::vector<val> want;
        double f = k.a == 0 ? 1 : (double)k.a;
        for (int i = 0; i < 3; i++)
            for (int p = 0; p < 2 * k.w; p++)
                for (int c = 0; c < k.c; c++) {
                    double x = t_at(a.x, k.rows ? rows[(size_t)i] : k.xn == 1 ? 0 : i, p, c);
                    val s = {x * f + (double)k.b, u_acc * (fabs(x * f) + fabs((double)k.b))};
                    want.push_back(t_fn(k.fn, s));
                }
        t_ran(k.name, cuda_copy(nullptr, &a));
        t_compare(k.name, "copy", a.y, want);
        cuda_add_args d = cuda_add_args();
        d.a = a.y, d.b = t_random(t_act(k.tx, 3, 2, k.w, k.c, k.pad), 0, 2), d.y = t_act(k.ty, 3, 2, k.w, k.c, 0);
        want.clear();
        for (int i = 0; i < 3; i++)
            for (int p = 0; p < 2 * k.w; p++)
                for (int c = 0; c < k.c; c++) {
                    double s = t_at(d.a, i, p, c) + t_at(d.b, i, p, c);
                    want.push_back({s, u_acc * fabs(s)});
                }
        t_ran("add", cuda_add(nullptr, &d));
        t_compare("add", "add", d.y, want);
    }
}

/* Of numbers about each multiple, and of the largest. */
static void divisors(void **)
{
    for (int32_t d = 1; d < INT32_MAX / 2; d += d < 3000 ? 1 : d / 7) {
        k_divisor by = k_divisor_of(d);
        for (int64_t n = 0; n <= INT32_MAX; n = n < 7 * (int64_t)d ? n + d : 2 * n + d)
            for (int64_t m = n > 0 ? n - 1 : 0; m <= n + 1 && m <= INT32_MAX; m++)
                assert_int_equal(k_div((uint32_t)m, by), m / d);
        assert_int_equal(k_div(INT32_MAX, by), INT32_MAX / d);
    }
}

static void images(void **)
{
    for (int t = DL_F32; t <= DL_BF16; t++) {
        cuda_image_args a = cuda_image_args();
        a.x = t_random(t_act(t, 2, 17, 19, 4, 1), 0, 1.3);
        dl_store(a.x.p, t, 0, NAN);
        dl_store(a.x.p, t, 1, INFINITY);
        a.u8 = (uint8_t *)simt_alloc(2 * 17 * 19 * 3);
        t_ran("image", cuda_image(nullptr, &a));
        for (int64_t i = 0; i < 2; i++)
            for (int64_t p = 0; p < 17 * 19; p++)
                for (int64_t c = 0; c < 3; c++) {
                    float v = dl_load(a.x.p, t, t_index(a.x, i, p, c)) / 2 + 0.5f;
                    v = v > 0 ? v < 1 ? v : 1 : 0;
                    assert_int_equal(a.u8[(i * 17 * 19 + p) * 3 + c], (int)nearbyintf(v * 255));
                }
        t_gaps_ok(a.x);
    }
    print_message("%-40s %-26s equal\n", "image", "image");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(epilogues, t_clear),       cmocka_unit_test_teardown(embeddings, t_clear),
        cmocka_unit_test_teardown(sinusoids, t_clear),       cmocka_unit_test_teardown(copies_and_sums, t_clear),
        cmocka_unit_test_teardown(images, t_clear),
        cmocka_unit_test(divisors),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
