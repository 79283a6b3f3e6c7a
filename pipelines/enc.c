#include "pipelines/enc.h"

#include <stdlib.h>
#include <string.h>

int enc_work_bind(struct enc_work *w, struct pipe *p, struct dl_run *r, int64_t bytes, struct dl_err *e)
{
    if (bytes > w->bytes) {
        enc_work_free(w, p);
        if (p->be->alloc(p->ctx, bytes, &w->p, e) < 0) return -1;
        w->bytes = bytes;
    }
    dl_run_bind(r, w->p, w->bytes);
    r->tap = p->tap, r->tap_user = p->tap_user;
    return 0;
}

void enc_work_free(struct enc_work *w, struct pipe *p)
{
    if (w->p) p->be->free(p->ctx, w->p);
    *w = (struct enc_work){0};
}

int enc_check_vocab(const struct pipe *p, const char *tokenizer, int tokens, int vocab, struct dl_err *e)
{
    if (tokens <= vocab) return 0;
    return dl_fail(e, DL_EINPUT, "%s/%s: %d tokens, the text encoder has embeddings for %d", p->dir.path, tokenizer,
                   tokens, vocab);
}

int enc_describe(struct text_states *st, const struct pipe_encoder *encoder, struct token_list *t, int told,
                 struct dl_err *e)
{
    *st = (struct text_states){.encoder = encoder->folder,
                               .blocks = encoder->blocks,
                               .tokens = encoder->tokens,
                               .width = encoder->width,
                               .ids = t->ids,
                               .eos = t->eos,
                               .truncated = t->truncated};
    t->ids = NULL, t->truncated = NULL; /* now the states' */
    token_list_free(t);
    int64_t bytes = (int64_t)st->tokens * st->width * (int64_t)sizeof(float);
    st->mask = calloc((size_t)st->tokens, 1);
    st->hidden = malloc((size_t)(bytes * (st->blocks + 1)));
    st->final = malloc((size_t)bytes);
    if (!st->mask || !st->hidden || !st->final)
        return dl_fail(e, DL_ENOMEM, "no memory for hidden states of %lld bytes",
                       (long long)(bytes * (st->blocks + 2)));
    memset(st->mask, 1, (size_t)told);
    return 0;
}
