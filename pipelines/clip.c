#include "pipelines/clip.h"

#include "loaders/config.h"

#include <math.h>
#include <stdlib.h>

int clip_config_read(struct clip_config *m, const char *path, struct dl_err *e)
{
    static const char *const fn[] = {"quick_gelu", "gelu"};
    static const char *const type[] = {"clip_text_model", "clip"};
    struct cfg *c;
    if (cfg_open(&c, path, e) < 0) return -1;
    cfg_choice(c, "model_type", 0, 2, type);
    *m = (struct clip_config){
        .width = (int)cfg_int(c, "hidden_size", 512, 8, 65536),
        .ff = (int)cfg_int(c, "intermediate_size", 2048, 8, 1 << 20),
        .layers = (int)cfg_int(c, "num_hidden_layers", 12, 1, 1024),
        .heads = (int)cfg_int(c, "num_attention_heads", 8, 1, 1024),
        .positions = (int)cfg_int(c, "max_position_embeddings", 77, 2, 65536),
        .vocab = (int)cfg_int(c, "vocab_size", 49408, 3, 1 << 24),
        .eps = (float)cfg_float(c, "layer_norm_eps", 1e-5, 0, 1),
        .fn = cfg_choice(c, "hidden_act", 0, 2, fn) == 0 ? DL_QUICK_GELU : DL_GELU,
    };
    const char *arch[1] = {""};
    cfg_strs(c, "architectures", 0, 1, arch);
    if (!strcmp(arch[0], "CLIPTextModelWithProjection"))
        m->projection = (int)cfg_int(c, "projection_dim", 512, 1, 65536);
    if (m->width % m->heads || m->width / m->heads % 8)
        cfg_fail(c, "num_attention_heads", "%d heads over hidden_size %d: a head needs a multiple of 8 channels",
                 m->heads, m->width);
    int rc = cfg_check(c, e);
    cfg_close(c);
    return rc;
}

static void bind_block(struct clip_block *b, const struct clip_config *c, struct bind *s)
{
    static const char *const qkv_w[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                        "self_attn.v_proj.weight"};
    static const char *const qkv_b[] = {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"};
    int64_t d = c->width, rows[] = {d, d, d};
    bind_norm(s, &b->ln1_g, &b->ln1_b, "layer_norm1", d);
    bind_stack(s, &b->qkv, BIND_MATRIX, 3, qkv_w, rows, d);
    bind_stack(s, &b->qkv_b, BIND_BIAS, 3, qkv_b, rows, 0);
    bind_linear(s, &b->out, &b->out_b, "self_attn.out_proj", d, d);
    bind_norm(s, &b->ln2_g, &b->ln2_b, "layer_norm2", d);
    bind_linear(s, &b->fc1, &b->fc1_b, "mlp.fc1", c->ff, d);
    bind_linear(s, &b->fc2, &b->fc2_b, "mlp.fc2", d, c->ff);
}

int clip_bind(struct clip *m, const struct clip_config *c, struct bind *b, struct dl_err *e)
{
    m->cfg = *c;
    m->block = calloc((size_t)c->layers, sizeof *m->block);
    if (!m->block) return dl_fail(e, DL_ENOMEM, "no memory for a text encoder of %d blocks", c->layers);

    /* transformers 5 writes no such level. Two tensors are looked for, so that a missing one is said to be missing. */
    bool level = !b->files || bind_has(b, "text_model.final_layer_norm.weight") ||
                 bind_has(b, "text_model.embeddings.token_embedding.weight");
    if (level) bind_in(b, "text_model");
    int64_t d = c->width;
    bind_w(b, &m->tokens, BIND_TABLE, "embeddings.token_embedding.weight", 2, (int64_t[]){c->vocab, d});
    bind_w(b, &m->positions, BIND_TABLE, "embeddings.position_embedding.weight", 2, (int64_t[]){c->positions, d});
    bind_allow(b, "embeddings.position_ids"); /* older writers saved this buffer */
    for (int i = 0; i < c->layers; i++) {
        bind_in(b, "encoder.layers.%d", i);
        bind_block(&m->block[i], c, b);
        bind_out(b);
    }
    bind_norm(b, &m->ln_g, &m->ln_b, "final_layer_norm", d);
    if (level) bind_out(b);
    if (c->projection) bind_linear(b, &m->projection, NULL, "text_projection", c->projection, d);
    return 0;
}

void clip_close(struct clip *m)
{
    dl_wset_close(&m->weights);
    free(m->block);
    *m = (struct clip){0};
}

/* y = x + attention(x), then + mlp(y); x and y may not overlap. */
static void run_block(struct dl_run *r, struct clip_block *b, const struct clip_config *c, dl_act x, dl_act y)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    int d = c->width;
    dl_act norm = dl_act_hi(r, r->t, x.n, 1, x.w, d), qkv = dl_act_hi(r, r->t, x.n, 1, x.w, 3 * d);
    dl_op_lnorm(r, (struct dl_lnorm){.x = x, .y = norm, .gamma = &b->ln1_g, .beta = &b->ln1_b, .eps = c->eps});
    dl_op_gemm(r, (struct dl_gemm){.x = norm, .y = qkv, .w = &b->qkv, .e = {.bias = &b->qkv_b}});
    dl_op_attn(r, (struct dl_attn){.q = dl_act_cols(qkv, 0, d),
                                   .k = dl_act_cols(qkv, d, d),
                                   .v = dl_act_cols(qkv, 2 * d, d),
                                   .y = norm,
                                   .heads = c->heads,
                                   .scale = 1 / sqrtf((float)(d / c->heads)),
                                   .causal = true});
    dl_op_gemm(r, (struct dl_gemm){.x = norm, .y = y, .w = &b->out, .e = {.bias = &b->out_b, .res = x}});
    dl_arena_release_hi(&r->arena, m);

    dl_act wide = dl_act_hi(r, r->t, x.n, 1, x.w, c->ff);
    norm = dl_act_hi(r, r->t, x.n, 1, x.w, d);
    dl_op_lnorm(r, (struct dl_lnorm){.x = y, .y = norm, .gamma = &b->ln2_g, .beta = &b->ln2_b, .eps = c->eps});
    dl_op_gemm(r, (struct dl_gemm){.x = norm, .y = wide, .w = &b->fc1, .e = {.bias = &b->fc1_b, .fn = c->fn}});
    dl_op_gemm(r, (struct dl_gemm){.x = wide, .y = y, .w = &b->fc2, .e = {.bias = &b->fc2_b, .res = y}});
    dl_arena_release_hi(&r->arena, m);
}

void clip_run(struct dl_run *r, struct clip *m, const int32_t *ids, int n, int upto, dl_act states)
{
    dl_act x = dl_act_rows(states, 0, n);
    dl_op_embed(r, (struct dl_embed){.ids = ids, .y = x, .table = &m->tokens, .pos = &m->positions});
    dl_tap(r, x, "hidden_states.0");
    for (int k = 1; k <= upto; k++) {
        dl_act y = dl_act_rows(states, k * n, n);
        run_block(r, &m->block[k - 1], &m->cfg, x, y);
        dl_tap(r, y, "hidden_states.%d", k);
        x = y;
    }
}

void clip_final(struct dl_run *r, struct clip *m, dl_act x, dl_act y)
{
    dl_op_lnorm(r, (struct dl_lnorm){.x = x, .y = y, .gamma = &m->ln_g, .beta = &m->ln_b, .eps = m->cfg.eps});
}

void clip_finish(struct dl_run *r, struct clip *m, dl_act state, dl_act final)
{
    run_block(r, &m->block[m->cfg.layers - 1], &m->cfg, state, final);
    clip_final(r, m, final, final);
}

int clip_pooled_width(const struct clip_config *c) { return c->projection ? c->projection : c->width; }

void clip_pooled(struct dl_run *r, struct clip *m, dl_act final, const int32_t *eos, dl_act pooled)
{
    struct dl_mark mark = dl_arena_mark(&r->arena);
    dl_act ends = m->cfg.projection ? dl_act_hi(r, r->t, final.n, 1, 1, final.c) : pooled;
    for (int i = 0; i < final.n; i++) {
        dl_act row = dl_act_rows(final, i, 1);
        row.p = (uint8_t *)row.p + (int64_t)eos[i] * row.ld * dl_type_bytes(row.t);
        row.w = 1;
        dl_op_copy(r, (struct dl_copy){.x = row, .y = dl_act_rows(ends, i, 1)});
    }
    if (m->cfg.projection) dl_op_gemm(r, (struct dl_gemm){.x = ends, .y = pooled, .w = &m->projection});
    dl_arena_release_hi(&r->arena, mark);
}
