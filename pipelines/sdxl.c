#include "pipelines/sdxl.h"

#include <stdlib.h>
#include <string.h>

/* ---- text ---- */

static int sdxl_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e)
{
    const struct sdxl *s = p->impl;
    return enc_clip_tokens(&s->enc[encoder], p, text, t, e);
}

/* State k of one encoder, host [tokens][width]. */
static const float *state_of(const struct text_states *st, int k)
{
    return st->hidden + (int64_t)k * st->tokens * st->width;
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
    return enc_clip_pooled(&s->enc[1], p, state_of(st, st->blocks - 1), st->eos, st->pooled, e);
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
    const float *state = state_of(st, studied ? pipe_depth(p, l->encoder, k, q) : st->blocks - 1);
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
    const float *have = st->pooled, *state = state_of(st, st->blocks - 1);
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

/* ---- denoiser ---- */

static int bind_unet(void *user, struct bind *b, struct dl_err *e)
{
    struct sdxl *s = user;
    return unet_bind(&s->unet, &s->unet_cfg, b, e);
}

static int open_unet(struct pipe *p, struct dl_err *e)
{
    struct sdxl *s = p->impl;
    return net_open(&s->unet_net, p, "unet", &s->unet.weights, bind_unet, s, e);
}

static struct dl_wset *weights(struct pipe *p) { return &((struct sdxl *)p->impl)->unet.weights; }

static void lay_out(struct pipe *p)
{
    struct sdxl *s = p->impl;
    struct dl_run *r = &s->dn.run;
    int conds = s->dn.gen.conds;
    s->kv = dl_arena_lo(&r->arena, unet_kv_bytes(&s->unet, conds, p->cond_tokens, r->t));
    s->steps = dl_arena_lo(&r->arena, conds * unet_table_bytes(&s->unet, s->dn.table->n));
}

/* What the network is told of the picture: the size that is made, uncropped, unless the user says otherwise. */
static void sizes_of(const struct pipe_gen *g, float sizes[UNET_SIZES])
{
    const int of[UNET_SIZES] = {
        g->original_h ? g->original_h : g->height, g->original_w ? g->original_w : g->width, g->crop_y, g->crop_x,
        g->target_h ? g->target_h : g->height,     g->target_w ? g->target_w : g->width};
    for (int i = 0; i < UNET_SIZES; i++) sizes[i] = (float)of[i];
}

static void prog_conditions(struct pipe *p, dl_act text, dl_act pooled)
{
    struct sdxl *s = p->impl;
    struct dl_run *r = &s->dn.run;
    dl_act x = text;
    if (r->t != DL_F32) {
        x = dl_act_hi(r, r->t, text.n, 1, text.w, text.c);
        dl_op_copy(r, (struct dl_copy){.x = text, .y = x});
    }
    unet_text(r, &s->unet, x, s->kv);
    sizes_of(&s->dn.gen, s->sizes);
    unet_steps_added(r, &s->unet, s->dn.times, s->dn.table->n, pooled, s->sizes, s->steps);
}

static void prog_step(struct pipe *p, const struct dn_batch *b, dl_act x, dl_act eps)
{
    struct sdxl *s = p->impl;
    unet_step(&s->dn.run, &s->unet, x,
              &(struct unet_rows){.n = b->rows,
                                  .lat_row = b->lat_row,
                                  .kv_row = b->kv_row,
                                  .kv = s->kv,
                                  .kv_rows = s->dn.conds,
                                  .tokens = p->cond_tokens,
                                  .table = s->steps,
                                  .table_steps = s->dn.table->n},
              eps);
}

static void close_unet(struct pipe *p)
{
    struct sdxl *s = p->impl;
    unet_close(&s->unet);
    net_close(&s->unet_net);
}

static const struct dn_net net = {.open = open_unet,
                                  .weights = weights,
                                  .lay_out = lay_out,
                                  .conditions = prog_conditions,
                                  .step = prog_step,
                                  .close = close_unet};

/* ---- the whole ---- */

static int sdxl_check(struct pipe *p, void (*part)(void *user, const char *name, const struct st_set *files),
                      void *user, struct dl_err *e)
{
    struct sdxl *s = p->impl;
    int rc = 0;
    for (int q = 0; q < 2; q++) {
        rc |= enc_clip_bind(&s->enc[q], p, e);
        if (s->enc[q].net.files) part(user, s->enc[q].folder, s->enc[q].net.files);
    }
    rc |= open_unet(p, e);
    if (s->unet_net.files) part(user, "unet", s->unet_net.files);
    rc |= dn_open_vae(p, e);
    if (s->dn.vae_net.files) part(user, "vae", s->dn.vae_net.files);
    return rc;
}

/* The networks' configs fit together. */
static int check_shapes(const struct pipe *p, struct dl_err *e)
{
    const struct sdxl *s = p->impl;
    const struct unet_config *u = &s->unet_cfg;
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
    if (u->in_c != s->dn.vae_cfg.latent_c || u->out_c != u->in_c)
        return dl_fail(e, DL_EINPUT,
                       "%s: the UNet has %d input and %d output channels where the VAE has %d latent ones; inpainting "
                       "and image-to-image checkpoints cannot be run",
                       p->dir.path, u->in_c, u->out_c, s->dn.vae_cfg.latent_c);
    return 0;
}

static int sdxl_open(struct pipe *p, struct dl_err *e)
{
    struct sdxl *s = p->impl = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "no memory for a model");
    p->dn = &s->dn;
    s->dn.net = &net, s->dn.has_vae = true;
    p->latent_patch = 1;
    static const char *const parts[] = {"tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2",
                                        "unet",      "vae",         "scheduler"};
    if (pipe_needs(p, parts, sizeof parts / sizeof *parts, e) < 0) return -1;
    if (enc_clip_open(&s->enc[0], p, "text_encoder", "tokenizer", e) < 0) return -1;
    if (enc_clip_open(&s->enc[1], p, "text_encoder_2", "tokenizer_2", e) < 0) return -1;
    if (NET_CONFIG(p, "unet", "config.json", unet_config_read, &s->unet_cfg, e) < 0) return -1;
    if (NET_CONFIG(p, "vae", "config.json", vae_config_read, &s->dn.vae_cfg, e) < 0) return -1;
    if (dn_read_scheduler(p, e) < 0 || check_shapes(p, e) < 0) return -1;
    p->zero_negative = cfg_bool(p->dir.index, "force_zeros_for_empty_prompt", true);
    if (cfg_check(p->dir.index, e) < 0) return -1;

    for (int q = 0; q < 2; q++) {
        p->encoder[q] = enc_clip_facts(&s->enc[q]);
        p->encoder[q].clip_skip = true, p->encoder[q].left_out = 1;
    }
    p->encoder[1].pooled = s->enc[1].cfg.projection;
    p->n_encoders = 2, p->studied = 1;
    p->honours = PIPE_OTHER | PIPE_POOLED | PIPE_CROP | PIPE_BOTH;
    p->cond_tokens = s->enc[0].tokens, p->cond_width = s->unet_cfg.cross_dim, p->cond_pooled = s->unet_cfg.pooled;
    p->latent_c = s->dn.vae_cfg.latent_c, p->latent_factor = vae_factor(&s->dn.vae_cfg);
    p->size_multiple = p->latent_factor;
    p->def.width = p->def.height = s->unet_cfg.sample_size * p->latent_factor;
    p->def.steps = 50, p->def.guidance = 5;
    s->dn.in_c = s->unet_cfg.in_c, s->dn.out_c = s->unet_cfg.out_c;
    s->dn.vae_overflows = s->dn.vae_cfg.force_upcast;
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
