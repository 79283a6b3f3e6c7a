#include "pipelines/sdxl.h"

#include <stdlib.h>
#include <string.h>

/* ---- text ---- */

static int sdxl_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e)
{
    const struct sdxl *s = p->impl;
    return enc_clip_tokens(&s->enc[encoder], p, text, t, e);
}

/* One text through the second encoder, with its pooled vector. */
static int encode_pooled(struct pipe *p, const char *text, struct text_states *st, struct dl_err *e)
{
    struct sdxl *s = p->impl;
    int width = clip_pooled_width(&s->enc[1].cfg);
    if (enc_clip_encode(&s->enc[1], p, text, st, e) < 0) return -1;
    st->pooled_width = width;
    st->pooled = malloc((size_t)width * sizeof *st->pooled);
    if (!st->pooled) return dl_fail(e, DL_ENOMEM, "no memory for a pooled vector");
    return enc_clip_pooled(&s->enc[1], p, enc_state(st, st->blocks - 1), st->eos, st->pooled, e);
}

/* The pooled vector of "", computed once. */
static int pooled_empty(struct pipe *p, float **out, struct dl_err *e)
{
    struct sdxl *s = p->impl;
    size_t bytes = (size_t)clip_pooled_width(&s->enc[1].cfg) * sizeof **out;
    if (!s->pooled_empty) {
        struct text_states st[PIPE_ENCODERS] = {0};
        int rc = encode_pooled(p, "", &st[1], e);
        if (rc == 0) s->pooled_empty = st[1].pooled, st[1].pooled = NULL;
        text_states_close(st);
        if (rc < 0) return -1;
    }
    *out = malloc(bytes);
    if (!*out) return dl_fail(e, DL_ENOMEM, "no memory for a pooled vector");
    memcpy(*out, s->pooled_empty, bytes);
    return 0;
}

static int sdxl_encode(struct pipe *p, const char *text, const struct pipe_lens *l,
                       struct text_states st[PIPE_ENCODERS], struct dl_err *e)
{
    struct sdxl *s = p->impl;
    const char *feed[2] = {text, text};
    if (l && !l->both && !l->other_prompt) feed[!l->encoder] = "";
    if (enc_clip_encode(&s->enc[0], p, feed[0], &st[0], e) < 0) return -1;
    if (encode_pooled(p, feed[1], &st[1], e) < 0) return -1;
    return pooled_empty(p, &st[1].pooled_empty, e);
}

/* The state that stands in place of encoder q's state N - 1: out [tokens][width]. */
static int seen_state(struct pipe *p, const struct text_states *st, const struct pipe_lens *l, int q, int k, float *out,
                      struct dl_err *e)
{
    struct sdxl *s = p->impl;
    bool studied = l && (l->both || l->encoder == q);
    const float *state = enc_state(st, studied ? pipe_depth(p, l->encoder, k, q) : st->blocks - 1);
    if (studied && l->norm) return enc_clip_norm(&s->enc[q], p, state, out, e);
    memcpy(out, state, (size_t)st->tokens * (size_t)st->width * sizeof *out);
    return 0;
}

/* The pooled vector beside `seen`, encoder 2's state. Of the whole encoder's it is taken from st where st has it, else
 * computed from its state N - 1, which is the same. */
static int seen_pooled(struct pipe *p, const struct text_states *st, const struct pipe_lens *l, const float *seen,
                       float *out, struct dl_err *e)
{
    struct sdxl *s = p->impl;
    bool studied = l && l->encoder == 1;
    const float *have = st->pooled, *state = enc_state(st, st->blocks - 1);
    if (studied && l->pooled == PIPE_POOLED_LENS) have = NULL, state = seen;
    if (studied && l->pooled == PIPE_POOLED_EMPTY && !(have = st->pooled_empty))
        return dl_fail(e, DL_EUSAGE, "--pooled empty: these states come without the empty prompt's pooled vector");
    if (!have) return enc_clip_pooled(&s->enc[1], p, state, st->eos, out, e);
    memcpy(out, have, (size_t)clip_pooled_width(&s->enc[1].cfg) * sizeof *out);
    return 0;
}

static int sdxl_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], const struct pipe_lens *l, int k,
                          struct pipe_cond *c, struct dl_err *e)
{
    float *seen[2] = {NULL, NULL};
    int rc = 0;
    for (int q = 0, at = 0; q < 2 && rc == 0; at += st[q++].width) {
        seen[q] = malloc((size_t)c->tokens * (size_t)st[q].width * sizeof *seen[q]);
        rc = seen[q] ? seen_state(p, &st[q], l, q, k, seen[q], e) : dl_fail(e, DL_ENOMEM, "no memory for a condition");
        for (int i = 0; i < c->tokens && rc == 0; i++)
            memcpy(c->text + (int64_t)i * c->width + at, seen[q] + (int64_t)i * st[q].width,
                   (size_t)st[q].width * sizeof *c->text);
    }
    if (rc == 0) rc = seen_pooled(p, &st[1], l, seen[1], c->pooled, e);
    free(seen[0]), free(seen[1]);
    return rc;
}

static int sdxl_plan_text(struct pipe *p, int64_t *weight_bytes, int64_t *work_bytes, struct dl_err *e)
{
    struct sdxl *s = p->impl;
    *weight_bytes = *work_bytes = 0;
    for (int q = 0; q < 2; q++) {
        if (enc_clip_plan(&s->enc[q], p, e) < 0) return -1;
        *weight_bytes += s->enc[q].clip.weights.pack_bytes, *work_bytes += s->enc[q].plan_bytes;
    }
    return 0;
}

static void sdxl_drop_text(struct pipe *p)
{
    struct sdxl *s = p->impl;
    for (int q = 0; q < 2; q++) enc_clip_drop(&s->enc[q], p);
}

/* ---- the whole ---- */

static int sdxl_check(struct pipe *p, net_listener *part, void *user, struct dl_err *e)
{
    struct sdxl *s = p->impl;
    int rc = 0;
    for (int q = 0; q < 2; q++) rc |= net_tell(&s->enc[q].net, enc_clip_bind(&s->enc[q], p, e), part, user);
    rc |= net_tell(&s->den.net, dn_unet_net.open(p, e), part, user);
    return rc | net_tell(&s->den.dn.vae_net, dn_open_vae(p, e), part, user);
}

/* UNet and encoders fit together. */
static int check_shapes(const struct pipe *p, struct dl_err *e)
{
    const struct sdxl *s = p->impl;
    const struct unet_config *u = &s->den.cfg;
    int text = s->enc[0].cfg.width + s->enc[1].cfg.width, pooled = s->enc[1].cfg.projection;
    if (!pooled)
        return dl_fail(e, DL_EINPUT,
                       "%s/text_encoder_2/config.json: architectures: expected CLIPTextModelWithProjection",
                       p->dir.path);
    if (u->cross_dim != text)
        return dl_fail(e, DL_EINPUT, "%s: the UNet takes text of width %d, the text encoders give %d", p->dir.path,
                       u->cross_dim, text);
    if (u->pooled != pooled)
        return dl_fail(e, DL_EINPUT, "%s: the UNet takes a pooled text vector of %d, text encoder 2 gives %d",
                       p->dir.path, u->pooled, pooled);
    if (s->enc[0].tokens != s->enc[1].tokens)
        return dl_fail(e, DL_EINPUT, "%s: one tokenizer makes %d tokens, the other %d", p->dir.path, s->enc[0].tokens,
                       s->enc[1].tokens);
    for (int q = 0; q < 2; q++)
        if (s->enc[q].cfg.layers < 2)
            return dl_fail(e, DL_EINPUT, "%s/%s: an encoder of one block has no last block but one", p->dir.path,
                           s->enc[q].folder);
    return 0;
}

static int sdxl_open(struct pipe *p, struct dl_err *e)
{
    static const char *const parts[] = {"tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2",
                                        "unet",      "vae",         "scheduler"};
    struct sdxl *s = p->impl = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "no memory for a model");
    dn_unet_init(&s->den, p);
    if (pipe_needs(p, parts, sizeof parts / sizeof *parts, e) < 0) return -1;
    if (enc_clip_open(&s->enc[0], p, "text_encoder", "tokenizer", e) < 0) return -1;
    if (enc_clip_open(&s->enc[1], p, "text_encoder_2", "tokenizer_2", e) < 0) return -1;
    if (dn_unet_read(&s->den, p, e) < 0 || check_shapes(p, e) < 0) return -1;
    p->zero_negative = cfg_bool(p->dir.index, "force_zeros_for_empty_prompt", true);
    if (cfg_check(p->dir.index, e) < 0) return -1;

    for (int q = 0; q < 2; q++) {
        p->encoder[q] = enc_clip_facts(&s->enc[q]);
        p->encoder[q].clip_skip = true, p->encoder[q].left_out = 1;
    }
    p->encoder[1].pooled = s->enc[1].cfg.projection;
    p->n_encoders = 2, p->studied = 1;
    p->honours = PIPE_OTHER | PIPE_POOLED | PIPE_CROP | PIPE_BOTH | PIPE_VAE;
    p->cond_tokens = s->enc[0].tokens, p->cond_width = s->den.cfg.cross_dim, p->cond_pooled = s->den.cfg.pooled;
    p->def.steps = 50, p->def.guidance = 5;
    s->den.dn.vae_overflows = s->den.dn.vae_cfg.force_upcast;
    dn_open(p);
    return 0;
}

static void sdxl_close(struct pipe *p)
{
    struct sdxl *s = p->impl;
    for (int q = 0; q < 2; q++) enc_clip_close(&s->enc[q], p);
    dn_close(p);
    free(s->pooled_empty);
    free(s);
    p->impl = p->dn = NULL;
}

const struct pipe_class sdxl_class = {
    .pipeline = "StableDiffusionXLPipeline",
    .models = "Stable Diffusion XL",
    .open = sdxl_open,
    .tokens = sdxl_tokens,
    .encode = sdxl_encode,
    .condition = sdxl_condition,
    .plan_text = sdxl_plan_text,
    .drop_text = sdxl_drop_text,
    .check = sdxl_check,
    .close = sdxl_close,
};
