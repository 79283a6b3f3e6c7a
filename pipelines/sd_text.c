/* The text phase of Stable Diffusion: tokens, all hidden states in one pass, final norm of any of them. */
#include "pipelines/sd.h"

#include <stdlib.h>
#include <string.h>

/* All states of one text, at the arena's low end, then the normed last one. */
static void prog_encode(struct sd *s, const int32_t *ids, dl_act *states, dl_act *final)
{
    struct dl_run *r = &s->text_run;
    int n = s->clip_cfg.layers + 1;
    *states = dl_act_lo(r, DL_F32, n, 1, s->tokens, s->clip_cfg.width);
    *final = dl_act_lo(r, DL_F32, 1, 1, s->tokens, s->clip_cfg.width);
    clip_run(r, &s->clip, ids, 1, s->clip_cfg.layers, *states);
    clip_final(r, &s->clip, dl_act_rows(*states, n - 1, 1), *final);
}

/* The norm alone, as replaying stored states needs it: nothing else of the encoder is then loaded. */
static dl_act norm_input(struct sd *s) { return dl_act_lo(&s->text_run, DL_F32, 1, 1, s->tokens, s->clip_cfg.width); }

int sd_plan_text(struct pipe *p, struct dl_err *e)
{
    struct sd *s = p->impl;
    if (sd_open_clip(p, e) < 0) return -1;
    int32_t *ids = calloc((size_t)s->tokens, sizeof *ids);
    if (!ids) return dl_fail(e, DL_ENOMEM, "no memory for token ids");
    dl_act states, final;
    dl_run_dry(&s->text_run);
    prog_encode(s, ids, &states, &final);
    free(ids);
    if (dl_run_check(&s->text_run, e) < 0) return -1;
    s->text_plan_bytes = s->text_run.arena.peak_bytes;
    return 0;
}

/* Measures `encode` or the norm alone, loads what it needs and binds the run to memory. */
static int open_text(struct pipe *p, bool encode, struct dl_err *e)
{
    struct sd *s = p->impl;
    if (sd_open_clip(p, e) < 0) return -1;
    if (encode) {
        if (!s->text_plan_bytes && sd_plan_text(p, e) < 0) return -1;
    } else {
        dl_run_dry(&s->text_run);
        dl_act x = norm_input(s);
        clip_final(&s->text_run, &s->clip, x, x);
    }
    int64_t bytes = encode ? s->text_plan_bytes : s->text_run.arena.peak_bytes;
    if (dl_run_check(&s->text_run, e) < 0 || dl_run_load(&s->text_run, &s->clip.weights, e) < 0) return -1;
    if (bytes > s->text_work_bytes) {
        if (s->text_work) p->be->free(p->ctx, s->text_work);
        s->text_work = NULL, s->text_work_bytes = 0;
        if (p->be->alloc(p->ctx, bytes, &s->text_work, e) < 0) return -1;
        s->text_work_bytes = bytes;
    }
    dl_run_bind(&s->text_run, s->text_work, s->text_work_bytes);
    s->text_run.tap = p->tap, s->text_run.tap_user = p->tap_user;
    return 0;
}

static int fetch(struct pipe *p, dl_act a, float **out, struct dl_err *e)
{
    int64_t bytes = dl_act_bytes(a);
    *out = malloc((size_t)bytes);
    if (!*out) return dl_fail(e, DL_ENOMEM, "no memory for hidden states of %lld bytes", (long long)bytes);
    return p->be->download(p->ctx, *out, a.p, bytes, e);
}

int sd_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e)
{
    const struct sd *s = p->impl;
    (void)encoder; /* there is one */
    return clip_bpe_run(s->bpe, text, strlen(text), p->text, s->tokens, t, e);
}

int sd_encode(struct pipe *p, const char *text, struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    struct sd *s = p->impl;
    struct token_list t = {0};
    memset(st, 0, PIPE_ENCODERS * sizeof *st);
    if (sd_tokens(p, 0, text, &t, e) < 0) return -1;
    st[0] = (struct text_states){.encoder = p->encoder[0].folder,
                                 .blocks = s->clip_cfg.layers,
                                 .tokens = s->tokens,
                                 .width = s->clip_cfg.width,
                                 .ids = t.ids,
                                 .eos = t.eos,
                                 .truncated = t.truncated};
    t.ids = NULL, t.truncated = NULL; /* now the states' */
    token_list_free(&t);
    st[0].mask = malloc((size_t)s->tokens);
    if (!st[0].mask)
        dl_fail(e, DL_ENOMEM, "no memory for a token mask");
    else
        memset(st[0].mask, 1, (size_t)s->tokens);

    dl_act states, final;
    if (!st[0].mask || open_text(p, true, e) < 0) goto fail;
    prog_encode(s, st[0].ids, &states, &final);
    if (dl_run_check(&s->text_run, e) < 0 || p->be->sync(p->ctx, e) < 0) goto fail;
    if (fetch(p, states, &st[0].hidden, e) < 0 || fetch(p, final, &st[0].final, e) < 0) goto fail;
    return 0;
fail:
    text_states_close(st);
    return -1;
}

int sd_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], int k, bool norm, struct pipe_cond *c,
                 struct dl_err *e)
{
    struct sd *s = p->impl;
    int64_t n = (int64_t)s->tokens * s->clip_cfg.width, bytes = n * (int64_t)sizeof(float);
    *c = (struct pipe_cond){.text = malloc((size_t)bytes), .tokens = s->tokens, .width = s->clip_cfg.width};
    if (!c->text) return dl_fail(e, DL_ENOMEM, "no memory for a condition");
    if (!norm) {
        memcpy(c->text, st[0].hidden + k * n, (size_t)bytes);
        return 0;
    }
    if (open_text(p, false, e) < 0) goto fail;
    dl_act x = norm_input(s);
    if (!x.p || p->be->upload(p->ctx, x.p, st[0].hidden + k * n, bytes, e) < 0) goto fail;
    clip_final(&s->text_run, &s->clip, x, x);
    if (dl_run_check(&s->text_run, e) < 0 || p->be->download(p->ctx, c->text, x.p, bytes, e) < 0) goto fail;
    return 0;
fail:
    pipe_cond_close(c);
    return -1;
}

void sd_drop_text(struct pipe *p)
{
    struct sd *s = p->impl;
    if (s->text_work) p->be->free(p->ctx, s->text_work);
    s->text_work = NULL, s->text_work_bytes = s->text_plan_bytes = 0;
    clip_close(&s->clip);
    st_set_close(s->clip_net.files);
    s->clip_net = (struct sd_net){0};
}
