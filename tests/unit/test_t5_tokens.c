/* The T5 tokenizer against transformers 5.23. The texts are clip_tokens.jsonl's and t5_texts.jsonl's; t5_ids.txt holds
 * the number and a hash of the ids with the real vocabulary (from shared/) and with t5_tiny/, as tools/ref/tokens_t5.py
 * wrote them. */
#include "loaders/t5_tokens.h"

#include "tests/unit/texts.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TINY DATA "t5_tiny"
#define REAL DLENS_SHARED "/tokenizers/t5"
#define MARK "\xe2\x96\x81"

static uint64_t hash_ids(const int32_t *id, int n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 4; k++) h = (h ^ ((uint32_t)id[i] >> (8 * k) & 0xff)) * 0x100000001b3u;
    return h;
}

/* Whether a text gives `n` ids of that hash, then the end token. */
static bool gives(const struct t5_tokens *t, const char *s, size_t bytes, int n, uint64_t hash, const char *what)
{
    struct token_list list;
    struct dl_err e = {0};
    if (t5_tokens_run(t, s, bytes, 65536, &list, &e) < 0) {
        print_error("%s: %s\n", what, e.msg);
        return false;
    }
    bool good = list.n_pieces == n + 1 && list.ids[n] == T5_EOS && hash_ids(list.ids, n) == hash;
    for (int i = n + 1; good && i < list.n_ids; i++) good = list.ids[i] == T5_PAD;
    if (!good) {
        print_error("%s: %d ids, expected %d:", what, list.n_pieces - 1, n);
        for (int i = 0; i < list.n_pieces && i < 30; i++) print_error(" %s", list.pieces[i]);
        print_error("\n");
    }
    token_list_free(&list);
    return good;
}

struct runs {
    const struct t5_tokens *t;
    FILE *ids;
    int column, count, wrong;
};

static void run_text(void *user, const char *text, size_t bytes, const json_t *line, const char *where)
{
    struct runs *r = user;
    int want[2];
    uint64_t hash[2];
    (void)line;
    assert_int_equal(fscanf(r->ids, "%d %" SCNx64 " %d %" SCNx64, &want[0], &hash[0], &want[1], &hash[1]), 4);
    r->wrong += !gives(r->t, text, bytes, want[r->column], hash[r->column], where);
    r->count++;
}

/* Compares all texts; column 0 of t5_ids.txt is the real vocabulary's, 1 the small one's. Returns how many. */
static int run_texts(const struct t5_tokens *t, int column, int *wrong)
{
    struct runs r = {.t = t, .column = column, .ids = fopen(DATA "t5_ids.txt", "r")};
    char rest[2];
    assert_non_null(r.ids);
    texts_each("clip_tokens.jsonl", run_text, &r);
    texts_each("t5_texts.jsonl", run_text, &r);
    assert_int_not_equal(fscanf(r.ids, "%1s", rest), 1);
    fclose(r.ids);
    *wrong += r.wrong;
    return r.count;
}

static void equals_transformers(void **state)
{
    (void)state;
    struct t5_tokens *t;
    struct dl_err e = {0};
    int wrong = 0;
    if (access(REAL "/spiece.model", R_OK) != 0) {
        print_message("T5's vocabulary is not in " REAL ": comparison with transformers skipped\n");
        skip();
    }
    assert_int_equal(t5_tokens_open(&t, REAL, &e), 0);
    assert_int_equal(t5_tokens_vocab_size(t), 32100);
    assert_int_equal(t5_tokens_max_length(t), 512);
    int n = run_texts(t, 0, &wrong);
    print_message("%d texts compared with transformers, %d differ\n", n, wrong);
    assert_int_equal(wrong, 0);
    assert_true(n >= 8000);
    t5_tokens_close(t);
}

static void tiny_equals_transformers(void **state)
{
    (void)state;
    struct t5_tokens *t;
    struct dl_err e = {0};
    int wrong = 0;
    assert_int_equal(t5_tokens_open(&t, TINY, &e), 0);
    assert_true(run_texts(t, 1, &wrong) >= 8000);
    assert_int_equal(wrong, 0);
    t5_tokens_close(t);
}

/* The configuration files of the published models, with the vocabulary that they share. */
static void reads_published_configs(void **state)
{
    (void)state;
    static const char *const model[] = {"IF-I-M-v1.0/tokenizer",  "IF-I-L-v1.0/tokenizer",
                                        "IF-I-XL-v1.0/tokenizer", "IF-II-L-v1.0/tokenizer",
                                        "FLUX.1-dev/tokenizer_2", "FLUX.1-schnell/tokenizer_2"};
    if (access(REAL "/spiece.model", R_OK) != 0) {
        print_message("T5's vocabulary is not in " REAL ": published configurations skipped\n");
        skip();
    }
    for (size_t i = 0; i < sizeof model / sizeof *model; i++) {
        static const char *const file[] = {"spiece.model", "tokenizer_config.json", "special_tokens_map.json"};
        struct t5_files f = {0};
        struct t5_tokens *t;
        struct dl_err e = {0};
        char path[1024], *data[T5_NFILES];
        for (int k = 0; k < T5_NFILES; k++) {
            if (k == T5_SPIECE)
                snprintf(path, sizeof path, REAL "/spiece.model");
            else
                snprintf(path, sizeof path, DLENS_SHARED "/models/%s/%s", model[i], file[k]);
            data[k] = texts_read(path, &f.file[k].bytes);
            assert_non_null(data[k]);
            f.file[k].data = data[k];
        }
        int rc = t5_tokens_parse(&t, &f, model[i], &e);
        if (rc < 0) print_error("%s\n", e.msg);
        assert_int_equal(rc, 0);
        assert_int_equal(t5_tokens_vocab_size(t), 32100);
        assert_int_equal(t5_tokens_max_length(t), 512);
        t5_tokens_close(t);
        for (int k = 0; k < T5_NFILES; k++) free(data[k]);
    }
}

static void check(const struct t5_tokens *t, const char *text, int max, const char *want, const char *truncated)
{
    struct token_list list;
    struct dl_err e = {0};
    char got[1000] = "";
    assert_int_equal(t5_tokens_run(t, text, strlen(text), max, &list, &e), 0);
    assert_int_equal(list.n_ids, max ? max : 512);
    for (int i = 0; i < list.n_pieces; i++) {
        strcat(got, i ? " " : "");
        strcat(got, list.pieces[i]);
    }
    assert_string_equal(got, want);
    assert_string_equal(list.truncated, truncated);
    for (int i = list.n_pieces; i < list.n_ids; i++) assert_int_equal(list.ids[i], T5_PAD);
    assert_int_equal(list.ids[list.eos], T5_EOS);
    token_list_free(&list);
}

static void lists_pieces_and_truncation(void **state)
{
    (void)state;
    struct t5_tokens *t;
    struct dl_err e = {0};
    struct token_list list;
    assert_int_equal(t5_tokens_open(&t, TINY, &e), 0);
    check(t, "", 0, "</s>", "");
    check(t, "house  cat", 0, MARK "house " MARK "cat </s>", "");
    check(t, "house cat", 3, MARK "house " MARK "cat </s>", "");
    check(t, "house cat of  \xf0\x9f\x90\xb1 dogs</s>cat", 3, MARK "house " MARK "cat </s>",
          "of \xf0\x9f\x90\xb1 dogs</s> cat");
    check(t, "cats\xf0\x9f\x90\xb1\xf0\x9f\x90\xb1s", 3, MARK "cat s </s>", "\xf0\x9f\x90\xb1\xf0\x9f\x90\xb1s");
    check(t, "cat", 1, "</s>", "cat");
    check(t, "<extra_id_0>cat<pad></s>", 0, "<extra_id_0> " MARK "cat <pad> </s> </s>", "");
    assert_int_equal(t5_tokens_run(t, "a</s>b", 6, 0, &list, &e), 0);
    assert_int_equal(list.ids[list.eos], T5_EOS);
    assert_true(list.eos < list.n_pieces - 1);
    token_list_free(&list);
    assert_true(t5_tokens_run(t, "a", 1, -1, &list, &e) < 0);
    assert_int_equal(e.code, DL_EUSAGE);
    e = (struct dl_err){0};
    assert_true(t5_tokens_run(t, "ab\xff", 3, 0, &list, &e) < 0);
    assert_non_null(strstr(e.msg, "byte 2"));
    assert_null(list.ids);
    t5_tokens_close(t);
}

/* Time grows with the text, not with its square. */
static void takes_linear_time(void **state)
{
    (void)state;
    struct t5_tokens *t;
    struct dl_err e = {0};
    assert_int_equal(t5_tokens_open(&t, TINY, &e), 0);
    size_t n = 1000000;
    char *s = malloc(n);
    assert_non_null(s);
    clock_t start = clock();
    for (int k = 0; k < 3; k++) {
        struct token_list list;
        for (size_t i = 0; i < n; i++) s[i] = k == 0 ? 'a' : k == 1 ? '<' : "\xcc\x81"[i % 2]; /* letters, marks */
        assert_int_equal(t5_tokens_run(t, s, n, 77, &list, &e), 0);
        token_list_free(&list);
    }
    assert_true(clock() - start < 20 * CLOCKS_PER_SEC);
    free(s);
    t5_tokens_close(t);
}

/* A small model file, written field by field. */
struct maker {
    char p[4096];
    size_t n;
};

static void put(struct maker *m, const char *s, size_t n)
{
    assert_true(m->n + n <= sizeof m->p);
    memcpy(m->p + m->n, s, n);
    m->n += n;
}

static void put_piece(struct maker *m, const char *s, float score, int type)
{
    struct maker one = {.n = 0};
    char head[2] = {0x0a, (char)strlen(s)};
    put(&one, head, 2);
    put(&one, s, strlen(s));
    put(&one, "\x15", 1);
    put(&one, (char *)&score, 4);
    char tail[2] = {0x18, (char)type};
    put(&one, tail, 2);
    char outer[2] = {0x0a, (char)one.n};
    put(m, outer, 2);
    put(m, one.p, one.n);
}

static struct maker specials(void)
{
    struct maker m = {.n = 0};
    put_piece(&m, "<pad>", 0, 3);
    put_piece(&m, "</s>", 0, 3);
    put_piece(&m, "<unk>", 0, 2);
    put_piece(&m, MARK, -2, 1);
    put_piece(&m, "a", -3, 1);
    return m;
}

static void refuses(const struct maker *m, const char *config, const char *special, const char *say)
{
    struct t5_files f = {0};
    struct t5_tokens *t;
    struct dl_err e = {0};
    char *copy = m ? malloc(m->n + 1) : NULL; /* of its exact size, so that reading behind it shows */
    if (m) memcpy(copy, m->p, m->n), f.file[T5_SPIECE].data = copy, f.file[T5_SPIECE].bytes = m->n;
    if (config) f.file[T5_CONFIG].data = config, f.file[T5_CONFIG].bytes = strlen(config);
    if (special) f.file[T5_SPECIAL].data = special, f.file[T5_SPECIAL].bytes = strlen(special);
    int rc = t5_tokens_parse(&t, &f, "dir", &e);
    free(copy);
    if (!say) {
        if (rc < 0) print_error("%s\n", e.msg);
        assert_int_equal(rc, 0);
        t5_tokens_close(t);
        return;
    }
    assert_int_equal(rc, -1);
    assert_null(t);
    assert_int_equal(e.code, DL_EINPUT);
    if (!strstr(e.msg, say)) print_error("\"%s\" does not say \"%s\"\n", e.msg, say);
    assert_non_null(strstr(e.msg, say));
}

static void refuses_bad_files(void **state)
{
    (void)state;
    struct maker m = specials();
    struct t5_tokens *t;
    struct dl_err e = {0};
    refuses(&m, "{\"extra_ids\":100,\"model_max_length\":77}", "{\"pad_token\":{\"content\":\"<pad>\"}}", NULL);
    refuses(NULL, NULL, NULL, "dir/spiece.model: missing");
    refuses(&m, "{\"extra_ids\":-1}", NULL, "extra_ids");
    refuses(&m, "[]", NULL, "not a JSON object");
    refuses(&m, "{\"eos_token\":\"<eos>\"}", NULL, "dir/tokenizer_config.json: eos_token");
    refuses(&m, NULL, "{\"pad_token\":{\"content\":\"!\"}}", "dir/special_tokens_map.json: pad_token");
    refuses(&m, "{\"additional_special_tokens\":[\"<extra_id_0>\",\"<toy>\"]}", NULL, "<toy>");
    refuses(&m, "{\"added_tokens_decoder\":{\"32100\":{\"content\":\"<toy>\"}}}", NULL, "added_tokens_decoder");

    m.n--;
    refuses(&m, NULL, NULL, "at byte");
    m = (struct maker){.n = 0};
    refuses(&m, NULL, NULL, "piece 0 is missing");
    put_piece(&m, "<unk>", 0, 2);
    refuses(&m, NULL, NULL, "not a T5 vocabulary");
    m = (struct maker){.n = 0};
    put(&m, "version https://git-lfs.github.com/spec/v1\n", 43);
    refuses(&m, NULL, NULL, "git lfs pull");
    m = specials();
    put_piece(&m, "a", -4, 1);
    refuses(&m, NULL, NULL, "\"a\" is there twice");
    m = specials();
    put_piece(&m, "b", 0.0f / 0.0f, 1);
    refuses(&m, NULL, NULL, "no finite score");
    m = specials();
    put_piece(&m, "\xff", -1, 1);
    refuses(&m, NULL, NULL, "not valid UTF-8");
    m = specials();
    put_piece(&m, "<0x00>", 0, 6);
    refuses(&m, NULL, NULL, "a byte piece");
    m = specials();
    put_piece(&m, "", -1, 1);
    refuses(&m, NULL, NULL, "a piece is empty");
    m = specials();
    put(&m, "\x12\x02\x18\x02", 4); /* trainer_spec { model_type: BPE } */
    refuses(&m, NULL, NULL, "not a unigram model");
    m = specials();
    put(&m, "\x1a\x07\x12\x05\x08\x00\x00\x00\x01", 9); /* a map of one byte that says it has eight */
    refuses(&m, NULL, NULL, "impossible size");
    m = specials();
    put(&m, "\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11);
    refuses(&m, NULL, NULL, "at byte");
    m = specials();
    put(&m, "\x0b", 1); /* a group */
    refuses(&m, NULL, NULL, "unknown type");

    assert_true(t5_tokens_open(&t, DATA "clip_tiny", &e) < 0);
    assert_non_null(strstr(e.msg, "clip_tiny/spiece.model: missing"));
    assert_null(t);
}

/* A character map whose double array leads out of its bounds is as good as none. */
static void survives_bad_maps(void **state)
{
    (void)state;
    unsigned seed = 1;
    for (int k = 0; k < 2000; k++) {
        struct maker m = specials();
        char map[64] = {40};
        for (size_t i = 4; i < sizeof map; i++) {
            seed = seed * 1664525u + 1013904223u;
            map[i] = i < 44 ? (char)(seed >> 24) : "a\0bcd\0e"[i % 7];
        }
        put(&m, "\x1a\x42\x12\x40", 4);
        put(&m, map, sizeof map);
        struct t5_files f = {{{m.p, m.n}}};
        struct t5_tokens *t;
        struct token_list list;
        struct dl_err e = {0};
        assert_int_equal(t5_tokens_parse(&t, &f, "dir", &e), 0);
        for (int c = 1; c < 128; c++) {
            char s[3] = {(char)c, (char)(seed >> 25), 0};
            assert_int_equal(t5_tokens_run(t, s, strlen(s), 8, &list, &e), 0);
            token_list_free(&list);
        }
        t5_tokens_close(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_transformers),     cmocka_unit_test(tiny_equals_transformers),
        cmocka_unit_test(reads_published_configs), cmocka_unit_test(lists_pieces_and_truncation),
        cmocka_unit_test(takes_linear_time),       cmocka_unit_test(refuses_bad_files),
        cmocka_unit_test(survives_bad_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
