/* dlens report, and the page that a sweep, a replay and the demo end with: where it goes, what is told, what is
 * refused.
 */
#include "tests/cli/cli.h"

#include "lens/sha256.h"

static char dir[CLI_PATH];

/* Two prompts, two seeds, layers 0, 2 and 4. */
static int setup(void **state)
{
    if (cli_setup(state) < 0) return -1;
    snprintf(dir, sizeof dir, "%s/swept", root);
    put_file(in_root("prompts"), "a <b>cat</b>\nthe ocean\n");
    run_well(root, "sweep", "--model", sd15, "--prompts", in_root("prompts"), "--seeds", "3,4", "--layers", "0:5:2",
             "--steps", "1", "--out", dir);
    return 0;
}

static char *page_in(const char *folder)
{
    char path[CLI_PATH + 16];
    snprintf(path, sizeof path, "%s/report.html", folder);
    char *page = folder_read(path, NULL);
    if (!page) fail_msg("no %s", path);
    return page;
}

static int pictures_of(const char *page)
{
    int n = 0;
    for (; (page = strstr(page, "data:image/png;base64,")); page++) n++;
    return n;
}

static int64_t number(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

static void test_with_a_sweep(void **state)
{
    (void)state;
    char *page = page_in(dir);
    assert_int_equal(pictures_of(page), 12);
    assert_non_null(strstr(page, "a &lt;b&gt;cat&lt;/b&gt;"));
    assert_non_null(strstr(page, "dlens sweep \xc2\xb7 2 prompts \xc2\xb7 2 seeds \xc2\xb7 3 layers"));
    free(page);
    /* Told on stderr and with --json; stdout stays the figure's. */
    struct ran r;
    char path[CLI_PATH + 16], says[CLI_PATH + 64];
    const char *other = in_root("one");
    run_dlens(&r, root, "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", other);
    assert_int_equal(r.status, 0);
    snprintf(path, sizeof path, "%s/grid.png\n", other);
    assert_string_equal(r.out, path);
    snprintf(says, sizeof says, "report: %s/report.html, ", other);
    assert_non_null(strstr(r.err, says));
    assert_non_null(strstr(r.err, "KiB, 1 picture\n"));
    run_free(&r);
    json_t *o = json_of("sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", other);
    const json_t *report = json_object_get(o, "report");
    snprintf(path, sizeof path, "%s/report.html", other);
    assert_string_equal(json_string_value(json_object_get(report, "path")), path);
    assert_int_equal(number(report, "pictures"), 1);
    assert_int_equal(number(report, "missing"), 0);
    json_decref(o);
    /* With a replay as well. */
    run_well(root, "encode", "--model", sd15, "--prompt", "x", "--out", in_root("states.safetensors"));
    run_well(root, "replay", "--model", sd15, "--snapshots", in_root("states.safetensors"), SHORT, "--out",
             in_root("replayed"));
    page = page_in(in_root("replayed"));
    assert_int_equal(pictures_of(page), 1);
    assert_non_null(strstr(page, "dlens replay \xc2\xb7 1 prompt \xc2\xb7 1 seed \xc2\xb7 1 layer<"));
    free(page);
}

static void test_by_itself(void **state)
{
    (void)state;
    struct ran r;
    char path[CLI_PATH + 16], *was = page_in(dir);
    snprintf(path, sizeof path, "%s/report.html\n", dir);
    run_dlens(&r, root, "report", dir);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out, path);
    run_free(&r);
    char *page = page_in(dir);
    assert_string_equal(page, was); /* the page that the sweep ended with */
    free(page), free(was);

    json_t *o = json_of("report", dir, "--out", in_root("part.html"), "--prompts", "-1", "--seeds", "4:6", "--layers",
                        "4,0", "--titles", "block", "--cell", "16", "--max-size", "1");
    const json_t *report = json_object_get(o, "report");
    assert_string_equal(json_string_value(json_object_get(report, "path")), in_root("part.html"));
    assert_int_equal(number(report, "pictures"), 2);
    assert_int_equal(number(report, "rows"), 1);
    assert_int_equal(number(report, "cell"), 16);
    assert_true(number(report, "bytes") > 10000);
    json_decref(o);
    page = folder_read(in_root("part.html"), NULL);
    assert_non_null(page);
    assert_int_equal(pictures_of(page), 2);
    assert_null(strstr(page, "a &lt;b&gt;cat"));
    assert_non_null(strstr(page, "<th scope=\"col\">Layer 3</th><th scope=\"col\">Embeddings</th></tr>"));
    assert_non_null(strstr(page, "\" width=\"16\" height=\"16\" class=\"\">"));
    free(page);

    /* A picture that is gone is a frame. */
    copy_folder(dir, in_root("holes"));
    unlink(in_root("holes/images/p001_s4_k02.png"));
    run_dlens(&r, root, "report", in_root("holes"));
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.err, "11 pictures, and empty frames for those that are missing"));
    run_free(&r);
    put_file(in_root("holes/images/p001_s4_k02.png"), "no picture");
    refuses(3, "p001_s4_k02.png: this is not a PNG file", "report", in_root("holes"));
}

static void test_refusals(void **state)
{
    (void)state;
    const char *out = in_root("never.html");
    refuses(2, "the folder of a sweep is needed", "report", "--cell", "64");
    refuses(2, "unexpected", "report", dir, dir);
    refuses(3, "no folder with a manifest.json", "report", sd15);
    refuses(2, "--dry-run: dlens report has no plan to show", "report", dir, "--dry-run");
    refuses(2, "--cell 15: expected a whole number from 16", "report", dir, "--cell", "15", "--out", out);
    refuses(2, "--max-size 0: expected a whole number from 1", "report", dir, "--max-size", "0", "--out", out);
    refuses(2, "--titles both: expected layer or block", "report", dir, "--titles", "both", "--out", out);
    refuses(2, "--prompts 2: there is no prompt 2; this sweep has prompts 0..1", "report", dir, "--prompts", "2",
            "--out", out);
    refuses(2, "--layers 1: there is no layer 1; this sweep has layers 0, 2, 4", "report", dir, "--layers", "1",
            "--out", out);
    refuses(2, "--seeds 3,3: 3 is named twice", "report", dir, "--seeds", "3,3", "--out", out);
    refuses(2, "--seeds: no prompt that is shown has seed 5", "report", dir, "--seeds", "5", "--out", out);
    refuses(1, "nowhere/a.html: cannot be written", "report", dir, "--out", in_root("nowhere/a.html"));
    assert_false(exists(out));
}

/* A page that cannot be made small enough does not fail its sweep. The picture here is a valid one with much behind its
 * end. */
static void test_too_large(void **state)
{
    (void)state;
    char picture[CLI_PATH], manifest[CLI_PATH], hex[SHA256_HEX];
    const char *large = in_root("large");
    run_well(root, "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", large);
    snprintf(picture, sizeof picture, "%s", in_root("large/images/p000_s17_k01.png"));
    snprintf(manifest, sizeof manifest, "%s", in_root("large/manifest.json"));
    unlink(in_root("large/report.html"));
    assert_int_equal(truncate(picture, 70 << 20), 0);
    must(sha256_file(hex, picture, NULL, e));
    json_t *m = json_load_file(manifest, 0, NULL);
    json_object_set_new(json_array_get(json_object_get(m, "images"), 0), "sha256", json_string(hex));
    assert_int_equal(json_dump_file(m, manifest, 0), 0);
    json_decref(m);
    json_t *o = json_of("sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", large);
    const char *warning = json_string_value(json_array_get(json_object_get(o, "warnings"), 0));
    assert_non_null(warning);
    assert_non_null(strstr(warning, "no page: "));
    assert_non_null(
        strstr(warning, "the page would take about 93.4 MiB with pictures of 64 pixels, more than 64.0 MiB"));
    assert_null(json_object_get(o, "report"));
    assert_int_equal(number(json_object_get(o, "images"), "made"), 0);
    json_decref(o);
    assert_true(exists(in_root("large/grid.png")));
    assert_false(exists(in_root("large/report.html")));
    refuses(2, "or allow more (--max-size)", "report", large);
    run_well(root, "report", large, "--max-size", "100");
    assert_true(exists(in_root("large/report.html")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_a_sweep),
        cmocka_unit_test(test_by_itself),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, setup, root_remove);
}
