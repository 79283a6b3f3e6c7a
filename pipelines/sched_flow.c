/* sched_flow.c: Euler's method on a rectified flow, FLUX's sampler: x' = x + (sigma_next - sigma) v. */
#include "pipelines/sched_make.h"

#include <math.h>

int sched_make_flow(struct sched_make *m)
{
    const struct sched_config *c = m->c;
    int n = m->out->n;
    double end = 1.0 / n, step = n > 1 ? (end - 1.0) / (n - 1) : 0;
    float grow = 1;
    if (c->dynamic_shift) {
        if (m->image_tokens < 1)
            return dl_fail(m->e, DL_EUSAGE, "%s: use_dynamic_shifting needs the image's size", c->path);
        double slope = (c->max_shift - c->base_shift) / (c->max_len - c->base_len);
        grow = (float)exp((double)m->image_tokens * slope + (c->base_shift - slope * c->base_len));
    }
    for (int i = 0; i < n; i++) {
        float sigma = (float)(i == n - 1 && n > 1 ? end : 1.0 + i * step);
        if (c->dynamic_shift)
            sigma = grow / (grow + (1 / sigma - 1));
        else
            sigma = (float)c->shift * sigma / (1 + (float)(c->shift - 1) * sigma);
        struct sched_step *s = &m->out->step[i];
        s->t = sigma * (float)c->train_steps;
        s->r_m = 1;
        s->x_x = 1;
        s->x_r = -sigma;
        if (i > 0) m->out->step[i - 1].x_r += sigma;
    }
    return 0;
}
