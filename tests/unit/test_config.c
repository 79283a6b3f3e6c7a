/* Configs: every reader with values that fit, that do not, and without any; the sticky error; bad files. */
#define _GNU_SOURCE
#include "loaders/config.h"
#include "loader_files.h"

static struct cfg *open_text(const char *json)
{
    struct cfg *c;
    struct dl_err e = {0};
    if (cfg_open_memory(&c, json, strlen(json), "c.json", &e)) fail_msg("%s", e.msg);
    return c;
}

static const char all[] =
    "{\"int\": 7, \"neg\": -3, \"real\": 0.5, \"whole\": 2.0, \"yes\": true, \"no\": false, \"text\": \"gelu\", "
    "\"null\": null,"
    " \"ints\": [5, 10, 20], \"mixed\": [5, \"x\", 20], \"reals\": [0.5, 1], \"texts\": [\"a\", \"b\"], \"bools\": "
    "[true, false],"
    " \"obj\": {\"a\": 1}, \"empty\": [], \"pair\": [\"diffusers\", \"UNet\"], \"nulls\": [null, null]}";

static void test_values(void **state)
{
    (void)state;
    struct cfg *c = open_text(all);
    assert_int_equal(cfg_int(c, "int", CFG_REQUIRED, 1, 7), 7);
    assert_int_equal(cfg_int(c, "neg", 0, -3, 0), -3);
    assert_int_equal(cfg_int(c, "absent", 99, 1, 7), 99);
    assert_int_equal(cfg_int(c, "null", 98, 1, 7), 98);
    assert_true(cfg_float(c, "real", CFG_REQUIRED_F, 0, 1) == 0.5);
    assert_true(cfg_float(c, "int", 0, 0, 10) == 7.0);
    assert_true(cfg_float(c, "absent", 0.25, 0, 10) == 0.25);
    assert_true(cfg_bool(c, "yes", 0));
    assert_false(cfg_bool(c, "no", 1));
    assert_true(cfg_bool(c, "absent", 1));
    assert_string_equal(cfg_str(c, "text", NULL), "gelu");
    assert_string_equal(cfg_str(c, "null", "relu"), "relu");
    static const char *const acts[] = {"quick_gelu", "gelu"};
    assert_int_equal(cfg_choice(c, "text", CFG_REQUIRED, 2, acts), 1);
    assert_int_equal(cfg_choice(c, "absent", 0, 2, acts), 0);

    int64_t v[4] = {0};
    assert_int_equal(cfg_ints(c, "ints", 1, 4, v, 1, 99), 3);
    assert_memory_equal(v, ((int64_t[]){5, 10, 20}), 24);
    assert_int_equal(cfg_ints(c, "int", 1, 4, v, 1, 99), 1);
    assert_int_equal(v[0], 7);
    assert_int_equal(cfg_ints(c, "absent", 0, 4, v, 1, 99), 0);
    double d[2];
    assert_int_equal(cfg_floats(c, "reals", 2, 2, d, 0, 1), 2);
    assert_true(d[0] == 0.5 && d[1] == 1.0);
    const char *s[2];
    assert_int_equal(cfg_strs(c, "texts", 0, 2, s), 2);
    assert_string_equal(s[1], "b");
    cfg_spread(c, "ints", 3, v, CFG_REQUIRED, 1, 99);
    assert_memory_equal(v, ((int64_t[]){5, 10, 20}), 24);
    cfg_spread(c, "int", 4, v, CFG_REQUIRED, 1, 99);
    assert_memory_equal(v, ((int64_t[]){7, 7, 7, 7}), 32);
    cfg_spread(c, "null", 2, v, 3, 1, 99);
    assert_memory_equal(v, ((int64_t[]){3, 3}), 16);
    bool b[2];
    cfg_spread_bools(c, "bools", 2, b, CFG_REQUIRED);
    assert_true(b[0] && !b[1]);
    cfg_spread_bools(c, "yes", 2, b, CFG_REQUIRED);
    assert_true(b[0] && b[1]);

    assert_true(cfg_has(c, "no"));
    assert_false(cfg_has(c, "null"));
    assert_false(cfg_has(c, "absent"));
    assert_true(cfg_is_strs(c, "pair", 2));
    assert_false(cfg_is_strs(c, "pair", 3));
    assert_false(cfg_is_strs(c, "nulls", 2));
    assert_false(cfg_is_strs(c, "mixed", 3));
    assert_string_equal(cfg_key(c, 0), "int");
    assert_string_equal(cfg_key(c, 16), "nulls");
    assert_null(cfg_key(c, 17));
    assert_int_equal(cfg_check(c, NULL), 0);
    cfg_close(c);
}

/* One wrong use each; the message must have the words, and the value must be in range. */
enum how { INT, FLOAT, BOOL, STR, CHOICE, INTS, FLOATS, STRS, SPREAD, SPREAD_BOOLS };

static const struct {
    enum how how;
    const char *key, *found, *expected;
} faults[] = {
    {INT, "absent", "nothing", "a whole number from 3 to 6"},
    {INT, "null", "nothing", "a whole number from 3 to 6"},
    {INT, "int", "found 7", "a whole number from 3 to 6"},
    {INT, "neg", "found -3", "a whole number from 3 to 6"},
    {INT, "whole", "found 2", "a whole number"},
    {INT, "text", "the string \"gelu\"", "a whole number"},
    {INT, "ints", "a list of 3", "a whole number"},
    {INT, "obj", "an object of 1 keys", "a whole number"},
    {FLOAT, "absent", "nothing", "a number from 3 to 6"},
    {FLOAT, "real", "0.5", "a number from 3 to 6"},
    {FLOAT, "yes", "true", "a number"},
    {BOOL, "absent", "nothing", "true or false"},
    {BOOL, "int", "7", "true or false"},
    {STR, "absent", "nothing", "a string"},
    {STR, "no", "false", "a string"},
    {CHOICE, "absent", "nothing", "one of \"silu\", \"mish\""},
    {CHOICE, "text", "the string \"gelu\"", "one of \"silu\", \"mish\""},
    {CHOICE, "int", "7", "one of"},
    {INTS, "absent", "nothing", "a list of 2 to 3"},
    {INTS, "empty", "a list of 0", "a list of 2 to 3"},
    {INTS, "int", "7", "a list of 2 to 3"},
    {INTS, "mixed", "value 1 is the string \"x\"", "a whole number"},
    {INTS, "ints", "value 1 is 10", "a whole number from 3 to 6"},
    {FLOATS, "mixed", "value 1 is the string \"x\"", "a number"},
    {STRS, "ints", "value 0 is 5", "a string"},
    {SPREAD, "absent", "nothing", "a whole number"},
    {SPREAD, "reals", "a list of 2", "a list of 3"},
    {SPREAD, "mixed", "value 1 is the string \"x\"", "a whole number"},
    {SPREAD_BOOLS, "bools", "a list of 2", "a list of 3"},
    {SPREAD_BOOLS, "int", "7", "true or false"},
    {SPREAD_BOOLS, "ints", "value 0 is 5", "true or false"},
};

static void test_faults(void **state)
{
    (void)state;
    static const char *const acts[] = {"silu", "mish"};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct cfg *c = open_text(all);
        const char *key = faults[i].key, *s[3] = {0};
        int64_t v[3] = {-9, -9, -9};
        double d[3] = {-9, -9, -9};
        bool b[3];
        int n = 0;
        switch (faults[i].how) {
        case INT: v[n++] = cfg_int(c, key, CFG_REQUIRED, 3, 6); break;
        case FLOAT: assert_in_range((int)cfg_float(c, key, CFG_REQUIRED_F, 3, 6), 3, 6); break;
        case BOOL: cfg_bool(c, key, CFG_REQUIRED); break;
        case STR: assert_string_equal(cfg_str(c, key, NULL), ""); break;
        case CHOICE: assert_int_equal(cfg_choice(c, key, CFG_REQUIRED, 2, acts), 0); break;
        case INTS: n = cfg_ints(c, key, 2, 3, v, 3, 6); break;
        case FLOATS:
            assert_in_range(cfg_floats(c, key, 2, 3, d, 3, 6), 2, 3);
            assert_true(d[0] >= 3 && d[0] <= 6);
            break;
        case STRS:
            assert_in_range(cfg_strs(c, key, 2, 3, s), 2, 3);
            assert_non_null(s[1]);
            break;
        case SPREAD: cfg_spread(c, key, n = 3, v, CFG_REQUIRED, 3, 6); break;
        case SPREAD_BOOLS: cfg_spread_bools(c, key, 3, b, CFG_REQUIRED); break;
        }
        if (faults[i].how == INTS) assert_in_range(n, 2, 3);
        for (int j = 0; j < n; j++) assert_in_range(v[j], 3, 6);
        struct dl_err e = {0};
        if (!cfg_check(c, &e)) fail_msg("fault %zu (%s) was not seen", i, key);
        assert_int_equal(e.code, DL_EINPUT);
        assert_says(e.msg, "c.json", key, faults[i].found, faults[i].expected, NULL);
        cfg_close(c);
    }
}

static void test_first_error_stands(void **state)
{
    (void)state;
    struct cfg *c = open_text(all);
    struct dl_err e = {0};
    cfg_int(c, "first", CFG_REQUIRED, 0, 1);
    cfg_int(c, "second", CFG_REQUIRED, 0, 1);
    cfg_fail(c, "third", "is odd");
    assert_int_equal(cfg_check(c, &e), -1);
    assert_says(e.msg, "first", NULL);
    assert_null(strstr(e.msg, "second"));
    cfg_close(c);

    c = open_text(all);
    e.code = 0;
    cfg_fail(c, "int", "%d is not a multiple of %d", 7, 2);
    assert_int_equal(cfg_check(c, &e), -1);
    assert_string_equal(e.msg, "c.json: int: 7 is not a multiple of 2");
    cfg_close(c);
}

static void test_bad_text(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "[]",
                                      "7",
                                      "null",
                                      "{\"a\":1,}",
                                      "{\"a\":1} {}",
                                      "{'a':1}",
                                      "{\"a\":01}",
                                      "{\"a\"",
                                      "{\"a\":NaN}",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"a\":1e999}",
                                      "{\"a\":99999999999999999999}",
                                      "{\"a\":\"\xc3\x28\"}",
                                      "{\"a\":\"\\u0000\"}"};
    struct cfg *c;
    struct dl_err e;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        e.code = 0;
        if (!cfg_open_memory(&c, bad[i], strlen(bad[i]), "bad.json", &e)) fail_msg("accepted: %s", bad[i]);
        assert_null(c);
        assert_int_equal(e.code, DL_EINPUT);
        assert_says(e.msg, "bad.json", NULL);
    }
    e.code = 0;
    assert_int_equal(cfg_open_memory(&c, "{\"a\": \n  x}", 11, "bad.json", &e), -1);
    assert_says(e.msg, "line 2", NULL);

    char deep[2100];
    for (int open = 0; open < 2; open++) {
        memset(deep, '[', 1000);
        memset(deep + 1000, ']', 1000);
        e.code = 0;
        assert_int_equal(cfg_open_memory(&c, deep, open ? 1000 : 2000, "deep.json", &e), -1);
        assert_says(e.msg, "deep.json", "nested more than 64 deep", "byte 64", NULL);
    }
    /* Brackets in strings do not count, also after an escaped quote. */
    memset(deep, '[', 200);
    memcpy(deep, "{\"a\\\"\":\"", 8);
    memcpy(deep + 150, "\"}", 3);
    c = open_text(deep);
    cfg_close(c);
    c = open_text("\xef\xbb\xbf{\"a\": 1}");
    assert_int_equal(cfg_int(c, "a", CFG_REQUIRED, 1, 1), 1);
    cfg_close(c);
}

static void test_files(void **state)
{
    (void)state;
    struct cfg *c;
    struct dl_err e = {0};
    put_text("good.json", "{\"a\": 3}");
    if (cfg_open(&c, at("good.json"), &e)) fail_msg("%s", e.msg);
    assert_int_equal(cfg_int(c, "a", CFG_REQUIRED, 0, 9), 3);
    assert_string_equal(cfg_path(c), at("good.json"));
    cfg_close(c);
    assert_int_equal(cfg_open(&c, at("none.json"), &e), -1);
    assert_null(c);
    assert_int_equal(e.code, DL_EINPUT);
    assert_says(e.msg, at("none.json"), "No such file", NULL);
    e.code = 0;
    assert_int_equal(cfg_open(&c, scratch, &e), -1);
    assert_says(e.msg, "is not a file", NULL);
    put_text("huge.json", "{}");
    assert_int_equal(truncate(at("huge.json"), (64 << 20) + 1), 0);
    e.code = 0;
    assert_int_equal(cfg_open(&c, at("huge.json"), &e), -1);
    assert_says(e.msg, "huge.json", "67108865 bytes", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_first_error_stands),
        cmocka_unit_test(test_bad_text),
        cmocka_unit_test_setup_teardown(test_files, scratch_open, scratch_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
