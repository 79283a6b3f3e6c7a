/* web.h: an HTML page, written piece by piece to a file that need not fit into memory.
 *
 * Every text that is not ours goes through web_text or web_json, which leave nothing in it that a browser could take
 * for markup. The first failure stays: later calls do nothing and web_close tells it, so nobody checks in between.
 * A page may also be counted only (path NULL), to know how large it would be.
 */
#ifndef LENS_WEB_H
#define LENS_WEB_H

#include "engine/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct web;

/* `max_bytes`: a page that grows beyond it is given up (web_is_full). The file is outfile.h's: complete or not there.
 */
int web_open(struct web **to, const char *path, int64_t max_bytes, struct dl_err *e);
/* 0: the file is there. Frees. *bytes is the size, also of a page that was only counted. */
int web_close(struct web *to, int64_t *bytes, struct dl_err *e);
void web_abandon(struct web *to); /* in the place of web_close; NULL is fine */

/* Whether the page has become larger than it may be: web_close will fail. */
bool web_is_full(const struct web *to);

/* Markup of ours, as it is. */
void web_raw(struct web *to, const void *data, int64_t bytes);
void web_put(struct web *to, const char *markup);
void web_putf(struct web *to, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* at most 511 bytes */

/* Text [bytes] of UTF-8, for an element's content or an attribute in double quotes. Control characters that HTML
 * forbids become U+FFFD. */
void web_text(struct web *to, const char *text);
void web_text_part(struct web *to, const char *text, int64_t bytes);

/* JSON for <script type="application/json">: ASCII, without "<", ">" and "&", which are escaped in its strings. */
void web_json(struct web *to, const json_t *j);

void web_base64(struct web *to, const uint8_t *data, int64_t bytes);

/* Counts bytes that are not written. */
void web_skip(struct web *to, int64_t bytes);

#endif
