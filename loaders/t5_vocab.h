/* t5_vocab.h: inside of struct t5_tokens, between t5_vocab.c (which reads the files) and t5_tokens.c (which runs). */
#ifndef DL_T5_VOCAB_H
#define DL_T5_VOCAB_H

#include "loaders/t5_tokens.h"

#include <stdbool.h>
#include <stdint.h>

enum { T5_MAX_LEN = 65536, T5_MAX_PIECE_BYTES = 256 };

struct t5_tokens {
    char **piece;   /* [n_pieces] by id, UTF-8; the extra ids behind the file's */
    double *score;  /* [n_pieces] */
    int32_t *order; /* [n_pieces] ids sorted by the bytes of the piece */
    int first[257]; /* pieces with first byte b are order[first[b]]..order[first[b + 1] - 1] */
    int n_pieces;
    int n_extra;      /* "<extra_id_i>", i < n_extra, has id n_pieces - 1 - i */
    double unk_score; /* of a character without a piece */
    int max_length;
    uint32_t *trie; /* [n_trie] the character map's double array; NULL: no map */
    size_t n_trie;
    char *norm; /* [n_norm + 1] what it maps to: strings that end with 0 */
    size_t n_norm;
};

/* Looks up the shortest entry of the character map that begins s[n]; NULL when there is none. */
const char *t5_map_find(const struct t5_tokens *t, const char *s, size_t n);

#endif
