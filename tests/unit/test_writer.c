/* The image writer: order, hashes, the first error stays, and a full disk loses nothing that was finished. SHA-256
 * against FIPS 180-4's examples. */
#include "lens/outfile.h"
#include "lens/sha256.h"
#include "lens/writer.h"
#include "tests/unit/root.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/resource.h>

static void sha256_known(void **state)
{
    (void)state;
    char hex[SHA256_HEX], path[FOLDER_PATH + 8];
    sha256_bytes(hex, "", 0);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_bytes(hex, "abc", 3);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    char *million = malloc(1000000);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    snprintf(path, sizeof path, "%s/a", root);
    assert_int_equal(folder_write(path, million, 1000000), 0);
    int64_t bytes = 0;
    struct dl_err e = {0};
    assert_int_equal(sha256_file(hex, path, &bytes, &e), 0);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_int_equal(bytes, 1000000);
    assert_int_equal(sha256_file(hex, "/nonexistent", NULL, &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    unlink(path);
    free(million);
}

/* In pieces: the old file stays until the commit, and nothing is left of what was abandoned. */
static void in_pieces(void **state)
{
    (void)state;
    struct outfile *f;
    struct dl_err e = {0};
    int64_t n;
    const char *path = in_root("pieces");
    assert_int_equal(outfile_write(path, "old", 3, &e), 0);
    assert_int_equal(outfile_open(&f, path, &e), 0);
    assert_int_equal(outfile_append(f, "ne", 2, &e), 0);
    assert_int_equal(outfile_append(f, "w file", 6, &e), 0);
    char *text = folder_read(path, &n);
    assert_string_equal(text, "old");
    free(text);
    assert_int_equal(outfile_commit(f, &e), 0);
    text = folder_read(path, &n);
    assert_string_equal(text, "new file");
    free(text);
    int before = folder_count(root);
    assert_int_equal(outfile_open(&f, path, &e), 0);
    assert_int_equal(outfile_append(f, "lost", 4, &e), 0);
    assert_int_equal(folder_count(root), before + 1);
    outfile_abandon(f);
    outfile_abandon(NULL);
    assert_int_equal(folder_count(root), before);
    text = folder_read(path, &n);
    assert_string_equal(text, "new file");
    free(text);
    /* A folder cannot be replaced by a file. */
    assert_int_equal(mkdir(in_root("pieces-folder"), 0700), 0);
    assert_int_equal(outfile_open(&f, in_root("pieces-folder"), &e), 0);
    assert_int_equal(outfile_commit(f, &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    assert_non_null(strstr(e.msg, "pieces-folder: cannot be written: Is a directory"));
    assert_int_equal(folder_count(root), before + 1);
    rmdir(in_root("pieces-folder"));
    unlink(path);
}

struct seen {
    int64_t index[64];
    char sha256[64][SHA256_HEX];
    int n, fail_at;
};

static int note(void *ctx, int64_t index, const char *sha256, int64_t bytes, struct dl_err *e)
{
    struct seen *s = ctx;
    (void)bytes;
    if (s->n == s->fail_at) return dl_fail(e, DL_EFAIL, "the manifest said no");
    s->index[s->n] = index;
    memcpy(s->sha256[s->n++], sha256, SHA256_HEX);
    return 0;
}

static void path_of(char path[FOLDER_PATH + 32], int i) { snprintf(path, FOLDER_PATH + 32, "%s/%02d.png", root, i); }

/* Pushes picture i, a colour and a size of its own. */
static int push(struct writer *w, int i, int side, struct dl_err *e)
{
    char path[FOLDER_PATH + 32], name[32];
    uint8_t *rgb = malloc((size_t)side * (size_t)side * 3);
    assert_non_null(rgb);
    uint32_t s = (uint32_t)i;
    for (int j = 0; j < side * side * 3; j++) {
        s = s * 1664525u + 1013904223u;
        rgb[j] = (uint8_t)(s >> 24);
    }
    path_of(path, i);
    snprintf(name, sizeof name, "number %d", i);
    const struct dl_png_text text = {"prompt", name};
    int rc = writer_push(w, &(struct writer_job){path, i, rgb, side, side, &text, 1}, e);
    /* What was pushed is the writer's own copy. */
    memset(rgb, 0, (size_t)side * (size_t)side * 3);
    memset(name, 'x', sizeof name - 1);
    free(rgb);
    return rc;
}

static void in_order(void **state)
{
    (void)state;
    for (int queue = 1; queue <= 9; queue += 4) {
        struct seen s = {.fail_at = -1};
        struct writer *w;
        struct dl_err e = {0};
        assert_int_equal(writer_open(&w, queue, note, &s, &e), 0);
        for (int i = 0; i < 20; i++) assert_int_equal(push(w, i, 8 + i, &e), 0);
        assert_int_equal(writer_close(w, &e), 0);
        assert_int_equal(s.n, 20);
        for (int i = 0; i < 20; i++) {
            char path[FOLDER_PATH + 32], hex[SHA256_HEX], name[32];
            struct dl_png p;
            path_of(path, i);
            assert_int_equal(s.index[i], i);
            assert_int_equal(sha256_file(hex, path, NULL, &e), 0);
            assert_string_equal(hex, s.sha256[i]);
            assert_int_equal(dl_png_read(&p, path, &e), 0);
            assert_int_equal(p.w, 8 + i);
            snprintf(name, sizeof name, "number %d", i);
            assert_string_equal(dl_png_find(&p, "prompt"), name);
            uint32_t seed = (uint32_t)i * 1664525u + 1013904223u;
            assert_int_equal(p.rgb[0], seed >> 24);
            dl_png_close(&p);
            unlink(path);
        }
    }
}

static void first_error_stays(void **state)
{
    (void)state;
    struct seen s = {.fail_at = 2};
    struct writer *w;
    struct dl_err e = {0};
    assert_int_equal(writer_open(&w, 2, note, &s, &e), 0);
    int pushed = 0;
    while (pushed < 50 && !push(w, pushed, 8, &e)) pushed++;
    /* The third fails; three more at most can have been waiting by then. */
    assert_in_range(pushed, 3, 6);
    assert_int_equal(e.code, DL_EFAIL);
    assert_string_equal(e.msg, "the manifest said no");
    struct dl_err at_close = {0};
    assert_int_equal(writer_close(w, &at_close), -1);
    assert_string_equal(at_close.msg, "the manifest said no");
    assert_int_equal(s.n, 2);
    assert_int_equal(folder_count(root), 3); /* 0 to 2 were written, what waited behind was dropped */
    for (int i = 0; i < 3; i++) {
        char path[FOLDER_PATH + 32];
        path_of(path, i);
        unlink(path);
    }
    assert_int_equal(writer_close(NULL, &e), 0);
}

/* A limit on the size of files stands in for a full disk: write() fails in the middle of a file either way. */
static void full_disk(void **state)
{
    (void)state;
    struct rlimit was, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    small = was;
    small.rlim_cur = 20000;
    struct seen s = {.fail_at = -1};
    struct writer *w;
    struct dl_err e = {0};
    assert_int_equal(writer_open(&w, 4, note, &s, &e), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = push(w, 0, 16, &e);
    if (!rc) rc = push(w, 1, 256, &e); /* 200 KB that do not compress */
    rc = writer_close(w, &e) || rc ? -1 : 0;
    setrlimit(RLIMIT_FSIZE, &was);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc, -1);
    assert_int_equal(e.code, DL_EFAIL);
    assert_non_null(strstr(e.msg, "/01.png: cannot be written: "));
    assert_int_equal(s.n, 1);
    assert_int_equal(folder_count(root), 1); /* the finished one, and no temporary file */
}

static void temporary_names(void **state)
{
    (void)state;
    assert_true(outfile_is_temporary("a.png.123.tmp"));
    assert_true(outfile_is_temporary("manifest.json.1.tmp"));
    assert_false(outfile_is_temporary("a.png"));
    assert_false(outfile_is_temporary("notes.tmp"));
    assert_false(outfile_is_temporary(".tmp"));
    assert_false(outfile_is_temporary("a.12x.tmp"));
    assert_false(outfile_is_temporary("123.tmp"));
    char deep[FOLDER_PATH + 32];
    struct dl_err e = {0};
    snprintf(deep, sizeof deep, "%s/x//y/z/", root);
    assert_int_equal(outfile_folder(deep, &e), 0);
    assert_int_equal(outfile_folder(deep, &e), 0);
    snprintf(deep, sizeof deep, "%s/x/y/file", root);
    assert_int_equal(outfile_write(deep, "1", 1, &e), 0);
    snprintf(deep, sizeof deep, "%s/x/y/file.9.tmp", root);
    assert_int_equal(folder_write(deep, "2", 1), 0);
    snprintf(deep, sizeof deep, "%s/x/y", root);
    outfile_sweep(deep);
    assert_int_equal(folder_count(deep), 2);
    snprintf(deep, sizeof deep, "%s/x/y/file/z", root);
    assert_int_equal(outfile_folder(deep, &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    assert_non_null(strstr(e.msg, "Not a directory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sha256_known), cmocka_unit_test(in_pieces),
                                       cmocka_unit_test(in_order),     cmocka_unit_test(first_error_stays),
                                       cmocka_unit_test(full_disk),    cmocka_unit_test(temporary_names)};
    return cmocka_run_group_tests(tests, root_make, root_remove);
}
