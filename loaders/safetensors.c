#include "loaders/safetensors.h"

#include "loaders/json_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensors are used where they lie, and files are little-endian");

enum { LEN_BYTES = 8 };
enum { MAX_HEADER_BYTES = 100 * 1000 * 1000 }; /* the reference implementation's own limit */

struct st_file {
    char *path;
    void *base; /* [size] */
    int64_t size;
    bool mapped;
    json_t *root;                     /* the header: owns names, dtypes and metadata */
    json_t *meta;                     /* borrowed from root; NULL without */
    struct st_tensor *t;              /* [n] in the order of the data */
    const struct st_tensor **by_name; /* [n] */
    int64_t n;
};

struct dtype {
    const char *name;
    int bits;
    uint8_t t;
};

static const struct dtype dtypes[] = {
    {"F32", 32, DL_F32},       {"F16", 16, DL_F16},       {"BF16", 16, DL_BF16},     {"I64", 64, DL_I64},
    {"I32", 32, DL_I32},       {"U8", 8, DL_U8},          {"F8_E4M3", 8, DL_E4M3},   {"F64", 64, DL_NTYPES},
    {"F8_E5M2", 8, DL_NTYPES}, {"F8_E8M0", 8, DL_NTYPES}, {"I8", 8, DL_NTYPES},      {"I16", 16, DL_NTYPES},
    {"U16", 16, DL_NTYPES},    {"U32", 32, DL_NTYPES},    {"U64", 64, DL_NTYPES},    {"BOOL", 8, DL_NTYPES},
    {"C64", 64, DL_NTYPES},    {"F4", 4, DL_NTYPES},      {"F6_E2M3", 6, DL_NTYPES}, {"F6_E3M2", 6, DL_NTYPES},
};

static const struct dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].name, name)) return &dtypes[i];
    return NULL;
}

char *st_shape(char *out, int cap, int nd, const int64_t *dim)
{
    int at = snprintf(out, (size_t)cap, "[");
    for (int i = 0; i < nd && at < cap; i++)
        at += snprintf(out + at, (size_t)(cap - at), dim[i] < 0 ? "%sany" : "%s%lld", i ? ", " : "", (long long)dim[i]);
    if (at < cap) snprintf(out + at, (size_t)(cap - at), "]");
    return out;
}

static int read_shape(const struct st_file *f, struct st_tensor *t, const json_t *shape, struct dl_err *e)
{
    char what[80];
    if (!json_is_array(shape))
        return dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\": its shape is %s, not a list", f->path, t->name,
                       js_describe(shape, what, sizeof what));
    if (json_array_size(shape) > ST_MAX_DIMS)
        return dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\" has %zu dimensions, at most %d can be read", f->path,
                       t->name, json_array_size(shape), ST_MAX_DIMS);
    t->nd = (int)json_array_size(shape);
    int64_t product = 1;
    for (int i = 0; i < t->nd; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\": dimension %d is %s, not a count", f->path, t->name, i,
                           js_describe(d, what, sizeof what));
        t->dim[i] = json_integer_value(d);
        /* An empty tensor's other dimensions are held to the same limit, so that no caller's product can overflow. */
        if (__builtin_mul_overflow(product, t->dim[i] ? t->dim[i] : 1, &product) || product > INT64_MAX / 64)
            return dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\": the product of its dimensions overflows at %lld",
                           f->path, t->name, (long long)t->dim[i]);
    }
    return 0;
}

static int read_tensor(const struct st_file *f, struct st_tensor *t, const json_t *v, int64_t data_at, struct dl_err *e)
{
    char what[80], shape[200];
    if (!json_is_object(v))
        return dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\" is described by %s, not by an object", f->path, t->name,
                       js_describe(v, what, sizeof what));
    const json_t *dtype = json_object_get(v, "dtype");
    if (!json_is_string(dtype))
        return dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\": its dtype is %s, not a string", f->path, t->name,
                       js_describe(dtype, what, sizeof what));
    t->dtype = json_string_value(dtype);
    const struct dtype *known = find_dtype(t->dtype);
    t->t = known ? known->t : DL_NTYPES;
    if (read_shape(f, t, json_object_get(v, "shape"), e)) return -1;

    const json_t *offsets = json_object_get(v, "data_offsets"), *from = json_array_get(offsets, 0),
                 *to = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\": its data_offsets are %s, not two whole numbers", f->path,
                       t->name, js_describe(offsets, what, sizeof what));
    int64_t a = json_integer_value(from), b = json_integer_value(to);
    if (a < 0 || b < a || b > INT64_MAX - data_at)
        return dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\": impossible data_offsets [%lld, %lld]", f->path, t->name,
                       (long long)a, (long long)b);
    t->bytes = b - a;
    /* Only a number until check_layout has held it against the file's size. */
    t->data = (const void *)(uintptr_t)a;
    t->file = f;
    if (!known) return 0;
    int64_t bits = known->bits;
    for (int i = 0; i < t->nd; i++) bits *= t->dim[i];
    if (bits % 8 || bits / 8 != t->bytes)
        return dl_fail(e, DL_EINPUT,
                       "%s: tensor \"%.200s\" at byte %lld: %s %s takes %lld bytes, its data_offsets hold %lld",
                       f->path, t->name, (long long)(data_at + a), t->dtype,
                       st_shape(shape, sizeof shape, t->nd, t->dim), (long long)((bits + 7) / 8), (long long)t->bytes);
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *s = a, *t = b;
    uintptr_t x = (uintptr_t)s->data, y = (uintptr_t)t->data;
    if (x != y) return x < y ? -1 : 1;
    if (s->bytes != t->bytes) return s->bytes < t->bytes ? -1 : 1;
    return strcmp(s->name, t->name);
}

static int by_name(const void *a, const void *b)
{
    const struct st_tensor *const *s = a, *const *t = b;
    return strcmp((*s)->name, (*t)->name);
}

/* Tensors sorted by offset must follow each other without gaps up to the end of the file; then their addresses can be
 * made. */
static int check_layout(struct st_file *f, int64_t data_at, struct dl_err *e)
{
    int64_t at = 0;
    for (int64_t i = 0; i < f->n; i++) {
        const struct st_tensor *t = &f->t[i];
        int64_t from = (int64_t)(uintptr_t)t->data;
        if (from < at)
            return dl_fail(e, DL_EINPUT, "%s: tensors \"%.200s\" and \"%.200s\" overlap at byte %lld", f->path,
                           t[-1].name, t->name, (long long)(data_at + from));
        if (from > at)
            return dl_fail(e, DL_EINPUT, "%s: bytes %lld to %lld, before tensor \"%.200s\", belong to no tensor",
                           f->path, (long long)(data_at + at), (long long)(data_at + from), t->name);
        at += t->bytes;
    }
    int64_t want = data_at + at;
    if (f->size < want)
        return dl_fail(e, DL_EINPUT,
                       "%s: truncated: its header describes %lld bytes, the file has %lld; fetch it again", f->path,
                       (long long)want, (long long)f->size);
    if (f->size > want)
        return dl_fail(e, DL_EINPUT,
                       "%s: oversized: its header describes %lld bytes, the file has %lld; fetch it again", f->path,
                       (long long)want, (long long)f->size);
    const char *data = (const char *)f->base + data_at;
    for (int64_t i = 0; i < f->n; i++) {
        f->t[i].data = data;
        data += f->t[i].bytes;
    }
    return 0;
}

static int read_meta(struct st_file *f, struct dl_err *e)
{
    f->meta = json_object_get(f->root, "__metadata__");
    if (!f->meta) return 0;
    char what[80];
    const char *key;
    json_t *v;
    if (!json_is_object(f->meta))
        return dl_fail(e, DL_EINPUT, "%s: its __metadata__ is %s, not an object", f->path,
                       js_describe(f->meta, what, sizeof what));
    json_object_foreach(f->meta, key, v)
    {
        if (!json_is_string(v))
            return dl_fail(e, DL_EINPUT, "%s: __metadata__ \"%.200s\" is %s, not a string", f->path, key,
                           js_describe(v, what, sizeof what));
    }
    return 0;
}

/* Reads the header of a file whose path, base and size stand. */
static int read_header(struct st_file *f, struct dl_err *e)
{
    const uint8_t *p = f->base;
    static const char lfs[] = "version https://git-lfs";
    if (f->size >= (int64_t)sizeof lfs && !memcmp(p, lfs, sizeof lfs - 1))
        return dl_fail(e, DL_EINPUT,
                       "%s: is a Git LFS pointer of %lld bytes, not the file itself; run 'git lfs pull' there", f->path,
                       (long long)f->size);
    if (f->size < LEN_BYTES)
        return dl_fail(e, DL_EINPUT,
                       "%s: truncated: a safetensors file starts with %d bytes of length, the file has %lld", f->path,
                       LEN_BYTES, (long long)f->size);
    uint64_t len = 0;
    for (int i = LEN_BYTES - 1; i >= 0; i--) len = len << 8 | p[i];
    if (len > MAX_HEADER_BYTES)
        return dl_fail(e, DL_EINPUT,
                       "%s: not a safetensors file: its first 8 bytes give a header of %llu bytes, at most %d are "
                       "allowed",
                       f->path, (unsigned long long)len, MAX_HEADER_BYTES);
    if ((int64_t)len > f->size - LEN_BYTES)
        return dl_fail(e, DL_EINPUT, "%s: truncated: its header ends at byte %lld, the file has %lld; fetch it again",
                       f->path, (long long)(LEN_BYTES + len), (long long)f->size);
    if (len == 0 || p[LEN_BYTES] != '{')
        return dl_fail(e, DL_EINPUT, "%s: not a safetensors file: its header (byte %d) does not start with '{'",
                       f->path, LEN_BYTES);

    char label[512];
    snprintf(label, sizeof label, "%.480s: header", f->path);
    f->root = js_parse(p + LEN_BYTES, (size_t)len, label, e);
    if (!f->root) return -1;
    if (read_meta(f, e)) return -1;
    int64_t most = (int64_t)json_object_size(f->root);
    f->t = calloc((size_t)most + 1, sizeof *f->t);
    f->by_name = calloc((size_t)most + 1, sizeof *f->by_name);
    if (!f->t || !f->by_name)
        return dl_fail(e, DL_ENOMEM, "%s: no memory for an index of %lld tensors", f->path, (long long)most);

    int64_t data_at = LEN_BYTES + (int64_t)len;
    const char *name;
    json_t *v;
    json_object_foreach(f->root, name, v)
    {
        if (v == f->meta) continue;
        struct st_tensor *t = &f->t[f->n++];
        t->name = name;
        if (read_tensor(f, t, v, data_at, e)) return -1;
    }
    qsort(f->t, (size_t)f->n, sizeof *f->t, by_offset);
    if (check_layout(f, data_at, e)) return -1;
    for (int64_t i = 0; i < f->n; i++) f->by_name[i] = &f->t[i];
    qsort(f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    return 0;
}

static int map_file(struct st_file *f, struct dl_err *e)
{
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return dl_fail(e, DL_EINPUT, "%s: cannot open: %s", f->path, strerror(errno));
    struct stat s;
    int rc = -1;
    if (fstat(fd, &s)) {
        dl_fail(e, DL_EINPUT, "%s: cannot read: %s", f->path, strerror(errno));
    } else if (!S_ISREG(s.st_mode)) {
        dl_fail(e, DL_EINPUT, "%s: is not a file", f->path);
    } else if (s.st_size == 0) {
        dl_fail(e, DL_EINPUT, "%s: truncated: the file is empty; fetch it again", f->path);
    } else {
        void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            dl_fail(e, DL_ENOMEM, "%s: cannot map its %lld bytes: %s", f->path, (long long)s.st_size, strerror(errno));
        else
            f->base = p, f->size = s.st_size, f->mapped = true, rc = 0;
    }
    close(fd);
    return rc;
}

static struct st_file *new_file(const char *path, struct dl_err *e)
{
    struct st_file *f = calloc(1, sizeof *f);
    if (f) f->path = strdup(path);
    if (f && f->path) return f;
    free(f);
    dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    return NULL;
}

int st_open(struct st_file **out, const char *path, struct dl_err *e)
{
    *out = NULL;
    struct st_file *f = new_file(path, e);
    if (!f) return -1;
    if (map_file(f, e) || read_header(f, e)) {
        st_close(f);
        return -1;
    }
    *out = f;
    return 0;
}

int st_open_memory(struct st_file **out, const void *buf, int64_t n, const char *label, struct dl_err *e)
{
    *out = NULL;
    struct st_file *f = new_file(label, e);
    if (!f) return -1;
    f->base = (void *)buf, f->size = n;
    if (read_header(f, e)) {
        st_close(f);
        return -1;
    }
    *out = f;
    return 0;
}

void st_close(struct st_file *f)
{
    if (!f) return;
    if (f->mapped) munmap(f->base, (size_t)f->size);
    json_decref(f->root);
    free(f->by_name);
    free(f->t);
    free(f->path);
    free(f);
}

const char *st_file_path(const struct st_file *f) { return f->path; }

bool st_file_mapped(const struct st_file *f) { return f->mapped; }

int64_t st_file_count(const struct st_file *f) { return f->n; }

const struct st_tensor *st_file_at(const struct st_file *f, int64_t i) { return &f->t[i]; }

const struct st_tensor *st_find(const struct st_file *f, const char *name)
{
    struct st_tensor key = {.name = name}, *k = &key;
    const struct st_tensor **t = bsearch(&k, f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    return t ? *t : NULL;
}

const char *st_meta(const struct st_file *f, const char *key)
{
    return json_string_value(json_object_get(f->meta, key));
}

int64_t st_meta_count(const struct st_file *f) { return (int64_t)json_object_size(f->meta); }

void st_meta_at(const struct st_file *f, int64_t i, const char **key, const char **value)
{
    void *it = json_object_iter(f->meta);
    while (it && i-- > 0) it = json_object_iter_next(f->meta, it);
    *key = it ? json_object_iter_key(it) : NULL;
    *value = it ? json_string_value(json_object_iter_value(it)) : NULL;
}

const struct st_tensor *st_need(const struct st_file *f, const char *name, int t, int nd, const int64_t *dim,
                                struct dl_err *e)
{
    char want[200], have[200];
    const struct st_tensor *s = st_find(f, name);
    if (!s) {
        dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\" is missing; expected %s %s", f->path, name,
                t < 0 ? "one of shape" : dl_type_name(t), st_shape(want, sizeof want, nd, dim));
        return NULL;
    }
    bool same = s->nd == nd;
    for (int i = 0; same && i < nd; i++) same = dim[i] < 0 || dim[i] == s->dim[i];
    if (!same) {
        dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\" has shape %s, expected %s", f->path, name,
                st_shape(have, sizeof have, s->nd, s->dim), st_shape(want, sizeof want, nd, dim));
        return NULL;
    }
    if (t < 0 ? s->t == DL_NTYPES : s->t != t) {
        dl_fail(e, DL_EINPUT, "%s: tensor \"%.200s\" has dtype %.40s, expected %s", f->path, name, s->dtype,
                t < 0 ? "one that dlens reads (F32, F16, BF16, F8_E4M3, U8, I32, I64)" : dl_type_name(t));
        return NULL;
    }
    return s;
}
