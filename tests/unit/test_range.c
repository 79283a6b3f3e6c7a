/* Layer selections: Python's ranges and lists, what is refused and how it is said, and the names made from the numbers.
 */
#include "lens/names.h"
#include "lens/range.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct good {
    enum range_unit unit;
    int blocks;
    const char *text, *want;
};

static void accepted(void **state)
{
    (void)state;
    static const struct good table[] = {
        {RANGE_LAYERS, 12, "1:13", "1 2 3 4 5 6 7 8 9 10 11 12"},
        {RANGE_LAYERS, 24, "0:24:4", "0 4 8 12 16 20"},
        {RANGE_LAYERS, 12, "1,5,9", "1 5 9"},
        {RANGE_LAYERS, 12, "9,5,1", "9 5 1"},
        {RANGE_LAYERS, 12, " 9 , 5,\t9", "9 5"},
        {RANGE_LAYERS, 3, "all", "0 1 2 3"},
        {RANGE_BLOCKS, 3, "all", "1 2 3"},
        {RANGE_LAYERS, 12, "last", "12"},
        {RANGE_BLOCKS, 12, "last", "12"},
        {RANGE_BLOCKS, 12, "0:12", "1 2 3 4 5 6 7 8 9 10 11 12"},
        {RANGE_BLOCKS, 23, "0:22:7", "1 8 15 22"},
        {RANGE_LAYERS, 12, "-1", "12"},
        {RANGE_LAYERS, 12, "-3:", "10 11 12"},
        {RANGE_LAYERS, 5, ":", "0 1 2 3 4 5"},
        {RANGE_LAYERS, 5, "::2", "0 2 4"},
        {RANGE_LAYERS, 5, ":-1", "0 1 2 3 4"},
        {RANGE_LAYERS, 5, "::-1", "5 4 3 2 1 0"},
        {RANGE_LAYERS, 5, "4:1:-2", "4 2"},
        {RANGE_LAYERS, 5, "+2", "2"},
        {RANGE_LAYERS, 12, "last,0,1:3,2:5", "12 0 1 2 3 4"},
        {RANGE_LAYERS, 12, "3:3,5", "5"},
        {RANGE_LAYERS, 1, "0:2:1000000000", "0"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct range r;
        struct dl_err e = {0};
        char got[256] = "";
        if (range_parse(&r, table[i].text, table[i].unit, table[i].blocks, &e)) print_message("%s\n", e.msg);
        for (int j = 0; j < r.n; j++)
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", j ? " " : "", r.k[j]);
        assert_string_equal(got, table[i].want);
        range_close(&r);
    }
}

struct wrong {
    enum range_unit unit;
    const char *text, *says;
};

static void refused(void **state)
{
    (void)state;
    static const struct wrong table[] = {
        {RANGE_LAYERS, "13", "--layers 13: there is no layer 13; this model has layers 0..12"},
        {RANGE_BLOCKS, "12", "--blocks 12: there is no block 12; this model has blocks 0..11"},
        {RANGE_LAYERS, "1:20", "there is no layer 13;"},
        {RANGE_LAYERS, "1,-14", "there is no layer -14;"},
        {RANGE_LAYERS, "-14:", "there is no layer -14;"},
        {RANGE_LAYERS, "20::-1", "there is no layer 20;"},
        {RANGE_LAYERS, "0:2000000000", "is not a layer"},
        {RANGE_LAYERS, "0:1000000000", "there is no layer 13;"},
        {RANGE_LAYERS, "99999999999999999999999999", "is not a layer"},
        {RANGE_LAYERS, "1:5:0", "the step must not be 0"},
        {RANGE_LAYERS, "5:5", "selects no layer"},
        {RANGE_BLOCKS, "5:1", "selects no block"},
        {RANGE_LAYERS, "", "\"\" is not a layer; give numbers 0..12"},
        {RANGE_LAYERS, "1,,2", "is not a layer"},
        {RANGE_LAYERS, "1,", "is not a layer"},
        {RANGE_LAYERS, "1-5", "\"1-5\" is not a layer"},
        {RANGE_LAYERS, "1 5", "is not a layer"},
        {RANGE_LAYERS, "1:2:3:4", "is not a layer"},
        {RANGE_LAYERS, "-", "is not a layer"},
        {RANGE_LAYERS, "--1", "is not a layer"},
        {RANGE_LAYERS, "ALL", "is not a layer"},
        {RANGE_LAYERS, "0x5", "is not a layer"},
        {RANGE_LAYERS, "\xd9\xa1", "is not a layer"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct range r;
        struct dl_err e = {0};
        assert_int_equal(range_parse(&r, table[i].text, table[i].unit, 12, &e), -1);
        assert_int_equal(e.code, DL_EUSAGE);
        if (!strstr(e.msg, table[i].says)) print_message("\"%s\" gave: %s\n", table[i].text, e.msg);
        assert_non_null(strstr(e.msg, table[i].says));
        assert_null(r.k);
        assert_int_equal(r.n, 0);
    }
    char *long_text = malloc(100001);
    assert_non_null(long_text);
    memset(long_text, '1', 100000);
    long_text[100000] = 0;
    struct range r;
    struct dl_err e = {0};
    assert_int_equal(range_parse(&r, long_text, RANGE_LAYERS, 12, &e), -1);
    assert_int_equal(e.code, DL_EUSAGE);
    free(long_text);
}

/* A part of what a sweep has: every fourth layer, and prompts. */
static void picked(void **state)
{
    (void)state;
    static const bool has[13] = {[0] = true, [4] = true, [8] = true, [12] = true};
    const struct range_of layers = {"--layers", "layer", "sweep", 13, has},
                          prompts = {"--prompts", "prompt", "sweep", 3, NULL};
    static const struct {
        bool of_prompts;
        const char *text, *want; /* what is picked, or what the error says */
    } table[] = {
        {false, "all", "0 4 8 12 "},
        {false, "last,0", "12 0 "},
        {false, "-1,-5", "12 8 "},
        {false, "4::4", "4 8 12 "},
        {false, "12::-4,4", "12 8 4 0 "},
        {false, "5", "--layers 5: there is no layer 5; this sweep has layers 0, 4, 8, 12"},
        {false, "0:5", "--layers 0:5: there is no layer 1; this sweep"},
        {false, "13", "no layer 13"},
        {false, "4:4", "this selects no layer"},
        {true, "all", "0 1 2 "},
        {true, "2,0", "2 0 "},
        {true, "3", "--prompts 3: there is no prompt 3; this sweep has prompts 0..2"},
        {true, "a", "\"a\" is not a prompt"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct range r;
        struct dl_err e = {0};
        char got[64] = "";
        int rc = range_pick(&r, table[i].text, table[i].of_prompts ? &prompts : &layers, &e);
        for (int k = 0, at = 0; !rc && k < r.n; k++) at += sprintf(got + at, "%d ", r.k[k]);
        if (!strstr(rc ? e.msg : got, table[i].want)) fail_msg("%s gave: %s%s", table[i].text, got, e.msg);
        assert_int_equal(rc ? e.code : DL_EUSAGE, DL_EUSAGE);
        assert_true(rc == 0 || !r.k);
        range_close(&r);
    }
    /* What is there may be too much to list. */
    bool *many = calloc(1000, sizeof *many);
    assert_non_null(many);
    for (int i = 1; i < 1000; i++) many[i] = true;
    struct range r;
    struct dl_err e = {0};
    assert_int_equal(range_pick(&r, "0", &(struct range_of){"--layers", "layer", "sweep", 1000, many}, &e), -1);
    assert_non_null(strstr(e.msg, "has layers 1, 2, 3, "));
    assert_string_equal(e.msg + strlen(e.msg) - 5, ", ...");
    free(many);
}

static void names(void **state)
{
    (void)state;
    char s[NAMES_MAX];
    names_image(s, "images", 0, 17, 5);
    assert_string_equal(s, "images/p000_s17_k05.png");
    names_image(s, "stage1", 1234, UINT64_MAX, 100);
    assert_string_equal(s, "stage1/p1234_s18446744073709551615_k100.png");
    names_latent(s, 0, 17, 5);
    assert_string_equal(s, "p000.s17.k05");
    names_snapshot(s, 7, "text_encoder_2", "hidden_states");
    assert_string_equal(s, "p007.text_encoder_2.hidden_states");
    names_grid(s, true, 3, 17, "png");
    assert_string_equal(s, "grid.png");
    names_grid(s, false, 3, 17, "pdf");
    assert_string_equal(s, "grid_p003_s17.pdf");
    static const char *const titles[][2] = {{"Layer 0", "Embeddings"}, {"Layer 1", "Layer 0"}, {"Layer 2", "Layer 1"}};
    for (int i = 0; i < 6; i++) {
        names_title(s, i % 2, i / 2);
        assert_string_equal(s, titles[i / 2][i % 2]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(accepted), cmocka_unit_test(refused), cmocka_unit_test(picked),
                                       cmocka_unit_test(names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
