/* upscale.h: the second stage of a cascade (DeepFloyd IF), which enlarges the first one's pictures under the same
 * conditions.
 *
 * Its noise does not run on from the first stage's: each picture has a generator of its own, seeded with the image's
 * seed or with one for all, from which come, in diffusers' order, the initial noise, the noise that the small picture
 * is mixed with, and that of the steps. So a picture is reproducible alone.
 */
#ifndef LENS_UPSCALE_H
#define LENS_UPSCALE_H

#include "lens/lens.h"

struct upscaler;

/* Memory for job->up, planned by lens_plan; its pipe is loaded by the caller before anything is enlarged. */
int upscaler_open(struct upscaler **u, const struct lens_job *job, struct dl_err *e);
void upscaler_close(struct upscaler *u); /* NULL is fine; the pipe stays */

/* Enlarges n (at most job->up.plan.batch) finished pictures of the first stage; seed[i] is picture i's. The results are
 * then there as upscaler_picture(u, i), latents of job->up.pipe. */
int upscaler_run(struct upscaler *u, const struct pipe_image *small, const uint64_t *seed, int n,
                 const struct pipe_progress *pr, struct dl_err *e);
const float *upscaler_picture(const struct upscaler *u, int i);

#endif
