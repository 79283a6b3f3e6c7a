/* Binding: what fits is filled in with every field, what does not is named with what was expected. */
#define _GNU_SOURCE
#include "loaders/bind.h"
#include "loader_files.h"

#define T(dtype, shape, from, to) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static uint8_t *bytes; /* behind the set opened last */

static struct st_set *open_set(const char *header, size_t data)
{
    size_t n;
    struct st_file *f;
    struct st_set *s;
    struct dl_err e = {0};
    bytes = st_bytes(header, data, &n);
    if (st_open_memory(&f, bytes, (int64_t)n, "net.safetensors", &e)) fail_msg("%s", e.msg);
    if (st_set_of(&s, f, &e)) fail_msg("%s", e.msg);
    return s;
}

static void close_set(struct st_set *s)
{
    st_set_close(s);
    free(bytes);
}

static const char good[] =
    "{\"net.0.fc.weight\":" T("F32", "[2,3]", 0, 24) ",\"net.0.fc.bias\":" T("F16", "[2]", 24, 28)                   //
    ",\"net.0.norm.weight\":" T("BF16", "[3]", 28, 34) ",\"net.0.norm.bias\":" T("BF16", "[3]", 34, 40)              //
    ",\"net.0.conv.weight\":" T("F16", "[1,2,3,3]", 40, 76) ",\"q\":" T("F32", "[1,2]", 76, 84)                      //
    ",\"k\":" T("F16", "[2,2]", 84, 92) ",\"v\":" T("F32", "[1,2]", 92, 100) ",\"ids\":" T("I64", "[1,1]", 100, 108) //
    ",\"vae.enc\":" T("F32", "[1]", 108, 112) "}";

struct net {
    struct dl_w fc, fc_b, norm, norm_b, conv, qkv;
};

static void describe(struct bind *b, struct net *m)
{
    bind_in(b, "%s", "net");
    bind_in(b, "%d", 0);
    bind_linear(b, &m->fc, &m->fc_b, "fc", 2, 3);
    bind_norm(b, &m->norm, &m->norm_b, "norm", 3);
    bind_conv(b, &m->conv, NULL, "conv", 1, 2, 3);
    bind_out(b);
    bind_out(b);
    bind_stack(b, &m->qkv, BIND_MATRIX, 3, (const char *const[]){"q", "k", "v"}, (const int64_t[]){1, 2, 1}, 2);
    bind_allow(b, "ids");
    bind_allow(b, "not.there");
    bind_skip(b, BIND_BIAS, "vae.enc", 1, (const int64_t[]){1});
}

static void test_good(void **state)
{
    (void)state;
    struct st_set *s = open_set(good, 112);
    struct bind b;
    struct net m;
    struct dl_wset set = {0};
    struct dl_err e = {0};
    assert_int_equal(bind_open(&b, s, &set, &e), 0);
    assert_true(bind_has(&b, "net.0.fc.weight"));
    assert_false(bind_has(&b, "fc.weight"));
    bind_in(&b, "net.%d", 0);
    assert_true(bind_has(&b, "fc.weight"));
    bind_out(&b);
    assert_string_equal(b.scope, "");
    describe(&b, &m);
    assert_string_equal(b.scope, "");
    if (bind_close(&b, &e)) fail_msg("%s", e.msg);

    assert_int_equal(set.n, 6);
    assert_ptr_equal(set.w[0], &m.fc);
    assert_string_equal(m.fc.name, "net.0.fc.weight");
    assert_int_equal(m.fc.nd, 2);
    assert_int_equal(m.fc.dim[0], 2);
    assert_int_equal(m.fc.dim[1], 3);
    assert_int_equal(m.fc.n_parts, 1);
    assert_int_equal(m.fc.part[0].t, DL_F32);
    assert_int_equal(m.fc.part[0].rows, 2);
    assert_false(m.fc.part[0].mapped);
    assert_ptr_equal(m.fc.part[0].file, st_set_find(s, "net.0.fc.weight")->data);
    assert_int_equal(m.conv.nd, 4);
    assert_int_equal(dl_w_count(&m.conv), 18);
    assert_int_equal(m.conv.part[0].t, DL_F16);
    assert_int_equal(m.norm_b.part[0].rows, 3);
    assert_string_equal(m.qkv.name, "q");
    assert_int_equal(m.qkv.n_parts, 3);
    assert_int_equal(m.qkv.dim[0], 4);
    assert_int_equal(m.qkv.dim[1], 2);
    assert_int_equal(m.qkv.part[1].rows, 2);
    assert_int_equal(m.qkv.part[1].t, DL_F16);
    assert_ptr_equal(m.qkv.part[2].file, st_set_find(s, "v")->data);
    dl_wset_close(&set);
    close_set(s);
}

struct listing {
    char text[2000];
    int faults[4];
    char last[400];
};

static void list_one(void *user, const char *name, const int64_t *dim, int nd, enum bind_role role)
{
    struct listing *l = user;
    char shape[100];
    size_t n = strlen(l->text);
    snprintf(l->text + n, sizeof l->text - n, "%s %s %d\n", name, st_shape(shape, sizeof shape, nd, dim), (int)role);
}

static void test_list(void **state)
{
    (void)state;
    struct bind b;
    struct net m;
    struct listing l = {0};
    struct dl_err e = {0};
    assert_int_equal(bind_open_list(&b, list_one, &l, &e), 0);
    assert_false(bind_has(&b, "q"));
    describe(&b, &m);
    assert_int_equal(bind_close(&b, &e), 0);
    assert_string_equal(l.text, "net.0.fc.weight [2, 3] 0\nnet.0.fc.bias [2] 1\nnet.0.norm.weight [3] 2\n"
                                "net.0.norm.bias [3] 1\nnet.0.conv.weight [1, 2, 3, 3] 0\nq [1, 2] 0\nk [2, 2] 0\n"
                                "v [1, 2] 0\nvae.enc [1] 1\n");
    assert_int_equal(m.qkv.n_parts, 0);
    assert_int_equal(m.qkv.dim[0], 4);
}

static void report(void *user, enum bind_fault fault, const char *name, const char *text)
{
    struct listing *l = user;
    l->faults[fault]++;
    snprintf(l->last, sizeof l->last, "%s %s", name, text);
}

/* One bad header each: what bind_close says. */
static void test_faults(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        enum bind_fault fault;
        const char *says[3];
    } bad[] = {
        {"{\"b\":" T("F32", "[2]", 0, 8) "}", 8, BIND_MISSING, {"1 tensor missing", "\"a\"", "expected [2, 3]"}},
        {"{\"a\":" T("F32", "[3,2]", 0, 24) "}",
         24,
         BIND_SHAPE,
         {"1 tensor mis-shaped", "\"a\" has shape [3, 2]", "expected [2, 3]"}},
        {"{\"a\":" T("F32", "[6]", 0, 24) "}", 24, BIND_SHAPE, {"[6]", "expected [2, 3]"}},
        {"{\"a\":" T("F32", "[2,3,1]", 0, 24) "}", 24, BIND_SHAPE, {"[2, 3, 1]", "expected [2, 3]"}},
        {"{\"a\":" T("F32", "[2,3,1,2]", 0, 48) "}", 48, BIND_SHAPE, {"[2, 3, 1, 2]", "expected [2, 3]"}},
        {"{\"a\":" T("I64", "[2,3]", 0, 48) "}",
         48,
         BIND_TYPE,
         {"cannot be used", "\"a\" has dtype I64", "F32, F16 or BF16"}},
        {"{\"a\":" T("F64", "[2,3]", 0, 48) "}", 48, BIND_TYPE, {"dtype F64"}},
        {"{\"a\":" T("F8_E4M3", "[2,3]", 0, 6) "}", 6, BIND_TYPE, {"dtype F8_E4M3"}},
        {"{\"a\":" T("F32", "[2,3]", 0, 24) ",\"b\":" T("I64", "[1]", 24, 32) "}",
         32,
         BIND_EXTRA,
         {"1 tensor unknown", "\"b\" of shape [1]"}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct st_set *s = open_set(bad[i].header, bad[i].data);
        struct bind b;
        struct dl_w w;
        struct dl_wset set = {0};
        struct listing l = {0};
        struct dl_err e = {0};
        assert_int_equal(bind_open(&b, s, &set, &e), 0);
        b.report = report, b.user = &l;
        bind_w(&b, &w, BIND_MATRIX, "a", 2, (const int64_t[]){2, 3});
        assert_int_equal(bind_close(&b, &e), -1);
        assert_int_equal(e.code, DL_EINPUT);
        assert_says(e.msg, "net.safetensors", bad[i].says[0], bad[i].says[1], bad[i].says[1] ? bad[i].says[2] : NULL,
                    NULL);
        assert_int_equal(l.faults[bad[i].fault], 1);
        assert_int_equal(w.n_parts, bad[i].fault == BIND_EXTRA);
        assert_int_equal(set.n, bad[i].fault == BIND_EXTRA);
        dl_wset_close(&set);
        close_set(s);
    }
}

/* Several faults: all counted, the first of each kind named, each reported. A stack with a hole is not bound. */
static void test_many_faults(void **state)
{
    (void)state;
    struct st_set *s = open_set("{\"q\":" T("F32", "[1,2]", 0, 8) ",\"v\":" T("F32", "[2,2]", 8, 24) //
                                ",\"x1\":" T("U8", "[1]", 24, 25) ",\"x2\":" T("U8", "[1]", 25, 26) "}",
                                26);
    struct bind b;
    struct net m;
    struct dl_wset set = {0};
    struct listing l = {0};
    struct dl_err e = {0};
    assert_int_equal(bind_open(&b, s, &set, &e), 0);
    b.report = report, b.user = &l;
    describe(&b, &m);
    assert_int_equal(bind_close(&b, &e), -1);
    assert_says(e.msg, "7 tensors missing, the first: \"net.0.fc.weight\" is missing, expected [2, 3]",
                "1 tensor mis-shaped: \"v\" has shape [2, 2], expected [1, 2]", "2 tensors unknown, the first: \"x1\"",
                NULL);
    assert_int_equal(l.faults[BIND_MISSING], 7);
    assert_int_equal(l.faults[BIND_SHAPE], 1);
    assert_int_equal(l.faults[BIND_EXTRA], 2);
    assert_says(l.last, "x2", "[1]", NULL);
    assert_int_equal(m.qkv.n_parts, 0);
    assert_int_equal(set.n, 0);
    dl_wset_close(&set);
    close_set(s);
}

/* 1x1 convolutions and matrices stand for each other, alone and in a stack. */
static void test_one_by_one(void **state)
{
    (void)state;
    struct st_set *s = open_set("{\"a\":" T("F32", "[2,3,1,1]", 0, 24) ",\"b\":" T("F32", "[2,3]", 24, 48) //
                                ",\"c\":" T("F16", "[1,3,1,1]", 48, 54) "}",
                                54);
    struct bind b;
    struct dl_w a, conv, stack;
    struct dl_wset set = {0};
    struct dl_err e = {0};
    assert_int_equal(bind_open(&b, s, &set, &e), 0);
    bind_w(&b, &a, BIND_MATRIX, "a", 2, (const int64_t[]){2, 3});
    bind_w(&b, &conv, BIND_MATRIX, "b", 4, (const int64_t[]){2, 3, 1, 1});
    bind_stack(&b, &stack, BIND_MATRIX, 2, (const char *const[]){"b", "c"}, (const int64_t[]){2, 1}, 3);
    if (bind_close(&b, &e)) fail_msg("%s", e.msg);
    assert_int_equal(a.nd, 2);
    assert_int_equal(conv.nd, 4);
    assert_int_equal(dl_w_count(&conv), 6);
    assert_int_equal(stack.n_parts, 2);
    assert_int_equal(dl_w_count(&stack), 9);
    assert_ptr_equal(stack.part[0].file, st_set_find(s, "b")->data);
    assert_ptr_equal(stack.part[1].file, st_set_find(s, "c")->data);
    assert_int_equal(stack.part[1].rows, 1);
    dl_wset_close(&set);
    close_set(s);
}

static void test_mapped(void **state)
{
    (void)state;
    struct st_set *s;
    struct bind b;
    struct dl_w a;
    struct dl_wset set = {0};
    struct dl_err e = {0};
    put_st("m/model.safetensors", "{\"a\":" T("F32", "[2]", 0, 8) "}", 8);
    if (st_set_open(&s, at("m"), "model", &e)) fail_msg("%s", e.msg);
    assert_int_equal(bind_open(&b, s, &set, &e), 0);
    bind_w(&b, &a, BIND_BIAS, "a", 1, (const int64_t[]){2});
    assert_int_equal(bind_close(&b, &e), 0);
    assert_true(a.part[0].mapped);
    dl_wset_close(&set);
    st_set_close(s);
}

/* Names that do not fit are one clear error, and the scopes still close. */
static void test_long_names(void **state)
{
    (void)state;
    struct bind b;
    struct dl_w w;
    struct listing l = {0};
    struct dl_err e = {0};
    char longest[600];
    memset(longest, 'n', sizeof longest);
    longest[sizeof longest - 1] = 0;
    assert_int_equal(bind_open_list(&b, list_one, &l, &e), 0);
    bind_in(&b, "a");
    bind_in(&b, "%s", longest);
    bind_in(&b, "more");
    bind_out(&b);
    bind_out(&b);
    assert_string_equal(b.scope, "a.");
    bind_out(&b);
    assert_string_equal(b.scope, "");
    for (int i = 0; i < 50; i++) bind_in(&b, "s");
    for (int i = 0; i < 50; i++) bind_out(&b);
    assert_string_equal(b.scope, "");
    assert_int_equal(bind_close(&b, &e), -1);
    assert_says(e.msg, "too long", NULL);

    e.code = 0;
    assert_int_equal(bind_open_list(&b, list_one, &l, &e), 0);
    bind_linear(&b, &w, NULL, longest, 1, 1);
    assert_int_equal(bind_close(&b, &e), -1);
    assert_says(e.msg, "too long", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),       cmocka_unit_test(test_list),
        cmocka_unit_test(test_faults),     cmocka_unit_test(test_many_faults),
        cmocka_unit_test(test_one_by_one), cmocka_unit_test_setup_teardown(test_mapped, scratch_open, scratch_close),
        cmocka_unit_test(test_long_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
