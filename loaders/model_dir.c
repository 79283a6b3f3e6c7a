#define _GNU_SOURCE /* vasprintf */
#include "loaders/model_dir.h"

#include "loaders/json_read.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *format(struct dl_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static char *format(struct dl_err *e, const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n >= 0) return s;
    dl_fail(e, DL_ENOMEM, "no memory for a path");
    return NULL;
}

static bool is_dir(const char *path)
{
    struct stat s;
    return !stat(path, &s) && S_ISDIR(s.st_mode);
}

static bool has_file(const char *folder, const char *name)
{
    char path[PATH_MAX];
    struct stat s;
    return snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path && !stat(path, &s);
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

/* "org/name" as the hub allows it; also what may be pasted into a path without leaving the cache. */
static bool is_hub_id(const char *s)
{
    const char *slash = strchr(s, '/');
    if (!slash || slash == s || !slash[1] || strchr(slash + 1, '/') || strlen(s) > 200 || strstr(s, "..")) return false;
    for (const char *p = s; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("-_./", *p)) return false;
    return *s != '.' && slash[1] != '.';
}

/* The hub's cache folder, to be freed; NULL when the environment gives none. */
static char *hub_cache(struct dl_err *e)
{
    const char *v;
    if ((v = getenv("HF_HUB_CACHE")) && *v) return format(e, "%s", v);
    if ((v = getenv("HF_HOME")) && *v) return format(e, "%s/hub", v);
    if ((v = getenv("XDG_CACHE_HOME")) && *v) return format(e, "%s/huggingface/hub", v);
    if ((v = getenv("HOME")) && *v) return format(e, "%s/.cache/huggingface/hub", v);
    dl_fail(e, DL_EINPUT, "no Hugging Face cache to look in: neither HF_HUB_CACHE, HF_HOME nor HOME is set");
    return NULL;
}

/* Some entry's name for a message, or "". */
static void any_entry(const char *folder, char *out, size_t cap)
{
    *out = 0;
    DIR *d = opendir(folder);
    for (struct dirent *x; d && !*out && (x = readdir(d));)
        if (*x->d_name != '.') snprintf(out, cap, "%s", x->d_name);
    if (d) closedir(d);
}

/* From .../models--org--name to the snapshot folder that refs/main names; NULL with a message. */
static char *find_snapshot(const char *repo, struct dl_err *e)
{
    char name[256];
    char *refs = format(e, "%s/refs/main", repo), *hash = NULL, *path = NULL;
    size_t n = 0;
    struct stat s;
    if (!refs) return NULL;
    if (stat(refs, &s)) {
        char *snapshots = format(e, "%s/snapshots", repo);
        if (snapshots) any_entry(snapshots, name, sizeof name);
        if (snapshots && *name)
            dl_fail(e, DL_EINPUT, "%s: is missing, so the snapshot to use is not known; name one: --model %s/%s", refs,
                    snapshots, name);
        else
            dl_fail(e, DL_EINPUT, "%s: is missing: the model was never downloaded completely", refs);
        free(snapshots);
    } else if (!js_slurp(refs, 4096, &hash, &n, e)) {
        n = strcspn(hash, " \t\r\n");
        hash[n] = 0;
        bool ok = n > 0 && n <= 128;
        for (const char *p = hash; *p; p++) ok = ok && isalnum((unsigned char)*p);
        if (!ok)
            dl_fail(e, DL_EINPUT, "%s: does not hold the name of a snapshot", refs);
        else if ((path = format(e, "%s/snapshots/%s", repo, hash)) && !is_dir(path)) {
            dl_fail(e, DL_EINPUT, "%s: is missing, though refs/main names it; download the model again", path);
            free(path);
            path = NULL;
        }
    }
    free(hash);
    free(refs);
    return path;
}

static char *find_in_cache(const char *id, struct dl_err *e)
{
    char *cache = hub_cache(e), *repo = NULL, *path = NULL;
    const char *slash = strchr(id, '/');
    if (cache) repo = format(e, "%s/models--%.*s--%s", cache, (int)(slash - id), id, slash + 1);
    if (repo && !is_dir(repo))
        dl_fail(e, DL_EINPUT,
                "%s: neither a folder nor a model in the Hugging Face cache (looked for %s); dlens never downloads: "
                "run 'hf download %s' first",
                id, repo, id);
    else if (repo)
        path = find_snapshot(repo, e);
    free(repo);
    free(cache);
    return path;
}

/* Says what a folder without model_index.json is. */
static int not_a_model(const char *path, struct dl_err *e)
{
    DIR *d = opendir(path);
    if (!d) return dl_fail(e, DL_EINPUT, "%s: cannot open the folder: %s", path, strerror(errno));
    char single[128] = "";
    int n = 0;
    for (struct dirent *x; (x = readdir(d));) {
        if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, "..")) continue;
        n++;
        if (ends_with(x->d_name, ".safetensors") || ends_with(x->d_name, ".ckpt"))
            snprintf(single, sizeof single, "%.127s", x->d_name);
    }
    closedir(d);
    const char *slash = strrchr(path, '/');
    if (!n) return dl_fail(e, DL_EINPUT, "%s: is an empty folder; download a model in diffusers layout into it", path);
    if (has_file(path, "config.json") || has_file(path, "scheduler_config.json") ||
        has_file(path, "tokenizer_config.json"))
        return dl_fail(e, DL_EINPUT,
                       "%s: is one component of a model (it has no model_index.json); give the folder above it: %.*s",
                       path, slash && slash > path ? (int)(slash - path) : 2, slash && slash > path ? path : "..");
    if (*single)
        return dl_fail(
            e, DL_EINPUT,
            "%s: has no model_index.json; %s looks like a checkpoint in one file, which dlens does not read: "
            "use the model's folder in diffusers layout",
            path, single);
    return dl_fail(e, DL_EINPUT,
                   "%s: has no model_index.json, so it is not a model in diffusers layout (or the download is not "
                   "complete)",
                   path);
}

/* The folder behind the user's words, to be freed. */
static char *resolve(const char *spec, struct dl_err *e)
{
    struct stat s;
    if (!*spec) {
        dl_fail(e, DL_EUSAGE, "the model's name is empty; give a folder in diffusers layout or a hub id");
        return NULL;
    }
    if (strlen(spec) > PATH_MAX / 2) {
        dl_fail(e, DL_EUSAGE, "%.60s...: too long for a model's folder", spec);
        return NULL;
    }
    if (stat(spec, &s)) {
        if (errno == ENOENT && is_hub_id(spec)) return find_in_cache(spec, e);
        dl_fail(e, DL_EINPUT, "%s: %s; --model takes a folder in diffusers layout, or a hub id like org/name", spec,
                strerror(errno));
        return NULL;
    }
    if (!S_ISDIR(s.st_mode)) {
        dl_fail(e, DL_EINPUT,
                "%s: is %s, and dlens reads folders in diffusers layout: convert it with Python: "
                "StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)",
                spec,
                ends_with(spec, ".safetensors") || ends_with(spec, ".ckpt") ? "a checkpoint in one file" : "a file");
        return NULL;
    }
    if (!has_file(spec, "model_index.json") && has_file(spec, "snapshots")) return find_snapshot(spec, e);
    size_t n = strlen(spec);
    while (n > 1 && spec[n - 1] == '/') n--;
    return format(e, "%.*s", (int)n, spec);
}

/* A component's folder is named after its key, so the key must not lead elsewhere. */
static bool is_part_name(const char *s)
{
    for (const char *p = s; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '_' && *p != '-') return false;
    return *s && strlen(s) < 128;
}

static int add_part(struct model_dir *m, const char *key, struct dl_err *e)
{
    const char *v[2];
    cfg_strs(m->index, key, 2, 2, v);
    if (cfg_check(m->index, e)) return -1;
    if (!is_part_name(key))
        return dl_fail(e, DL_EINPUT, "%s: component \"%.100s\" has an impossible name", cfg_path(m->index), key);
    struct model_part *more = realloc(m->part, (size_t)(m->n_parts + 1) * sizeof *more);
    if (!more) return dl_fail(e, DL_ENOMEM, "%s: no memory", cfg_path(m->index));
    m->part = more;
    struct model_part *p = &m->part[m->n_parts++];
    p->name = strdup(key), p->library = strdup(v[0]), p->class_name = strdup(v[1]);
    if (!p->name || !p->library || !p->class_name) return dl_fail(e, DL_ENOMEM, "%s: no memory", cfg_path(m->index));
    return 0;
}

static int read_index(struct model_dir *m, struct dl_err *e)
{
    char *file = format(e, "%s/model_index.json", m->path);
    int rc = file ? cfg_open(&m->index, file, e) : -1;
    free(file);
    if (rc) return -1;
    const char *name = cfg_str(m->index, "_class_name", NULL), *key;
    if (cfg_check(m->index, e)) return -1;
    m->class_name = strdup(name);
    if (!m->class_name) return dl_fail(e, DL_ENOMEM, "%s: no memory", m->path);
    for (size_t i = 0; (key = cfg_key(m->index, i)); i++) {
        /* Components are pairs [library, class], absent ones [null, null]; everything else is an option of the
         * pipeline. */
        if (*key != '_' && cfg_is_strs(m->index, key, 2) && add_part(m, key, e)) return -1;
    }
    return 0;
}

int model_dir_open(struct model_dir *m, const char *spec, struct dl_err *e)
{
    *m = (struct model_dir){0};
    m->path = resolve(spec, e);
    m->spec = strdup(spec);
    if (!m->path || !m->spec || (!has_file(m->path, "model_index.json") && not_a_model(m->path, e)) ||
        read_index(m, e)) {
        dl_fail(e, DL_ENOMEM, "%s: no memory", spec);
        model_dir_close(m);
        return -1;
    }
    return 0;
}

void model_dir_close(struct model_dir *m)
{
    for (int i = 0; i < m->n_parts; i++) {
        free(m->part[i].name);
        free(m->part[i].library);
        free(m->part[i].class_name);
    }
    free(m->part);
    cfg_close(m->index);
    free(m->class_name);
    free(m->path);
    free(m->spec);
    *m = (struct model_dir){0};
}

static const struct model_part *find_part(const struct model_dir *m, const char *part)
{
    for (int i = 0; i < m->n_parts; i++)
        if (!strcmp(m->part[i].name, part)) return &m->part[i];
    return NULL;
}

bool model_dir_has(const struct model_dir *m, const char *part) { return find_part(m, part) != NULL; }

const char *model_dir_class(const struct model_dir *m, const char *part)
{
    const struct model_part *p = find_part(m, part);
    return p ? p->class_name : NULL;
}

char *model_dir_join(const struct model_dir *m, const char *part, const char *file, struct dl_err *e)
{
    return file ? format(e, "%s/%s/%s", m->path, part, file) : format(e, "%s/%s", m->path, part);
}

char *model_dir_file(const struct model_dir *m, const char *part, const char *file, struct dl_err *e)
{
    char *path = model_dir_join(m, part, file, e);
    struct stat s;
    if (!path || !stat(path, &s)) return path;
    int why = errno;
    char *folder = model_dir_join(m, part, NULL, e);
    if (folder && !is_dir(folder))
        dl_fail(e, DL_EINPUT,
                "%s: the component's folder is missing, though model_index.json names it; the download is not complete",
                folder);
    else
        dl_fail(e, DL_EINPUT, "%s: cannot open: %s; the download is not complete", path, strerror(why));
    free(folder);
    free(path);
    return NULL;
}

int model_dir_config(const struct model_dir *m, const char *part, struct cfg **c, struct dl_err *e)
{
    *c = NULL;
    char *path = model_dir_file(m, part, !strcmp(part, "scheduler") ? "scheduler_config.json" : "config.json", e);
    int rc = path ? cfg_open(c, path, e) : -1;
    free(path);
    return rc;
}

int model_dir_weights(const struct model_dir *m, const char *part, struct st_set **s, struct dl_err *e)
{
    *s = NULL;
    const struct model_part *p = find_part(m, part);
    bool transformers = p ? !strcmp(p->library, "transformers") : !strncmp(part, "text_encoder", 12);
    char *path = model_dir_join(m, part, NULL, e);
    int rc = path ? st_set_open(s, path, transformers ? "model" : "diffusion_pytorch_model", e) : -1;
    free(path);
    return rc;
}
