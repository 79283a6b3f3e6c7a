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
    size_t n = strlen(head), room = sizeof e->msg - 1;
    memcpy(e->msg, head, n);
    for (const char *s = ": "; *s && n < room; s++) e->msg[n++] = *s;
    for (const char *s = old; *s && n < room; s++) e->msg[n++] = *s;
    e->msg[n] = 0;
    return -1;
}
