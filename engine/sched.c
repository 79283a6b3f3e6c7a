/* sched.c: the reference of the scheduler's step. */
#include "engine/sched.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* sum + c * v, or c * v where nothing stands before it, or sum where c is 0. */
struct sum {
    float v;
    bool any;
};

static struct sum sum_add(struct sum s, float c, const float *v, int64_t i)
{
    if (c == 0) return s;
    float p = c * v[i];
    return (struct sum){s.any ? s.v + p : p, true};
}

struct values {
    float e, m, x, r, q;
};

/* All up to the threshold, for element i. */
static struct values inner(const struct sched_step *s, float guidance, const struct sched_image *im, int64_t i)
{
    struct values v;
    struct sum a = {0};
    v.e = im->cond[i];
    if (im->uncond) v.e = im->uncond[i] + guidance * (im->cond[i] - im->uncond[i]);
    a = sum_add(a, s->m_e, &v.e, 0);
    for (int k = 0; k < SCHED_SLOTS; k++) a = sum_add(a, s->m_h[k], im->slot[s->h_slot[k]], i);
    v.m = a.v * s->m_mul / s->m_div;
    v.x = s->base_slot >= 0 ? im->slot[s->base_slot][i] : im->x[i];
    v.r = sum_add(sum_add((struct sum){0}, s->r_m, &v.m, 0), s->r_x, &v.x, 0).v;
    a = sum_add((struct sum){0}, s->q_x, &v.x, 0);
    a = sum_add(a, s->q_m, &v.m, 0);
    v.q = sum_add(a, s->q_r, &v.r, 0).v / s->q_div;
    return v;
}

void sched_input(const struct sched_step *s, const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / s->in_div;
}

void sched_apply(const struct sched_table *t, int step, float guidance, const struct sched_image *im, int64_t n)
{
    assert(step >= 0 && step < t->n);
    const struct sched_step *s = &t->step[step];
    for (int64_t i = 0; i < n; i++) {
        struct values v = inner(s, guidance, im, i);
        if (t->threshold > 0) v.q = fminf(fmaxf(v.q, -im->threshold), im->threshold) / im->threshold;
        struct sum a = sum_add(sum_add((struct sum){0}, s->d_q, &v.q, 0), s->d_x, &v.x, 0);
        float d = sum_add(a, s->d_h, im->slot[s->h_slot[0]], i).v * s->d_mul / s->d_div;
        a = sum_add(sum_add((struct sum){0}, s->x_x, &v.x, 0), s->x_q, &v.q, 0);
        a = sum_add(sum_add(a, s->x_r, &v.r, 0), s->x_d, &d, 0);
        if (s->draws) {
            float std = s->x_noise;
            if (t->use_var) {
                float f = (im->var[i] + 1) / 2;
                std = expf(0.5f * (f * s->log_var_max + (1 - f) * s->log_var_min));
            }
            a = sum_add(a, std, im->noise, i);
        }
        if (s->push == SCHED_PUSH_E) im->slot[s->push_slot][i] = v.e;
        if (s->push == SCHED_PUSH_Q) im->slot[s->push_slot][i] = v.q;
        if (s->save_slot >= 0) im->slot[s->save_slot][i] = im->x[i];
        im->x[i] = a.v;
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

float sched_threshold(const struct sched_table *t, int step, float guidance, const struct sched_image *im, int64_t n,
                      float *work)
{
    assert(step >= 0 && step < t->n && n > 0 && t->threshold > 0);
    for (int64_t i = 0; i < n; i++) work[i] = fabsf(inner(&t->step[step], guidance, im, i).q);
    qsort(work, (size_t)n, sizeof *work, by_value);
    /* torch: rank = q * (n - 1) in float32, then lerp between the neighbours, from the nearer end */
    float rank = t->threshold * (float)(n - 1);
    int64_t below = (int64_t)floorf(rank), above = (int64_t)ceilf(rank);
    if (above > n - 1) above = n - 1;
    float w = rank - floorf(rank), lo = work[below], hi = work[above];
    float s = w < 0.5f ? lo + w * (hi - lo) : hi - (hi - lo) * (1 - w);
    return fminf(fmaxf(s, 1.0f), t->threshold_max);
}
