/* if.h: DeepFloyd IF (diffusers' pipeline_if.py, pipeline_if_superresolution.py): a T5 encoder and a UNet on pixels of
 * 64 x 64; stage II, a UNet that enlarges them four times under the same text.
 *
 * Both stages are fed the T5 encoder's states under its final norm, all tokens, padding included. Stage II is an
 * upscaler (pipe.upscales): its pictures also start from a small one, enlarged by bilinear interpolation with aligned
 * corners and mixed with noise of level 250; its own text encoder is not used. Not imitated: safety checker and
 * watermark.
 */
#ifndef DL_IF_H
#define DL_IF_H

#include "pipelines/denoise.h"
#include "pipelines/enc_t5.h"
#include "pipelines/unet_if.h"

enum { IF_TOKENS = 77, IF_NOISE_LEVEL = 250 /* diffusers' default */ };

struct pipe_if {
    struct enc_t5 enc; /* stage I only */
    struct dn dn;
    struct unet_if_config unet_cfg;
    struct unet_if unet;
    struct net unet_net;
    float signal, noise; /* stage II: how the small picture is mixed with noise */
    /* inside dn.keep: */
    void *kv;
    float *emb, *table;
};

extern const struct pipe_class if_class, if2_class;

#endif
