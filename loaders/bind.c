#include "loaders/bind.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAULTS = BIND_EXTRA + 1, MAX_DEPTH = 32 };

struct bind_state {
    uint16_t from[MAX_DEPTH]; /* where each open scope begins in bind.scope */
    int depth;
    bool *used; /* [tensors of files] by place in the set */
    int64_t n[FAULTS];
    char *first[FAULTS]; /* text of the first fault of each kind; NULL: none */
};

static const char *const fault_name[FAULTS] = {"missing", "mis-shaped", "of a type that cannot be used", "unknown"};

static int open_state(struct bind *b, int64_t n, struct dl_err *e)
{
    b->state = calloc(1, sizeof *b->state);
    if (b->state) b->state->used = calloc((size_t)n + 1, sizeof *b->state->used);
    if (b->state && b->state->used) return 0;
    free(b->state);
    b->state = NULL;
    return dl_fail(e, DL_ENOMEM, "no memory for binding %lld tensors", (long long)n);
}

int bind_open(struct bind *b, const struct st_set *files, struct dl_wset *set, struct dl_err *e)
{
    *b = (struct bind){.files = files, .set = set};
    return open_state(b, st_set_count(files), e);
}

int bind_open_list(struct bind *b, void (*list)(void *, const char *, const int64_t *, int, enum bind_role), void *user,
                   struct dl_err *e)
{
    *b = (struct bind){.list = list, .user = user};
    return open_state(b, 0, e);
}

void bind_in(struct bind *b, const char *fmt, ...)
{
    size_t from = strlen(b->scope), room = sizeof b->scope - from;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(b->scope + from, room, fmt, ap);
    va_end(ap);
    if (b->state->depth < MAX_DEPTH) b->state->from[b->state->depth] = (uint16_t)from;
    b->state->depth++;
    /* After the error names do not matter any more; leaving the scopes must go on to work. */
    if (n < 0 || (size_t)n + 2 > room || b->state->depth > MAX_DEPTH) {
        dl_fail(&b->err, DL_EFAIL, "the tensor name scope \"%s\" is too long", b->scope);
        b->scope[from] = 0;
        return;
    }
    memcpy(b->scope + from + n, ".", 2);
}

void bind_out(struct bind *b)
{
    assert(b->state->depth > 0);
    if (--b->state->depth < MAX_DEPTH) b->scope[b->state->from[b->state->depth]] = 0;
}

/* scope + name; NULL with the sticky error when it is too long. */
static const char *full_name(struct bind *b, char *out, size_t cap, const char *name)
{
    int n = snprintf(out, cap, "%s%s", b->scope, name);
    if (n >= 0 && (size_t)n < cap) return out;
    dl_fail(&b->err, DL_EFAIL, "the tensor name \"%s%.200s\" is too long", b->scope, name);
    return NULL;
}

bool bind_has(const struct bind *b, const char *name)
{
    char full[512];
    int n = snprintf(full, sizeof full, "%s%s", b->scope, name);
    return b->files && n >= 0 && (size_t)n < sizeof full && st_set_find(b->files, full);
}

static void fault(struct bind *b, enum bind_fault kind, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void fault(struct bind *b, enum bind_fault kind, const char *name, const char *fmt, ...)
{
    char text[400], line[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (b->report) b->report(b->user, kind, name, text);
    if (b->state->n[kind]++) return;
    snprintf(line, sizeof line, "\"%.200s\" %s", name, text);
    b->state->first[kind] = strdup(line);
    if (!b->state->first[kind]) dl_fail(&b->err, DL_ENOMEM, "no memory for a message");
}

/* Place of a tensor in the set: the pointers to its index are sorted by name. */
static int64_t place(const struct st_set *s, const char *name)
{
    int64_t lo = 0, hi = st_set_count(s);
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (strcmp(st_set_at(s, mid)->name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < st_set_count(s) && !strcmp(st_set_at(s, lo)->name, name) ? lo : -1;
}

/* Same shape, or a matrix [out, in] as the 1x1 convolution [out, in, 1, 1] and the other way round. */
static bool same_shape(const struct st_tensor *t, int nd, const int64_t *dim)
{
    int most = nd > t->nd ? nd : t->nd;
    if (nd != t->nd && !((nd == 2 && t->nd == 4) || (nd == 4 && t->nd == 2))) return false;
    for (int i = 0; i < most; i++)
        if ((i < nd ? dim[i] : 1) != (i < t->nd ? t->dim[i] : 1)) return false;
    return true;
}

static bool usable(const struct st_tensor *t) { return t->t == DL_F32 || t->t == DL_F16 || t->t == DL_BF16; }

/* Looks for one tensor, marks it as asked for and holds it against what is expected. NULL: a fault, or list mode. */
static const struct st_tensor *expect(struct bind *b, enum bind_role role, const char *name, int nd, const int64_t *dim,
                                      bool typed)
{
    char full[512], want[200], have[200];
    if (!full_name(b, full, sizeof full, name)) return NULL;
    if (!b->files) {
        if (b->list) b->list(b->user, full, dim, nd, role);
        return NULL;
    }
    int64_t at = place(b->files, full);
    if (at < 0) {
        fault(b, BIND_MISSING, full, "is missing, expected %s", st_shape(want, sizeof want, nd, dim));
        return NULL;
    }
    const struct st_tensor *t = st_set_at(b->files, at);
    b->state->used[at] = true;
    if (!same_shape(t, nd, dim)) {
        fault(b, BIND_SHAPE, full, "has shape %s, expected %s", st_shape(have, sizeof have, t->nd, t->dim),
              st_shape(want, sizeof want, nd, dim));
        return NULL;
    }
    if (typed && !usable(t)) {
        fault(b, BIND_TYPE, full, "has dtype %.40s, expected F32, F16 or BF16", t->dtype);
        return NULL;
    }
    return t;
}

/* Hangs part of the file's tensor on the weight; the first part registers it with the set. */
static void add_part(struct bind *b, struct dl_w *w, const struct st_tensor *t, int64_t rows)
{
    if (w->n_parts == 0 && dl_wset_add(b->set, w, t->name, &b->err)) return;
    w->part[w->n_parts++] =
        (struct dl_wpart){.file = t->data, .rows = rows, .t = t->t, .mapped = st_file_mapped(t->file)};
}

/* What a weight is before any part is bound: shape alone, as list mode and a missing tensor leave it. */
static void clear(struct dl_w *w, int nd, const int64_t *dim)
{
    assert(nd >= 1 && nd <= 4);
    *w = (struct dl_w){.nd = nd};
    for (int i = 0; i < 4; i++) w->dim[i] = i < nd ? dim[i] : 1;
}

void bind_w(struct bind *b, struct dl_w *w, enum bind_role role, const char *name, int nd, const int64_t *dim)
{
    clear(w, nd, dim);
    const struct st_tensor *t = expect(b, role, name, nd, dim, true);
    if (t) add_part(b, w, t, dim[0]);
}

void bind_stack(struct bind *b, struct dl_w *w, enum bind_role role, int n, const char *const *name,
                const int64_t *rows, int64_t in)
{
    int nd = in ? 2 : 1;
    int64_t all[2] = {0, in};
    const struct st_tensor *t[DL_WPARTS];
    bool whole = n <= DL_WPARTS;
    if (!whole) dl_fail(&b->err, DL_EFAIL, "%d tensors are stacked, at most %d can be", n, DL_WPARTS);
    for (int i = 0; i < n && whole; i++) all[0] += rows[i];
    clear(w, nd, all);
    for (int i = 0; i < n && n <= DL_WPARTS; i++) {
        t[i] = expect(b, role, name[i], nd, (int64_t[2]){rows[i], in}, true);
        whole = whole && t[i];
    }
    /* A weight with a hole in it must not look bound. */
    for (int i = 0; i < n && whole; i++) add_part(b, w, t[i], rows[i]);
}

void bind_skip(struct bind *b, enum bind_role role, const char *name, int nd, const int64_t *dim)
{
    expect(b, role, name, nd, dim, false);
}

void bind_allow(struct bind *b, const char *name)
{
    char full[512];
    if (!b->files || !full_name(b, full, sizeof full, name)) return;
    int64_t at = place(b->files, full);
    if (at >= 0) b->state->used[at] = true;
}

/* name + tail ("to_q" + ".weight"), bounded; the sticky error when too long. */
static const char *tailed(struct bind *b, char *out, size_t cap, const char *name, const char *tail)
{
    int n = snprintf(out, cap, "%s%s", name, tail);
    if (n >= 0 && (size_t)n < cap) return out;
    dl_fail(&b->err, DL_EFAIL, "the tensor name \"%.200s\" is too long", name);
    return "";
}

void bind_linear(struct bind *b, struct dl_w *w, struct dl_w *bias, const char *name, int64_t out, int64_t in)
{
    char s[300];
    bind_w(b, w, BIND_MATRIX, tailed(b, s, sizeof s, name, ".weight"), 2, (int64_t[]){out, in});
    if (bias) bind_w(b, bias, BIND_BIAS, tailed(b, s, sizeof s, name, ".bias"), 1, (int64_t[]){out});
}

void bind_conv(struct bind *b, struct dl_w *w, struct dl_w *bias, const char *name, int64_t out, int64_t in, int64_t k)
{
    char s[300];
    bind_w(b, w, BIND_MATRIX, tailed(b, s, sizeof s, name, ".weight"), 4, (int64_t[]){out, in, k, k});
    if (bias) bind_w(b, bias, BIND_BIAS, tailed(b, s, sizeof s, name, ".bias"), 1, (int64_t[]){out});
}

void bind_norm(struct bind *b, struct dl_w *gamma, struct dl_w *beta, const char *name, int64_t c)
{
    char s[300];
    bind_w(b, gamma, BIND_GAIN, tailed(b, s, sizeof s, name, ".weight"), 1, (int64_t[]){c});
    if (beta) bind_w(b, beta, BIND_BIAS, tailed(b, s, sizeof s, name, ".bias"), 1, (int64_t[]){c});
}

/* One line over all faults. */
static int sum_up(const struct bind *b, struct dl_err *e)
{
    char line[900] = "";
    int at = 0;
    for (int i = 0; i < FAULTS; i++) {
        if (!b->state->n[i] || at >= (int)sizeof line) continue;
        at += snprintf(line + at, sizeof line - (size_t)at, "%s%lld tensor%s %s%s: %.240s", at ? "; " : "",
                       (long long)b->state->n[i], b->state->n[i] > 1 ? "s" : "", fault_name[i],
                       b->state->n[i] > 1 ? ", the first" : "", b->state->first[i]);
    }
    return at ? dl_fail(e, DL_EINPUT, "%.300s: %s", st_set_path(b->files), line) : 0;
}

int bind_close(struct bind *b, struct dl_err *e)
{
    char shape[200];
    int rc = 0;
    if (!b->state) return dl_fail(e, DL_EFAIL, "binding was not opened");
    for (int64_t i = 0; b->files && i < st_set_count(b->files); i++) {
        const struct st_tensor *t = st_set_at(b->files, i);
        if (!b->state->used[i])
            fault(b, BIND_EXTRA, t->name, "of shape %s has no place in this model",
                  st_shape(shape, sizeof shape, t->nd, t->dim));
    }
    if (b->err.code)
        rc = dl_fail(e, b->err.code, "%s", b->err.msg);
    else if (b->files)
        rc = sum_up(b, e);
    for (int i = 0; i < FAULTS; i++) free(b->state->first[i]);
    free(b->state->used);
    free(b->state);
    b->state = NULL;
    return rc;
}
