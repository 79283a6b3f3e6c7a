/* Setting text on a page. See figure_page.h. */
#include "lens/figure_page.h"

#include <math.h>
#include <string.h>

enum { TEXT_MAX_BYTES = 6000 }; /* of one text; no figure has room for more */

char *page_text_clean(const char *s)
{
    size_t n = strnlen(s, TEXT_MAX_BYTES + 1);
    bool cut = n > TEXT_MAX_BYTES;
    if (cut)
        for (n = TEXT_MAX_BYTES; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80;) n--;
    char *valid = g_utf8_make_valid(s, (gssize)n);
    GString *out = g_string_sized_new(n + 4);
    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        if (g_unichar_iscntrl(c) || c == 0x2028 || c == 0x2029)
            c = ' ';
        else if ((c & 0xfffe) == 0xfffe)
            c = 0xfffd;
        g_string_append_unichar(out, c);
    }
    g_free(valid);
    if (cut) g_string_append(out, "\xe2\x80\xa6");
    return g_string_free(out, FALSE);
}

PangoLayout *page_text(struct page *p, const char *text, double size_px, double width)
{
    PangoLayout *l = pango_layout_new(p->pango);
    PangoFontDescription *font = pango_font_description_new();
    pango_font_description_set_family_static(font, FIGURE_FONTS);
    pango_font_description_set_absolute_size(font, size_px * PANGO_SCALE);
    pango_layout_set_font_description(l, font);
    pango_font_description_free(font);
    pango_layout_set_alignment(l, PANGO_ALIGN_CENTER);
    pango_layout_set_wrap(l, PANGO_WRAP_WORD_CHAR);
    PangoAttrList *as = pango_attr_list_new();
    pango_attr_list_insert(as, pango_attr_insert_hyphens_new(FALSE)); /* a prompt is shown as it was */
    pango_layout_set_attributes(l, as);
    pango_attr_list_unref(as);
    if (width > 0) pango_layout_set_width(l, (int)(width * PANGO_SCALE));
    pango_layout_set_text(l, text, -1);
    return l;
}

/* Pango's own ellipsis would not be in the text, which SVG needs. */
void page_text_cut(PangoLayout *l, int lines)
{
    if (pango_layout_get_line_count(l) <= lines) return;
    char *text = g_strdup(pango_layout_get_text(l));
    int cut = pango_layout_line_get_start_index(pango_layout_get_line_readonly(l, lines));
    do {
        cut = (int)(g_utf8_find_prev_char(text, text + cut) - text);
        while (cut > 0 && text[cut - 1] == ' ') cut--;
        char *shorter = g_strdup_printf("%.*s\xe2\x80\xa6", cut, text);
        pango_layout_set_text(l, shorter, -1);
        g_free(shorter);
    } while (cut > 0 && pango_layout_get_line_count(l) > lines);
    g_free(text);
}

void page_text_balance(PangoLayout *l)
{
    int lines = pango_layout_get_line_count(l), wide = pango_layout_get_width(l), narrow = wide / lines;
    if (lines == 1 || lines > 4) return;
    while (wide - narrow > PANGO_SCALE) {
        int mid = narrow + (wide - narrow) / 2;
        pango_layout_set_width(l, mid);
        *(pango_layout_get_line_count(l) > lines ? &narrow : &wide) = mid;
    }
    pango_layout_set_width(l, wide);
}

double page_text_height(PangoLayout *l)
{
    PangoRectangle r;
    pango_layout_get_extents(l, NULL, &r);
    return (double)r.height / PANGO_SCALE;
}

void page_text_add(struct page *p, PangoLayout *l, double x, double y, double size_px, unsigned colour)
{
    int n = pango_layout_get_line_count(l);
    p->line = g_realloc_n(p->line, (gsize)(p->n_lines + n), sizeof *p->line);
    PangoLayoutIter *it = pango_layout_get_iter(l);
    const char *text = pango_layout_get_text(l);
    do {
        PangoLayoutLine *line = pango_layout_iter_get_line_readonly(it);
        PangoRectangle r;
        pango_layout_iter_get_line_extents(it, NULL, &r);
        struct page_line *t = &p->line[p->n_lines++];
        *t = (struct page_line){.line = pango_layout_line_ref(line),
                                .x = x + (double)r.x / PANGO_SCALE,
                                .y = y + (double)pango_layout_iter_get_baseline(it) / PANGO_SCALE,
                                .w = (double)r.width / PANGO_SCALE,
                                .size_px = size_px,
                                .colour = colour,
                                .rtl = pango_layout_line_get_resolved_direction(line) == PANGO_DIRECTION_RTL};
        t->text = g_strndup(text + pango_layout_line_get_start_index(line), (gsize)pango_layout_line_get_length(line));
        g_strstrip(t->text);
    } while (pango_layout_iter_next_line(it));
    pango_layout_iter_free(it);
}

void page_fonts(struct page *p, bool pixels)
{
    p->fonts = pango_cairo_font_map_new();
    p->pango = pango_font_map_create_context(p->fonts);
    /* Cairo sets glyphs on whole pixels, so in PNG widths are whole pixels too, else the letters stand unevenly. The
     * language is fixed, for it takes part in the choice of fonts and would come from the user's locale. */
    cairo_font_options_t *o = cairo_font_options_create();
    cairo_font_options_set_antialias(o, CAIRO_ANTIALIAS_GRAY);
    cairo_font_options_set_hint_style(o, pixels ? CAIRO_HINT_STYLE_SLIGHT : CAIRO_HINT_STYLE_NONE);
    cairo_font_options_set_hint_metrics(o, pixels ? CAIRO_HINT_METRICS_ON : CAIRO_HINT_METRICS_OFF);
    pango_cairo_context_set_font_options(p->pango, o);
    cairo_font_options_destroy(o);
    pango_context_set_round_glyph_positions(p->pango, pixels);
    pango_context_set_language(p->pango, pango_language_from_string("en"));
}

double page_text_width(PangoLayout *l)
{
    PangoRectangle r;
    pango_layout_get_extents(l, NULL, &r);
    return ceil((double)r.width / PANGO_SCALE);
}
