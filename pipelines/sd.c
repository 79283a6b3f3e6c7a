#include "pipelines/sd.h"

#include <stdlib.h>

typedef int binder(struct sd *, struct bind *, struct dl_err *);

static int open_net(struct pipe *p, struct sd_net *n, const char *part, struct dl_wset *set, binder *bind,
                    struct dl_err *e)
{
    struct bind b;
    if (n->ready) return 0;
    if (!n->files && model_dir_weights(&p->dir, part, &n->files, e) < 0) return -1;
    if (bind_open(&b, n->files, set, e) < 0) return -1;
    b.report = p->report, b.user = p->report_user;
    int rc = bind(p->impl, &b, e);
    if (bind_close(&b, e) < 0 || rc < 0) return -1;
    n->ready = true;
    return 0;
}

static int bind_clip(struct sd *s, struct bind *b, struct dl_err *e) { return clip_bind(&s->clip, &s->clip_cfg, b, e); }
static int bind_unet(struct sd *s, struct bind *b, struct dl_err *e) { return unet_bind(&s->unet, &s->unet_cfg, b, e); }

static int bind_vae(struct sd *s, struct bind *b, struct dl_err *e)
{
    (void)e;
    vae_bind(&s->vae, &s->vae_cfg, b);
    return 0;
}

int sd_open_clip(struct pipe *p, struct dl_err *e)
{
    struct sd *s = p->impl;
    return open_net(p, &s->clip_net, "text_encoder", &s->clip.weights, bind_clip, e);
}

int sd_open_unet(struct pipe *p, struct dl_err *e)
{
    struct sd *s = p->impl;
    return open_net(p, &s->unet_net, "unet", &s->unet.weights, bind_unet, e);
}

int sd_open_vae(struct pipe *p, struct dl_err *e)
{
    struct sd *s = p->impl;
    return open_net(p, &s->vae_net, "vae", &s->vae.weights, bind_vae, e);
}

static int sd_check(struct pipe *p, void (*part)(void *user, const char *name, const struct st_set *files), void *user,
                    struct dl_err *e)
{
    struct sd *s = p->impl;
    int rc = sd_open_clip(p, e);
    if (s->clip_net.files) part(user, "text_encoder", s->clip_net.files);
    rc |= sd_open_unet(p, e);
    if (s->unet_net.files) part(user, "unet", s->unet_net.files);
    rc |= sd_open_vae(p, e);
    if (s->vae_net.files) part(user, "vae", s->vae_net.files);
    return rc;
}

/* Reads a component's config through a reader of the form (config, path, error). */
#define READ_CONFIG(reader, cfg, part, file)                                                                           \
    do {                                                                                                               \
        char *path = model_dir_file(&p->dir, part, file, e);                                                           \
        if (!path) return -1;                                                                                          \
        int rc = reader(cfg, path, e);                                                                                 \
        free(path);                                                                                                    \
        if (rc < 0) return -1;                                                                                         \
    } while (0)

static int read_scheduler(struct pipe *p, struct dl_err *e)
{
    struct sched_config c;
    char *path = model_dir_file(&p->dir, "scheduler", "scheduler_config.json", e);
    if (!path) return -1;
    int rc = sched_config_read_sd(&c, path, SCHED_FILE, e);
    free(path);
    if (rc == 0) p->def.scheduler = sched_kind_name(c.kind);
    return rc;
}

static int sd_open(struct pipe *p, struct dl_err *e)
{
    struct sd *s = p->impl = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "no memory for a model");
    static const char *const parts[] = {"tokenizer", "text_encoder", "unet", "vae", "scheduler"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!model_dir_has(&p->dir, parts[i]))
            return dl_fail(e, DL_EINPUT, "%s/model_index.json: names no %s, and a StableDiffusionPipeline needs one",
                           p->dir.path, parts[i]);
    dl_run_open(&s->text_run, p->be, p->ctx, DL_F32);
    dl_run_open(&s->run, p->be, p->ctx, DL_F32);
    READ_CONFIG(clip_config_read, &s->clip_cfg, "text_encoder", "config.json");
    READ_CONFIG(unet_config_read, &s->unet_cfg, "unet", "config.json");
    READ_CONFIG(vae_config_read, &s->vae_cfg, "vae", "config.json");
    if (read_scheduler(p, e) < 0) return -1;
    if (s->unet_cfg.cross_dim != s->clip_cfg.width)
        return dl_fail(e, DL_EINPUT, "%s: the UNet takes text of width %d, the text encoder gives %d", p->dir.path,
                       s->unet_cfg.cross_dim, s->clip_cfg.width);
    if (s->unet_cfg.in_c != s->vae_cfg.latent_c || s->unet_cfg.out_c != s->unet_cfg.in_c)
        return dl_fail(e, DL_EINPUT,
                       "%s: the UNet has %d input and %d output channels where the VAE has %d latent ones; inpainting "
                       "and image-to-image checkpoints cannot be run",
                       p->dir.path, s->unet_cfg.in_c, s->unet_cfg.out_c, s->vae_cfg.latent_c);

    char *dir = model_dir_join(&p->dir, "tokenizer", NULL, e);
    if (!dir) return -1;
    int rc = clip_bpe_open(&s->bpe, dir, e);
    free(dir);
    if (rc < 0) return -1;
    if (clip_bpe_vocab_size(s->bpe) > s->clip_cfg.vocab)
        return dl_fail(e, DL_EINPUT, "%s/tokenizer: %d tokens, the text encoder has embeddings for %d", p->dir.path,
                       clip_bpe_vocab_size(s->bpe), s->clip_cfg.vocab);
    s->tokens =
        clip_bpe_max_length(s->bpe) < s->clip_cfg.positions ? clip_bpe_max_length(s->bpe) : s->clip_cfg.positions;

    p->encoder[0] = (struct pipe_encoder){
        .folder = "text_encoder", .blocks = s->clip_cfg.layers, .width = s->clip_cfg.width, .tokens = s->tokens};
    p->n_encoders = 1;
    p->latent_c = s->vae_cfg.latent_c, p->latent_factor = vae_factor(&s->vae_cfg);
    p->size_multiple = p->latent_factor;
    p->def.width = p->def.height = s->unet_cfg.sample_size * p->latent_factor;
    p->def.steps = 50, p->def.guidance = 7.5f;
    return 0;
}

static void sd_close(struct pipe *p)
{
    struct sd *s = p->impl;
    sd_drop_text(p);
    sd_drop_denoiser(p);
    clip_bpe_close(s->bpe);
    dl_run_close(&s->text_run);
    dl_run_close(&s->run);
    free(s);
    p->impl = NULL;
}

const struct pipe_class sd_class = {
    .pipeline = "StableDiffusionPipeline",
    .open = sd_open,
    .tokens = sd_tokens,
    .encode = sd_encode,
    .condition = sd_condition,
    .drop_text = sd_drop_text,
    .plan = sd_plan,
    .load = sd_load,
    .conditions = sd_conditions,
    .denoise = sd_denoise,
    .decode = sd_decode,
    .check = sd_check,
    .close = sd_close,
};
