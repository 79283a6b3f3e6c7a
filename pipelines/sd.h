/* sd.h: Stable Diffusion 1.x and 2.x (diffusers' pipeline_stable_diffusion.py): one CLIP encoder, a UNet, a VAE.
 * Latents, guidance and scheduler are f32 whatever the networks' type. */
#ifndef DL_SD_H
#define DL_SD_H

#include "pipelines/dn_unet.h"
#include "pipelines/enc_clip.h"

struct sd {
    struct enc_clip enc;
    struct dn_unet den;
};

extern const struct pipe_class sd_class;

#endif
