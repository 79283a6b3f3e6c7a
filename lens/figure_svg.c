/* Writing a page as SVG. cairo's own SVG turns text into outlines; here it stays text, which can be searched and
 * edited. See figure_page.h. */
#include "lens/figure_page.h"
#include "lens/png.h"

#include <stdlib.h>

/* Whatever the locale: with a point, two digits, none for whole numbers. */
static char *written(char digits[G_ASCII_DTOSTR_BUF_SIZE], double x)
{
    return g_ascii_formatd(digits, G_ASCII_DTOSTR_BUF_SIZE, x == (double)(gint64)x ? "%.0f" : "%.2f", x);
}

static void number(GString *out, const char *name, double x)
{
    char digits[G_ASCII_DTOSTR_BUF_SIZE];
    g_string_append_printf(out, " %s=\"%s\"", name, written(digits, x));
}

static void escaped(GString *out, const char *text)
{
    char *s = g_markup_escape_text(text, -1);
    g_string_append(out, s);
    g_free(s);
}

static int picture(GString *out, const struct page_picture *pic, const char *name, struct dl_err *e)
{
    if (!pic->rgb) {
        g_string_append(out, "<rect");
        number(out, "x", pic->x + 0.5);
        number(out, "y", pic->y + 0.5);
        number(out, "width", pic->box_w - 1);
        number(out, "height", pic->box_h - 1);
        g_string_append(out, " fill=\"none\" stroke=\"#b0b0b0\"/>\n");
        return 0;
    }
    uint8_t *png;
    int64_t bytes;
    if (dl_png_encode(pic->rgb, pic->w, pic->h, NULL, 0, &png, &bytes, e)) return dl_fail_in(e, "%s", name);
    g_string_append(out, "<image");
    number(out, "x", pic->x);
    number(out, "y", pic->y);
    number(out, "width", pic->box_w);
    number(out, "height", pic->box_h);
    char *base64 = g_base64_encode(png, (gsize)bytes);
    g_string_append(out, " preserveAspectRatio=\"none\" xlink:href=\"data:image/png;base64,");
    g_string_append(out, base64);
    g_string_append(out, "\"/>\n");
    g_free(base64);
    free(png);
    return 0;
}

static void shape(GString *out, const struct page_shape *s)
{
    static const char *const name[] = {"polyline", "polygon", "circle"};
    g_string_append_printf(out, "<%s", name[s->form]);
    if (s->form == PAGE_CIRCLE) {
        number(out, "cx", s->xy[0]);
        number(out, "cy", s->xy[1]);
        number(out, "r", s->radius);
    } else {
        g_string_append(out, " points=\"");
        for (int i = 0; i < s->n; i++) {
            char x[G_ASCII_DTOSTR_BUF_SIZE], y[G_ASCII_DTOSTR_BUF_SIZE];
            g_string_append_printf(out, "%s%s,%s", i ? " " : "", written(x, s->xy[2 * i]),
                                   written(y, s->xy[2 * i + 1]));
        }
        g_string_append(out, "\"");
    }
    if (s->opacity > 0)
        g_string_append_printf(out, " fill=\"#%06x\"", s->fill);
    else
        g_string_append(out, " fill=\"none\"");
    if (s->opacity > 0 && s->opacity < 1) number(out, "fill-opacity", s->opacity);
    if (s->stroke_w > 0) {
        g_string_append_printf(out, " stroke=\"#%06x\"", s->stroke);
        number(out, "stroke-width", s->stroke_w);
    }
    g_string_append(out, "/>\n");
}

static void line(GString *out, const struct page_line *t)
{
    if (!*t->text) return;
    g_string_append(out, "<text");
    number(out, "x", t->anchor == PAGE_LEFT ? t->x : t->anchor == PAGE_RIGHT ? t->x + t->w : t->x + t->w / 2);
    number(out, "y", t->y);
    number(out, "font-size", t->size_px);
    /* "start" is the right end of text that runs to the left. */
    if (t->anchor != PAGE_MIDDLE)
        g_string_append_printf(out, " text-anchor=\"%s\"", (t->anchor == PAGE_LEFT) != t->rtl ? "start" : "end");
    g_string_append_printf(out, " fill=\"#%06x\"%s>", t->colour, t->rtl ? " direction=\"rtl\"" : "");
    escaped(out, t->text);
    g_string_append(out, "</text>\n");
}

int page_svg(const struct page *p, const char *name, uint8_t **data, int64_t *bytes, struct dl_err *e)
{
    GString *out = g_string_new("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\""
                                " xmlns:xlink=\"http://www.w3.org/1999/xlink\"");
    number(out, "width", p->w);
    number(out, "height", p->h);
    g_string_append_printf(out, " viewBox=\"0 0 %.0f %.0f\">\n", p->w, p->h);
    if (*p->title) {
        g_string_append(out, "<title>");
        escaped(out, p->title);
        g_string_append(out, "</title>\n");
    }
    g_string_append(out, "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
    int rc = 0;
    for (int i = 0; !rc && i < p->n_pictures; i++) rc = picture(out, &p->picture[i], name, e);
    if (p->n_shapes) {
        g_string_append(out, "<g stroke-linejoin=\"round\" stroke-linecap=\"round\">\n");
        for (int i = 0; i < p->n_shapes; i++) shape(out, &p->shape[i]);
        g_string_append(out, "</g>\n");
    }
    g_string_append(out, "<g font-family=\"" FIGURE_FONTS "\" text-anchor=\"middle\" xml:space=\"preserve\">\n");
    for (int i = 0; i < p->n_lines; i++) line(out, &p->line[i]);
    g_string_append(out, "</g>\n</svg>\n");
    *bytes = (int64_t)out->len;
    *data = (uint8_t *)g_string_free(out, rc != 0);
    return rc;
}
