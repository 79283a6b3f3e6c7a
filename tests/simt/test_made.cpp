/* made.cu in the shim: the bits of engine/weight.h and engine/e4m3.h. */
#include "tests/simt/check.h"

extern "C" {
#include "engine/e4m3.h"
}

static float value(const dl_made &m, int64_t i, int stored, int t)
{
    float v = dl_made_value(&m, i), s = 0;
    dl_store(&s, stored, 0, v);
    v = dl_load(&s, stored, 0);
    dl_store(&s, t, 0, v);
    return dl_load(&s, t, 0);
}

static const struct {
    const char *name;
    int count, in, taps, stored, t, y_t;
} cases[] = {
    {"as numbered, f16", 4096, 0, 0, DL_F16, DL_F16, DL_F16},
    {"odd count, bf16", 1037, 0, 1, DL_F32, DL_BF16, DL_BF16},
    {"f16 to bf16", 64, 0, 1, DL_F16, DL_BF16, DL_BF16},
    {"wide", 320, 0, 1, DL_BF16, DL_F16, DL_F32},
    {"f32", 2056, 0, 1, DL_F32, DL_F32, DL_F32},
    {"taps last to channels last", 12 * 16 * 9, 16, 9, DL_BF16, DL_BF16, DL_BF16},
    {"odd channels, 4 taps", 3 * 5 * 4, 5, 4, DL_F32, DL_F16, DL_F16},
};

static void parts(void **)
{
    for (auto &k : cases) {
        cuda_made_args a = cuda_made_args();
        a.made = {0xfedcba98u, 0.25f, 0.7f}, a.count = k.count, a.in = k.in, a.taps = k.taps;
        a.stored = k.stored, a.t = k.t, a.y_t = k.y_t, a.y = simt_alloc(k.count * dl_type_bytes(k.y_t));
        t_ran(k.name, cuda_made(nullptr, &a));
        for (int i = 0; i < k.count; i++) {
            int from = i, per = k.in * k.taps;
            if (k.taps > 1) from = (i / per * k.in + i % k.in) * k.taps + i % per / k.in;
            float got = dl_load(a.y, k.y_t, i), want = value(a.made, from, k.stored, k.t);
            if (got != want) fail_msg("%s: element %d is %.9g, not %.9g", k.name, i, (double)got, (double)want);
        }
        print_message("%-40s %d\n", k.name, k.count);
    }
}

static void rows(void **)
{
    static const int in[] = {16, 240, 256, 1552};
    for (int k = 0; k < 4; k++) {
        cuda_made_e4m3_args a = cuda_made_e4m3_args();
        a.made = {77u + (uint32_t)k, 0, k == 3 ? 0.0f : 0.02f}; /* the last are zeros */
        a.rows = 6, a.in = in[k], a.stored = k % 2 ? DL_BF16 : DL_F32;
        a.q = (uint8_t *)simt_alloc(a.rows * a.in), a.scale = (float *)simt_alloc(a.rows * 4);
        t_ran("e4m3", cuda_made_e4m3(nullptr, &a));
        std::vector<float> v((size_t)a.in);
        std::vector<uint8_t> q((size_t)a.in);
        for (int64_t r = 0; r < a.rows; r++) {
            for (int c = 0; c < a.in; c++) v[(size_t)c] = value(a.made, r * a.in + c, a.stored, a.stored);
            float scale = dl_e4m3_row(q.data(), v.data(), a.in);
            assert_true(a.scale[r] == scale);
            assert_memory_equal(a.q + r * a.in, q.data(), (size_t)a.in);
        }
    }
}

static void refused(void **)
{
    cuda_made_args a = cuda_made_args();
    a.count = 8, a.stored = DL_F32, a.t = DL_F16, a.y_t = DL_BF16, a.y = simt_alloc(16);
    assert_int_equal(cuda_made(nullptr, &a), CUDA_K_UNSUPPORTED);
    a.y_t = DL_F16, a.count = 0;
    assert_int_equal(cuda_made(nullptr, &a), CUDA_K_UNSUPPORTED);
    a.count = INT32_MAX + (int64_t)1, a.in = 1, a.taps = 2;
    assert_int_equal(cuda_made(nullptr, &a), CUDA_K_UNSUPPORTED);
    cuda_made_e4m3_args b = cuda_made_e4m3_args();
    b.rows = 1, b.in = 24, b.q = (uint8_t *)a.y, b.scale = (float *)a.y;
    assert_int_equal(cuda_made_e4m3(nullptr, &b), CUDA_K_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(parts, t_clear),
        cmocka_unit_test_teardown(rows, t_clear),
        cmocka_unit_test_teardown(refused, t_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
