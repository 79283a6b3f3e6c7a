/* FLUX.1 schnell and dev: configs restated at full size, and small ones that keep what is peculiar to them: double and
 * single blocks, heads turned along three axes of unlike widths, packed latents of 16 channels, a VAE with shift and
 * without post_quant_conv, a pooled vector and text states of other widths than the transformer's, dev's guidance input
 * and shifted schedule. Large networks are written as shards with an index. */
#include "tools/synth.h"

#include "pipelines/flux.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    const char *axes; /* further keys of the transformer's config */
    int heads, head_dim, doubles, singles;
    int text_c, pooled_c; /* widths of T5 and CLIP */
};

static const struct shape shapes[2] = {
    {.axes = "  'axes_dims_rope': [4, 6, 6],\n",
     .heads = 3,
     .head_dim = 16,
     .doubles = 2,
     .singles = 3,
     .text_c = 32,
     .pooled_c = 40},
    {.axes = "", .heads = 24, .head_dim = 128, .doubles = 19, .singles = 38, .text_c = 4096, .pooled_c = 768},
};

static const int64_t shard_bytes = (int64_t)9960 << 20;

/* Shifts, scales and gates of ordinary size; the stream grows by branches of which the gates pass a part. */
static const struct synth_gain gains[] = {
    {"norm_out.linear", 0.7f},  {"norm1", 1},       {"norm.linear", 1}, {"ff.net.2", 1.5f},
    {"ff_context.net.2", 1.5f}, {"linear_2", 1.5f}, {NULL, 0},
};

static struct synth_plan plan(void *user, const struct synth_tensor *t)
{
    (void)user;
    return synth_plan_of(t, gains);
}

/* Tensors [from, to) that make one shard. */
static int64_t shard_end(const struct synth_list *l, int64_t from, int type, int64_t *total)
{
    int64_t bytes = 0, i = from;
    for (; i < l->n; i++) {
        int64_t more = l->t[i].count * dl_type_bytes(type);
        if (i > from && bytes + more > shard_bytes) break;
        bytes += more;
    }
    *total += bytes;
    return i;
}

static int write_shards(const char *folder, const char *stem, struct synth_list *l, const struct synth_opts *o,
                        int shards, int64_t total, struct dl_err *e)
{
    char path[4400];
    snprintf(path, sizeof path, "%s/%s.safetensors.index.json", folder, stem);
    FILE *f = fopen(path, "wb");
    if (!f) return dl_fail(e, DL_EFAIL, "%s: cannot write", path);
    fprintf(f, "{\n  \"metadata\": {\"total_size\": %lld},\n  \"weight_map\": {\n", (long long)total);
    int64_t from = 0, sum = 0;
    int rc = 0;
    for (int s = 0; s < shards && rc == 0; s++) {
        char name[200];
        int64_t to = shard_end(l, from, o->type, &sum);
        snprintf(name, sizeof name, "%.100s-%05d-of-%05d.safetensors", stem, s + 1, shards);
        for (int64_t i = from; i < to; i++)
            fprintf(f, "    \"%s\": \"%s\"%s\n", l->t[i].name, name, i + 1 < l->n ? "," : "");
        const struct synth_list part = {.t = l->t + from, .n = to - from};
        rc = synth_join(path, sizeof path, folder, name, e);
        if (rc == 0) rc = synth_tensors(path, &part, o, plan, NULL, e);
        from = to;
    }
    fprintf(f, "  }\n}\n");
    bool bad = ferror(f);
    if (fclose(f) || bad) return rc < 0 ? rc : dl_fail(e, DL_EFAIL, "%s: cannot write the index", folder);
    return rc;
}

static int write_weights(const char *folder, struct synth_list *l, const struct synth_opts *o, struct dl_err *e)
{
    static const char stem[] = "diffusion_pytorch_model";
    char path[4400];
    int shards = 0;
    int64_t total = 0;
    if (l->failed) return dl_fail(e, DL_ENOMEM, "%s: no memory", folder);
    for (int64_t i = 0; i < l->n; shards++) i = shard_end(l, i, o->type, &total);
    if (shards > 1) return write_shards(folder, stem, l, o, shards, total, e);
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, stem);
    return synth_tensors(path, l, o, plan, NULL, e);
}

int synth_flux_transformer(const struct synth_opts *o, bool dev, struct dl_err *e)
{
    const struct shape *s = &shapes[o->full];
    char folder[4000], path[4200];
    if (synth_join(folder, sizeof folder, o->out, "transformer", e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_text(folder, "config.json", e,
                   "{\n  '_class_name': 'FluxTransformer2DModel',\n  '_diffusers_version': '0.30.0.dev0',\n"
                   "  'attention_head_dim': %d,\n%s  'guidance_embeds': %s,\n  'in_channels': 64,\n"
                   "  'joint_attention_dim': %d,\n  'num_attention_heads': %d,\n  'num_layers': %d,\n"
                   "  'num_single_layers': %d,\n  'patch_size': 1,\n  'pooled_projection_dim': %d\n}\n",
                   s->head_dim, s->axes, dev ? "true" : "false", s->text_c, s->heads, s->doubles, s->singles,
                   s->pooled_c) < 0)
        return -1;
    struct flux_config c;
    if (synth_join(path, sizeof path, folder, "config.json", e) < 0 || flux_config_read(&c, path, e) < 0) return -1;
    struct synth_list l = {0};
    struct bind b;
    struct flux f = {0};
    if (bind_open_list(&b, synth_collect, &l, e) < 0) return -1;
    int rc = flux_bind(&f, &c, &b, e);
    flux_close(&f);
    if (bind_close(&b, e) < 0) rc = -1;
    if (rc == 0) rc = write_weights(folder, &l, o, e);
    synth_list_close(&l);
    return rc;
}
