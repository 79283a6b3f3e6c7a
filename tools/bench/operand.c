#include "tools/bench/operand.h"
#include "engine/sched.h"

static const struct {
    const char *name;
    size_t size;
} kinds[OP_KINDS] = {
    [OP_GEMM] = {"gemm", sizeof(struct dl_gemm)},
    [OP_CONV] = {"conv", sizeof(struct dl_conv)},
    [OP_GNORM] = {"gnorm", sizeof(struct dl_gnorm)},
    [OP_NORM] = {"norm", sizeof(struct dl_norm)},
    [OP_LNORM] = {"lnorm", sizeof(struct dl_lnorm)},
    [OP_ATTN] = {"attn", sizeof(struct dl_attn)},
    [OP_EMBED] = {"embed", sizeof(struct dl_embed)},
    [OP_SINUS] = {"sinus", sizeof(struct dl_sinus)},
    [OP_COPY] = {"copy", sizeof(struct dl_copy)},
    [OP_ADD] = {"add", sizeof(struct dl_add)},
    [OP_PICK] = {"pick", sizeof(struct dl_pick)},
    [OP_ROPE] = {"rope", sizeof(struct dl_rope)},
    [OP_RESIZE] = {"resize", sizeof(struct dl_resize)},
    [OP_REL_BIAS] = {"rel_bias", sizeof(struct dl_rel_bias)},
    [OP_TOKEN_MEAN] = {"token_mean", sizeof(struct dl_token_mean)},
    [OP_SCHED_IN] = {"sched_in", sizeof(struct dl_sched_in)},
    [OP_SCHED_STEP] = {"sched_step", sizeof(struct dl_sched_step)},
    [OP_IMAGE] = {"image", sizeof(struct dl_image)},
};

const char *op_name(enum op_kind kind) { return kinds[kind].name; }

size_t op_size(enum op_kind kind) { return kinds[kind].size; }

void op_call(struct dl_run *r, enum op_kind kind, const union op_args *a, struct dl_stat *stat)
{
    struct dl_stat s = {0};
    switch (kind) {
    case OP_GEMM: dl_op_gemm(r, a->gemm); break;
    case OP_CONV: dl_op_conv(r, a->conv); break;
    case OP_GNORM: s = dl_op_gnorm(r, a->gnorm); break;
    case OP_NORM: dl_op_norm(r, a->norm); break;
    case OP_LNORM: dl_op_lnorm(r, a->lnorm); break;
    case OP_ATTN: dl_op_attn(r, a->attn); break;
    case OP_EMBED: dl_op_embed(r, a->embed); break;
    case OP_SINUS: dl_op_sinus(r, a->sinus); break;
    case OP_COPY: dl_op_copy(r, a->copy); break;
    case OP_ADD: dl_op_add(r, a->add); break;
    case OP_PICK: dl_op_pick(r, a->pick); break;
    case OP_ROPE: dl_op_rope(r, a->rope); break;
    case OP_RESIZE: dl_op_resize(r, a->resize); break;
    case OP_REL_BIAS: dl_op_rel_bias(r, a->rel_bias); break;
    case OP_TOKEN_MEAN: dl_op_token_mean(r, a->token_mean); break;
    case OP_SCHED_IN: dl_op_sched_in(r, a->sched_in); break;
    case OP_SCHED_STEP: dl_op_sched_step(r, a->sched_step); break;
    case OP_IMAGE: dl_op_image(r, a->image); break;
    case OP_KINDS: break;
    }
    if (stat) *stat = s;
}

static void act(struct operands *o, dl_act *a, bool out, dl_act *twin)
{
    if (!a->p) return;
    o->act[o->n_act].a = a, o->act[o->n_act].out = out, o->act[o->n_act].twin = twin;
    o->n_act++;
}

static void vec(struct operands *o, dl_vec *v, int32_t n, int32_t c)
{
    if (!v->p) return;
    o->vec[o->n_vec].v = v, o->vec[o->n_vec].count = (n - 1) * v->rs + c;
    o->n_vec++;
}

static void weight(struct operands *o, struct dl_w **w)
{
    if (*w) o->w[o->n_w++] = w;
}

static void host(struct operands *o, const void *field, int64_t bytes, int32_t rows)
{
    const void **p = (const void **)field;
    if (!*p) return;
    o->host[o->n_host].p = p, o->host[o->n_host].bytes = bytes, o->host[o->n_host].rows = rows;
    o->n_host++;
}

static void block(struct operands *o, const void *field, int64_t bytes, enum op_block what, bool out)
{
    const void **p = (const void **)field;
    if (!*p) return;
    o->block[o->n_block].p = p, o->block[o->n_block].bytes = bytes;
    o->block[o->n_block].what = what, o->block[o->n_block].out = out;
    o->n_block++;
}

static void parts(struct operands *o, dl_act *a, bool out)
{
    block(o, &a->parts, dl_parts_bytes(*a), BLOCK_PARTS, out);
}

static void epilogue(struct operands *o, struct dl_epi *e, dl_act *y)
{
    weight(o, &e->bias);
    vec(o, &e->add, y->n, y->c);
    vec(o, &e->gate, y->n, y->c);
    act(o, &e->res, false, y);
    parts(o, y, true);
}

static void statistics(struct operands *o, struct dl_stat *s, const dl_act *x)
{
    if (!s->mean_rstd) return;
    block(o, &s->mean_rstd, (int64_t)x->n * s->groups * 2 * 4, BLOCK_STATS, false);
    weight(o, &s->gamma), weight(o, &s->beta);
    vec(o, &s->scale, x->n, x->c), vec(o, &s->shift, x->n, x->c);
}

static int64_t schedule_bytes(const struct sched_table *t)
{
    return (int64_t)sizeof *t + t->n * (int64_t)sizeof t->step[0];
}

static void list_gnorm(struct operands *o, struct dl_gnorm *a)
{
    act(o, &a->x, false, NULL), parts(o, &a->x, false);
    weight(o, &a->gamma), weight(o, &a->beta);
    vec(o, &a->scale, a->x.n, a->x.c), vec(o, &a->shift, a->x.n, a->x.c);
}

static void list_lnorm(struct operands *o, struct dl_lnorm *a)
{
    act(o, &a->y, true, NULL), act(o, &a->x, false, &a->y);
    weight(o, &a->gamma), weight(o, &a->beta);
    vec(o, &a->scale, a->x.n, a->x.c), vec(o, &a->shift, a->x.n, a->x.c);
}

static void list_attn(struct operands *o, struct dl_attn *a)
{
    act(o, &a->y, true, NULL), act(o, &a->q, false, NULL);
    act(o, &a->k, false, NULL), act(o, &a->v, false, NULL), act(o, &a->bias, false, NULL);
    host(o, &a->key_mask, (int64_t)a->k.n * a->k.h * a->k.w, 0);
    host(o, &a->kv_row, a->q.n * 4, a->k.n);
}

enum { PICK_ROWS = 4096 /* that a table may have, as far as a benchmark goes */ };

/* A row map of a pick may point anywhere in the table; how large that is only the model knows. */
static void list_pick(struct operands *o, struct dl_pick *a)
{
    int32_t top = 0;
    for (int32_t i = 0; a->row && i < a->y.n; i++)
        if (a->row[i] > top && a->row[i] < PICK_ROWS) top = a->row[i];
    act(o, &a->y, true, NULL);
    vec(o, &a->table, top + 1, a->y.c);
    host(o, &a->row, a->y.n * 4, top + 1);
}

static void list_rope(struct operands *o, struct dl_rope *a)
{
    act(o, &a->y, true, NULL), act(o, &a->x, false, &a->y);
    weight(o, &a->gamma[0]), weight(o, &a->gamma[1]);
    block(o, &a->table, (int64_t)a->x.h * a->x.w * (a->x.c / a->heads) * 4, BLOCK_ANGLES, false);
}

static void list_sched_step(struct operands *o, struct dl_sched_step *a)
{
    act(o, &a->latent, true, NULL), act(o, &a->history, true, NULL);
    act(o, &a->eps, false, NULL), act(o, &a->noise, false, NULL);
    host(o, &a->table, schedule_bytes(a->table), 0);
    host(o, &a->u_row, a->latent.n * 4, a->eps.n), host(o, &a->c_row, a->latent.n * 4, a->eps.n);
}

void op_operands(enum op_kind kind, union op_args *a, struct operands *o)
{
    *o = (struct operands){0};
    switch (kind) {
    case OP_GEMM:
        act(o, &a->gemm.y, true, NULL), act(o, &a->gemm.x, false, NULL);
        weight(o, &a->gemm.w);
        epilogue(o, &a->gemm.e, &a->gemm.y);
        break;
    case OP_CONV:
        act(o, &a->conv.y, true, NULL), act(o, &a->conv.x, false, NULL);
        weight(o, &a->conv.w);
        statistics(o, &a->conv.pre, &a->conv.x);
        epilogue(o, &a->conv.e, &a->conv.y);
        break;
    case OP_GNORM: list_gnorm(o, &a->gnorm); break;
    case OP_NORM:
        act(o, &a->norm.y, true, NULL), act(o, &a->norm.x, false, &a->norm.y);
        statistics(o, &a->norm.s, &a->norm.x);
        break;
    case OP_LNORM: list_lnorm(o, &a->lnorm); break;
    case OP_ATTN: list_attn(o, &a->attn); break;
    case OP_EMBED:
        act(o, &a->embed.y, true, NULL);
        weight(o, &a->embed.table), weight(o, &a->embed.pos);
        host(o, &a->embed.ids, (int64_t)a->embed.y.n * a->embed.y.w * 4, (int32_t)a->embed.table->dim[0]);
        break;
    case OP_SINUS:
        act(o, &a->sinus.y, true, NULL);
        host(o, &a->sinus.t, a->sinus.y.n * 4, 0);
        break;
    case OP_COPY:
        act(o, &a->copy.y, true, NULL), act(o, &a->copy.x, false, &a->copy.y);
        host(o, &a->copy.row, a->copy.y.n * 4, a->copy.x.n);
        break;
    case OP_ADD:
        act(o, &a->add.y, true, NULL), act(o, &a->add.a, false, &a->add.y), act(o, &a->add.b, false, &a->add.y);
        break;
    case OP_PICK: list_pick(o, &a->pick); break;
    case OP_ROPE: list_rope(o, &a->rope); break;
    case OP_RESIZE: act(o, &a->resize.y, true, NULL), act(o, &a->resize.x, false, NULL); break;
    case OP_REL_BIAS:
        act(o, &a->rel_bias.y, true, NULL);
        weight(o, &a->rel_bias.table);
        break;
    case OP_TOKEN_MEAN:
        act(o, &a->token_mean.y, true, NULL), act(o, &a->token_mean.x, false, NULL);
        weight(o, &a->token_mean.pos);
        break;
    case OP_SCHED_IN:
        act(o, &a->sched_in.y, true, NULL), act(o, &a->sched_in.latent, false, NULL);
        host(o, &a->sched_in.table, schedule_bytes(a->sched_in.table), 0);
        host(o, &a->sched_in.row, a->sched_in.y.n * 4, a->sched_in.latent.n);
        break;
    case OP_SCHED_STEP: list_sched_step(o, &a->sched_step); break;
    case OP_IMAGE:
        act(o, &a->image.x, false, NULL);
        block(o, &a->image.u8, (int64_t)a->image.x.n * a->image.x.h * a->image.x.w * 3, BLOCK_PIXELS, true);
        break;
    case OP_KINDS: break;
    }
}
