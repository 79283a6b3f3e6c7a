#include "pipelines/pipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct pipe_class *const classes[] = {&sd_class};

static const struct pipe_class *class_of(const char *name)
{
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (!strcmp(classes[i]->pipeline, name)) return classes[i];
    return NULL;
}

/* Figures and manifests are titled by the last part of the hub id or of the folder's name. */
static void set_title(struct pipe *p)
{
    const char *s = p->dir.spec;
    size_t n = strlen(s);
    while (n > 1 && s[n - 1] == '/') n--;
    size_t from = n;
    while (from > 0 && s[from - 1] != '/') from--;
    snprintf(p->title, sizeof p->title, "%.*s", (int)(n - from), s + from);
}

int pipe_open(struct pipe **out, const char *spec, const struct pipe_opts *o, struct dl_err *e)
{
    struct pipe *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p) return dl_fail(e, DL_ENOMEM, "no memory for a model");
    p->be = o->be, p->ctx = o->ctx, p->text = o->text;
    if (model_dir_open(&p->dir, spec, e) < 0) goto fail;
    p->cls = class_of(p->dir.class_name);
    if (!p->cls) {
        dl_fail(e, DL_EINPUT, "%s/model_index.json: this is a %s; dlens runs StableDiffusionPipeline (SD 1.x and 2.x)",
                p->dir.path, p->dir.class_name);
        goto fail;
    }
    set_title(p);
    if (p->cls->open(p, e) < 0) goto fail;
    *out = p;
    return 0;
fail:
    pipe_close(p);
    return -1;
}

void pipe_close(struct pipe *p)
{
    if (!p) return;
    if (p->cls && p->impl) p->cls->close(p);
    model_dir_close(&p->dir);
    free(p);
}

int pipe_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e)
{
    return p->cls->tokens(p, encoder, text, t, e);
}

int pipe_encode(struct pipe *p, const char *text, struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    return p->cls->encode(p, text, st, e);
}

int pipe_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], int k, bool norm, struct pipe_cond *c,
                   struct dl_err *e)
{
    return p->cls->condition(p, st, k, norm, c, e);
}

void pipe_drop_text(struct pipe *p) { p->cls->drop_text(p); }

int pipe_plan(struct pipe *p, const struct pipe_gen *g, struct pipe_plan *out, struct dl_err *e)
{
    if (g->width < p->size_multiple || g->height < p->size_multiple || g->width % p->size_multiple ||
        g->height % p->size_multiple)
        return dl_fail(e, DL_EUSAGE, "--size %dx%d: this model needs multiples of %d", g->width, g->height,
                       p->size_multiple);
    if (g->width > PIPE_SIZE_MAX || g->height > PIPE_SIZE_MAX)
        return dl_fail(e, DL_EUSAGE, "--size %dx%d: at most %d pixels a side", g->width, g->height, PIPE_SIZE_MAX);
    return p->cls->plan(p, g, out, e);
}

int pipe_load(struct pipe *p, struct dl_err *e) { return p->cls->load(p, e); }

int pipe_conditions(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e)
{
    return p->cls->conditions(p, c, n, e);
}

int pipe_denoise(struct pipe *p, struct pipe_image *im, int n, const struct pipe_progress *pr, struct dl_err *e)
{
    return p->cls->denoise(p, im, n, pr, e);
}

int pipe_decode(struct pipe *p, const float *latent, uint8_t *rgb, const struct pipe_progress *pr, struct dl_err *e)
{
    return p->cls->decode(p, latent, rgb, pr, e);
}

int pipe_check(struct pipe *p, void (*part)(void *user, const char *name, const struct st_set *files), void *user,
               struct dl_err *e)
{
    return p->cls->check(p, part, user, e);
}

int64_t pipe_latent_count(const struct pipe *p, int width, int height)
{
    return (int64_t)(width / p->latent_factor) * (height / p->latent_factor) * p->latent_c;
}

int pipe_noise(const struct pipe *p, struct dl_rng *g, int width, int height, int type, float *out, struct dl_err *e)
{
    int64_t pixels = (int64_t)(width / p->latent_factor) * (height / p->latent_factor), c = p->latent_c;
    float *planes = malloc((size_t)(pixels * c) * sizeof *planes); /* torch's order: [c][h][w] */
    if (!planes) return dl_fail(e, DL_ENOMEM, "no memory for noise of %lld values", (long long)(pixels * c));
    rng_normal(g, planes, pixels * c, type);
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t j = 0; j < c; j++) out[i * c + j] = planes[j * pixels + i];
    free(planes);
    return 0;
}

void text_states_close(struct text_states st[PIPE_ENCODERS])
{
    for (int i = 0; i < PIPE_ENCODERS; i++) {
        free(st[i].hidden), free(st[i].final), free(st[i].ids), free(st[i].mask), free(st[i].truncated);
        st[i] = (struct text_states){0};
    }
}

void pipe_cond_close(struct pipe_cond *c)
{
    free(c->text);
    *c = (struct pipe_cond){0};
}
