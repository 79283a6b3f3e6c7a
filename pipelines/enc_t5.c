#include "pipelines/enc_t5.h"

#include <stdlib.h>
#include <string.h>

/* So many announced texts share a pass over streamed weights: more would save little and could not be interrupted. */
enum { AHEAD = 16 };

struct enc_t5_ready {
    char *text;
    struct text_states st[PIPE_ENCODERS]; /* the first is used */
};

static const int64_t small_model_bytes = (int64_t)2 << 30, states_bytes = (int64_t)1 << 30;

/* Weights in f32, near enough. */
static int64_t f32_bytes(const struct t5_config *c)
{
    int64_t inner = (int64_t)c->heads * c->head_dim;
    return 4 * (c->layers * (4 * inner + 3 * (int64_t)c->ff) * c->width + (int64_t)c->vocab * c->width);
}

int enc_t5_open(struct enc_t5 *c, struct pipe *p, const char *folder, const char *tokenizer, int tokens, bool masked,
                struct dl_err *e)
{
    c->folder = folder, c->tokens = tokens, c->masked = masked;
    if (NET_CONFIG(p, folder, "config.json", t5_config_read, &c->cfg, e) < 0) return -1;
    bool bf16 = f32_bytes(&c->cfg) > small_model_bytes && p->be->supports(p->ctx, DL_BF16);
    c->type = bf16 ? DL_BF16 : DL_F32;
    dl_run_open(&c->run, p->be, p->ctx, c->type);
    char *dir = model_dir_join(&p->dir, tokenizer, NULL, e);
    if (!dir) return -1;
    int rc = t5_tokens_open(&c->tok, dir, e);
    free(dir);
    if (rc < 0) return -1;
    return enc_check_vocab(p, tokenizer, t5_tokens_vocab_size(c->tok), c->cfg.vocab, e);
}

void enc_t5_close(struct enc_t5 *c, struct pipe *p)
{
    enc_t5_drop(c, p);
    t5_tokens_close(c->tok);
    dl_run_close(&c->run);
    c->tok = NULL;
}

struct pipe_encoder enc_t5_facts(const struct enc_t5 *c)
{
    return (struct pipe_encoder){
        .folder = c->folder, .blocks = c->cfg.layers, .width = c->cfg.width, .tokens = c->tokens};
}

static int bind_t5(void *user, struct bind *b, struct dl_err *e)
{
    struct enc_t5 *c = user;
    return t5_bind(&c->t5, &c->cfg, b, e);
}

int enc_t5_bind(struct enc_t5 *c, struct pipe *p, struct dl_err *e)
{
    return net_open(&c->net, p, c->folder, &c->t5.weights, bind_t5, c, e);
}

/* All states of n texts at the arena's low end, then the normed last ones. */
static void prog_encode(struct enc_t5 *c, const int32_t *ids, const uint8_t *mask, int n, dl_act *states, dl_act *final)
{
    struct dl_run *r = &c->run;
    int last = c->cfg.layers * n;
    *states = dl_act_lo(r, DL_F32, last + n, 1, c->tokens, c->cfg.width);
    *final = dl_act_lo(r, DL_F32, n, 1, c->tokens, c->cfg.width);
    t5_run(r, &c->t5, ids, mask, n, c->cfg.layers, *states);
    t5_final(r, &c->t5, dl_act_rows(*states, last, n), *final);
}

/* The norm alone, as replaying stored states needs it: nothing else of the encoder is then loaded. */
static dl_act norm_input(struct enc_t5 *c) { return dl_act_lo(&c->run, DL_F32, 1, 1, c->tokens, c->cfg.width); }

static int texts_at_once(const struct enc_t5 *c, int n)
{
    int64_t one = (int64_t)(c->cfg.layers + 1) * c->tokens * c->cfg.width * 4, most = states_bytes / one;
    return most < 1 ? 1 : n < most ? n : (int)most;
}

static bool to_be_streamed(const struct enc_t5 *c, const struct pipe *p)
{
    if (c->resident != PIPE_RESIDENT_AUTO) return c->resident == PIPE_RESIDENT_STREAM;
    if (c->sizes.resident_bytes <= small_model_bytes) return false;
    return !p->be->lanes || c->sizes.resident_bytes + c->plan_bytes > p->be->free_bytes(p->ctx) / 2;
}

int enc_t5_plan(struct enc_t5 *c, struct pipe *p, int n, struct dl_err *e)
{
    n = texts_at_once(c, n);
    if (enc_t5_bind(c, p, e) < 0) return -1;
    int32_t *ids = calloc((size_t)n * (size_t)c->tokens, sizeof *ids);
    uint8_t *mask = calloc((size_t)n, (size_t)c->tokens);
    dl_act states, final;
    c->run.t = (uint8_t)c->type;
    dl_run_dry(&c->run);
    if (ids && mask)
        prog_encode(c, ids, c->masked ? mask : NULL, n, &states, &final);
    else
        dl_fail(&c->run.err, DL_ENOMEM, "no memory for the tokens of %d texts", n);
    free(ids), free(mask);
    if (dl_run_check(&c->run, e) < 0) return -1;
    c->plan_bytes = c->run.arena.peak_bytes;
    c->sizes = dl_stream_sizes(&c->t5.weights);
    if (!c->plan_texts) c->streamed = to_be_streamed(c, p); /* with more texts it stays as it is */
    c->plan_texts = n;
    return 0;
}

int64_t enc_t5_weight_bytes(const struct enc_t5 *c)
{
    return c->streamed ? c->sizes.streamed_bytes : c->sizes.resident_bytes;
}

int enc_t5_tokens(const struct enc_t5 *c, const char *text, struct token_list *t, struct dl_err *e)
{
    return t5_tokens_run(c->tok, text, strlen(text), c->tokens, t, e);
}

/* Everything about a text but what the encoder computes. */
static int describe(const struct enc_t5 *c, const char *text, struct text_states *st, struct dl_err *e)
{
    struct token_list t = {0};
    const struct pipe_encoder facts = enc_t5_facts(c);
    if (enc_t5_tokens(c, text, &t, e) < 0) return -1;
    return enc_describe(st, &facts, &t, c->masked ? t.n_pieces : c->tokens, e);
}

/* Results of n texts to their places. */
static int fetch(struct enc_t5 *c, struct pipe *p, dl_act states, dl_act final, int n, struct text_states *const *st,
                 struct dl_err *e)
{
    int64_t count = (int64_t)c->tokens * c->cfg.width, bytes = count * (int64_t)sizeof(float);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k <= c->cfg.layers; k++)
            if (p->be->download(p->ctx, st[i]->hidden + k * count, dl_act_rows(states, k * n + i, 1).p, bytes, e) < 0)
                return -1;
        if (p->be->download(p->ctx, st[i]->final, dl_act_rows(final, i, 1).p, bytes, e) < 0) return -1;
    }
    return 0;
}

/* One pass over the weights. ids and mask [n][tokens]. */
static int pass(struct enc_t5 *c, struct pipe *p, const int32_t *ids, const uint8_t *mask, int n,
                struct text_states *const *st, struct dl_err *e)
{
    dl_act states, final;
    if (c->plan_texts < n && enc_t5_plan(c, p, n, e) < 0) return -1;
    if (!c->streamed && dl_run_load(&c->run, &c->t5.weights, e) < 0) return -1;
    if (c->streamed && !c->stream && dl_stream_open(&c->stream, &c->run, &c->t5.weights, 0, e) < 0) return -1;
    if (enc_work_bind(&c->work, p, &c->run, c->plan_bytes, e) < 0) return -1;
    c->run.stream = c->stream;
    if (c->stream && dl_stream_begin(c->stream, 0, t5_stages(c->cfg.layers), 1, e) < 0) return -1;
    prog_encode(c, ids, c->masked ? mask : NULL, n, &states, &final);
    if (c->stream) dl_stream_end(c->stream);
    if (dl_run_check(&c->run, e) < 0 || p->be->sync(p->ctx, e) < 0) return -1;
    return fetch(c, p, states, final, n, st, e);
}

int enc_t5_encode(struct enc_t5 *c, struct pipe *p, const char *const *text, int n, struct text_states *const *st,
                  struct dl_err *e)
{
    int most = texts_at_once(c, n), rc = 0;
    int64_t count = (int64_t)most * c->tokens;
    for (int i = 0; i < n; i++) *st[i] = (struct text_states){0};
    int32_t *ids = malloc((size_t)count * sizeof *ids);
    uint8_t *mask = malloc((size_t)count);
    if (!ids || !mask) rc = dl_fail(e, DL_ENOMEM, "no memory for the tokens of %d texts", most);
    for (int from = 0; from < n && rc == 0; from += most) {
        int some = n - from < most ? n - from : most;
        for (int i = 0; i < some && rc == 0; i++) {
            const struct text_states *s = st[from + i];
            rc = describe(c, text[from + i], st[from + i], e);
            if (rc < 0) break;
            memcpy(ids + i * c->tokens, s->ids, (size_t)c->tokens * sizeof *ids);
            memcpy(mask + i * c->tokens, s->mask, (size_t)c->tokens);
        }
        if (rc == 0) rc = pass(c, p, ids, mask, some, st + from, e);
    }
    free(ids), free(mask);
    return rc;
}

static void forget_ahead(struct enc_t5 *c)
{
    for (int i = 0; i < c->n_ahead; i++) free(c->ahead[i]);
    for (int i = 0; i < c->n_ready; i++) {
        free(c->ready[i].text);
        text_states_close(c->ready[i].st);
    }
    free(c->ahead), free(c->ready);
    c->ahead = NULL, c->ready = NULL;
    c->n_ahead = c->next_ahead = c->n_ready = 0;
}

int enc_t5_announce(struct enc_t5 *c, const char *const *text, int n, struct dl_err *e)
{
    forget_ahead(c);
    if (n == 0) return 0;
    c->ahead = calloc((size_t)n, sizeof *c->ahead);
    c->ready = calloc(AHEAD, sizeof *c->ready);
    if (c->ahead && c->ready)
        for (; c->n_ahead < n && (c->ahead[c->n_ahead] = strdup(text[c->n_ahead])); c->n_ahead++) {
        }
    if (c->n_ahead == n) return 0;
    forget_ahead(c);
    return dl_fail(e, DL_ENOMEM, "no memory for a list of %d texts", n);
}

static bool take_ready(struct enc_t5 *c, const char *text, struct text_states *st)
{
    for (int i = 0; i < c->n_ready; i++) {
        if (strcmp(c->ready[i].text, text)) continue;
        free(c->ready[i].text);
        *st = c->ready[i].st[0];
        c->ready[i] = c->ready[--c->n_ready];
        return true;
    }
    return false;
}

int enc_t5_encode_next(struct enc_t5 *c, struct pipe *p, const char *text, struct text_states *st, struct dl_err *e)
{
    const char *some[AHEAD] = {text};
    struct text_states *to[AHEAD] = {st};
    int n = 1, first = c->n_ready;
    if (take_ready(c, text, st)) return 0;
    if (!c->plan_texts && enc_t5_plan(c, p, 1, e) < 0) return -1;
    int most = c->streamed ? texts_at_once(c, AHEAD) : 1;
    if (c->next_ahead < c->n_ahead && !strcmp(c->ahead[c->next_ahead], text)) c->next_ahead++;
    for (; n < most && first + n - 1 < AHEAD && c->next_ahead < c->n_ahead; n++) {
        struct enc_t5_ready *r = &c->ready[first + n - 1];
        *r = (struct enc_t5_ready){.text = c->ahead[c->next_ahead]};
        c->ahead[c->next_ahead++] = NULL;
        c->n_ready++;
        some[n] = r->text, to[n] = r->st;
    }
    if (enc_t5_encode(c, p, some, n, to, e) == 0) return 0;
    for (int i = first; i < c->n_ready; i++) { /* what came with it is asked for again, if at all */
        free(c->ready[i].text);
        text_states_close(c->ready[i].st);
    }
    c->n_ready = first;
    return -1;
}

int enc_t5_norm(struct enc_t5 *c, struct pipe *p, const float *state, float *out, struct dl_err *e)
{
    int64_t bytes = (int64_t)c->tokens * c->cfg.width * (int64_t)sizeof(float);
    if (enc_t5_bind(c, p, e) < 0) return -1;
    dl_run_dry(&c->run);
    dl_act x = norm_input(c);
    t5_final(&c->run, &c->t5, x, x);
    if (dl_run_check(&c->run, e) < 0 || dl_run_load_unstaged(&c->run, &c->t5.weights, e) < 0) return -1;
    if (enc_work_bind(&c->work, p, &c->run, c->run.arena.peak_bytes, e) < 0) return -1;
    x = norm_input(c);
    if (!x.p || p->be->upload(p->ctx, x.p, state, bytes, e) < 0) return -1;
    t5_final(&c->run, &c->t5, x, x);
    if (dl_run_check(&c->run, e) < 0) return -1;
    return p->be->download(p->ctx, out, x.p, bytes, e);
}

void enc_t5_drop(struct enc_t5 *c, struct pipe *p)
{
    forget_ahead(c);
    dl_stream_close(c->stream);
    c->stream = c->run.stream = NULL;
    enc_work_free(&c->work, p);
    c->plan_bytes = 0, c->plan_texts = 0;
    t5_close(&c->t5);
    net_close(&c->net);
}
