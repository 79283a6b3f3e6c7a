#define _GNU_SOURCE
#include "tools/bench/model.h"
#include "tools/synth.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An upscaler without an encoder of its own is given what the model before it had: DeepFloyd IF's tokens and layers. */
enum { TOKENS = 77, LAYERS = 24 };

/* ---- opening ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

/* What weights are kept in that a run of this type computes with. */
static int stored_type(int type) { return type == DL_E4M3 ? DL_BF16 : type; }

static int make_up(struct bench_model *m, const struct bench_source *s, int type, struct dl_err *e)
{
    const char *tmp = getenv("TMPDIR");
    if (!tmp || !*tmp || strlen(tmp) > 40) tmp = "/tmp";
    snprintf(m->temp, sizeof m->temp, "%s/dlens-bench-XXXXXX", tmp);
    if (!mkdtemp(m->temp)) {
        m->temp[0] = 0;
        return dl_fail(e, DL_EFAIL, "%s: cannot make a folder for the model's configs (TMPDIR names another)", tmp);
    }
    struct synth_opts o = {.like = s->like, .full = !s->tiny, .out = m->temp, .hollow = true};
    o.type = stored_type(type);
    m->made_up = true;
    return synth_write(&o, e);
}

int bench_model_open(struct bench_model *m, const struct bench_source *s, int type, const struct dl_backend *be,
                     struct dl_ctx *ctx, struct dl_err *e)
{
    *m = (struct bench_model){0};
    if (s->like && make_up(m, s, type, e) < 0) return -1;
    struct pipe_opts o = {.be = be, .ctx = ctx, .text = TEXT_HF5};
    if (pipe_open(&m->pipe, s->like ? m->temp : s->dir, &o, e) < 0) return -1;
    if (!m->pipe->cond_tokens) m->pipe->cond_tokens = TOKENS;
    if (s->like)
        snprintf(m->pipe->title, sizeof m->pipe->title, "Synthetic %.60s%s", s->like, s->tiny ? " (tiny)" : "");
    return 0;
}

/* ---- values ---- */

/* FNV-1a: a name's values are the same in every run and on every backend. */
static uint32_t hash(const char *name)
{
    uint32_t h = 2166136261u;
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 16777619u;
    return h;
}

static struct dl_made values_of(const struct dl_w *w, int part)
{
    const char *name = w->name ? w->name : "";
    size_t n = strlen(name);
    struct dl_made m = {.seed = hash(name) + (uint32_t)part * 0x85ebca6bu};
    int64_t in = w->dim[0] ? dl_w_count(w) / w->dim[0] : 1;
    if (w->nd > 1)
        m.amp = sqrtf(3 / (float)in);
    else if (n > 5 && !strcmp(name + n - 5, ".bias"))
        m.amp = 0.05f;
    else
        m.mean = 1, m.amp = 0.1f;
    return m;
}

static void make_set_up(const struct dl_wset *set, int t)
{
    for (int64_t i = 0; i < set->n; i++)
        for (int j = 0; j < set->w[i]->n_parts; j++) {
            struct dl_wpart *p = &set->w[i]->part[j];
            *p = (struct dl_wpart){.rows = p->rows, .t = (uint8_t)t, .made_up = true, .made = values_of(set->w[i], j)};
        }
}

void bench_model_make_up(struct bench_model *m)
{
    struct dn *d = m->pipe->dn;
    int t = stored_type(d->gen.type);
    if (!m->made_up) return;
    make_set_up(d->net->weights(m->pipe), t);
    if (d->net->prep) make_set_up(d->net->prep(m->pipe), t);
    if (d->has_vae) make_set_up(&d->vae.weights, d->vae_type);
}

void bench_model_close(struct bench_model *m)
{
    pipe_close(m->pipe);
    if (m->temp[0]) nftw(m->temp, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    *m = (struct bench_model){0};
}

/* ---- the sweep ---- */

int bench_sweep_complete(const struct pipe *p, struct bench_sweep *s, struct dl_err *e)
{
    if (!s->width) s->width = p->def.width, s->height = p->def.height;
    if (s->width % p->size_multiple || s->height % p->size_multiple)
        return dl_fail(e, DL_EUSAGE, "--size %dx%d: this model makes multiples of %d", s->width, s->height,
                       p->size_multiple);
    if (!s->steps) s->steps = p->def.steps;
    if (!s->layers) s->layers = p->n_encoders ? p->encoder[p->studied].blocks : LAYERS;
    if (isnan(s->guidance)) s->guidance = (double)p->def.guidance;
    return 0;
}

struct pipe_gen bench_gen(const struct pipe *p, const struct bench_sweep *s)
{
    return (struct pipe_gen){.width = s->width,
                             .height = s->height,
                             .steps = s->steps,
                             .guidance = (float)s->guidance,
                             .scheduler = SCHED_FILE,
                             .type = s->type,
                             .batch = s->batch,
                             .images = s->layers,
                             .conds = s->layers + pipe_guided(p, (float)s->guidance),
                             .vae_tile = -1,
                             .vae_type = -1};
}

void bench_images(struct pipe_image *im, int n, int first, int layers)
{
    for (int i = 0; i < n; i++) im[i] = (struct pipe_image){.cond = first + i, .negative = layers};
}

static int record_steps(struct tape *t, struct pipe *p, int n, int layers, int first_phase, int phase, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct pipe_image *im = calloc((size_t)n, sizeof *im);
    if (!im) return dl_fail(e, DL_ENOMEM, "no memory for a batch of %d images", n);
    bench_images(im, n, 0, layers);
    for (int first = 1; first >= 0; first--) {
        struct dn_batch b = dn_batch_of(p, im, n, first);
        dl_run_dry(&d->run);
        d->run.step = first ? 0 : d->table->n - 1;
        t->phase = first ? first_phase : phase;
        dn_prog_step(p, &b);
        t->phase = TAPE_OFF;
    }
    free(im);
    return dl_run_check(&d->run, e);
}

static int record_prepare(struct tape *t, struct pipe *p, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dl_run *r = &d->run;
    d->conds = d->gen.conds;
    t->phase = TAPE_PREPARE;
    dl_run_dry(r);
    if (d->net->steps) d->net->steps(p);
    dl_run_dry(r);
    dl_act text = dl_act_hi(r, DL_F32, d->conds, 1, p->cond_tokens, p->cond_width), pooled = {0};
    if (p->cond_pooled) pooled = dl_act_hi(r, DL_F32, d->conds, 1, 1, p->cond_pooled);
    dn_prog_conditions(p, text, pooled);
    t->phase = TAPE_OFF;
    return dl_run_check(r, e);
}

static int record_decode(struct tape *t, struct pipe *p, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dl_run *r = &d->run;
    int h = d->latent_h * p->latent_patch, w = d->latent_w * p->latent_patch, f = p->latent_factor;
    dl_run_dry(r);
    dl_act z = dl_act_hi(r, DL_F32, 1, h, w, p->latent_c), x = z;
    if (d->has_vae) x = dl_act_hi(r, DL_F32, 1, h * f, w * f, 3);
    t->phase = TAPE_DECODE;
    dn_prog_decode(p, z, x, d->rgb);
    t->phase = TAPE_OFF;
    return dl_run_check(r, e);
}

int bench_record(struct tape *t, struct bench_model *m, const struct bench_sweep *s, struct pipe_plan *plan,
                 struct dl_err *e)
{
    struct pipe *p = m->pipe;
    struct pipe_gen g = bench_gen(p, s);
    int64_t weight_bytes, work_bytes;
    t->phase = TAPE_TEXT;
    int rc = p->cls->plan_text ? p->cls->plan_text(p, &weight_bytes, &work_bytes, e) : 0;
    t->phase = TAPE_OFF;
    if (rc < 0 || pipe_plan(p, &g, plan, e) < 0) return -1;
    if (record_prepare(t, p, e) < 0) return -1;
    if (record_steps(t, p, plan->batch, s->layers, TAPE_FIRST, TAPE_STEP, e) < 0) return -1;
    int rest = s->layers % plan->batch;
    if (rest && record_steps(t, p, rest, s->layers, TAPE_REST_FIRST, TAPE_REST_STEP, e) < 0) return -1;
    if (record_decode(t, p, e) < 0) return -1;
    return tape_check(t, e);
}
