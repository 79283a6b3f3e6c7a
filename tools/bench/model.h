/* model.h: product models for benchmarks: real shapes without a checkpoint, and the ops of a sweep.
 *
 * A model that is named (--like sd15) is made by the synthetic checkpoint maker, full size, with holes in the place of
 * values: configs, tokenizer and tensor lists in a temporary folder that takes no room, whatever the model's size. Any
 * name that `dlens synth` knows will do, so a new model needs nothing here. Before weights are loaded, their values are
 * made up (bench_model_make_up; engine/weight.h): matrices of std 1 / sqrt(fan in), gains about 1, small biases, so
 * that activations stay of ordinary size through the network. A value is a function of the tensor's name and the
 * element's number: every backend computes on the same weights, and a GPU makes them in its own memory.
 */
#ifndef BENCH_MODEL_H
#define BENCH_MODEL_H

#include "pipelines/denoise.h"
#include "tools/bench/tape.h"

struct bench_source {
    const char *like; /* a name of synth's, or NULL */
    const char *dir;  /* else a model folder or hub id */
    bool tiny;        /* the small version of `like` */
};

struct bench_model {
    struct pipe *pipe;
    char temp[64]; /* folder to remove, "" if none */
    bool made_up;  /* the checkpoint has no values */
};

/* type: of the runs to come, in which made-up weights are stored (of e4m3, bf16). The backend is borrowed. */
int bench_model_open(struct bench_model *m, const struct bench_source *s, int type, const struct dl_backend *be,
                     struct dl_ctx *ctx, struct dl_err *e);
void bench_model_close(struct bench_model *m); /* zeroed is fine */

/* Makes up the values of every weight of denoiser and VAE, between pipe_plan and pipe_load. Nothing to do for real
 * models. */
void bench_model_make_up(struct bench_model *m);

/* What is generated. 0 (guidance NAN) means the model's own default. */
struct bench_sweep {
    int layers, batch, steps; /* images: one for each layer, all of one seed; batch 0: as many as fit */
    int width, height;
    double guidance;
    int type; /* enum dl_type */
};

/* Fills the defaults in and checks the size. */
int bench_sweep_complete(const struct pipe *p, struct bench_sweep *s, struct dl_err *e);
struct pipe_gen bench_gen(const struct pipe *p, const struct bench_sweep *s);

/* Records every program of the sweep on the tape that the model was opened on; *plan as pipe_plan left it. */
int bench_record(struct tape *t, struct bench_model *m, const struct bench_sweep *s, struct pipe_plan *plan,
                 struct dl_err *e);

/* Images of a batch of n whose conditions begin at row `first`: of one noise and one negative (row `layers`). */
void bench_images(struct pipe_image *im, int n, int first, int layers);

#endif
