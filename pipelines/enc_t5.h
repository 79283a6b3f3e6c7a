/* enc_t5.h: one T5 encoder with its tokenizer, as a part of a product model's text phase (DeepFloyd IF has one, FLUX
 * one beside CLIP). The counterpart of enc_clip.h.
 *
 * The XXL size has 9.5 GB of weights for a pass of a second or so. They are either loaded whole or streamed block by
 * block (engine/stream.h), with 1 GB in memory; enc_t5_encode takes several texts, so that prompts and negatives share
 * one pass. States come to the host in f32; the weights are let go before the denoiser loads.
 */
#ifndef DL_ENC_T5_H
#define DL_ENC_T5_H

#include "loaders/t5_tokens.h"
#include "pipelines/enc.h"
#include "pipelines/t5.h"

struct enc_t5 {
    const char *folder; /* component, "text_encoder_2" */
    struct t5_config cfg;
    struct t5_tokens *tok;

    /* To be changed, if at all, after enc_t5_open and before anything is planned. */
    int tokens;                  /* length of every text, padded */
    bool masked;                 /* padding is not attended to (IF; FLUX attends to it) */
    int type;                    /* of products: f32 or bf16 */
    enum pipe_resident resident; /* AUTO: see enc_t5_plan */

    struct t5 t5;
    struct net net;
    struct dl_run run;
    struct dl_stream *stream;
    struct enc_work work; /* states [(N + 1) n][1][tokens][width] of n texts at the arena's low end */

    /* Texts that will come (owned), and those of them whose states are there already. */
    char **ahead;
    int n_ahead, next_ahead;
    struct enc_t5_ready *ready; /* [n_ready] */
    int n_ready;

    /* What planning found. */
    int plan_texts;               /* 0: not planned */
    int64_t plan_bytes;           /* arena for so many texts at once */
    struct dl_stream_sizes sizes; /* of the weights, loaded whole and streamed */
    bool streamed;                /* which of them */
};

/* Reads configs and vocabulary of the components `folder` and `tokenizer`, which stay the caller's; no weights. tokens:
 * length of the texts. The type is f32 for models up to 2 GiB, where it is a small part of the work; beyond that bf16,
 * where the backend computes in it. */
int enc_t5_open(struct enc_t5 *c, struct pipe *p, const char *folder, const char *tokenizer, int tokens, bool masked,
                struct dl_err *e);
void enc_t5_close(struct enc_t5 *c, struct pipe *p);

/* What pipe.h's struct pipe_encoder says of it. */
struct pipe_encoder enc_t5_facts(const struct enc_t5 *c);
/* Maps and binds the weights; idempotent. */
int enc_t5_bind(struct enc_t5 *c, struct pipe *p, struct dl_err *e);
/* Measures the encoding of n texts at once and decides whether weights are streamed: c->plan_bytes, c->sizes. AUTO
 * streams models above 2 GiB: always where the backend computes in the host's memory, for there a streamed pass is no
 * slower than loading; elsewhere when the whole would take more than half of what is free. */
int enc_t5_plan(struct enc_t5 *c, struct pipe *p, int n, struct dl_err *e);
/* Bytes of weights that encoding holds, as planned. */
int64_t enc_t5_weight_bytes(const struct enc_t5 *c);

int enc_t5_tokens(const struct enc_t5 *c, const char *text, struct token_list *t, struct dl_err *e);
/* All states of texts [n] into *st[0], ..., *st[n - 1]: as many texts at once as keeps their states below 1 GiB. They
 * are overwritten; the caller closes them also after a failure. */
int enc_t5_encode(struct enc_t5 *c, struct pipe *p, const char *const *text, int n, struct text_states *const *st,
                  struct dl_err *e);
/* Says what enc_t5_encode_next will be asked for, in order (copied; NULL, 0: nothing more): where weights are streamed,
 * some of them then share a pass. */
int enc_t5_announce(struct enc_t5 *c, const char *const *text, int n, struct dl_err *e);
/* All states of one text, perhaps with some of the announced ones, whose states are kept until they are asked for. */
int enc_t5_encode_next(struct enc_t5 *c, struct pipe *p, const char *text, struct text_states *st, struct dl_err *e);
/* out [tokens][width] = final norm of `state`, both host memory. Only the norm's weights are loaded. */
int enc_t5_norm(struct enc_t5 *c, struct pipe *p, const float *state, float *out, struct dl_err *e);
/* Lets weights and memory go; everything opens again on demand. */
void enc_t5_drop(struct enc_t5 *c, struct pipe *p);

#endif
