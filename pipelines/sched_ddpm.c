/* sched_ddpm.c: ancestral sampling, DeepFloyd IF's: the posterior mean of formula (7) in 2006.11239, and noise. */
#include "pipelines/sched_make.h"

#include <math.h>

int sched_make_ddpm(struct sched_make *m)
{
    const struct sched_config *c = m->c;
    struct sched_table *out = m->out;
    out->learned_var = out->use_var = c->learned_var;
    out->threshold = (float)c->threshold;
    out->threshold_max = (float)c->threshold_max;
    for (int i = 0; i < out->n; i++) {
        struct sched_step *s = &out->step[i];
        int64_t t = (int64_t)m->t[i];
        float a = m->acp[t], p = i + 1 < out->n ? m->acp[(int64_t)m->t[i + 1]] : 1.0f;
        float b = 1 - a, bp = 1 - p, alpha = a / p, beta = 1 - alpha;
        s->t = (float)t;
        sched_predict(m, s, sqrtf(a), sqrtf(b));
        s->x_q = sqrtf(p) * beta / b;
        s->x_x = sqrtf(alpha) * bp / b;
        if (t > 0) {
            float var = fmaxf(bp / b * beta, 1e-20f);
            s->draws = 1;
            s->x_noise = c->learned_var ? 0 : sqrtf(var);
            s->log_var_min = (float)log(var);
            s->log_var_max = (float)log(beta);
        }
    }
    return 0;
}
