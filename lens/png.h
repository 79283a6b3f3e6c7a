/* png.h: pictures as PNG files, 8 bits a channel, RGB, with text in them.
 *
 * The text pairs go into iTXt chunks (UTF-8). dlens writes two: "dlens", the settings that made the picture as JSON
 * (manifest.h makes it), and "prompt". The same picture and text give the same bytes: fixed compression level and
 * filters, no time.
 *
 * Reading takes any PNG (palette, grey, 16 bits, alpha over white) and distrusts it: at most DL_PNG_MAX_SIDE pixels
 * a side, DL_PNG_MAX_PIXELS in all, DL_PNG_MAX_FILE bytes, DL_PNG_MAX_TEXT bytes of one text; what libpng calls an
 * error is DL_EINPUT and names the file. A picture is read to its end chunk: success means that the file is complete.
 */
#ifndef LENS_PNG_H
#define LENS_PNG_H

#include "engine/err.h"

#include <stdint.h>

enum { DL_PNG_MAX_SIDE = 32767, DL_PNG_MAX_PIXELS = 1 << 28, DL_PNG_MAX_FILE = 1 << 30, DL_PNG_MAX_TEXT = 1 << 24 };

struct dl_png_text {
    const char *key;   /* 1 to 79 bytes of ASCII */
    const char *value; /* UTF-8 */
};

struct dl_png {
    uint8_t *rgb;             /* [h][w][3]; owned */
    int w, h;                 /* pixels */
    struct dl_png_text *text; /* [n_text] iTXt, tEXt and zTXt in the file's order; owned */
    int n_text;
};

/* rgb [h][w][3] to the bytes of a PNG file, *data owned by the caller. */
int dl_png_encode(const uint8_t *rgb, int w, int h, const struct dl_png_text *text, int n_text, uint8_t **data,
                  int64_t *bytes, struct dl_err *e);
/* The same to a file (outfile.h: complete or not there). */
int dl_png_write(const char *path, const uint8_t *rgb, int w, int h, const struct dl_png_text *text, int n_text,
                 struct dl_err *e);

/* `name` stands in messages. */
int dl_png_decode(struct dl_png *p, const uint8_t *data, int64_t bytes, const char *name, struct dl_err *e);
int dl_png_read(struct dl_png *p, const char *path, struct dl_err *e);
void dl_png_close(struct dl_png *p); /* a zeroed struct is fine */

/* The value of the first text of that key, or NULL. */
const char *dl_png_find(const struct dl_png *p, const char *key);

#endif
