/* Fuzz target of the caption cleaning: the input is a caption. Seeds: tests/fuzz/corpus/caption. What must hold: no
 * crash; what comes out is UTF-8; what is not UTF-8 is refused. */
#include "loaders/caption_clean.h"
#include "loaders/html_text.h"
#include "loaders/text_clean.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void expect_utf8(const char *s, size_t n)
{
    struct text_u32 t = {0};
    if (s[n] || text_decode(&t, s, n, NULL) < 0) abort();
    text_free(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dl_err e = {0};
    char *text = malloc(size + 1), *out; /* a copy of its own, so that reading past the end shows */
    size_t n;
    if (!text) abort();
    memcpy(text, data, size);
    text = realloc(text, size ? size : 1);
    if (caption_lower(text, size, &out, &n, &e) == 0) {
        expect_utf8(out, n);
        free(out);
        if (caption_clean(text, size, &out, &n, &e) == 0) {
            expect_utf8(out, n);
            free(out);
        } else if (!e.code || out) {
            abort();
        }
        if (html_unescape(text, size, &out, &n, &e) < 0) abort();
        expect_utf8(out, n);
        free(out);
    } else if (e.code != DL_EUSAGE || out) {
        abort();
    }
    free(text);
    return 0;
}
