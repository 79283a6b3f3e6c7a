#include "lens/lens.h"

#include <stdlib.h>
#include <string.h>

const char *lens_negative_of(const struct pipe *p, const struct lens_prompt *prompt)
{
    return prompt->negative ? prompt->negative : p->zero_negative ? NULL : "";
}

static bool same_negative(const struct pipe *p, const struct lens_prompt *a, const struct lens_prompt *b)
{
    const char *s = lens_negative_of(p, a), *t = lens_negative_of(p, b);
    return s && t ? !strcmp(s, t) : s == t;
}

int lens_conds_open(struct lens_conds *c, const struct pipe *p, const struct lens_prompt *prompt, int n_prompts,
                    int n_layers, struct dl_err *e)
{
    *c = (struct lens_conds){.n_prompts = n_prompts, .n_layers = n_layers};
    c->cond = calloc((size_t)n_prompts * (size_t)n_layers, sizeof *c->cond);
    c->negative = calloc((size_t)n_prompts, sizeof *c->negative);
    c->negative_of = calloc((size_t)n_prompts, sizeof *c->negative_of);
    if (!c->cond || !c->negative || !c->negative_of) {
        lens_conds_close(c);
        return dl_fail(e, DL_ENOMEM, "no memory for the conditions of %d prompts", n_prompts);
    }
    for (int i = 0; i < n_prompts; i++) {
        int j = 0;
        while (j < i && !same_negative(p, &prompt[j], &prompt[i])) j++;
        c->negative_of[i] = j < i ? c->negative_of[j] : c->n_negatives++;
    }
    return 0;
}

void lens_conds_close(struct lens_conds *c)
{
    for (int64_t i = 0; c->cond && i < (int64_t)c->n_prompts * c->n_layers; i++) pipe_cond_close(&c->cond[i]);
    for (int i = 0; c->negative && i < c->n_negatives; i++) pipe_cond_close(&c->negative[i]);
    free(c->cond), free(c->negative), free(c->negative_of);
    *c = (struct lens_conds){0};
}

const char *lens_negative(const struct lens_conds *c, const struct pipe *p, const struct lens_prompt *prompt, int i)
{
    for (int j = 0; j < c->n_prompts; j++)
        if (c->negative_of[j] == i) return lens_negative_of(p, &prompt[j]);
    return NULL;
}

static int encode_prompt(struct pipe *p, const struct lens_text *t, int i, struct lens_conds *c, struct dl_err *e)
{
    struct text_states st[PIPE_ENCODERS] = {0};
    const char *text = t->prompt[i].text;
    int rc = pipe_encode(p, text, &t->lens, st, e);
    for (int j = 0; j < t->n_layers && rc == 0; j++)
        rc = pipe_condition(p, st, &t->lens, t->k[j], &c->cond[(int64_t)i * t->n_layers + j], e);
    if (rc == 0 && t->seen) rc = t->seen(t->user, t->first + i, text, st, e);
    text_states_close(st);
    return rc;
}

/* A negative takes the ordinary encoding, whatever the lens does. */
static int encode_negative(struct pipe *p, const struct lens_text *t, int i, struct lens_conds *c, struct dl_err *e)
{
    struct text_states st[PIPE_ENCODERS] = {0};
    const char *text = lens_negative(c, p, t->prompt, i);
    if (!text) return pipe_cond_open(p, &c->negative[i], e);
    int rc = pipe_encode(p, text, NULL, st, e);
    if (rc == 0) rc = pipe_condition(p, st, NULL, 0, &c->negative[i], e);
    if (rc == 0 && t->seen) rc = t->seen(t->user, -1 - i, text, st, e);
    text_states_close(st);
    return rc;
}

/* Tells the pipe of all texts that are about to come. Negatives are encoded without a lens; what that changes is which
 * encoder gets which text, and not where several texts would share a pass. */
static int announce(struct pipe *p, const struct lens_text *t, const struct lens_conds *c, int n, struct dl_err *e)
{
    const char **text = calloc((size_t)n, sizeof *text);
    int m = 0;
    if (!text) return dl_fail(e, DL_ENOMEM, "no memory for a list of %d texts", n);
    for (int i = 0; i < n; i++) {
        const char *s = i < t->n_prompts ? t->prompt[i].text : lens_negative(c, p, t->prompt, i - t->n_prompts);
        if (s) text[m++] = s;
    }
    int rc = pipe_announce(p, text, m, &t->lens, e);
    free(text);
    return rc;
}

int lens_encode(struct pipe *p, const struct lens_text *t, struct lens_conds *c, struct dl_err *e)
{
    if (lens_conds_open(c, p, t->prompt, t->n_prompts, t->n_layers, e) < 0) return -1;
    c->first = t->first;
    int rc = 0, n = t->n_prompts + (t->guided ? c->n_negatives : 0);
    rc = announce(p, t, c, n, e);
    for (int i = 0; i < n && rc == 0; i++) {
        if (t->stop && *t->stop)
            rc = dl_fail(e, DL_EINTERRUPT, "interrupted");
        else
            rc = i < t->n_prompts ? encode_prompt(p, t, i, c, e) : encode_negative(p, t, i - t->n_prompts, c, e);
    }
    if (rc < 0) lens_conds_close(c);
    return rc;
}
