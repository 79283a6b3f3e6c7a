#include "loaders/config.h"

#include "loaders/json_read.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 64 << 20 };

struct cfg {
    char *path;
    json_t *root; /* an object */
    struct dl_err err;
};

static int take(struct cfg **out, json_t *root, const char *path, struct dl_err *e)
{
    char what[80];
    *out = NULL;
    if (!root) return -1;
    struct cfg *c = NULL;
    if (!json_is_object(root))
        dl_fail(e, DL_EINPUT, "%s: holds %s, expected a JSON object", path, js_describe(root, what, sizeof what));
    else if (!(c = calloc(1, sizeof *c)) || !(c->path = strdup(path)))
        dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    if (!c || !c->path) {
        free(c);
        json_decref(root);
        return -1;
    }
    c->root = root;
    *out = c;
    return 0;
}

int cfg_open(struct cfg **c, const char *path, struct dl_err *e)
{
    return take(c, js_open(path, MAX_BYTES, e), path, e);
}

int cfg_open_memory(struct cfg **c, const void *json, size_t n, const char *label, struct dl_err *e)
{
    return take(c, js_parse(json, n, label, e), label, e);
}

void cfg_close(struct cfg *c)
{
    if (!c) return;
    json_decref(c->root);
    free(c->path);
    free(c);
}

int cfg_check(const struct cfg *c, struct dl_err *e)
{
    return c->err.code ? dl_fail(e, c->err.code, "%s", c->err.msg) : 0;
}

const char *cfg_path(const struct cfg *c) { return c->path; }

/* The value of a key; NULL when it is absent or null. */
static const json_t *get(const struct cfg *c, const char *key)
{
    const json_t *v = json_object_get(c->root, key);
    return json_is_null(v) ? NULL : v;
}

bool cfg_has(const struct cfg *c, const char *key) { return get(c, key) != NULL; }

const char *cfg_key(const struct cfg *c, size_t i)
{
    void *it = json_object_iter(c->root);
    while (it && i-- > 0) it = json_object_iter_next(c->root, it);
    return it ? json_object_iter_key(it) : NULL;
}

void cfg_fail(struct cfg *c, const char *key, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    dl_fail(&c->err, DL_EINPUT, "%.400s: %s: %s", c->path, key, text);
}

/* "key: found X, expected Y"; at >= 0 tells the place in a list. */
static void wrong(struct cfg *c, const char *key, int at, const json_t *found, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static void wrong(struct cfg *c, const char *key, int at, const json_t *found, const char *fmt, ...)
{
    char what[120], want[400], place[40] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(want, sizeof want, fmt, ap);
    va_end(ap);
    if (at >= 0) snprintf(place, sizeof place, "value %d is ", at);
    cfg_fail(c, key, "%s%s, expected %s", at >= 0 ? place : "found ", js_describe(found, what, sizeof what), want);
}

static int64_t clamp(int64_t v, int64_t min, int64_t max) { return v < min ? min : v > max ? max : v; }

static int64_t one_int(struct cfg *c, const char *key, int at, const json_t *v, int64_t min, int64_t max)
{
    int64_t x = json_integer_value(v);
    if (json_is_integer(v) && x >= min && x <= max) return x;
    wrong(c, key, at, v, "a whole number from %lld to %lld", (long long)min, (long long)max);
    return clamp(0, min, max);
}

static double one_float(struct cfg *c, const char *key, int at, const json_t *v, double min, double max)
{
    double x = json_number_value(v);
    if (json_is_number(v) && x >= min && x <= max) return x;
    wrong(c, key, at, v, "a number from %g to %g", min, max);
    return min > 0 ? min : max < 0 ? max : 0;
}

static bool one_bool(struct cfg *c, const char *key, int at, const json_t *v)
{
    if (!json_is_boolean(v)) wrong(c, key, at, v, "true or false");
    return json_is_true(v);
}

static const char *one_str(struct cfg *c, const char *key, int at, const json_t *v)
{
    if (json_is_string(v)) return json_string_value(v);
    wrong(c, key, at, v, "a string");
    return "";
}

int64_t cfg_int(struct cfg *c, const char *key, int64_t fallback, int64_t min, int64_t max)
{
    const json_t *v = get(c, key);
    return !v && fallback != CFG_REQUIRED ? fallback : one_int(c, key, -1, v, min, max);
}

double cfg_float(struct cfg *c, const char *key, double fallback, double min, double max)
{
    const json_t *v = get(c, key);
    return !v && !isnan(fallback) ? fallback : one_float(c, key, -1, v, min, max);
}

bool cfg_bool(struct cfg *c, const char *key, int64_t fallback)
{
    const json_t *v = get(c, key);
    return !v && fallback != CFG_REQUIRED ? fallback != 0 : one_bool(c, key, -1, v);
}

const char *cfg_str(struct cfg *c, const char *key, const char *fallback)
{
    const json_t *v = get(c, key);
    return !v && fallback ? fallback : one_str(c, key, -1, v);
}

int cfg_choice(struct cfg *c, const char *key, int64_t fallback, int n, const char *const *names)
{
    const json_t *v = get(c, key);
    if (!v && fallback != CFG_REQUIRED) return (int)fallback;
    for (int i = 0; json_is_string(v) && i < n; i++)
        if (!strcmp(json_string_value(v), names[i])) return i;
    char list[300] = "";
    for (int i = 0, at = 0; i < n && at < (int)sizeof list; i++)
        at += snprintf(list + at, sizeof list - (size_t)at, "%s\"%s\"", i ? ", " : "", names[i]);
    wrong(c, key, -1, v, "%s%s", n > 1 ? "one of " : "", list);
    return 0;
}

/* Number of values of a list or scalar, checked; 0 when the key is absent (an error where n_min > 0) or the count is
 * wrong. */
static int count(struct cfg *c, const char *key, const json_t *v, int n_min, int n_max)
{
    if (!v && n_min == 0) return 0;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (v && n >= (size_t)n_min && n <= (size_t)n_max) return (int)n;
    if (n_min == n_max)
        wrong(c, key, -1, v, "a list of %d", n_min);
    else
        wrong(c, key, -1, v, "a list of %d to %d", n_min, n_max);
    return 0;
}

/* Value i of a list or of a scalar, which is a list of one; its place for messages goes to *at. */
static const json_t *item(const json_t *v, int i, int *at)
{
    *at = json_is_array(v) ? i : -1;
    return json_is_array(v) ? json_array_get(v, (size_t)i) : v;
}

int cfg_ints(struct cfg *c, const char *key, int n_min, int n_max, int64_t *out, int64_t min, int64_t max)
{
    const json_t *v = get(c, key);
    int n = count(c, key, v, n_min, n_max), at;
    for (int i = 0; i < n; i++) {
        const json_t *x = item(v, i, &at);
        out[i] = one_int(c, key, at, x, min, max);
    }
    for (int i = n; i < n_min; i++) out[i] = clamp(0, min, max);
    return n < n_min ? n_min : n;
}

int cfg_floats(struct cfg *c, const char *key, int n_min, int n_max, double *out, double min, double max)
{
    const json_t *v = get(c, key);
    int n = count(c, key, v, n_min, n_max), at;
    for (int i = 0; i < n; i++) {
        const json_t *x = item(v, i, &at);
        out[i] = one_float(c, key, at, x, min, max);
    }
    for (int i = n; i < n_min; i++) out[i] = min > 0 ? min : max < 0 ? max : 0;
    return n < n_min ? n_min : n;
}

int cfg_strs(struct cfg *c, const char *key, int n_min, int n_max, const char **out)
{
    const json_t *v = get(c, key);
    int n = count(c, key, v, n_min, n_max), at;
    for (int i = 0; i < n; i++) {
        const json_t *x = item(v, i, &at);
        out[i] = one_str(c, key, at, x);
    }
    for (int i = n; i < n_min; i++) out[i] = "";
    return n < n_min ? n_min : n;
}

bool cfg_is_strs(const struct cfg *c, const char *key, int n)
{
    const json_t *v = get(c, key);
    if (!json_is_array(v) || json_array_size(v) != (size_t)n) return false;
    for (int i = 0; i < n; i++)
        if (!json_is_string(json_array_get(v, (size_t)i))) return false;
    return true;
}

void cfg_spread(struct cfg *c, const char *key, int n, int64_t *out, int64_t fallback, int64_t min, int64_t max)
{
    const json_t *v = get(c, key);
    if (json_is_array(v)) {
        cfg_ints(c, key, n, n, out, min, max);
        return;
    }
    int64_t all = cfg_int(c, key, fallback, min, max);
    for (int i = 0; i < n; i++) out[i] = all;
}

void cfg_spread_bools(struct cfg *c, const char *key, int n, bool *out, int64_t fallback)
{
    const json_t *v = get(c, key);
    int listed = json_is_array(v) ? count(c, key, v, n, n) : 0;
    bool all = json_is_array(v) ? false : cfg_bool(c, key, fallback);
    for (int i = 0; i < n; i++) out[i] = i < listed ? one_bool(c, key, i, json_array_get(v, (size_t)i)) : all;
}
