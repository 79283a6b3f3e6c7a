/* Gaps between kernels, by hand and against a count of every nanosecond; and names that a person can read. */
#include "tests/unit/check.h"
#include "tools/bench/gaps.h"

#include <stdlib.h>
#include <string.h>

static void test_nothing(void **state)
{
    (void)state;
    struct gaps g, zero = {0};
    gaps_of(&g, NULL, 0);
    assert_memory_equal(&g, &zero, sizeof g);
}

static void test_one(void **state)
{
    (void)state;
    struct gaps g;
    struct cuda_span s[] = {{"a", 5000, 7500}};
    gaps_of(&g, s, 1);
    assert_true(g.span_ns == 2500 && g.busy_ns == 2500 && g.gap_ns == 0 && g.largest_ns == 0 && g.n_gaps == 0);
    assert_true(g.kernels == 1 && g.n_top == 1 && g.top[0].count == 1 && g.top[0].ns == 2500);
    assert_string_equal(g.top[0].name, "a");
}

/* Touching, overlapping, nested and empty ones, out of order. */
static void test_by_hand(void **state)
{
    (void)state;
    struct gaps g;
    struct cuda_span s[] = {
        {"c", 20000, 21000},                         /* 2000 after what came before */
        {"a", 0, 4000},      {"b", 4000, 6000},      /* touching */
        {"a", 5000, 9000},                           /* overlapping */
        {"b", 6000, 8000},                           /* nested: it must not end the stretch at 8000 */
        {"e", 9000, 9000},                           /* empty, touching */
        {"a", 9800, 18000},                          /* 800 after: a gap, but none of those counted */
        {"d", 22001, 23000}, {"d", 22500, 23000},    /* 1001 after */
        {"e", 24000, 24000},                         /* empty, 1000 after: not above it */
    };
    gaps_of(&g, s, sizeof s / sizeof *s);
    assert_int_equal(g.span_ns, 24000);
    assert_int_equal(g.gap_ns, 800 + 2000 + 1001 + 1000);
    assert_int_equal(g.busy_ns, 24000 - 4801);
    assert_int_equal(g.largest_ns, 2000);
    assert_int_equal(g.n_gaps, 2);
    assert_int_equal(g.kernels, 10);
    assert_int_equal(g.n_top, 5);
    static const struct gaps_kernel want[] = {
        {"a", 3, 16200}, {"b", 2, 4000}, {"d", 2, 1499}, {"c", 1, 1000}, {"e", 2, 0}};
    for (int i = 0; i < 5; i++) {
        assert_string_equal(g.top[i].name, want[i].name);
        assert_int_equal(g.top[i].count, want[i].count);
        assert_int_equal(g.top[i].ns, want[i].ns);
    }
}

/* Random intervals against a bit for every nanosecond. */
static void test_by_count(void **state)
{
    (void)state;
    enum { LENGTH = 60000, N = 40 };
    static char ran[LENGTH], names[26][2];
    uint32_t x = 1;
    for (int i = 0; i < 26; i++) names[i][0] = (char)('a' + i);
    for (int turn = 0; turn < 50; turn++) {
        struct cuda_span s[N];
        struct gaps g;
        int64_t ns[26] = {0}, first = LENGTH, last = 0, busy = 0, gap = 0, largest = 0;
        int n_gaps = 0;
        memset(ran, 0, sizeof ran);
        for (int i = 0; i < N; i++) {
            int name = (int)((x = x * 1664525 + 1013904223) >> 8) % 26;
            int64_t start = (x = x * 1664525 + 1013904223) % (LENGTH - 2000);
            int64_t end = start + 1 + (x = x * 1664525 + 1013904223) % 2000;
            s[i] = (struct cuda_span){names[name], start, end};
            ns[name] += end - start;
            memset(ran + start, 1, (size_t)(end - start));
            if (start < first) first = start;
            if (end > last) last = end;
        }
        for (int64_t i = first, run = 0; i < last; i++) {
            busy += ran[i], gap += !ran[i];
            run = ran[i] ? 0 : run + 1;
            if (run > largest) largest = run;
            n_gaps += run == GAPS_LEAST_NS + 1;
        }
        gaps_of(&g, s, N);
        assert_int_equal(g.span_ns, last - first);
        assert_int_equal(g.busy_ns, busy);
        assert_int_equal(g.gap_ns, gap);
        assert_int_equal(g.largest_ns, largest);
        assert_int_equal(g.n_gaps, n_gaps);
        assert_int_equal(g.n_top, GAPS_TOP);
        for (int i = 0; i < GAPS_TOP; i++) { /* the longest in order: how many are longer than this one */
            int longer = 0;
            for (int k = 0; k < 26; k++) longer += ns[k] > g.top[i].ns;
            assert_int_equal(g.top[i].ns, ns[g.top[i].name[0] - 'a']);
            assert_true(longer <= i);
            if (i) assert_true(g.top[i].ns <= g.top[i - 1].ns);
        }
    }
}

static void named(const char *long_name, const char *want)
{
    char name[GAPS_NAME];
    memset(name, 0x55, sizeof name);
    gaps_name(long_name, name);
    assert_string_equal(name, want);
}

static void test_names(void **state)
{
    (void)state;
    named("plain_kernel", "plain_kernel");
    named("[memcpy]", "[memcpy]");
    named("", "");
    named("_Z3not read", "_Z3not read");
    /* ours */
    named("void epi_kernel<8>(cuda_epi_args)", "epi_kernel<8>");
    named("noise_kernel(noise_job)", "noise_kernel");
    named("void quant_kernel<quant_cfg<8, 1> >(cuda_quant_args)", "quant_kernel<quant_cfg<8, 1> >");
    named("void (anonymous namespace)::attn_plain<float>((anonymous namespace)::params)", "attn_plain<float>");
    /* a library's */
    named("void cutlass::Kernel<cutlass::gemm::Device<float, (int)-1> >(T1::Params)", "Kernel<Device<float, (int)-1> >");
    named("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<c10::Half> >(int, T2, T3)",
          "vectorized_elementwise_kernel<4, FillFunctor<Half> >");
    named("a<b<c", "a<b<c"); /* cut off by whoever made it */
    named("a>>b(c)", "a>>b");
    named("::a", "a");
    named("a::", "");
    /* the longest that fits, and one more */
    char plain[70];
    memset(plain, 'x', sizeof plain);
    plain[60] = 0;
    named(plain, plain);
    plain[60] = 'x', plain[61] = 0;
    named(plain, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing),  cmocka_unit_test(test_one),   cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_by_count), cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
