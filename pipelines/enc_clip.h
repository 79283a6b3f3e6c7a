/* enc_clip.h: one CLIP text encoder with its tokenizer, as a part of a product model's text phase (Stable Diffusion has
 * one, SDXL two, FLUX one).
 *
 * It computes in f32 whatever the denoiser's type: it is a thousandth of the work. States come to the host; the weights
 * are let go before the denoiser loads.
 */
#ifndef DL_ENC_CLIP_H
#define DL_ENC_CLIP_H

#include "pipelines/clip.h"
#include "pipelines/enc.h"

struct enc_clip {
    const char *folder; /* component, "text_encoder" */
    struct clip_config cfg;
    struct clip_bpe *bpe;
    int tokens;
    struct clip clip;
    struct net net;
    struct dl_run run;
    struct enc_work work; /* states [(N + 1)][1][tokens][width] at the arena's low end */
    int64_t plan_bytes;   /* what encoding needs; 0: not measured yet */
};

/* Reads configs and vocabulary of the components `folder` and `tokenizer`, which stay the caller's; no weights. */
int enc_clip_open(struct enc_clip *c, struct pipe *p, const char *folder, const char *tokenizer, struct dl_err *e);
void enc_clip_close(struct enc_clip *c, struct pipe *p);

/* What pipe.h's struct pipe_encoder says of it. */
struct pipe_encoder enc_clip_facts(const struct enc_clip *c);
/* Maps and binds the weights; idempotent. */
int enc_clip_bind(struct enc_clip *c, struct pipe *p, struct dl_err *e);
/* Measures encoding: afterwards c->clip.weights.pack_bytes and c->plan_bytes are its needs. */
int enc_clip_plan(struct enc_clip *c, struct pipe *p, struct dl_err *e);

int enc_clip_tokens(const struct enc_clip *c, const struct pipe *p, const char *text, struct token_list *t,
                    struct dl_err *e);
/* All states of one text; st is overwritten, the caller closes it also after a failure. */
int enc_clip_encode(struct enc_clip *c, struct pipe *p, const char *text, struct text_states *st, struct dl_err *e);
/* out [tokens][width] = final norm of `state`, both host memory. Only the norm's weights are loaded. */
int enc_clip_norm(struct enc_clip *c, struct pipe *p, const float *state, float *out, struct dl_err *e);
/* pooled [clip_pooled_width]: what comes of `state` [tokens][width] in place of the last block but one's output,
 * through the last block, final norm, row `eos` and projection. Host memory; only these weights are loaded. */
int enc_clip_pooled(struct enc_clip *c, struct pipe *p, const float *state, int eos, float *pooled, struct dl_err *e);
/* Lets weights and memory go; everything opens again on demand. */
void enc_clip_drop(struct enc_clip *c, struct pipe *p);

#endif
