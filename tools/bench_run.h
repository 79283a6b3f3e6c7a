/* bench_run.h: what dlens bench model and bench sweep share: a model on its device, whose batches are denoised and
 * whose steps are timed. */
#ifndef TOOLS_BENCH_RUN_H
#define TOOLS_BENCH_RUN_H

#include "tools/bench.h"
#include "tools/bench/clock.h"
#include "tools/bench/watch.h"

enum { BENCH_WATCHED = 3 /* steps at most */ };

/* Planned, loaded and conditioned. */
struct bench {
    struct cli *cli;
    struct bench_args *args;
    struct bench_device dev;
    struct bench_model m;
    struct pipe_plan plan;
    struct pipe_image *im; /* [batch], with latents */
    float *noise;          /* one latent */
    float *lowres;         /* an upscaler's small picture; NULL for other models */
    struct dl_rng *rng;    /* [batch] for samplers that draw */
    double *step_us;       /* [evaluations] what each step took */
    int n_step;
    double last_us;
    int log_step; /* this step of a batch, from 1, is run op by op, with a log; 0: none */

    /* Of a batch of which but some steps are run. */
    int halt_at; /* steps; 0: all */
    volatile sig_atomic_t halt;
    const volatile sig_atomic_t *interrupt;

    /* What the device did in the steps from number watch_from on. */
    struct watch *watch;
    int watch_from, n_gaps;
    struct gaps gaps[BENCH_WATCHED];
    struct dl_err watch_err;
};

/* batch: images that are asked for at most at once. */
int bench_open(struct bench *b, int batch, struct dl_err *e);
void bench_close(struct bench *b); /* zeroed is fine */

/* Gives the model its conditions; done on return. */
int bench_condition(struct bench *b, struct dl_err *e);

/* Denoises n images whose conditions begin at row `first`, through their first `steps` evaluations (0: all). */
int bench_denoise(struct bench *b, int n, int first, int steps, struct dl_err *e);

/* Does beforehand what a device does once for each shape: tuning, loading of kernels, a recording. Nothing on a CPU,
 * where a step may take minutes. */
int bench_warm_up(struct bench *b, int n, struct dl_err *e);

/* The next batch makes its recording anew. */
void bench_forget_recording(struct bench *b);

/* Steps at the beginning of a batch without a recording that do not stand for the others: the first, which shares work,
 * and those in which the recording is made. */
int bench_unlike(const struct bench *b);

#endif
