/* enc.h: what the text encoders of product models (enc_clip.h, enc_t5.h) have in common. */
#ifndef DL_ENC_H
#define DL_ENC_H

#include "pipelines/net.h"

/* Memory of one encoder's runs. */
struct enc_work {
    void *p;
    int64_t bytes;
};

/* Binds a run to `bytes` of it, of which there may have been fewer, and to the pipe's listener. */
int enc_work_bind(struct enc_work *w, struct pipe *p, struct dl_run *r, int64_t bytes, struct dl_err *e);
void enc_work_free(struct enc_work *w, struct pipe *p);

/* Fails where a tokenizer knows more tokens than its encoder (`vocab`). */
int enc_check_vocab(const struct pipe *p, const char *tokenizer, int tokens, int vocab, struct dl_err *e);

/* Everything about a text but what its encoder computes, for which there is memory then; the encoder is told to look at
 * the first `told` positions. What is kept of t is the states', the rest is freed. The caller closes st also after a
 * failure. */
int enc_describe(struct text_states *st, const struct pipe_encoder *encoder, struct token_list *t, int told,
                 struct dl_err *e);

/* State k, host [tokens][width]. */
static inline float *enc_state(const struct text_states *st, int k)
{
    return st->hidden + (int64_t)k * st->tokens * st->width;
}

#endif
