/* PNG: what is written reads back with its text and is the same each time; what others wrote reads right; damaged and
 * hostile files fail with a message and nothing worse (the sanitizers' builds watch). */
#include "lens/png.h"
#include "tests/unit/root.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static uint8_t *noise(int w, int h)
{
    uint8_t *rgb = malloc((size_t)w * (size_t)h * 3);
    uint32_t s = 12345;
    assert_non_null(rgb);
    for (int i = 0; i < w * h * 3; i++) {
        s = s * 1664525u + 1013904223u;
        rgb[i] = (uint8_t)(s >> 24);
    }
    return rgb;
}

static void round_trip(void **state)
{
    (void)state;
    static const int size[][2] = {{1, 1}, {64, 64}, {33, 17}, {512, 3}};
    const struct dl_png_text text[] = {
        {"dlens", "{\"steps\":20}"}, {"prompt", "a caf\xc3\xa9 \xe7\x8c\xab \xf0\x9f\x98\x80"}, {"empty", ""}};
    for (int i = 0; i < 4; i++) {
        char path[FOLDER_PATH + 16];
        struct dl_err e = {0};
        struct dl_png p;
        int w = size[i][0], h = size[i][1];
        uint8_t *rgb = noise(w, h), *again;
        int64_t n_again, n_file;
        snprintf(path, sizeof path, "%s/a.png", root);
        assert_int_equal(dl_png_write(path, rgb, w, h, text, 3, &e), 0);
        assert_int_equal(dl_png_read(&p, path, &e), 0);
        assert_int_equal(p.w, w);
        assert_int_equal(p.h, h);
        assert_memory_equal(p.rgb, rgb, (size_t)w * (size_t)h * 3);
        assert_int_equal(p.n_text, 3);
        for (int t = 0; t < 3; t++) assert_string_equal(dl_png_find(&p, text[t].key), text[t].value);
        assert_null(dl_png_find(&p, "none"));
        /* The same bytes again, and no temporary file left beside them. */
        assert_int_equal(dl_png_encode(rgb, w, h, text, 3, &again, &n_again, &e), 0);
        char *file = folder_read(path, &n_file);
        assert_int_equal(n_file, n_again);
        assert_memory_equal(file, again, (size_t)n_again);
        assert_int_equal(folder_count(root), 1);
        free(file);
        free(again);
        free(rgb);
        dl_png_close(&p);
    }
}

static void text_of_100_kb(void **state)
{
    (void)state;
    char *value = malloc(100001);
    uint8_t *rgb = noise(2, 2), *data;
    int64_t bytes;
    struct dl_err e = {0};
    struct dl_png p;
    assert_non_null(value);
    for (int i = 0; i < 100000; i++) value[i] = (char)('a' + i % 26);
    value[100000] = 0;
    const struct dl_png_text text = {"prompt", value};
    assert_int_equal(dl_png_encode(rgb, 2, 2, &text, 1, &data, &bytes, &e), 0);
    assert_true(bytes < 10000);
    assert_int_equal(dl_png_decode(&p, data, bytes, "memory", &e), 0);
    assert_string_equal(dl_png_find(&p, "prompt"), value);
    dl_png_close(&p);
    free(data);
    free(rgb);
    free(value);
}

static void damaged(void **state)
{
    (void)state;
    const struct dl_png_text text = {"prompt", "a cat"};
    uint8_t *rgb = noise(16, 16), *data;
    int64_t bytes;
    struct dl_err e = {0};
    assert_int_equal(dl_png_encode(rgb, 16, 16, &text, 1, &data, &bytes, &e), 0);
    for (int64_t n = 0; n < bytes; n++) {
        /* An exact copy of its own, so that reading behind it is seen. */
        uint8_t *part = malloc((size_t)n + 1);
        struct dl_png p;
        assert_non_null(part);
        memcpy(part, data, (size_t)n);
        e = (struct dl_err){0};
        assert_int_equal(dl_png_decode(&p, part, n, "part.png", &e), -1);
        assert_int_equal(e.code, DL_EINPUT);
        assert_non_null(strstr(e.msg, "part.png"));
        assert_null(p.rgb);
        free(part);
    }
    /* A byte changed anywhere in the critical chunks is found by a checksum; in the text it may be let through. */
    int read = 0;
    for (int64_t i = 0; i < bytes; i++) {
        struct dl_png p;
        data[i] ^= 0x55;
        e = (struct dl_err){0};
        if (!dl_png_decode(&p, data, bytes, "flip.png", &e)) {
            assert_memory_equal(p.rgb, rgb, 16 * 16 * 3);
            dl_png_close(&p);
            read++;
        } else {
            assert_int_equal(e.code, DL_EINPUT);
        }
        data[i] ^= 0x55;
    }
    assert_true(read < 60);
    free(data);
    free(rgb);
}

/* A PNG by hand: stored deflate blocks, so that any header and any pixels can be put together. */
static uint32_t crc_of(const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int b = 0; b < 8; b++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static int64_t chunk(uint8_t *to, const char *type, const uint8_t *data, uint32_t n)
{
    put32(to, n);
    memcpy(to + 4, type, 4);
    memcpy(to + 8, data, n);
    put32(to + 8 + n, crc_of(to + 4, n + 4));
    return 12 + (int64_t)n;
}

static int64_t by_hand(uint8_t *to, uint32_t w, uint32_t h, int depth, int colour, const uint8_t *rows, uint16_t n)
{
    static const uint8_t magic[8] = {0x89, 'P', 'N', 'G', 13, 10, 26, 10};
    uint8_t head[13] = {0}, z[256] = {0x78, 0x01, 1};
    uint32_t a = 1, b = 0;
    memcpy(to, magic, 8);
    put32(head, w);
    put32(head + 4, h);
    head[8] = (uint8_t)depth;
    head[9] = (uint8_t)colour;
    z[3] = (uint8_t)n;
    z[4] = (uint8_t)(n >> 8);
    z[5] = (uint8_t)~n;
    z[6] = (uint8_t)(~n >> 8);
    memcpy(z + 7, rows, n);
    for (int i = 0; i < n; i++) {
        a = (a + rows[i]) % 65521;
        b = (b + a) % 65521;
    }
    put32(z + 7 + n, b << 16 | a);
    int64_t at = 8;
    at += chunk(to + at, "IHDR", head, 13);
    if (colour == 3) at += chunk(to + at, "PLTE", (const uint8_t[]){1, 2, 3, 200, 100, 50}, 6);
    at += chunk(to + at, "tEXt", (const uint8_t *)"Software\0other", 14);
    at += chunk(to + at, "IDAT", z, 11u + n);
    return at + chunk(to + at, "IEND", head, 0);
}

static void of_others(void **state)
{
    (void)state;
    struct other {
        int depth, colour;
        uint8_t rows[9], n;
        uint8_t want[6];
    };
    static const struct other table[] = {
        {8, 0, {0, 7, 250}, 3, {7, 7, 7, 250, 250, 250}},                            /* grey */
        {1, 0, {0, 0x40}, 2, {0, 0, 0, 255, 255, 255}},                              /* one bit */
        {8, 3, {0, 1, 0}, 3, {200, 100, 50, 1, 2, 3}},                               /* palette */
        {8, 6, {0, 10, 20, 30, 255, 10, 20, 30, 0}, 9, {10, 20, 30, 255, 255, 255}}, /* alpha over white */
        {16, 0, {0, 0x80, 0x80, 0xff, 0xff}, 5, {128, 128, 128, 255, 255, 255}},     /* 16 bits */
        {8, 2, {0, 1, 2, 3, 4, 5, 6}, 7, {1, 2, 3, 4, 5, 6}},                        /* ours */
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        uint8_t file[512];
        struct dl_png p;
        struct dl_err e = {0};
        int64_t n = by_hand(file, 2, 1, table[i].depth, table[i].colour, table[i].rows, table[i].n);
        if (dl_png_decode(&p, file, n, "other.png", &e)) print_message("%s\n", e.msg);
        assert_non_null(p.rgb);
        assert_memory_equal(p.rgb, table[i].want, 6);
        assert_string_equal(dl_png_find(&p, "Software"), "other");
        dl_png_close(&p);
    }
}

static void hostile(void **state)
{
    (void)state;
    static const uint32_t size[][2] = {{0, 1},        {1, 0},      {0x7fffffff, 0x7fffffff}, {40000, 1}, {32767, 32767},
                                       {1u << 31, 1}, {9000, 9000}};
    uint8_t file[512];
    struct dl_png p;
    for (int i = 0; i < 7; i++) {
        struct dl_err e = {0};
        int64_t n = by_hand(file, size[i][0], size[i][1], 8, 2, (const uint8_t[]){0, 1, 2, 3}, 4);
        assert_int_equal(dl_png_decode(&p, file, n, "big.png", &e), -1);
        assert_int_equal(e.code, DL_EINPUT);
        assert_null(p.rgb);
        if (i == 6) assert_non_null(strstr(e.msg, "more pixels than its bytes hold"));
    }
    /* A chunk that says more bytes than there are. */
    struct dl_err chunk_err = {0};
    int64_t n = by_hand(file, 1, 1, 8, 2, (const uint8_t[]){0, 1, 2, 3}, 4);
    file[33] = 0x7e; /* of the text behind IHDR */
    assert_int_equal(dl_png_decode(&p, file, n, "chunk.png", &chunk_err), -1);
    assert_string_equal(chunk_err.msg,
                        "chunk.png: the chunk at byte 33 says 2113929230 bytes, and the file ends before");
    /* Text that unpacks to more than is allowed does not come through. */
    struct dl_err e = {0};
    char *value = malloc(20000001);
    uint8_t *data, rgb[3] = {1, 2, 3};
    int64_t bytes;
    assert_non_null(value);
    memset(value, 'a', 20000000);
    value[20000000] = 0;
    const struct dl_png_text text = {"prompt", value};
    assert_int_equal(dl_png_encode(rgb, 1, 1, &text, 1, &data, &bytes, &e), 0);
    if (!dl_png_decode(&p, data, bytes, "text.png", &e)) {
        assert_null(dl_png_find(&p, "prompt"));
        dl_png_close(&p);
    }
    free(value);
    free(data);
    e = (struct dl_err){0};
    assert_int_equal(dl_png_read(&p, "/nonexistent/a.png", &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    e = (struct dl_err){0};
    assert_int_equal(dl_png_read(&p, root, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    e = (struct dl_err){0};
    assert_int_equal(dl_png_write("/nonexistent/a.png", rgb, 1, 1, NULL, 0, &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    assert_non_null(strstr(e.msg, "/nonexistent/a.png"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(text_of_100_kb),
                                       cmocka_unit_test(damaged), cmocka_unit_test(of_others),
                                       cmocka_unit_test(hostile)};
    return cmocka_run_group_tests(tests, root_make, root_remove);
}
