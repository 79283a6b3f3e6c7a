/* sd.h: Stable Diffusion 1.x and 2.x (diffusers' pipeline_stable_diffusion.py): one CLIP encoder, a UNet, a VAE.
 * Latents, guidance and scheduler are f32 whatever the networks' type. */
#ifndef DL_SD_H
#define DL_SD_H

#include "pipelines/denoise.h"
#include "pipelines/enc_clip.h"
#include "pipelines/unet.h"

struct sd {
    struct enc_clip enc;
    struct dn dn;
    struct unet_config unet_cfg;
    struct unet unet;
    struct net unet_net;
    /* inside dn.keep: */
    void *kv;
    float *steps;
};

extern const struct pipe_class sd_class;

#endif
