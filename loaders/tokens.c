#include "loaders/tokens.h"

#include <stdlib.h>
#include <string.h>

void token_list_free(struct token_list *t)
{
    for (int i = 0; i < t->n_pieces; i++) free(t->pieces[i]);
    free(t->pieces);
    free(t->ids);
    free(t->truncated);
    memset(t, 0, sizeof *t);
}
