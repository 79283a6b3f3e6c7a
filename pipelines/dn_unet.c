#include "pipelines/dn_unet.h"

static struct dn_unet *of(struct pipe *p) { return (struct dn_unet *)p->dn; }

static int bind_unet(void *user, struct bind *b, struct dl_err *e)
{
    struct dn_unet *d = user;
    return unet_bind(&d->unet, &d->cfg, b, e);
}

static int open_unet(struct pipe *p, struct dl_err *e)
{
    struct dn_unet *d = of(p);
    return net_open(&d->net, p, "unet", &d->unet.weights, bind_unet, d, e);
}

static struct dl_wset *weights(struct pipe *p) { return &of(p)->unet.weights; }

static void lay_out(struct pipe *p)
{
    struct dn_unet *d = of(p);
    struct dl_run *r = &d->dn.run;
    int conds = d->dn.gen.conds, tables = d->cfg.pooled ? conds : 1;
    d->kv = dl_arena_lo(&r->arena, unet_kv_bytes(&d->unet, conds, p->cond_tokens, r->t));
    d->table = dl_arena_lo(&r->arena, tables * unet_table_bytes(&d->unet, d->dn.table->n));
}

static void prog_steps(struct pipe *p)
{
    struct dn_unet *d = of(p);
    if (!d->cfg.pooled) unet_steps(&d->dn.run, &d->unet, d->dn.times, d->dn.table->n, d->table);
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
    struct dn_unet *d = of(p);
    struct dl_run *r = &d->dn.run;
    unet_text(r, &d->unet, text, d->kv);
    if (!d->cfg.pooled) return;
    sizes_of(&d->dn.gen, d->sizes);
    unet_steps_added(r, &d->unet, d->dn.times, d->dn.table->n, pooled, d->sizes, d->table);
}

static void prog_step(struct pipe *p, const struct dn_batch *b, dl_act x, dl_act eps)
{
    struct dn_unet *d = of(p);
    unet_step(&d->dn.run, &d->unet, x,
              &(struct unet_rows){.n = b->rows,
                                  .lat_row = b->lat_row,
                                  .cond_row = b->cond_row,
                                  .kv = d->kv,
                                  .conds = d->dn.conds,
                                  .tokens = p->cond_tokens,
                                  .table = d->table,
                                  .table_steps = d->cfg.pooled ? d->dn.table->n : 0},
              eps);
}

static void close_unet(struct pipe *p)
{
    struct dn_unet *d = of(p);
    unet_close(&d->unet);
    net_close(&d->net);
}

const struct dn_net dn_unet_net = {.open = open_unet,
                                   .weights = weights,
                                   .lay_out = lay_out,
                                   .steps = prog_steps,
                                   .conditions = prog_conditions,
                                   .step = prog_step,
                                   .close = close_unet};

void dn_unet_init(struct dn_unet *d, struct pipe *p)
{
    p->dn = &d->dn;
    d->dn.net = &dn_unet_net, d->dn.has_vae = true;
    p->latent_patch = 1;
}

int dn_unet_read(struct dn_unet *d, struct pipe *p, struct dl_err *e)
{
    const struct unet_config *u = &d->cfg;
    const struct vae_config *v = &d->dn.vae_cfg;
    if (NET_CONFIG(p, "unet", "config.json", unet_config_read, &d->cfg, e) < 0) return -1;
    if (NET_CONFIG(p, "vae", "config.json", vae_config_read, &d->dn.vae_cfg, e) < 0) return -1;
    if (dn_read_scheduler(p, e) < 0) return -1;
    if (u->in_c != v->latent_c || u->out_c != u->in_c)
        return dl_fail(e, DL_EINPUT,
                       "%s: the UNet has %d input and %d output channels where the VAE has %d latent ones; inpainting "
                       "and image-to-image checkpoints cannot be run",
                       p->dir.path, u->in_c, u->out_c, v->latent_c);
    d->dn.in_c = u->in_c, d->dn.out_c = u->out_c;
    p->latent_c = v->latent_c, p->latent_factor = p->size_multiple = vae_factor(v);
    p->def.width = p->def.height = u->sample_size * p->latent_factor;
    return 0;
}
