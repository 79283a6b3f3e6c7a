#define _GNU_SOURCE /* vasprintf */
#include "tools/synth.h"

#include "loaders/st_write.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void synth_collect(void *user, const char *name, const int64_t *dim, int nd, enum bind_role role)
{
    struct synth_list *l = user;
    if (l->n == l->cap) {
        int64_t cap = l->cap ? 2 * l->cap : 256;
        struct synth_tensor *t = realloc(l->t, (size_t)cap * sizeof *t);
        if (!t) {
            l->failed = true;
            return;
        }
        l->t = t, l->cap = cap;
    }
    struct synth_tensor *t = &l->t[l->n];
    *t = (struct synth_tensor){.name = strdup(name), .nd = nd, .count = 1, .role = role};
    if (!t->name) {
        l->failed = true;
        return;
    }
    for (int i = 0; i < nd; i++) t->dim[i] = dim[i], t->count *= dim[i];
    l->n++;
}

void synth_list_close(struct synth_list *l)
{
    for (int64_t i = 0; i < l->n; i++) free(l->t[i].name);
    free(l->t);
    *l = (struct synth_list){0};
}

enum { CHUNK = 1 << 16 };

static int put_tensor(struct st_writer *w, const struct synth_tensor *t, const struct synth_plan *p,
                      const struct synth_opts *o, float *value, void *store, struct dl_err *e)
{
    if (o->hollow) return st_writer_hole(w, t->count * dl_type_bytes(o->type), e);
    for (int64_t at = 0; at < t->count; at += CHUNK) {
        int64_t n = t->count - at < CHUNK ? t->count - at : CHUNK;
        synth_values(t, p, o->seed, at, n, value);
        dl_convert(store, o->type, value, DL_F32, n);
        if (st_writer_add(w, store, n * dl_type_bytes(o->type), e) < 0) return -1;
    }
    return 0;
}

int synth_tensors(const char *path, const struct synth_list *l, const struct synth_opts *o,
                  struct synth_plan (*plan)(void *user, const struct synth_tensor *t), void *user, struct dl_err *e)
{
    int rc = -1;
    char note[96];
    snprintf(note, sizeof note, "synthetic, like %s, seed %llu", o->like, (unsigned long long)o->seed);
    const struct st_pair meta[] = {{"format", "pt"}, {"dlens", note}};
    struct st_tensor *head = calloc((size_t)l->n, sizeof *head);
    float *value = malloc(CHUNK * sizeof *value), *store = malloc(CHUNK * sizeof *store);
    struct st_writer *w = NULL;
    if (!head || !value || !store || l->failed) {
        dl_fail(e, DL_ENOMEM, "%s: no memory", path);
        goto out;
    }
    for (int64_t i = 0; i < l->n; i++) {
        head[i] = (struct st_tensor){.name = l->t[i].name, .t = (uint8_t)o->type, .nd = l->t[i].nd};
        memcpy(head[i].dim, l->t[i].dim, sizeof l->t[i].dim);
    }
    if (st_writer_open(&w, path, head, l->n, meta, 2, e) < 0) goto out;
    for (int64_t i = 0; i < l->n; i++) {
        struct synth_plan p = plan(user, &l->t[i]);
        if (put_tensor(w, &l->t[i], &p, o, value, store, e) < 0) goto out;
    }
    rc = st_writer_close(w, e);
    w = NULL;
out:
    st_writer_drop(w);
    free(store), free(value), free(head);
    return rc;
}

int synth_folder(const char *path, struct dl_err *e)
{
    char *p = strdup(path);
    if (!p) return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    int rc = 0;
    for (char *c = p + 1;; c++) {
        char was = *c;
        if (was && was != '/') continue;
        *c = 0;
        if (mkdir(p, 0777) < 0 && errno != EEXIST) {
            rc = dl_fail(e, DL_EFAIL, "%s: cannot make this folder: %s", p, strerror(errno));
            break;
        }
        *c = was;
        if (!was) break;
    }
    free(p);
    return rc;
}

int synth_text(const char *folder, const char *file, struct dl_err *e, const char *fmt, ...)
{
    char path[4096], *text = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0) return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    for (int i = 0; i < n; i++)
        if (text[i] == '\'') text[i] = '"';
    FILE *f = fopen(path, "wb");
    bool bad = !f || fwrite(text, 1, (size_t)n, f) != (size_t)n;
    if (f && fclose(f)) bad = true;
    free(text);
    return bad ? dl_fail(e, DL_EFAIL, "%s: cannot write: %s", path, strerror(errno)) : 0;
}

int synth_readme(const struct synth_opts *o, struct dl_err *e)
{
    return synth_text(o->out, "README.md", e,
                      "Synthetic weights in the shape of %s (%s), seed %llu, made by dlens synth.\n"
                      "They are random numbers of sane size, for tests and benchmarks; their images mean nothing.\n",
                      o->like, o->full ? "full size" : "tiny", (unsigned long long)o->seed);
}

int synth_join(char *out, size_t cap, const char *a, const char *b, struct dl_err *e)
{
    if ((size_t)snprintf(out, cap, "%s/%s", a, b) < cap) return 0;
    return dl_fail(e, DL_EUSAGE, "%.200s...: this folder's name is too long", a);
}

const char *synth_names(void) { return "sd15, sd21, sdxl, if, if-m, if-xl, if2, flux, flux-dev"; }

/* A folder with a model that is not synthetic stays as it is. */
static int check_folder(const char *out, struct dl_err *e)
{
    char path[4096], text[4096];
    snprintf(path, sizeof path, "%s/model_index.json", out);
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    if (strstr(text, "\"synthetic, like ")) return 0;
    return dl_fail(e, DL_EUSAGE, "%s holds a model that is not synthetic; give another --out", out);
}

int synth_write(const struct synth_opts *o, struct dl_err *e)
{
    if (!o->like || !o->out) return dl_fail(e, DL_EUSAGE, "synth needs --like NAME (%s) and --out DIR", synth_names());
    if (o->type != DL_F32 && o->type != DL_F16 && o->type != DL_BF16)
        return dl_fail(e, DL_EUSAGE, "--dtype %s: synth writes f32, f16 and bf16", dl_type_name(o->type));
    if (check_folder(o->out, e) < 0) return -1;
    if (!strcmp(o->like, "sd15")) return synth_sd(o, false, e);
    if (!strcmp(o->like, "sd21")) return synth_sd(o, true, e);
    if (!strcmp(o->like, "sdxl")) return synth_sdxl(o, e);
    if (!strcmp(o->like, "if")) return synth_if(o, 1, 'L', e);
    if (!strcmp(o->like, "if-m")) return synth_if(o, 1, 'M', e);
    if (!strcmp(o->like, "if-xl")) return synth_if(o, 1, 'X', e);
    if (!strcmp(o->like, "if2")) return synth_if(o, 2, 'L', e);
    if (!strcmp(o->like, "flux")) return synth_flux(o, false, e);
    if (!strcmp(o->like, "flux-dev")) return synth_flux(o, true, e);
    return dl_fail(e, DL_EUSAGE, "--like %s: not known; synth makes checkpoints like %s", o->like, synth_names());
}
