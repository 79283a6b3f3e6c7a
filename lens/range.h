/* range.h: which layers a user asked for.
 *
 * A selection is a list of items with commas between them; blanks around an item are skipped. An item is
 *
 *     5            one layer
 *     -1           counted from the end, as Python indexes: the last one
 *     1:13 0:24:4  Python's start:stop:step, stop not included; each may be left out (`1:`, `:5`, `::2`, `12::-1`),
 *                  a negative start or stop counts from the end
 *     all          every one, from the first
 *     last         the last one
 *
 * With --layers the numbers are k, the position in Hugging Face's hidden_states: 0 (token + position embeddings) to N,
 * the number of blocks. With --blocks they are blocks 0..N-1, and block b is k = b + 1. The result is always k.
 *
 * The order given is kept and a layer named twice is taken once. A layer that does not exist is an error, also inside
 * a range (Python's slices would leave it out silently), and so is a selection of nothing.
 */
#ifndef LENS_RANGE_H
#define LENS_RANGE_H

#include "engine/err.h"

#include <stdbool.h>

enum range_unit { RANGE_LAYERS, RANGE_BLOCKS };

struct range {
    int *k; /* [n] layers, each in 0..N, in the order given; owned */
    int n;
};

/* `n_blocks` is N, at least 1. Failure is DL_EUSAGE, names the option, the item and what the model has, and leaves *r
 * empty. */
int range_parse(struct range *r, const char *text, enum range_unit unit, int n_blocks, struct dl_err *e);

/* The same for a part of something that is there already: the pictures of a sweep. */
struct range_of {
    const char *option; /* "--prompts" */
    const char *noun;   /* "prompt" */
    const char *owner;  /* "sweep", as in "this sweep has prompts 0..2" */
    int n;              /* numbers are 0..n-1; at least 1 */
    const bool *has;    /* [n] those that are there, the last one among them; NULL: all. `all` takes these alone */
};
int range_pick(struct range *r, const char *text, const struct range_of *of, struct dl_err *e);
void range_close(struct range *r); /* a zeroed struct is fine */

#endif
