/* sched_ddim.c: DDIM with eta 0, Stable Diffusion 2.1's sampler: x' = sqrt(p) x0 + sqrt(1 - p) e. */
#include "pipelines/sched_make.h"

#include <math.h>

int sched_make_ddim(struct sched_make *m)
{
    int64_t ratio = m->c->train_steps / m->steps;
    for (int i = 0; i < m->out->n; i++) {
        struct sched_step *s = &m->out->step[i];
        int64_t t = (int64_t)m->t[i];
        float a = sched_acp(m, t), p = sched_acp(m, t - ratio);
        s->t = (float)t;
        sched_predict(m, s, sqrtf(a), sqrtf(1 - a));
        s->x_q = sqrtf(p);
        s->x_r = sqrtf(1 - p);
    }
    return 0;
}
