/* dn_unet.h: the UNet of Stable Diffusion (unet.h) with a VAE as the denoising phase of a product model: SD 1.x
 * and 2.x, and SDXL, whose UNet is also told a pooled text vector and the picture's sizes.
 *
 * A struct dn_unet stands in the model's state, and p->dn is its first member, by which the functions of dn_unet_net
 * find it.
 */
#ifndef DL_DN_UNET_H
#define DL_DN_UNET_H

#include "pipelines/denoise.h"
#include "pipelines/unet.h"

struct dn_unet {
    struct dn dn;
    struct unet_config cfg;
    struct unet unet;
    struct net net;
    float sizes[UNET_SIZES]; /* what the network is told of the picture, where cfg.pooled */
    /* inside dn.keep: */
    void *kv;
    float *table; /* of all steps; where cfg.pooled, such a table for each condition */
};

extern const struct dn_net dn_unet_net;

/* Sets p->dn, before anything can fail. */
void dn_unet_init(struct dn_unet *d, struct pipe *p);
/* Reads the configs of UNet, VAE and scheduler, checks that the first two have the same latents, and says in p what
 * those are. */
int dn_unet_read(struct dn_unet *d, struct pipe *p, struct dl_err *e);

#endif
