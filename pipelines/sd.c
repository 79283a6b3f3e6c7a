#include "pipelines/sd.h"

#include <stdlib.h>
#include <string.h>

/* ---- text ---- */

static int sd_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e)
{
    const struct sd *s = p->impl;
    (void)encoder; /* there is one */
    return enc_clip_tokens(&s->enc, p, text, t, e);
}

static int sd_encode(struct pipe *p, const char *text, const struct pipe_lens *l, struct text_states st[PIPE_ENCODERS],
                     struct dl_err *e)
{
    struct sd *s = p->impl;
    (void)l;
    return enc_clip_encode(&s->enc, p, text, &st[0], e);
}

static int sd_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], const struct pipe_lens *l, int k,
                        struct pipe_cond *c, struct dl_err *e)
{
    struct sd *s = p->impl;
    const float *state = enc_state(st, l ? k : st[0].blocks);
    if (!l || l->norm) return enc_clip_norm(&s->enc, p, state, c->text, e);
    memcpy(c->text, state, (size_t)c->tokens * (size_t)c->width * sizeof *state);
    return 0;
}

static int sd_plan_text(struct pipe *p, int64_t *weight_bytes, int64_t *work_bytes, struct dl_err *e)
{
    struct sd *s = p->impl;
    if (enc_clip_plan(&s->enc, p, e) < 0) return -1;
    *weight_bytes = s->enc.clip.weights.pack_bytes, *work_bytes = s->enc.plan_bytes;
    return 0;
}

static void sd_drop_text(struct pipe *p) { enc_clip_drop(&((struct sd *)p->impl)->enc, p); }

/* ---- the whole ---- */

static int sd_check(struct pipe *p, net_listener *part, void *user, struct dl_err *e)
{
    struct sd *s = p->impl;
    int rc = net_tell(&s->enc.net, enc_clip_bind(&s->enc, p, e), part, user);
    rc |= net_tell(&s->den.net, dn_unet_net.open(p, e), part, user);
    return rc | net_tell(&s->den.dn.vae_net, dn_open_vae(p, e), part, user);
}

static int sd_open(struct pipe *p, struct dl_err *e)
{
    static const char *const parts[] = {"tokenizer", "text_encoder", "unet", "vae", "scheduler"};
    struct sd *s = p->impl = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "no memory for a model");
    dn_unet_init(&s->den, p);
    s->den.dn.sd_rules = true;
    if (pipe_needs(p, parts, sizeof parts / sizeof *parts, e) < 0) return -1;
    if (enc_clip_open(&s->enc, p, "text_encoder", "tokenizer", e) < 0) return -1;
    if (dn_unet_read(&s->den, p, e) < 0) return -1;
    if (s->den.cfg.pooled)
        return dl_fail(e, DL_EINPUT, "%s: the UNet also takes a pooled text vector, which a %s does not have",
                       p->dir.path, p->cls->pipeline);
    if (s->den.cfg.cross_dim != s->enc.cfg.width)
        return dl_fail(e, DL_EINPUT, "%s: the UNet takes text of width %d, the text encoder gives %d", p->dir.path,
                       s->den.cfg.cross_dim, s->enc.cfg.width);

    p->encoder[0] = enc_clip_facts(&s->enc);
    p->encoder[0].clip_skip = true;
    p->n_encoders = 1;
    p->cond_tokens = s->enc.tokens, p->cond_width = s->enc.cfg.width;
    p->honours = PIPE_VAE;
    p->def.steps = 50, p->def.guidance = 7.5f;
    dn_open(p);
    return 0;
}

static void sd_close(struct pipe *p)
{
    struct sd *s = p->impl;
    enc_clip_close(&s->enc, p);
    dn_close(p);
    free(s);
    p->impl = p->dn = NULL;
}

const struct pipe_class sd_class = {
    .pipeline = "StableDiffusionPipeline",
    .models = "Stable Diffusion 1.x and 2.x",
    .open = sd_open,
    .tokens = sd_tokens,
    .encode = sd_encode,
    .condition = sd_condition,
    .plan_text = sd_plan_text,
    .drop_text = sd_drop_text,
    .check = sd_check,
    .close = sd_close,
};
