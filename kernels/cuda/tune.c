#include "kernels/cuda/cuda_priv.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TIMED_RUNS = 5, LINES_MAX = 20000 };
#define FAILED 1e30f
#define NEAR 1.25f

struct choice {
    struct choice *next;
    bool used;
    char key[CUDA_TUNE_KEY], value[CUDA_TUNE_VALUE];
};

struct cuda_tune {
    struct choice *list;
    char *file; /* NULL: none */
    cudaEvent_t begin, end;
    int64_t races;
};

static struct choice *find(const struct cuda_tune *t, const char *key)
{
    for (struct choice *k = t->list; k; k = k->next)
        if (!strcmp(k->key, key)) return k;
    return NULL;
}

static struct choice *put(struct cuda_tune *t, const char *key, const char *value)
{
    struct choice *k = find(t, key);
    if (strlen(key) >= sizeof k->key || strlen(value) >= sizeof k->value) return NULL;
    if (!k) {
        if (!(k = calloc(1, sizeof *k))) return NULL;
        strcpy(k->key, key);
        k->next = t->list, t->list = k;
    }
    strcpy(k->value, value);
    return k;
}

/* The first line of a key counts less than a later one, which was measured because the first would not do. */
static void read_file(struct cuda_tune *t)
{
    char line[CUDA_TUNE_KEY + CUDA_TUNE_VALUE + 8];
    FILE *f = t->file ? fopen(t->file, "re") : NULL;
    for (int i = 0; f && i < LINES_MAX && fgets(line, sizeof line, f); i++) {
        char *tab = strchr(line, '\t'), *end = strchr(line, '\n');
        if (!tab || !end || end < tab) continue; /* a line that was cut off */
        *tab = *end = '\0';
        (void)put(t, line, tab + 1);
    }
    if (f) fclose(f);
}

/* One line, in one write, behind whatever a process that was killed has left. */
static void append(const struct cuda_tune *t, const struct choice *k)
{
    char line[CUDA_TUNE_KEY + CUDA_TUNE_VALUE + 8], last = '\n';
    int fd = t->file ? open(t->file, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (fd < 0) return;
    off_t end = lseek(fd, 0, SEEK_END);
    if (end > 0 && pread(fd, &last, 1, end - 1) != 1) last = '\n';
    int n = snprintf(line, sizeof line, "%s%s\t%s\n", last == '\n' ? "" : "\n", k->key, k->value);
    if (write(fd, line, (size_t)n) != n) (void)0; /* a half line is skipped when it is read */
    close(fd);
}

/* The file's path, its folders made; NULL when there is no home. */
static char *cache_file(const struct dl_ctx *c, size_t library)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char path[2048];
    int n = xdg && *xdg == '/'     ? snprintf(path, sizeof path, "%s", xdg)
            : home && *home == '/' ? snprintf(path, sizeof path, "%s/.cache", home)
                                   : -1;
    if (n < 0 || n > 1800) return NULL;
    mkdir(path, 0755);
    n += snprintf(path + n, sizeof path - (size_t)n, "/dlens");
    mkdir(path, 0755);
    snprintf(path + n, sizeof path - (size_t)n, "/tuned-%s-%zu.txt", c->name, library);
    return strdup(path);
}

int cuda_tune_open(struct dl_ctx *c, size_t library, struct dl_err *e)
{
    struct cuda_tune *t = c->tune = calloc(1, sizeof *t);
    if (!t) return dl_fail(e, DL_ENOMEM, "no memory for choices of kernels");
    cudaError_t rc = cudaEventCreate(&t->begin);
    if (rc == cudaSuccess) rc = cudaEventCreate(&t->end);
    if (rc != cudaSuccess) return cuda_fail(e, rc, "making an event");
    if (!c->opts.no_tuning) t->file = cache_file(c, library);
    read_file(t);
    return 0;
}

void cuda_tune_close(struct dl_ctx *c)
{
    struct cuda_tune *t = c->tune;
    if (!t) return;
    for (struct choice *k = t->list, *next; k; k = next) next = k->next, free(k);
    if (t->begin) (void)cudaEventDestroy(t->begin);
    if (t->end) (void)cudaEventDestroy(t->end);
    free(t->file);
    free(t);
    c->tune = NULL;
}

const char *cuda_tune_find(struct dl_ctx *c, const char *key)
{
    struct choice *k = find(c->tune, key);
    if (!k) return NULL;
    k->used = true;
    return k->value;
}

int cuda_tune_keep(struct dl_ctx *c, const char *key, const char *value, bool store, struct dl_err *e)
{
    struct choice *k = put(c->tune, key, value);
    if (!k) return dl_fail(e, DL_ENOMEM, "no room for the choice of %.100s", key);
    k->used = true;
    if (store) append(c->tune, k);
    return 0;
}

int cuda_tune_pin(struct dl_ctx *c, const char *key, const char *value, struct dl_err *e)
{
    if (strlen(key) >= CUDA_TUNE_KEY || strlen(value) >= CUDA_TUNE_VALUE)
        return dl_fail(e, DL_EINPUT, "the choice of \"%.100s\" is longer than any of dlens'", key);
    return put(c->tune, key, value) ? 0 : dl_fail(e, DL_ENOMEM, "no memory for choices of kernels");
}

void cuda_tune_each(struct dl_ctx *c, void (*each)(void *user, const char *key, const char *value), void *user)
{
    for (struct choice *k = c->tune->list; k; k = k->next)
        if (k->used) each(user, k->key, k->value);
}

void cuda_tune_way(struct dl_ctx *c, int n) { c->opts.way = n; }

/* Least of n runs in ms after one that loads code, or of fewer once it is clear that none is below `enough`; a large
 * number for a way that fails. */
static float time_of(const struct dl_ctx *c, int n, float enough, bool (*go)(void *user, int way), void *user, int way)
{
    const struct cuda_tune *t = c->tune;
    float least = FAILED;
    for (int i = -1; i < n; i++) {
        float ms = FAILED;
        (void)cudaEventRecord(t->begin, c->stream);
        if (!go(user, way)) return FAILED;
        (void)cudaEventRecord(t->end, c->stream);
        if (cudaEventSynchronize(t->end) != cudaSuccess) return FAILED;
        if (i >= 0) (void)cudaEventElapsedTime(&ms, t->begin, t->end);
        if (ms < least) least = ms;
        if (i >= 0 && least > enough) break;
    }
    return least;
}

/* Two runs show who is far behind; the others run again. Of several processes or of one in bad luck the least is the
 * truest number that there is. */
int cuda_tune_race(struct dl_ctx *c, int n, bool (*go)(void *user, int way), void *user)
{
    float ms[CUDA_WAYS], least = FAILED;
    int best = -1;
    if (n > CUDA_WAYS) n = CUDA_WAYS;
    if (c->opts.measuring) c->opts.measuring(c->opts.user, c->tune->races);
    c->tune->races++;
    for (int i = 0; i < n; i++) {
        ms[i] = time_of(c, 2, least * NEAR, go, user, i);
        if (ms[i] < least) least = ms[i];
    }
    float near = least * NEAR;
    for (int i = 0; i < n && least < FAILED; i++) {
        if (ms[i] > near) continue;
        float again = time_of(c, TIMED_RUNS, FAILED, go, user, i);
        if (again < ms[i]) ms[i] = again;
        if (best < 0 || ms[i] < ms[best]) best = i;
    }
    return best;
}

static int index_of(const char *value, int n, const char *const *name)
{
    for (int i = 0; value && i < n; i++)
        if (!strcmp(value, name[i])) return i;
    return -1;
}

/* The key in the file: with a number made of the names, in any order. A way that was not offered has not lost, so where
 * another dlens, or one without the library, offers other ways, it measures them. */
static void name_contest(char contest[CUDA_TUNE_KEY], const char *key, int n, const char *const *name)
{
    uint32_t sum = 0;
    for (int i = 0; i < n; i++) {
        uint32_t h = 0x811c9dc5u; /* FNV-1a */
        for (const char *s = name[i]; *s; s++) h = (h ^ (uint8_t)*s) * 0x01000193u;
        sum += h;
    }
    snprintf(contest, CUDA_TUNE_KEY, "%.*s #%08x", CUDA_TUNE_KEY - 12, key, sum);
}

int cuda_choose(struct dl_run *r, const char *key, int n, const char *const *name, bool (*go)(void *user, int way),
                void *user)
{
    struct dl_ctx *c = r->ctx;
    if (c->opts.way > 0) return c->opts.way < n ? c->opts.way - 1 : n - 1;
    if (n == 1) return 0;
    int best = index_of(cuda_tune_find(c, key), n, name);
    if (best >= 0) return best;
    char contest[CUDA_TUNE_KEY];
    name_contest(contest, key, n, name);
    const struct choice *k = find(c->tune, contest);
    best = k ? index_of(k->value, n, name) : -1;
    bool may = r->mode == DL_EAGER && !c->capturing && !c->opts.no_tuning && go;
    if (best < 0 && may && (best = cuda_tune_race(c, n, go, user)) >= 0) {
        if ((k = put(c->tune, contest, name[best]))) append(c->tune, k);
    }
    if (best < 0) return 0; /* in a race whose failure the real run will tell */
    (void)cuda_tune_keep(c, key, name[best], false, &r->err);
    return best;
}
