#include "lens/png.h"
#include "lens/outfile.h"

#include <limits.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

/* What libpng's callbacks need. One for each call, on its stack. */
struct job {
    const char *name; /* for messages */
    struct dl_err *e;
    enum dl_code code; /* of a libpng error */
    const uint8_t *in;
    uint8_t *out;
    int64_t at, bytes, room;
};

/* libpng requires these two not to return and to return. Its message names the chunk. */
static void on_error(png_structp png, png_const_charp why)
{
    struct job *j = png_get_error_ptr(png);
    if (j->code == DL_EINPUT)
        dl_fail(j->e, j->code, "%s: not a PNG that can be read: %s (near byte %lld)", j->name, why, (long long)j->at);
    else
        dl_fail(j->e, j->code, "%s: no PNG can be made: %s", j->name, why);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp why)
{
    (void)png;
    (void)why;
}

static void on_write(png_structp png, png_bytep data, size_t n)
{
    struct job *j = png_get_io_ptr(png);
    if ((int64_t)n > j->room - j->bytes) {
        int64_t room = (j->bytes + (int64_t)n) * 2;
        uint8_t *more = realloc(j->out, (size_t)room);
        if (!more) png_error(png, "no memory");
        j->out = more;
        j->room = room;
    }
    memcpy(j->out + j->bytes, data, n);
    j->bytes += (int64_t)n;
}

static void on_flush(png_structp png) { (void)png; }

static void on_read(png_structp png, png_bytep data, size_t n)
{
    struct job *j = png_get_io_ptr(png);
    if ((int64_t)n > j->bytes - j->at) png_error(png, "the file ends early");
    memcpy(data, j->in + j->at, n);
    j->at += (int64_t)n;
}

/* Everything between png_create and png_destroy: libpng leaves it by longjmp, so nothing here may own memory. */
static int write_parts(png_structp png, png_infop info, const uint8_t *rgb, int w, int h, png_textp text, int n_text)
{
    if (setjmp(png_jmpbuf(png))) return -1;
    png_set_user_limits(png, DL_PNG_MAX_SIDE, DL_PNG_MAX_SIDE);
    png_set_IHDR(png, info, (png_uint_32)w, (png_uint_32)h, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png, 6);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, PNG_ALL_FILTERS);
    if (n_text) png_set_text(png, info, text, n_text);
    png_write_info(png, info);
    for (int y = 0; y < h; y++) png_write_row(png, rgb + (int64_t)y * w * 3);
    png_write_end(png, NULL);
    return 0;
}

static int encode(struct job *j, const uint8_t *rgb, int w, int h, const struct dl_png_text *text, int n_text)
{
    if (w < 1 || h < 1 || w > DL_PNG_MAX_SIDE || h > DL_PNG_MAX_SIDE)
        return dl_fail(j->e, DL_EFAIL, "%s: a PNG of %d x %d pixels cannot be made, 1 to %d a side can", j->name, w, h,
                       DL_PNG_MAX_SIDE);
    png_textp t = calloc((size_t)n_text + 1, sizeof *t);
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, j, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    int rc = -1;
    if (t && info) {
        for (int i = 0; i < n_text; i++) {
            /* Short text stays legible in the file; a prompt of 100 KB in thousands of images should cost little. */
            size_t n = strlen(text[i].value);
            t[i] = (png_text){.compression = n > 4096 ? PNG_ITXT_COMPRESSION_zTXt : PNG_ITXT_COMPRESSION_NONE,
                              .key = (char *)text[i].key,
                              .text = (char *)text[i].value,
                              .itxt_length = n,
                              .lang = "",
                              .lang_key = ""};
        }
        png_set_write_fn(png, j, on_write, on_flush);
        rc = write_parts(png, info, rgb, w, h, t, n_text);
    } else {
        dl_fail(j->e, DL_ENOMEM, "%s: no memory", j->name);
    }
    png_destroy_write_struct(&png, &info);
    free(t);
    return rc;
}

static int encode_named(const char *name, const uint8_t *rgb, int w, int h, const struct dl_png_text *text, int n_text,
                        uint8_t **data, int64_t *bytes, struct dl_err *e)
{
    struct job j = {.name = name, .e = e, .code = DL_EFAIL};
    if (encode(&j, rgb, w, h, text, n_text)) {
        free(j.out);
        *data = NULL;
        return -1;
    }
    *data = j.out;
    *bytes = j.bytes;
    return 0;
}

int dl_png_encode(const uint8_t *rgb, int w, int h, const struct dl_png_text *text, int n_text, uint8_t **data,
                  int64_t *bytes, struct dl_err *e)
{
    return encode_named("picture", rgb, w, h, text, n_text, data, bytes, e);
}

int dl_png_write(const char *path, const uint8_t *rgb, int w, int h, const struct dl_png_text *text, int n_text,
                 struct dl_err *e)
{
    uint8_t *data;
    int64_t bytes;
    if (encode_named(path, rgb, w, h, text, n_text, &data, &bytes, e)) return -1;
    int rc = outfile_write(path, data, bytes, e);
    free(data);
    return rc;
}

static int read_head(png_structp png, png_infop info, struct dl_png *p, int64_t file_bytes)
{
    if (setjmp(png_jmpbuf(png))) return -1;
    png_set_user_limits(png, DL_PNG_MAX_SIDE, DL_PNG_MAX_SIDE);
    png_set_chunk_malloc_max(png, DL_PNG_MAX_TEXT);
    png_set_chunk_cache_max(png, 64);
    png_read_info(png, info);
    p->w = (int)png_get_image_width(png, info);
    p->h = (int)png_get_image_height(png, info);
    if ((int64_t)p->w * p->h > DL_PNG_MAX_PIXELS) png_error(png, "too many pixels");
    /* Deflate packs no better than 1032 to 1, so a few bytes cannot make us take memory for a vast picture. */
    if ((int64_t)png_get_rowbytes(png, info) * p->h > file_bytes * 1032)
        png_error(png, "more pixels than its bytes hold");
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_color_16 white = {.red = 255, .green = 255, .blue = 255, .gray = 255};
    png_set_background(png, &white, PNG_BACKGROUND_GAMMA_SCREEN, 0, 1.0);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != (size_t)p->w * 3) png_error(png, "the pixels are not RGB");
    return 0;
}

static int read_pixels(png_structp png, png_infop info, png_bytep *row)
{
    if (setjmp(png_jmpbuf(png))) return -1;
    png_read_image(png, row);
    png_read_end(png, info);
    return 0;
}

static int keep_text(struct dl_png *p, png_structp png, png_infop info)
{
    png_textp t = NULL;
    int n = 0;
    png_get_text(png, info, &t, &n);
    p->text = calloc((size_t)n + 1, sizeof *p->text);
    if (!p->text) return -1;
    for (int i = 0; i < n; i++) {
        char *key = strdup(t[i].key), *value = strdup(t[i].text ? t[i].text : "");
        p->text[p->n_text++] = (struct dl_png_text){key, value};
        if (!key || !value) return -1;
    }
    return 0;
}

/* Walks over the chunks to the last one, IEND. libpng takes the memory for a chunk that a header names before it knows
 * whether the file has so many bytes. */
static int check_chunks(const uint8_t *data, int64_t bytes, const char *name, struct dl_err *e)
{
    if (bytes < 8 || png_sig_cmp(data, 0, 8)) return dl_fail(e, DL_EINPUT, "%s: this is not a PNG file", name);
    for (int64_t at = 8; bytes - at >= 12;) {
        int64_t n = (int64_t)png_get_uint_32(data + at);
        if (n > bytes - at - 12)
            return dl_fail(e, DL_EINPUT, "%s: the chunk at byte %lld says %lld bytes, and the file ends before", name,
                           (long long)at, (long long)n);
        if (!memcmp(data + at + 4, "IEND", 4)) return 0;
        at += 12 + n;
    }
    return dl_fail(e, DL_EINPUT, "%s: the file of %lld bytes ends early", name, (long long)bytes);
}

int dl_png_decode(struct dl_png *p, const uint8_t *data, int64_t bytes, const char *name, struct dl_err *e)
{
    *p = (struct dl_png){0};
    if (check_chunks(data, bytes, name, e)) return -1;
    struct job j = {.name = name, .e = e, .code = DL_EINPUT, .in = data, .bytes = bytes};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    png_bytep *row = NULL;
    int rc = -1;
    if (!info) {
        dl_fail(e, DL_ENOMEM, "%s: no memory", name);
    } else {
        png_set_read_fn(png, &j, on_read);
        rc = read_head(png, info, p, bytes);
        if (!rc) {
            row = malloc((size_t)p->h * sizeof *row);
            p->rgb = malloc((size_t)p->w * (size_t)p->h * 3);
            if (!row || !p->rgb) rc = dl_fail(e, DL_ENOMEM, "%s: no memory for %d x %d pixels", name, p->w, p->h);
            for (int y = 0; !rc && y < p->h; y++) row[y] = p->rgb + (int64_t)y * p->w * 3;
        }
        if (!rc) rc = read_pixels(png, info, row);
        if (!rc && keep_text(p, png, info)) rc = dl_fail(e, DL_ENOMEM, "%s: no memory for its text", name);
    }
    png_destroy_read_struct(&png, &info, NULL);
    free(row);
    if (rc) dl_png_close(p);
    return rc;
}

int dl_png_read(struct dl_png *p, const char *path, struct dl_err *e)
{
    *p = (struct dl_png){0};
    uint8_t *data;
    int64_t bytes;
    if (outfile_read(path, DL_PNG_MAX_FILE, &data, &bytes, e)) return -1;
    int rc = dl_png_decode(p, data, bytes, path, e);
    free(data);
    return rc;
}

void dl_png_close(struct dl_png *p)
{
    for (int i = 0; i < p->n_text; i++) {
        free((char *)p->text[i].key);
        free((char *)p->text[i].value);
    }
    free(p->text);
    free(p->rgb);
    *p = (struct dl_png){0};
}

const char *dl_png_find(const struct dl_png *p, const char *key)
{
    for (int i = 0; i < p->n_text; i++)
        if (!strcmp(p->text[i].key, key)) return p->text[i].value;
    return NULL;
}
