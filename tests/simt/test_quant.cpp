/* quant.cu in the shim: the bits of engine/e4m3.h, for every variant. */
#include "tests/simt/check.h"

extern "C" {
#include "engine/e4m3.h"
}

struct quant_case {
    const char *name;
    int t, n, h, w, c, pad;
    double amp;
};

static const quant_case cases[] = {
    {"one warp", DL_BF16, 2, 1, 9, 64, 0, 1},        {"16 channels", DL_BF16, 1, 1, 5, 16, 0, 100},
    {"pitched pixels", DL_BF16, 2, 3, 5, 320, 8, 3}, {"odd pitch", DL_BF16, 2, 1, 6, 48, 3, 1},
    {"four warps", DL_BF16, 2, 1, 3, 1536, 0, 1e4},  {"many channels, odd pitch", DL_BF16, 1, 1, 3, 2064, 1, 1},
    {"f16", DL_F16, 1, 2, 2, 96, 0, 1e-3},           {"f32", DL_F32, 1, 1, 7, 1040, 0, 1e-6},
    {"one warp, full", DL_F16, 1, 1, 3, 1024, 0, 1}, {"three of four turns", DL_BF16, 1, 1, 2, 3072, 0, 1},
    {"sixteen warps", DL_BF16, 2, 1, 2, 4112, 8, 1}, {"sixteen warps, full", DL_F32, 1, 1, 2, 16384, 0, 1},
    {"beyond that", DL_F16, 1, 1, 2, 16400, 0, 1},
};

static void run(const char *name, dl_act x)
{
    int64_t pixels = (int64_t)x.h * x.w, rows = x.n * pixels;
    cuda_quant_args a = cuda_quant_args();
    a.x = x;
    a.q = (uint8_t *)simt_alloc(rows * x.c);
    a.scale = (float *)simt_alloc(rows * 4);
    t_ran(name, cuda_quant(nullptr, &a));
    std::vector<float> v((size_t)x.c);
    std::vector<uint8_t> q((size_t)x.c);
    for (int64_t m = 0; m < rows; m++) {
        for (int c = 0; c < x.c; c++) v[(size_t)c] = (float)t_at(x, m / pixels, m % pixels, c);
        float scale = dl_e4m3_row(q.data(), v.data(), x.c);
        assert_true(a.scale[m] == scale || (scale != scale && a.scale[m] != a.scale[m]));
        for (int c = 0; c < x.c; c++) {
            uint8_t got = a.q[m * x.c + c], want = q[(size_t)c];
            if ((want & 0x7f) == 0x7f) got |= want & 0x80; /* a NaN's sign says nothing */
            if (got != want)
                fail_msg("%s: row %d channel %d, %g: 0x%02x, not 0x%02x", name, (int)m, c, (double)v[(size_t)c], got,
                         want);
        }
    }
    print_message("%-40s %d rows of %d\n", name, (int)rows, x.c);
}

static void cases_hold(void **)
{
    for (const quant_case &k : cases) run(k.name, t_random(t_act(k.t, k.n, k.h, k.w, k.c, k.pad), 0, k.amp));
}

/* Rows of zeros, of one value, of tiny and of infinite ones, with a NaN, and every value of e4m3 and between them. */
static void peculiar(void **)
{
    dl_act x = t_act(DL_F32, 1, 1, 6, 256, 0);
    float *v = (float *)x.p;
    for (int i = 0; i < 256; i++) {
        v[i] = 0, v[256 + i] = i == 77 ? -3.0f : 0, v[512 + i] = 1e-33f * (float)i, v[768 + i] = i == 3 ? INFINITY : 1;
        v[1024 + i] = i == 5 ? NAN : (float)i, v[1280 + i] = i < 127 ? dl_e4m3_to((uint8_t)i) : 0;
        if (i >= 127 && i < 253)
            v[1280 + i] = -(dl_e4m3_to((uint8_t)(i - 127)) + dl_e4m3_to((uint8_t)(i - 126))) / 2;
    }
    run("peculiar rows", x);
}

static void refused(void **)
{
    cuda_quant_args a = cuda_quant_args();
    a.x = t_act(DL_BF16, 1, 1, 2, 24, 0);
    assert_int_equal(cuda_quant(nullptr, &a), CUDA_K_UNSUPPORTED);
    a.x.c = 16, a.x.t = DL_I32;
    assert_int_equal(cuda_quant(nullptr, &a), CUDA_K_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(cases_hold, t_clear),
        cmocka_unit_test_teardown(peculiar, t_clear),
        cmocka_unit_test_teardown(refused, t_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
