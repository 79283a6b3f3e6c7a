#include "loaders/st_write.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct st_writer {
    char *path, *temp;
    int fd;
    int64_t want_bytes, have_bytes; /* of data */
};

static const char *type_name(int t)
{
    static const char *const name[DL_NTYPES] = {
        [DL_F32] = "F32", [DL_F16] = "F16", [DL_BF16] = "BF16", [DL_E4M3] = "F8_E4M3",
        [DL_U8] = "U8",   [DL_I32] = "I32", [DL_I64] = "I64",
    };
    return t >= 0 && t < DL_NTYPES ? name[t] : NULL;
}

/* Bytes of a tensor to be written, or -1. */
static int64_t tensor_bytes(const struct st_tensor *t)
{
    int64_t bytes = dl_type_bytes(t->t);
    if (t->nd < 0 || t->nd > ST_MAX_DIMS || bytes == 0) return -1;
    for (int i = 0; i < t->nd; i++)
        if (t->dim[i] < 0 || __builtin_mul_overflow(bytes, t->dim[i], &bytes)) return -1;
    return bytes;
}

/* Adds one tensor to the header and its bytes to *at. */
static int add_entry(json_t *root, const char *path, const struct st_tensor *t, int64_t *at, struct dl_err *e)
{
    int64_t from = *at, bytes = tensor_bytes(t);
    if (bytes < 0 || __builtin_add_overflow(from, bytes, at))
        return dl_fail(e, DL_EFAIL, "%s: tensor \"%.200s\" cannot be written: impossible type or shape", path, t->name);
    if (json_object_get(root, t->name))
        return dl_fail(e, DL_EFAIL, "%s: tensor \"%.200s\" is given twice", path, t->name);
    json_t *shape = json_array();
    for (int i = 0; i < t->nd; i++) json_array_append_new(shape, json_integer(t->dim[i]));
    json_t *v = json_pack("{s:s, s:o, s:[I,I]}", "dtype", type_name(t->t), "shape", shape, "data_offsets",
                          (json_int_t)from, (json_int_t)*at);
    /* jansson refuses strings that are not UTF-8, which is the one thing besides memory that can fail here. */
    if (!v || json_object_set_new(root, t->name, v))
        return dl_fail(e, DL_EFAIL, "%s: tensor \"%.200s\": its name is not UTF-8, or no memory", path, t->name);
    return 0;
}

/* The header with its length in front, padded, to be freed; *data_bytes is what must follow. */
static char *make_header(const char *path, const struct st_tensor *t, int64_t n, const struct st_pair *meta, int n_meta,
                         size_t *len, int64_t *data_bytes, struct dl_err *e)
{
    json_t *root = json_object(), *m = json_object();
    char *text = NULL, *out = NULL;
    *data_bytes = 0;
    for (int i = 0; i < n_meta; i++)
        if (json_object_set_new(m, meta[i].key, json_string(meta[i].value))) {
            dl_fail(e, DL_EFAIL, "%s: metadata \"%.200s\" is not UTF-8, or no memory", path, meta[i].key);
            goto out;
        }
    if (n_meta) json_object_set(root, "__metadata__", m);
    for (int64_t i = 0; i < n; i++)
        if (add_entry(root, path, &t[i], data_bytes, e)) goto out;
    text = json_dumps(root, JSON_COMPACT);
    size_t used = text ? strlen(text) : 0, padded = (used + 7) / 8 * 8;
    out = text ? malloc(8 + padded) : NULL;
    if (!out) {
        dl_fail(e, DL_ENOMEM, "%s: no memory for its header", path);
        goto out;
    }
    for (int i = 0; i < 8; i++) out[i] = (char)((uint64_t)padded >> 8 * i);
    memcpy(out + 8, text, used);
    memset(out + 8 + used, ' ', padded - used);
    *len = 8 + padded;
out:
    free(text);
    json_decref(m);
    json_decref(root);
    return out;
}

static int put(struct st_writer *w, const void *data, size_t n, struct dl_err *e)
{
    const char *p = data;
    while (n) {
        ssize_t k = write(w->fd, p, n < (1u << 30) ? n : 1u << 30);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", w->path, strerror(errno));
        p += k, n -= (size_t)k;
    }
    return 0;
}

/* Creates the temporary file beside the final one; a left-over of a killed process is stepped over, not reused. */
static int create(struct st_writer *w, struct dl_err *e)
{
    size_t cap = strlen(w->path) + 40;
    w->temp = malloc(cap);
    if (!w->temp) return dl_fail(e, DL_ENOMEM, "%s: no memory", w->path);
    for (int i = 0; w->fd < 0 && i < 100; i++) {
        snprintf(w->temp, cap, "%s.tmp-%ld-%d", w->path, (long)getpid(), i);
        w->fd = open(w->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w->fd < 0 && errno != EEXIST) break;
    }
    if (w->fd >= 0) return 0;
    dl_fail(e, DL_EFAIL, "%s: cannot create: %s", w->temp, strerror(errno));
    free(w->temp);
    w->temp = NULL;
    return -1;
}

int st_writer_open(struct st_writer **out, const char *path, const struct st_tensor *t, int64_t n,
                   const struct st_pair *meta, int n_meta, struct dl_err *e)
{
    *out = NULL;
    size_t len = 0;
    int64_t data_bytes = 0;
    char *header = make_header(path, t, n, meta, n_meta, &len, &data_bytes, e);
    if (!header) return -1;
    struct st_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        free(header);
        return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    }
    w->fd = -1, w->want_bytes = data_bytes;
    int rc = create(w, e);
    if (!rc) rc = put(w, header, len, e);
    free(header);
    if (rc)
        st_writer_drop(w);
    else
        *out = w;
    return rc;
}

/* Counts bytes that are about to come. */
static int expect(struct st_writer *w, int64_t bytes, struct dl_err *e)
{
    if (bytes < 0 || bytes > w->want_bytes - w->have_bytes)
        return dl_fail(e, DL_EFAIL, "%s: more data than the header describes (%lld bytes)", w->path,
                       (long long)w->want_bytes);
    w->have_bytes += bytes;
    return 0;
}

int st_writer_add(struct st_writer *w, const void *data, int64_t bytes, struct dl_err *e)
{
    return expect(w, bytes, e) < 0 ? -1 : put(w, data, (size_t)bytes, e);
}

int st_writer_hole(struct st_writer *w, int64_t bytes, struct dl_err *e)
{
    if (expect(w, bytes, e) < 0) return -1;
    off_t at = lseek(w->fd, 0, SEEK_CUR);
    if (at >= 0 && ftruncate(w->fd, at + bytes) == 0 && lseek(w->fd, bytes, SEEK_CUR) >= 0) return 0;
    return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", w->path, strerror(errno));
}

/* Makes the rename itself last. Not every file system can sync a folder, so a failure is no error. */
static void sync_folder(const char *path)
{
    char *folder = strdup(path);
    if (!folder) return;
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(folder);
}

int st_writer_close(struct st_writer *w, struct dl_err *e)
{
    int rc = 0;
    if (w->have_bytes != w->want_bytes)
        rc = dl_fail(e, DL_EFAIL, "%s: %lld bytes of data came, the header describes %lld", w->path,
                     (long long)w->have_bytes, (long long)w->want_bytes);
    else if (fsync(w->fd))
        rc = dl_fail(e, DL_EFAIL, "%s: cannot write: %s", w->path, strerror(errno));
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) && !rc) rc = dl_fail(e, DL_EFAIL, "%s: cannot write: %s", w->path, strerror(errno));
    if (!rc && rename(w->temp, w->path))
        rc = dl_fail(e, DL_EFAIL, "%s: cannot rename %s to it: %s", w->path, w->temp, strerror(errno));
    if (!rc) {
        sync_folder(w->path);
        free(w->temp);
        w->temp = NULL;
    }
    st_writer_drop(w);
    return rc;
}

void st_writer_drop(struct st_writer *w)
{
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->temp) unlink(w->temp);
    free(w->temp);
    free(w->path);
    free(w);
}

int st_write(const char *path, const struct st_tensor *t, int64_t n, const struct st_pair *meta, int n_meta,
             struct dl_err *e)
{
    struct st_writer *w;
    if (st_writer_open(&w, path, t, n, meta, n_meta, e)) return -1;
    for (int64_t i = 0; i < n; i++)
        if (st_writer_add(w, t[i].data, tensor_bytes(&t[i]), e)) {
            st_writer_drop(w);
            return -1;
        }
    return st_writer_close(w, e);
}
