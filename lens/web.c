#include "lens/web.h"
#include "lens/outfile.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct web {
    struct outfile *file; /* NULL: the page is only counted */
    int64_t bytes, max_bytes;
    bool full;
    struct dl_err failed; /* code 0: not yet */
    size_t n;             /* bytes in buf */
    uint8_t buf[1 << 16];
};

int web_open(struct web **out, const char *path, int64_t max_bytes, struct dl_err *e)
{
    *out = NULL;
    struct web *to = malloc(sizeof *to);
    if (!to) return dl_fail(e, DL_ENOMEM, "no memory for a page");
    to->file = NULL, to->bytes = 0, to->n = 0, to->max_bytes = max_bytes, to->full = false;
    to->failed = (struct dl_err){0};
    if (path && outfile_open(&to->file, path, e)) {
        free(to);
        return -1;
    }
    *out = to;
    return 0;
}

static bool is_failed(const struct web *to) { return to->full || to->failed.code != DL_OK; }

static void flush(struct web *to)
{
    if (to->file && !is_failed(to)) outfile_append(to->file, to->buf, (int64_t)to->n, &to->failed);
    to->n = 0;
}

int web_close(struct web *to, int64_t *bytes, struct dl_err *e)
{
    flush(to);
    *bytes = to->bytes;
    int rc = to->full          ? dl_fail(e, DL_EUSAGE, "the page is larger than %lld bytes", (long long)to->max_bytes)
             : to->failed.code ? dl_fail(e, to->failed.code, "%s", to->failed.msg)
                               : 0;
    if (rc || !to->file) {
        web_abandon(to);
        return rc;
    }
    rc = outfile_commit(to->file, e);
    free(to);
    return rc;
}

void web_abandon(struct web *to)
{
    if (!to) return;
    outfile_abandon(to->file);
    free(to);
}

bool web_is_full(const struct web *to) { return to->full; }

void web_skip(struct web *to, int64_t bytes)
{
    to->bytes += bytes;
    if (to->bytes > to->max_bytes) to->full = true;
}

void web_raw(struct web *to, const void *data, int64_t bytes)
{
    web_skip(to, bytes);
    for (const uint8_t *at = data; to->file && bytes > 0 && !is_failed(to);) {
        size_t room = sizeof to->buf - to->n, n = (int64_t)room < bytes ? room : (size_t)bytes;
        memcpy(to->buf + to->n, at, n);
        to->n += n, at += n, bytes -= (int64_t)n;
        if (to->n == sizeof to->buf) flush(to);
    }
}

void web_put(struct web *to, const char *markup) { web_raw(to, markup, (int64_t)strlen(markup)); }

void web_putf(struct web *to, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    web_put(to, text);
}

/* What stands for a byte in HTML text, or NULL: itself. A carriage return would come back as a line feed. */
static const char *escape_of(char c)
{
    switch (c) {
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '&': return "&amp;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    case '\r': return "&#13;";
    case '\n':
    case '\t': return NULL;
    default: return (unsigned char)c < 0x20 || c == 0x7f ? "\xef\xbf\xbd" : NULL;
    }
}

void web_text_part(struct web *to, const char *text, int64_t bytes)
{
    int64_t from = 0;
    for (int64_t i = 0; i < bytes; i++) {
        const char *escape = escape_of(text[i]);
        if (!escape) continue;
        web_raw(to, text + from, i - from);
        web_put(to, escape);
        from = i + 1;
    }
    web_raw(to, text + from, bytes - from);
}

void web_text(struct web *to, const char *text) { web_text_part(to, text, (int64_t)strlen(text)); }

/* In JSON these three stand in strings alone, where an escape means the same. */
static int put_json(const char *text, size_t bytes, void *user)
{
    struct web *to = user;
    size_t from = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (!strchr("<>&", text[i]) || !text[i]) continue;
        web_raw(to, text + from, (int64_t)(i - from));
        web_putf(to, "\\u%04x", (unsigned)text[i]);
        from = i + 1;
    }
    web_raw(to, text + from, (int64_t)(bytes - from));
    return 0;
}

void web_json(struct web *to, const json_t *j)
{
    if (json_dump_callback(j, put_json, to, JSON_COMPACT | JSON_ENSURE_ASCII) && !to->failed.code)
        dl_fail(&to->failed, DL_ENOMEM, "no memory for a page's data");
}

void web_base64(struct web *to, const uint8_t *data, int64_t bytes)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char out[4096];
    size_t n = 0;
    for (int64_t i = 0; i < bytes; i += 3) {
        int left = bytes - i < 3 ? (int)(bytes - i) : 3;
        unsigned v =
            (unsigned)data[i] << 16 | (left > 1 ? (unsigned)data[i + 1] << 8 : 0) | (left > 2 ? data[i + 2] : 0);
        out[n++] = digit[v >> 18];
        out[n++] = digit[v >> 12 & 63];
        out[n++] = left > 1 ? digit[v >> 6 & 63] : '=';
        out[n++] = left > 2 ? digit[v & 63] : '=';
        if (n == sizeof out) web_raw(to, out, (int64_t)n), n = 0;
    }
    web_raw(to, out, (int64_t)n);
}
