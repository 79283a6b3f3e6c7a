/* tokens.h: what a tokenizer hands to a text encoder and to `dlens tokens`. Shared by the CLIP and T5 tokenizers. */
#ifndef DL_TOKENS_H
#define DL_TOKENS_H

#include <stdint.h>

/* Everything in it is owned by the list and freed by token_list_free(). */
struct token_list {
    int32_t *ids; /* [n_ids] with start token, end token and padding: n_ids is the length asked for */
    int n_ids;
    char **pieces;   /* [n_pieces] ids 0..n_pieces-1 as the vocabulary spells them (UTF-8), without the padding */
    int n_pieces;    /* also the number of ids that an attention mask keeps, where the model takes one */
    char *truncated; /* the text that was cut off at the end (UTF-8, as the cut pieces spell it), "" if none */
    int eos;         /* position of the first end token in ids */
};

/* Frees what the list owns and leaves it empty; an all-zero list is fine. */
void token_list_free(struct token_list *t);

#endif
