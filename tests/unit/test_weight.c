/* Weights whose values are made up: which values, how they are read, and that ops compute with them what they compute
 * with the same values in memory. */
#include "kernels/cpu/cpu.h"
#include "tests/unit/check.h"

#include <stdlib.h>
#include <string.h>

/* From a second implementation, of Python's integers. */
static void test_bits(void **state)
{
    (void)state;
    assert_int_equal(dl_made_bits(0, 0), 0);
    assert_int_equal(dl_made_bits(0, 1), 0x01fce552u);
    assert_int_equal(dl_made_bits(1, 0), 0x688990c0u);
    assert_int_equal(dl_made_bits(12345, 67890), 0xeb9ec61eu);
    assert_int_equal(dl_made_bits(0xdeadbeef, 0xffffffff), 0x36b77439u);
    assert_int_equal(dl_made_bits(7, 5), 0x37389ebcu);
    assert_int_equal(dl_made_bits(7, 0x100000005), 0x37389ebcu);
}

/* Uniform, and of two seeds not alike. */
static void test_distribution(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    struct dl_made a = {3, 0.5f, 2}, b = {4, 0.5f, 2};
    double sum = 0, squares = 0, both = 0, next = 0;
    float least = 9, most = -9;
    for (int64_t i = 0; i < N; i++) {
        float v = dl_made_value(&a, i), d = v - 0.5f;
        sum += (double)d, squares += (double)d * d, both += (double)d * (dl_made_value(&b, i) - 0.5f);
        next += (double)d * (dl_made_value(&a, i + 1) - 0.5f);
        least = fminf(least, v), most = fmaxf(most, v);
    }
    assert_true(least >= -1.5f && least < -1.49f && most <= 2.5f && most > 2.49f);
    /* variance 4/3; five standard deviations of each mean */
    assert_true(fabs(sum / N) < 5 * sqrt(4.0 / 3 / N) && fabs(squares / N - 4.0 / 3) < 0.01);
    assert_true(fabs(both / N) < 5 * 4.0 / 3 / sqrt(N) && fabs(next / N) < 5 * 4.0 / 3 / sqrt(N));
}

static struct dl_w made_w(int t, int parts, int nd, int64_t rows, int64_t in, int64_t k)
{
    struct dl_w w = {.nd = nd, .dim = {rows, in, k, k}, .n_parts = parts};
    for (int i = 0; i < parts; i++)
        w.part[i] = (struct dl_wpart){.rows = rows / parts, .t = (uint8_t)t, .made_up = true};
    for (int i = 0; i < parts; i++) w.part[i].made = (struct dl_made){100 + (uint32_t)i, nd == 1 ? 1 : 0, 0.3f};
    return w;
}

static void test_read(void **state)
{
    (void)state;
    enum { ROWS = 30, IN = 111, N = ROWS * IN }; /* a part is more than one block of values */
    static float all[N], some[N];
    struct dl_w w = made_w(DL_F16, 2, 2, ROWS, IN, 1);
    dl_w_read(&w, all, DL_F32);
    for (int64_t i = 0; i < N; i++) {
        const struct dl_wpart *p = &w.part[i / (N / 2)];
        assert_true(all[i] == dl_f16_to(dl_f16_of(dl_made_value(&p->made, i % (N / 2)))));
    }
    for (int64_t from = 0; from < 300; from += 37) {
        dl_wpart_read(&w.part[1], from, 1200, some, DL_F32);
        assert_memory_equal(some, all + N / 2 + from, 1200 * sizeof(float));
    }
    /* what is stored in f16 is rounded twice on its way to bf16 */
    static uint16_t half[N];
    dl_w_read(&w, half, DL_BF16);
    for (int64_t i = 0; i < N; i++) assert_int_equal(half[i], dl_bf16_of(all[i]));
    assert_int_equal(dl_wpart_count(&w, 1), N / 2);
}

static void test_has_values(void **state)
{
    (void)state;
    struct dl_w w = made_w(DL_F32, 2, 2, 4, 4, 1);
    struct dl_err e = {0};
    w.name = "half";
    assert_true(dl_w_has_values(&w));
    must(dl_w_need_values(&w, e));
    dl_w_want_pages(&w), dl_w_release_pages(&w); /* no pages stand behind it */
    w.part[1].made_up = false;
    assert_false(dl_w_has_values(&w));
    assert_int_equal(dl_w_need_values(&w, &e), -1);
    assert_string_equal(e.msg, "weight half: only its shape is known, not its values");
}

/* y of a product or convolution with a bias; w and bias stand in a set. */
static void op(const struct dl_backend *be, struct dl_ctx *ctx, int t, struct dl_w *w, struct dl_w *bias, void *y)
{
    struct dl_run r;
    struct dl_wset set = {0};
    void *work = NULL;
    must(dl_wset_add(&set, w, "w.weight", e));
    must(dl_wset_add(&set, bias, "w.bias", e));
    dl_run_open(&r, be, ctx, t);
    for (int real = 0; real < 2; real++) {
        if (real) {
            int64_t bytes = r.arena.peak_bytes;
            must(dl_run_load(&r, &set, e));
            must(be->alloc(ctx, bytes, &work, e));
            dl_run_bind(&r, work, bytes);
        }
        dl_act x = dl_act_lo(&r, t, 2, 5, 5, (int32_t)w->dim[1]), z = dl_act_lo(&r, t, 2, 5, 5, (int32_t)w->dim[0]);
        for (int64_t i = 0; real && i < 50 * w->dim[1]; i++) dl_store(x.p, t, i, (float)(i % 13) - 6);
        if (w->nd == 4)
            dl_op_conv(&r, (struct dl_conv){.x = x, .y = z, .w = w, .k = 3, .e = {.bias = bias}});
        else
            dl_op_gemm(&r, (struct dl_gemm){.x = x, .y = z, .w = w, .e = {.bias = bias}});
        must(dl_run_check(&r, e));
        if (real) memcpy(y, z.p, (size_t)dl_act_bytes(z));
    }
    be->free(ctx, work);
    dl_run_close(&r);
    dl_wset_close(&set);
}

/* Every kernel's way to its weights, by the bits of what comes out; more output channels than one primitive takes. */
static void test_ops(void **state)
{
    (void)state;
    enum { OUT = 736, IN = 64, BYTES = 2 * 25 * OUT * 4 };
    static float value[OUT * IN * 9], bias_value[OUT], got[BYTES / 4], want[BYTES / 4];
    for (int v = 0; v < 16; v++) {
        const struct dl_backend *be;
        struct dl_ctx *ctx;
        int t = v & 1 ? DL_BF16 : DL_F32, stored = v & 2 ? DL_F16 : DL_BF16, taps = v & 4 ? 3 : 1;
        must(cpu_open(&be, &ctx, &(struct dl_cpu_opts){.threads = 1, .reference_only = v & 8}, e));
        struct dl_w w = made_w(stored, 2, taps > 1 ? 4 : 2, OUT, IN, taps), b = made_w(stored, 1, 1, OUT, 1, 1);
        struct dl_w wf = w, bf = b;
        dl_w_read(&w, value, DL_F32);
        dl_w_read(&b, bias_value, DL_F32);
        wf.n_parts = 1;
        wf.part[0] = (struct dl_wpart){.file = value, .rows = OUT, .t = DL_F32};
        bf.part[0] = (struct dl_wpart){.file = bias_value, .rows = OUT, .t = DL_F32};
        op(be, ctx, t, &w, &b, got);
        op(be, ctx, t, &wf, &bf, want);
        assert_memory_equal(got, want, (size_t)(50 * OUT * dl_type_bytes(t)));
        assert_true(dl_load(got, t, 17) != 0);
        be->close(ctx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),       cmocka_unit_test(test_distribution), cmocka_unit_test(test_read),
        cmocka_unit_test(test_has_values), cmocka_unit_test(test_ops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
