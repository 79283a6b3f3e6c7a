#include "pipelines/denoise.h"
#include "pipelines/flux_pipe.h"
#include "pipelines/if.h"
#include "pipelines/sd.h"
#include "pipelines/sdxl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct pipe_class *const classes[] = {&sd_class, &sdxl_class, &if_class, &if2_class, &flux_class};

static const struct pipe_class *class_of(const char *name)
{
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (!strcmp(classes[i]->pipeline, name)) return classes[i];
    return NULL;
}

static void fail_class(const struct pipe *p, struct dl_err *e)
{
    char known[512] = "";
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s (%s)", i ? ", " : "", classes[i]->pipeline,
                 classes[i]->models);
    dl_fail(e, DL_EINPUT, "%s/model_index.json: this is a %s; dlens runs %s", p->dir.path, p->dir.class_name, known);
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
    p->max_tokens = o->max_tokens, p->clean_caption = o->clean_caption;
    if (model_dir_open(&p->dir, spec, e) < 0) goto fail;
    p->cls = class_of(p->dir.class_name);
    if (!p->cls) {
        fail_class(p, e);
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

int pipe_needs(const struct pipe *p, const char *const *parts, size_t n, struct dl_err *e)
{
    for (size_t i = 0; i < n; i++)
        if (!model_dir_has(&p->dir, parts[i]))
            return dl_fail(e, DL_EINPUT, "%s/model_index.json: names no %s, and a %s needs one", p->dir.path, parts[i],
                           p->cls->pipeline);
    return 0;
}

int pipe_announce(struct pipe *p, const char *const *text, int n, const struct pipe_lens *l, struct dl_err *e)
{
    return p->cls->announce ? p->cls->announce(p, text, n, l, e) : 0;
}

int pipe_encode(struct pipe *p, const char *text, const struct pipe_lens *l, struct text_states st[PIPE_ENCODERS],
                struct dl_err *e)
{
    memset(st, 0, PIPE_ENCODERS * sizeof *st);
    if (p->cls->encode(p, text, l, st, e) == 0) return 0;
    text_states_close(st);
    return -1;
}

int pipe_cond_open(const struct pipe *p, struct pipe_cond *c, struct dl_err *e)
{
    *c = (struct pipe_cond){.tokens = p->cond_tokens, .width = p->cond_width, .pooled_width = p->cond_pooled};
    c->text = calloc((size_t)c->tokens * (size_t)c->width, sizeof *c->text);
    if (c->pooled_width) c->pooled = calloc((size_t)c->pooled_width, sizeof *c->pooled);
    if (c->text && (c->pooled || !c->pooled_width)) return 0;
    pipe_cond_close(c);
    return dl_fail(e, DL_ENOMEM, "no memory for a condition");
}

int pipe_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], const struct pipe_lens *l, int k,
                   struct pipe_cond *c, struct dl_err *e)
{
    if (pipe_cond_open(p, c, e) < 0) return -1;
    if (p->cls->condition(p, st, l, k, c, e) == 0) return 0;
    pipe_cond_close(c);
    return -1;
}

int pipe_depth(const struct pipe *p, int of, int k, int q)
{
    int from = p->encoder[of].blocks, to = p->encoder[q].blocks;
    if (k >= from || from < 2) return k >= from ? to : 0;
    return (2 * k * (to - 1) + from - 1) / (2 * (from - 1)); /* rounded */
}

bool pipe_guided(const struct pipe *p, float guidance) { return guidance > 1 && !p->embedded_guidance; }

void pipe_drop_text(struct pipe *p) { p->cls->drop_text(p); }

int pipe_plan(struct pipe *p, const struct pipe_gen *g, struct pipe_plan *out, struct dl_err *e)
{
    if (g->width < p->size_multiple || g->height < p->size_multiple || g->width % p->size_multiple ||
        g->height % p->size_multiple)
        return dl_fail(e, DL_EUSAGE, "--size %dx%d: this model needs multiples of %d", g->width, g->height,
                       p->size_multiple);
    if (g->width > PIPE_SIZE_MAX || g->height > PIPE_SIZE_MAX)
        return dl_fail(e, DL_EUSAGE, "--size %dx%d: at most %d pixels a side", g->width, g->height, PIPE_SIZE_MAX);
    return dn_plan(p, g, out, e);
}

int pipe_load(struct pipe *p, struct dl_err *e) { return dn_load(p, e); }

void pipe_unload(struct pipe *p) { dn_unload(p); }

int pipe_conditions(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e)
{
    return dn_conditions(p, c, n, e);
}

int pipe_denoise(struct pipe *p, struct pipe_image *im, int n, const struct pipe_progress *pr, struct dl_err *e)
{
    return dn_denoise(p, im, n, pr, e);
}

void pipe_lowres(const struct pipe *p, int width, int height, const float *small, const float *noise, float *out)
{
    p->cls->lowres(p, width, height, small, noise, out);
}

int pipe_decode(struct pipe *p, const float *latent, uint8_t *rgb, const struct pipe_progress *pr, struct dl_err *e)
{
    return dn_decode(p, latent, rgb, pr, e);
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

/* Where channel c of pixel (y, x) lies in a latent w pixels wide. */
static int64_t latent_at(const struct pipe *p, int w, int y, int x, int c)
{
    int f = p->latent_patch;
    int64_t patch = (int64_t)(y / f) * (w / f) + x / f;
    return patch * f * f * p->latent_c + (int64_t)c * f * f + y % f * f + x % f;
}

int pipe_noise(const struct pipe *p, struct dl_rng *g, int width, int height, int type, float *out, struct dl_err *e)
{
    int64_t pixels = (int64_t)(width / p->latent_factor) * (height / p->latent_factor), c = p->latent_c;
    float *planes = malloc((size_t)(pixels * c) * sizeof *planes); /* torch's order: [c][h][w] */
    if (!planes) return dl_fail(e, DL_ENOMEM, "no memory for noise of %lld values", (long long)(pixels * c));
    rng_normal(g, planes, pixels * c, type == DL_E4M3 ? DL_BF16 : type);
    int w = width / p->latent_factor, h = height / p->latent_factor;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int64_t j = 0; j < c; j++)
                out[latent_at(p, w, y, x, (int)j)] = planes[j * pixels + (int64_t)y * w + x];
    free(planes);
    return 0;
}

void pipe_unpack(const struct pipe *p, int width, int height, const float *latent, float *out)
{
    int w = width / p->latent_factor, h = height / p->latent_factor;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int j = 0; j < p->latent_c; j++) *out++ = latent[latent_at(p, w, y, x, j)];
}

void text_states_close(struct text_states st[PIPE_ENCODERS])
{
    for (int i = 0; i < PIPE_ENCODERS; i++) {
        free(st[i].hidden), free(st[i].final), free(st[i].ids), free(st[i].mask), free(st[i].truncated);
        free(st[i].pooled), free(st[i].pooled_empty);
        st[i] = (struct text_states){0};
    }
}

void pipe_cond_close(struct pipe_cond *c)
{
    free(c->text), free(c->pooled);
    *c = (struct pipe_cond){0};
}
