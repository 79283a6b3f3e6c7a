#include "lens/latents.h"
#include "lens/names.h"
#include "loaders/st_write.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct entry {
    char key[NAMES_MAX];
    float *data; /* [c][h][w] */
};

struct latents {
    char path[4096];
    int h, w, c;
    struct entry *entry; /* [n] */
    int64_t n, cap;
    bool changed;
};

static struct entry *find(const struct latents *l, const char *key)
{
    for (int64_t i = 0; i < l->n; i++)
        if (!strcmp(l->entry[i].key, key)) return &l->entry[i];
    return NULL;
}

static struct entry *add(struct latents *l, const char *key, struct dl_err *e)
{
    struct entry *old = find(l, key);
    if (old) return old;
    if (l->n == l->cap) {
        int64_t cap = l->cap ? 2 * l->cap : 64;
        struct entry *more = realloc(l->entry, (size_t)cap * sizeof *more);
        if (!more) return dl_fail(e, DL_ENOMEM, "%s: no memory", l->path), NULL;
        l->entry = more, l->cap = cap;
    }
    struct entry *n = &l->entry[l->n];
    n->data = malloc((size_t)l->c * (size_t)l->h * (size_t)l->w * sizeof(float));
    if (!n->data) return dl_fail(e, DL_ENOMEM, "%s: no memory", l->path), NULL;
    snprintf(n->key, sizeof n->key, "%s", key);
    l->n++;
    return n;
}

static int read_old(struct latents *l, struct dl_err *e)
{
    struct st_file *f;
    if (access(l->path, F_OK) < 0 && errno == ENOENT) return 0;
    if (st_open(&f, l->path, e) < 0) return -1;
    int rc = 0;
    for (int64_t i = 0; i < st_file_count(f) && rc == 0; i++) {
        const struct st_tensor *t = st_file_at(f, i);
        struct entry *n = NULL;
        if (strlen(t->name) >= NAMES_MAX || !st_need(f, t->name, DL_F32, 3, (int64_t[]){l->c, l->h, l->w}, e) ||
            !(n = add(l, t->name, e)))
            rc = -1;
        else
            memcpy(n->data, t->data, (size_t)t->bytes);
    }
    st_close(f);
    return rc;
}

int latents_open(struct latents **out, const char *dir, int h, int w, int c, struct dl_err *e)
{
    struct latents *l = *out = calloc(1, sizeof *l);
    if (!l) return dl_fail(e, DL_ENOMEM, "no memory for latents");
    l->h = h, l->w = w, l->c = c;
    snprintf(l->path, sizeof l->path, "%s/latents.safetensors", dir);
    if (read_old(l, e) == 0) return 0;
    latents_close(l);
    *out = NULL;
    return -1;
}

bool latents_has(const struct latents *l, const struct manifest_image *im)
{
    char key[NAMES_MAX];
    names_latent(key, im->prompt, im->seed, im->k);
    return find(l, key) != NULL;
}

int latents_put(struct latents *l, const struct manifest_image *im, const float *latent, struct dl_err *e)
{
    char key[NAMES_MAX];
    names_latent(key, im->prompt, im->seed, im->k);
    struct entry *n = add(l, key, e);
    if (!n) return -1;
    int64_t pixels = (int64_t)l->h * l->w;
    for (int64_t i = 0; i < pixels; i++)
        for (int j = 0; j < l->c; j++) n->data[j * pixels + i] = latent[i * l->c + j];
    l->changed = true;
    return 0;
}

int latents_flush(struct latents *l, struct dl_err *e)
{
    if (!l->changed) return 0;
    struct st_tensor *t = calloc((size_t)l->n, sizeof *t);
    if (!t) return dl_fail(e, DL_ENOMEM, "%s: no memory", l->path);
    for (int64_t i = 0; i < l->n; i++)
        t[i] = (struct st_tensor){
            .name = l->entry[i].key, .t = DL_F32, .nd = 3, .dim = {l->c, l->h, l->w}, .data = l->entry[i].data};
    int rc = st_write(l->path, t, l->n, NULL, 0, e);
    free(t);
    if (rc == 0) l->changed = false;
    return rc;
}

void latents_close(struct latents *l)
{
    if (!l) return;
    for (int64_t i = 0; i < l->n; i++) free(l->entry[i].data);
    free(l->entry);
    free(l);
}
