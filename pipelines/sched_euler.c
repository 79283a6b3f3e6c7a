/* sched_euler.c: Euler's method on dx/dsigma = (x - x0) / sigma without added noise, the sampler of SDXL. */
#include "pipelines/sched_make.h"

#include <math.h>

int sched_make_euler(struct sched_make *m)
{
    float last = m->c->final_sigma_min ? (float)sched_sigma(m, 0) : 0, largest = last;
    for (int i = 0; i < m->out->n; i++) {
        struct sched_step *s = &m->out->step[i];
        float sigma = (float)sched_sigma(m, m->t[i]);
        float next = i + 1 < m->out->n ? (float)sched_sigma(m, m->t[i + 1]) : last;
        float square1 = sigma * sigma + 1;
        s->t = (float)m->t[i];
        s->in_div = sqrtf(square1);
        if (m->c->prediction == SCHED_EPSILON) {
            s->q_x = 1;
            s->q_m = -sigma;
        } else {
            s->q_m = -sigma / sqrtf(square1);
            s->q_x = 1 / square1; /* diffusers divides x */
        }
        s->d_x = 1;
        s->d_q = -1;
        s->d_div = sigma;
        s->x_x = 1;
        s->x_d = next - sigma;
        if (sigma > largest) largest = sigma;
    }
    m->out->init_sigma = m->c->spacing == SCHED_LEADING ? sqrtf(largest * largest + 1) : largest;
    return 0;
}
