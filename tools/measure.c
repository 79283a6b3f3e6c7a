#include "tools/measure.h"

#include "pipelines/denoise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char prompt[] = "a photograph of an astronaut riding a horse";
enum { LATENT_SIDE = 32, SEED = 17, VARIANTS = 16, NAME = 96 };

/* An inner activation: its values in f32 and (for e4m3) in bf16, then what the type made of it. */
struct block {
    char name[NAME];
    float *ref, *half; /* [n]; owned, may be NULL */
    int64_t n;
    double largest_ref, largest, error, error_half, from_half;
};

struct variant {
    const char *name;
    int64_t count, flops;
};

struct measure {
    const struct gen_model *m;
    struct block *block;              /* [n], in the order of the run; the last is the prediction */
    int64_t n, cap, at;               /* at: how many of them the run under way has met */
    int run_type;                     /* enum dl_type: f32 comes first */
    int type;                         /* what is measured, which comes last */
    struct variant variant[VARIANTS]; /* of the last run's matrix products */
    int variants;
    volatile sig_atomic_t stop; /* set after the first evaluation */
    struct dl_err err;          /* of the listener */
};

/* The values of an activation as f32, dense, owned by the caller. */
static float *values(struct measure *x, struct dl_run *r, dl_act a, int64_t *n)
{
    int64_t bytes = dl_act_bytes(a), pixels = (int64_t)a.h * a.w;
    uint8_t *raw = malloc((size_t)bytes + 1);
    float *v = malloc((size_t)(a.n * pixels * a.c) * sizeof *v + 1);
    *n = a.n * pixels * a.c;
    if (!raw || !v) {
        dl_fail(&x->err, DL_ENOMEM, "no memory for an activation of %lld values", (long long)*n);
    } else if (r->be->download(r->ctx, raw, a.p, bytes, &x->err) == 0) {
        for (int64_t i = 0; i < a.n; i++)
            for (int64_t p = 0; p < pixels; p++)
                dl_convert(v + (i * pixels + p) * a.c, DL_F32, raw + (i * a.rs + p * a.ld) * dl_type_bytes(a.t), a.t,
                           a.c);
        free(raw);
        return v;
    }
    free(raw), free(v);
    return NULL;
}

static double largest_of(const float *v, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; i++) m = fabs((double)v[i]) > m || isnan(v[i]) ? fabs((double)v[i]) : m;
    return m;
}

static double error_of(const float *v, const float *ref, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)v[i] - (double)ref[i]) * ((double)v[i] - (double)ref[i]);
        s += (double)ref[i] * (double)ref[i];
    }
    return s > 0 ? sqrt(d / s) : d > 0 ? INFINITY : 0;
}

static void keep_first(struct measure *x, const char *name, float *v, int64_t n)
{
    if (x->n == x->cap) {
        int64_t cap = x->cap ? 2 * x->cap : 64;
        struct block *more = realloc(x->block, (size_t)cap * sizeof *more);
        if (!more) {
            dl_fail(&x->err, DL_ENOMEM, "no memory for the list of blocks");
            free(v);
            return;
        }
        x->block = more, x->cap = cap;
    }
    struct block *b = &x->block[x->n++];
    *b = (struct block){.ref = v, .n = n, .largest_ref = largest_of(v, n)};
    snprintf(b->name, sizeof b->name, "%s", name);
}

/* The variants that the matrix products of the step took. */
static void count_products(struct measure *x, const struct dl_run *r)
{
    x->variants = 0;
    for (int64_t i = 0; i < r->n_log; i++) {
        const struct dl_log *l = &r->log[i];
        int k = 0;
        if (strcmp(l->op, "gemm")) continue;
        while (k < x->variants && strcmp(x->variant[k].name, l->variant)) k++;
        if (k == VARIANTS) continue;
        if (k == x->variants) x->variant[x->variants++] = (struct variant){.name = l->variant};
        x->variant[k].count++, x->variant[k].flops += l->flops;
    }
}

static void listen(void *user, struct dl_run *r, const char *name, dl_act a)
{
    struct measure *x = user;
    int64_t n;
    if (x->err.code || x->stop) return;
    float *v = values(x, r, a, &n);
    if (!v) return;
    if (x->run_type == DL_F32) {
        keep_first(x, name, v, n);
        return;
    }
    struct block *b = x->at < x->n ? &x->block[x->at++] : NULL;
    if (!b || strcmp(b->name, name) || b->n != n) {
        dl_fail(&x->err, DL_EFAIL, "%s is not what the f32 run had here (%s)", name, b ? b->name : "nothing");
    } else if (x->run_type != x->type) {
        b->error_half = error_of(v, b->ref, n);
        b->half = v, v = NULL;
    } else {
        b->largest = largest_of(v, n), b->error = error_of(v, b->ref, n);
        if (b->half) b->from_half = error_of(v, b->half, n);
        free(b->ref), free(b->half);
        b->ref = b->half = NULL;
        if (!strcmp(name, "prediction")) count_products(x, r);
    }
    free(v);
}

static void stop_after(void *user, int step, int steps)
{
    struct measure *x = user;
    (void)step, (void)steps;
    x->stop = 1;
}

/* One evaluation in `type`. */
static int evaluate(struct measure *x, struct pipe_gen *g, int type, const struct pipe_cond *cond, struct dl_err *e)
{
    struct pipe *p = x->m->pipe;
    struct pipe_plan plan;
    struct dl_rng rng;
    const struct pipe_progress pr = {.step = stop_after, .user = x, .stop = &x->stop};
    int64_t count = pipe_latent_count(p, g->width, g->height);
    float *latent = malloc((size_t)count * sizeof *latent);
    if (!latent) return dl_fail(e, DL_ENOMEM, "no memory for a latent of %lld values", (long long)count);
    rng_seed(&rng, RNG_TORCH_CPU, SEED, 0, 0);
    x->stop = 0, x->at = 0, x->run_type = g->type = type;
    p->tap = listen, p->tap_user = x;
    p->dn->run.log_on = true;
    struct pipe_image im = {.latent = latent, .rng = &rng};
    struct dl_err stopped = {0};
    int rc = -1;
    /* The same noise in every type: it is the network that is measured. */
    if (pipe_plan(p, g, &plan, e) == 0 && pipe_load(p, e) == 0 && pipe_conditions(p, cond, 1, e) == 0 &&
        pipe_noise(p, &rng, g->width, g->height, DL_F32, latent, e) == 0)
        rc = pipe_denoise(p, &im, 1, &pr, &stopped);
    if (rc < 0 && stopped.code == DL_EINTERRUPT && x->stop) rc = 0; /* there were more steps */
    if (rc < 0 && stopped.code) dl_fail(e, stopped.code, "%s", stopped.msg);
    if (rc == 0 && x->err.code) rc = dl_fail(e, x->err.code, "%s", x->err.msg);
    p->dn->run.log_on = false;
    p->tap = NULL;
    pipe_unload(p);
    free(latent);
    return rc;
}

/* ---- what is said ---- */

static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *block_json(const struct block *b, bool e4m3)
{
    json_t *o = json_pack("{s:s}", "name", b->name);
    json_object_set_new(o, "error", number(b->error));
    if (e4m3) {
        json_object_set_new(o, "from_bf16", number(b->from_half));
        json_object_set_new(o, "error_bf16", number(b->error_half));
    }
    json_object_set_new(o, "largest_f32", number(b->largest_ref));
    json_object_set_new(o, "largest", number(b->largest));
    return o;
}

static void tell_json(struct cli *c, const struct measure *x, const struct pipe_gen *g)
{
    const struct block *last = &x->block[x->n - 1];
    const struct dn *d = x->m->pipe->dn;
    char size[32];
    snprintf(size, sizeof size, "%dx%d", g->width, g->height);
    json_t *o = block_json(last, x->type == DL_E4M3), *products = json_array(), *blocks = json_array();
    json_object_del(o, "name");
    json_object_set_new(o, "finite", json_boolean(isfinite(last->error)));
    json_object_set_new(o, "dtype", json_string(dl_type_name(g->type)));
    json_object_set_new(o, "size", json_string(size));
    json_object_set_new(o, "evaluation", json_integer(1));
    json_object_set_new(o, "evaluations", json_integer(d->table->n));
    json_object_set_new(o, "timestep", json_real((double)d->times[0]));
    json_object_set_new(o, "prompt", json_string(prompt));
    for (int i = 0; i < x->variants; i++)
        json_array_append_new(products,
                              json_pack("{s:s, s:I, s:I}", "variant", x->variant[i].name, "count",
                                        (json_int_t)x->variant[i].count, "flops", (json_int_t)x->variant[i].flops));
    for (int64_t i = 0; i + 1 < x->n; i++) json_array_append_new(blocks, block_json(&x->block[i], x->type == DL_E4M3));
    json_object_set_new(o, "products", products);
    json_object_set_new(o, "blocks", blocks);
    json_object_set_new(c->result, "measured", o);
}

static void tell(const struct measure *x, const struct pipe_gen *g)
{
    const struct dn *d = x->m->pipe->dn;
    const char *type = dl_type_name(g->type);
    double all = 0;
    printf(
        "\nmeasured: %s against f32, on %s, %d x %d pixels, first of %d evaluation%s (timestep %g), one image without\n"
        "guidance, \"%s\"\n",
        type, x->m->be->name, g->width, g->height, d->table->n, d->table->n == 1 ? "" : "s", (double)d->times[0],
        prompt);
    for (int i = 0; i < x->variants; i++) all += (double)x->variant[i].flops;
    for (int i = 0; i < x->variants; i++)
        printf("  %4lld matrix products, %3.0f %% of their arithmetic, by %s\n", (long long)x->variant[i].count,
               100 * (double)x->variant[i].flops / all, x->variant[i].name);
    bool e4m3 = x->type == DL_E4M3;
    printf("  error: L2 norm of the difference over that of f32%s\n  %-42s %10s ", e4m3 ? " (or of bf16)" : "", "",
           "error");
    if (e4m3) printf("%10s %10s ", "from bf16", "bf16's own");
    printf("%12s %12s\n", "largest f32", type);
    for (int64_t i = 0; i < x->n; i++) {
        const struct block *b = &x->block[i];
        printf("  %-42s %10.2e ", b->name, b->error);
        if (e4m3) printf("%10.2e %10.2e ", b->from_half, b->error_half);
        printf("%12.4g %12.4g\n", b->largest_ref, b->largest);
    }
}

/* ---- */

static int pick_type(const struct gen_args *a, const struct gen_model *m, struct dl_err *e)
{
    static const char *const names[] = {"auto", "bf16", "f16", "e4m3"};
    static const int types[] = {DL_BF16, DL_BF16, DL_F16, DL_E4M3};
    int i = cli_choice("--dtype", a->dtype ? a->dtype : "auto", 4, names, e);
    if (i < 0) return -1;
    if (strcmp(m->be->name, "cpu") && !m->be->supports(m->ctx, types[i]))
        return dl_fail(e, DL_EUSAGE, "--dtype %s: this GPU does not compute in it; --device cpu measures it anyway",
                       names[i]);
    return types[i];
}

static int pick_size(const struct gen_args *a, const struct pipe *p, struct pipe_gen *g, struct dl_err *e)
{
    int unit = p->size_multiple, small = (LATENT_SIDE * p->latent_factor + unit - 1) / unit * unit;
    char end;
    g->width = small < p->def.width ? small : p->def.width, g->height = small < p->def.height ? small : p->def.height;
    if (!a->size) return 0;
    if (sscanf(a->size, "%dx%d%c", &g->width, &g->height, &end) == 2 && g->width > 0 && g->height > 0 &&
        g->width <= PIPE_SIZE_MAX && g->height <= PIPE_SIZE_MAX)
        return 0;
    return dl_fail(e, DL_EUSAGE, "--size %s: expected WxH in pixels, such as 256x256", a->size);
}

static int make_cond(struct pipe *p, struct pipe_cond *cond, struct dl_err *e)
{
    struct text_states st[PIPE_ENCODERS] = {{0}};
    int rc = pipe_encode(p, prompt, NULL, st, e);
    if (rc == 0) rc = pipe_condition(p, st, NULL, 0, cond, e);
    text_states_close(st);
    pipe_drop_text(p);
    return rc;
}

int measure_run(struct cli *c, const struct gen_args *a, const struct gen_model *m, struct dl_err *e)
{
    struct pipe *p = m->pipe;
    struct measure x = {.m = m};
    struct pipe_cond cond = {0};
    struct pipe_gen g = {.steps = p->def.steps,
                         .guidance = p->embedded_guidance ? p->def.guidance : 1,
                         .batch = 1,
                         .images = 1,
                         .conds = 1,
                         .one_pooled = true,
                         .vae_type = DL_F32,
                         .resident = a->resident};
    if (p->upscales) return dl_fail(e, DL_EUSAGE, "--measure takes a first stage: a second one needs its pictures");
    int type = pick_type(a, m, e), rc = type < 0 || pick_size(a, p, &g, e) < 0 ? -1 : 0;
    if (rc == 0) rc = make_cond(p, &cond, e);
    x.type = type;
    if (rc == 0) rc = evaluate(&x, &g, DL_F32, &cond, e);
    if (rc == 0 && type == DL_E4M3) rc = evaluate(&x, &g, DL_BF16, &cond, e);
    if (rc == 0) rc = evaluate(&x, &g, type, &cond, e);
    if (rc == 0 && (x.n == 0 || x.at != x.n || strcmp(x.block[x.n - 1].name, "prediction")))
        rc = dl_fail(e, DL_EFAIL, "the two runs do not show the same activations");
    if (rc == 0) tell_json(c, &x, &g);
    if (rc == 0 && !c->json) tell(&x, &g);
    for (int64_t i = 0; i < x.n; i++) free(x.block[i].ref), free(x.block[i].half);
    free(x.block);
    pipe_cond_close(&cond);
    return rc;
}
