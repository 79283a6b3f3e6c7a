/* dn_stream.h: the denoiser's weights in the denoising phase: loaded once, or streamed block by block
 * (engine/stream.h), and those that serve conditions alone, which are streamed in any case. Parts of denoise.c. */
#ifndef DL_DN_STREAM_H
#define DL_DN_STREAM_H

#include "pipelines/denoise.h"

/* Decides between loading and streaming, after the dry runs: dn->plan.streamed and .denoiser_bytes. `room`: bytes that
 * weights may take. */
void dn_plan_weights(struct pipe *p, int64_t room);
/* Whether this model's weights can be streamed. */
bool dn_can_stream(struct pipe *p);

/* Loads the weights that a dry run asked for, or opens the stream; again after a dry run that may have asked for more.
 */
int dn_load_weights(struct pipe *p, struct dl_err *e);

/* Around the steps of a batch. */
int dn_steps_begin(struct pipe *p, struct dl_err *e);
void dn_steps_end(struct pipe *p);

/* Around the program `conditions`, after a dry run of it, where it needs net->prep. */
int dn_prep_begin(struct pipe *p, struct dl_err *e);
void dn_prep_end(struct pipe *p);

#endif
