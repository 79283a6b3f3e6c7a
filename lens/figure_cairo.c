/* Painting a page with cairo, to PNG and PDF. See figure_page.h. */
#include "lens/figure_page.h"
#include "lens/png.h"

#include <cairo-pdf.h>
#include <stdlib.h>
#include <string.h>

static void colour(cairo_t *cr, unsigned rgb, double opacity)
{
    cairo_set_source_rgba(cr, (rgb >> 16 & 255) / 255.0, (rgb >> 8 & 255) / 255.0, (rgb & 255) / 255.0, opacity);
}

static void paint_picture(cairo_t *cr, const struct page_picture *pic, bool pixels)
{
    cairo_save(cr);
    if (!pic->rgb) {
        colour(cr, 0xb0b0b0, 1);
        cairo_set_line_width(cr, 1);
        cairo_rectangle(cr, pic->x + 0.5, pic->y + 0.5, pic->box_w - 1, pic->box_h - 1);
        cairo_stroke(cr);
        cairo_restore(cr);
        return;
    }
    cairo_surface_t *s = cairo_image_surface_create(CAIRO_FORMAT_RGB24, pic->w, pic->h);
    unsigned char *data = cairo_image_surface_get_data(s);
    int stride = cairo_image_surface_get_stride(s);
    for (int y = 0; data && y < pic->h; y++)
        for (int x = 0; x < pic->w; x++) {
            const uint8_t *p = pic->rgb + ((int64_t)y * pic->w + x) * 3;
            uint32_t v = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
            memcpy(data + (int64_t)y * stride + x * 4, &v, 4);
        }
    cairo_surface_mark_dirty(s);
    bool reduced = pic->box_w < pic->w || pic->box_h < pic->h;
    cairo_translate(cr, pic->x, pic->y);
    cairo_scale(cr, pic->box_w / pic->w, pic->box_h / pic->h);
    cairo_set_source_surface(cr, s, 0, 0);
    cairo_pattern_set_filter(cairo_get_source(cr), reduced ? CAIRO_FILTER_GOOD : CAIRO_FILTER_NEAREST);
    /* Without this the border pixels of a reduced picture fade into the page. PDF reduces nothing, and cairo would
     * embed a wider picture there. */
    if (pixels) cairo_pattern_set_extend(cairo_get_source(cr), CAIRO_EXTEND_PAD);
    cairo_rectangle(cr, 0, 0, pic->w, pic->h);
    cairo_fill(cr);
    cairo_surface_destroy(s);
    cairo_restore(cr);
}

static void paint_shape(cairo_t *cr, const struct page_shape *s)
{
    cairo_new_path(cr);
    if (s->form == PAGE_CIRCLE) {
        cairo_arc(cr, s->xy[0], s->xy[1], s->radius, 0, 2 * G_PI);
    } else {
        for (int i = 0; i < s->n; i++) cairo_line_to(cr, s->xy[2 * i], s->xy[2 * i + 1]);
    }
    if (s->form != PAGE_POLYLINE) cairo_close_path(cr);
    if (s->opacity > 0) {
        colour(cr, s->fill, s->opacity);
        cairo_fill_preserve(cr);
    }
    if (s->stroke_w > 0) {
        colour(cr, s->stroke, 1);
        cairo_set_line_width(cr, s->stroke_w);
        cairo_set_line_join(cr, CAIRO_LINE_JOIN_ROUND);
        cairo_set_line_cap(cr, CAIRO_LINE_CAP_ROUND);
        cairo_stroke(cr);
    }
    cairo_new_path(cr);
}

static void paint(cairo_t *cr, const struct page *p, bool pixels)
{
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_paint(cr);
    for (int i = 0; i < p->n_pictures; i++) paint_picture(cr, &p->picture[i], pixels);
    for (int i = 0; i < p->n_shapes; i++) paint_shape(cr, &p->shape[i]);
    for (int i = 0; i < p->n_lines; i++) {
        colour(cr, p->line[i].colour, 1);
        cairo_move_to(cr, p->line[i].x, p->line[i].y);
        pango_cairo_show_layout_line(cr, p->line[i].line);
    }
}

int page_png(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e)
{
    if (p->w > DL_PNG_MAX_SIDE || p->h > DL_PNG_MAX_SIDE || p->w * p->h > DL_PNG_MAX_PIXELS)
        return dl_fail(
            e, DL_EUSAGE,
            "%s: a figure of %.0f x %.0f pixels is too large for PNG; give smaller cells (--cell), or a name "
            "that ends in .pdf or .svg",
            name, p->w, p->h);
    int w = (int)p->w, h = (int)p->h;
    cairo_surface_t *s = cairo_image_surface_create(CAIRO_FORMAT_RGB24, w, h);
    cairo_t *cr = cairo_create(s);
    paint(cr, p, true);
    cairo_status_t why = cairo_status(cr);
    cairo_destroy(cr);
    cairo_surface_flush(s);
    uint8_t *rgb = why ? NULL : malloc((size_t)w * (size_t)h * 3);
    int rc = why    ? dl_fail(e, DL_EFAIL, "%s: the figure cannot be drawn: %s", name, cairo_status_to_string(why))
             : !rgb ? dl_fail(e, DL_ENOMEM, "%s: no memory for a figure of %d x %d pixels", name, w, h)
                    : 0;
    const unsigned char *from = cairo_image_surface_get_data(s);
    int stride = cairo_image_surface_get_stride(s);
    for (int y = 0; !rc && y < h; y++)
        for (int x = 0; x < w; x++) {
            uint32_t v;
            memcpy(&v, from + (int64_t)y * stride + x * 4, 4);
            uint8_t *to = rgb + ((int64_t)y * w + x) * 3;
            to[0] = (uint8_t)(v >> 16);
            to[1] = (uint8_t)(v >> 8);
            to[2] = (uint8_t)v;
        }
    struct dl_png_text title = {"Title", p->title};
    if (!rc) rc = dl_png_encode(rgb, w, h, &title, *p->title ? 1 : 0, data, bytes, e);
    free(rgb);
    cairo_surface_destroy(s);
    return rc;
}

static cairo_status_t collect(void *to, const unsigned char *data, unsigned n)
{
    g_byte_array_append(to, data, n);
    return CAIRO_STATUS_SUCCESS;
}

int page_pdf(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e)
{
    const double points = 72.0 / 96.0; /* of a pixel */
    /* Readers of PDF need not show a page of more than 200 inches. */
    if (p->w * points > 14400 || p->h * points > 14400)
        return dl_fail(e, DL_EUSAGE,
                       "%s: a figure of %.0f x %.0f pixels is too large for PDF; give smaller cells (--cell)", name,
                       p->w, p->h);
    GByteArray *out = g_byte_array_new();
    cairo_surface_t *s = cairo_pdf_surface_create_for_stream(collect, out, p->w * points, p->h * points);
    cairo_pdf_surface_set_metadata(s, CAIRO_PDF_METADATA_CREATE_DATE, ""); /* same figure, same bytes */
    cairo_pdf_surface_set_metadata(s, CAIRO_PDF_METADATA_TITLE, p->title);
    cairo_t *cr = cairo_create(s);
    cairo_scale(cr, points, points);
    paint(cr, p, false);
    cairo_show_page(cr);
    cairo_status_t why = cairo_status(cr);
    cairo_destroy(cr);
    cairo_surface_finish(s);
    if (!why) why = cairo_surface_status(s);
    cairo_surface_destroy(s);
    *bytes = out->len;
    *data = g_byte_array_free(out, why != CAIRO_STATUS_SUCCESS);
    if (!why) return 0;
    *data = NULL;
    return dl_fail(e, DL_EFAIL, "%s: the figure cannot be drawn: %s", name, cairo_status_to_string(why));
}
