/* sched.c: noise schedules, timesteps, and the choice of maker. */
#include "pipelines/sched_make.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    [SCHED_PNDM] = "pndm", [SCHED_DDIM] = "ddim", [SCHED_EULER] = "euler",
    [SCHED_DPM] = "dpm++", [SCHED_DDPM] = "ddpm", [SCHED_FLOW] = "flow-euler",
};

int sched_kind_of(const char *name)
{
    for (int k = SCHED_PNDM; k <= SCHED_FLOW; k++)
        if (strcmp(name, names[k]) == 0) return k;
    return -1;
}

const char *sched_kind_name(enum sched_kind kind)
{
    assert(kind >= SCHED_PNDM && kind <= SCHED_FLOW);
    return names[kind];
}

/* torch.linspace in float32: from both ends towards the middle, multiply-adds fused. */
static float linspace32(float a, float b, int i, int n)
{
    if (n == 1) return a;
    float step = (b - a) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, a) : fmaf(-step, (float)(n - 1 - i), b);
}

static double cosine_bar(double t)
{
    double c = cos((t + 0.008) / 1.008 * M_PI / 2);
    return c * c;
}

/* acp[n]: the product runs in double and is rounded entry by entry, as torch.cumprod does on the CPU. */
static void cumulative_products(const struct sched_config *c, float *acp)
{
    int n = c->train_steps;
    double product = 1;
    for (int i = 0; i < n; i++) {
        float beta;
        if (c->betas == SCHED_COSINE) {
            double b = 1 - cosine_bar((double)(i + 1) / n) / cosine_bar((double)i / n);
            beta = (float)(b < 0.999 ? b : 0.999);
        } else if (c->betas == SCHED_SCALED_LINEAR) {
            beta = linspace32((float)sqrt(c->beta_start), (float)sqrt(c->beta_end), i, n);
            beta = beta * beta;
        } else {
            beta = linspace32((float)c->beta_start, (float)c->beta_end, i, n);
        }
        product *= 1.0f - beta;
        acp[i] = (float)product;
    }
}

int sched_add_noise(const char *path, int t, float *signal, float *noise, struct dl_err *e)
{
    struct sched_config c;
    if (sched_config_read_betas(&c, path, e) < 0) return -1;
    if (t < 0 || t >= c.train_steps)
        return dl_fail(e, DL_EINPUT, "%s: num_train_timesteps %d: there is no noise level %d", path, c.train_steps, t);
    float *acp = malloc((size_t)c.train_steps * sizeof *acp);
    if (!acp) return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    cumulative_products(&c, acp);
    *signal = sqrtf(acp[t]), *noise = sqrtf(1 - acp[t]);
    free(acp);
    return 0;
}

/* t[n], descending, by timestep_spacing: whole numbers except for Euler's linspace, which numpy rounds to float32. */
static int space_timesteps(const struct sched_config *c, double *t, int n, struct dl_err *e)
{
    int train = c->train_steps;
    if (c->spacing == SCHED_LINSPACE) {
        double step = n > 1 ? (double)(train - 1) / (n - 1) : 0;
        for (int i = 0; i < n; i++) {
            double v = i == n - 1 && n > 1 ? train - 1 : i * step;
            t[n - 1 - i] = c->kind == SCHED_EULER ? (double)(float)v : rint(v);
        }
    } else if (c->spacing == SCHED_LEADING) {
        for (int i = 0; i < n; i++) t[n - 1 - i] = (double)(i * (int64_t)(train / n) + c->steps_offset);
    } else {
        /* numpy.arange(train, 0, -ratio): every value from the first one by a multiple of the rounded first difference
         */
        double ratio = (double)train / n, delta = (train - ratio) - train;
        if (ceil(train / ratio) != n)
            return dl_fail(e, DL_EUSAGE,
                           "%s: timestep_spacing \"trailing\" does not give %d steps of %d; take another "
                           "number of steps",
                           c->path, n, train);
        for (int i = 0; i < n; i++) t[i] = rint(train + i * delta) - 1;
    }
    if (t[0] > train - 1 && c->kind != SCHED_EULER)
        return dl_fail(e, DL_EUSAGE,
                       "%s: %d steps with steps_offset %d reach timestep %.0f, beyond the last one, %d; "
                       "take fewer steps",
                       c->path, n, (int)c->steps_offset, t[0], train - 1);
    return 0;
}

double sched_sigma(const struct sched_make *m, double t)
{
    int last = m->c->train_steps - 1, i = t <= 0 ? 0 : t >= last ? last : (int)t;
    float lo = sqrtf((1 - m->acp[i]) / m->acp[i]);
    double w = t - i;
    if (w <= 0 || i == last) return lo;
    float hi = sqrtf((1 - m->acp[i + 1]) / m->acp[i + 1]);
    return ((double)hi - lo) * w + lo;
}

float sched_acp(const struct sched_make *m, int64_t t)
{
    if (t >= 0) return m->acp[t];
    return m->c->set_alpha_to_one ? 1.0f : m->acp[0];
}

void sched_predict(const struct sched_make *m, struct sched_step *s, float root_a, float root_b)
{
    s->r_m = 1;
    if (m->c->prediction == SCHED_EPSILON) {
        s->q_x = 1;
        s->q_m = -root_b;
        s->q_div = root_a;
    } else {
        s->q_x = root_a;
        s->q_m = -root_b;
        s->r_m = root_a;
        s->r_x = root_b;
    }
}

static struct sched_table *table_new(int n)
{
    struct sched_table *t = calloc(1, sizeof *t + (size_t)n * sizeof t->step[0]);
    if (!t) return NULL;
    t->n = n;
    t->init_sigma = 1;
    for (int i = 0; i < n; i++) {
        struct sched_step *s = &t->step[i];
        s->in_div = s->m_mul = s->m_div = s->q_div = s->d_mul = s->d_div = s->m_e = 1;
        s->base_slot = s->save_slot = s->push_slot = -1;
    }
    return t;
}

/* Betas at the ends of their range can drive a schedule to 0 or 1 before its end, where divisions have no result. */
static int check_finite(const struct sched_table *t, const struct sched_config *c, struct dl_err *e)
{
    float v[offsetof(struct sched_step, h_slot) / sizeof(float)];
    for (int i = 0; i < t->n; i++) {
        const struct sched_step *s = &t->step[i];
        bool good = s->q_div != 0 && s->d_div != 0;
        memcpy(v, s, sizeof v);
        for (size_t k = 0; k < sizeof v / sizeof v[0]; k++) good = good && isfinite(v[k]);
        if (!good)
            return dl_fail(e, DL_EINPUT, "%s: beta_start %g, beta_end %g leave no finite step at timestep %g", c->path,
                           c->beta_start, c->beta_end, s->t);
    }
    return 0;
}

int sched_plan(struct sched_table **out, const struct sched_config *c, int steps, int64_t image_tokens,
               struct dl_err *e)
{
    static int (*const make[])(struct sched_make *) = {
        [SCHED_PNDM] = sched_make_pndm, [SCHED_DDIM] = sched_make_ddim, [SCHED_EULER] = sched_make_euler,
        [SCHED_DPM] = sched_make_dpm,   [SCHED_DDPM] = sched_make_ddpm, [SCHED_FLOW] = sched_make_flow,
    };
    *out = NULL;
    if (steps < 1 || steps > c->train_steps)
        return dl_fail(e, DL_EUSAGE, "%d steps: the model's schedule (%s) has 1 to %d", steps, c->path,
                       (int)c->train_steps);
    int calls = c->kind == SCHED_PNDM && steps > 1 ? steps + 1 : steps, rc = -1;
    struct sched_table *table = table_new(calls);
    float *acp = malloc((size_t)c->train_steps * sizeof *acp);
    double *t = malloc((size_t)steps * sizeof *t);
    struct sched_make m = {c, steps, acp, t, image_tokens, table, e};
    if (!table || !acp || !t) {
        dl_fail(e, DL_ENOMEM, "no memory for a schedule of %d steps", steps);
        goto done;
    }
    if (c->kind != SCHED_FLOW) cumulative_products(c, acp);
    if (c->kind != SCHED_FLOW && c->kind != SCHED_DPM && space_timesteps(c, t, steps, e) < 0) goto done;
    rc = make[c->kind](&m);
    if (rc == 0) rc = check_finite(table, c, e);
done:
    free(acp);
    free(t);
    if (rc < 0)
        free(table);
    else
        *out = table;
    return rc;
}

void sched_close(struct sched_table *t) { free(t); }
