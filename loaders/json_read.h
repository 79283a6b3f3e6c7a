/* json_read.h: reads distrusted JSON with jansson, within limits: at most 64 levels deep, no key twice, one value,
 * UTF-8 (a byte order mark is skipped). For the loaders themselves; models read their configs through config.h.
 */
#ifndef JS_JSON_READ_H
#define JS_JSON_READ_H

#include "engine/err.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum { JS_MAX_DEPTH = 64 };

/* Reads a regular file of at most max bytes into *out, [*n] bytes and a 0 after them, to be freed. */
int js_slurp(const char *path, int64_t max, char **out, size_t *n, struct dl_err *e);

/* Parses n bytes; label stands before the message, which names the line or byte. NULL on failure. */
json_t *js_parse(const void *buf, size_t n, const char *label, struct dl_err *e);
/* The same from a file of at most max bytes. */
json_t *js_open(const char *path, int64_t max, struct dl_err *e);

/* Says in a few words what a value is, for messages: "the string \"abc\"", "3", "a list of 4", "nothing" (NULL). */
const char *js_describe(const json_t *v, char *out, size_t cap);

#endif
