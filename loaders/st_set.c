/* Sets of safetensors files: which files a component folder has, and one index over their tensors. */
#include "loaders/json_read.h"
#include "loaders/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_INDEX_BYTES = 64 << 20, MAX_SHARDS = 1024, MAX_NAME = 255 };

struct st_set {
    char *path;
    struct st_file **file; /* [n_files] owned */
    int n_files;
    const struct st_tensor **by_name; /* [n] */
    int64_t n;
};

/* How the search for one form of file names ended. */
enum found { ABSENT, OPENED, INCOMPLETE /* some of its files are not there */, BROKEN };

static int by_name(const void *a, const void *b)
{
    const struct st_tensor *const *s = a, *const *t = b;
    return strcmp((*s)->name, (*t)->name);
}

static struct st_set *new_set(const char *path, int n_files, struct dl_err *e)
{
    struct st_set *s = calloc(1, sizeof *s);
    if (s) s->path = strdup(path), s->file = calloc((size_t)n_files + 1, sizeof *s->file);
    if (s && s->path && s->file) return s;
    st_set_close(s);
    dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    return NULL;
}

/* Makes the index once all files are in. */
static int index_set(struct st_set *s, struct dl_err *e)
{
    int64_t n = 0;
    for (int i = 0; i < s->n_files; i++) n += st_file_count(s->file[i]);
    s->by_name = calloc((size_t)n + 1, sizeof *s->by_name);
    if (!s->by_name) return dl_fail(e, DL_ENOMEM, "%s: no memory for an index of %lld tensors", s->path, (long long)n);
    for (int i = 0; i < s->n_files; i++)
        for (int64_t j = 0; j < st_file_count(s->file[i]); j++) s->by_name[s->n++] = st_file_at(s->file[i], j);
    qsort(s->by_name, (size_t)n, sizeof *s->by_name, by_name);
    for (int64_t i = 1; i < n; i++) {
        const struct st_tensor *a = s->by_name[i - 1], *b = s->by_name[i];
        if (!strcmp(a->name, b->name))
            return dl_fail(e, DL_EINPUT, "%.300s: tensor \"%.200s\" is in %.200s as well", st_file_path(a->file),
                           a->name, st_file_path(b->file));
    }
    return 0;
}

int st_set_of(struct st_set **out, struct st_file *f, struct dl_err *e)
{
    *out = NULL;
    struct st_set *s = new_set(st_file_path(f), 1, e);
    if (!s) {
        st_close(f);
        return -1;
    }
    s->file[s->n_files++] = f;
    if (index_set(s, e)) {
        st_set_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

void st_set_close(struct st_set *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_files; i++) st_close(s->file[i]);
    free(s->by_name);
    free(s->file);
    free(s->path);
    free(s);
}

const char *st_set_path(const struct st_set *s) { return s->path; }

int st_set_file_count(const struct st_set *s) { return s->n_files; }

const struct st_file *st_set_file(const struct st_set *s, int i) { return s->file[i]; }

int64_t st_set_count(const struct st_set *s) { return s->n; }

const struct st_tensor *st_set_at(const struct st_set *s, int64_t i) { return s->by_name[i]; }

const struct st_tensor *st_set_find(const struct st_set *s, const char *name)
{
    struct st_tensor key = {.name = name}, *k = &key;
    const struct st_tensor **t = bsearch(&k, s->by_name, (size_t)s->n, sizeof *s->by_name, by_name);
    return t ? *t : NULL;
}

/* Joins folder and name; a path that is too long becomes "", which is no file, rather than another path. */
static void join(char *out, size_t cap, const char *folder, const char *name)
{
    size_t n = strlen(folder);
    int k = snprintf(out, cap, "%s%s%s", folder, n && folder[n - 1] == '/' ? "" : "/", name);
    if (k < 0 || (size_t)k >= cap) *out = 0;
}

/* Opens the named files of the folder as one set. */
static enum found open_files(struct st_set **out, const char *folder, char (*name)[MAX_NAME + 1], int n,
                             struct dl_err *e)
{
    char path[PATH_MAX];
    struct stat st;
    for (int i = 0; i < n; i++) {
        join(path, sizeof path, folder, name[i]);
        if (stat(path, &st)) {
            dl_fail(e, DL_EINPUT, "%s: cannot open: %s%s", path, strerror(errno),
                    errno == ENOENT ? " (a part of the download, or what a link points to, is missing)" : "");
            return INCOMPLETE;
        }
    }
    struct st_set *s = new_set(folder, n, e);
    if (!s) return BROKEN;
    for (int i = 0; i < n; i++) {
        join(path, sizeof path, folder, name[i]);
        if (st_open(&s->file[i], path, e)) {
            st_set_close(s);
            return BROKEN;
        }
        s->n_files = i + 1;
    }
    if (index_set(s, e)) {
        st_set_close(s);
        return BROKEN;
    }
    *out = s;
    return OPENED;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

/* A name in an index must be that of a file in the same folder. */
static bool is_plain_name(const char *s)
{
    return *s && *s != '.' && strlen(s) <= MAX_NAME && !strpbrk(s, "/\\") && !strstr(s, "..") &&
           ends_with(s, ".safetensors");
}

/* The different file names that a weight_map has, into name [MAX_SHARDS]; their number, or -1. */
static int list_shards(const char *path, const json_t *map, char (*name)[MAX_NAME + 1], struct dl_err *e)
{
    char what[80];
    int n = 0, at = 0;
    const char *key;
    json_t *v;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return dl_fail(e, DL_EINPUT, "%s: its weight_map is %s, expected an object from tensor names to file names",
                       path, js_describe(map, what, sizeof what));
    json_object_foreach((json_t *)map, key, v)
    {
        const char *s = json_string_value(v);
        if (!s || !is_plain_name(s))
            return dl_fail(e, DL_EINPUT,
                           "%s: tensor \"%.200s\" is in %s, which is not the name of a safetensors file in the "
                           "same folder",
                           path, key, js_describe(v, what, sizeof what));
        /* Neighbours mostly lie in the same shard. */
        if (n && !strcmp(name[at], s)) continue;
        for (at = 0; at < n && strcmp(name[at], s); at++) {
        }
        if (at < n) continue;
        if (n == MAX_SHARDS) return dl_fail(e, DL_EINPUT, "%s: names more than %d files", path, MAX_SHARDS);
        snprintf(name[n++], MAX_NAME + 1, "%s", s);
    }
    return n;
}

/* Each tensor of the map must be in the file that the map says. */
static int check_map(const struct st_set *s, const char *path, const json_t *map, struct dl_err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)map, key, v)
    {
        const struct st_tensor *t = st_set_find(s, key);
        const char *want = json_string_value(v), *have = t ? strrchr(st_file_path(t->file), '/') : NULL;
        if (!t)
            return dl_fail(e, DL_EINPUT, "%.300s: tensor \"%.200s\" should be in %s, which does not have it", path, key,
                           want);
        if (strcmp(have ? have + 1 : st_file_path(t->file), want))
            return dl_fail(e, DL_EINPUT, "%.300s: tensor \"%.200s\" should be in %.100s, but is in %.200s", path, key,
                           want, st_file_path(t->file));
    }
    return 0;
}

static enum found open_index(struct st_set **out, const char *folder, const char *file, char (*name)[MAX_NAME + 1],
                             struct dl_err *e)
{
    char path[PATH_MAX];
    struct stat st;
    join(path, sizeof path, folder, file);
    if (lstat(path, &st)) return ABSENT;
    json_t *root = js_open(path, MAX_INDEX_BYTES, e), *map = json_object_get(root, "weight_map");
    if (!root) return BROKEN;
    enum found found = BROKEN;
    int n = list_shards(path, map, name, e);
    if (n > 0) {
        found = open_files(out, folder, name, n, e);
        if (found == INCOMPLETE) dl_fail_in(e, "named by %.300s", path);
    }
    if (found == OPENED && check_map(*out, path, map, e)) {
        st_set_close(*out);
        *out = NULL, found = BROKEN;
    }
    json_decref(root);
    return found;
}

static enum found open_single(struct st_set **out, const char *folder, const char *file, char (*name)[MAX_NAME + 1],
                              struct dl_err *e)
{
    char path[PATH_MAX];
    struct stat st;
    join(path, sizeof path, folder, file);
    if (lstat(path, &st)) return ABSENT;
    snprintf(name[0], MAX_NAME + 1, "%s", file);
    return open_files(out, folder, name, 1, e);
}

/* <head>-00001-of-0000N.safetensors, all N, without an index. */
static enum found open_numbered(struct st_set **out, const char *folder, const char *head, char (*name)[MAX_NAME + 1],
                                struct dl_err *e)
{
    DIR *d = opendir(folder);
    int total = 0, end;
    size_t k = strlen(head);
    for (struct dirent *x; d && !total && (x = readdir(d));) {
        int i, n;
        end = 0;
        if (!strncmp(x->d_name, head, k) && sscanf(x->d_name + k, "-%5d-of-%5d.safetensors%n", &i, &n, &end) == 2 &&
            end && !x->d_name[k + (size_t)end] && n > 0 && n <= MAX_SHARDS)
            total = n;
    }
    if (d) closedir(d);
    if (!total) return ABSENT;
    for (int i = 0; i < total; i++)
        snprintf(name[i], MAX_NAME + 1, "%.200s-%05d-of-%05d.safetensors", head, i + 1, total);
    return open_files(out, folder, name, total, e);
}

/* The message for a folder without any of the forms. */
static int nothing_found(const char *folder, const char *stem, struct dl_err *e)
{
    DIR *d = opendir(folder);
    if (!d)
        return dl_fail(e, DL_EINPUT, "%s: cannot open the folder%s: %s", folder,
                       errno == ENOENT ? " (this component of the model is missing)" : "", strerror(errno));
    char other[128] = "", pickle[128] = "";
    for (struct dirent *x; (x = readdir(d));) {
        if (ends_with(x->d_name, ".safetensors"))
            snprintf(other, sizeof other, "%.127s", x->d_name);
        else if (ends_with(x->d_name, ".bin") || ends_with(x->d_name, ".ckpt") || ends_with(x->d_name, ".pt") ||
                 ends_with(x->d_name, ".pth") || ends_with(x->d_name, ".msgpack") || ends_with(x->d_name, ".gguf"))
            snprintf(pickle, sizeof pickle, "%.127s", x->d_name);
    }
    closedir(d);
    if (*other)
        return dl_fail(e, DL_EINPUT,
                       "%s: no %s.safetensors; %s is there, which is none of the names looked for: rename it if it is "
                       "this component's weights",
                       folder, stem, other);
    if (*pickle)
        return dl_fail(
            e, DL_EINPUT,
            "%s: only %s is there, and dlens reads safetensors alone: fetch %s.safetensors, or convert with "
            "Python: DiffusionPipeline.from_pretrained(folder).save_pretrained(new_folder, safe_serialization=True)",
            folder, pickle, stem);
    return dl_fail(e, DL_EINPUT,
                   "%s: no weights: %s.safetensors (or .fp16.safetensors, or .safetensors.index.json) is missing",
                   folder, stem);
}

int st_set_open(struct st_set **out, const char *folder, const char *stem, struct dl_err *e)
{
    static const char *const variants[] = {"", ".fp16", ".bf16"};
    char file[MAX_NAME + 1];
    struct dl_err first = {0};
    enum found found = ABSENT;
    *out = NULL;
    char(*name)[MAX_NAME + 1] = calloc(MAX_SHARDS, sizeof *name);
    if (!name) return dl_fail(e, DL_ENOMEM, "%s: no memory", folder);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        for (int form = 0; form < 4; form++) {
            const char *v = variants[i];
            struct dl_err here = {0};
            if (form == 0) {
                snprintf(file, sizeof file, "%s%s.safetensors", stem, v);
                found = open_single(out, folder, file, name, &here);
            } else if (form == 1) {
                snprintf(file, sizeof file, "%s.safetensors.index%s.json", stem, v);
                found = open_index(out, folder, file, name, &here);
            } else if (form == 2 && *v) {
                snprintf(file, sizeof file, "%s%s.safetensors.index.json", stem, v);
                found = open_index(out, folder, file, name, &here);
            } else if (form == 3) {
                snprintf(file, sizeof file, "%s%s", stem, v);
                found = open_numbered(out, folder, file, name, &here);
            } else {
                continue;
            }
            /* An incomplete form (an index came with the download, its shards did not) gives way to a complete one. */
            if (here.code && (!first.code || found == BROKEN)) first = here;
            if (found == OPENED || found == BROKEN) goto done;
        }
    }
done:
    free(name);
    if (found == OPENED) return 0;
    if (found == BROKEN || first.code) return dl_fail(e, first.code, "%s", first.msg);
    return nothing_found(folder, stem, e);
}
