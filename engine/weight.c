#include "engine/weight.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int64_t dl_w_count(const struct dl_w *w)
{
    int64_t n = 1;
    for (int i = 0; i < w->nd; i++) n *= w->dim[i];
    return n;
}

int dl_wset_add(struct dl_wset *s, struct dl_w *w, const char *name, struct dl_err *e)
{
    if (s->n == s->cap) {
        int64_t cap = s->cap ? 2 * s->cap : 256;
        struct dl_w **more = realloc(s->w, (size_t)cap * sizeof *more);
        if (!more) return dl_fail(e, DL_ENOMEM, "no memory for the list of weights");
        s->w = more, s->cap = cap;
    }
    char *copy = strdup(name);
    if (!copy) return dl_fail(e, DL_ENOMEM, "no memory for the list of weights");
    w->name = copy, w->set = s, w->packs = NULL, w->stage = s->mark;
    s->w[s->n++] = w;
    return 0;
}

void dl_wset_mark(struct dl_wset *s, int stage)
{
    if (s) s->mark = stage + 1;
}

void dl_wset_forget(struct dl_wset *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        for (struct dl_pack *p = s->w[i]->packs, *next; p; p = next) {
            next = p->next;
            if (p->drop) p->drop(p->arg);
            free(p);
        }
        s->w[i]->packs = NULL;
    }
    for (struct dl_block *b = s->blocks, *next; b; b = next) {
        next = b->next;
        s->free_data(s->ctx, b->data);
        free(b);
    }
    s->blocks = NULL, s->pack_bytes = s->loaded_bytes = 0;
}

void dl_wset_close(struct dl_wset *s)
{
    dl_wset_forget(s);
    for (int64_t i = 0; i < s->n; i++) {
        struct dl_w *w = s->w[i];
        free((char *)w->name);
        w->name = NULL, w->set = NULL, w->n_parts = 0;
    }
    free(s->w);
    *s = (struct dl_wset){0};
}

struct dl_pack *dl_w_pack(const struct dl_w *w, uint64_t key)
{
    for (struct dl_pack *p = w->packs; p; p = p->next)
        if (p->key == key) return p;
    return NULL;
}

struct dl_pack *dl_w_want(struct dl_w *w, uint64_t key, int64_t bytes,
                          int (*fill)(struct dl_pack *, const struct dl_w *, void *, struct dl_err *), void *arg,
                          void (*drop)(void *))
{
    struct dl_pack *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (struct dl_pack){.next = w->packs, .key = key, .bytes = bytes, .fill = fill, .arg = arg, .drop = drop};
    w->packs = p;
    if (w->set) w->set->pack_bytes += bytes;
    return p;
}

int64_t dl_wpart_count(const struct dl_w *w, int part)
{
    return w->dim[0] ? w->part[part].rows * (dl_w_count(w) / w->dim[0]) : 0;
}

bool dl_w_has_values(const struct dl_w *w)
{
    for (int i = 0; i < w->n_parts; i++)
        if (!w->part[i].file && !w->part[i].made_up) return false;
    return true;
}

int dl_w_need_values(const struct dl_w *w, struct dl_err *e)
{
    if (dl_w_has_values(w)) return 0;
    return dl_fail(e, DL_EFAIL, "weight %s: only its shape is known, not its values", w->name);
}

/* Made-up values go through their own type, as if they had been stored in it. */
static void read_made(const struct dl_wpart *p, int64_t from, int64_t n, uint8_t *dst, int t)
{
    enum { BLOCK = 1024 };
    float value[BLOCK], stored[BLOCK];
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t c = n - at < BLOCK ? n - at : BLOCK;
        for (int64_t i = 0; i < c; i++) value[i] = dl_made_value(&p->made, from + at + i);
        dl_convert(stored, p->t, value, DL_F32, c);
        dl_convert(dst + at * dl_type_bytes(t), t, stored, p->t, c);
    }
}

void dl_wpart_read(const struct dl_wpart *p, int64_t from, int64_t n, void *dst, int t)
{
    if (p->made_up)
        read_made(p, from, n, dst, t);
    else
        dl_convert(dst, t, (const uint8_t *)p->file + from * dl_type_bytes(p->t), p->t, n);
}

void dl_w_read(const struct dl_w *w, void *dst, int t)
{
    uint8_t *d = dst;
    for (int i = 0; i < w->n_parts; i++) {
        int64_t n = dl_wpart_count(w, i);
        dl_wpart_read(&w->part[i], 0, n, d, t);
        d += n * dl_type_bytes(t);
    }
}

/* Advice about the whole pages of each part, with those at its ends (shared with its neighbours) or without. */
static void advise(const struct dl_w *w, int advice, bool ends)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < w->n_parts; i++) {
        if (!w->part[i].mapped) continue;
        uintptr_t from = (uintptr_t)w->part[i].file;
        uintptr_t to = from + (uintptr_t)(dl_wpart_count(w, i) * dl_type_bytes(w->part[i].t));
        if (!ends) from += page - 1;
        from &= ~(page - 1), to &= ~(page - 1);
        if (to > from) madvise((void *)from, to - from, advice);
    }
}

void dl_w_want_pages(const struct dl_w *w) { advise(w, MADV_WILLNEED, true); }

void dl_w_release_pages(const struct dl_w *w) { advise(w, MADV_DONTNEED, false); }
