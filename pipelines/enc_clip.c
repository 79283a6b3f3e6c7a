#include "pipelines/enc_clip.h"

#include <stdlib.h>
#include <string.h>

int enc_clip_open(struct enc_clip *c, struct pipe *p, const char *folder, const char *tokenizer, struct dl_err *e)
{
    c->folder = folder;
    dl_run_open(&c->run, p->be, p->ctx, DL_F32);
    if (NET_CONFIG(p, folder, "config.json", clip_config_read, &c->cfg, e) < 0) return -1;
    char *dir = model_dir_join(&p->dir, tokenizer, NULL, e);
    if (!dir) return -1;
    int rc = clip_bpe_open(&c->bpe, dir, e);
    free(dir);
    if (rc < 0) return -1;
    if (enc_check_vocab(p, tokenizer, clip_bpe_vocab_size(c->bpe), c->cfg.vocab, e) < 0) return -1;
    c->tokens = clip_bpe_max_length(c->bpe) < c->cfg.positions ? clip_bpe_max_length(c->bpe) : c->cfg.positions;
    return 0;
}

void enc_clip_close(struct enc_clip *c, struct pipe *p)
{
    enc_clip_drop(c, p);
    clip_bpe_close(c->bpe);
    dl_run_close(&c->run);
    c->bpe = NULL;
}

struct pipe_encoder enc_clip_facts(const struct enc_clip *c)
{
    return (struct pipe_encoder){
        .folder = c->folder, .blocks = c->cfg.layers, .width = c->cfg.width, .tokens = c->tokens};
}

static int bind_clip(void *user, struct bind *b, struct dl_err *e)
{
    struct enc_clip *c = user;
    return clip_bind(&c->clip, &c->cfg, b, e);
}

int enc_clip_bind(struct enc_clip *c, struct pipe *p, struct dl_err *e)
{
    return net_open(&c->net, p, c->folder, &c->clip.weights, bind_clip, c, e);
}

/* All states of one text, at the arena's low end, then the normed last one. */
static void prog_encode(struct enc_clip *c, const int32_t *ids, dl_act *states, dl_act *final)
{
    struct dl_run *r = &c->run;
    int n = c->cfg.layers + 1;
    *states = dl_act_lo(r, DL_F32, n, 1, c->tokens, c->cfg.width);
    *final = dl_act_lo(r, DL_F32, 1, 1, c->tokens, c->cfg.width);
    clip_run(r, &c->clip, ids, 1, c->cfg.layers, *states);
    clip_final(r, &c->clip, dl_act_rows(*states, n - 1, 1), *final);
}

/* The norm alone, as replaying stored states needs it: nothing else of the encoder is then loaded. */
static dl_act norm_input(struct enc_clip *c) { return dl_act_lo(&c->run, DL_F32, 1, 1, c->tokens, c->cfg.width); }

int enc_clip_plan(struct enc_clip *c, struct pipe *p, struct dl_err *e)
{
    if (enc_clip_bind(c, p, e) < 0) return -1;
    int32_t *ids = calloc((size_t)c->tokens, sizeof *ids);
    if (!ids) return dl_fail(e, DL_ENOMEM, "no memory for token ids");
    dl_act states, final;
    dl_run_dry(&c->run);
    prog_encode(c, ids, &states, &final);
    free(ids);
    if (dl_run_check(&c->run, e) < 0) return -1;
    c->plan_bytes = c->run.arena.peak_bytes;
    return 0;
}

/* Loads what the dry run just asked for and binds the run to `bytes` of memory. */
static int make_ready(struct enc_clip *c, struct pipe *p, int64_t bytes, struct dl_err *e)
{
    if (dl_run_check(&c->run, e) < 0 || dl_run_load(&c->run, &c->clip.weights, e) < 0) return -1;
    return enc_work_bind(&c->work, p, &c->run, bytes, e);
}

int enc_clip_tokens(const struct enc_clip *c, const struct pipe *p, const char *text, struct token_list *t,
                    struct dl_err *e)
{
    return clip_bpe_run(c->bpe, text, strlen(text), p->text, c->tokens, t, e);
}

int enc_clip_encode(struct enc_clip *c, struct pipe *p, const char *text, struct text_states *st, struct dl_err *e)
{
    struct token_list t = {0};
    const struct pipe_encoder facts = enc_clip_facts(c);
    *st = (struct text_states){0};
    if (enc_clip_tokens(c, p, text, &t, e) < 0 || enc_describe(st, &facts, &t, c->tokens, e) < 0) return -1;

    dl_act states, final;
    if (!c->plan_bytes && enc_clip_plan(c, p, e) < 0) return -1;
    if (make_ready(c, p, c->plan_bytes, e) < 0) return -1;
    prog_encode(c, st->ids, &states, &final);
    if (dl_run_check(&c->run, e) < 0 || p->be->sync(p->ctx, e) < 0) return -1;
    if (p->be->download(p->ctx, st->hidden, states.p, dl_act_bytes(states), e) < 0) return -1;
    return p->be->download(p->ctx, st->final, final.p, dl_act_bytes(final), e);
}

int enc_clip_norm(struct enc_clip *c, struct pipe *p, const float *state, float *out, struct dl_err *e)
{
    int64_t bytes = (int64_t)c->tokens * c->cfg.width * (int64_t)sizeof(float);
    if (enc_clip_bind(c, p, e) < 0) return -1;
    dl_run_dry(&c->run);
    dl_act x = norm_input(c);
    clip_final(&c->run, &c->clip, x, x);
    if (make_ready(c, p, c->run.arena.peak_bytes, e) < 0) return -1;
    x = norm_input(c);
    if (!x.p || p->be->upload(p->ctx, x.p, state, bytes, e) < 0) return -1;
    clip_final(&c->run, &c->clip, x, x);
    if (dl_run_check(&c->run, e) < 0) return -1;
    return p->be->download(p->ctx, out, x.p, bytes, e);
}

/* The state (input) and the pooled vector at the arena's low end, the normed last state behind them. */
static void prog_pooled(struct enc_clip *c, const int32_t *eos, dl_act *state, dl_act *pooled)
{
    struct dl_run *r = &c->run;
    *state = dl_act_lo(r, DL_F32, 1, 1, c->tokens, c->cfg.width);
    *pooled = dl_act_lo(r, DL_F32, 1, 1, 1, clip_pooled_width(&c->cfg));
    dl_act final = dl_act_lo(r, DL_F32, 1, 1, c->tokens, c->cfg.width);
    clip_finish(r, &c->clip, *state, final);
    clip_pooled(r, &c->clip, final, eos, *pooled);
}

int enc_clip_pooled(struct enc_clip *c, struct pipe *p, const float *state, int eos, float *pooled, struct dl_err *e)
{
    dl_act in, out;
    int32_t end = eos;
    if (eos < 0 || eos >= c->tokens) return dl_fail(e, DL_EINPUT, "%s: no end token among the ids", c->folder);
    if (enc_clip_bind(c, p, e) < 0) return -1;
    dl_run_dry(&c->run);
    prog_pooled(c, &end, &in, &out);
    if (make_ready(c, p, c->run.arena.peak_bytes, e) < 0) return -1;
    /* The state is uploaded to where the program will look for it. */
    struct dl_mark m = dl_arena_mark(&c->run.arena);
    in = dl_act_lo(&c->run, DL_F32, 1, 1, c->tokens, c->cfg.width);
    dl_arena_release(&c->run.arena, m);
    if (!in.p || p->be->upload(p->ctx, in.p, state, dl_act_bytes(in), e) < 0) return -1;
    prog_pooled(c, &end, &in, &out);
    if (dl_run_check(&c->run, e) < 0) return -1;
    return p->be->download(p->ctx, pooled, out.p, dl_act_bytes(out), e);
}

void enc_clip_drop(struct enc_clip *c, struct pipe *p)
{
    enc_work_free(&c->work, p);
    c->plan_bytes = 0;
    clip_close(&c->clip);
    net_close(&c->net);
}
