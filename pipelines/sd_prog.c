/* The programs of Stable Diffusion's denoising phase; each is run dry to be measured and then for real. */
#include "pipelines/sd.h"

void sd_prog_conditions(struct sd *s, dl_act text)
{
    struct dl_run *r = &s->run;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act x = text;
    if (r->t != DL_F32) {
        x = dl_act_hi(r, r->t, text.n, 1, text.w, text.c);
        dl_op_copy(r, (struct dl_copy){.x = text, .y = x});
    }
    unet_text(r, &s->unet, x, s->kv);
    dl_arena_release(&r->arena, m);
}

struct sd_batch sd_batch_of(struct sd *s, const struct pipe_image *im, int n, bool first)
{
    struct sd_batch b = {.images = n};
    bool guided = s->gen.guidance > 1;
    int32_t *p = s->rows;
    b.in_row = p, p += s->plan.batch;
    b.u_row = p, p += s->plan.batch;
    b.c_row = p, p += s->plan.batch;
    b.lat_row = p, p += 2 * s->plan.batch;
    b.kv_row = p;
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
            if (b.lat_row[j] == b.c_row[i] && b.kv_row[j] == im[i].negative) u = j;
        if (u == b.rows) b.lat_row[u] = b.c_row[i], b.kv_row[u] = im[i].negative, b.rows++;
        b.u_row[i] = u;
    }
    for (int i = 0; i < n; i++) {
        int c = b.rows++;
        b.lat_row[c] = b.c_row[i], b.kv_row[c] = im[i].cond, b.c_row[i] = c;
    }
    if (!guided) b.u_row = NULL;
    return b;
}

void sd_prog_step(struct sd *s, const struct sd_batch *b)
{
    struct dl_run *r = &s->run;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act latent = dl_act_rows(s->latent, 0, b->images), eps = dl_act_rows(s->eps, 0, b->rows);
    dl_act x = dl_act_hi(r, r->t, b->latents, s->latent_h, s->latent_w, s->unet_cfg.in_c);
    dl_op_sched_in(r, (struct dl_sched_in){.table = s->table, .latent = latent, .y = x, .row = b->in_row});
    unet_step(r, &s->unet, x,
              &(struct unet_rows){.n = b->rows,
                                  .lat_row = b->lat_row,
                                  .kv_row = b->kv_row,
                                  .kv = s->kv,
                                  .kv_rows = s->conds,
                                  .tokens = s->tokens,
                                  .table = s->steps},
              eps);
    dl_op_sched_step(r, (struct dl_sched_step){.table = s->table,
                                               .eps = eps,
                                               .u_row = b->u_row,
                                               .c_row = b->c_row,
                                               .guidance = s->gen.guidance,
                                               .latent = latent,
                                               .history = dl_act_rows(s->history, 0, b->images * s->table->slots)});
    dl_arena_release(&r->arena, m);
}

void sd_prog_decode(struct sd *s, dl_act z, dl_act x, uint8_t *rgb)
{
    vae_decode(&s->run, &s->vae, z, x);
    if (rgb) dl_op_image(&s->run, (struct dl_image){.x = x, .u8 = rgb});
}
