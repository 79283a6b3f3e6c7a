/* Any bytes as a picture: decoded whole within the limits or refused, and what was decoded can be encoded and decoded
 * to the same pixels and texts. */
#include "lens/png.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct dl_png p, again;
    struct dl_err e = {0};
    if (dl_png_decode(&p, data, (int64_t)n, "fuzz", &e)) {
        CHECK(!p.rgb && !p.text && e.code && *e.msg);
        return 0;
    }
    CHECK(p.rgb && p.w > 0 && p.h > 0 && p.w <= DL_PNG_MAX_SIDE && p.h <= DL_PNG_MAX_SIDE);
    CHECK((int64_t)p.w * p.h <= DL_PNG_MAX_PIXELS);
    for (int i = 0; i < p.n_text; i++) CHECK(dl_png_find(&p, p.text[i].key));
    if ((int64_t)p.w * p.h <= 1 << 16) {
        const struct dl_png_text text = {"dlens", "{}"};
        uint8_t *file;
        int64_t bytes;
        CHECK(!dl_png_encode(p.rgb, p.w, p.h, &text, 1, &file, &bytes, &e));
        CHECK(!dl_png_decode(&again, file, bytes, "again", &e));
        CHECK(again.w == p.w && again.h == p.h && !memcmp(again.rgb, p.rgb, (size_t)p.w * (size_t)p.h * 3));
        CHECK(dl_png_find(&again, "dlens") && !strcmp(dl_png_find(&again, "dlens"), "{}"));
        dl_png_close(&again);
        free(file);
    }
    dl_png_close(&p);
    return 0;
}
