#include "pipelines/flux_pipe.h"

#include <stdlib.h>
#include <string.h>

/* ---- text ---- */

static int flux_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e)
{
    const struct flux_pipe *s = p->impl;
    return encoder ? enc_t5_tokens(&s->t5, text, t, e) : enc_clip_tokens(&s->clip, p, text, t, e);
}

static int encode_clip(struct pipe *p, const char *text, struct text_states *st, struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    size_t bytes = (size_t)s->clip.cfg.width * sizeof(float);
    if (enc_clip_encode(&s->clip, p, text, st, e) < 0) return -1;
    st->pooled = malloc(bytes);
    if (!st->pooled) return dl_fail(e, DL_ENOMEM, "no memory for a pooled vector");
    memcpy(st->pooled, st->final + (int64_t)st->eos * st->width, bytes);
    st->pooled_width = st->width;
    return 0;
}

static int encode_one(struct pipe *p, int q, const char *text, struct text_states *st, struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    return q ? enc_t5_encode_next(&s->t5, p, text, st, e) : encode_clip(p, text, st, e);
}

static void *copy_of(const void *from, size_t bytes)
{
    void *to = from ? malloc(bytes ? bytes : 1) : NULL;
    if (to) memcpy(to, from, bytes);
    return to;
}

static int states_copy(struct text_states *to, const struct text_states *from, struct dl_err *e)
{
    size_t tokens = (size_t)from->tokens, state = tokens * (size_t)from->width * sizeof(float);
    *to = *from;
    to->hidden = copy_of(from->hidden, state * (size_t)(from->blocks + 1));
    to->final = copy_of(from->final, state);
    to->ids = copy_of(from->ids, tokens * sizeof *from->ids);
    to->mask = copy_of(from->mask, tokens);
    to->pooled = copy_of(from->pooled, (size_t)from->pooled_width * sizeof(float));
    to->truncated = copy_of(from->truncated, from->truncated ? strlen(from->truncated) + 1 : 0);
    bool whole = to->hidden && to->final && to->ids && to->mask && (to->pooled || !from->pooled) &&
                 (to->truncated || !from->truncated);
    return whole ? 0 : dl_fail(e, DL_ENOMEM, "no memory for hidden states of %lld bytes", (long long)state);
}

/* Several prompts share the other encoder's empty one. */
static int encode_empty(struct pipe *p, int q, struct text_states *st, struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    if (!s->empty[q].hidden && encode_one(p, q, "", &s->empty[q], e) < 0) return -1;
    return states_copy(st, &s->empty[q], e);
}

static int flux_announce(struct pipe *p, const char *const *text, int n, const struct pipe_lens *l, struct dl_err *e)
{
    bool fed = !l || l->encoder == 1 || l->other_prompt; /* else T5 sees the empty text alone */
    return enc_t5_announce(&((struct flux_pipe *)p->impl)->t5, text, fed ? n : 0, e);
}

static int flux_encode(struct pipe *p, const char *text, const struct pipe_lens *l,
                       struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    for (int q = 0; q < 2; q++) {
        bool empty = l && l->encoder != q && !l->other_prompt;
        if ((empty ? encode_empty(p, q, &st[q], e) : encode_one(p, q, text, &st[q], e)) < 0) return -1;
    }
    return 0;
}

/* The text that the transformer is fed: out [tokens][width]. */
static int seen_text(struct pipe *p, const struct text_states *st, const struct pipe_lens *l, int k, float *out,
                     struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    bool studied = l && l->encoder == 1;
    const float *from = studied ? enc_state(st, k) : st->final;
    if (studied ? l->norm : !from) return enc_t5_norm(&s->t5, p, studied ? from : enc_state(st, st->blocks), out, e);
    memcpy(out, from, (size_t)st->tokens * (size_t)st->width * sizeof *out);
    return 0;
}

static int seen_pooled(struct pipe *p, const struct text_states *st, const struct pipe_lens *l, int k, float *out,
                       struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    bool studied = l && l->encoder == 0;
    const float *from = enc_state(st, studied ? k : st->blocks);
    int64_t at = (int64_t)st->eos * st->width;
    size_t bytes = (size_t)st->width * sizeof *out;
    if (!studied && st->pooled) {
        memcpy(out, st->pooled, bytes);
        return 0;
    }
    if (studied && !l->norm) {
        memcpy(out, from + at, bytes);
        return 0;
    }
    float *normed = malloc((size_t)st->tokens * bytes);
    if (!normed) return dl_fail(e, DL_ENOMEM, "no memory for a pooled vector");
    int rc = enc_clip_norm(&s->clip, p, from, normed, e);
    if (rc == 0) memcpy(out, normed + at, bytes);
    free(normed);
    return rc;
}

static int flux_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], const struct pipe_lens *l, int k,
                          struct pipe_cond *c, struct dl_err *e)
{
    if (seen_pooled(p, &st[0], l, k, c->pooled, e) < 0) return -1;
    return seen_text(p, &st[1], l, k, c->text, e);
}

static int flux_plan_text(struct pipe *p, int64_t *weight_bytes, int64_t *work_bytes, struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    s->t5.resident = s->dn.gen.resident;
    if (enc_clip_plan(&s->clip, p, e) < 0 || enc_t5_plan(&s->t5, p, 1, e) < 0) return -1;
    *weight_bytes = s->clip.clip.weights.pack_bytes + enc_t5_weight_bytes(&s->t5);
    *work_bytes = s->clip.plan_bytes + s->t5.plan_bytes;
    return 0;
}

static void flux_drop_text(struct pipe *p)
{
    struct flux_pipe *s = p->impl;
    enc_clip_drop(&s->clip, p);
    enc_t5_drop(&s->t5, p);
    text_states_close(s->empty);
}

/* ---- denoiser ---- */

static int bind_flux(void *user, struct bind *b, struct dl_err *e)
{
    struct flux_pipe *s = user;
    return flux_bind(&s->flux, &s->cfg, b, e);
}

static int open_transformer(struct pipe *p, struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    if (!s->cfg.guidance && s->dn.gen.guidance != 0) /* 0 also where nothing is planned yet */
        return dl_fail(e, DL_EUSAGE,
                       "--guidance %g: %s does not take a guidance (guidance_embeds is false, as in FLUX.1-schnell); "
                       "only 0 is possible",
                       (double)s->dn.gen.guidance, p->title);
    return net_open(&s->net, p, "transformer", &s->flux.weights, bind_flux, s, e);
}

static struct dl_wset *weights(struct pipe *p) { return &((struct flux_pipe *)p->impl)->flux.weights; }
static struct dl_wset *prep(struct pipe *p) { return &((struct flux_pipe *)p->impl)->flux.prep; }

/* Rows of a table for n conditions. */
static int rows_for(const struct flux_pipe *s, int n) { return s->dn.gen.one_pooled ? 1 : n; }

static void lay_out(struct pipe *p)
{
    struct flux_pipe *s = p->impl;
    const struct dn *d = &s->dn;
    struct dl_run *r = &s->dn.run;
    int steps = d->table->n;
    float *times = realloc(s->times, (size_t)steps * sizeof *times);
    if (!times) {
        dl_fail(&r->err, DL_ENOMEM, "no memory for %d timesteps", steps);
        return;
    }
    s->times = times;
    for (int i = 0; i < steps; i++) times[i] = flux_time(d->times[i], r->t);
    s->guide = flux_guide(d->gen.guidance, r->t);
    s->text = dl_act_lo(r, r->t, d->gen.conds, 1, p->cond_tokens, s->cfg.width);
    s->table = dl_arena_lo(&r->arena, flux_table_bytes(&s->flux, steps, rows_for(s, d->gen.conds)));
    s->rope = dl_arena_lo(&r->arena, 4 * flux_rope_count(&s->cfg, p->cond_tokens, d->latent_h, d->latent_w));
    s->table_ready = false;
}

/* The positions' cosines and sines, which depend on the size alone. */
static void prog_steps(struct pipe *p)
{
    struct flux_pipe *s = p->impl;
    struct dl_run *r = &s->dn.run;
    int h = s->dn.latent_h, w = s->dn.latent_w;
    int64_t bytes = 4 * flux_rope_count(&s->cfg, p->cond_tokens, h, w);
    if (dl_run_is_dry(r) || !dl_run_ok(r)) return;
    float *turns = malloc((size_t)bytes);
    if (!turns) {
        dl_fail(&r->err, DL_ENOMEM, "no memory for rotary positions of %lld bytes", (long long)bytes);
        return;
    }
    flux_rope(&s->cfg, p->cond_tokens, h, w, turns);
    p->be->upload(p->ctx, s->rope, turns, bytes, &r->err);
    free(turns);
}

/* Whether the table is that of these conditions; if not, remembers of which it will be. */
static int group(struct pipe *p, const struct pipe_cond *c, int n, struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    int rows = rows_for(s, n);
    size_t each = (size_t)s->cfg.pooled_c, bytes = each * sizeof(float);
    bool same = s->table_ready && s->table_rows == rows;
    for (int i = 1; i < n && rows == 1; i++)
        if (memcmp(c[i].pooled, c[0].pooled, bytes))
            return dl_fail(e, DL_EFAIL, "conditions with one pooled vector were planned, and these have several");
    for (int i = 0; i < rows && same; i++) same = !memcmp(s->pooled + (size_t)i * each, c[i].pooled, bytes);
    if (same) return 0;
    s->table_ready = false, s->table_rows = rows;
    float *keep = realloc(s->pooled, (size_t)rows * bytes);
    if (!keep) return dl_fail(e, DL_ENOMEM, "no memory for %d pooled vectors", rows);
    s->pooled = keep;
    for (int i = 0; i < rows; i++) memcpy(keep + (size_t)i * each, c[i].pooled, bytes);
    return 1;
}

static void prog_conditions(struct pipe *p, dl_act text, dl_act pooled)
{
    struct flux_pipe *s = p->impl;
    struct dl_run *r = &s->dn.run;
    flux_text(r, &s->flux, text, dl_act_rows(s->text, 0, text.n));
    if (s->table_ready) return;
    dl_act rows = dn_cast(r, dl_act_rows(pooled, 0, rows_for(s, pooled.n)));
    flux_steps(r, &s->flux, s->times, s->dn.table->n, &s->guide, rows, s->table);
    s->table_ready = !dl_run_is_dry(r) && dl_run_ok(r);
}

static void prog_step(struct pipe *p, const struct dn_batch *b, dl_act x, dl_act eps)
{
    struct flux_pipe *s = p->impl;
    flux_step(&s->dn.run, &s->flux, x,
              &(struct flux_rows){.n = b->rows,
                                  .lat_row = b->lat_row,
                                  .cond_row = b->cond_row,
                                  .text = dl_act_rows(s->text, 0, s->dn.conds),
                                  .table = s->table,
                                  .steps = s->dn.table->n,
                                  .table_conds = rows_for(s, s->dn.conds),
                                  .rope = s->rope},
              eps);
}

static void close_transformer(struct pipe *p)
{
    struct flux_pipe *s = p->impl;
    flux_close(&s->flux);
    net_close(&s->net);
}

static const struct dn_net net = {.open = open_transformer,
                                  .weights = weights,
                                  .lay_out = lay_out,
                                  .steps = prog_steps,
                                  .conditions = prog_conditions,
                                  .prep = prep,
                                  .group = group,
                                  .step = prog_step,
                                  .close = close_transformer};

/* ---- the whole ---- */

static int flux_check(struct pipe *p, net_listener *part, void *user, struct dl_err *e)
{
    struct flux_pipe *s = p->impl;
    int rc = net_tell(&s->clip.net, enc_clip_bind(&s->clip, p, e), part, user);
    rc |= net_tell(&s->t5.net, enc_t5_bind(&s->t5, p, e), part, user);
    rc |= net_tell(&s->net, open_transformer(p, e), part, user);
    return rc | net_tell(&s->dn.vae_net, dn_open_vae(p, e), part, user);
}

/* That the parts fit each other. */
static int check_widths(struct pipe *p, struct dl_err *e)
{
    const struct flux_pipe *s = p->impl;
    const struct flux_config *c = &s->cfg;
    if (c->text_c != s->t5.cfg.width)
        return dl_fail(e, DL_EINPUT, "%s: the transformer takes text of width %d, text_encoder_2 gives %d", p->dir.path,
                       c->text_c, s->t5.cfg.width);
    if (c->pooled_c != s->clip.cfg.width)
        return dl_fail(e, DL_EINPUT, "%s: the transformer takes a pooled vector of width %d, text_encoder gives %d",
                       p->dir.path, c->pooled_c, s->clip.cfg.width);
    if (c->in_c != 4 * s->dn.vae_cfg.latent_c)
        return dl_fail(e, DL_EINPUT,
                       "%s: the transformer takes %d channels, and 2 x 2 pixels of the VAE's %d make %d; control and "
                       "fill checkpoints cannot be run",
                       p->dir.path, c->in_c, s->dn.vae_cfg.latent_c, 4 * s->dn.vae_cfg.latent_c);
    return 0;
}

static int flux_open(struct pipe *p, struct dl_err *e)
{
    static const char *const parts[] = {"tokenizer",   "text_encoder", "tokenizer_2", "text_encoder_2",
                                        "transformer", "vae",          "scheduler"};
    struct flux_pipe *s = p->impl = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "no memory for a model");
    p->dn = &s->dn;
    s->dn.net = &net, s->dn.flow = s->dn.has_vae = true;
    p->latent_patch = 2;
    int tokens = p->max_tokens ? p->max_tokens : FLUX_TOKENS;
    if (tokens > FLUX_TOKENS) return dl_fail(e, DL_EUSAGE, "--max-tokens %d: FLUX takes up to %d", tokens, FLUX_TOKENS);
    if (pipe_needs(p, parts, sizeof parts / sizeof *parts, e) < 0 ||
        enc_clip_open(&s->clip, p, "text_encoder", "tokenizer", e) < 0 ||
        enc_t5_open(&s->t5, p, "text_encoder_2", "tokenizer_2", tokens, false, e) < 0 ||
        NET_CONFIG(p, "transformer", "config.json", flux_config_read, &s->cfg, e) < 0 ||
        NET_CONFIG(p, "vae", "config.json", vae_config_read, &s->dn.vae_cfg, e) < 0 || dn_read_scheduler(p, e) < 0 ||
        check_widths(p, e) < 0)
        return -1;
    s->dn.vae_overflows = s->dn.vae_cfg.force_upcast;
    p->encoder[0] = enc_clip_facts(&s->clip), p->encoder[1] = enc_t5_facts(&s->t5);
    p->encoder[0].pooled = s->clip.cfg.width;
    p->n_encoders = 2, p->studied = 1;
    p->cond_tokens = s->t5.tokens, p->cond_width = s->t5.cfg.width, p->cond_pooled = s->clip.cfg.width;
    p->latent_c = s->dn.vae_cfg.latent_c, p->latent_factor = vae_factor(&s->dn.vae_cfg);
    p->size_multiple = p->latent_factor * p->latent_patch;
    p->embedded_guidance = true;
    p->honours = PIPE_OTHER | PIPE_MAX_TOKENS | PIPE_RESIDENT | PIPE_VAE;
    /* schnell: the tutorial's values; dev: diffusers'. */
    p->def = (struct pipe_defaults){.width = s->cfg.guidance ? 1024 : 512,
                                    .height = s->cfg.guidance ? 1024 : 512,
                                    .steps = s->cfg.guidance ? 28 : 1,
                                    .guidance = s->cfg.guidance ? 3.5f : 0,
                                    .scheduler = p->def.scheduler};
    s->dn.in_c = s->dn.out_c = s->cfg.in_c;
    dn_open(p);
    return 0;
}

static void flux_close_pipe(struct pipe *p)
{
    struct flux_pipe *s = p->impl;
    flux_drop_text(p);
    enc_clip_close(&s->clip, p);
    enc_t5_close(&s->t5, p);
    dn_close(p);
    free(s->times), free(s->pooled);
    free(s);
    p->impl = p->dn = NULL;
}

const struct pipe_class flux_class = {
    .pipeline = "FluxPipeline",
    .models = "FLUX.1 schnell and dev",
    .open = flux_open,
    .tokens = flux_tokens,
    .announce = flux_announce,
    .encode = flux_encode,
    .condition = flux_condition,
    .plan_text = flux_plan_text,
    .drop_text = flux_drop_text,
    .check = flux_check,
    .close = flux_close_pipe,
};
