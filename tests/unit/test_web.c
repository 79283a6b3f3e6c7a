/* What pages are made of: text that is escaped, base64, pages that are counted or too large; and smaller pictures. */
#include "lens/thumb.h"
#include "lens/web.h"
#include "tests/unit/base64.h"
#include "tests/unit/check.h"
#include "tests/unit/root.h"

static void thumbs(void **state)
{
    (void)state;
    static const int sizes[][5] = {{512, 512, 64, 64, 64},   {512, 256, 64, 64, 32},  {30, 60, 20, 10, 20},
                                   {50, 50, 64, 50, 50},     {10000, 3, 100, 100, 1}, {3, 10000, 100, 1, 100},
                                   {1024, 576, 100, 100, 56}};
    int w, h;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        thumb_size(sizes[i][0], sizes[i][1], sizes[i][2], &w, &h);
        assert_int_equal(w, sizes[i][3]);
        assert_int_equal(h, sizes[i][4]);
    }
    /* 3 pixels into 2: each takes one and a half. */
    static const uint8_t row[9] = {0, 30, 255, 30, 60, 255, 90, 90, 255};
    uint8_t out[3 * 100];
    uint64_t sum[3 * 100];
    thumb_make(row, 3, 1, out, 2, 1, sum);
    static const uint8_t want[6] = {10, 40, 255, 70, 80, 255};
    assert_memory_equal(out, want, 6);
    thumb_make(row, 1, 3, out, 1, 2, sum);
    assert_memory_equal(out, want, 6);
    thumb_make(row, 3, 1, out, 3, 1, sum);
    assert_memory_equal(out, row, 9);
    /* One colour stays that colour, whatever the sizes. */
    uint8_t *one = malloc(97 * 89 * 3);
    assert_non_null(one);
    memset(one, 201, 97 * 89 * 3);
    uint64_t *room = malloc(97 * 3 * sizeof *room);
    uint8_t *to = malloc(97 * 89 * 3);
    for (int side = 1; side < 97; side += 5) {
        thumb_size(97, 89, side, &w, &h);
        memset(to, 0, 97 * 89 * 3);
        thumb_make(one, 97, 89, to, w, h, room);
        for (int i = 0; i < w * h * 3; i++) assert_int_equal(to[i], 201);
        assert_true(w * h == 97 * 89 || to[w * h * 3] == 0);
    }
    free(one), free(room), free(to);
}

static void web_parts(void **state)
{
    (void)state;
    struct web *to;
    int64_t counted, bytes;
    uint8_t big[200000];
    for (size_t i = 0; i < sizeof big; i++) big[i] = (uint8_t)(i * 31 % 251);
    static const char *const rfc4648[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    for (int pass = 0; pass < 2; pass++) {
        must(web_open(&to, pass ? in_root("web.html") : NULL, 1 << 20, e));
        for (int i = 0; i < 7; i++) {
            web_base64(to, (const uint8_t *)rfc4648[i], i);
            web_put(to, " ");
        }
        web_text(to, "<a href='\"&\">\t\n\r\x7f");
        web_base64(to, big, sizeof big);
        web_text_part(to, "caf\xc3\xa9s", 5);
        must(web_close(to, pass ? &bytes : &counted, e));
    }
    assert_int_equal(bytes, counted);
    int64_t n;
    char *page = folder_read(in_root("web.html"), &n), *long_text = base64(big, sizeof big);
    static const char begin[] = " Zg== Zm8= Zm9v Zm9vYg== Zm9vYmE= Zm9vYmFy "
                                "&lt;a href=&#39;&quot;&amp;&quot;&gt;\t\n&#13;\xef\xbf\xbd";
    assert_int_equal(n, bytes);
    assert_memory_equal(page, begin, sizeof begin - 1);
    assert_memory_equal(page + sizeof begin - 1, long_text, strlen(long_text));
    assert_string_equal(page + sizeof begin - 1 + strlen(long_text), "caf\xc3\xa9");
    free(page), free(long_text);
    /* Too large: it is told at once, and what was there stays. */
    struct dl_err e = {0};
    int before = folder_count(root);
    assert_int_equal(web_open(&to, in_root("web.html"), 100, &e), 0);
    web_raw(to, big, 100);
    assert_false(web_is_full(to));
    web_put(to, "1");
    assert_true(web_is_full(to));
    assert_int_equal(web_close(to, &n, &e), -1);
    assert_int_equal(e.code, DL_EUSAGE);
    assert_int_equal(folder_count(root), before);
    page = folder_read(in_root("web.html"), &n);
    assert_int_equal(n, bytes);
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(thumbs), cmocka_unit_test(web_parts)};
    return cmocka_run_group_tests(tests, root_make, root_remove);
}
