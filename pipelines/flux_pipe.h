/* flux_pipe.h: FLUX.1 schnell and dev as a product model (diffusers' pipeline_flux.py): T5 for the text, CLIP for a
 * pooled vector, the transformer, a VAE of 16 channels.
 *
 * The lens looks through T5 by default; CLIP's pooled vector (the final norm of its last state at the end token) then
 * comes from the empty prompt, or the prompt. Looked through CLIP, the pooled vector is the norm of state k at the end
 * token, and T5 gets the empty prompt, or the prompt. T5 pads to 512 tokens, and padding is attended to, there and in
 * the transformer; --max-tokens gives less (256 in schnell's model card; diffusers takes 512 with either
 * model, and no more).
 *
 * dev takes its guidance as an input; schnell has none, and is asked for guidance 0. Neither has negative prompts.
 *
 * The modulation rows of all steps depend on the pooled vector. Where one serves all conditions (pipe_gen.one_pooled)
 * the table has one row a step; otherwise one for each condition. They are computed when a group brings other pooled
 * vectors than the one before, with weights that are then let go.
 */
#ifndef DL_FLUX_PIPE_H
#define DL_FLUX_PIPE_H

#include "pipelines/denoise.h"
#include "pipelines/enc_clip.h"
#include "pipelines/enc_t5.h"
#include "pipelines/flux.h"

enum { FLUX_TOKENS = 512 /* of T5, and at most */ };

struct flux_pipe {
    struct enc_clip clip;
    struct enc_t5 t5;
    struct text_states empty[PIPE_ENCODERS]; /* of "", once they were needed */
    struct dn dn;
    struct flux_config cfg;
    struct flux flux;
    struct net net;
    float *times, guide; /* [steps], what the sinusoids take; host */
    float *pooled;       /* [table_rows][pooled_c] of which the table is, or is to be; host */
    int table_rows;
    bool table_ready;
    /* inside dn.keep: */
    dl_act text; /* embedded, [conds][1][tokens][width] */
    float *table, *rope;
};

extern const struct pipe_class flux_class;

#endif
