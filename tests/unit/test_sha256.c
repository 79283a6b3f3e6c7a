/* SHA-256: the examples of FIPS 180-4, every length about the block's border, pieces of a file. */
#include "lens/sha256.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void is(const char *text, int64_t n, const char *want)
{
    char hex[SHA256_HEX];
    sha256_bytes(hex, text, n);
    assert_string_equal(hex, want);
}

static void examples(void **state)
{
    (void)state;
    is("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    is("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    is("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *a = malloc(1000000);
    assert_non_null(a);
    memset(a, 'a', 1000000);
    is(a, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(a);
}

/* Made with Python's hashlib: the digest of the digests of the first 0..200 of the bytes 0, 1, 2, ... */
static void lengths(void **state)
{
    (void)state;
    char text[200], hex[SHA256_HEX], all[201 * 64 + 1];
    for (int i = 0; i < 200; i++) text[i] = (char)i;
    for (int n = 0; n <= 200; n++) {
        sha256_bytes(hex, text, n);
        memcpy(all + 64 * n, hex, 65);
    }
    is(all, 201 * 64, "b367ea311264aae50e6260b96a10761169ce3eec5d5f8f2258351f82c7252776");
}

static void file(void **state)
{
    (void)state;
    char path[] = "/tmp/dlens-sha256-XXXXXX", hex[SHA256_HEX], want[SHA256_HEX];
    int fd = mkstemp(path);
    int64_t n = 70001, bytes = 0;
    char *p = malloc((size_t)n);
    assert_true(fd >= 0 && p);
    for (int64_t i = 0; i < n; i++) p[i] = (char)(i * i % 251);
    assert_int_equal(write(fd, p, (size_t)n), n);
    close(fd);
    sha256_bytes(want, p, n);
    assert_int_equal(sha256_file(hex, path, &bytes, NULL), 0);
    assert_string_equal(hex, want);
    assert_int_equal(bytes, n);
    unlink(path);
    free(p);
    struct dl_err e = {0};
    assert_int_equal(sha256_file(hex, path, NULL, &e), -1);
    assert_non_null(strstr(e.msg, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(examples), cmocka_unit_test(lengths), cmocka_unit_test(file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
