/* kernels/cuda/trace.c over a library in CUPTI's place: no GPU is needed. */
#include "kernels/cuda/cuda_priv.h"
#include "tests/cuda/fake/cupti.h"
#include "tests/unit/check.h"

#include <stdio.h>
#include <stdlib.h>

/* Of the backend and of CUDA's runtime, what trace.c uses. */
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return (void)s, cudaSuccess; }
int cuda_fail(struct dl_err *e, cudaError_t rc, const char *what, ...)
{
    return (void)rc, dl_fail(e, DL_EFAIL, "%s", what);
}

static struct dl_ctx ctx;

static void refuses(struct cuda_trace *t, const char *why)
{
    struct dl_err e = {0};
    struct cuda_span *s;
    int64_t n;
    assert_int_equal(cuda_trace_take(t, &s, &n, &e), -1);
    assert_string_equal(e.msg, why);
    assert_null(s);
    assert_int_equal(n, 0);
}

/* More than a buffer holds; every kind; in the order of their starts. */
static void test_records(void **state)
{
    (void)state;
    enum { N = 60000 };
    struct cuda_trace *t;
    struct cuda_span *s;
    int64_t n;
    must(cuda_trace_open(&t, &ctx, e));
    assert_int_equal(fake_cupti.enabled, 3);
    for (int i = N - 1; i >= 0; i--) {
        char name[16]; /* gone when it is read */
        static char kept[5][16];
        snprintf(name, sizeof name, i % 7 == 5 ? "[memcpy]" : i % 7 == 6 ? "[memset]" : "k%d", i % 7);
        if (i % 7 < 5) memcpy(kept[i % 7], name, sizeof name);
        fake_cupti_ran(i % 7 < 5 ? kept[i % 7] : name, 1000 + 10 * i, 1005 + 10 * i);
        if (i % 100 == 0) fake_cupti_ran(NULL, 1, 2);
    }
    must(cuda_trace_take(t, &s, &n, e));
    assert_int_equal(n, N);
    for (int i = 0; i < N; i++) {
        char want[16];
        snprintf(want, sizeof want, i % 7 == 5 ? "[memcpy]" : i % 7 == 6 ? "[memset]" : "k%d", i % 7);
        assert_string_equal(s[i].name, want);
        assert_true(s[i].start_ns == 1000 + 10 * i && s[i].end_ns == 1005 + 10 * i);
    }
    free(s);
    must(cuda_trace_take(t, &s, &n, e)); /* each record once */
    assert_true(n == 0 && !s);
    fake_cupti_ran("k", 5, 6);
    must(cuda_trace_take(t, &s, &n, e));
    assert_int_equal(n, 1);
    free(s);
    fake_cupti_ran("not taken", 5, 6);
    cuda_trace_close(t);
    assert_int_equal(fake_cupti.enabled, 0);
}

static void test_lost(void **state)
{
    (void)state;
    struct cuda_trace *t;
    must(cuda_trace_open(&t, &ctx, e));
    fake_cupti_ran("without times", 0, 0);
    refuses(t, "CUPTI lost 1 records");
    fake_cupti_ran("backwards", 6, 5), fake_cupti_ran("sound", 5, 6), fake_cupti_ran("backwards", 6, 5);
    refuses(t, "CUPTI lost 2 records");
    fake_cupti_ran("sound", 5, 6);
    fake_cupti.dropped = 4;
    refuses(t, "CUPTI lost 4 records");
    struct cuda_span *s;
    int64_t n;
    fake_cupti_ran("sound", 5, 6);
    must(cuda_trace_take(t, &s, &n, e));
    assert_int_equal(n, 1);
    free(s);
    cuda_trace_close(t);
}

static void test_opening(void **state)
{
    (void)state;
    struct cuda_trace *t, *second;
    struct dl_err e = {0}, f = {0};
    must(cuda_trace_open(&t, &ctx, e));
    assert_int_equal(cuda_trace_open(&second, &ctx, &e), -1);
    assert_string_equal(e.msg, "CUPTI serves one trace at a time");
    assert_null(second);
    assert_int_equal(fake_cupti.enabled, 3); /* the first goes on */
    cuda_trace_close(t);
    for (int refused = 0; refused < 3; refused++) {
        f = (struct dl_err){0};
        fake_cupti.refused = refused;
        assert_int_equal(cuda_trace_open(&t, &ctx, &f), -1);
        assert_string_equal(f.msg, "CUPTI, beginning a trace: not allowed");
        assert_int_equal(fake_cupti.enabled, 0);
    }
    fake_cupti.refused = -1;
    must(cuda_trace_open(&t, &ctx, e));
    cuda_trace_close(t);
    cuda_trace_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records), cmocka_unit_test(test_lost), cmocka_unit_test(test_opening)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
