/* sdxl.h: Stable Diffusion XL (Podell et al. 2024; diffusers' pipeline_stable_diffusion_xl.py): two CLIP encoders, a
 * UNet that is also told a pooled text vector and the picture's sizes, a VAE.
 *
 * Text. The denoiser is fed state N - 1 (the last block but one's output, not normed) of both encoders side by side,
 * and the pooled vector of the second. Seen through the lens, the chosen state of the studied encoder, under its final
 * norm unless that is off, stands in place of its state N - 1. In encoder 2 it does so inside the network: the last
 * block and the pooled vector are computed from it (--pooled lens), or the pooled vector is that of the whole encoder,
 * fed the prompt (full) or "" (empty). With encoder 1 studied, encoder 2 and its pooled vector are those of "" (--other
 * prompt: of the prompt).
 *
 * With both studied, k counts encoder 2's states and encoder 1 is looked through at the same depth (pipe_depth: k = 31
 * of 32 beside 11 of 12); both are fed the prompt.
 *
 * So the ordinary picture is k = N - 1 with the norm off and --other prompt. A negative takes the ordinary encoding;
 * without a negative prompt text and pooled vector are zeros (force_zeros_for_empty_prompt).
 */
#ifndef DL_SDXL_H
#define DL_SDXL_H

#include "pipelines/dn_unet.h"
#include "pipelines/enc_clip.h"

struct sdxl {
    struct enc_clip enc[2];
    float *pooled_empty; /* of "" through encoder 2; NULL until it is asked for */
    struct dn_unet den;
};

extern const struct pipe_class sdxl_class;

#endif
