#include "engine/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static _Alignas(DL_ALIGN) uint8_t block[16 * DL_ALIGN];

static void both_ends(void **state)
{
    (void)state;
    struct dl_arena a;
    dl_arena_bind(&a, block, sizeof block);
    uint8_t *lo = dl_arena_lo(&a, 1), *lo2 = dl_arena_lo(&a, DL_ALIGN + 1), *hi = dl_arena_hi(&a, 10);
    assert_ptr_equal(lo, block);
    assert_ptr_equal(lo2, block + DL_ALIGN);
    assert_ptr_equal(hi, block + sizeof block - DL_ALIGN);
    assert_int_equal(a.peak_bytes, 4 * DL_ALIGN);
    assert_non_null(dl_arena_lo(&a, 0));
    assert_int_equal(a.peak_bytes, 4 * DL_ALIGN);
}

static void marks(void **state)
{
    (void)state;
    struct dl_arena a;
    dl_arena_bind(&a, block, sizeof block);
    dl_arena_lo(&a, DL_ALIGN);
    struct dl_mark m = dl_arena_mark(&a);
    uint8_t *first = dl_arena_hi(&a, 3 * DL_ALIGN);
    dl_arena_lo(&a, 2 * DL_ALIGN);
    dl_arena_release_hi(&a, m);
    assert_int_equal(a.lo_bytes, 3 * DL_ALIGN);
    assert_int_equal(a.hi_bytes, 0);
    assert_ptr_equal(dl_arena_hi(&a, 3 * DL_ALIGN), first);
    dl_arena_release(&a, m);
    assert_int_equal(a.lo_bytes, DL_ALIGN);
    assert_int_equal(a.hi_bytes, 0);
    assert_int_equal(a.peak_bytes, 6 * DL_ALIGN);
}

static void full(void **state)
{
    (void)state;
    struct dl_arena a;
    dl_arena_bind(&a, block, sizeof block);
    assert_non_null(dl_arena_lo(&a, sizeof block - DL_ALIGN));
    assert_non_null(dl_arena_hi(&a, DL_ALIGN));
    assert_false(a.failed);
    assert_null(dl_arena_hi(&a, 1));
    assert_true(a.failed);
    const int64_t bad[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - DL_ALIGN + 2, sizeof block + 1};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        dl_arena_bind(&a, block, sizeof block);
        assert_null(dl_arena_lo(&a, bad[i]));
        assert_true(a.failed);
        assert_int_equal(a.lo_bytes, 0);
    }
    /* what a bound block has beyond a multiple of the alignment is not used */
    dl_arena_bind(&a, block, DL_ALIGN + 100);
    assert_null(dl_arena_lo(&a, DL_ALIGN + 1));
}

/* The same calls reach the same peak without memory. */
static void dry(void **state)
{
    (void)state;
    struct dl_arena a[2];
    dl_arena_dry(&a[0]);
    dl_arena_bind(&a[1], block, sizeof block);
    for (int i = 0; i < 2; i++) {
        assert_non_null(dl_arena_lo(&a[i], 700));
        struct dl_mark m = dl_arena_mark(&a[i]);
        uint8_t *p = dl_arena_hi(&a[i], 300);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % DL_ALIGN, 0);
        dl_arena_release(&a[i], m);
        dl_arena_hi(&a[i], 1000);
    }
    assert_true(a[0].dry && !a[1].dry);
    assert_int_equal(a[0].peak_bytes, a[1].peak_bytes);
    assert_int_equal(a[0].peak_bytes, 7 * DL_ALIGN);
    assert_non_null(dl_arena_lo(&a[0], (int64_t)1 << 40));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ends),
        cmocka_unit_test(marks),
        cmocka_unit_test(full),
        cmocka_unit_test(dry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
