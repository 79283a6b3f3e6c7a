/* sched_pndm.c: PNDM without its Runge-Kutta start (PLMS), the sampler of Stable Diffusion 1.x.
 *
 * The second timestep is visited twice: call 0 takes an Euler step to it, call 1 repeats that step from the saved x
 * with the mean of both predictions. From then on an Adams-Bashforth formula of the last 2, 3, 4 predictions is used;
 * call 1's prediction is not among them. With one step there is one call.
 */
#include "pipelines/sched_make.h"

#include <math.h>

/* Slots: predictions by push number modulo 3 (the oldest of four is overwritten in the step that reads it last). The
 * saved x of call 0 lies in slot 2, which takes its first prediction in call 3. */
enum { SAVED = 2 };

static void multistep(struct sched_step *s, int pushed)
{
    static const float weight[4][4] = {{1, 0, 0, 0}, {3, -1, 0, 0}, {23, -16, 5, 0}, {55, -59, 37, -9}};
    static const float divisor[4] = {1, 2, 12, 1};
    int order = pushed < 3 ? pushed : 3; /* earlier predictions used */
    s->m_e = weight[order][0];
    for (int k = 0; k < order; k++) {
        s->m_h[k] = weight[order][k + 1];
        s->h_slot[k] = (pushed - 1 - k) % 3;
    }
    s->m_div = divisor[order];
    if (order == 3) s->m_mul = (float)(1.0 / 24);
}

int sched_make_pndm(struct sched_make *m)
{
    const struct sched_config *c = m->c;
    struct sched_table *out = m->out;
    int64_t ratio = c->train_steps / m->steps;
    out->slots = out->n > 1 ? 3 : 0;
    for (int i = 0, pushed = 0; i < out->n; i++) {
        struct sched_step *s = &out->step[i];
        int64_t t = (int64_t)m->t[i > 1 ? i - 1 : i], prev = t - ratio;
        s->t = (float)t;
        if (i == 1) {
            prev = t;
            t += ratio;
            s->m_h[0] = 1;
            s->m_div = 2;
            s->base_slot = SAVED;
        } else {
            multistep(s, pushed);
            if (out->slots) {
                s->push = SCHED_PUSH_E;
                s->push_slot = pushed++ % 3;
                if (i == 0) s->save_slot = SAVED;
            }
        }
        if (t >= c->train_steps)
            return dl_fail(m->e, DL_EUSAGE,
                           "%s: PNDM with %d steps reaches timestep %lld, beyond the last one, %d; take "
                           "fewer steps",
                           c->path, m->steps, (long long)t, (int)c->train_steps - 1);
        float a = sched_acp(m, t), p = sched_acp(m, prev), b = 1 - a, bp = 1 - p;
        s->r_m = 1;
        if (c->prediction == SCHED_V) {
            s->r_m = sqrtf(a);
            s->r_x = sqrtf(b);
        }
        /* formula (9): x' = sqrt(p / a) x - (p - a) r / (a sqrt(1 - p) + sqrt(a (1 - a) p)) */
        s->q_r = p - a;
        s->q_div = a * sqrtf(bp) + sqrtf(a * b * p);
        s->x_x = sqrtf(p / a);
        s->x_q = -1;
    }
    return 0;
}
