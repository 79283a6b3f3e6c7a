/* sched.h: a sampler as a table of coefficients.
 *
 * What a sampler does between two calls of the network is a fixed combination of a few arrays, with scalars that depend
 * on the step alone. A scheduler (pipelines/sched_*.c) writes those scalars into a table once; the op that runs them,
 * together with guidance, knows no scheduler. Step k is
 *
 *   model input     x / in_div, with timestep t
 *   guidance        e = u + guidance * (c - u), or c alone
 *   multistep       m = (m_e e + m_h[0] H[h0] + m_h[1] H[h1] + m_h[2] H[h2]) * m_mul / m_div
 *   base            x = H[base_slot] where base_slot >= 0
 *   rotation        r = r_m m + r_x x
 *   inner value     q = (q_x x + q_m m + q_r r) / q_div         (the predicted clean image, in most samplers)
 *   threshold       q = clamp(q, -s, s) / s                     (tables with a threshold; s per image, see below)
 *   difference      d = (d_q q + d_x x + d_h H[h0]) * d_mul / d_div
 *   result          x' = x_x x + x_q q + x_r r + x_d d + noise term
 *   noise term      x_noise * n, or exp(0.5 * (f * log_var_max + (1 - f) * log_var_min)) * n with f = (v + 1) / 2,
 *                   where the network learned its variance v; n standard normal noise
 *   history         H[push_slot] = e (push e) or q (push q); H[save_slot] = the x that came in
 *
 * all in float32, one rounded operation after the other in the order written, without fused multiply-adds; a term whose
 * coefficient is 0 is left out, and what it would read is not touched. So a table can follow diffusers' own order of
 * operations, and does: the results are diffusers' float32 results, bit for bit where the coefficients are. History is
 * read before it is written, element by element, and a slot may be both in one step. Before the first step nothing has
 * to be in it. Dividing by 1 and multiplying by 1 are exact, so an op may do them or not.
 *
 * A network that learned its variance gives 2C channels, m from the first C; sched_apply takes v from the conditional
 * row. The threshold s is the quantile of |q| over one image, clamped to [1, threshold_max]; it needs all of q before
 * any x', so it is a pass of its own (sched_threshold).
 *
 * Source: diffusers' schedulers; "Pseudo numerical methods for diffusion models" (2202.09778), "Denoising diffusion
 * implicit models" (2010.02502), "Elucidating the design space" (2206.00364), "DPM-Solver++" (2211.01095), "Imagen"
 * (2205.11487, thresholding), "Improved DDPM" (2102.09672, learned variance).
 */
#ifndef DL_SCHED_H
#define DL_SCHED_H

#include <stdbool.h>
#include <stdint.h>

enum { SCHED_SLOTS = 3 };

enum sched_push { SCHED_PUSH_NONE, SCHED_PUSH_E, SCHED_PUSH_Q };

/* Four-byte fields only, no pointers: a device takes the array as it is. */
struct sched_step {
    float t;      /* timestep for the network; whole numbers except in Euler's linspace and in flow matching */
    float in_div; /* model input = x / in_div */
    float m_e, m_h[SCHED_SLOTS], m_mul, m_div;
    float r_m, r_x;
    float q_x, q_m, q_r, q_div;
    float d_q, d_x, d_h, d_mul, d_div;
    float x_x, x_q, x_r, x_d;
    float x_noise;                  /* fixed standard deviation; 0: no noise in this step, unless learned */
    float log_var_min, log_var_max; /* learned variance only */
    int32_t h_slot[SCHED_SLOTS];    /* slots of h0, h1, h2 */
    int32_t base_slot, save_slot;   /* -1: none */
    int32_t push, push_slot;        /* enum sched_push; slot -1 with SCHED_PUSH_NONE */
    int32_t draws;                  /* 1: the step takes noise; torch's generator is drawn from after the network */
};

struct sched_table {
    int32_t n;        /* calls of the network: PNDM has one more than the steps asked for */
    int32_t slots;    /* history arrays of the latent's size, 0..SCHED_SLOTS */
    float init_sigma; /* the initial noise is multiplied by it */
    bool learned_var; /* the network has 2C output channels: prediction and variance */
    bool use_var;     /* the variance is used (DDPM), not merely cut off (DPM-Solver++) */
    float threshold;  /* quantile of the dynamic threshold; 0: none */
    float threshold_max;
    struct sched_step step[]; /* [n] */
};

/* Arrays of one image, n elements each in any one order; what a step does not use may be NULL. */
struct sched_image {
    float *x;                 /* [n] latent, updated in place */
    const float *cond;        /* [n] the network's output for the conditional row */
    const float *uncond;      /* [n] for the unconditional row; NULL: no guidance */
    const float *var;         /* [n] learned variance of the conditional row */
    const float *noise;       /* [n] */
    float *slot[SCHED_SLOTS]; /* [n] each */
    float threshold;          /* s of this image and step */
};

/* y[n] = x[n] / in_div. */
void sched_input(const struct sched_step *s, const float *x, float *y, int64_t n);

/* One step of one image, as above: the reference that every backend is tested against. n elements; a part of an image
 * may be given, except that im->threshold is the whole image's. */
void sched_apply(const struct sched_table *t, int step, float guidance, const struct sched_image *im, int64_t n);

/* s of a whole image: torch.quantile(|q|, threshold) with linear interpolation, clamped to [1, threshold_max]. work[n]
 * is overwritten. Not to be called where the table has no threshold. */
float sched_threshold(const struct sched_table *t, int step, float guidance, const struct sched_image *im, int64_t n,
                      float *work);

#endif
