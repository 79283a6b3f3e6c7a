/* snapshot.h: hidden states as files, so that they can be looked at, edited or come from elsewhere.
 *
 * A safetensors file that numpy reads and writes. For prompt 0 and each encoder folder E:
 *   p000.E.input_ids      i64 [tokens]
 *   p000.E.attention_mask i64 [tokens]
 *   p000.E.hidden_states  f32 [N + 1][tokens][dim], k = 0..N, before the final norm
 *   p000.E.final          f32 [tokens][dim], the last state under the final norm
 *   p000.E.pooled         f32 [dim], where the product model uses the encoder's pooled vector; p000.E.pooled_empty
 *                         that of the empty text, where --pooled empty may ask for it
 * and the same under negative.E.* for the negative prompt (p000.negative.E.* where prompts have different ones).
 * "__metadata__" has "dlens" (JSON: version, model, text mode) and "prompts" (JSON: [{"prompt": ..., "negative": ...,
 * "seed": ...}, ...]; a seed only where the prompt came with one of its own, a string of digits above 2^53).
 *
 * A negative that is no text but zeros (SDXL without a negative prompt) is not in the file. The encoder that is not
 * studied is there with what it was fed.
 *
 * Reading needs hidden_states only (f32, f16 or bf16), and the negative's when guidance is on; of an encoder with a
 * pooled vector also input_ids, and the pooled vectors where they are used. Prompts are p000, p001, ... without gaps.
 */
#ifndef LENS_SNAPSHOT_H
#define LENS_SNAPSHOT_H

#include "lens/lens.h"

struct snapshot_writer;

/* Opens a file for all prompts and the negatives of c, which must then come through snapshot_add in the order of
 * lens_encode. model: JSON text for "dlens". */
int snapshot_create(struct snapshot_writer **w, const char *path, const struct pipe *p,
                    const struct lens_prompt *prompt, const struct lens_conds *c, const char *model, struct dl_err *e);
/* Signature of lens_text.seen, with the writer as `user`. */
int snapshot_add(void *w, int i, const char *text, const struct text_states st[PIPE_ENCODERS], struct dl_err *e);
int snapshot_finish(struct snapshot_writer *w, struct dl_err *e); /* frees; the file appears now */
void snapshot_drop(struct snapshot_writer *w);                    /* gives up; NULL is fine */

struct snapshot;

int snapshot_open(struct snapshot **s, const char *path, struct dl_err *e);
void snapshot_close(struct snapshot *s); /* NULL is fine */
int snapshot_prompts(const struct snapshot *s);
const char *snapshot_text(const struct snapshot *s, int i);     /* "" when the file does not say */
const char *snapshot_negative(const struct snapshot *s, int i); /* NULL when there was none */

/* The seed that prompt i came with; false when there is none. */
bool snapshot_seed(const struct snapshot *s, int i, uint64_t *seed);

/* Conditions of the job's prompts [first, first + n) at its layers through its lens; negatives too where its guidance
 * asks for them. Shapes must be the model's. */
int snapshot_conds(const struct snapshot *s, struct pipe *p, const struct lens_job *job, int first, int n,
                   struct lens_conds *c, struct dl_err *e);

#endif
