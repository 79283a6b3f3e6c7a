#include "pipelines/if.h"
#include "loaders/caption_clean.h"

#include <stdlib.h>
#include <string.h>

/* ---- text ---- */

/* The prompt as the tokenizer is to see it. *out is owned by the caller. */
static int clean(const struct pipe *p, const char *text, char **out, struct dl_err *e)
{
    return (p->clean_caption ? caption_clean : caption_lower)(text, strlen(text), out, NULL, e);
}

static int if_tokens(struct pipe *p, int encoder, const char *text, struct token_list *t, struct dl_err *e)
{
    const struct pipe_if *s = p->impl;
    char *cleaned;
    (void)encoder; /* there is one */
    if (clean(p, text, &cleaned, e) < 0) return -1;
    int rc = enc_t5_tokens(&s->enc, cleaned, t, e);
    free(cleaned);
    return rc;
}

static int if_announce(struct pipe *p, const char *const *text, int n, const struct pipe_lens *l, struct dl_err *e)
{
    struct pipe_if *s = p->impl;
    char **cleaned = calloc((size_t)n, sizeof *cleaned);
    int rc = cleaned ? 0 : dl_fail(e, DL_ENOMEM, "no memory for a list of %d texts", n);
    (void)l;
    for (int i = 0; i < n && rc == 0; i++) rc = clean(p, text[i], &cleaned[i], e);
    if (rc == 0) rc = enc_t5_announce(&s->enc, (const char *const *)cleaned, n, e);
    for (int i = 0; cleaned && i < n; i++) free(cleaned[i]);
    free(cleaned);
    return rc;
}

static int if_encode(struct pipe *p, const char *text, const struct pipe_lens *l, struct text_states st[PIPE_ENCODERS],
                     struct dl_err *e)
{
    struct pipe_if *s = p->impl;
    char *cleaned;
    (void)l;
    if (clean(p, text, &cleaned, e) < 0) return -1;
    int rc = enc_t5_encode_next(&s->enc, p, cleaned, st, e);
    free(cleaned);
    return rc;
}

static int if_condition(struct pipe *p, const struct text_states st[PIPE_ENCODERS], const struct pipe_lens *l, int k,
                        struct pipe_cond *c, struct dl_err *e)
{
    struct pipe_if *s = p->impl;
    const float *state = enc_state(st, l ? k : st[0].blocks);
    if (!l || l->norm) return enc_t5_norm(&s->enc, p, state, c->text, e);
    memcpy(c->text, state, (size_t)c->tokens * (size_t)c->width * sizeof *state);
    return 0;
}

static int if_plan_text(struct pipe *p, int64_t *weight_bytes, int64_t *work_bytes, struct dl_err *e)
{
    struct pipe_if *s = p->impl;
    s->enc.resident = s->dn.gen.resident;
    if (enc_t5_plan(&s->enc, p, 1, e) < 0) return -1;
    *weight_bytes = enc_t5_weight_bytes(&s->enc), *work_bytes = s->enc.plan_bytes;
    return 0;
}

static void if_drop_text(struct pipe *p) { enc_t5_drop(&((struct pipe_if *)p->impl)->enc, p); }

/* ---- denoiser ---- */

static int bind_unet(void *user, struct bind *b, struct dl_err *e)
{
    struct pipe_if *s = user;
    (void)e;
    unet_if_bind(&s->unet, &s->unet_cfg, b);
    return 0;
}

static int open_unet(struct pipe *p, struct dl_err *e)
{
    struct pipe_if *s = p->impl;
    return net_open(&s->unet_net, p, "unet", &s->unet.weights, bind_unet, s, e);
}

static struct dl_wset *weights(struct pipe *p) { return &((struct pipe_if *)p->impl)->unet.weights; }

static void lay_out(struct pipe *p)
{
    struct pipe_if *s = p->impl;
    struct dl_run *r = &s->dn.run;
    int conds = s->dn.gen.conds;
    s->kv = dl_arena_lo(&r->arena, unet_if_kv_bytes(&s->unet, conds, p->cond_tokens, r->t));
    s->emb = dl_arena_lo(&r->arena, unet_if_emb_bytes(&s->unet, conds));
    s->table = dl_arena_lo(&r->arena, unet_if_table_bytes(&s->unet, s->dn.table->n, conds));
}

static void prog_conditions(struct pipe *p, dl_act text, dl_act pooled)
{
    static const float level[] = {IF_NOISE_LEVEL};
    struct pipe_if *s = p->impl;
    struct dl_run *r = &s->dn.run;
    (void)pooled;
    unet_if_text(r, &s->unet, text, s->kv, s->emb);
    unet_if_steps(r, &s->unet, s->dn.times, s->dn.table->n, p->upscales ? level : NULL, s->emb, text.n, s->table);
}

static void prog_step(struct pipe *p, const struct dn_batch *b, dl_act x, dl_act eps)
{
    struct pipe_if *s = p->impl;
    unet_if_step(&s->dn.run, &s->unet, x,
                 &(struct unet_if_rows){.n = b->rows,
                                        .lat_row = b->lat_row,
                                        .cond_row = b->cond_row,
                                        .kv = s->kv,
                                        .conds = s->dn.conds,
                                        .tokens = p->cond_tokens,
                                        .table = s->table},
                 eps);
}

static void close_unet(struct pipe *p)
{
    struct pipe_if *s = p->impl;
    unet_if_close(&s->unet);
    net_close(&s->unet_net);
}

static const struct dn_net net = {.open = open_unet,
                                  .weights = weights,
                                  .lay_out = lay_out,
                                  .conditions = prog_conditions,
                                  .step = prog_step,
                                  .close = close_unet};

/* One axis of torch's upsample_bilinear2d with align_corners: pixel i of n lies between pixels *a and *b of `from`. */
static void between(int i, int n, int from, int *a, int *b, float *t)
{
    float at = (n > 1 ? (float)(from - 1) / (float)(n - 1) : 0) * (float)i;
    *a = (int)at;
    *b = *a + (*a < from - 1);
    *t = at - (float)*a;
}

static void if_lowres(const struct pipe *p, int w, int h, const float *small, const float *noise, float *out)
{
    const struct pipe_if *s = p->impl;
    int sw = w / p->upscales, c = p->latent_c;
    for (int y = 0; y < h; y++) {
        int y0, y1, x0, x1;
        float ty, tx;
        between(y, h, h / p->upscales, &y0, &y1, &ty);
        for (int x = 0; x < w; x++) {
            between(x, w, sw, &x0, &x1, &tx);
            for (int j = 0; j < c; j++) {
                float top =
                    (1 - tx) * small[((int64_t)y0 * sw + x0) * c + j] + tx * small[((int64_t)y0 * sw + x1) * c + j];
                float low =
                    (1 - tx) * small[((int64_t)y1 * sw + x0) * c + j] + tx * small[((int64_t)y1 * sw + x1) * c + j];
                *out++ = s->signal * ((1 - ty) * top + ty * low) + s->noise * *noise++;
            }
        }
    }
}

/* ---- the whole ---- */

static int if_check(struct pipe *p, net_listener *part, void *user, struct dl_err *e)
{
    struct pipe_if *s = p->impl;
    int rc = p->upscales ? 0 : net_tell(&s->enc.net, enc_t5_bind(&s->enc, p, e), part, user);
    return rc | net_tell(&s->unet_net, open_unet(p, e), part, user);
}

/* What both stages have in common; `upscales` 0 for stage I. */
static int open_stage(struct pipe *p, int upscales, struct dl_err *e)
{
    static const char *const parts[] = {"unet", "scheduler", "tokenizer", "text_encoder"};
    struct pipe_if *s = p->impl = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "no memory for a model");
    p->dn = &s->dn;
    s->dn.net = &net;
    p->latent_patch = p->latent_factor = 1;
    p->upscales = upscales;
    if (pipe_needs(p, parts, upscales ? 2 : 4, e) < 0) return -1;
    struct unet_if_config *u = &s->unet_cfg;
    if (NET_CONFIG(p, "unet", "config.json", unet_if_config_read, u, e) < 0) return -1;
    if (u->noise_level != (upscales != 0))
        return dl_fail(e, DL_EINPUT, "%s: model_index.json says %s, but the unet is that of stage %s", p->dir.path,
                       p->cls->pipeline, upscales ? "I (it takes no noise level)" : "II (it takes a noise level)");
    p->latent_c = upscales ? u->in_c / 2 : u->in_c;
    if (p->latent_c != 3 || u->out_c != 6 || u->in_c != (upscales ? 6 : 3))
        return dl_fail(
            e, DL_EINPUT, "%s: the unet has %d input and %d output channels; a picture has 3, and 3 more are %s",
            p->dir.path, u->in_c, u->out_c, upscales ? "the small picture and the variance" : "the variance");
    if (dn_read_scheduler(p, e) < 0) return -1;
    p->size_multiple = unet_if_multiple(u);
    p->def.width = p->def.height = u->sample_size;
    s->dn.in_c = u->in_c, s->dn.out_c = u->out_c;
    return 0;
}

static int if_open(struct pipe *p, struct dl_err *e)
{
    if (open_stage(p, 0, e) < 0) return -1;
    struct pipe_if *s = p->impl;
    if (enc_t5_open(&s->enc, p, "text_encoder", "tokenizer", p->max_tokens ? p->max_tokens : IF_TOKENS, true, e) < 0)
        return -1;
    if (s->unet_cfg.text_dim != s->enc.cfg.width)
        return dl_fail(e, DL_EINPUT, "%s: the unet takes text of width %d, the text encoder gives %d", p->dir.path,
                       s->unet_cfg.text_dim, s->enc.cfg.width);
    p->encoder[0] = enc_t5_facts(&s->enc);
    p->n_encoders = 1;
    p->cond_tokens = s->enc.tokens, p->cond_width = s->enc.cfg.width;
    p->honours = PIPE_UPSCALE | PIPE_CLEAN_CAPTION | PIPE_MAX_TOKENS | PIPE_RESIDENT;
    p->def.steps = 100, p->def.guidance = 7;
    dn_open(p);
    return 0;
}

static int if2_open(struct pipe *p, struct dl_err *e)
{
    if (open_stage(p, 4, e) < 0) return -1;
    struct pipe_if *s = p->impl;
    char *path = model_dir_file(&p->dir, "image_noising_scheduler", "scheduler_config.json", e);
    if (!path) return -1;
    int rc = sched_add_noise(path, IF_NOISE_LEVEL, &s->signal, &s->noise, e);
    free(path);
    if (rc < 0) return -1;
    p->cond_width = s->unet_cfg.text_dim;
    p->def.steps = 50, p->def.guidance = 4;
    dn_open(p);
    return 0;
}

static void if_close(struct pipe *p)
{
    struct pipe_if *s = p->impl;
    if (!p->upscales) enc_t5_close(&s->enc, p);
    dn_close(p);
    free(s);
    p->impl = p->dn = NULL;
}

const struct pipe_class if_class = {
    .pipeline = "IFPipeline",
    .models = "DeepFloyd IF, stage I",
    .open = if_open,
    .tokens = if_tokens,
    .announce = if_announce,
    .encode = if_encode,
    .condition = if_condition,
    .plan_text = if_plan_text,
    .drop_text = if_drop_text,
    .check = if_check,
    .close = if_close,
};

const struct pipe_class if2_class = {
    .pipeline = "IFSuperResolutionPipeline",
    .models = "DeepFloyd IF, stage II",
    .open = if2_open,
    .lowres = if_lowres,
    .check = if_check,
    .close = if_close,
};
