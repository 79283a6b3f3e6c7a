/* snapshot.h: hidden states as files, so that they can be looked at, edited or come from elsewhere.
 *
 * A safetensors file that numpy reads and writes. For prompt 0 and each encoder folder E:
 *   p000.E.input_ids      i64 [tokens]
 *   p000.E.attention_mask i64 [tokens]
 *   p000.E.hidden_states  f32 [N + 1][tokens][dim], k = 0..N, before the final norm
 *   p000.E.final          f32 [tokens][dim], the last state under the final norm
 * and the same under negative.E.* for the negative prompt (p000.negative.E.* where prompts have different ones).
 * "__metadata__" has "dlens" (JSON: version, model, text mode) and "prompts" (JSON: [{"prompt": ..., "negative": ...,
 * "seed": ...}, ...]; a seed only where the prompt came with one of its own, a string of digits above 2^53).
 *
 * Reading needs hidden_states only (f32, f16 or bf16), and the negative's when guidance is on; what else is there is
 * checked where it is used. Prompts are p000, p001, ... without gaps.
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
const char *snapshot_negative(const struct snapshot *s, int i); /* likewise */

/* The seed that prompt i came with; false when there is none. */
bool snapshot_seed(const struct snapshot *s, int i, uint64_t *seed);

/* Conditions of all prompts at the layers k [n_layers]; negatives too when `guided`. Shapes must be the model's. */
int snapshot_conds(const struct snapshot *s, struct pipe *p, const struct lens_prompt *prompt, const int *k,
                   int n_layers, bool norm, bool guided, struct lens_conds *c, struct dl_err *e);

#endif
