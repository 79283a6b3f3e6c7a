/* vae.h: the decoder of AutoencoderKL (Kingma & Welling 2014; Rombach et al. 2022; diffusers' autoencoder_kl.py,
 * vae.py).
 *
 * A latent [n][h][w][latent_c] becomes an image [n][f h][f w][3] in about -1 .. 1, f = 2^(levels - 1). The encoder's
 * tensors are expected in the checkpoint and checked, but never loaded.
 *
 * Half precision. Activations of SDXL's decoder exceed 65504, what f16 can hold ("force_upcast" in its config:
 * diffusers decodes in f32). bf16 holds them, at three bits less. For f16 the decoder is rewritten when its weights are
 * bound (vae_shrink; the idea of the published sdxl-vae-fp16-fix, which finetunes instead): every group norm undoes the
 * scale of its input, so the stream between the residual blocks, and the activation inside each, can be carried at 1/32
 * of their size by scaling the weights that write them. The function computed is the same.
 */
#ifndef DL_VAE_H
#define DL_VAE_H

#include "engine/run.h"
#include "loaders/bind.h"

enum { VAE_LEVELS = 8, VAE_LAYERS = 8 };

struct vae_config {
    int image_c, latent_c, levels, layers, groups, sample_size;
    int channels[VAE_LEVELS];
    float scaling, shift; /* the decoder's input is latent / scaling + shift */
    bool post_quant;      /* the 1x1 convolution before the decoder */
    bool force_upcast;    /* activations exceed f16 */
};

struct vae_resnet {
    int in, out;
    struct dl_w n1_g, n1_b, conv1, conv1_b, n2_g, n2_b, conv2, conv2_b, shortcut, shortcut_b;
};

struct vae {
    struct vae_config cfg;
    struct dl_w post_quant, post_quant_b, conv_in, conv_in_b;
    struct vae_resnet mid[2], up[VAE_LEVELS][VAE_LAYERS + 1];
    struct dl_w attn_g, attn_b, qkv, qkv_b, attn_out, attn_out_b; /* one head over all channels */
    struct dl_w sample[VAE_LEVELS], sample_b[VAE_LEVELS];
    struct dl_w out_g, out_b, conv_out, conv_out_b;
    struct dl_wset weights;
    float scale;          /* of the activations that were shrunk; 1 without vae_shrink */
    struct vae_own *owns; /* values of the scaled weights */
};

int vae_config_read(struct vae_config *c, const char *path, struct dl_err *e);
void vae_bind(struct vae *v, const struct vae_config *c, struct bind *b);
void vae_close(struct vae *v);

/* Scales the decoder for f16, once (a second call does nothing), after vae_bind and before weights are loaded: the
 * scaled weights are copied to host memory as f32 (SDXL's: 130 MB), until vae_close. Weights without bytes (a fault in
 * the checkpoint) are passed over.
 */
int vae_shrink(struct vae *v, struct dl_err *e);

int vae_factor(const struct vae_config *c); /* pixels to a latent pixel, along one side */

/* x [n][f h][f w][image_c] = decode(z / scaling + shift), z [n][h][w][latent_c] of any type. */
void vae_decode(struct dl_run *r, struct vae *v, dl_act z, dl_act x);

#endif
