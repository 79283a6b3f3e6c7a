#include "loaders/json_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int js_slurp(const char *path, int64_t max, char **out, size_t *n, struct dl_err *e)
{
    *out = NULL, *n = 0;
    /* O_NONBLOCK: a named pipe must not make us wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return dl_fail(e, DL_EINPUT, "%s: cannot open: %s", path, strerror(errno));
    struct stat s;
    int rc = -1;
    char *buf = NULL;
    if (fstat(fd, &s)) {
        dl_fail(e, DL_EINPUT, "%s: cannot read: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(s.st_mode)) {
        dl_fail(e, DL_EINPUT, "%s: is not a file", path);
        goto out;
    }
    if (s.st_size > max) {
        dl_fail(e, DL_EINPUT, "%s: has %lld bytes, more than the %lld that such a file may have", path,
                (long long)s.st_size, (long long)max);
        goto out;
    }
    size_t size = (size_t)s.st_size, got = 0;
    buf = malloc(size + 1);
    if (!buf) {
        dl_fail(e, DL_ENOMEM, "%s: no memory for its %zu bytes", path, size);
        goto out;
    }
    while (got < size) {
        ssize_t k = read(fd, buf + got, size - got);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            dl_fail(e, DL_EINPUT, "%s: cannot read at byte %zu: %s", path, got, strerror(errno));
            goto out;
        }
        if (k == 0) break;
        got += (size_t)k;
    }
    buf[got] = 0;
    *out = buf, *n = got, buf = NULL, rc = 0;
out:
    free(buf);
    close(fd);
    return rc;
}

/* Byte at which the nesting goes too deep, or -1. jansson's own limit (2048) is for the stack; ours keeps every later
 * walk over the value shallow, too. */
static int64_t too_deep(const char *s, size_t n)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_string = false;
        } else if (s[i] == '"') {
            in_string = true;
        } else if (s[i] == '{' || s[i] == '[') {
            if (++depth > JS_MAX_DEPTH) return (int64_t)i;
        } else if (s[i] == '}' || s[i] == ']') {
            depth--;
        }
    }
    return -1;
}

json_t *js_parse(const void *buf, size_t n, const char *label, struct dl_err *e)
{
    const char *s = buf;
    if (n >= 3 && !memcmp(s, "\xef\xbb\xbf", 3)) s += 3, n -= 3;
    int64_t deep = too_deep(s, n);
    if (deep >= 0) {
        dl_fail(e, DL_EINPUT, "%s: JSON nested more than %d deep at byte %lld", label, JS_MAX_DEPTH, (long long)deep);
        return NULL;
    }
    json_error_t err;
    json_t *v = json_loadb(n ? s : "", n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &err);
    if (!v) {
        if (json_error_code(&err) == json_error_out_of_memory)
            dl_fail(e, DL_ENOMEM, "%s: no memory for its JSON", label);
        else
            dl_fail(e, DL_EINPUT, "%s: bad JSON in line %d, column %d (byte %d): %s", label, err.line, err.column,
                    err.position, err.text);
    }
    return v;
}

json_t *js_open(const char *path, int64_t max, struct dl_err *e)
{
    char *buf;
    size_t n;
    if (js_slurp(path, max, &buf, &n, e)) return NULL;
    json_t *v = js_parse(buf, n, path, e);
    free(buf);
    return v;
}

const char *js_describe(const json_t *v, char *out, size_t cap)
{
    switch (v ? (int)json_typeof(v) : -1) {
    case JSON_OBJECT: snprintf(out, cap, "an object of %zu keys", json_object_size(v)); break;
    case JSON_ARRAY: snprintf(out, cap, "a list of %zu", json_array_size(v)); break;
    case JSON_STRING: snprintf(out, cap, "the string \"%.60s\"", json_string_value(v)); break;
    case JSON_INTEGER: snprintf(out, cap, "%lld", (long long)json_integer_value(v)); break;
    case JSON_REAL: snprintf(out, cap, "%.9g", json_real_value(v)); break;
    case JSON_TRUE: snprintf(out, cap, "true"); break;
    case JSON_FALSE: snprintf(out, cap, "false"); break;
    case JSON_NULL: snprintf(out, cap, "null"); break;
    default: snprintf(out, cap, "nothing"); break;
    }
    return out;
}
