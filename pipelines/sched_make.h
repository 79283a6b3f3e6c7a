/* sched_make.h: what the schedulers share among themselves; pipelines include sched.h.
 *
 * Each maker fills the steps of a table that sched_plan has allocated and zeroed, with every slot index -1 or 0, every
 * divisor and multiplier 1, in_div 1 and init_sigma 1. Timesteps come in the order in which the network is called.
 */
#ifndef DL_PIPELINES_SCHED_MAKE_H
#define DL_PIPELINES_SCHED_MAKE_H

#include "pipelines/sched.h"

struct sched_make {
    const struct sched_config *c;
    int steps;        /* as asked for */
    const float *acp; /* [train_steps] cumulative products of 1 - beta; NULL for flow matching */
    const double *t;  /* [steps] timesteps by spacing, descending; unused by DPM-Solver++ and flow matching */
    int64_t image_tokens;
    struct sched_table *out;
    struct dl_err *e;
};

int sched_make_pndm(struct sched_make *m);
int sched_make_ddim(struct sched_make *m);
int sched_make_euler(struct sched_make *m);
int sched_make_dpm(struct sched_make *m);
int sched_make_ddpm(struct sched_make *m);
int sched_make_flow(struct sched_make *m);

/* The file's noise schedule alone, without regard to its class and sampler. */
int sched_config_read_betas(struct sched_config *c, const char *path, struct dl_err *e);

/* sqrt((1 - acp) / acp) at timestep t, between whole numbers by linear interpolation, held at the ends (numpy.interp).
 */
double sched_sigma(const struct sched_make *m, double t);

/* acp[t], or the value before the first timestep where t < 0. */
float sched_acp(const struct sched_make *m, int64_t t);

/* Sets r and q of a step to the noise and the clean image that the network's output implies, diffusers' order:
 * epsilon q = (x - sqrt(1-a) m) / sqrt(a), r = m; v q = sqrt(a) x - sqrt(1-a) m, r = sqrt(a) m + sqrt(1-a) x. */
void sched_predict(const struct sched_make *m, struct sched_step *s, float root_a, float root_b);

#endif
