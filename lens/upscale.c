#include "lens/upscale.h"

#include <stdlib.h>

struct upscaler {
    const struct lens_job *job;
    int64_t count;          /* elements of a picture */
    float *latent, *lowres; /* [batch][count] */
    float *noise;           /* [count] */
    struct dl_rng *rng;     /* [batch] */
};

int upscaler_open(struct upscaler **out, const struct lens_job *job, struct dl_err *e)
{
    struct upscaler *u = *out = calloc(1, sizeof *u);
    if (!u) return dl_fail(e, DL_ENOMEM, "no memory for an upscaler");
    size_t batch = (size_t)job->up.plan.batch;
    u->job = job;
    u->count = pipe_latent_count(job->up.pipe, job->up.gen.width, job->up.gen.height);
    u->latent = malloc(batch * (size_t)u->count * sizeof *u->latent);
    u->lowres = malloc(batch * (size_t)u->count * sizeof *u->lowres);
    u->noise = malloc((size_t)u->count * sizeof *u->noise);
    u->rng = malloc(batch * sizeof *u->rng);
    if (!u->latent || !u->lowres || !u->noise || !u->rng)
        return dl_fail(e, DL_ENOMEM, "no memory for a batch of %d enlarged images", job->up.plan.batch);
    return 0;
}

void upscaler_close(struct upscaler *u)
{
    if (!u) return;
    free(u->latent), free(u->lowres), free(u->noise), free(u->rng);
    free(u);
}

const float *upscaler_picture(const struct upscaler *u, int i) { return u->latent + i * u->count; }

int upscaler_run(struct upscaler *u, const struct pipe_image *small, const uint64_t *seed, int n,
                 const struct pipe_progress *pr, struct dl_err *e)
{
    const struct lens_upscale *up = &u->job->up;
    struct pipe_image im[n];
    int w = up->gen.width, h = up->gen.height;
    for (int i = 0; i < n; i++) {
        im[i] = (struct pipe_image){.cond = small[i].cond,
                                    .negative = small[i].negative,
                                    .noise = i,
                                    .latent = u->latent + i * u->count,
                                    .lowres = u->lowres + i * u->count,
                                    .rng = &u->rng[i]};
        rng_seed(im[i].rng, u->job->rng, up->one_seed ? up->seed : seed[i], u->job->rng_sms, 0);
        if (pipe_noise(up->pipe, im[i].rng, w, h, up->gen.type, im[i].latent, e) < 0 ||
            pipe_noise(up->pipe, im[i].rng, w, h, up->gen.type, u->noise, e) < 0)
            return -1;
        pipe_lowres(up->pipe, w, h, small[i].latent, u->noise, u->lowres + i * u->count);
    }
    return pipe_denoise(up->pipe, im, n, pr, e);
}
