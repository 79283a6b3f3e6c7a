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
    int64_t n = (int64_t)c->tokens * c->width;
    const float *state = st[0].hidden + (l ? k : st[0].blocks) * n;
    if (!l || l->norm) return enc_clip_norm(&s->enc, p, state, c->text, e);
    memcpy(c->text, state, (size_t)n * sizeof *state);
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

/* ---- denoiser ---- */

static int bind_unet(void *user, struct bind *b, struct dl_err *e)
{
    struct sd *s = user;
    return unet_bind(&s->unet, &s->unet_cfg, b, e);
}

static int open_unet(struct pipe *p, struct dl_err *e)
{
    struct sd *s = p->impl;
    return net_open(&s->unet_net, p, "unet", &s->unet.weights, bind_unet, s, e);
}

static struct dl_wset *weights(struct pipe *p) { return &((struct sd *)p->impl)->unet.weights; }

static void lay_out(struct pipe *p)
{
    struct sd *s = p->impl;
    struct dl_run *r = &s->dn.run;
    s->kv = dl_arena_lo(&r->arena, unet_kv_bytes(&s->unet, s->dn.gen.conds, p->cond_tokens, r->t));
    s->steps = dl_arena_lo(&r->arena, unet_table_bytes(&s->unet, s->dn.table->n));
}

static void prog_steps(struct pipe *p)
{
    struct sd *s = p->impl;
    unet_steps(&s->dn.run, &s->unet, s->dn.times, s->dn.table->n, s->steps);
}

static void prog_conditions(struct pipe *p, dl_act text, dl_act pooled)
{
    struct sd *s = p->impl;
    struct dl_run *r = &s->dn.run;
    dl_act x = text;
    (void)pooled;
    if (r->t != DL_F32) {
        x = dl_act_hi(r, r->t, text.n, 1, text.w, text.c);
        dl_op_copy(r, (struct dl_copy){.x = text, .y = x});
    }
    unet_text(r, &s->unet, x, s->kv);
}

static void prog_step(struct pipe *p, const struct dn_batch *b, dl_act x, dl_act eps)
{
    struct sd *s = p->impl;
    unet_step(&s->dn.run, &s->unet, x,
              &(struct unet_rows){.n = b->rows,
                                  .lat_row = b->lat_row,
                                  .kv_row = b->kv_row,
                                  .kv = s->kv,
                                  .kv_rows = s->dn.conds,
                                  .tokens = p->cond_tokens,
                                  .table = s->steps},
              eps);
}

static void close_unet(struct pipe *p)
{
    struct sd *s = p->impl;
    unet_close(&s->unet);
    net_close(&s->unet_net);
}

static const struct dn_net net = {.open = open_unet,
                                  .weights = weights,
                                  .lay_out = lay_out,
                                  .steps = prog_steps,
                                  .conditions = prog_conditions,
                                  .step = prog_step,
                                  .close = close_unet};

/* ---- the whole ---- */

static int sd_check(struct pipe *p, void (*part)(void *user, const char *name, const struct st_set *files), void *user,
                    struct dl_err *e)
{
    struct sd *s = p->impl;
    int rc = enc_clip_bind(&s->enc, p, e);
    if (s->enc.net.files) part(user, "text_encoder", s->enc.net.files);
    rc |= open_unet(p, e);
    if (s->unet_net.files) part(user, "unet", s->unet_net.files);
    rc |= dn_open_vae(p, e);
    if (s->dn.vae_net.files) part(user, "vae", s->dn.vae_net.files);
    return rc;
}

static int sd_open(struct pipe *p, struct dl_err *e)
{
    struct sd *s = p->impl = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "no memory for a model");
    p->dn = &s->dn;
    s->dn.net = &net, s->dn.sd_rules = s->dn.has_vae = true;
    p->latent_patch = 1;
    static const char *const parts[] = {"tokenizer", "text_encoder", "unet", "vae", "scheduler"};
    if (pipe_needs(p, parts, sizeof parts / sizeof *parts, e) < 0) return -1;
    if (enc_clip_open(&s->enc, p, "text_encoder", "tokenizer", e) < 0) return -1;
    if (NET_CONFIG(p, "unet", "config.json", unet_config_read, &s->unet_cfg, e) < 0) return -1;
    if (NET_CONFIG(p, "vae", "config.json", vae_config_read, &s->dn.vae_cfg, e) < 0) return -1;
    if (dn_read_scheduler(p, e) < 0) return -1;
    if (s->unet_cfg.pooled)
        return dl_fail(e, DL_EINPUT, "%s: the UNet also takes a pooled text vector, which a %s does not have",
                       p->dir.path, p->cls->pipeline);
    if (s->unet_cfg.cross_dim != s->enc.cfg.width)
        return dl_fail(e, DL_EINPUT, "%s: the UNet takes text of width %d, the text encoder gives %d", p->dir.path,
                       s->unet_cfg.cross_dim, s->enc.cfg.width);
    if (s->unet_cfg.in_c != s->dn.vae_cfg.latent_c || s->unet_cfg.out_c != s->unet_cfg.in_c)
        return dl_fail(e, DL_EINPUT,
                       "%s: the UNet has %d input and %d output channels where the VAE has %d latent ones; inpainting "
                       "and image-to-image checkpoints cannot be run",
                       p->dir.path, s->unet_cfg.in_c, s->unet_cfg.out_c, s->dn.vae_cfg.latent_c);

    p->encoder[0] = enc_clip_facts(&s->enc);
    p->encoder[0].clip_skip = true;
    p->n_encoders = 1;
    p->cond_tokens = s->enc.tokens, p->cond_width = s->enc.cfg.width;
    p->latent_c = s->dn.vae_cfg.latent_c, p->latent_factor = vae_factor(&s->dn.vae_cfg);
    p->size_multiple = p->latent_factor;
    p->def.width = p->def.height = s->unet_cfg.sample_size * p->latent_factor;
    p->def.steps = 50, p->def.guidance = 7.5f;
    s->dn.in_c = s->unet_cfg.in_c, s->dn.out_c = s->unet_cfg.out_c;
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
