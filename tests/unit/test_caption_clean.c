/* IF's caption cleaning against diffusers. The texts are clip_tokens.jsonl's and caption_texts.jsonl's;
 * caption_clean.txt holds hashes of both results for each, and caption_mojibake.jsonl what differs, as
 * tools/ref/captions.py wrote them. */
#include "loaders/caption_clean.h"

#include "loaders/html_text.h"

#include "tests/unit/texts.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Whether a text comes out with the hash that is written in hexadecimal; "!": not at all. */
static bool gives(const char *s, size_t bytes, bool clean, const char *want, const char *what)
{
    struct dl_err e = {0};
    char *out, got[20] = "!";
    size_t n = 0;
    int rc = clean ? caption_clean(s, bytes, &out, &n, &e) : caption_lower(s, bytes, &out, &n, &e);
    if (rc == 0) {
        uint64_t h = 0xcbf29ce484222325u;
        for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)out[i]) * 0x100000001b3u;
        snprintf(got, sizeof got, "%016" PRIx64, h);
    }
    bool good = !strcmp(got, want);
    if (!good) print_error("%s: gives \"%.300s\"\n", what, rc ? e.msg : out);
    if (rc == 0) assert_int_equal(out[n], 0);
    free(out);
    return good;
}

struct runs {
    FILE *hashes;
    int count, wrong, skipped;
};

static void run_text(void *user, const char *text, size_t bytes, const json_t *line, const char *where)
{
    struct runs *r = user;
    char clean[20], lower[20];
    (void)line;
    assert_int_equal(fscanf(r->hashes, "%19s %19s", clean, lower), 2);
    if (!strcmp(clean, "-"))
        r->skipped++;
    else
        r->wrong += !gives(text, bytes, true, clean, where);
    r->wrong += !gives(text, bytes, false, lower, where);
    r->count++;
}

static void equals_diffusers(void **state)
{
    (void)state;
    struct runs r = {.hashes = fopen(DATA "caption_clean.txt", "r")};
    char rest[20];
    assert_non_null(r.hashes);
    texts_each("clip_tokens.jsonl", run_text, &r);
    texts_each("caption_texts.jsonl", run_text, &r);
    assert_int_not_equal(fscanf(r.hashes, "%19s", rest), 1);
    fclose(r.hashes);
    print_message("%d captions compared with diffusers, %d differ; %d with mojibake are compared by themselves\n",
                  r.count, r.wrong, r.skipped);
    assert_int_equal(r.wrong, 0);
    assert_true(r.count > 9000 && r.skipped < 10);
}

static void check(int (*f)(const char *, size_t, char **, size_t *, struct dl_err *), const char *text,
                  const char *want)
{
    struct dl_err e = {0};
    char *out;
    size_t n;
    assert_int_equal(f(text, strlen(text), &out, &n, &e), 0);
    assert_string_equal(out, want);
    assert_int_equal(n, strlen(want));
    free(out);
}

static void run_mojibake(void *user, const char *text, size_t bytes, const json_t *line, const char *where)
{
    (void)bytes, (void)where;
    check(caption_clean, text, json_string_value(json_object_get(line, "unrepaired")));
    ++*(int *)user;
}

/* ftfy's repair is left out; the rest of the cleaning of such texts is the reference's. */
static void leaves_mojibake(void **state)
{
    (void)state;
    int count = 0;
    texts_each("caption_mojibake.jsonl", run_mojibake, &count);
    assert_true(count > 0);
}

static void cleans_captions(void **state)
{
    (void)state;
    check(caption_clean, "A few people are in the Ocean splashing around",
          "a few people are in the ocean splashing around");
    check(caption_clean, "  \"A photo, of a cat.\" ", "a photo, of a cat.");
    check(caption_clean, "a png image of a (blue) cat+dog at http://x.com/y <b>bold</b>",
          "a of a blue cat dog at bold");
    check(caption_clean, "caf%C3%A9 &amp;amp; <script>x</script>\xe7\x8c\xab tea", "caf\xc3\xa9 ; tea");
    check(caption_lower, " A (Blue) Cat+Dog\n", "a (blue) cat+dog");
    check(html_text, "a<p class='x>y'>b<!-- c --> d<br/>e &lt;f&gt; <1 <", "ab de <f> <1 <");
    check(html_unescape, "&lt;&amp;lt;&notit;&#65;&#x42;&#0;&unknown;&", "<&lt;\xc2\xacit;AB\xef\xbf\xbd&unknown;&");
}

static void refuses(const char *text, size_t bytes, const char *say)
{
    struct dl_err e = {0};
    char *out;
    assert_int_equal(caption_clean(text, bytes, &out, NULL, &e), -1);
    assert_null(out);
    assert_int_equal(e.code, DL_EUSAGE);
    assert_non_null(strstr(e.msg, say));
}

static void refuses_bad_captions(void **state)
{
    (void)state;
    char *s = calloc(1, CAPTION_MAX_BYTES + 1);
    assert_non_null(s);
    memset(s, 'a', CAPTION_MAX_BYTES + 1);
    refuses(s, CAPTION_MAX_BYTES + 1, "at most 40000");
    free(s);
    refuses("ab\xff", 3, "byte 2");
    refuses("a <![b c", 8, "<![");
}

/* What takes long is an error in the end, and what is merely long takes seconds at most. */
static void takes_bounded_time(void **state)
{
    (void)state;
    static const char *const piece[] = {
        "a", "1", " ", ".", "a.", "<", "<a ", "<a b=", "</a>", "&", "&a", "\"", ".png", "-", "<!--"};
    size_t n = 20000;
    char *s = malloc(n + 16), *out;
    assert_non_null(s);
    clock_t start = clock();
    for (size_t k = 0; k < sizeof piece / sizeof *piece; k++) {
        struct dl_err e = {0};
        size_t m = strlen(piece[k]);
        for (size_t i = 0; i < n; i++) s[i] = piece[k][i % m];
        if (caption_clean(s, n, &out, NULL, &e) < 0) assert_int_equal(e.code, DL_EUSAGE);
        free(out);
    }
    assert_true(clock() - start < 60 * CLOCKS_PER_SEC);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_diffusers),     cmocka_unit_test(leaves_mojibake),    cmocka_unit_test(cleans_captions),
        cmocka_unit_test(refuses_bad_captions), cmocka_unit_test(takes_bounded_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
