/* Weights of one network as one file, or where they are large as shards with an index, like the published ones. */
#include "tools/synth.h"

#include <stdio.h>
#include <string.h>

/* Tensors [from, to) that make one shard; their bytes are added to *total. */
static int64_t shard_end(const struct synth_list *l, int64_t from, int type, int64_t most, int64_t *total)
{
    int64_t bytes = 0, i = from;
    for (; i < l->n; i++) {
        int64_t more = l->t[i].count * dl_type_bytes(type);
        if (i > from && bytes + more > most) break;
        bytes += more;
    }
    *total += bytes;
    return i;
}

static int write_shards(const char *folder, const char *stem, const struct synth_list *l, const struct synth_opts *o,
                        int64_t most, int shards, int64_t total, synth_planner *plan, void *user, struct dl_err *e)
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
        int64_t to = shard_end(l, from, o->type, most, &sum);
        snprintf(name, sizeof name, "%.100s-%05d-of-%05d.safetensors", stem, s + 1, shards);
        for (int64_t i = from; i < to; i++)
            fprintf(f, "    \"%s\": \"%s\"%s\n", l->t[i].name, name, i + 1 < l->n ? "," : "");
        const struct synth_list part = {.t = l->t + from, .n = to - from};
        rc = synth_join(path, sizeof path, folder, name, e);
        if (rc == 0) rc = synth_tensors(path, &part, o, plan, user, e);
        from = to;
    }
    fprintf(f, "  }\n}\n");
    bool bad = ferror(f);
    if (fclose(f) || bad) return rc < 0 ? rc : dl_fail(e, DL_EFAIL, "%s: cannot write the index", folder);
    return rc;
}

/* The libraries that write such files cut them at these sizes. */
static int64_t most_bytes(const char *stem)
{
    return strcmp(stem, "model") ? (int64_t)10000000000 /* diffusers */ : (int64_t)5000000000 /* transformers */;
}

int synth_shards(const char *folder, const char *stem, const struct synth_list *l, const struct synth_opts *o,
                 synth_planner *plan, void *user, struct dl_err *e)
{
    char path[4400];
    int shards = 0;
    int64_t total = 0, most = most_bytes(stem);
    if (l->failed) return dl_fail(e, DL_ENOMEM, "%s: no memory", folder);
    for (int64_t i = 0; i < l->n; shards++) i = shard_end(l, i, o->type, most, &total);
    if (shards > 1) return write_shards(folder, stem, l, o, most, shards, total, plan, user, e);
    if ((size_t)snprintf(path, sizeof path, "%s/%s.safetensors", folder, stem) >= sizeof path)
        return dl_fail(e, DL_EUSAGE, "%.200s...: this folder's name is too long", folder);
    return synth_tensors(path, l, o, plan, user, e);
}
