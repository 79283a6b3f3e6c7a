#include "pipelines/t5.h"

#include "loaders/config.h"

#include <stdlib.h>

int t5_config_read(struct t5_config *m, const char *path, struct dl_err *e)
{
    static const char *const type[] = {"t5"}, *const ff[] = {"gated-gelu"}, *const fn[] = {"gelu_new"};
    struct cfg *c;
    if (cfg_open(&c, path, e) < 0) return -1;
    cfg_choice(c, "model_type", CFG_REQUIRED, 1, type);
    cfg_choice(c, "feed_forward_proj", CFG_REQUIRED, 1, ff);
    cfg_choice(c, "dense_act_fn", 0, 1, fn);
    if (!cfg_bool(c, "is_gated_act", true)) cfg_fail(c, "is_gated_act", "false contradicts feed_forward_proj");
    if (cfg_bool(c, "is_decoder", false)) cfg_fail(c, "is_decoder", "this is a decoder, not an encoder");
    *m = (struct t5_config){
        .width = (int)cfg_int(c, "d_model", 512, 8, 65536),
        .ff = (int)cfg_int(c, "d_ff", 2048, 8, 1 << 20),
        .layers = (int)cfg_int(c, "num_layers", 6, 1, 1024),
        .heads = (int)cfg_int(c, "num_heads", 8, 1, 1024),
        .head_dim = (int)cfg_int(c, "d_kv", 64, 8, 1024),
        .vocab = (int)cfg_int(c, "vocab_size", 32128, 3, 1 << 24),
        .buckets = (int)cfg_int(c, "relative_attention_num_buckets", 32, 4, 65536),
        .max_distance = (int)cfg_int(c, "relative_attention_max_distance", 128, 2, 1 << 20),
        .eps = (float)cfg_float(c, "layer_norm_epsilon", 1e-6, 1e-20, 1),
    };
    if (m->head_dim % 8) cfg_fail(c, "d_kv", "%d: a head needs a multiple of 8 channels", m->head_dim);
    if (m->buckets % 4) cfg_fail(c, "relative_attention_num_buckets", "%d is not a multiple of 4", m->buckets);
    if (m->max_distance <= m->buckets / 4)
        cfg_fail(c, "relative_attention_max_distance", "%d: %d buckets need more than %d", m->max_distance, m->buckets,
                 m->buckets / 4);
    int rc = cfg_check(c, e);
    cfg_close(c);
    return rc;
}

static void bind_block(struct t5 *m, int i, struct bind *s)
{
    static const char *const qkv[] = {"layer.0.SelfAttention.q.weight", "layer.0.SelfAttention.k.weight",
                                      "layer.0.SelfAttention.v.weight"};
    static const char *const wi[] = {"layer.1.DenseReluDense.wi_1.weight", "layer.1.DenseReluDense.wi_0.weight"};
    const struct t5_config *c = &m->cfg;
    struct t5_block *b = &m->block[i];
    int64_t d = c->width, inner = (int64_t)c->heads * c->head_dim;
    dl_wset_mark(s->set, 1 + i);
    bind_norm(s, &b->ln1, NULL, "layer.0.layer_norm", d);
    bind_stack(s, &b->qkv, BIND_MATRIX, 3, qkv, (int64_t[]){inner, inner, inner}, d);
    bind_linear(s, &b->out, NULL, "layer.0.SelfAttention.o", d, inner);
    bind_norm(s, &b->ln2, NULL, "layer.1.layer_norm", d);
    bind_stack(s, &b->wi, BIND_MATRIX, 2, wi, (int64_t[]){c->ff, c->ff}, d);
    bind_linear(s, &b->ff_out, NULL, "layer.1.DenseReluDense.wo", d, c->ff);
}

int t5_bind(struct t5 *m, const struct t5_config *c, struct bind *b, struct dl_err *e)
{
    m->cfg = *c;
    m->block = calloc((size_t)c->layers, sizeof *m->block);
    if (!m->block) return dl_fail(e, DL_ENOMEM, "no memory for a text encoder of %d blocks", c->layers);

    const char *copy = "encoder.embed_tokens.weight", *table = "shared.weight";
    if (!bind_has(b, table) && bind_has(b, copy)) table = copy;
    dl_wset_mark(b->set, 0);
    bind_w(b, &m->tokens, BIND_TABLE, table, 2, (int64_t[]){c->vocab, c->width});
    bind_allow(b, copy);
    bind_w(b, &m->bias, BIND_TABLE, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 2,
           (int64_t[]){c->buckets, c->heads});
    for (int i = 0; i < c->layers; i++) {
        bind_in(b, "encoder.block.%d", i);
        bind_block(m, i, b);
        bind_out(b);
    }
    dl_wset_mark(b->set, -1);
    bind_norm(b, &m->ln, NULL, "encoder.final_layer_norm", c->width);
    return 0;
}

void t5_close(struct t5 *m)
{
    dl_wset_close(&m->weights);
    free(m->block);
    *m = (struct t5){0};
}

int t5_stages(int upto) { return 1 + upto; }

static void norm(struct dl_run *r, const struct t5_config *c, struct dl_w *gamma, dl_act x, dl_act y)
{
    dl_op_lnorm(r, (struct dl_lnorm){.x = x, .y = y, .gamma = gamma, .eps = c->eps, .rms = true});
}

/* y = x + attention(x), then + ff(y); x and y may not overlap. */
static void run_block(struct dl_run *r, struct t5_block *b, const struct t5_config *c, const uint8_t *mask, dl_act bias,
                      dl_act x, dl_act y)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    int inner = c->heads * c->head_dim;
    dl_act normed = dl_act_hi(r, r->t, x.n, 1, x.w, c->width), qkv = dl_act_hi(r, r->t, x.n, 1, x.w, 3 * inner);
    dl_act mixed = dl_act_hi(r, r->t, x.n, 1, x.w, inner);
    norm(r, c, &b->ln1, x, normed);
    dl_op_gemm(r, (struct dl_gemm){.x = normed, .y = qkv, .w = &b->qkv});
    dl_op_attn(r, (struct dl_attn){.q = dl_act_cols(qkv, 0, inner),
                                   .k = dl_act_cols(qkv, inner, inner),
                                   .v = dl_act_cols(qkv, 2 * inner, inner),
                                   .y = mixed,
                                   .heads = c->heads,
                                   .scale = 1,
                                   .bias = bias,
                                   .key_mask = mask});
    dl_op_gemm(r, (struct dl_gemm){.x = mixed, .y = y, .w = &b->out, .e = {.res = x}});
    dl_arena_release_hi(&r->arena, m);

    normed = dl_act_hi(r, r->t, x.n, 1, x.w, c->width);
    dl_act wide = dl_act_hi(r, r->t, x.n, 1, x.w, c->ff);
    norm(r, c, &b->ln2, y, normed);
    dl_op_gemm(r, (struct dl_gemm){.x = normed, .y = wide, .w = &b->wi, .e = {.fn = DL_GELU_TANH, .glu = true}});
    dl_op_gemm(r, (struct dl_gemm){.x = wide, .y = y, .w = &b->ff_out, .e = {.res = y}});
    dl_arena_release_hi(&r->arena, m);
}

/* State 0. The table is read in the run's type, which is the published one or wider. */
static void embed(struct dl_run *r, struct t5 *m, const int32_t *ids, dl_act x)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    dl_act y = r->t == DL_F32 ? x : dl_act_hi(r, r->t, x.n, 1, x.w, x.c);
    dl_op_embed(r, (struct dl_embed){.ids = ids, .y = y, .table = &m->tokens});
    if (r->t != DL_F32) dl_op_copy(r, (struct dl_copy){.x = y, .y = x});
    dl_arena_release_hi(&r->arena, mark);
}

void t5_run(struct dl_run *r, struct t5 *m, const int32_t *ids, const uint8_t *mask, int n, int upto, dl_act states)
{
    const struct t5_config *c = &m->cfg;
    struct dl_mark mark = dl_arena_mark(&r->arena);
    dl_act x = dl_act_rows(states, 0, n), bias = dl_act_hi(r, DL_F32, c->heads, x.w, x.w, 1);
    if (r->t != DL_F32 && r->t != DL_BF16)
        dl_fail(&r->err, DL_EUSAGE, "T5 computes in f32 or bf16: its values overflow %s", dl_type_name(r->t));
    if (states.t != DL_F32) dl_fail(&r->err, DL_EFAIL, "T5's states are f32, not %s", dl_type_name(states.t));
    dl_stage(r, 0);
    dl_op_rel_bias(r, (struct dl_rel_bias){.table = &m->bias, .max_distance = c->max_distance, .y = bias});
    embed(r, m, ids, x);
    dl_tap(r, x, "hidden_states.0");
    for (int k = 1; k <= upto; k++) {
        dl_act y = dl_act_rows(states, k * n, n);
        dl_stage(r, k);
        run_block(r, &m->block[k - 1], c, mask, bias, x, y);
        dl_tap(r, y, "hidden_states.%d", k);
        x = y;
    }
    dl_arena_release_hi(&r->arena, mark);
}

void t5_final(struct dl_run *r, struct t5 *m, dl_act x, dl_act y) { norm(r, &m->cfg, &m->ln, x, y); }
