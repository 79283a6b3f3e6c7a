/* The CLIP tokenizer against both generations of transformers. clip_tokens.jsonl, clip_mojibake.jsonl (with the real
 * vocabulary from shared/) and clip_tiny/ (a vocabulary of its own) are written by tools/ref/tokens_clip.py, which says
 * what the fields are. */
#include "loaders/clip_bpe.h"

#include "tests/unit/texts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TINY DATA "clip_tiny"
#define BOS "<|startoftext|>"
#define EOS "<|endoftext|>"
#define TOKEN(s) "{\"content\":\"" s "\",\"lstrip\":false,\"normalized\":true,\"rstrip\":false,\"single_word\":false}"
#define SPECIAL_MAP(pad)                                                                                               \
    "{\"bos_token\":" TOKEN(BOS) ",\"eos_token\":" TOKEN(EOS) ",\"pad_token\":\"" pad "\",\"unk_token\":" TOKEN(EOS) "}"

/* The tokenizer of a folder's vocabulary with other configuration files; NULL: none. */
static int open_with(struct clip_bpe **b, const char *dir, const char *config, const char *special, const char *added,
                     struct dl_err *e)
{
    char path[1024], *text[2];
    struct clip_files f = {0};
    for (int k = 0; k < 2; k++) {
        snprintf(path, sizeof path, "%s/%s", dir, k ? "merges.txt" : "vocab.json");
        text[k] = texts_read(path, &f.file[k].bytes);
        assert_non_null(text[k]);
        f.file[k].text = text[k];
    }
    const char *more[3] = {config, special, added};
    for (int k = 0; k < 3; k++) {
        f.file[CLIP_CONFIG + k].text = more[k];
        f.file[CLIP_CONFIG + k].bytes = more[k] ? strlen(more[k]) : 0;
    }
    int rc = clip_bpe_parse(b, &f, dir, e);
    free(text[0]);
    free(text[1]);
    return rc;
}

/* Whether the tokenizer gives start, want, end, padding. Says where it does not. */
static bool gives(const struct clip_bpe *b, const char *s, size_t bytes, enum text_mode mode, int len,
                  const json_t *want, const char *what)
{
    struct token_list t;
    struct dl_err e = {0};
    if (clip_bpe_run(b, s, bytes, mode, len, &t, &e) < 0) {
        print_error("%s: %s\n", what, e.msg);
        return false;
    }
    int n = (int)json_array_size(want);
    bool good = t.n_ids == len && t.ids[0] == clip_bpe_bos_id(b) && t.n_pieces == n + 2;
    for (int i = 0; good && i < len - 1; i++) {
        int expect = i < n    ? (int)json_integer_value(json_array_get(want, (size_t)i))
                     : i == n ? clip_bpe_eos_id(b)
                              : clip_bpe_pad_id(b);
        if (t.ids[i + 1] != expect) {
            print_error("%s: id %d is %d, expected %d\n", what, i + 1, t.ids[i + 1], expect);
            good = false;
        }
    }
    if (t.n_pieces != n + 2) print_error("%s: %d ids, expected %d\n", what, t.n_pieces, n + 2);
    token_list_free(&t);
    return good;
}

struct runs {
    struct clip_bpe *const *b;
    int count, wrong;
};

/* One text through both vocabularies and both modes. */
static void run_text(void *user, const char *text, size_t bytes, const json_t *line, const char *where)
{
    static const char *const key[4] = {"a", "b", "c", "d"};
    struct runs *r = user;
    const json_t *m = json_object_get(line, "m");
    json_t *want[4];
    for (int k = 0; k < 4; k++) {
        want[k] = json_object_get(line, key[k]);
        if (!want[k]) want[k] = k == 3 ? want[1] : want[0];
        char what[1100];
        snprintf(what, sizeof what, "%s, pad %s: %s", k & 1 ? "hf4" : "hf5", k & 2 ? "!" : EOS, where);
        r->wrong += !gives(r->b[k / 2], text, bytes, k & 1 ? TEXT_HF4 : TEXT_HF5, m ? (int)json_integer_value(m) : 77,
                           want[k], what);
        r->count++;
    }
}

/* Every line of a data file; returns how many comparisons were made. */
static int run_file(const char *file, struct clip_bpe *const b[2], int *wrong)
{
    struct runs r = {.b = b};
    texts_each(file, run_text, &r);
    *wrong += r.wrong;
    return r.count;
}

static void equals_transformers(void **state)
{
    (void)state;
    static const char *const dir = DLENS_SHARED "/tokenizers/clip";
    if (access(DLENS_SHARED "/tokenizers/clip/vocab.json", R_OK) != 0) {
        print_message("CLIP's vocabulary is not in %s: comparison with transformers skipped\n", dir);
        skip();
    }
    struct clip_bpe *b[2];
    struct dl_err e = {0};
    assert_int_equal(open_with(&b[0], dir, "{\"model_max_length\":77}", SPECIAL_MAP(EOS), NULL, &e), 0);
    assert_int_equal(
        open_with(&b[1], dir, "{\"model_max_length\":77,\"pad_token\":\"" EOS "\"}", SPECIAL_MAP("!"), NULL, &e), 0);
    assert_int_equal(clip_bpe_pad_id(b[0]), 49407);
    assert_int_equal(clip_bpe_pad_id(b[1]), 0);
    assert_int_equal(clip_bpe_vocab_size(b[1]), 49408);
    int wrong = 0, n = run_file("clip_tokens.jsonl", b, &wrong);
    print_message("%d comparisons with transformers, %d differ\n", n, wrong);
    assert_int_equal(wrong, 0);
    assert_true(n >= 4 * 5000);
    n = run_file("clip_mojibake.jsonl", b, &wrong);
    print_message("%d comparisons on texts whose mojibake ftfy would repair (left out here), %d differ\n", n, wrong);
    assert_int_equal(wrong, 0);

    struct token_list t;
    char cut[200 * 4 + 1] = "";
    for (int i = 0; i < 78; i++) strcat(cut, i < 74 ? "cat " : i == 74 ? "caf\u00e9 " : i == 75 ? "\u732b " : "Dog ");
    assert_int_equal(clip_bpe_run(b[0], cut, strlen(cut), TEXT_HF5, 0, &t, &e), 0);
    assert_string_equal(t.truncated, "\u732b dog dog");
    assert_int_equal(t.eos, 76);
    assert_string_equal(t.pieces[75], "caf\u00c3\u00a9</w>");
    token_list_free(&t);
    clip_bpe_close(b[0]);
    clip_bpe_close(b[1]);
}

static void tiny_equals_transformers(void **state)
{
    (void)state;
    struct clip_bpe *b[2];
    struct dl_err e = {0};
    assert_int_equal(open_with(&b[0], TINY, NULL, SPECIAL_MAP(EOS), NULL, &e), 0);
    assert_int_equal(open_with(&b[1], TINY, NULL, SPECIAL_MAP("!"), NULL, &e), 0);
    for (int mode = 0; mode < 2; mode++) {
        json_t *list = json_load_file(mode == TEXT_HF4 ? TINY "/hf4.json" : TINY "/hf5.json", 0, NULL), *o;
        size_t i;
        assert_non_null(list);
        assert_true(json_array_size(list) > 10);
        json_array_foreach(list, i, o)
        {
            json_t *s = json_object_get(o, "s"), *ids = json_object_get(o, "ids");
            for (int k = 0; k < 2; k++)
                assert_true(gives(b[k], json_string_value(s), json_string_length(s), mode, 77,
                                  json_array_get(ids, (size_t)k), json_string_value(s)));
        }
        json_decref(list);
    }
    clip_bpe_close(b[0]);
    clip_bpe_close(b[1]);
}

static void check_pieces(const struct clip_bpe *b, enum text_mode mode, const char *text, const char *want)
{
    struct token_list t;
    struct dl_err e = {0};
    char got[1000] = "";
    assert_int_equal(clip_bpe_run(b, text, strlen(text), mode, 0, &t, &e), 0);
    for (int i = 1; i < t.n_pieces - 1; i++) {
        if (i > 1) strcat(got, " ");
        strcat(got, t.pieces[i]);
    }
    assert_string_equal(t.pieces[0], BOS);
    assert_string_equal(t.pieces[t.n_pieces - 1], EOS);
    token_list_free(&t);
    assert_string_equal(got, want);
}

static void lists_pieces_and_truncation(void **state)
{
    (void)state;
    struct clip_bpe *b;
    struct dl_err e = {0};
    struct token_list t;
    assert_int_equal(clip_bpe_open(&b, TINY, &e), 0);
    assert_int_equal(clip_bpe_max_length(b), 77);
    check_pieces(b, TEXT_HF5, "The CAT and", "the</w> cat</w> and</w>");
    check_pieces(b, TEXT_HF4, "a&amp;b \xe2\x80\x9c", "a</w> &</w> b</w> \"</w>");
    check_pieces(b, TEXT_HF5, "", "");

    const char *text = "the cat on  THE dog's \xc3\xa9 b" EOS;
    assert_int_equal(clip_bpe_run(b, text, strlen(text), TEXT_HF5, 5, &t, &e), 0);
    assert_int_equal(t.n_ids, 5);
    assert_int_equal(t.n_pieces, 5);
    assert_int_equal(t.eos, 4);
    assert_int_equal(t.ids[4], clip_bpe_eos_id(b));
    /* the two unknown bytes of é are end tokens */
    assert_string_equal(t.truncated, "the dog 's " EOS " " EOS " b " EOS);
    token_list_free(&t);
    assert_int_equal(clip_bpe_run(b, "cat " EOS " cat", 21, TEXT_HF4, 0, &t, &e), 0);
    assert_int_equal(t.n_ids, 77);
    assert_int_equal(t.n_pieces, 5);
    assert_int_equal(t.eos, 2);
    assert_int_equal(t.ids[5], clip_bpe_pad_id(b));
    assert_string_equal(t.truncated, "");
    token_list_free(&t);
    assert_int_equal(clip_bpe_run(b, "cat", 3, TEXT_HF4, 2, &t, &e), 0);
    assert_string_equal(t.truncated, "cat");
    token_list_free(&t);
    assert_true(clip_bpe_run(b, "cat", 3, TEXT_HF4, 1, &t, &e) < 0);
    assert_int_equal(e.code, DL_EUSAGE);
    assert_null(t.ids);
    clip_bpe_close(b);
}

static void reads_added_tokens(void **state)
{
    (void)state;
    struct clip_bpe *b;
    struct dl_err e = {0};
    char json[600];
    assert_int_equal(clip_bpe_open(&b, TINY, &e), 0);
    int n = clip_bpe_vocab_size(b);
    check_pieces(b, TEXT_HF5, "<|EndOfText|>",
                 "< |</w> e n do f t e x t</w> | ></w>"); /* not normalized: raw text only */
    check_pieces(b, TEXT_HF4, "<|EndOfText|>", EOS);
    clip_bpe_close(b);

    snprintf(json, sizeof json, "{\"<Toy>\":%d,\"<Toy>x\":%d}", n, n + 1);
    assert_int_equal(open_with(&b, TINY, "{\"model_max_length\":9}", NULL, json, &e), 0);
    assert_int_equal(clip_bpe_vocab_size(b), n + 2);
    assert_int_equal(clip_bpe_max_length(b), 9);
    check_pieces(b, TEXT_HF5, "a <TOY> <Toy>x", "a</w> <Toy> <Toy>x"); /* found in lower-cased text; the longest wins */
    check_pieces(b, TEXT_HF4, "a <toy> <Toy>", "a</w> <</w> t o y</w> ></w> <Toy>"); /* found as written */
    clip_bpe_close(b);

    /* added_tokens_decoder makes special_tokens_map.json count for nothing */
    snprintf(json, sizeof json,
             "{\"model_max_length\":1e30,\"added_tokens_decoder\":{\"%d\":{\"content\":\"" BOS
             "\",\"normalized\":true,\"special\":true},\"%d\":{\"content\":\"" EOS "\",\"normalized\":false}}}",
             n - 2, n - 1);
    assert_int_equal(open_with(&b, TINY, json, SPECIAL_MAP("!"), NULL, &e), 0);
    assert_int_equal(clip_bpe_pad_id(b), n - 1);
    assert_int_equal(clip_bpe_max_length(b), 77);
    check_pieces(b, TEXT_HF5, "<|StartOfText|> <|ENDOFTEXT|>", BOS " < |</w> e n do f t e x t</w> | ></w>");
    clip_bpe_close(b);
}

/* The configuration files of the published models, with the vocabulary that they all share. */
static void reads_published_configs(void **state)
{
    (void)state;
    static const struct {
        const char *folder;
        int pad;
        const char
            *shouted; /* what hf5 makes of <|ENDOFTEXT|>: it depends on `normalized` of the token declared last */
    } model[] = {
        {"stable-diffusion-v1-5/tokenizer", 49407, "< |</w> endof text</w> | ></w>"},
        {"stable-diffusion-2-1/tokenizer", 0, EOS},
        {"stable-diffusion-2-1-base/tokenizer", 0, EOS},
        {"stable-diffusion-xl-base-1.0/tokenizer", 49407, "< |</w> endof text</w> | ></w>"},
        {"stable-diffusion-xl-base-1.0/tokenizer_2", 0, EOS},
        {"FLUX.1-schnell/tokenizer", 49407, "< |</w> endof text</w> | ></w>"},
    };
    if (access(DLENS_SHARED "/tokenizers/clip/vocab.json", R_OK) != 0) {
        print_message("CLIP's vocabulary is not in " DLENS_SHARED ": published configurations skipped\n");
        skip();
    }
    for (size_t i = 0; i < sizeof model / sizeof *model; i++) {
        char path[1024], *text[2];
        size_t bytes;
        struct clip_bpe *b;
        struct dl_err e = {0};
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "%s/models/%s/%s", DLENS_SHARED, model[i].folder,
                     k ? "special_tokens_map.json" : "tokenizer_config.json");
            text[k] = texts_read(path, &bytes);
            assert_non_null(text[k]);
        }
        assert_int_equal(open_with(&b, DLENS_SHARED "/tokenizers/clip", text[0], text[1], NULL, &e), 0);
        assert_int_equal(clip_bpe_bos_id(b), 49406);
        assert_int_equal(clip_bpe_eos_id(b), 49407);
        assert_int_equal(clip_bpe_pad_id(b), model[i].pad);
        assert_int_equal(clip_bpe_max_length(b), 77);
        check_pieces(b, TEXT_HF5, "<|ENDOFTEXT|>", model[i].shouted);
        check_pieces(b, TEXT_HF4, "<|ENDOFTEXT|>", EOS);
        check_pieces(b, TEXT_HF5, "wow!!!", model[i].pad ? "wow</w> !!!</w>" : "wow</w> ! ! !");
        clip_bpe_close(b);
        free(text[0]);
        free(text[1]);
    }
}

static void refuses(const char *vocab, const char *merges, const char *config, const char *special, const char *added,
                    const char *say)
{
    struct clip_files f = {0};
    const char *text[CLIP_NFILES] = {vocab, merges, config, special, added};
    struct clip_bpe *b;
    struct dl_err e = {0};
    for (int k = 0; k < CLIP_NFILES; k++)
        if (text[k]) f.file[k].text = text[k], f.file[k].bytes = strlen(text[k]);
    assert_int_equal(clip_bpe_parse(&b, &f, "dir", &e), -1);
    assert_null(b);
    assert_int_equal(e.code, DL_EINPUT);
    if (!strstr(e.msg, say)) print_error("\"%s\" does not say \"%s\"\n", e.msg, say);
    assert_non_null(strstr(e.msg, say));
    assert_null(strchr(e.msg, '\n'));
}

static void refuses_bad_files(void **state)
{
    (void)state;
    static const char v[] = "{\"a\":0,\"b\":1,\"ab\":2,\"" BOS "\":3,\"" EOS "\":4}", m[] = "#version: 0.2\na b\n";
    struct clip_bpe *b;
    struct dl_err e = {0};
    struct clip_files good = {{{v, sizeof v - 1}, {m, sizeof m - 1}}};
    assert_int_equal(clip_bpe_parse(&b, &good, "dir", &e), 0);
    clip_bpe_close(b);
    refuses(NULL, m, NULL, NULL, NULL, "dir/vocab.json: missing");
    refuses(v, NULL, NULL, NULL, NULL, "dir/merges.txt: missing");
    refuses("", m, NULL, NULL, NULL, "dir/vocab.json: not valid JSON");
    refuses("[1]", m, NULL, NULL, NULL, "object");
    refuses("{}", m, NULL, NULL, NULL, "0 pieces");
    refuses("{\"a\":0,\"a\":1}", m, NULL, NULL, NULL, "duplicate");
    refuses("{\"a\":0,\"b\":0}", m, NULL, NULL, NULL, "id 0 belongs to two pieces");
    refuses("{\"a\":0,\"b\":2}", m, NULL, NULL, NULL, "piece \"b\": its id must be a number from 0 to 1");
    refuses("{\"a\":0,\"b\":-1}", m, NULL, NULL, NULL, "from 0 to 1");
    refuses("{\"a\":0,\"b\":\"1\"}", m, NULL, NULL, NULL, "from 0 to 1");
    refuses("{\"\":0}", m, NULL, NULL, NULL, "empty piece");
    refuses("{\"a\":0}", "#version\n", NULL, NULL, NULL, "special token \"<|startoftext|>\" is neither");
    refuses(v, "a b\n", NULL, NULL, NULL, "merges.txt: line 1 must begin");
    refuses(v, "", NULL, NULL, NULL, "merges.txt: line 1 must begin");
    refuses(v, "#version: 0.2\na b\na c\n", NULL, NULL, NULL, "merges.txt: line 3: piece \"c\" is not in vocab.json");
    refuses(v, "#version: 0.2\nb a\n", NULL, NULL, NULL, "line 2: what \"b a\" makes");
    refuses(v, "#version: 0.2\na b\na b\n", NULL, NULL, NULL, "line 3 repeats line 2");
    refuses(v, "#version: 0.2\n\na b\n", NULL, NULL, NULL, "line 2: two pieces");
    refuses(v, "#version: 0.2\na b c\n", NULL, NULL, NULL, "line 2: two pieces");
    refuses(v, m, "{\"model_max_length\":1}", NULL, NULL, "model_max_length 1");
    refuses(v, m, "{\"pad_token\":7}", NULL, NULL, "tokenizer_config.json: pad_token");
    refuses(v, m, NULL, "{\"pad_token\":\"[PAD]\"}", NULL, "special token \"[PAD]\" is neither");
    refuses(v, m, NULL, "{\"pad_token\":\"\"}", NULL, "empty");
    refuses(v, m, NULL, "{\"pad_token\":{\"content\":\"a\",\"lstrip\":true}}", NULL, "\"a\" has lstrip");
    refuses(v, m, NULL, NULL, "{\"<x>\":2}", "\"<x>\": id 2 is another piece's");
    refuses(v, m, NULL, NULL, "{\"<x>\":9}", "\"<x>\": id 9 is beyond");
    refuses(v, m, NULL, NULL, "{\"<x>\":5,\"<y>\":5}", "id 5 is another piece's");
    refuses(v, m, NULL, NULL, "{\"a\":5}", "has another id in vocab.json");
    refuses(v, m, "{\"added_tokens_decoder\":{\"x\":{\"content\":\"q\"}}}", NULL, NULL, "\"x\" is not an id");
    char deep[4001] = "";
    memset(deep, '[', sizeof deep - 1);
    refuses(deep, m, NULL, NULL, NULL, "not valid JSON");
    assert_int_equal(clip_bpe_open(&b, TINY "/nowhere", &e), -1);
    assert_non_null(strstr(e.msg, "nowhere/vocab.json: missing"));
}

static void refuses_bad_text(void **state)
{
    (void)state;
    static const struct {
        const char *text, *say;
    } bad[] = {{"ab\xff", "byte 2 (0xff)"},   {"\xc3", "byte 0 (0xc3)"},         {"x\xed\xa0\x80", "byte 1 (0xed)"},
               {"\xc0\x80", "byte 0 (0xc0)"}, {"!a!\xf4\x90\x80\x80", "byte 3"}, {"\xe2\x82", "byte 0"}};
    struct clip_bpe *b;
    struct token_list t;
    struct dl_err e = {0};
    assert_int_equal(open_with(&b, TINY, NULL, SPECIAL_MAP("!"), NULL, &e), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int mode = 0; mode < 2; mode++) {
            memset(&e, 0, sizeof e);
            assert_int_equal(clip_bpe_run(b, bad[i].text, strlen(bad[i].text), mode, 0, &t, &e), -1);
            assert_int_equal(e.code, DL_EUSAGE);
            assert_non_null(strstr(e.msg, bad[i].say));
            assert_null(t.ids);
        }
    char *big = calloc(1, TEXT_MAX_BYTES + 1);
    assert_non_null(big);
    memset(&e, 0, sizeof e);
    assert_int_equal(clip_bpe_run(b, big, TEXT_MAX_BYTES + 1, TEXT_HF5, 0, &t, &e), -1);
    assert_non_null(strstr(e.msg, "at most 1000000"));
    free(big);
    clip_bpe_close(b);
}

static void long_texts_take_linear_time(void **state)
{
    (void)state;
    static const char *const part[] = {
        "a",  "aaaa ", "!", "the cat ", "\xcc\xa3\xcc\x81", "e\xcc\x81", "\xce\xa3.", "&amp;", "\n",
        "<|", "'s",    " ", EOS,        "\x1b[1;",          "&#38;",     "&"};
    struct clip_bpe *b;
    struct dl_err e = {0};
    assert_int_equal(open_with(&b, TINY, NULL, SPECIAL_MAP("!"), NULL, &e), 0);
    size_t bytes = 100000;
    char *s = malloc(bytes + 64);
    assert_non_null(s);
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        for (int mode = 0; mode < 2; mode++) {
            struct token_list t;
            size_t n = 0;
            for (; n < bytes; n += strlen(part[i])) strcpy(s + n, part[i]);
            clock_t start = clock();
            assert_int_equal(clip_bpe_run(b, s, n, mode, 0, &t, &e), 0);
            double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
            if (seconds > 1) print_error("%zu bytes of \"%s\": %.2f s\n", n, part[i], seconds);
            assert_true(seconds < 10); /* milliseconds; quadratic behaviour takes minutes under the sanitizers */
            token_list_free(&t);
        }
    /* entities in entities: a bounded amount of work, then an error */
    size_t n = 1;
    strcpy(s, "&");
    for (; n < bytes; n += 4) strcpy(s + n, "amp;");
    struct token_list t;
    assert_int_equal(clip_bpe_run(b, s, n, TEXT_HF4, 0, &t, &e), -1);
    assert_non_null(strstr(e.msg, "too deeply"));
    clip_bpe_close(b);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_transformers),
        cmocka_unit_test(tiny_equals_transformers),
        cmocka_unit_test(lists_pieces_and_truncation),
        cmocka_unit_test(reads_added_tokens),
        cmocka_unit_test(reads_published_configs),
        cmocka_unit_test(refuses_bad_files),
        cmocka_unit_test(refuses_bad_text),
        cmocka_unit_test(long_texts_take_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
