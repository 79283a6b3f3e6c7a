#include "lens/model_id.h"
#include "lens/outfile.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct text {
    uint8_t *p;
    int64_t n, cap;
};

static int append(struct text *t, const void *data, int64_t n, struct dl_err *e)
{
    if (t->n + n > t->cap) {
        int64_t cap = 2 * (t->n + n) + 4096;
        uint8_t *more = realloc(t->p, (size_t)cap);
        if (!more) return dl_fail(e, DL_ENOMEM, "no memory for a model's fingerprint");
        t->p = more, t->cap = cap;
    }
    memcpy(t->p + t->n, data, (size_t)n);
    t->n += n;
    return 0;
}

static int add_file(struct text *t, const char *path, struct dl_err *e)
{
    uint8_t *data;
    int64_t bytes;
    if (access(path, R_OK) < 0) return 0; /* an absent one is told where it is needed */
    if (outfile_read(path, (int64_t)16 << 20, &data, &bytes, e) < 0) return -1;
    int rc = append(t, data, bytes, e);
    free(data);
    return rc;
}

static int add_weights(struct text *t, const struct st_set *s, struct dl_err *e)
{
    for (int64_t i = 0; i < st_set_count(s); i++) {
        const struct st_tensor *w = st_set_at(s, i);
        int64_t n = w->bytes < 64 ? w->bytes : 64, from = (w->bytes - n) / 2;
        if (append(t, w->name, (int64_t)strlen(w->name) + 1, e) < 0 ||
            append(t, w->dtype, (int64_t)strlen(w->dtype), e) < 0 ||
            append(t, w->dim, w->nd * (int64_t)sizeof *w->dim, e) < 0 ||
            append(t, (const uint8_t *)w->data + from, n, e) < 0)
            return -1;
    }
    return 0;
}

int model_fingerprint(const struct model_dir *m, char hex[SHA256_HEX], struct dl_err *e)
{
    static const char *const files[] = {"config.json", "scheduler_config.json", "vocab.json", "merges.txt",
                                        "tokenizer_config.json"};
    static const char *const weighted[] = {"text_encoder", "text_encoder_2", "unet", "transformer", "vae"};
    struct text t = {0};
    int rc = 0;
    for (int i = 0; i < m->n_parts && rc == 0; i++) {
        const struct model_part *part = &m->part[i];
        rc = append(&t, part->name, (int64_t)strlen(part->name) + 1, e);
        for (size_t j = 0; j < sizeof files / sizeof *files && rc == 0; j++) {
            char *path = model_dir_join(m, part->name, files[j], e);
            rc = path ? add_file(&t, path, e) : -1;
            free(path);
        }
        for (size_t j = 0; j < sizeof weighted / sizeof *weighted && rc == 0; j++) {
            struct st_set *s = NULL;
            if (strcmp(part->name, weighted[j])) continue;
            rc = model_dir_weights(m, part->name, &s, e);
            if (rc == 0) rc = add_weights(&t, s, e);
            st_set_close(s);
        }
    }
    if (rc == 0) sha256_bytes(hex, t.p, t.n);
    free(t.p);
    return rc;
}
