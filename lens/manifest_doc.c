/* The reading half of manifest.h: from a file that anybody may have written to a checked struct manifest_doc. */
#include "lens/manifest.h"
#include "lens/outfile.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 30, MAX_LAYER = 100000 };

struct reader {
    const char *path;
    struct dl_err *e;
};

static int bad(const struct reader *r, const char *what)
{
    return dl_fail(r->e, DL_EINPUT,
                   "%s: this is not a manifest of dlens: %s; move the file away or give another folder", r->path, what);
}

/* A member that must be text. */
static const char *text_of(const struct reader *r, const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    if (!s) dl_fail(r->e, DL_EINPUT, "%s: this is not a manifest of dlens: no text \"%s\"", r->path, key);
    return s;
}

/* An integer in 0..max, or -1 after an error that names the place. */
static int int_of(const struct reader *r, const json_t *object, const char *key, int max, const char *list, size_t i)
{
    const json_t *v = json_object_get(object, key);
    json_int_t n = json_integer_value(v);
    if (json_is_integer(v) && n >= 0 && n <= max) return (int)n;
    return dl_fail(r->e, DL_EINPUT, "%s: %s[%zu].%s is not a number in 0..%d", r->path, list, i, key, max);
}

static int seed_of(const json_t *v, uint64_t *seed)
{
    if (json_is_integer(v) && json_integer_value(v) >= 0) {
        *seed = (uint64_t)json_integer_value(v);
        return 0;
    }
    const char *s = json_string_value(v);
    if (!s || !*s || strlen(s) > 20 || strspn(s, "0123456789") != strlen(s)) return -1;
    errno = 0;
    *seed = strtoull(s, NULL, 10);
    return errno ? -1 : 0;
}

static int read_prompts(struct manifest_doc *d, const struct reader *r)
{
    const json_t *list = json_object_get(d->root, "prompts");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > INT_MAX) return bad(r, "no list \"prompts\"");
    d->prompt = calloc(n + 1, sizeof *d->prompt);
    if (!d->prompt) return dl_fail(r->e, DL_ENOMEM, "%s: no memory", r->path);
    for (size_t i = 0; i < n; i++) {
        const json_t *p = json_array_get(list, i), *negative = json_object_get(p, "negative");
        d->prompt[i].text = text_of(r, p, "text");
        if (!d->prompt[i].text) return -1;
        if (negative && !json_is_null(negative) && !json_is_string(negative))
            return dl_fail(r->e, DL_EINPUT, "%s: prompts[%zu].negative is neither text nor null", r->path, i);
        d->prompt[i].negative = json_string_value(negative);
    }
    d->n_prompts = (int)n;
    return 0;
}

static int read_layers(struct manifest_doc *d, const struct reader *r)
{
    const json_t *list = json_object_get(d->root, "layers");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > MAX_LAYER) return bad(r, "no list \"layers\"");
    d->layer = calloc(n + 1, sizeof *d->layer);
    if (!d->layer) return dl_fail(r->e, DL_ENOMEM, "%s: no memory", r->path);
    for (size_t i = 0; i < n; i++)
        if ((d->layer[i] = int_of(r, json_array_get(list, i), "layer", MAX_LAYER, "layers", i)) < 0) return -1;
    d->n_layers = (int)n;
    return 0;
}

static int read_image(struct manifest_doc *d, const struct reader *r, const json_t *entry, size_t i)
{
    struct manifest_image *m = &d->image[i];
    m->prompt = int_of(r, entry, "prompt", d->n_prompts - 1, "images", i);
    m->k = int_of(r, entry, "layer", MAX_LAYER, "images", i);
    if (m->prompt < 0 || m->k < 0) return -1;
    if (seed_of(json_object_get(entry, "seed"), &m->seed))
        return dl_fail(r->e, DL_EINPUT, "%s: images[%zu].seed is not a number in 0..2^64-1", r->path, i);
    /* The name follows from the rest, so a manifest cannot point out of its folder. */
    names_image(m->file, "images", m->prompt, m->seed, m->k);
    const char *file = json_string_value(json_object_get(entry, "file"));
    if (!file || strcmp(file, m->file))
        return dl_fail(r->e, DL_EINPUT, "%s: images[%zu].file is not \"%s\"", r->path, i, m->file);
    const char *state = json_string_value(json_object_get(entry, "state"));
    if (state && !strcmp(state, "pending")) return 0;
    if (!state || strcmp(state, "done"))
        return dl_fail(r->e, DL_EINPUT, "%s: images[%zu].state is neither \"pending\" nor \"done\"", r->path, i);
    const char *hex = json_string_value(json_object_get(entry, "sha256"));
    if (!hex || strlen(hex) != SHA256_HEX - 1 || strspn(hex, "0123456789abcdef") != SHA256_HEX - 1)
        return dl_fail(r->e, DL_EINPUT, "%s: images[%zu].sha256 is not 64 hexadecimal digits", r->path, i);
    memcpy(m->sha256, hex, SHA256_HEX);
    m->done = true;
    return 0;
}

static int read_images(struct manifest_doc *d, const struct reader *r)
{
    const json_t *list = json_object_get(d->root, "images");
    size_t n = json_array_size(list);
    if (!json_is_array(list)) return bad(r, "no list \"images\"");
    d->image = calloc(n + 1, sizeof *d->image);
    if (!d->image) return dl_fail(r->e, DL_ENOMEM, "%s: no memory", r->path);
    for (size_t i = 0; i < n; i++)
        if (read_image(d, r, json_array_get(list, i), i)) return -1;
    d->n_images = (int64_t)n;
    return 0;
}

static int read_doc(struct manifest_doc *d, const struct reader *r)
{
    const json_t *schema = json_object_get(d->root, "schema"), *model = json_object_get(d->root, "model");
    if (!json_is_integer(schema)) return bad(r, "no number \"schema\"");
    if (json_integer_value(schema) != MANIFEST_SCHEMA)
        return dl_fail(r->e, DL_EINPUT, "%s: schema %lld; this dlens reads schema %d, so use the dlens that wrote it",
                       r->path, (long long)json_integer_value(schema), MANIFEST_SCHEMA);
    d->dlens = text_of(r, d->root, "dlens");
    d->command = text_of(r, d->root, "command");
    d->model.title = text_of(r, model, "title");
    d->model.name = text_of(r, model, "name");
    d->model.class_name = text_of(r, model, "class");
    d->model.fingerprint = text_of(r, model, "fingerprint");
    if (!d->dlens || !d->command || !d->model.title || !d->model.name || !d->model.class_name || !d->model.fingerprint)
        return -1;
    d->settings = json_object_get(d->root, "settings");
    d->run = json_object_get(d->root, "run");
    if (!json_is_object(d->settings)) return bad(r, "no object \"settings\"");
    return read_prompts(d, r) || read_layers(d, r) || read_images(d, r) ? -1 : 0;
}

int manifest_read(struct manifest_doc *d, const char *dir, struct dl_err *e)
{
    *d = (struct manifest_doc){0};
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/manifest.json", dir) >= (int)sizeof path)
        return dl_fail(e, DL_EFAIL, "%.200s...: the name is too long", dir);
    uint8_t *data;
    int64_t bytes;
    if (outfile_read(path, MAX_FILE, &data, &bytes, e)) return -1;
    json_error_t why;
    d->root = json_loadb((const char *)data, (size_t)bytes, JSON_REJECT_DUPLICATES, &why);
    free(data);
    if (!d->root) {
        if (json_error_code(&why) == json_error_out_of_memory) return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
        return dl_fail(e, DL_EINPUT, "%s: not JSON: %s (line %d, byte %d)", path, why.text, why.line, why.position);
    }
    struct reader r = {path, e};
    if (read_doc(d, &r)) {
        manifest_doc_close(d);
        return -1;
    }
    return 0;
}

void manifest_doc_close(struct manifest_doc *d)
{
    free(d->prompt);
    free(d->layer);
    free(d->image);
    json_decref(d->root);
    *d = (struct manifest_doc){0};
}

static int by_image(const void *x, const void *y)
{
    const struct manifest_group *a = x, *b = y;
    return (a->first > b->first) - (a->first < b->first);
}

static int by_prompt_and_seed(const void *x, const void *y)
{
    const struct manifest_group *a = x, *b = y;
    if (a->prompt != b->prompt) return a->prompt < b->prompt ? -1 : 1;
    if (a->seed != b->seed) return a->seed < b->seed ? -1 : 1;
    return by_image(x, y);
}

int manifest_groups(const struct manifest_doc *d, struct manifest_group **group, int64_t *n, struct dl_err *e)
{
    struct manifest_group *g = *group = malloc(((size_t)d->n_images + 1) * sizeof *g);
    *n = 0;
    if (!g) return dl_fail(e, DL_ENOMEM, "no memory for a manifest's %lld images", (long long)d->n_images);
    for (int64_t i = 0; i < d->n_images; i++) g[i] = (struct manifest_group){d->image[i].prompt, d->image[i].seed, i};
    qsort(g, (size_t)d->n_images, sizeof *g, by_prompt_and_seed);
    for (int64_t i = 0; i < d->n_images; i++)
        if (!*n || g[i].prompt != g[*n - 1].prompt || g[i].seed != g[*n - 1].seed) g[(*n)++] = g[i];
    qsort(g, (size_t)*n, sizeof *g, by_image);
    return 0;
}
