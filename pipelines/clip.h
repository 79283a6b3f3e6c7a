/* clip.h: the CLIP text encoder (Radford et al. 2021; transformers' CLIPTextModel and CLIPTextModelWithProjection).
 *
 * Token + position embeddings, then pre-norm blocks with causal attention; padding is attended like any token. A hidden
 * state is the stream *between* blocks: state 0 is the embeddings, state k the output of block k - 1, none of them
 * normalised. clip_final applies the final layer norm to any of them, exactly once.
 *
 * The pooled vector is the row of the first end token of a normalised last state, under text_projection where the model
 * has one (CLIPTextModelWithProjection's text_embeds; else CLIPTextModel's pooler_output).
 */
#ifndef DL_CLIP_H
#define DL_CLIP_H

#include "engine/run.h"
#include "loaders/bind.h"

struct clip_config {
    int width, ff, layers, heads, positions, vocab;
    enum dl_fn fn; /* quick_gelu (CLIP-L) or gelu (OpenCLIP) */
    float eps;
    int projection; /* width of text_projection; 0: the model has none */
};

struct clip_block {
    struct dl_w ln1_g, ln1_b, qkv, qkv_b, out, out_b; /* qkv: q, k, v stacked, [3 width, width] */
    struct dl_w ln2_g, ln2_b, fc1, fc1_b, fc2, fc2_b;
};

struct clip {
    struct clip_config cfg;
    struct dl_w tokens, positions;
    struct clip_block *block; /* [layers], owned */
    struct dl_w ln_g, ln_b;
    struct dl_w projection; /* [projection, width] where cfg.projection */
    struct dl_wset weights;
};

/* Reads text_encoder/config.json at `path`. Anything that this code does not compute is an error that names the key. */
int clip_config_read(struct clip_config *c, const char *path, struct dl_err *e);

/* Allocates the blocks and binds (or lists) every tensor; names with or without the "text_model." level. */
int clip_bind(struct clip *m, const struct clip_config *c, struct bind *b, struct dl_err *e);
void clip_close(struct clip *m);

/* Hidden states 0..upto (at most `layers`) in one pass. ids: host [n][tokens], tokens <= positions. states:
 * [(upto + 1) * n][1][tokens][width], state k of row i is row k * n + i. */
void clip_run(struct dl_run *r, struct clip *m, const int32_t *ids, int n, int upto, dl_act states);

/* y = final layer norm of x, both [n][1][tokens][width]; y may be x. */
void clip_final(struct dl_run *r, struct clip *m, dl_act x, dl_act y);

/* What becomes of a state that takes the place of block N - 2's output: final = final norm(block N-1(state)), both
 * [n][1][tokens][width]. final may not be state. */
void clip_finish(struct dl_run *r, struct clip *m, dl_act state, dl_act final);

int clip_pooled_width(const struct clip_config *c);

/* pooled [n][1][1][clip_pooled_width] from normalised last states `final` [n][1][tokens][width]; eos: host [n], the
 * position of each row's first end token. */
void clip_pooled(struct dl_run *r, struct clip *m, dl_act final, const int32_t *eos, dl_act pooled);

#endif
