#include "pipelines/flux.h"

#include <stdlib.h>

/* Weights bound from here on belong to this set. List mode has none. */
static void into(struct bind *b, struct dl_wset *set)
{
    if (b->files) b->set = set;
}

/* What follows is of this stage in both sets; -1: of none. */
static void stage(struct flux *f, int i)
{
    dl_wset_mark(&f->prep, i);
    dl_wset_mark(&f->weights, i);
}

static void bind_mlp(struct bind *b, struct flux_mlp *m, const char *name, int64_t out, int64_t in)
{
    bind_in(b, "%s", name);
    bind_linear(b, &m->l1, &m->l1_b, "linear_1", out, in);
    bind_linear(b, &m->l2, &m->l2_b, "linear_2", out, out);
    bind_out(b);
}

static int64_t bind_mod(struct flux *f, struct bind *b, struct dl_w *w, struct dl_w *bias, const char *name, int rows)
{
    int64_t d = f->cfg.width, at = f->table_width;
    into(b, &f->prep);
    bind_linear(b, w, bias, name, rows * d, d);
    into(b, &f->weights);
    f->table_width += rows * d;
    return at;
}

static void bind_part(struct flux *f, struct flux_part *p, bool text, struct bind *b)
{
    static const char *const names[2][10] = {
        {"norm1.linear", "attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight", "attn.to_q.bias", "attn.to_k.bias",
         "attn.to_v.bias", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"},
        {"norm1_context.linear", "attn.add_q_proj.weight", "attn.add_k_proj.weight", "attn.add_v_proj.weight",
         "attn.add_q_proj.bias", "attn.add_k_proj.bias", "attn.add_v_proj.bias", "attn.to_add_out",
         "ff_context.net.0.proj", "ff_context.net.2"},
    };
    const char *const *n = names[text];
    int64_t d = f->cfg.width, rows[] = {d, d, d};
    p->mod_at = bind_mod(f, b, &p->mod, &p->mod_b, n[0], 6);
    bind_stack(b, &p->qkv, BIND_MATRIX, 3, n + 1, rows, d);
    bind_stack(b, &p->qkv_b, BIND_BIAS, 3, n + 4, rows, 0);
    bind_norm(b, &p->q_g, NULL, text ? "attn.norm_added_q" : "attn.norm_q", f->cfg.head_dim);
    bind_norm(b, &p->k_g, NULL, text ? "attn.norm_added_k" : "attn.norm_k", f->cfg.head_dim);
    bind_linear(b, &p->out, &p->out_b, n[7], d, d);
    bind_linear(b, &p->ff1, &p->ff1_b, n[8], 4 * d, d);
    bind_linear(b, &p->ff2, &p->ff2_b, n[9], d, 4 * d);
}

static void bind_single(struct flux *f, struct flux_single *s, struct bind *b)
{
    static const char *const qkv[] = {"attn.to_q.weight", "attn.to_k.weight", "attn.to_v.weight"};
    static const char *const qkv_b[] = {"attn.to_q.bias", "attn.to_k.bias", "attn.to_v.bias"};
    int64_t d = f->cfg.width, rows[] = {d, d, d};
    s->mod_at = bind_mod(f, b, &s->mod, &s->mod_b, "norm.linear", 3);
    bind_stack(b, &s->qkv, BIND_MATRIX, 3, qkv, rows, d);
    bind_stack(b, &s->qkv_b, BIND_BIAS, 3, qkv_b, rows, 0);
    bind_norm(b, &s->q_g, NULL, "attn.norm_q", f->cfg.head_dim);
    bind_norm(b, &s->k_g, NULL, "attn.norm_k", f->cfg.head_dim);
    bind_linear(b, &s->mlp, &s->mlp_b, "proj_mlp", 4 * d, d);
    bind_linear(b, &s->out, &s->out_b, "proj_out", d, 5 * d);
}

static void bind_embedders(struct flux *f, struct bind *b)
{
    const struct flux_config *c = &f->cfg;
    into(b, &f->prep);
    bind_in(b, "time_text_embed");
    bind_mlp(b, &f->time, "timestep_embedder", c->width, FLUX_WAVE);
    if (c->guidance) bind_mlp(b, &f->guide, "guidance_embedder", c->width, FLUX_WAVE);
    bind_mlp(b, &f->pooled, "text_embedder", c->width, c->pooled_c);
    bind_out(b);
    into(b, &f->weights);
    bind_linear(b, &f->context, &f->context_b, "context_embedder", c->width, c->text_c);
    bind_linear(b, &f->x, &f->x_b, "x_embedder", c->width, c->in_c);
}

int flux_bind(struct flux *f, const struct flux_config *c, struct bind *b, struct dl_err *e)
{
    f->cfg = *c;
    f->table_width = 0;
    f->dbl = calloc((size_t)c->doubles + 1, sizeof *f->dbl);
    f->sgl = calloc((size_t)c->singles + 1, sizeof *f->sgl);
    if (!f->dbl || !f->sgl)
        return dl_fail(e, DL_ENOMEM, "no memory for a transformer of %d blocks", c->doubles + c->singles);
    stage(f, -1);
    bind_embedders(f, b);
    for (int i = 0; i < c->doubles; i++) {
        stage(f, i);
        bind_in(b, "transformer_blocks.%d", i);
        bind_part(f, &f->dbl[i].image, false, b);
        bind_part(f, &f->dbl[i].text, true, b);
        bind_out(b);
    }
    for (int i = 0; i < c->singles; i++) {
        stage(f, c->doubles + i);
        bind_in(b, "single_transformer_blocks.%d", i);
        bind_single(f, &f->sgl[i], b);
        bind_out(b);
    }
    stage(f, c->doubles + c->singles);
    f->head_at = bind_mod(f, b, &f->head, &f->head_b, "norm_out.linear", 2);
    stage(f, -1);
    bind_linear(b, &f->out, &f->out_b, "proj_out", c->in_c, c->width);
    return 0;
}

void flux_close(struct flux *f)
{
    dl_wset_close(&f->prep);
    dl_wset_close(&f->weights);
    free(f->dbl);
    free(f->sgl);
    *f = (struct flux){0};
}
