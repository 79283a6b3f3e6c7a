/* base64.h: base64 (RFC 4648) by the book, a bit at a time, for what tests expect. */
#ifndef TESTS_BASE64_H
#define TESTS_BASE64_H

#include <stdint.h>
#include <stdlib.h>

/* data [bytes] as text, the caller's; NULL without memory. */
static inline char *base64(const uint8_t *data, int64_t bytes)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = malloc((size_t)(bytes * 4 / 3 + 8)), *to = out;
    if (!out) return NULL;
    for (int64_t bit = 0; bit < bytes * 8; bit += 6) {
        int v = 0;
        for (int64_t b = bit; b < bit + 6; b++) v = v << 1 | (b < bytes * 8 ? data[b / 8] >> (7 - b % 8) & 1 : 0);
        *to++ = digit[v];
    }
    while ((to - out) % 4) *to++ = '=';
    *to = 0;
    return out;
}

#endif
