/* Fuzz target of the T5 tokenizer. The first byte chooses what the rest is. Even: spiece.model, tokenizer_config.json
 * and special_tokens_map.json separated by the four bytes "\n--\n"; a tokenizer that they make then runs on a fixed
 * text. Odd: a text for the small vocabulary of the unit tests. Seeds: tests/fuzz/corpus/t5_tokens. What must hold: no
 * crash; ids in range; lists of the right length. */
#define _GNU_SOURCE /* memmem */
#include "loaders/t5_tokens.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void run(const struct t5_tokens *t, const char *text, size_t bytes)
{
    struct token_list list;
    struct dl_err e = {0};
    if (t5_tokens_run(t, text, bytes, 16, &list, &e) < 0) {
        if (!e.code || !e.msg[0] || list.ids) abort();
        return;
    }
    if (list.n_ids != 16 || list.n_pieces < 1 || list.n_pieces > 16 || list.ids[list.n_pieces - 1] != T5_EOS) abort();
    for (int i = 0; i < list.n_ids; i++)
        if (list.ids[i] < 0 || list.ids[i] >= t5_tokens_vocab_size(t)) abort();
    token_list_free(&list);
}

static void parse_files(const char *data, size_t size)
{
    static const char text[] =
        "the cat's </s> AND an!! \xef\xbc\xa1\xcc\x81 \xc2\xaa\xe2\x80\x8d <extra_id_7>\xe7\x8c\xab";
    struct t5_files f = {0};
    char *copy[T5_NFILES] = {0};
    for (int k = 0; k < T5_NFILES && size; k++) {
        const char *stop = k < T5_NFILES - 1 ? memmem(data, size, "\n--\n", 4) : NULL;
        size_t n = stop ? (size_t)(stop - data) : size;
        if (n || k == 0) { /* a copy of its own, so that reading past the end shows */
            copy[k] = malloc(n ? n : 1);
            if (!copy[k]) abort();
            memcpy(copy[k], data, n);
            f.file[k].data = copy[k];
            f.file[k].bytes = n;
        }
        data += n + (stop ? 4 : 0);
        size -= n + (stop ? 4 : 0);
    }
    struct t5_tokens *t;
    struct dl_err e = {0};
    if (t5_tokens_parse(&t, &f, "fuzz", &e) == 0) {
        run(t, text, sizeof text - 1);
        t5_tokens_close(t);
    } else if (t || !e.code || strchr(e.msg, '\n')) {
        abort();
    }
    for (int k = 0; k < T5_NFILES; k++) free(copy[k]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct t5_tokens *small;
    if (size == 0) return 0;
    if (data[0] & 1) {
        if (!small && t5_tokens_open(&small, DLENS_SOURCE_DIR "/tests/unit/data/t5_tiny", NULL) < 0) abort();
        run(small, (const char *)data + 1, size - 1);
    } else {
        parse_files((const char *)data + 1, size - 1);
    }
    return 0;
}
