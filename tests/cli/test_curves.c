/* dlens curves: tables, CSV, JSON and plots of annotation files, and what it refuses. */
#include "tests/cli/cli.h"

/* Of seed 0 one of two images is right at layer 4 of those that are at 8; of seed 1 both, of which one has a blank at
 * 0. */
static const char df[] = "prompt,0,4,8,seed\r\na,1,0,1,0\r\nb,0,1,1,0\r\nc,1,1,0,0\r\na,,1,1,1\r\nb,1,1,1,1\r\n";
static const char sd[] = "prompt,3,7,seed\na,10,7,0\na,2,llf,1\nb,0.0,6,1\n";

/* The files: in_root's buffers take turns, these stay. */
static char df_csv[CLI_PATH], sd_csv[CLI_PATH], pair_csv[3][CLI_PATH];
#define PAIR pair_csv[0], pair_csv[1], pair_csv[2]

static int setup(void **state)
{
    if (root_make(state) < 0) return -1;
    snprintf(df_csv, sizeof df_csv, "%s", in_root("birds_IsRed_df.csv"));
    snprintf(sd_csv, sizeof sd_csv, "%s", in_root("birds_IsRed_sd_birds_1.5.csv"));
    put_file(df_csv, df);
    put_file(sd_csv, sd);
    static const char *const question[] = {"IsCorrect", "IsFirstClass", "IsSecondClass"};
    static const char *const text[] = {"prompt,0,4,seed\na,0,1,0\nb,0,1,0\nc,1,1,0\nd,1,0,0\n",
                                       "prompt,0,4,seed\na,1,0,0\nb,0,1,0\nd,1,1,0\n",
                                       "prompt,0,4,seed\na,0,1,0\nb,0,1,0\nd,0,1,0\n"};
    for (int i = 0; i < 3; i++) {
        char name[60];
        snprintf(name, sizeof name, "pair_%s_df.csv", question[i]);
        snprintf(pair_csv[i], sizeof pair_csv[i], "%s", in_root(name));
        put_file(pair_csv[i], text[i]);
    }
    return 0;
}

static void test_refusals(void **state)
{
    (void)state;
    char out[CLI_PATH];
    snprintf(out, sizeof out, "%s", in_root("never.png"));
    put_file(in_root("ragged.csv"), "prompt,0,seed\na,1\n");
    put_file(in_root("grade.csv"), "prompt,0,seed\na,1,0\nb,100,0\n");
    refuses(2, "the CSV files of annotations are needed", "curves", "--rule", "all");
    refuses(2, "--rule mean: expected final or all", "curves", df_csv, "--rule", "mean");
    refuses(2, "--threshold 11: expected a whole number from 1 to 10", "curves", sd_csv, "--threshold", "11");
    refuses(2, "--threshold 6: no file is graded", "curves", df_csv, "--threshold", "6");
    refuses(2, "never.jpg: the name must end in .png, .pdf, .svg or .csv", "curves", df_csv, "--out",
            in_root("never.jpg"));
    refuses(2, "never: the name must end in", "curves", df_csv, "--out", in_root("never"));
    refuses(2, "--size 960: expected WxH in pixels, each 240 to 9600", "curves", df_csv, "--out", out, "--size", "960");
    refuses(2, "--size 239x240", "curves", df_csv, "--out", out, "--size", "239x240");
    refuses(2, "--size 240x9601", "curves", df_csv, "--out", out, "--size", "240x9601");
    refuses(2, "--size 300x300x3", "curves", df_csv, "--out", out, "--size", "300x300x3");
    refuses(2, "--size is about the plot", "curves", df_csv, "--size", "300x300");
    refuses(2, "--title is about the plot", "curves", df_csv, "--title", "x", "--out", in_root("never.csv"));
    refuses(2, "--label two: one more than the 1 curve to name", "curves", df_csv, "--label", "one", "--label", "two");
    refuses(2, "is one of the files to read; give another name", "curves", df_csv, "--out", df_csv);
    refuses(2, "--rule is about curves", "curves", PAIR, "--bars", "--rule", "final");
    refuses(2, "bars are made from files whose names have IsCorrect", "curves", df_csv, "--bars");
    refuses(2, "bars need the file of IsFirstClass too", "curves", pair_csv[0], "--bars");
    refuses(2, "has no room for the plot", "curves", df_csv, sd_csv, "--out", out, "--size", "240x240", "--title",
            "a title of so many words that it takes four lines of so narrow a picture, and with the legend of two "
            "curves and the rest nothing is left",
            "--label", "a label of more than a few words, which takes two lines too", "--label",
            "a label of more than a few words, which takes two lines too");
    refuses(2, "--dry-run: dlens curves has no plan to show", "curves", df_csv, "--dry-run");
    refuses(3, "none.csv: cannot open", "curves", df_csv, in_root("none.csv"));
    refuses(3, "is a folder; give the files in it, such as /", "curves", root);
    refuses(3, "ragged.csv: line 2 has 2 cells and the header has 3", "curves", in_root("ragged.csv"));
    refuses(3, "grade.csv: line 3, column \"0\": 100 is neither 0, 1 nor blank", "curves", in_root("grade.csv"));
    refuses(1, "cannot be written", "curves", df_csv, "--out", in_root("none/a.png"));
    refuses(1, "cannot be written", "curves", df_csv, "--out", in_root("none/a.csv"));
    assert_false(exists(out));
}

static void test_table(void **state)
{
    (void)state;
    struct ran r;
    run_dlens(&r, root, "curves", df_csv, sd_csv);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out,
                        "birds, red, DeepFloyd IF\n"
                        "  4 of 5 images right at the last layer (80.0 %), 2 seeds\n"
                        "  layer      0      4      8\n"
                        "  %       75.0   75.0  100.0\n"
                        "  SD      35.4   35.4    0.0\n"
                        "  mean first layer that is right 2.0, from which on all are right 4.0; 50 % from layer 0 "
                        "on\n"
                        "\n"
                        "birds, red, Stable Diffusion, graded\n"
                        "  2 of 3 images right at the last layer (66.7 %), 2 seeds\n"
                        "  layer      3      7\n"
                        "  %       50.0  100.0\n"
                        "  SD      70.7    0.0\n"
                        "  mean first layer that is right 5.0, from which on all are right 5.0; 50 % from layer 3 "
                        "on\n");
    assert_non_null(strstr(r.err, "birds_1.5.csv: graded 0 to 10; a cell is right from 6 on\n"));
    assert_non_null(strstr(r.err, "birds_1.5.csv: 1 of 6 cells are no numbers and count as missing; the first: line 3, "
                                  "column \"7\", \"llf\"\n"));
    run_free(&r);
    run_dlens(&r, root, "curves", df_csv, "--rule", "all", "--label", "mine", "--quiet");
    assert_int_equal(r.status, 0);
    assert_string_equal(r.err, "");
    assert_non_null(strstr(r.out, "mine\n"));
    assert_non_null(strstr(r.out, "  %       75.0   80.0   80.0\n  mean first layer"));
    run_free(&r);
    run_dlens(&r, root, "curves", "--bars", PAIR);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out, "pair, DeepFloyd IF\n  2 images right at the last layer: first noun 50.0 % (1), second "
                               "noun 0.0 % (0), tie 50.0 % (1)\n");
    assert_non_null(strstr(r.err, "pair_IsCorrect_df.csv: left out: 1 image, right"));
    run_free(&r);
    /* What a file says reaches the terminal without its control characters. */
    put_file(in_root("odd.csv"), "prompt,0,seed,\x1b[31m\na,1,0,\nb,\x1b[2J,0,\n");
    run_dlens(&r, root, "curves", in_root("odd.csv"));
    assert_int_equal(r.status, 0);
    assert_null(strchr(r.err, '\x1b'));
    assert_non_null(strstr(r.err, "1 column (\"?[31m\") not read"));
    assert_non_null(strstr(r.err, "\"?[2J\""));
    run_free(&r);
}

static void test_csv(void **state)
{
    (void)state;
    struct ran r;
    char want[5 * CLI_PATH];
    const char *out = in_root("out.csv");
    run_dlens(&r, root, "curves", df_csv, "--out", out, "--label", "say \"red\", please");
    assert_int_equal(r.status, 0);
    snprintf(want, sizeof want, "%s\n", out);
    assert_string_equal(r.out, want);
    run_free(&r);
    char *text = folder_read(out, NULL);
    snprintf(want, sizeof want,
             "label,file,rule,layer,percent,sd,seeds,cells,right\n"
             "\"say \"\"red\"\", please\",%s,final,0,75,35.355339059327378,2,3,2\n"
             "\"say \"\"red\"\", please\",%s,final,4,75,35.355339059327378,2,4,3\n"
             "\"say \"\"red\"\", please\",%s,final,8,100,0,2,4,4\n",
             df_csv, df_csv, df_csv);
    assert_string_equal(text, want);
    free(text);
    run_well(root, "curves", df_csv, "--out", out, "--rule", "all");
    text = folder_read(out, NULL);
    snprintf(want, sizeof want, "\"birds, red, DeepFloyd IF\",%s,all,0,75,,2,4,3\n", df_csv);
    assert_non_null(strstr(text, want));
    free(text);
    run_well(root, "curves", "--bars", PAIR, "--out", out);
    text = folder_read(out, NULL);
    assert_string_equal(text, "label,n,first,second,tie,first_percent,second_percent,tie_percent,unmatched\n"
                              "\"pair, DeepFloyd IF\",2,1,0,1,50,0,50,1\n");
    free(text);
}

static void test_json(void **state)
{
    (void)state;
    const char *label, *rule, *file, *series, *question, *model;
    int graded, images, final, seeds, blank, unreadable, half, k, n, right, threshold;
    double percent, earliest, stable, mean, dev;
    json_t *layers;
    json_t *o = json_of("curves", df_csv, sd_csv, "--threshold", "7");
    json_t *curves = json_object_get(o, "curves");
    assert_int_equal(json_unpack(o, "{ss}", "rule", &rule), 0);
    assert_string_equal(rule, "final");
    assert_int_equal(json_array_size(curves), 2);
    assert_int_equal(json_unpack(json_array_get(curves, 0), "{ss ss ss ss ss sb sn si si sf si si si sf sf si so}",
                                 "label", &label, "file", &file, "series", &series, "question", &question, "model",
                                 &model, "graded", &graded, "threshold", "images", &images, "final_right", &final,
                                 "final_percent", &percent, "seeds", &seeds, "blank_cells", &blank, "unreadable_cells",
                                 &unreadable, "earliest", &earliest, "stable", &stable, "half", &half, "layers",
                                 &layers),
                     0);
    assert_string_equal(label, "birds, red, DeepFloyd IF");
    assert_string_equal(file, df_csv);
    assert_string_equal(series, "birds");
    assert_string_equal(question, "IsRed");
    assert_string_equal(model, "df");
    assert_int_equal(graded, 0);
    assert_int_equal(images * 1000 + final * 100 + seeds * 10 + blank, 5421);
    assert_int_equal(unreadable + half, 0);
    assert_true(percent == 80 && earliest == 2 && stable == 4);
    assert_int_equal(json_array_size(layers), 3);
    assert_int_equal(json_unpack(json_array_get(layers, 1), "{si sf sf si si si}", "k", &k, "mean", &mean, "sd", &dev,
                                 "seeds", &seeds, "n", &n, "right", &right),
                     0);
    assert_int_equal(k * 1000 + seeds * 100 + n * 10 + right, 4243);
    assert_true(mean == 75 && fabs(dev - 35.3553391) < 1e-6);
    assert_int_equal(json_unpack(json_array_get(curves, 1), "{sb si si si so}", "graded", &graded, "threshold",
                                 &threshold, "unreadable_cells", &unreadable, "final_right", &final, "layers", &layers),
                     0);
    assert_int_equal(graded * 1000 + threshold * 100 + unreadable * 10 + final, 1711); /* b's 6 is not enough */
    assert_true(json_is_null(json_object_get(json_array_get(layers, 0), "sd")));
    assert_int_equal(json_array_size(json_object_get(o, "warnings")), 1);
    json_decref(o);
    o = json_of("curves", "--bars", PAIR, "--out", in_root("json.svg"));
    int unmatched, count;
    assert_int_equal(json_unpack(json_array_get(json_object_get(o, "bars"), 0), "{si si s{si sf} so}", "n", &n,
                                 "unmatched", &unmatched, "first", "n", &count, "percent", &percent, "files", &layers),
                     0);
    assert_int_equal(n * 100 + unmatched * 10 + count, 211);
    assert_true(percent == 50);
    assert_int_equal(json_array_size(layers), 3);
    assert_string_equal(json_string_value(json_object_get(o, "out")), in_root("json.svg"));
    json_decref(o);
}

/* That a file has these texts, NULL at the end. */
static void has_texts(const char *path, const char *const *text)
{
    char *svg = folder_read(path, NULL);
    assert_non_null(svg);
    for (; *text; text++)
        if (!strstr(svg, *text)) fail_msg("no \"%s\" in %s", *text, svg);
    free(svg);
}

#define texts(path, ...) has_texts(path, (const char *const[]){__VA_ARGS__, NULL})

static void test_plots(void **state)
{
    (void)state;
    struct ran r;
    char path[CLI_PATH + 2];
    static const char *const name[] = {"plot.png", "plot.pdf", "plot.SVG"};
    for (int i = 0; i < 3; i++) {
        run_dlens(&r, root, "curves", df_csv, sd_csv, "--out", in_root(name[i]), "--quiet");
        assert_int_equal(r.status, 0);
        snprintf(path, sizeof path, "%s\n", in_root(name[i]));
        assert_string_equal(r.out, path);
        assert_string_equal(r.err, "");
        run_free(&r);
        int64_t n;
        char *data = folder_read(in_root(name[i]), &n);
        assert_memory_equal(data, i == 0 ? "\x89PNG" : i == 1 ? "%PDF" : "<?xm", 4);
        if (i == 0) assert_memory_equal(data + 16, "\0\0\x03\xc0\0\0\x02\x58", 8); /* 960 x 600 */
        free(data);
    }
    const char *svg = in_root("a.svg");
    texts(in_root("plot.SVG"), ">Birds, red</text>", ">DeepFloyd IF, annotated</text>",
          ">Stable Diffusion, graded</text>",
          ">% of the images that are right at the last layer (bands: \xc2\xb1 1 standard deviation over seeds)</text>",
          ">Layer of the text encoder</text>");
    run_well(root, "curves", df_csv, "--out", svg, "--rule", "all", "--size", "400x300");
    texts(svg, "width=\"400\" height=\"300\"", "<title>Birds, red, DeepFloyd IF</title>", ">% of images</text>");
    char *text = folder_read(svg, NULL);
    assert_null(strstr(text, ">birds")); /* the title of a single curve is its label */
    free(text);
    run_well(root, "curves", df_csv, "--out", svg, "--title", "My own", "--label", "A & B");
    texts(svg, ">My own</text>", ">A &amp; B</text>");
    run_well(root, "curves", df_csv, sd_csv, "--out", svg, "--title", "");
    text = folder_read(svg, NULL);
    assert_null(strstr(text, "<title>"));
    free(text);
    run_well(root, "curves", "--bars", PAIR, "--out", svg);
    texts(svg, ">Which noun appears first</text>", ">first noun</text>", ">50.0</text>",
          ">pair, DeepFloyd IF (n\xc2\xa0=\xc2\xa0"
          "2)</text>");
    char sd_pair[3][CLI_PATH];
    for (int i = 0; i < 3; i++) {
        snprintf(sd_pair[i], CLI_PATH, "%.*ssd.csv", (int)strlen(pair_csv[i]) - 6, pair_csv[i]);
        copy_file(pair_csv[i], sd_pair[i]);
    }
    svg = in_root("b.svg");
    run_well(root, "curves", "--bars", PAIR, sd_pair[0], sd_pair[1], sd_pair[2], "--out", svg, "--label", "T5");
    texts(svg, ">Which noun appears first: pair</text>", ">T5 (n\xc2\xa0=", ">Stable Diffusion (n\xc2\xa0=");
}

/* Every option is in the help. */
static void test_help(void **state)
{
    (void)state;
    static const char *const options[] = {"--out",   "--rule", "--threshold", "--bars", "--label",
                                          "--title", "--size", "--json",      "--quiet"};
    struct ran r;
    run_dlens(&r, root, "curves", "--help");
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (!strstr(r.out, options[i])) fail_msg("curves --help does not describe %s", options[i]);
    run_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_table), cmocka_unit_test(test_csv),
        cmocka_unit_test(test_json),     cmocka_unit_test(test_plots), cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, setup, root_remove);
}
