/* t5.h: the encoder of T5 v1.1 (Raffel et al. 2020; Shazeer 2020 for its gated GELU; transformers' T5EncoderModel), as
 * DeepFloyd IF and FLUX use its XXL size.
 *
 * Token embeddings, then pre-norm blocks of attention with a relative position bias (one table, in block 0, for all)
 * and a gated GELU. RMS norms, no biases, no positions, and attention scores that are not scaled. A hidden state is the
 * stream *between* blocks: state 0 is the embeddings, state k the output of block k - 1, none of them normalised, the
 * last neither (transformers' last hidden state is). t5_final applies the final norm to any of them, exactly once.
 *
 * Types. States are f32 whatever the run's type: XXL's grow beyond what f16 holds (65504), and in bf16 each block's
 * addition to such a sum would be rounded away; f32 costs 40 KB a token. Norms read f32 and write the run's type, in
 * which the products are (bf16: weights as published, sums in f32); they bring the values back to order, so that what a
 * block computes inside is safe in bf16. In f16 it is not, the gated product overflows: t5_run refuses it.
 *
 * Stages for engine/stream.h: 0 the embeddings and the bias table, 1 + i block i. The final norm belongs to none.
 */
#ifndef DL_T5_H
#define DL_T5_H

#include "engine/stream.h"
#include "loaders/bind.h"

struct t5_config {
    int width, ff, layers, heads, head_dim, vocab; /* heads * head_dim need not be the width */
    int buckets, max_distance;                     /* of the position bias, both directions together */
    float eps;
};

struct t5_block {
    struct dl_w ln1, qkv, out;   /* qkv: q, k, v stacked, [3 heads head_dim, width] */
    struct dl_w ln2, wi, ff_out; /* wi: linear half (wi_1), then the gate's (wi_0), [2 ff, width] */
};

struct t5 {
    struct t5_config cfg;
    struct dl_w tokens, bias; /* [vocab, width], [buckets, heads] */
    struct t5_block *block;   /* [layers], owned */
    struct dl_w ln;
    struct dl_wset weights;
};

/* Reads text_encoder/config.json at `path`. Anything that this code does not compute (T5 1.0's plain ReLU, UMT5, a CLIP
 * encoder, ...) is an error that names the key. */
int t5_config_read(struct t5_config *c, const char *path, struct dl_err *e);

/* Allocates the blocks and binds (or lists) every tensor. The embedding is shared.weight; its copy
 * encoder.embed_tokens.weight may be there too, or stand for it. */
int t5_bind(struct t5 *m, const struct t5_config *c, struct bind *b, struct dl_err *e);
void t5_close(struct t5 *m);

/* Stages that a pass up to state `upto` goes through: [0, t5_stages(upto)). */
int t5_stages(int upto);

/* Hidden states 0..upto (at most `layers`) in one pass. ids: host [n][tokens]. mask: host [n][tokens], 0 where no token
 * is to be attended to (IF's padding), or NULL (FLUX); each row needs a 1. states: f32 [(upto + 1) *
 * n][1][tokens][width], state k of row i is row k * n + i. */
void t5_run(struct dl_run *r, struct t5 *m, const int32_t *ids, const uint8_t *mask, int n, int upto, dl_act states);

/* y = final RMS norm of x, both [n][1][tokens][width]; y may be x. */
void t5_final(struct dl_run *r, struct t5 *m, dl_act x, dl_act y);

#endif
