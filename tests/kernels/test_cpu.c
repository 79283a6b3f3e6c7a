/* The CPU backend itself: its pool gives out every item once, its memory is aligned. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

enum { ITEMS = 1000 };

struct count {
    atomic_int item[ITEMS];
    atomic_int wrong;
    int64_t n, grain;
    int threads;
};

static void count(void *arg, int64_t from, int64_t to, int worker)
{
    struct count *c = arg;
    if (from % c->grain || to - from > c->grain || (to - from < c->grain && to != c->n)) c->wrong++;
    if (worker < 0 || worker >= c->threads) c->wrong++;
    for (int64_t i = from; i < to; i++) c->item[i]++;
}

static void every_item_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 5; threads += 2) {
        struct pool *p = pool_open(threads);
        assert_non_null(p);
        assert_int_equal(pool_threads(p), threads);
        for (int64_t n = 0; n <= ITEMS; n += n < 20 ? 1 : 245)
            for (int64_t grain = 1; grain < 40; grain += 6) {
                struct count c = {.n = n, .grain = grain, .threads = threads};
                pool_for(p, n, grain, count, &c);
                for (int64_t i = 0; i < ITEMS; i++) assert_int_equal(c.item[i], i < n);
                assert_int_equal(c.wrong, 0);
            }
        pool_close(p);
    }
}

static void backend(void **state)
{
    (void)state;
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct dl_err e = {0};
    assert_int_equal(cpu_open(&be, &ctx, NULL, &e), 0);
    assert_string_equal(be->name, "cpu");
    const int64_t sizes[] = {0, 1, 4096, (2 << 20) - 1, (5 << 20) + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *p, back[4] = {0};
        assert_int_equal(be->alloc(ctx, sizes[i], (void **)&p, &e), 0);
        assert_int_equal((uintptr_t)p % DL_ALIGN, 0);
        if (sizes[i] >= 4096) {
            assert_int_equal(be->upload(ctx, p + sizes[i] - 4, "abc", 4, &e), 0);
            assert_int_equal(be->download(ctx, back, p + sizes[i] - 4, 4, &e), 0);
            assert_string_equal(back, "abc");
        }
        be->free(ctx, p);
    }
    void *none;
    assert_int_equal(be->alloc(ctx, -1, &none, &e), -1);
    assert_int_equal(e.code, DL_ENOMEM);
    assert_true(be->free_bytes(ctx) > 1 << 20);
    assert_true(be->supports(ctx, DL_F32));
    assert_false(be->supports(ctx, DL_F16));
    be->close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_item_once), cmocka_unit_test(backend)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
