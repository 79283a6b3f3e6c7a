/* clip_vocab.h: inside of struct clip_bpe, between clip_vocab.c (which reads the files) and clip_bpe.c (which runs). */
#ifndef DL_CLIP_VOCAB_H
#define DL_CLIP_VOCAB_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "loaders/clip_bpe.h"

enum { CLIP_MAX_LEN = 65536, CLIP_HF4_MERGES = 49152 - 256 - 2 };

/* A special token as it is looked for in a text. */
struct clip_mark {
    char *text; /* [bytes] owned */
    size_t bytes;
    int32_t id;
};

/* Special tokens sorted by first byte, then the longest first; those with first byte b are first[b]..first[b+1]-1. */
struct clip_marks {
    struct clip_mark *mark; /* [n] */
    int n;
    int first[257];
};

struct clip_merge {
    int32_t left, right, made; /* ids */
    int32_t rank;              /* place in merges.txt: smaller merges first */
};

struct clip_bpe {
    char **piece; /* [n_pieces] by id; added tokens behind the vocabulary's */
    int n_pieces;
    int n_vocab;         /* ids below it are vocab.json's */
    int32_t *piece_slot; /* [piece_mask + 1] id or -1: open addressing by the hash of the piece; vocab.json's only */
    uint32_t piece_mask;
    struct clip_merge *merge; /* [n_merges] in the order of the file */
    int n_merges;
    int32_t *merge_slot; /* [merge_mask + 1] index in merge or -1 */
    uint32_t merge_mask;
    int32_t byte_id[2][256]; /* id of a byte's letter, [1] with "</w>"; -1 when the vocabulary lacks it */
    bool *special;           /* [n_pieces] spelled literally: special and added tokens */
    struct clip_marks raw;   /* all of them, as written: hf4 */
    struct clip_marks raw5;  /* hf5: those looked for in the raw text */
    struct clip_marks clean; /* hf5: those looked for in the cleaned text, cleaned themselves */
    int32_t typed[2];        /* hf4: ids of "<|startoftext|>", "<|endoftext|>" where the word splitter finds them */
    int32_t bos, eos, pad, unk;
    int max_length;
    pcre2_code *words[2]; /* by enum text_mode */
};

/* Letter for a byte, as GPT-2 defined it: printable Latin-1 stands for itself, the others follow from U+0100 on. */
int32_t clip_letter(int byte);

/* The id of a piece of vocab.json, or -1. */
int32_t clip_find_piece(const struct clip_bpe *b, const char *s, size_t bytes);

/* The merge of two neighbours, or NULL. */
const struct clip_merge *clip_find_merge(const struct clip_bpe *b, int32_t left, int32_t right);

#endif
