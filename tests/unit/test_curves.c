/* Annotation files and their curves: numbers worked out by hand on made-up files, refusals, names; and, where shared/
 * holds the published annotations, every number that is known of them (shared/paper/REPRODUCTION.md says how). */
#include "lens/curves.h"
#include "tests/unit/check.h"
#include "tests/unit/root.h"

#include <glob.h>

static struct marks marks_of(const char *text, const char *name)
{
    struct marks m;
    must(marks_open_memory(&m, text, strlen(text), name, MARKS_THRESHOLD, e));
    return m;
}

static void near(double got, double want, double tolerance)
{
    if (isnan(want) ? !isnan(got) : !(fabs(got - want) <= tolerance)) fail_msg("%.9g, expected %.9g", got, want);
}

/* Three prompts, two seeds; columns and rows in no order. Of seed 0, a and b are right at layer 8, of seed 7 too. */
static const char small[] = "seed,8,prompt,0,4,note\n"
                            "0,1,a,1,0,x\n"
                            "7.0,1,b,1,1,\n"
                            "0,1,b,0,1,\n"
                            "7,1,a,,1,\n"
                            "0,0,c,1,1,\n"
                            "7,,c,0, ,\n";

static void by_hand(void **state)
{
    (void)state;
    struct marks m = marks_of(small, "small.csv");
    struct curve c;
    assert_int_equal(m.n_layers, 3);
    assert_int_equal(m.layer[0] * 100 + m.layer[1] * 10 + m.layer[2], 48);
    assert_int_equal(m.n_rows, 6);
    assert_int_equal(m.n_blank, 3);
    assert_int_equal(m.n_unreadable, 0);
    assert_false(m.graded);
    assert_int_equal(m.threshold, 1);
    assert_int_equal(m.n_ignored, 1);
    assert_string_equal(m.ignored, "note");
    must(curves_compute(&c, &m, CURVES_FINAL, e));
    /* Layer 0: 1 of 2 and 1 of 1; layer 4: 1 of 2 and 2 of 2; layer 8: all. */
    static const struct curve_point want[3] = {
        {0, 75, 35.3553391, 2, 3, 2}, {4, 75, 35.3553391, 2, 4, 3}, {8, 100, 0, 2, 4, 4}};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(c.point[i].k, want[i].k);
        near(c.point[i].mean, want[i].mean, 1e-6);
        near(c.point[i].sd, want[i].sd, 1e-6);
        assert_int_equal(c.point[i].seeds, want[i].seeds);
        assert_int_equal(c.point[i].n, want[i].n);
        assert_int_equal(c.point[i].right, want[i].right);
    }
    assert_int_equal(c.n_images, 6);
    assert_int_equal(c.n_final, 4);
    assert_int_equal(c.n_seeds, 2);
    near(c.earliest, (0 + 0 + 4 + 4) / 4.0, 0);
    near(c.stable, (8 + 0 + 4 + 4) / 4.0, 0); /* a blank at layer 0 is not right there */
    assert_int_equal(c.half, 0);
    curves_close(&c);
    must(curves_compute(&c, &m, CURVES_ALL, e));
    near(c.point[0].mean, 300 / 5.0, 1e-9);
    near(c.point[1].mean, 400 / 5.0, 1e-9);
    near(c.point[2].mean, 400 / 5.0, 1e-9);
    for (int i = 0; i < 3; i++) near(c.point[i].sd, NAN, 0);
    near(c.earliest, 2, 0);
    assert_int_equal(c.half, 0); /* by the other rule, always */
    curves_close(&c);
    marks_close(&m);
}

/* Nothing right at the end; a seed without a cell; one seed; the largest seeds there are. */
static void borders(void **state)
{
    (void)state;
    struct curve c;
    struct marks m = marks_of("prompt,1,2,seed\na,1,0,0\nb,1,,1\n", "none.csv");
    must(curves_compute(&c, &m, CURVES_FINAL, e));
    near(c.point[0].mean, NAN, 0);
    near(c.point[1].sd, NAN, 0);
    near(c.earliest, NAN, 0);
    near(c.stable, NAN, 0);
    assert_int_equal(c.n_final, 0);
    assert_int_equal(c.half, -1);
    curves_close(&c);
    marks_close(&m);

    m = marks_of("prompt,1,2,seed\na,,1,18446744073709551615\na,1,1,18446744073709551614\nb,0,1,18446744073709551614\n",
                 "large.csv");
    must(curves_compute(&c, &m, CURVES_FINAL, e));
    assert_int_equal(c.n_seeds, 2);
    near(c.point[0].mean, 50, 0); /* of the one seed that has cells */
    near(c.point[0].sd, NAN, 0);
    assert_int_equal(c.point[0].seeds, 1);
    near(c.point[1].sd, 0, 0);
    assert_int_equal(c.half, 1); /* 50 is 50 or more */
    curves_close(&c);
    marks_close(&m);

    m = marks_of("prompt,5,seed\na,1,0\n", "one.csv");
    must(curves_compute(&c, &m, CURVES_FINAL, e));
    near(c.stable, 5, 0);
    near(c.point[0].sd, NAN, 0);
    curves_close(&c);
    marks_close(&m);
}

static void grades(void **state)
{
    (void)state;
    static const char text[] = "prompt,0,1,seed\n"
                               "a,6,10.0,0.0\n"
                               "b,5.9, 7 ,1.0\n"
                               "c,llf,0,2.0\n"
                               "d,\"0,0\",1e1,3.0\n"
                               "e,inf,0x1,3.0\n";
    struct marks m = marks_of(text, "grades.csv");
    static const int want[5][2] = {{1, 1}, {0, 1}, {-1, 0}, {-1, 1}, {-1, -1}};
    assert_true(m.graded);
    assert_int_equal(m.threshold, 6);
    for (int i = 0; i < 10; i++) assert_int_equal(marks_at(&m, i / 2, i % 2), want[i / 2][i % 2]);
    assert_int_equal(m.n_unreadable, 4);
    assert_int_equal(m.unreadable_line, 4);
    assert_int_equal(m.unreadable_layer, 0);
    assert_string_equal(m.unreadable, "llf");
    assert_int_equal((int)m.seed[2], 2);
    marks_close(&m);
    must(marks_open_memory(&m, text, strlen(text), "grades.csv", 8, e));
    assert_int_equal(marks_at(&m, 0, 0), 0);
    assert_int_equal(marks_at(&m, 1, 1), 0);
    assert_int_equal(marks_at(&m, 0, 1), 1);
    marks_close(&m);
    m = marks_of("prompt,0,seed\na,2,0\nb,1,0\n", "low.csv");
    assert_true(m.graded);
    assert_int_equal(marks_at(&m, 1, 0), 0);
    marks_close(&m);
    /* Without a grade above 1 the threshold is 1. */
    m = marks_of("prompt,0,seed\na,1.0,0\nb,0.5,1\nc,Error,2\n", "binary.csv");
    assert_false(m.graded);
    assert_int_equal(marks_at(&m, 0, 0), 1);
    assert_int_equal(marks_at(&m, 1, 0), 0);
    assert_int_equal(m.n_unreadable, 1);
    marks_close(&m);
}

static void refused(void **state)
{
    (void)state;
    static const char *const table[][2] = {
        {"prompt,0,4\na,1,1\n", "t.csv: line 1: there is no column \"seed\"; an annotation file has"},
        {"0,seed\n1,1\n", "no column \"prompt\""},
        {"prompt,layer,seed\n1,1,1\n", "no column with a layer's number"},
        {"prompt,10000,-1,seed\n1,1,1,1\n", "no column with a layer's number"},
        {"prompt;0;seed\na;1;1\n", "save the file with commas between the cells"},
        {"\nprompt,0,04,4,seed\na,1,1,1,1\n", "t.csv: line 2: two columns \"4\""},
        {"prompt,0,seed,seed\na,1,1,1\n", "two columns \"seed\""},
        {"prompt,0,seed\n", "t.csv: has a header and no rows"},
        {"prompt,0,seed\na,1,1\nb,1,-1\n", "t.csv: line 3, column \"seed\": \"-1\" is no whole number"},
        {"prompt,0,seed\nb,1,1.5\n", "\"1.5\" is no whole number"},
        {"prompt,0,seed\nb,1,\n", "\"\" is no whole number"},
        {"prompt,0,seed\nb,1,18446744073709551616\n", "\"18446744073709551616\" is no whole number"},
        {"prompt,0,12,seed\na,1,1,0\nb,1,11,0\n",
         "t.csv: line 3, column \"12\": 11 is neither 0, 1 nor blank, nor a grade"},
        {"prompt,0,seed\na,-1,0\n", "-1 is neither"},
        {"prompt,0,seed\na,1e999,0\n", "1e999 is neither"},
        {"prompt,0,seed\na,1\n", "t.csv: line 2 has 2 cells and the header has 3"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct marks m;
        struct dl_err e = {0};
        assert_int_equal(marks_open_memory(&m, table[i][0], strlen(table[i][0]), "t.csv", 6, &e), -1);
        if (!strstr(e.msg, table[i][1])) fail_msg("\"%s\" is not in \"%s\"", table[i][1], e.msg);
        assert_int_equal(e.code, DL_EINPUT);
        assert_null(m.mark);
    }
}

static void names(void **state)
{
    (void)state;
    static const char *const table[][4] = {
        {"a/famous_IsCorrect_df_famous_1702657046.847111.csv", "famous", "IsCorrect", "df"},
        {"auto_prompts_positional_in_RelationCorrect_sd.csv", "auto_prompts_positional_in", "RelationCorrect", "sd"},
        {"My_Series_IsRed_df_My_Series_17.csv", "My_Series", "IsRed", "df"},
        {"birds_IsRed_flux.CSV", "birds", "IsRed", "flux"},
        {"birds_IsRed", "birds", "IsRed", ""},
        {"IsRed_df.csv", "IsRed_df", "", ""},
        {"just a name.csv", "just a name", "", ""},
        {"a/b.c/.csv", ".csv", "", ""},
        {"__A__.csv", "_", "A", ""},
        {"", "", "", ""},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct marks_name n;
        marks_name_read(&n, table[i][0]);
        assert_string_equal(n.series, table[i][1]);
        assert_string_equal(n.question, table[i][2]);
        assert_string_equal(n.model, table[i][3]);
        marks_name_close(&n);
    }
}

/* Labels of files with these names (and `grade` in their only cell). */
static void labels_are(int n, const char *const *name, const char *const *grade, const char *const *full,
                       const char *const *brief, const char *common)
{
    struct marks m[4] = {0};
    struct marks_labels l;
    for (int i = 0; i < n; i++) {
        char text[64];
        snprintf(text, sizeof text, "prompt,0,seed\na,%s,0\n", grade[i]);
        m[i] = marks_of(text, name[i]);
    }
    must(marks_label(&l, m, n, e));
    for (int i = 0; i < n; i++) {
        assert_string_equal(l.full[i], full[i]);
        assert_string_equal(l.brief[i], brief[i]);
        marks_close(&m[i]);
    }
    assert_string_equal(l.common, common);
    marks_labels_close(&l);
}

#define LIST(...) ((const char *const[]){__VA_ARGS__})

static void labels(void **state)
{
    (void)state;
    labels_are(2, LIST("x/famous_IsSameGender_df_famous_1.5.csv", "famous_IsHuman_df.csv"), LIST("1", "1"),
               LIST("famous, same gender, DeepFloyd IF", "famous, human, DeepFloyd IF"), LIST("same gender", "human"),
               "famous, DeepFloyd IF");
    labels_are(2, LIST("positional_on_RelationCorrect_sd.csv", "auto_prompts_positional_on_RelationCorrect_sd.csv"),
               LIST("1", "7"),
               LIST("on, relation correct, Stable Diffusion", "on, relation correct, Stable Diffusion, graded"),
               LIST("annotated", "graded"), "on, relation correct, Stable Diffusion");
    labels_are(1, LIST("my_birds.csv"), LIST("1"), LIST("my birds"), LIST("my birds"), "");
    labels_are(2, LIST("x_IsRed.csv", "x_IsRed_df.csv"), LIST("1", "1"), LIST("x, red", "x, red, DeepFloyd IF"),
               LIST("x, red", "DeepFloyd IF"), "x, red");
    labels_are(2, LIST("a/x.csv", "b/x.csv"), LIST("1", "1"), LIST("a/x.csv", "b/x.csv"), LIST("a/x.csv", "b/x.csv"),
               "x");
}

/* a: first noun; b: second; c: both, then first; d: never one alone; e: wrong at the end; f: in no file of a noun; g
 * twice, and once more in one file. */
static void bars_by_hand(void **state)
{
    (void)state;
    struct marks correct = marks_of("prompt,0,4,8,seed\na,0,0,1,0\na,0,0,1,1\nb,0,0,1,0\nc,0,0,1,0\nd,0,0,1,0\n"
                                    "e,1,1,0,0\nf,0,0,1,0\ng,0,0,0,0\ng,0,0,1,0\n",
                                    "s_IsCorrect_df.csv");
    struct marks first = marks_of("seed,prompt,0,4,8\n0,a,0,1,1\n1,a,0,1,0\n0,b,0,0,1\n0,c,1,1,1\n0,d,0,1,\n0,e,1,1,1\n"
                                  "0,g,0,0,0\n0,g,1,0,0\n0,z,1,1,1\n",
                                  "s_IsFirstClass_df.csv");
    struct marks second =
        marks_of("prompt,0,4,8,seed\ng,1,1,1,0\ng,0,1,1,0\ng,1,1,1,0\nd,0,1,,0\nc,1,0,0,0\nb,0,1,1,0\na,0,0,1,0\n"
                 "e,0,0,0,0\na,1,0,0,1\n",
                 "s_IsSecondClass_df.csv");
    struct curves_bars b;
    must(curves_bars(&b, &correct, &first, &second, e));
    /* a0 first at 4, a1 second at 0, b second, c first at 4, d tie, g's second row first at 0 */
    assert_int_equal(b.n, 6);
    assert_int_equal(b.first, 3);
    assert_int_equal(b.second, 2);
    assert_int_equal(b.tie, 1);
    assert_int_equal(b.n_unmatched, 1);
    struct marks other = marks_of("prompt,0,4,12,seed\na,1,1,1,0\n", "s_IsSecondClass_df.csv");
    struct dl_err e = {0};
    assert_int_equal(curves_bars(&b, &correct, &first, &other, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_non_null(strstr(e.msg, "s_IsSecondClass_df.csv: has other layers than s_IsCorrect_df.csv"));
    marks_close(&correct), marks_close(&first), marks_close(&second), marks_close(&other);
}

static void groups(void **state)
{
    (void)state;
    static const char *const name[6] = {"s_IsSecondClass_df.csv", "s_IsCorrect_sd.csv",    "s_IsCorrect_df_s_1.csv",
                                        "s_IsFirstClass_df.csv",  "s_IsFirstClass_sd.csv", "s_IsSecondClass_sd.csv"};
    struct marks m[7];
    int group[21], n;
    for (int i = 0; i < 6; i++) m[i] = marks_of("prompt,0,seed\na,1,0\n", name[i]);
    must(curves_group(group, &n, m, 6, e));
    static const int want[6] = {2, 3, 0, 1, 4, 5};
    assert_int_equal(n, 2);
    assert_memory_equal(group, want, sizeof want);
    struct dl_err e = {0};
    assert_int_equal(curves_group(group, &n, m, 5, &e), -1);
    assert_int_equal(e.code, DL_EUSAGE);
    assert_non_null(strstr(e.msg, "s_IsCorrect_sd.csv: bars need the file of IsSecondClass too"));
    e = (struct dl_err){0};
    m[6] = marks_of("prompt,0,seed\na,1,0\n", "x/s_IsCorrect_df.csv");
    assert_int_equal(curves_group(group, &n, m, 7, &e), -1);
    assert_non_null(strstr(e.msg, "x/s_IsCorrect_df.csv: answers the same as s_IsCorrect_df_s_1.csv"));
    marks_close(&m[6]);
    e = (struct dl_err){0};
    m[6] = marks_of("prompt,0,seed\na,1,0\n", "s_IsRed_df.csv");
    assert_int_equal(curves_group(group, &n, m, 7, &e), -1);
    assert_non_null(strstr(e.msg, "s_IsRed_df.csv: bars are made from files whose names have"));
    for (int i = 0; i < 7; i++) marks_close(&m[i]);
}

#define PAPER DLENS_SHARED "/paper/"

static bool no_paper(void)
{
    if (!access(PAPER "human_annotations", F_OK)) return false;
    print_message("skipped: no %s\n", PAPER "human_annotations");
    return true;
}

static struct marks published(const char *name, const char *model)
{
    char pattern[500];
    glob_t g;
    struct marks m;
    snprintf(pattern, sizeof pattern, PAPER "human_annotations/%s_%s*.csv", name, model);
    if (glob(pattern, 0, NULL, &g) || g.gl_pathc != 1) fail_msg("not one file %s", pattern);
    must(marks_open(&m, g.gl_pathv[0], MARKS_THRESHOLD, e));
    assert_false(m.graded);
    globfree(&g);
    return m;
}

/* expected_values.csv: series, model, prompts, rows, final_ok, layer, raw_pct, cond_mean_pct, cond_sd_pct. Both rules
 * give its numbers, for every layer of every file. */
static void published_curves(void **state)
{
    (void)state;
    struct csv want;
    int at = 1, curves = 0;
    if (no_paper()) skip();
    must(csv_open(&want, PAPER "expected_values.csv", e));
    for (; at < want.n_rows; curves++) {
        struct marks m = published(csv_at(&want, at, 0), csv_at(&want, at, 1));
        struct curve c, all;
        must(curves_compute(&c, &m, CURVES_FINAL, e));
        must(curves_compute(&all, &m, CURVES_ALL, e));
        assert_int_equal(c.n_seeds, 4);
        for (int i = 0; i < c.n_points; i++, at++) {
            assert_string_equal(csv_at(&want, at, 0), csv_at(&want, at - i, 0));
            assert_int_equal(c.n_images, atoi(csv_at(&want, at, 3)));
            assert_int_equal(c.n_final, atoi(csv_at(&want, at, 4)));
            assert_int_equal(c.point[i].k, atoi(csv_at(&want, at, 5)));
            near(all.point[i].mean, atof(csv_at(&want, at, 6)), 1e-3);
            near(c.point[i].mean, atof(csv_at(&want, at, 7)), 1e-3);
            near(c.point[i].sd, atof(csv_at(&want, at, 8)), 1e-3);
        }
        curves_close(&c), curves_close(&all), marks_close(&m);
    }
    assert_int_equal(curves, 58);
    assert_int_equal(at, 378);
    csv_close(&want);
}

/* The table's numbers were: 14.548 stands there as 14.6, by way of 14.55. */
static double rounded_twice(double v) { return round(round(100 * v) / 10) / 10; }

/* The table of derived numbers: earliest / stable / half and final-layer success. */
static void published_derived(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct {
            double earliest, stable;
            int half, final;
        } of[2];
    } table[] = {
        {"classes_IsCorrect", {{5.1, 8.6, 8, 95}, {9.3, 11.7, 7, 97}}},
        {"positional_single_color_IsCorrect", {{7.7, 12.7, 8, 86}, {16.6, 19.4, 23, 89}}},
        {"positional_two_colors_IsCorrect", {{17.6, 21.2, 24, 59}, {20.1, 21.0, 23, 37}}},
        {"positional_in_RelationCorrect", {{16.4, 19.3, 20, 76}, {15.2, 18.2, 15, 69}}},
        {"positional_on_RelationCorrect", {{13.5, 17.5, 16, 75}, {14.6, 17.6, 19, 78}}},
        {"syntax_head_IsCorrect", {{11.8, 16.6, 8, 84}, {15.5, 17.4, 15, 79}}},
        {"syntax_head_first_IsCorrect", {{8.8, 12.6, 8, 84}, {12.9, 15.9, 15, 77}}},
        {"positional_common_animals_IsCorrectAnimal", {{10.7, 12.2, 8, 89}, {12.9, 14.0, 15, 96}}},
        {"positional_uncommon_animals_IsCorrectAnimal", {{16.1, 16.9, 16, 66}, {15.5, 16.4, 15, 89}}},
        {"famous_IsCorrect", {{22.3, 22.6, 24, 78}, {18.1, 20.1, 19, 60}}},
    };
    if (no_paper()) skip();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        for (int model = 0; model < 2; model++) {
            struct marks m = published(table[i].name, model ? "sd" : "df");
            struct curve c;
            must(curves_compute(&c, &m, CURVES_FINAL, e));
            near(rounded_twice(c.earliest), table[i].of[model].earliest, 1e-9);
            near(rounded_twice(c.stable), table[i].of[model].stable, 1e-9);
            assert_int_equal(c.half, table[i].of[model].half);
            near(100.0 * (double)c.n_final / (double)c.n_images, table[i].of[model].final, 0.5001);
            curves_close(&c), marks_close(&m);
        }
}

static void published_bars(void **state)
{
    (void)state;
    static const struct {
        const char *series, *model;
        int first, second, tie;
    } table[] = {{"syntax_head", "df", 42, 61, 15},
                 {"syntax_head", "sd", 61, 31, 19},
                 {"syntax_head_first", "df", 63, 42, 19},
                 {"syntax_head_first", "sd", 66, 27, 20}};
    if (no_paper()) skip();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        static const char *const question[3] = {"IsCorrect", "IsFirstClass", "IsSecondClass"};
        struct marks m[3];
        struct curves_bars b;
        for (int q = 0; q < 3; q++) {
            char name[100];
            snprintf(name, sizeof name, "%s_%s", table[i].series, question[q]);
            m[q] = published(name, table[i].model);
        }
        must(curves_bars(&b, &m[0], &m[1], &m[2], e));
        assert_int_equal(b.first, table[i].first);
        assert_int_equal(b.second, table[i].second);
        assert_int_equal(b.tie, table[i].tie);
        assert_int_equal(b.n, table[i].first + table[i].second + table[i].tie);
        for (int q = 0; q < 3; q++) marks_close(&m[q]);
    }
}

/* Adds the cells that both files have to count[human][grade]. */
static void agree(int64_t count[2][2], const struct marks *human, const struct marks *graded)
{
    for (int r = 0; r < human->n_rows; r++) {
        int other = 0; /* the first row of the same image */
        while (other < graded->n_rows &&
               (graded->seed[other] != human->seed[r] || strcmp(graded->prompt[other], human->prompt[r])))
            other++;
        for (int i = 0; other < graded->n_rows && i < human->n_layers; i++) {
            int a = marks_at(human, r, i), b = marks_at(graded, other, i);
            if (a >= 0 && b >= 0) count[a][b]++;
        }
    }
}

/* What marks.h says of the threshold; and all cells of grades that are no numbers. */
static void published_grades(void **state)
{
    (void)state;
    static const struct {
        int threshold;
        double percent, kappa;
    } table[] = {{5, 84.2, 0.679}, {6, 84.7, 0.691}, {7, 83.9, 0.678}, {8, 80.0, 0.605}, {10, 71.7, 0.453}};
    if (no_paper()) skip();
    for (size_t t = 0; t < sizeof table / sizeof *table; t++) {
        int64_t count[2][2] = {{0}}, unreadable = 0;
        glob_t g;
        assert_int_equal(glob(PAPER "gpt_annotations/*.csv", 0, NULL, &g), 0);
        for (size_t i = 0; i < g.gl_pathc; i++) {
            struct marks m, human;
            char pattern[500];
            glob_t h;
            must(marks_open(&m, g.gl_pathv[i], table[t].threshold, e));
            assert_true(m.graded);
            unreadable += m.n_unreadable;
            snprintf(pattern, sizeof pattern, PAPER "human_annotations/%s_%s_%s*.csv",
                     m.name.series + strlen("auto_prompts_"), m.name.question, m.name.model);
            if (!glob(pattern, 0, NULL, &h)) {
                must(marks_open(&human, h.gl_pathv[0], 6, e));
                agree(count, &human, &m);
                marks_close(&human);
                globfree(&h);
            }
            marks_close(&m);
        }
        globfree(&g);
        double n = (double)(count[0][0] + count[0][1] + count[1][0] + count[1][1]);
        double same = (double)(count[0][0] + count[1][1]) / n;
        double chance = ((double)(count[0][0] + count[0][1]) * (double)(count[0][0] + count[1][0]) +
                         (double)(count[1][0] + count[1][1]) * (double)(count[0][1] + count[1][1])) /
                        (n * n);
        assert_int_equal((int)n, 34314);
        near(100 * same, table[t].percent, 0.0501);
        near((same - chance) / (1 - chance), table[t].kappa, 0.000501);
        assert_int_equal(unreadable, 3269);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),           cmocka_unit_test(borders),        cmocka_unit_test(grades),
        cmocka_unit_test(refused),           cmocka_unit_test(names),          cmocka_unit_test(labels),
        cmocka_unit_test(bars_by_hand),      cmocka_unit_test(groups),         cmocka_unit_test(published_curves),
        cmocka_unit_test(published_derived), cmocka_unit_test(published_bars), cmocka_unit_test(published_grades),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
