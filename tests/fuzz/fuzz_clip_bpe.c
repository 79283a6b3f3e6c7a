/* Fuzz target of the CLIP tokenizer. The first byte chooses what the rest is.
 * Even: five files (vocab.json, merges.txt, tokenizer_config.json, special_tokens_map.json, added_tokens.json)
 * separated by 0xff bytes, empty ones being absent; a tokenizer that they make then runs on a fixed text. Odd: a text
 * for a small built-in vocabulary, whose pad token is "!". Seeds: tests/fuzz/corpus/clip_bpe. What must hold: no crash;
 * ids in range; lists of the right length. */
#include "loaders/clip_bpe.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void run_both(const struct clip_bpe *b, const char *text, size_t bytes)
{
    for (int mode = 0; mode < 2; mode++) {
        struct token_list t;
        struct dl_err e = {0};
        if (clip_bpe_run(b, text, bytes, mode ? TEXT_HF4 : TEXT_HF5, 16, &t, &e) < 0) {
            if (!e.code || !e.msg[0] || t.ids) abort();
            continue;
        }
        if (t.n_ids != 16 || t.n_pieces < 2 || t.n_pieces > 16 || t.ids[t.eos] != clip_bpe_eos_id(b)) abort();
        for (int i = 0; i < t.n_ids; i++)
            if (t.ids[i] < 0 || t.ids[i] >= clip_bpe_vocab_size(b)) abort();
        token_list_free(&t);
    }
}

static struct clip_bpe *small_tokenizer(void)
{
    static char vocab[8192];
    static const char merges[] = "#version: 0.2\na n\nan d</w>\nc a\nca t</w>\n! !</w>\n";
    size_t n = 1;
    int id = 0;
    strcpy(vocab, "{");
    for (int c = 0x21; c < 0x7f; c++)
        for (int end = 0; end < 2; end++)
            n += (size_t)sprintf(vocab + n, "\"%s%c%s\":%d,", c == '"' || c == '\\' ? "\\" : "", c, end ? "</w>" : "",
                                 id++);
    n += (size_t)sprintf(vocab + n, "\"an\":%d,\"and</w>\":%d,\"ca\":%d,\"cat</w>\":%d,\"!!</w>\":%d,", id, id + 1,
                         id + 2, id + 3, id + 4);
    n += (size_t)sprintf(vocab + n, "\"<|startoftext|>\":%d,\"<|endoftext|>\":%d}", id + 5, id + 6);
    static const char special[] =
        "{\"pad_token\":\"!\",\"eos_token\":{\"content\":\"<|endoftext|>\",\"normalized\":true}}";
    struct clip_files f = {0};
    f.file[CLIP_VOCAB].text = vocab;
    f.file[CLIP_VOCAB].bytes = n;
    f.file[CLIP_MERGES].text = merges;
    f.file[CLIP_MERGES].bytes = sizeof merges - 1;
    f.file[CLIP_SPECIAL].text = special;
    f.file[CLIP_SPECIAL].bytes = sizeof special - 1;
    struct clip_bpe *b;
    if (clip_bpe_parse(&b, &f, "built-in", NULL) < 0) abort();
    return b;
}

static void parse_files(const char *data, size_t size)
{
    static const char text[] = "the cat's <|endoftext|> AND an!! &amp; \xc3\xa9 <Toy>";
    struct clip_files f = {0};
    char *copy[CLIP_NFILES] = {0};
    for (int k = 0; k < CLIP_NFILES && size; k++) {
        const char *stop = k < CLIP_NFILES - 1 ? memchr(data, 0xff, size) : NULL;
        size_t n = stop ? (size_t)(stop - data) : size;
        if (n) { /* a copy of its own, so that reading past the end shows */
            copy[k] = malloc(n);
            if (!copy[k]) abort();
            memcpy(copy[k], data, n);
            f.file[k].text = copy[k];
            f.file[k].bytes = n;
        }
        data += n + (stop != NULL);
        size -= n + (stop != NULL);
    }
    struct clip_bpe *b;
    struct dl_err e = {0};
    if (clip_bpe_parse(&b, &f, "fuzz", &e) == 0) {
        run_both(b, text, sizeof text - 1);
        clip_bpe_close(b);
    } else if (b || !e.code || strchr(e.msg, '\n')) {
        abort();
    }
    for (int k = 0; k < CLIP_NFILES; k++) free(copy[k]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct clip_bpe *small;
    if (size == 0) return 0;
    if (data[0] & 1) {
        if (!small) small = small_tokenizer();
        run_both(small, (const char *)data + 1, size - 1);
    } else {
        parse_files((const char *)data + 1, size - 1);
    }
    return 0;
}
