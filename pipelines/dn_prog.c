/* The programs of the denoising phase; each is run dry to be measured and then for real. */
#include "pipelines/denoise.h"

dl_act dn_cast(struct dl_run *r, dl_act x)
{
    if (r->t == x.t) return x;
    dl_act y = dl_act_hi(r, r->t, x.n, x.h, x.w, x.c);
    dl_op_copy(r, (struct dl_copy){.x = x, .y = y});
    return y;
}

void dn_prog_conditions(struct pipe *p, dl_act text, dl_act pooled)
{
    struct dl_run *r = &p->dn->run;
    struct dl_mark m = dl_arena_mark(&r->arena);
    p->dn->net->conditions(p, dn_cast(r, text), pooled);
    dl_arena_release(&r->arena, m);
}

struct dn_batch dn_batch_of(struct pipe *p, const struct pipe_image *im, int n, bool first)
{
    const struct dn *d = p->dn;
    struct dn_batch b = {.images = n};
    bool guided = pipe_guided(p, d->gen.guidance);
    int32_t *at = d->rows;
    b.in_row = at, at += d->plan.batch;
    b.u_row = at, at += d->plan.batch;
    b.c_row = at, at += d->plan.batch;
    b.lat_row = at, at += 2 * d->plan.batch;
    b.cond_row = at;
    first = first && !d->lowres.p; /* an upscaler's images differ in their other half */
    for (int i = 0; i < n; i++) {
        int l = b.latents;
        for (int j = 0; first && j < b.latents; j++)
            if (im[b.in_row[j]].noise == im[i].noise) l = j;
        if (l == b.latents) b.in_row[b.latents++] = i;
        b.c_row[i] = l; /* for now: the image's latent */
    }
    for (int i = 0; guided && i < n; i++) { /* unconditional rows, one for every (latent, negative) */
        int u = b.rows;
        for (int j = 0; first && j < b.rows; j++)
            if (b.lat_row[j] == b.c_row[i] && b.cond_row[j] == im[i].negative) u = j;
        if (u == b.rows) b.lat_row[u] = b.c_row[i], b.cond_row[u] = im[i].negative, b.rows++;
        b.u_row[i] = u;
    }
    for (int i = 0; i < n; i++) {
        int c = b.rows++;
        b.lat_row[c] = b.c_row[i], b.cond_row[c] = im[i].cond, b.c_row[i] = c;
    }
    if (!guided) b.u_row = NULL;
    return b;
}

void dn_prog_step(struct pipe *p, const struct dn_batch *b)
{
    struct dn *d = p->dn;
    struct dl_run *r = &d->run;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act latent = dl_act_rows(d->latent, 0, b->images), eps = dl_act_rows(d->eps, 0, b->rows);
    dl_act x = dl_act_hi(r, r->t, b->latents, d->latent_h, d->latent_w, d->in_c);
    dl_op_sched_in(r, (struct dl_sched_in){
                          .table = d->table, .latent = latent, .y = dl_act_cols(x, 0, d->latent_c), .row = b->in_row});
    if (d->lowres.p)
        dl_op_copy(r, (struct dl_copy){.x = dl_act_rows(d->lowres, 0, b->images),
                                       .y = dl_act_cols(x, d->latent_c, d->in_c - d->latent_c),
                                       .row = b->in_row});
    r->e4m3 = d->gen.type == DL_E4M3; /* what is prepared once is not worth its error */
    d->net->step(p, b, x, eps);
    r->e4m3 = false;
    dl_tap(r, dl_act_cols(eps, 0, d->latent_c), "prediction");
    struct dl_sched_step s = {.table = d->table,
                              .eps = eps,
                              .u_row = b->u_row,
                              .c_row = b->c_row,
                              .guidance = d->gen.guidance,
                              .latent = latent,
                              .history = dl_act_rows(d->history, 0, b->images * d->table->slots)};
    if (d->noise.p) s.noise = dl_act_rows(d->noise, 0, b->images);
    dl_op_sched_step(r, s);
    dl_arena_release(&r->arena, m);
}

void dn_prog_decode(struct pipe *p, dl_act z, dl_act x, uint8_t *rgb)
{
    struct dn *d = p->dn;
    uint8_t type = d->run.t;
    d->run.t = d->vae_type;
    if (d->has_vae)
        vae_decode(&d->run, &d->vae, z, x);
    else
        x = z;
    d->run.t = type;
    if (rgb) dl_op_image(&d->run, (struct dl_image){.x = x, .u8 = rgb});
}
