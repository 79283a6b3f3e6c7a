/* sched_dpm.c: DPM-Solver++ (multistep, order 1 or 2, midpoint), which the Diffusion Lens paper put in the place of the
 * models' own samplers. It predicts x0 from the network's output and steps in lambda = log(alpha / sigma).
 *
 * The coefficients hang on small differences of lambda, so that float32's rounding of a logarithm is seen in them:
 * functions are computed in double and rounded once, which is what diffusers would do with exact library functions. */
#include "pipelines/sched_make.h"

#include <math.h>
#include <stdlib.h>

struct point {
    float alpha, sigma, lambda;
};

static struct point point_at(float s)
{
    struct point p;
    p.alpha = 1 / sqrtf(s * s + 1);
    p.sigma = s * p.alpha;
    p.lambda = (float)log(p.alpha) - (float)log(p.sigma);
    return p;
}

/* Timesteps below which lambda is at least lambda_min: all of them, or fewer where the schedule ends in pure noise. */
static int last_timestep(const struct sched_make *m)
{
    int n = m->c->train_steps;
    while (n > 0 && logf(sqrtf(m->acp[n - 1])) - logf(sqrtf(1 - m->acp[n - 1])) < (float)m->c->lambda_min) n--;
    return n;
}

/* t[n], descending */
static int timesteps(const struct sched_make *m, double *t)
{
    const struct sched_config *c = m->c;
    int n = m->steps, last = last_timestep(m);
    if (last < 2)
        return dl_fail(m->e, DL_EINPUT, "%s: lambda_min_clipped %g leaves no timestep", c->path, c->lambda_min);
    if (c->spacing == SCHED_LINSPACE) {
        double step = (double)(last - 1) / n;
        for (int i = 0; i < n; i++) t[i] = i == 0 ? last - 1 : rint((n - i) * step);
    } else if (c->spacing == SCHED_LEADING) {
        for (int i = 0; i < n; i++) t[i] = (double)((n - i) * (int64_t)(last / (n + 1)) + c->steps_offset);
    } else {
        double ratio = (double)c->train_steps / n, delta = (last - ratio) - last;
        if (ceil(last / ratio) != n)
            return dl_fail(m->e, DL_EUSAGE,
                           "%s: timestep_spacing \"trailing\" does not give %d steps of %d; take "
                           "another number of steps",
                           c->path, n, last);
        for (int i = 0; i < n; i++) t[i] = rint(last + i * delta) - 1;
    }
    for (int i = 1; i < n; i++) {
        if (t[i] < t[i - 1]) continue;
        return dl_fail(m->e, DL_EUSAGE,
                       "%s: DPM-Solver++ with %d steps would visit timestep %.0f twice; take fewer steps", c->path, n,
                       t[i]);
    }
    return 0;
}

int sched_make_dpm(struct sched_make *m)
{
    const struct sched_config *c = m->c;
    struct sched_table *out = m->out;
    int n = out->n;
    double *t = malloc((size_t)n * sizeof *t);
    if (!t) return dl_fail(m->e, DL_ENOMEM, "no memory for a schedule of %d steps", n);
    if (timesteps(m, t) < 0) {
        free(t);
        return -1;
    }
    out->slots = c->order == 2 && n > 1 ? 1 : 0;
    out->learned_var = c->learned_var;
    out->threshold = (float)c->threshold;
    out->threshold_max = (float)c->threshold_max;
    float end = c->final_sigma_min ? (float)sched_sigma(m, 0) : 0;
    struct point before = {0};
    for (int i = 0; i < n; i++) {
        struct sched_step *s = &out->step[i];
        struct point from = point_at((float)sched_sigma(m, t[i]));
        struct point to = point_at(i + 1 < n ? (float)sched_sigma(m, t[i + 1]) : end);
        bool final_low = i == n - 1 && (c->euler_at_final || (c->lower_order_final && n < 15) || !c->final_sigma_min);
        float h = to.lambda - from.lambda, gain = to.alpha * ((float)exp(-h) - 1.0f);
        s->t = (float)t[i];
        sched_predict(m, s, from.alpha, from.sigma);
        s->x_x = to.sigma / from.sigma;
        s->x_q = -gain;
        if (c->order == 2 && i > 0 && !final_low) {
            s->d_q = 1;
            s->d_h = -1;
            s->d_mul = 1.0f / ((from.lambda - before.lambda) / h);
            s->x_d = -(0.5f * gain);
        }
        if (out->slots && i < n - 1) {
            s->push = SCHED_PUSH_Q;
            s->push_slot = 0;
        }
        before = from;
    }
    free(t);
    return 0;
}
