/* Prompts as they come: files of both kinds, odd line ends, bad lines by their number, very long and empty prompts; and
 * what tokens says of them. */
#include "tests/cli/cli.h"

/* The prompts and seeds of a finished sweep's manifest. */
static json_t *prompts_of(const char *dir)
{
    char path[CLI_PATH + 32];
    json_error_t e;
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    json_t *root_object = json_load_file(path, 0, &e), *list = json_object_get(root_object, "prompts");
    if (!json_is_array(list)) fail_msg("%s: no prompts (%s)", path, e.text);
    json_incref(list);
    json_decref(root_object);
    return list;
}

static const char *text_at(const json_t *list, size_t i, const char *key)
{
    return json_string_value(json_object_get(json_array_get(list, i), key));
}

/* Sweeps over a prompts file with these bytes; the manifest's prompts, to be released. */
static json_t *sweep_of(const char *name, const char *bytes)
{
    char file[64];
    snprintf(file, sizeof file, "%s.txt", name);
    put_file(in_root(file), bytes);
    run_well(root, "sweep", "--model", sd15, "--prompts", in_root(file), SHORT, "--quiet", "--out", in_root(name));
    return prompts_of(in_root(name));
}

static void test_lines(void **state)
{
    (void)state;
    json_t *p = sweep_of("lines", "\xef\xbb\xbf"
                                  "A house\r\n\r\n   \n\tthe ocean \r\nA house\nlast");
    assert_int_equal(json_array_size(p), 4); /* blank lines are none; the same prompt twice is two */
    assert_string_equal(text_at(p, 0, "text"), "A house");
    assert_string_equal(text_at(p, 1, "text"), "\tthe ocean ");
    assert_string_equal(text_at(p, 2, "text"), "A house");
    assert_string_equal(text_at(p, 3, "text"), "last");
    json_decref(p);
    p = sweep_of("words", "house {x}\n{\"prompt\": 1}\n");
    assert_int_equal(json_array_size(p), 2); /* the first character decides */
    assert_string_equal(text_at(p, 1, "text"), "{\"prompt\": 1}");
    json_decref(p);
}

static void test_json_lines(void **state)
{
    (void)state;
    json_t *p = sweep_of("jsonl", "\xef\xbb\xbf{\"prompt\": \"A \\u00e9l\\u00e8ve\", \"seed\": 5}\r\n\r\n"
                                  "{\"prompt\": \"x\", \"negative\": \"people\", \"seed\": -1}\n"
                                  "{\"prompt\": \"\", \"seed\": \"18446744073709551614\", \"negative\": null}\n");
    assert_int_equal(json_array_size(p), 3);
    assert_string_equal(text_at(p, 0, "text"), "A \xc3\xa9l\xc3\xa8ve");
    assert_string_equal(text_at(p, 1, "negative"), "people");
    assert_string_equal(text_at(p, 2, "negative"), "");
    json_decref(p);
    assert_true(exists(in_root("jsonl/images/p000_s5_k01.png")));
    assert_true(exists(in_root("jsonl/images/p001_s18446744073709551615_k01.png")));
    assert_true(exists(in_root("jsonl/images/p002_s18446744073709551614_k01.png")));
}

/* Seeds of lines go with their prompts through a snapshot; the others follow the command line. */
static void test_seeds(void **state)
{
    (void)state;
    put_file(in_root("seeds.jsonl"),
             "{\"prompt\": \"x\", \"seed\": 5}\n{\"prompt\": \"y\"}\n{\"prompt\": \"z\", \"seed\": -1}\n");
    run_well(root, "encode", "--model", sd15, "--prompts", in_root("seeds.jsonl"), "--out",
             in_root("seeds.safetensors"));
    run_well(root, "replay", "--model", sd15, "--snapshots", in_root("seeds.safetensors"), "--seeds", "8,9",
             "--seed-offset", SHORT, "--out", in_root("seeds"));
    assert_true(exists(in_root("seeds/images/p000_s5_k01.png")));
    assert_true(exists(in_root("seeds/images/p001_s9_k01.png")));
    assert_true(exists(in_root("seeds/images/p001_s10_k01.png")));
    assert_true(exists(in_root("seeds/images/p002_s18446744073709551615_k01.png")));
    assert_int_equal(folder_count(in_root("seeds/images")), 4);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"", "no prompts in it"},
        {"\n \r\n", "no prompts in it"},
        {"good\nbad \xff\n", "line 2: text is not valid UTF-8 at byte 4"},
        {"\xed\xa0\x80\n", "line 1: text is not valid UTF-8"},
        {"{\"prompt\": \"a\"}\n\n{\"prompt\": }\n", "line 3: no JSON object"},
        {"{\"prompt\": \"a\"}\n\"b\"\n", "line 2: no JSON object"},
        {"{\"prompt\": \"a\"}\n[1]\n", "line 2: no JSON object (another value)"},
        {"{\"negative\": \"a\"}\n", "line 1: \"prompt\" is missing"},
        {"{\"prompt\": 5}\n", "line 1: \"prompt\" is missing or no string"},
        {"{\"prompt\": \"a\", \"seed\": 1.5}\n", "line 1: \"seed\""},
        {"{\"prompt\": \"a\", \"seed\": -2}\n", "line 1: \"seed\""},
        {"{\"prompt\": \"a\", \"seed\": \"1e5\"}\n", "line 1: \"seed\""},
        {"{\"prompt\": \"a\", \"negative\": 0}\n", "line 1: \"negative\" is no string"},
        {"{\"prompt\": \"a\", \"sed\": 5}\n", "line 1: unknown key \"sed\""},
        {"{\"prompt\": \"a\", \"prompt\": \"b\"}\n", "line 1: no JSON object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_file(in_root("bad.txt"), cases[i].bytes);
        refuses(3, cases[i].text, "sweep", "--model", sd15, "--prompts", in_root("bad.txt"), SHORT, "--out",
                in_root("never"));
        refuses(3, cases[i].text, "tokens", "--model", sd15, "--prompts", in_root("bad.txt"));
    }
    assert_int_equal(folder_write(in_root("bad.txt"), "a\0b\n", 4), 0);
    refuses(3, "zero byte", "sweep", "--model", sd15, "--prompts", in_root("bad.txt"), SHORT, "--out",
            in_root("never"));
    refuses(3, "nothing.txt: cannot be opened", "sweep", "--model", sd15, "--prompts", in_root("nothing.txt"), SHORT,
            "--out", in_root("never"));
    refuses(3, root, "sweep", "--model", sd15, "--prompts", root, SHORT, "--out", in_root("never")); /* a folder */
    char nested[3000] = "{\"prompt\": ";
    memset(nested + strlen(nested), '[', 1000), strcat(nested, "\n");
    put_file(in_root("bad.txt"), nested);
    refuses(3, "line 1: no JSON object", "sweep", "--model", sd15, "--prompts", in_root("bad.txt"), SHORT, "--out",
            in_root("never"));
    put_file(in_root("bad.txt"), "{\"prompt\": \"a\", \"negative\": \"b\"}\n");
    refuses(2, "a negative prompt has no effect without guidance", "sweep", "--model", sd15, "--prompts",
            in_root("bad.txt"), SHORT, "--guidance", "1", "--out", in_root("never"));
    refuses(2, "--prompt: text is not valid UTF-8 at byte 1", "sweep", "--model", sd15, "--prompt", "a\xff", SHORT,
            "--out", in_root("never"));
    refuses(2, "--negative: text is not valid UTF-8", "sweep", "--model", sd15, "--prompt", "a", "--negative",
            "\xc0\x80", SHORT, "--out", in_root("never"));
    refuses(2, "--prompt: text is not valid UTF-8", "tokens", "--model", sd15, "--prompt", "\xf5");
    assert_false(exists(in_root("never")));
}

static void test_extremes(void **state)
{
    (void)state;
    enum { BIG = 100 * 1024 };
    static char big[BIG + 1];
    struct ran r;
    for (int i = 0; i < BIG; i += 4) memcpy(big + i, i % 256 ? "\xc3\xa9 a" : "a \xc3\xa9", 4);
    run_dlens(&r, root, "sweep", "--model", sd15, "--prompt", big, SHORT, "--out", in_root("big"));
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.err, "warning: prompt 0: longer than 77 tokens; cut off: \""));
    assert_true(strlen(r.err) < 2000); /* what was cut is not repeated whole */
    run_free(&r);
    assert_true(exists(in_root("big/grid.png")));
    json_t *p = prompts_of(in_root("big"));
    assert_string_equal(text_at(p, 0, "text"), big); /* the manifest has it all */
    json_decref(p);
    json_t *o =
        json_of("encode", "--model", sd15, "--prompt", big, "--negative", big, "--out", in_root("big.safetensors"));
    assert_int_equal(json_array_size(json_object_get(o, "warnings")), 2);
    assert_non_null(
        strstr(json_string_value(json_array_get(json_object_get(o, "warnings"), 1)), "negative prompt: longer"));
    json_decref(o);
    o = json_of("tokens", "--model", sd15, "--prompt", big);
    assert_true(strlen(json_string_value(json_object_get(json_object_get(o, "text_encoder"), "truncated"))) > BIG / 2);
    json_decref(o);

    run_well(root, "sweep", "--model", sd15, "--prompt", "", SHORT, "--out", in_root("nothing"));
    o = json_of("tokens", "--model", sd15, "--prompt", "");
    assert_int_equal(json_array_size(json_object_get(json_object_get(o, "text_encoder"), "pieces")),
                     2); /* start and end */
    assert_string_equal(json_string_value(json_object_get(json_object_get(o, "text_encoder"), "truncated")), "");
    json_decref(o);

    static char million[1000002];
    memset(million, 'a', 1000001);
    put_file(in_root("million.txt"), million);
    refuses(3, "line 1: ", "sweep", "--model", sd15, "--prompts", in_root("million.txt"), SHORT, "--out",
            in_root("never"));
}

/* One JSON object a line, also for several prompts. */
static void test_tokens(void **state)
{
    (void)state;
    struct ran r;
    put_file(in_root("three.txt"), "the ocean\na \"quoted\" <house>\n\xe7\x8a\xac\n");
    run_dlens(&r, root, "tokens", "--json", "--model", sd15, "--prompts", in_root("three.txt"));
    assert_int_equal(r.status, 0);
    int lines = 0;
    for (char *at = r.out; *at; lines++) {
        char *end = strchr(at, '\n');
        json_error_t e;
        assert_non_null(end);
        *end = 0;
        json_t *o = json_loads(at, 0, &e);
        if (!o) fail_msg("line %d: %s", lines + 1, e.text);
        assert_non_null(json_object_get(json_object_get(o, "text_encoder"), "ids"));
        json_decref(o);
        at = end + 1;
    }
    assert_int_equal(lines, 3);
    run_free(&r);
    run_dlens(&r, root, "tokens", "--model", sd15, "--prompt", "the ocean");
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "<|startoftext|>"));
    assert_string_equal(r.err, "");
    run_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),     cmocka_unit_test(test_json_lines), cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_extremes),   cmocka_unit_test(test_tokens),
    };
    return cmocka_run_group_tests(tests, cli_setup, root_remove);
}
