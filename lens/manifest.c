#define _GNU_SOURCE /* asprintf */
#include "lens/manifest.h"
#include "lens/outfile.h"
#include "lens/png.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_NAME ".dlens.lock"

struct entry {
    int prompt, k;
    uint64_t seed;
    bool done;
    json_t *json; /* its object in root["images"], borrowed */
    char *path;
};

struct manifest {
    char *dir;
    char file[PATH_MAX]; /* dir/manifest.json */
    int lock_fd;
    bool resumed;
    pthread_mutex_t mutex; /* over all below */
    json_t *root;
    struct entry *image; /* [n] */
    int64_t n, n_done, n_lost;
    bool dirty;
    double saved_at_s, save_took_s;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Above 2^53 a number is not exact in every reader of JSON (and jansson's end at 2^63). */
static json_t *seed_json(uint64_t seed)
{
    char digits[24];
    if (seed <= (uint64_t)1 << 53) return json_integer((json_int_t)seed);
    snprintf(digits, sizeof digits, "%" PRIu64, seed);
    return json_string(digits);
}

static json_t *block_json(int k) { return k ? json_integer(k - 1) : json_null(); }

static json_t *model_json(const struct manifest_model *m)
{
    return json_pack("{ss ss ss ss}", "title", m->title, "name", m->name, "class", m->class_name, "fingerprint",
                     m->fingerprint);
}

/* Every object of the manifest is built the same way: json_pack steals what 'o' names and returns NULL when any part is
 * NULL (no memory, text that is not UTF-8). */
static json_t *prompts_json(const struct manifest_spec *s)
{
    json_t *list = json_array();
    for (int i = 0; i < s->n_prompts; i++)
        json_array_append_new(
            list, json_pack("{ss ss? s[]}", "text", s->prompt[i].text, "negative", s->prompt[i].negative, "seeds"));
    /* A prompt's seeds, each once, in the order of its images. */
    for (int64_t i = 0; i < s->n_images; i++) {
        json_t *seeds = json_object_get(json_array_get(list, (size_t)s->image[i].prompt), "seeds"), *have, *seed;
        size_t at;
        bool known = false;
        seed = seed_json(s->image[i].seed);
        json_array_foreach(seeds, at, have) known = known || json_equal(have, seed);
        if (!known) json_array_append(seeds, seed);
        json_decref(seed);
    }
    if (json_array_size(list) == (size_t)s->n_prompts) return list;
    json_decref(list);
    return NULL;
}

static json_t *layers_json(const struct manifest_spec *s)
{
    json_t *list = json_array();
    for (int i = 0; i < s->n_layers; i++)
        json_array_append_new(list, json_pack("{si so}", "layer", s->layer[i], "block", block_json(s->layer[i])));
    return list;
}

static json_t *images_json(const struct manifest_spec *s)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->n_images; i++) {
        char file[NAMES_MAX];
        const struct manifest_image *m = &s->image[i];
        names_image(file, "images", m->prompt, m->seed, m->k);
        json_array_append_new(list, json_pack("{si so si so ss ss sn}", "prompt", m->prompt, "seed", seed_json(m->seed),
                                              "layer", m->k, "block", block_json(m->k), "file", file, "state",
                                              "pending", "sha256"));
    }
    if (json_array_size(list) == (size_t)s->n_images) return list;
    json_decref(list);
    return NULL;
}

/* A deep copy: the caller's objects may change or go. */
static json_t *copy_json(const json_t *j) { return j ? json_deep_copy(j) : json_object(); }

static int build(struct manifest *m, const struct manifest_spec *s, struct dl_err *e)
{
    m->n = s->n_images;
    m->image = calloc((size_t)m->n + 1, sizeof *m->image);
    m->root =
        json_pack("{si ss ss so so so so so so}", "schema", MANIFEST_SCHEMA, "dlens", s->dlens, "command", s->command,
                  "model", model_json(&s->model), "settings", copy_json(s->settings), "run", copy_json(s->run),
                  "prompts", prompts_json(s), "layers", layers_json(s), "images", images_json(s));
    if (!m->image || !m->root)
        return dl_fail(e, DL_EFAIL, "%s: no manifest can be made: no memory, or text that is not UTF-8", m->file);
    json_t *images = json_object_get(m->root, "images");
    for (int64_t i = 0; i < m->n; i++) {
        struct entry *t = &m->image[i];
        char file[NAMES_MAX];
        *t = (struct entry){.prompt = s->image[i].prompt, .k = s->image[i].k, .seed = s->image[i].seed};
        t->json = json_array_get(images, (size_t)i);
        names_image(file, "images", t->prompt, t->seed, t->k);
        if (asprintf(&t->path, "%s/%s", m->dir, file) < 0) {
            t->path = NULL;
            return dl_fail(e, DL_ENOMEM, "%s: no memory", m->file);
        }
    }
    return 0;
}

/* Written by hand around jansson so that each image, layer and prompt stands on one line: people read and compare
 * these files. */
static int add_text(char **text, size_t *n, size_t *room, const char *more, size_t bytes)
{
    if (*n + bytes + 1 > *room) {
        size_t want = (*n + bytes + 1) * 2;
        char *grown = realloc(*text, want);
        if (!grown) return -1;
        *text = grown;
        *room = want;
    }
    memcpy(*text + *n, more, bytes);
    *n += bytes;
    (*text)[*n] = 0;
    return 0;
}

static int add_value(char **text, size_t *n, size_t *room, const json_t *value, const char *after)
{
    char *s = json_dumps(value, JSON_ENCODE_ANY);
    int rc = s ? add_text(text, n, room, s, strlen(s)) : -1;
    free(s);
    return rc || add_text(text, n, room, after, strlen(after)) ? -1 : 0;
}

static char *dump(json_t *root, size_t *bytes)
{
    char *text = NULL;
    size_t n = 0, room = 0, left = json_object_size(root), i;
    int rc = add_text(&text, &n, &room, "{\n", 2);
    const char *key;
    json_t *value, *one;
    json_object_foreach(root, key, value)
    {
        const char *end = --left ? ",\n" : "\n";
        json_t *name = json_string(key);
        rc |= add_text(&text, &n, &room, "  ", 2) | add_value(&text, &n, &room, name, ": ");
        json_decref(name);
        size_t parts = json_is_array(value) ? json_array_size(value) : json_object_size(value);
        if (!parts) {
            rc |= add_value(&text, &n, &room, value, end);
        } else if (json_is_array(value)) {
            rc |= add_text(&text, &n, &room, "[\n", 2);
            json_array_foreach(value, i, one)
            {
                rc |= add_text(&text, &n, &room, "    ", 4);
                rc |= add_value(&text, &n, &room, one, i + 1 < parts ? ",\n" : "\n");
            }
            rc |= add_text(&text, &n, &room, "  ]", 3) | add_text(&text, &n, &room, end, strlen(end));
        } else {
            const char *inner;
            rc |= add_text(&text, &n, &room, "{\n", 2);
            json_object_foreach(value, inner, one)
            {
                json_t *inner_name = json_string(inner);
                rc |= add_text(&text, &n, &room, "    ", 4) | add_value(&text, &n, &room, inner_name, ": ");
                json_decref(inner_name);
                rc |= add_value(&text, &n, &room, one, --parts ? ",\n" : "\n");
            }
            rc |= add_text(&text, &n, &room, "  }", 3) | add_text(&text, &n, &room, end, strlen(end));
        }
    }
    rc |= add_text(&text, &n, &room, "}\n", 2);
    if (rc) {
        free(text);
        return NULL;
    }
    *bytes = n;
    return text;
}

static int save(struct manifest *m, struct dl_err *e)
{
    double t0 = now_s();
    size_t bytes;
    char *text = dump(m->root, &bytes);
    if (!text) return dl_fail(e, DL_ENOMEM, "%s: no memory", m->file);
    int rc = outfile_write(m->file, text, (int64_t)bytes, e);
    free(text);
    if (rc) return -1;
    m->dirty = false;
    m->saved_at_s = now_s();
    m->save_took_s = m->saved_at_s - t0;
    return 0;
}

/* A value as it stands in a message: short, and cut between characters; of a SHA-256 the beginning. */
static void show(char out[100], const json_t *v)
{
    char *s = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    size_t n = s ? strlen(s) : 0;
    const char *text = json_string_value(v);
    if (!v) {
        strcpy(out, "(none)");
    } else if (text && strlen(text) == SHA256_HEX - 1 && strspn(text, "0123456789abcdef") == SHA256_HEX - 1) {
        snprintf(out, 100, "%.12s...", text);
    } else if (n < 80) {
        strcpy(out, s ? s : "?");
    } else {
        for (n = 76; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80;) n--;
        memcpy(out, s, n);
        strcpy(out + n, "...");
    }
    free(s);
}

static int refuse(const struct manifest *m, const char *what, const json_t *was, const json_t *is, struct dl_err *e)
{
    char a[100], b[100];
    show(a, was);
    show(b, is);
    return dl_fail(e, DL_EUSAGE,
                   "%s: this folder holds a sweep with %s %s, and now %s %s is asked for; give the same settings to "
                   "go on with it, or another folder with --out",
                   m->dir, what, a, what, b);
}

/* The first difference inside two objects or lists of the same kind, with a name a user understands. */
static int same_members(const struct manifest *m, const json_t *was, const json_t *is, struct dl_err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)is, key, v) if (!json_equal(json_object_get(was, key), v)) return refuse(
        m, key, json_object_get(was, key), v, e);
    json_object_foreach((json_t *)was, key, v) if (!json_object_get(is, key)) return refuse(m, key, v, NULL, e);
    return 0;
}

static json_t *layer_numbers(const json_t *layers)
{
    json_t *list = json_array(), *v;
    size_t i;
    json_array_foreach(layers, i, v) json_array_append(list, json_object_get(v, "layer"));
    return list;
}

static int same_sweep(const struct manifest *m, const struct manifest_doc *old, struct dl_err *e)
{
    const json_t *a = old->root, *b = m->root;
    if (!json_equal(json_object_get(a, "command"), json_object_get(b, "command")))
        return refuse(m, "command", json_object_get(a, "command"), json_object_get(b, "command"), e);
    const json_t *ma = json_object_get(a, "model"), *mb = json_object_get(b, "model");
    if (!json_equal(json_object_get(ma, "class"), json_object_get(mb, "class")) ||
        !json_equal(json_object_get(ma, "fingerprint"), json_object_get(mb, "fingerprint"))) {
        /* Two models in one place (the files were replaced) differ by their fingerprint alone. */
        const char *by = json_equal(json_object_get(ma, "name"), json_object_get(mb, "name")) ? "fingerprint" : "name";
        return refuse(m, by[0] == 'n' ? "model" : "model files", json_object_get(ma, by), json_object_get(mb, by), e);
    }
    if (same_members(m, old->settings, json_object_get(b, "settings"), e)) return -1;
    const json_t *la = json_object_get(a, "layers"), *lb = json_object_get(b, "layers");
    if (!json_equal(la, lb)) {
        json_t *na = layer_numbers(la), *nb = layer_numbers(lb);
        refuse(m, "layers", na, nb, e);
        json_decref(na);
        json_decref(nb);
        return -1;
    }
    const json_t *pa = json_object_get(a, "prompts"), *pb = json_object_get(b, "prompts");
    static const char *const key[] = {"text", "negative", "seeds"};
    static const char *const noun[] = {"prompt", "negative prompt", "seeds"};
    for (size_t i = 0; i < json_array_size(pa) && i < json_array_size(pb); i++)
        for (int j = 0; j < 3; j++) {
            const json_t *x = json_object_get(json_array_get(pa, i), key[j]);
            const json_t *y = json_object_get(json_array_get(pb, i), key[j]);
            if (!json_equal(x, y)) return refuse(m, noun[j], x, y, e);
        }
    if (json_array_size(pa) != json_array_size(pb) || old->n_images != m->n)
        return dl_fail(e, DL_EUSAGE,
                       "%s: this folder holds a sweep of %zu prompts and %" PRId64 " images, and now %zu prompts and "
                       "%" PRId64
                       " images are asked for; give the same prompts to go on with it, or another folder with --out",
                       m->dir, json_array_size(pa), old->n_images, json_array_size(pb), m->n);
    for (int64_t i = 0; i < m->n; i++)
        if (old->image[i].prompt != m->image[i].prompt || old->image[i].seed != m->image[i].seed ||
            old->image[i].k != m->image[i].k)
            return dl_fail(e, DL_EUSAGE,
                           "%s: this folder holds a sweep with other images (the first that differs is %s); give the "
                           "same settings to go on with it, or another folder with --out",
                           m->dir, old->image[i].file);
    return 0;
}

static void mark_done(struct manifest *m, int64_t i, const char *sha256)
{
    struct entry *t = &m->image[i];
    if (!t->done) m->n_done++;
    t->done = true;
    json_object_set_new(t->json, "state", json_string("done"));
    json_object_set_new(t->json, "sha256", json_string(sha256));
    m->dirty = true;
}

/* Whether the file is a whole PNG that says it is exactly this image: what a run killed between an image's rename and
 * the manifest's leaves. */
static bool carries_settings(const struct manifest *m, int64_t i)
{
    struct dl_png p;
    struct dl_err ignored = {0};
    if (dl_png_read(&p, m->image[i].path, &ignored)) return false;
    char *want = manifest_image_text(m, i);
    const char *have = dl_png_find(&p, "dlens");
    bool same = want && have && !strcmp(want, have);
    free(want);
    dl_png_close(&p);
    return same;
}

static void find_done(struct manifest *m, const struct manifest_doc *old)
{
    for (int64_t i = 0; i < m->n; i++) {
        char hex[SHA256_HEX];
        struct dl_err ignored = {0};
        bool there = !access(m->image[i].path, F_OK) && !sha256_file(hex, m->image[i].path, NULL, &ignored);
        bool was_done = old->image[i].done;
        if (there && was_done && !strcmp(hex, old->image[i].sha256))
            mark_done(m, i, hex);
        else if (there && !was_done && carries_settings(m, i))
            mark_done(m, i, hex);
        else if (was_done)
            m->n_lost++;
    }
}

/* An output folder is new, empty, or one that dlens made. */
static int check_contents(const struct manifest *m, bool *has_manifest, struct dl_err *e)
{
    *has_manifest = !access(m->file, F_OK);
    if (*has_manifest) return 0;
    DIR *d = opendir(m->dir);
    if (!d) return dl_fail(e, DL_EFAIL, "%s: the folder cannot be read: %s", m->dir, strerror(errno));
    char other[256] = "";
    for (struct dirent *f; !*other && (f = readdir(d));)
        if (strcmp(f->d_name, ".") && strcmp(f->d_name, "..") && strcmp(f->d_name, LOCK_NAME) &&
            !outfile_is_temporary(f->d_name))
            snprintf(other, sizeof other, "%s", f->d_name);
    closedir(d);
    if (!*other) return 0;
    return dl_fail(e, DL_EUSAGE,
                   "%s: this folder is not empty (%s) and has no manifest.json of a sweep; give a new folder with "
                   "--out",
                   m->dir, other);
}

/* The lock file is removed at the close, so the one that was locked may be gone from the folder: then try again. */
static int take_lock(struct manifest *m, struct dl_err *e)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/" LOCK_NAME, m->dir) >= (int)sizeof path)
        return dl_fail(e, DL_EFAIL, "%.200s...: the name is too long", m->dir);
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0) return dl_fail(e, DL_EFAIL, "%s: the folder cannot be written: %s", m->dir, strerror(errno));
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            int why = errno;
            if (why == EWOULDBLOCK) {
                close(fd);
                return dl_fail(e, DL_EUSAGE,
                               "%s: another dlens is writing to this folder; wait for it, or give another folder with "
                               "--out",
                               m->dir);
            }
            /* A file system without locks: the user's own care has to do. */
            if (why != ENOLCK && why != EOPNOTSUPP && why != ENOSYS) {
                close(fd);
                return dl_fail(e, DL_EFAIL, "%s: cannot be locked: %s", path, strerror(why));
            }
        }
        struct stat mine, there;
        if (!fstat(fd, &mine) && !stat(path, &there) && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
            m->lock_fd = fd;
            return 0;
        }
        close(fd);
    }
}

static void drop_lock(struct manifest *m)
{
    char path[PATH_MAX];
    if (m->lock_fd < 0) return;
    snprintf(path, sizeof path, "%s/" LOCK_NAME, m->dir);
    unlink(path); /* before the lock goes: nobody else can have it */
    close(m->lock_fd);
}

static void release(struct manifest *m)
{
    drop_lock(m);
    for (int64_t i = 0; m->image && i < m->n; i++) free(m->image[i].path);
    free(m->image);
    json_decref(m->root);
    pthread_mutex_destroy(&m->mutex);
    free(m->dir);
    free(m);
}

static int begin(struct manifest *m, const struct manifest_spec *s, struct dl_err *e)
{
    char images[PATH_MAX];
    struct manifest_doc old = {0};
    if (build(m, s, e) || outfile_folder(m->dir, e)) return -1;
    if (snprintf(images, sizeof images, "%s/images", m->dir) >= (int)sizeof images)
        return dl_fail(e, DL_EFAIL, "%.200s...: the name is too long", m->dir);
    /* Looked at before the lock file is made, so that a folder that is refused stays as it was. */
    if (check_contents(m, &m->resumed, e) || take_lock(m, e) || check_contents(m, &m->resumed, e)) return -1;
    if (m->resumed) {
        if (manifest_read(&old, m->dir, e)) return -1;
        int rc = same_sweep(m, &old, e);
        if (!rc) find_done(m, &old);
        manifest_doc_close(&old);
        if (rc) return -1;
    }
    /* The manifest comes first: a folder with images/ and no manifest would be refused the next time. */
    if (save(m, e) || outfile_folder(images, e)) return -1;
    outfile_sweep(m->dir);
    outfile_sweep(images);
    return 0;
}

int manifest_open(struct manifest **out, const char *dir, const struct manifest_spec *s, struct dl_err *e)
{
    *out = NULL;
    struct manifest *m = calloc(1, sizeof *m);
    if (!m) return dl_fail(e, DL_ENOMEM, "%s: no memory", dir);
    m->lock_fd = -1;
    pthread_mutex_init(&m->mutex, NULL);
    m->dir = strdup(dir);
    int n = snprintf(m->file, sizeof m->file, "%s/manifest.json", dir);
    int rc = !m->dir                             ? dl_fail(e, DL_ENOMEM, "%s: no memory", dir)
             : !*dir || n >= (int)sizeof m->file ? dl_fail(e, DL_EFAIL, "\"%.200s\": no name for a folder", dir)
                                                 : begin(m, s, e);
    if (rc) {
        release(m);
        return -1;
    }
    *out = m;
    return 0;
}

int manifest_close(struct manifest *m, struct dl_err *e)
{
    if (!m) return 0;
    int rc = m->dirty ? save(m, e) : 0;
    release(m);
    return rc;
}

bool manifest_is_done(struct manifest *m, int64_t image)
{
    pthread_mutex_lock(&m->mutex);
    bool done = m->image[image].done;
    pthread_mutex_unlock(&m->mutex);
    return done;
}

int64_t manifest_n_done(struct manifest *m)
{
    pthread_mutex_lock(&m->mutex);
    int64_t n = m->n_done;
    pthread_mutex_unlock(&m->mutex);
    return n;
}

bool manifest_is_resumed(const struct manifest *m) { return m->resumed; }

int64_t manifest_n_lost(const struct manifest *m) { return m->n_lost; }

const char *manifest_path(const struct manifest *m, int64_t image) { return m->image[image].path; }

char *manifest_image_text(const struct manifest *m, int64_t image)
{
    const struct entry *t = &m->image[image];
    const json_t *p = json_array_get(json_object_get(m->root, "prompts"), (size_t)t->prompt);
    const json_t *root = m->root;
    json_t *model = json_copy(json_object_get(root, "model"));
    json_object_del(model, "name"); /* a path on the maker's machine is nobody else's business, and no setting */
    json_t *j = json_pack("{sO sO so sO sO so si so sO}", "dlens", json_object_get(root, "dlens"), "command",
                          json_object_get(root, "command"), "model", model, "prompt", json_object_get(p, "text"),
                          "negative", json_object_get(p, "negative"), "seed", seed_json(t->seed), "layer", t->k,
                          "block", block_json(t->k), "settings", json_object_get(root, "settings"));
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

int manifest_done(void *ctx, int64_t image, const char *sha256, int64_t bytes, struct dl_err *e)
{
    struct manifest *m = ctx;
    (void)bytes;
    if (image < 0) return 0;
    pthread_mutex_lock(&m->mutex);
    mark_done(m, image, sha256);
    /* A manifest of many thousand images takes long to write: no more than a twentieth of the time goes there. */
    double pause_s = m->save_took_s * 20 > 1 ? m->save_took_s * 20 : 1;
    int rc = now_s() - m->saved_at_s >= pause_s ? save(m, e) : 0;
    pthread_mutex_unlock(&m->mutex);
    return rc;
}

void manifest_choice(struct manifest *m, const char *what, const char *how)
{
    pthread_mutex_lock(&m->mutex);
    json_t *run = json_object_get(m->root, "run"), *list = json_object_get(run, "choices");
    if (!list && json_object_set_new(run, "choices", list = json_object())) list = NULL;
    const char *had = json_string_value(json_object_get(list, what));
    /* Without memory, or where the texts are not UTF-8, the choice is not recorded, and nothing else is lost. */
    if ((!had || strcmp(had, how)) && json_object_set_new(list, what, json_string(how)) == 0) m->dirty = true;
    pthread_mutex_unlock(&m->mutex);
}
