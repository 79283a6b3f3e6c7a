#include "engine/type.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* The value of a small float by its definition: exponent bits e, fraction bits m. */
static double by_definition(unsigned code, int e_bits, int m_bits)
{
    int e = (int)(code >> m_bits) & ((1 << e_bits) - 1), m = (int)code & ((1 << m_bits) - 1);
    int bias = (1 << (e_bits - 1)) - 1;
    double a = e ? ldexp(1 + ldexp(m, -m_bits), e - bias) : ldexp(m, 1 - bias - m_bits);
    return code >> (e_bits + m_bits) ? -a : a;
}

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static void every_f16(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x10000; h++) {
        float f = dl_f16_to((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(f) && isnan(dl_f16_to(dl_f16_of(f))));
            continue;
        }
        if ((h & 0x7fff) == 0x7c00)
            assert_true(isinf(f) && (f < 0) == (h >> 15));
        else
            assert_true((double)f == by_definition(h, 5, 10) && (signbit(f) != 0) == (h >> 15));
        assert_int_equal(dl_f16_of(f), h);
    }
}

static void every_bf16(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x10000; h++) {
        float f = dl_bf16_to((uint16_t)h);
        assert_int_equal(bits(f), h << 16);
        if (isnan(f))
            assert_true(isnan(dl_bf16_to(dl_bf16_of(f))));
        else
            assert_int_equal(dl_bf16_of(f), h);
    }
    float nan;
    memcpy(&nan, &(uint32_t){0x7f800001u}, 4); /* its upper half alone would be infinity */
    assert_true(isnan(dl_bf16_to(dl_bf16_of(nan))));
}

static void every_e4m3(void **state)
{
    (void)state;
    for (unsigned q = 0; q < 0x100; q++) {
        float f = dl_e4m3_to((uint8_t)q);
        if ((q & 0x7f) == 0x7f) {
            assert_true(isnan(f));
            continue;
        }
        assert_true((double)f == by_definition(q, 4, 3));
        assert_int_equal(dl_e4m3_of(f), q);
    }
    assert_true(dl_e4m3_to(0x7e) == 448);
    assert_int_equal(dl_e4m3_of(1e30f), 0x7e);
    assert_int_equal(dl_e4m3_of(-INFINITY), 0xfe);
    assert_int_equal(dl_e4m3_of(NAN) & 0x7f, 0x7f);
}

/* Between two neighbours of a type: the middle goes to the even one, anything off it to the nearer. */
static void rounding(void **state)
{
    (void)state;
    for (unsigned h = 0; h < 0x7bff; h++) {
        float a = dl_f16_to((uint16_t)h), b = dl_f16_to((uint16_t)(h + 1)), mid = (a + b) / 2;
        assert_int_equal(dl_f16_of(mid), h & 1 ? h + 1 : h);
        assert_int_equal(dl_f16_of(nextafterf(mid, 0)), h);
        assert_int_equal(dl_f16_of(nextafterf(mid, INFINITY)), h + 1);
        assert_int_equal(dl_f16_of(-mid), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(dl_f16_of(65520), 0x7c00);
    assert_int_equal(dl_f16_of(nextafterf(65520, 0)), 0x7bff);
    for (unsigned h = 0; h < 0x7f80; h++) {
        float mid;
        memcpy(&mid, &(uint32_t){h << 16 | 0x8000}, 4);
        assert_int_equal(dl_bf16_of(mid), h & 1 ? h + 1 : h);
        memcpy(&mid, &(uint32_t){h << 16 | 0x7fff}, 4);
        assert_int_equal(dl_bf16_of(mid), h);
        memcpy(&mid, &(uint32_t){h << 16 | 0x8001}, 4);
        assert_int_equal(dl_bf16_of(mid), h + 1);
    }
    for (unsigned q = 0; q < 0x7e; q++) {
        float mid = (dl_e4m3_to((uint8_t)q) + dl_e4m3_to((uint8_t)(q + 1))) / 2;
        assert_int_equal(dl_e4m3_of(mid), q & 1 ? q + 1 : q);
        assert_int_equal(dl_e4m3_of(nextafterf(mid, 0)), q);
        assert_int_equal(dl_e4m3_of(nextafterf(mid, 500)), q + 1);
    }
}

/* dl_convert gives what one element at a time gives, at every length around a vector's. */
static void arrays(void **state)
{
    (void)state;
    enum { N = 0x10000 };
    static uint16_t h[N], back[N];
    static float f[N];
    for (int t = DL_F16; t <= DL_BF16; t++) {
        for (unsigned i = 0; i < N; i++) h[i] = (uint16_t)i;
        dl_convert(f, DL_F32, h, t, N);
        dl_convert(back, t, f, DL_F32, N);
        for (unsigned i = 0; i < N; i++) {
            float one = dl_load(h, t, i);
            if (isnan(one))
                assert_true(isnan(f[i]) && isnan(dl_load(back, t, i)));
            else
                assert_true(bits(one) == bits(f[i]) && back[i] == h[i]);
        }
    }
    for (int n = 0; n < 40; n++) {
        float src[40];
        uint16_t dst[41];
        for (int i = 0; i < 40; i++) src[i] = (float)i * 1.001f, dst[i] = 0x1234;
        dst[n] = 0x1234;
        dl_convert(dst, DL_F16, src, DL_F32, n);
        for (int i = 0; i < n; i++) assert_int_equal(dst[i], dl_f16_of(src[i]));
        assert_int_equal(dst[n], 0x1234);
    }
    uint8_t q[3];
    dl_convert(q, DL_E4M3, (float[]){1, -2, 1000}, DL_F32, 3);
    assert_true(dl_load(q, DL_E4M3, 0) == 1 && dl_load(q, DL_E4M3, 1) == -2 && dl_load(q, DL_E4M3, 2) == 448);
}

static void names_and_sizes(void **state)
{
    (void)state;
    assert_string_equal(dl_type_name(DL_BF16), "bf16");
    assert_string_equal(dl_type_name(-1), "?");
    assert_int_equal(dl_type_bytes(DL_I64), 8);
    assert_int_equal(dl_type_bytes(DL_NTYPES), 0);
    assert_true(isnan(dl_load("", DL_I32, 0)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16), cmocka_unit_test(every_bf16), cmocka_unit_test(every_e4m3),
        cmocka_unit_test(rounding),  cmocka_unit_test(arrays),     cmocka_unit_test(names_and_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
