/* Quantising to e4m3 against torch (tools/ref/e4m3.py), bit for bit, and which products are done in it. */
#include "engine/e4m3.h"
#include "loaders/safetensors.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const void *tensor(struct st_file *f, const char *name, int t, int nd, int64_t *dim)
{
    struct dl_err e = {0};
    const struct st_tensor *s = st_need(f, name, t, nd, dim, &e);
    if (!s) fail_msg("%s", e.msg);
    for (int i = 0; i < nd; i++) dim[i] = s->dim[i];
    return s->data;
}

static struct st_file *reference(void)
{
    struct st_file *f;
    struct dl_err e = {0};
    if (st_open(&f, DLENS_SOURCE_DIR "/tests/unit/data/e4m3_ref.safetensors", &e) < 0) fail_msg("%s", e.msg);
    return f;
}

static void values(void **state)
{
    (void)state;
    struct st_file *f = reference();
    int64_t n[1] = {-1};
    const void *x = tensor(f, "x", DL_F32, 1, n);
    const uint8_t *q = tensor(f, "clamped", DL_U8, 1, n);
    int nans = 0;
    assert_true(n[0] > 1000);
    for (int64_t i = 0; i < n[0]; i++) {
        float v = dl_load(x, DL_F32, i);
        uint8_t mine = dl_e4m3_of(v);
        if (isnan(v)) nans++, mine |= q[i] & 0x80; /* a NaN's sign says nothing */
        if (mine != q[i]) fail_msg("%g becomes 0x%02x, torch has 0x%02x", (double)v, mine, q[i]);
    }
    assert_int_equal(nans, 2);
    st_close(f);
}

static void rows(void **state)
{
    (void)state;
    struct st_file *f = reference();
    int64_t dim[2] = {-1, -1}, n[1] = {-1};
    const void *w = tensor(f, "w", DL_F32, 2, dim), *scale = tensor(f, "ws", DL_F32, 1, n);
    const uint8_t *q = tensor(f, "wq", DL_U8, 2, dim);
    float *v = malloc((size_t)dim[1] * 4);
    uint8_t *mine = malloc((size_t)dim[1]);
    assert_true(v && mine && dim[0] == 8);
    for (int64_t r = 0; r < dim[0]; r++) {
        for (int64_t i = 0; i < dim[1]; i++) v[i] = dl_load(w, DL_F32, r * dim[1] + i);
        assert_true(dl_e4m3_row(mine, v, dim[1]) == dl_load(scale, DL_F32, r));
        assert_memory_equal(mine, q + r * dim[1], (size_t)dim[1]);
        assert_true(dl_e4m3_round(v, dim[1]) == dl_load(scale, DL_F32, r));
        for (int64_t i = 0; i < dim[1]; i++) assert_true(v[i] == dl_e4m3_to(mine[i]));
    }
    free(v), free(mine);
    st_close(f);
}

/* A NaN stays one and leaves its row alone; so do infinities, whose row is of no use. */
static void not_numbers(void **state)
{
    (void)state;
    float v[4] = {1, NAN, -2, 0};
    uint8_t q[4];
    assert_true(dl_e4m3_row(q, v, 4) == 2.0f / 448);
    assert_true(q[0] == 0x76 && (q[1] & 0x7f) == 0x7f && q[2] == 0xfe && q[3] == 0);
    assert_true(isinf(dl_e4m3_row(q, (float[]){1, INFINITY}, 2)) && (q[1] & 0x7f) == 0x7f);
    assert_true(dl_e4m3_row(q, (float[]){NAN}, 1) == 0 && (q[0] & 0x7f) == 0x7f);
}

static void which(void **state)
{
    (void)state;
    struct dl_run r;
    struct dl_w w = {.dim = {96, 64}, .nd = 2};
    dl_run_open(&r, NULL, NULL, DL_E4M3);
    assert_true(r.t == DL_BF16 && r.e4m3);
    struct dl_gemm a = {.x = dl_act_at(&w, DL_BF16, 1, 4, 4, 64), .w = &w}, b = a;
    assert_true(dl_e4m3_takes(&r, &a));
    b = a, b.fine = true;
    assert_false(dl_e4m3_takes(&r, &b));
    b = a, b.x.h = 1, b.x.w = 15, b.x.n = 8; /* many rows do not make up for few pixels */
    assert_false(dl_e4m3_takes(&r, &b));
    b = a, b.x.c = 72;
    assert_false(dl_e4m3_takes(&r, &b));
    b = a, b.x.c = 16;
    assert_false(dl_e4m3_takes(&r, &b));
    w.dim[0] = 100;
    assert_false(dl_e4m3_takes(&r, &a));
    w.dim[0] = 96, a.x.t = DL_F32;
    assert_false(dl_e4m3_takes(&r, &a));
    a.x.t = DL_BF16;
    dl_run_open(&r, NULL, NULL, DL_BF16);
    assert_false(dl_e4m3_takes(&r, &a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),
        cmocka_unit_test(rows),
        cmocka_unit_test(not_numbers),
        cmocka_unit_test(which),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
