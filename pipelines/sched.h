/* sched.h: schedulers of diffusers format, from scheduler_config.json to the table that engine/sched.h runs.
 *
 * A config file belongs to one class; asking for another one reads the same file as diffusers' from_config does: keys
 * that the new class's constructor takes are taken, with the new class's default where a key is absent, and the keys of
 * other classes are without effect. What the class takes and dlens cannot honour is an error that names file and key.
 *
 * | kind       | class                           | prediction | honoured                                         |
 * | pndm       | PNDMScheduler                   | epsilon, v | PLMS only (skip_prk_steps)                       |
 * | ddim       | DDIMScheduler                   | epsilon, v | eta 0, no clipping                               |
 * | euler      | EulerDiscreteScheduler          | epsilon, v | no churn, sigmas as they come                    |
 * | dpm++      | DPMSolverMultistepScheduler     | epsilon, v | dpmsolver++ of order 1 or 2, midpoint            |
 * | ddpm       | DDPMScheduler                   | epsilon, v | variance fixed_small or learned_range            |
 * | flow-euler | FlowMatchEulerDiscreteScheduler | velocity   | FLUX's sigmas, shift fixed or by image size      |
 *
 * All but the last take the spacings leading, linspace and trailing.
 *
 * Coefficients are computed as diffusers computes them, in float32 with each operation rounded, from float32 tables of
 * cumulative products; square roots, logarithms and exponentials are correctly rounded. With such functions in torch
 * the results are diffusers' float32 results bit for bit (tested), except for one division in Euler's v prediction and
 * for learned variances. torch's own functions may be off in the last place, which the whole of a 50-step loop shows as
 * 1e-6 (relative L2), 3e-6 with DPM-Solver++, whose coefficients are differences of logarithms.
 *
 * Notes for pipelines. Noise is drawn after the network, only in steps with `draws`. FLUX: the network gets t / 1000.
 *
 * Source: diffusers 0.42.1, schedulers/scheduling_{pndm,ddim,euler_discrete,dpmsolver_multistep,ddpm,
 * flow_match_euler_discrete}.py, configuration_utils.py; pipelines/flux/pipeline_flux.py (sigmas and shift).
 */
#ifndef DL_PIPELINES_SCHED_H
#define DL_PIPELINES_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/err.h"
#include "engine/sched.h"

enum sched_kind {
    SCHED_FILE, /* the class that the config file names; never in a struct sched_config */
    SCHED_PNDM,
    SCHED_DDIM,
    SCHED_EULER,
    SCHED_DPM,
    SCHED_DDPM,
    SCHED_FLOW,
};

enum sched_betas { SCHED_LINEAR, SCHED_SCALED_LINEAR, SCHED_COSINE };
enum sched_spacing { SCHED_LEADING, SCHED_LINSPACE, SCHED_TRAILING };
enum sched_prediction { SCHED_EPSILON, SCHED_V };

struct sched_config {
    char path[512]; /* the file, for messages; cut off where longer */
    enum sched_kind kind;
    bool sd_rules; /* read by sched_config_read_sd */
    /* all but flow matching */
    int32_t train_steps; /* num_train_timesteps, 1..100000 */
    double beta_start, beta_end;
    enum sched_betas betas;
    enum sched_prediction prediction;
    enum sched_spacing spacing;
    int32_t steps_offset;
    bool set_alpha_to_one;  /* PNDM, DDIM: 1 before the first timestep, instead of the first cumulative product */
    bool final_sigma_min;   /* Euler, DPM-Solver++: final_sigmas_type "sigma_min", instead of "zero" */
    int32_t order;          /* DPM-Solver++: 1 or 2 */
    bool lower_order_final; /* DPM-Solver++ */
    bool euler_at_final;    /* DPM-Solver++ */
    double lambda_min;      /* DPM-Solver++: lambda_min_clipped, or -INFINITY */
    bool learned_var;       /* DPM-Solver++, DDPM: variance_type "learned_range" (or "learned") */
    double threshold;       /* DPM-Solver++, DDPM: dynamic_thresholding_ratio, 0 without thresholding */
    double threshold_max;   /* sample_max_value */
    /* flow matching */
    double shift;
    bool dynamic_shift; /* shift by image size: mu from base_shift at base_len to max_shift at max_len tokens */
    double base_shift, max_shift;
    int32_t base_len, max_len;
};

/* The kind that the command line calls `name` ("pndm", "ddim", "euler", "dpm++", "ddpm", "flow-euler"), or -1. */
int sched_kind_of(const char *name);

/* The command line's name of a kind. */
const char *sched_kind_name(enum sched_kind kind);

/* Reads a scheduler_config.json as the class `as`, SCHED_FILE for the file's own. Errors: DL_EINPUT for a file that is
 * unreadable, malformed, or asks for what dlens cannot honour, DL_EUSAGE where `as` does not go with the model (flow
 * matching and diffusion exchanged). Returns 0 or -1. */
int sched_config_read(struct sched_config *c, const char *path, enum sched_kind as, struct dl_err *e);

/* The same as StableDiffusionPipeline takes a scheduler: it puts outdated files right, steps_offset is 1 and
 * clip_sample false whatever they say. clip_sample true is refused otherwise, also where it is the class's own default.
 */
int sched_config_read_sd(struct sched_config *c, const char *path, enum sched_kind as, struct dl_err *e);

/* What mixes noise n into a picture x as at timestep t of the schedule at `path`: signal x + noise n (diffusers'
 * add_noise). Of the file only the betas matter, whatever its class. Returns 0 or -1. */
int sched_add_noise(const char *path, int t, float *signal, float *noise, struct dl_err *e);

/* Makes the table for `steps` inference steps. image_tokens is what dynamic shifting asks for (FLUX: latent pixels /
 * 4), without effect elsewhere. Errors (DL_EUSAGE): a number of steps that the schedule cannot give. Returns 0, with
 * *out owned by the caller (sched_close), or -1. */
int sched_plan(struct sched_table **out, const struct sched_config *c, int steps, int64_t image_tokens,
               struct dl_err *e);

void sched_close(struct sched_table *t);

#endif
