/* The safetensors reader against hostile files, the writer against the reference implementation's bytes, and the forms
 * in which component folders hold their weights. */
#define _GNU_SOURCE
#include "loaders/safetensors.h"
#include "loaders/st_write.h"
#include "loader_files.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

#define REF DLENS_SOURCE_DIR "/tests/unit/data/st_ref.safetensors"

/* Every dtype of the reference file, with values. */
static void test_reference_file(void **state)
{
    (void)state;
    struct st_file *f;
    struct dl_err e = {0};
    if (st_open(&f, REF, &e)) fail_msg("%s", e.msg);
    assert_int_equal(st_file_count(f), 10);
    assert_true(st_file_mapped(f));
    assert_string_equal(st_meta(f, "format"), "pt \u00e9 \"q\"\n");
    assert_null(st_meta(f, "absent"));
    assert_int_equal(st_meta_count(f), 1);

    const struct st_tensor *t = st_need(f, "f32", DL_F32, 2, (int64_t[]){2, 3}, &e);
    assert_non_null(t);
    assert_memory_equal(t->data, ((float[]){1.0f, -2.5f, 3.25f, 0.0f, 65504.0f, -1e-8f}), 24);
    t = st_need(f, "i64", DL_I64, 1, (int64_t[]){-1}, &e);
    assert_non_null(t);
    assert_memory_equal(t->data, ((int64_t[]){1, -2, (int64_t)1 << 40}), 24);
    t = st_need(f, "bf16", -1, 2, (int64_t[]){2, 1}, &e);
    assert_non_null(t);
    assert_int_equal(t->t, DL_BF16);
    assert_true(dl_load(t->data, DL_BF16, 1) == -3.0f);
    t = st_need(f, "f8", DL_E4M3, 1, (int64_t[]){3}, &e);
    assert_non_null(t);
    assert_true(dl_load(t->data, DL_E4M3, 1) == -448.0f);
    t = st_need(f, "scalar", DL_F32, 0, NULL, &e);
    assert_non_null(t);
    assert_int_equal(t->bytes, 4);
    t = st_find(f, "empty");
    assert_non_null(t);
    assert_int_equal(t->bytes, 0);
    t = st_find(f, "name \"quoted\" \u00e9");
    assert_non_null(t);
    assert_memory_equal(t->data, ((uint8_t[]){1, 2}), 2);

    assert_null(st_need(f, "f32", DL_F32, 2, (int64_t[]){3, -1}, &e));
    assert_says(e.msg, REF, "\"f32\"", "[2, 3]", "[3, any]", NULL);
    e.code = 0;
    assert_null(st_need(f, "f32", DL_F16, 2, (int64_t[]){2, 3}, &e));
    assert_says(e.msg, "\"f32\"", "F32", "f16", NULL);
    e.code = 0;
    assert_null(st_need(f, "nowhere", DL_F16, 2, (int64_t[]){2, 3}, &e));
    assert_says(e.msg, "\"nowhere\"", "missing", "[2, 3]", NULL);
    assert_int_equal(e.code, DL_EINPUT);
    st_close(f);
}

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *p = malloc(1 << 16);
    assert_non_null(p);
    *n = fread(p, 1, 1 << 16, f);
    fclose(f);
    return p;
}

static void assert_same_file(const char *a, const char *b)
{
    size_t n, m;
    char *p = slurp(a, &n), *q = slurp(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(p, q, n);
    free(p);
    free(q);
}

static int files_in_scratch(void)
{
    int n = 0;
    DIR *d = opendir(scratch);
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));) n += *x->d_name != '.';
    closedir(d);
    return n;
}

/* Writing what the reference file holds gives the reference file. */
static void test_write_equals_reference(void **state)
{
    (void)state;
    struct st_file *f;
    struct dl_err e = {0};
    if (st_open(&f, REF, &e)) fail_msg("%s", e.msg);
    struct st_tensor t[10];
    /* The header's order of empty tensors is the file's own; by offset, "empty" precedes "f32" here as well. */
    for (int i = 0; i < 10; i++) t[i] = *st_file_at(f, i);
    struct st_pair meta = {"format", st_meta(f, "format")};
    if (st_write(at("whole.safetensors"), t, 10, &meta, 1, &e)) fail_msg("%s", e.msg);
    assert_same_file(REF, at("whole.safetensors"));

    struct st_writer *w;
    if (st_writer_open(&w, at("stream.safetensors"), t, 10, &meta, 1, &e)) fail_msg("%s", e.msg);
    assert_int_not_equal(access(at("stream.safetensors"), F_OK), 0);
    const char *data = st_file_at(f, 0)->data;
    for (int i = 0; i < 78; i += 13) assert_int_equal(st_writer_add(w, data + i, 13, &e), 0);
    assert_int_equal(st_writer_close(w, &e), 0);
    assert_same_file(REF, at("stream.safetensors"));
    assert_int_equal(files_in_scratch(), 2);
    st_close(f);
}

static void test_write_errors(void **state)
{
    (void)state;
    struct dl_err e = {0};
    struct st_writer *w;
    float x[4] = {0};
    struct st_tensor t = {.name = "a", .t = DL_F32, .nd = 1, .dim = {4}, .data = x};
    put_text("out", "old");

    assert_int_equal(st_write(at("no/such/folder/f"), &t, 1, NULL, 0, &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    assert_says(e.msg, "no/such/folder/f", "No such file", NULL);

    e.code = 0;
    assert_int_equal(st_writer_open(&w, at("out"), &t, 1, NULL, 0, &e), 0);
    assert_int_equal(st_writer_add(w, x, 12, &e), 0);
    assert_int_equal(st_writer_close(w, &e), -1);
    assert_says(e.msg, "12 bytes", "16", NULL);

    e.code = 0;
    assert_int_equal(st_writer_open(&w, at("out"), &t, 1, NULL, 0, &e), 0);
    assert_int_equal(st_writer_add(w, x, 16, &e), 0);
    assert_int_equal(st_writer_add(w, x, 1, &e), -1);
    st_writer_drop(w);

    struct st_tensor twice[] = {t, t}, wild = t, latin = t;
    e.code = 0;
    assert_int_equal(st_write(at("out"), twice, 2, NULL, 0, &e), -1);
    assert_says(e.msg, "\"a\"", "twice", NULL);
    wild.nd = 3, wild.dim[1] = wild.dim[2] = (int64_t)1 << 40;
    e.code = 0;
    assert_int_equal(st_write(at("out"), &wild, 1, NULL, 0, &e), -1);
    latin.name = "caf\xe9";
    e.code = 0;
    assert_int_equal(st_write(at("out"), &latin, 1, NULL, 0, &e), -1);
    assert_says(e.msg, "UTF-8", NULL);

    /* A file that may not grow stands for a full disk: the old file stays, the temporary one goes. */
    struct rlimit was, small = {256, 256};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    small.rlim_max = was.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    static float many[1000];
    struct st_tensor big = {.name = "big", .t = DL_F32, .nd = 1, .dim = {1000}, .data = many};
    e.code = 0;
    int rc = st_write(at("out"), &big, 1, NULL, 0, &e);
    setrlimit(RLIMIT_FSIZE, &was);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc, -1);
    assert_says(e.msg, at("out"), strerror(EFBIG), NULL);

    size_t n;
    char *old = slurp(at("out"), &n);
    assert_int_equal(n, 3);
    assert_memory_equal(old, "old", 3);
    free(old);
    assert_int_equal(files_in_scratch(), 1);
}

#define T(dtype, shape, from, to) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]}"

struct hostile {
    const char *header;
    size_t data;
    const char *says[3];
};

static const struct hostile hostiles[] = {
    {"[]", 0, {"does not start with '{'"}},
    {" {}", 0, {"does not start with '{'"}},
    {"", 0, {"does not start with '{'"}},
    {"{", 0, {"bad JSON"}},
    {"{} x", 0, {"bad JSON"}},
    {"{\"a\":1}", 0, {"\"a\"", "1, not by an object"}},
    {"{\"a\":null}", 0, {"\"a\"", "null"}},
    {"{\"a\":{}}", 0, {"\"a\"", "dtype", "nothing"}},
    {"{\"a\":{\"dtype\":5}}", 0, {"\"a\"", "dtype is 5"}},
    {"{\"a\":{\"dtype\":\"F32\"}}", 0, {"\"a\"", "shape is nothing"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,16]}}", 16, {"\"a\"", "shape is 4"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", 16, {"\"a\"", "data_offsets are nothing"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0]}}", 16, {"\"a\"", "data_offsets are a list of 1"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":{\"0\":0,\"1\":16}}}",
     16,
     {"data_offsets are an object"}},
    {"{\"a\":" T("F32", "[4]", "0.0", "16.0") "}", 16, {"\"a\"", "data_offsets"}},
    {"{\"a\":" T("F32", "[4]", "\"0\"", "16") "}", 16, {"\"a\"", "data_offsets"}},
    {"{\"a\":" T("F32", "[4]", "-16", "0") "}", 16, {"\"a\"", "impossible data_offsets [-16, 0]"}},
    {"{\"a\":" T("F32", "[4]", "16", "0") "}", 16, {"\"a\"", "impossible data_offsets [16, 0]"}},
    {"{\"a\":" T("F32", "[4]", "0", "9223372036854775807") "}", 16, {"impossible data_offsets"}},
    {"{\"a\":" T("F32", "[4]", "0", "9223372036854775808") "}", 16, {"bad JSON", "too big"}},
    {"{\"a\":" T("F32", "[2.0]", "0", "8") "}", 8, {"\"a\"", "dimension 0 is 2"}},
    {"{\"a\":" T("F32", "[-1]", "0", "4") "}", 4, {"\"a\"", "dimension 0 is -1"}},
    {"{\"a\":" T("F32", "[[1]]", "0", "4") "}", 4, {"\"a\"", "dimension 0 is a list"}},
    {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, {"\"a\"", "9 dimensions"}},
    {"{\"a\":" T("F32", "[4294967296,4294967296]", "0", "4") "}", 4, {"\"a\"", "overflows"}},
    {"{\"a\":" T("F32", "[4611686018427387905]", "0", "4") "}", 4, {"\"a\"", "overflows"}},
    {"{\"a\":" T("F32", "[0,4294967296,4294967296]", "0", "0") "}", 0, {"\"a\"", "overflows"}},
    {"{\"a\":" T("F32", "[4]", "0", "12") "}", 12, {"\"a\"", "F32 [4] takes 16 bytes", "hold 12"}},
    {"{\"a\":" T("F16", "[4]", "0", "16") "}", 16, {"\"a\"", "F16 [4] takes 8 bytes", "hold 16"}},
    {"{\"a\":" T("F4", "[3]", "0", "1") "}", 1, {"\"a\"", "F4 [3] takes 2 bytes"}},
    {"{\"a\":" T("F32", "[4]", "0", "16") ",\"b\":" T("F32", "[4]", "12", "28") "}", 28, {"\"a\" and \"b\" overlap"}},
    {"{\"a\":" T("F32", "[4]", "0", "16") ",\"b\":" T("F32", "[4]", "0", "16") "}", 16, {"\"a\" and \"b\" overlap"}},
    {"{\"a\":" T("F32", "[4]", "0", "16") ",\"b\":" T("F32", "[1]", "20", "24") "}",
     24,
     {"\"b\"", "belong to no tensor"}},
    {"{\"a\":" T("F32", "[4]", "4", "20") "}", 20, {"\"a\"", "belong to no tensor"}},
    {"{\"a\":" T("F32", "[4]", "0", "16") ",\"a\":" T("F32", "[4]", "16", "32") "}", 32, {"bad JSON", "duplicate"}},
    {"{\"a\":" T("F32", "[4]", "0", "16") "}", 15, {"truncated", "describes 79 bytes", "has 78"}},
    {"{\"a\":" T("F32", "[4]", "0", "16") "}", 0, {"truncated"}},
    {"{\"a\":" T("F32", "[4]", "0", "16") "}", 17, {"oversized", "describes 79 bytes", "has 80"}},
    {"{\"a\":" T("U8", "[4611686018427387904]", "0", "4611686018427387904") "}", 8, {"overflows"}},
    {"{\"a\":" T("U8", "[70368744177664]", "0", "70368744177664") "}", 8, {"truncated"}},
    {"{}", 1, {"oversized"}},
    {"{\"__metadata__\":[]}", 0, {"__metadata__", "a list"}},
    {"{\"__metadata__\":{\"a\":1}}", 0, {"__metadata__", "\"a\" is 1"}},
    {"{\"a\xff\":" T("U8", "[0]", "0", "0") "}", 0, {"bad JSON"}},
    {"{\"a\\u0000b\":" T("U8", "[0]", "0", "0") "}", 0, {"bad JSON"}},
};

static void test_hostile_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostiles / sizeof *hostiles; i++) {
        const struct hostile *h = &hostiles[i];
        struct st_file *f;
        struct dl_err e = {0};
        size_t n;
        uint8_t *p = st_bytes(h->header, h->data, &n);
        if (!st_open_memory(&f, p, (int64_t)n, "bad.safetensors", &e)) fail_msg("accepted: %s", h->header);
        assert_null(f);
        assert_int_equal(e.code, DL_EINPUT);
        assert_says(e.msg, "bad.safetensors", h->says[0], h->says[1], h->says[1] ? h->says[2] : NULL, NULL);
        free(p);
    }
}

/* What looks odd and is allowed. */
static void test_odd_but_good(void **state)
{
    (void)state;
    static const char *const good[] = {
        "{}",
        "{}   ",
        "{\"__metadata__\":{}}",
        "{\"b\":" T("U8", "[1]", "3", "4") ",\"a\":" T("U8", "[3]", "0", "3") "}",
        "{\"b\":" T("U8", "[0]", "3", "3") ",\"a\":" T("U8", "[4]", "0", "4") "}",
        "{\"b\":" T("F64", "[1]", "0", "8") "}",
        "{\"b\":" T("WHAT", "[1]", "0", "8") "}",
        "{\"b\":" T("F4", "[2,2]", "0", "2") "}",
    };
    static const size_t data[] = {0, 0, 0, 4, 4, 8, 8, 2};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct st_file *f;
        struct dl_err e = {0};
        size_t n;
        uint8_t *p = st_bytes(good[i], data[i], &n);
        int rc = st_open_memory(&f, p, (int64_t)n, "odd", &e);
        if (i == 4) {
            /* An empty tensor in the middle of another one overlaps it. */
            assert_int_equal(rc, -1);
            assert_says(e.msg, "overlap", NULL);
        } else if (rc) {
            fail_msg("%s: %s", good[i], e.msg);
        }
        if (i == 3) {
            assert_string_equal(st_file_at(f, 0)->name, "a");
            assert_memory_equal(st_find(f, "b")->data, "\3", 1);
        }
        if (i == 6) {
            assert_null(st_need(f, "b", -1, 1, (int64_t[]){1}, &e));
            assert_says(e.msg, "\"b\"", "WHAT", NULL);
        }
        st_close(f);
        free(p);
    }
}

static void test_deep_json(void **state)
{
    (void)state;
    char *deep = malloc(2100);
    assert_non_null(deep);
    strcpy(deep, "{\"a\":");
    memset(deep + 5, '[', 1000);
    memset(deep + 1005, ']', 1000);
    strcpy(deep + 2005, "}");
    struct st_file *f;
    struct dl_err e = {0};
    size_t n;
    uint8_t *p = st_bytes(deep, 0, &n);
    assert_int_equal(st_open_memory(&f, p, (int64_t)n, "deep", &e), -1);
    assert_says(e.msg, "deep", "nested", NULL);
    free(p);
    free(deep);
}

/* The length field and the file's start. */
static void test_bad_starts(void **state)
{
    (void)state;
    struct st_file *f;
    struct dl_err e = {0};
    uint8_t huge[16] = {0, 0, 0, 0, 0, 0, 0, 0x80, '{', '}'};
    assert_int_equal(st_open_memory(&f, huge, sizeof huge, "f", &e), -1);
    assert_says(e.msg, "not a safetensors file", "9223372036854775808", NULL);
    memset(huge, 0xff, 8);
    e.code = 0;
    assert_int_equal(st_open_memory(&f, huge, sizeof huge, "f", &e), -1);
    assert_says(e.msg, "18446744073709551615", NULL);
    uint8_t beyond[10] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    e.code = 0;
    assert_int_equal(st_open_memory(&f, beyond, sizeof beyond, "f", &e), -1);
    assert_says(e.msg, "truncated", "byte 11", "has 10", NULL);
    for (int64_t n = 0; n < 8; n++) {
        e.code = 0;
        assert_int_equal(st_open_memory(&f, beyond, n, "f", &e), -1);
        assert_says(e.msg, "truncated", NULL);
    }
    const char *lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    e.code = 0;
    assert_int_equal(st_open_memory(&f, lfs, (int64_t)strlen(lfs), "f", &e), -1);
    assert_says(e.msg, "Git LFS pointer", "git lfs pull", NULL);
}

/* The reference file cut anywhere, or with more at its end, is refused. */
static void test_every_truncation(void **state)
{
    (void)state;
    size_t n;
    char *p = slurp(REF, &n);
    struct st_file *f;
    for (size_t cut = 0; cut < n; cut++) {
        struct dl_err e = {0};
        /* A block of exactly that size, so that reading beyond it shows. */
        char *q = malloc(cut + 1);
        assert_non_null(q);
        memcpy(q + 1, p, cut);
        if (!st_open_memory(&f, q + 1, (int64_t)cut, "cut", &e)) fail_msg("accepted with %zu bytes of %zu", cut, n);
        assert_int_equal(e.code, DL_EINPUT);
        free(q);
    }
    struct dl_err e = {0};
    p[n] = 0;
    assert_int_equal(st_open_memory(&f, p, (int64_t)n + 1, "long", &e), -1);
    assert_says(e.msg, "oversized", NULL);
    free(p);
}

static void test_bad_paths(void **state)
{
    (void)state;
    struct st_file *f;
    struct dl_err e = {0};
    assert_int_equal(st_open(&f, at("none.safetensors"), &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_says(e.msg, "none.safetensors", "No such file", NULL);
    e.code = 0;
    assert_int_equal(st_open(&f, scratch, &e), -1);
    assert_says(e.msg, "is not a file", NULL);
    put_text("empty.safetensors", "");
    e.code = 0;
    assert_int_equal(st_open(&f, at("empty.safetensors"), &e), -1);
    assert_says(e.msg, "truncated", "empty", NULL);
    assert_int_equal(mkfifo(at("pipe.safetensors"), 0600), 0);
    e.code = 0;
    assert_int_equal(st_open(&f, at("pipe.safetensors"), &e), -1);
    assert_says(e.msg, "is not a file", NULL);
    if (geteuid() == 0) {
        print_message("permissions do not bind root: unreadable file not tested\n");
        return;
    }
    put_st("locked.safetensors", "{}", 0);
    chmod(at("locked.safetensors"), 0);
    e.code = 0;
    assert_int_equal(st_open(&f, at("locked.safetensors"), &e), -1);
    assert_says(e.msg, "Permission denied", NULL);
}

#define A "{\"a\":" T("U8", "[2]", "0", "2") "}"
#define B "{\"b\":" T("U8", "[2]", "0", "2") "}"
#define MAP(a, b) "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"a\":\"" a "\",\"b\":\"" b "\"}}"

/* Opens m/ under scratch; the number of tensors, or -1 with the message in e. */
static int64_t open_m(struct dl_err *e)
{
    struct st_set *s;
    e->code = 0;
    if (st_set_open(&s, at("m"), "model", e)) {
        assert_null(s);
        return -1;
    }
    int64_t n = st_set_count(s);
    for (int64_t i = 0; i < n; i++) {
        const struct st_tensor *t = st_set_find(s, st_set_at(s, i)->name);
        assert_ptr_equal(t, st_set_at(s, i));
        assert_memory_equal(t->data, "\0\1", 2);
    }
    assert_null(st_set_find(s, "c"));
    st_set_close(s);
    return n;
}

static void test_set_forms(void **state)
{
    (void)state;
    struct dl_err e;
    /* From the last choice to the first: each found form wins over those before it. */
    put_st("m/model.fp16-00001-of-00002.safetensors", A, 2);
    put_st("m/model.fp16-00002-of-00002.safetensors", B, 2);
    assert_int_equal(open_m(&e), 2);
    put_text("m/model.safetensors.index.fp16.json",
             MAP("model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"));
    assert_int_equal(open_m(&e), 2);
    put_st("m/model.fp16.safetensors", A, 2);
    assert_int_equal(open_m(&e), 1);

    /* An index whose shards did not come along gives way to the variant ... */
    put_text("m/model.safetensors.index.json",
             MAP("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"));
    assert_int_equal(open_m(&e), 1);
    put_st("m/model-00001-of-00002.safetensors", A, 2);
    assert_int_equal(open_m(&e), 1);
    /* ... and wins when they are there. */
    put_st("m/model-00002-of-00002.safetensors", B, 2);
    assert_int_equal(open_m(&e), 2);
    put_st("m/model.safetensors", "{}", 0);
    assert_int_equal(open_m(&e), 0);
    /* A link that leads nowhere is an absent file. */
    unlink(at("m/model.safetensors"));
    assert_int_equal(symlink("../blobs/none", at("m/model.safetensors")), 0);
    assert_int_equal(open_m(&e), 2);
    unlink(at("m/model.safetensors"));
    assert_int_equal(symlink("model-00001-of-00002.safetensors", at("m/model.safetensors")), 0);
    assert_int_equal(open_m(&e), 1);
}

static void test_set_other_index_name(void **state)
{
    (void)state;
    struct dl_err e;
    put_st("m/x.safetensors", A, 2);
    put_st("m/y.safetensors", B, 2);
    put_text("m/model.fp16.safetensors.index.json", MAP("x.safetensors", "y.safetensors"));
    assert_int_equal(open_m(&e), 2);
}

static void test_set_errors(void **state)
{
    (void)state;
    struct dl_err e;
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, at("m"), "missing", NULL);
    put_text("m/config.json", "{}");
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, at("m"), "model.safetensors", NULL);
    put_text("m/pytorch_model.bin", "x");
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, "pytorch_model.bin", "convert", "safe_serialization", NULL);
    put_st("m/model.ema.safetensors", A, 2);
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, "model.ema.safetensors", "rename", NULL);
    assert_int_equal(e.code, DL_EINPUT);

    static const char *const escapes[] = {"../x.safetensors", "/x.safetensors", "a/b.safetensors",   "..", "",
                                          ".x.safetensors",   "x.bin",          "a\\\\b.safetensors"};
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
        char index[300];
        snprintf(index, sizeof index, "{\"weight_map\":{\"a\":\"%s\"}}", escapes[i]);
        put_text("m/model.safetensors.index.json", index);
        assert_int_equal(open_m(&e), -1);
        assert_says(e.msg, "model.safetensors.index.json", "\"a\"", "same folder", NULL);
    }
    static const char *const maps[] = {"[]", "{}", "{\"weight_map\":[]}", "{\"weight_map\":{}}",
                                       "{\"weight_map\":{\"a\":1}}"};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        put_text("m/model.safetensors.index.json", maps[i]);
        assert_int_equal(open_m(&e), -1);
        assert_says(e.msg, "model.safetensors.index.json", NULL);
    }

    put_text("m/model.safetensors.index.json", MAP("x.safetensors", "y.safetensors"));
    put_st("m/x.safetensors", A, 2);
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, "model.safetensors.index.json", "y.safetensors", "No such file", NULL);
    put_st("m/y.safetensors", "{}", 0);
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, "\"b\"", "y.safetensors", "does not have it", NULL);
    put_st("m/y.safetensors", A, 2);
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, "\"a\"", "x.safetensors", "y.safetensors", "as well", NULL);
    put_st("m/y.safetensors", B, 2);
    put_text("m/model.safetensors.index.json", MAP("y.safetensors", "x.safetensors"));
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, "should be in", "x.safetensors", "y.safetensors", NULL);
    put_st("m/y.safetensors", B, 1);
    put_text("m/model.safetensors.index.json", MAP("x.safetensors", "y.safetensors"));
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, "y.safetensors", "truncated", NULL);
    unlink(at("m/model.safetensors.index.json"));
    put_st("m/model-00002-of-00002.safetensors", B, 2);
    assert_int_equal(open_m(&e), -1);
    assert_says(e.msg, "model-00001-of-00002.safetensors", "No such file", NULL);
}

int main(void)
{
#define IN_SCRATCH(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_file),
        IN_SCRATCH(test_write_equals_reference),
        IN_SCRATCH(test_write_errors),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_odd_but_good),
        cmocka_unit_test(test_deep_json),
        cmocka_unit_test(test_bad_starts),
        cmocka_unit_test(test_every_truncation),
        IN_SCRATCH(test_bad_paths),
        IN_SCRATCH(test_set_forms),
        IN_SCRATCH(test_set_other_index_name),
        IN_SCRATCH(test_set_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
