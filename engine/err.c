#include "engine/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void clean(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f) *s = '?';
}

int dl_fail(struct dl_err *e, enum dl_code code, const char *fmt, ...)
{
    if (!e || e->code) return -1;
    e->code = code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    clean(e->msg);
    return -1;
}

int dl_fail_in(struct dl_err *e, const char *fmt, ...)
{
    if (!e) return -1;
    char head[sizeof e->msg], old[sizeof e->msg];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    clean(head);
    int n = snprintf(e->msg, sizeof e->msg, "%s: ", head);
    if (n >= 0 && (size_t)n < sizeof e->msg) strncpy(e->msg + n, old, sizeof e->msg - 1 - (size_t)n);
    return -1;
}
