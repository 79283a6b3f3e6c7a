/* measure.h: what a type of numbers costs in accuracy, measured on a model folder's own weights.
 *
 * One evaluation of the denoiser, the first of the model's default schedule, from noise of seed 17 and an ordinary
 * prompt, without guidance, on the device at hand: once in f32 and once in the type, for e4m3 in bf16 between them.
 * Compared are the prediction and every inner activation that the network shows (dl_tap): the L2 norm of the difference
 * over that of f32 (or of bf16), and the largest magnitudes, which say how near a type is to its end. On the CPU every
 * type can be measured, those too that it does not compute in (engine/e4m3.h). */
#ifndef TOOLS_MEASURE_H
#define TOOLS_MEASURE_H

#include "tools/gen.h"

/* With a->dtype (bf16 without) and a->size (32 x 32 latents without). Says what was measured on stdout, or with --json
 * as "measured": {"dtype", "size", "evaluation", "evaluations", "timestep", "prompt", "error", "finite", "largest_f32",
 * "largest", "products": [{"variant", "count", "flops"}], "blocks": [{"name", "error", "largest_f32", "largest"}]};
 * e4m3 has beside every "error" "from_bf16", what it differs from bf16 by, and "error_bf16", bf16's own against f32. An
 * error or magnitude that is no number is null. */
int measure_run(struct cli *c, const struct gen_args *a, const struct gen_model *m, struct dl_err *e);

#endif
