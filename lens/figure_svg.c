/* Writing a page as SVG. cairo's own SVG turns text into outlines; here it stays text, which can be searched and
 * edited. See figure_page.h. */
#include "lens/figure_page.h"
#include "lens/png.h"

#include <stdlib.h>

/* Whatever the locale: with a point, two digits, none for whole numbers. */
static void number(GString *out, const char *name, double x)
{
    char digits[G_ASCII_DTOSTR_BUF_SIZE];
    g_ascii_formatd(digits, sizeof digits, x == (double)(gint64)x ? "%.0f" : "%.2f", x);
    g_string_append_printf(out, " %s=\"%s\"", name, digits);
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

static void line(GString *out, const struct page_line *t)
{
    if (!*t->text) return;
    g_string_append(out, "<text");
    number(out, "x", t->x + t->w / 2);
    number(out, "y", t->y);
    number(out, "font-size", t->size_px);
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
    g_string_append(out, "<g font-family=\"" FIGURE_FONTS "\" text-anchor=\"middle\" xml:space=\"preserve\">\n");
    for (int i = 0; i < p->n_lines; i++) line(out, &p->line[i]);
    g_string_append(out, "</g>\n</svg>\n");
    *bytes = (int64_t)out->len;
    *data = (uint8_t *)g_string_free(out, rc != 0);
    return rc;
}
