/* Layout of a figure: where everything stands. See figure_page.h. */
#include "lens/figure_page.h"
#include "lens/png.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TEXT_MAX_BYTES = 6000, /* of one title; no figure has room for more */
    TITLE_LINES = 10,
    CELL_TITLE_LINES = 2,
    INK = 0x1a1a1a,
    FAINT = 0x8a8a8a,
};

static double clamp(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

/* Text from anywhere as text that can be set and written as XML: valid UTF-8, no control characters, not endless. */
static char *clean_text(const char *s)
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

static PangoLayout *new_layout(struct page *p, const char *text, double size_px, double width)
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

/* Cuts the text until it has no more than `lines` lines, an ellipsis at its end. Pango's own ellipsis would not be in
 * the text, which SVG needs. */
static void cut_lines(PangoLayout *l, int lines)
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

/* Narrows a layout as far as it keeps its number of lines, so that no word stands alone on the last one. */
static void balance(PangoLayout *l)
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

static double layout_height(PangoLayout *l)
{
    PangoRectangle r;
    pango_layout_get_extents(l, NULL, &r);
    return (double)r.height / PANGO_SCALE;
}

/* Takes the lines of a layout over into the page, its left top at x, y. */
static void add_lines(struct page *p, PangoLayout *l, double x, double y, double size_px, unsigned colour)
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

/* Each pixel becomes f x f pixels. */
static uint8_t *enlarge(const uint8_t *rgb, int w, int h, int f)
{
    uint8_t *big = malloc((size_t)w * (size_t)h * 3 * (size_t)f * (size_t)f);
    if (!big) return NULL;
    int64_t row = (int64_t)w * f * 3;
    for (int y = 0; y < h; y++) {
        uint8_t *to = big + (int64_t)y * f * row;
        for (int x = 0; x < w; x++)
            for (int i = 0; i < f; i++) memcpy(to + ((int64_t)x * f + i) * 3, rgb + ((int64_t)y * w + x) * 3, 3);
        for (int i = 1; i < f; i++) memcpy(to + i * row, to, (size_t)row);
    }
    return big;
}

static int load_picture(struct page_picture *pic, const struct figure_cell *c, int cell_px, struct dl_err *e)
{
    struct dl_png png = {0};
    const uint8_t *rgb = c->rgb;
    int w = c->w, h = c->h;
    if (!rgb) {
        if (!c->path || access(c->path, F_OK)) return 0;
        if (dl_png_read(&png, c->path, e)) return -1;
        rgb = png.rgb;
        w = png.w;
        h = png.h;
    }
    int longer = w > h ? w : h;
    int f = longer < cell_px ? cell_px / longer : 1;
    pic->rgb = enlarge(rgb, w, h, f);
    dl_png_close(&png);
    if (!pic->rgb) return dl_fail(e, DL_ENOMEM, "figure: no memory for a picture of %d x %d pixels", w * f, h * f);
    pic->w = w * f;
    pic->h = h * f;
    double scale = longer * f > cell_px ? (double)cell_px / longer : 1;
    pic->box_w = fmax(1, round(pic->w * scale));
    pic->box_h = fmax(1, round(pic->h * scale));
    return 0;
}

static void open_fonts(struct page *p, bool pixels)
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

static double layout_width(PangoLayout *l)
{
    PangoRectangle r;
    pango_layout_get_extents(l, NULL, &r);
    return ceil((double)r.width / PANGO_SCALE);
}

/* A column is as wide as the widest picture, or the widest title where that needs more (but not more than a cell). */
static double column_width(struct page *p, const struct figure_spec *s, double box_w, double cell, double size_px)
{
    double w = box_w;
    for (int i = 0; i < s->n_cells && w < cell; i++) {
        if (!s->cell[i].title) continue;
        char *text = clean_text(s->cell[i].title);
        PangoLayout *l = new_layout(p, text, size_px, 0);
        w = fmax(w, fmin(cell, layout_width(l)));
        g_object_unref(l);
        g_free(text);
    }
    return w;
}

/* One row of cells: titles stand on a common lowest line over the pictures. Returns the y below the row. */
static double add_row(struct page *p, const struct figure_spec *s, int first, int n, double x0, double y, double cell,
                      double step, double box_h, double size_px)
{
    PangoLayout **title = g_new0(PangoLayout *, (gsize)n);
    double tallest = 0;
    for (int i = 0; i < n; i++) {
        const char *given = s->cell[first + i].title;
        if (!given || !*given) continue;
        char *text = clean_text(given);
        title[i] = new_layout(p, text, size_px, cell);
        g_free(text);
        cut_lines(title[i], CELL_TITLE_LINES);
        tallest = fmax(tallest, layout_height(title[i]));
    }
    double top = ceil(y + tallest + (tallest > 0 ? size_px * 0.3 : 0));
    for (int i = 0; i < n; i++) {
        double x = x0 + i * step;
        struct page_picture *pic = &p->picture[first + i];
        pic->x = floor(x + (cell - pic->box_w) / 2);
        pic->y = floor(top + (box_h - pic->box_h) / 2);
        if (!pic->rgb) {
            PangoLayout *l = new_layout(p, "missing", size_px, pic->box_w);
            add_lines(p, l, pic->x, pic->y + (pic->box_h - layout_height(l)) / 2, size_px, FAINT);
            g_object_unref(l);
        }
        if (!title[i]) continue;
        add_lines(p, title[i], x, top - size_px * 0.3 - layout_height(title[i]), size_px, INK);
        g_object_unref(title[i]);
    }
    g_free(title);
    return top + box_h;
}

int page_layout(struct page *p, const struct figure_spec *s, bool pixels, struct dl_err *e)
{
    *p = (struct page){0};
    int cell_px = s->cell_px ? s->cell_px : 256;
    int columns = s->columns ? s->columns : figure_columns(s->n_cells);
    if (columns > s->n_cells) columns = s->n_cells;
    p->picture = calloc((size_t)s->n_cells, sizeof *p->picture);
    if (!p->picture) return dl_fail(e, DL_ENOMEM, "figure: no memory");
    p->n_pictures = s->n_cells;
    double box_w = 0, box_h = 0;
    for (int i = 0; i < s->n_cells; i++) {
        if (load_picture(&p->picture[i], &s->cell[i], cell_px, e)) return -1;
        box_w = fmax(box_w, p->picture[i].box_w);
        box_h = fmax(box_h, p->picture[i].box_h);
    }
    if (!box_w) box_w = box_h = cell_px;
    for (int i = 0; i < s->n_cells; i++)
        if (!p->picture[i].rgb) {
            p->picture[i].box_w = box_w;
            p->picture[i].box_h = box_h;
        }
    open_fonts(p, pixels);
    double margin = round(clamp(cell_px / 10.0, 10, 40)), gap = round(clamp(cell_px / 16.0, 6, 32));
    double size_px = clamp(round(cell_px / 16.0), 9, 24), title_px = clamp(round(cell_px / 12.0), 12, 32);
    double cell = column_width(p, s, box_w, cell_px, size_px);
    double grid_w = columns * cell + (columns - 1) * gap, content_w = grid_w, y = margin;
    p->title = clean_text(s->title ? s->title : "");
    if (*p->title) {
        /* A narrow grid gets a wider page rather than a tower of words. */
        PangoLayout *l = new_layout(p, p->title, title_px, 0);
        double room = fmax(grid_w, fmin(layout_width(l) + 1, title_px * 24));
        pango_layout_set_width(l, (int)(room * PANGO_SCALE));
        cut_lines(l, TITLE_LINES);
        balance(l);
        double title_w = ceil((double)pango_layout_get_width(l) / PANGO_SCALE);
        content_w = fmax(grid_w, title_w);
        add_lines(p, l, margin + floor((content_w - title_w) / 2), y, title_px, INK);
        y += ceil(layout_height(l)) + gap;
        g_object_unref(l);
    }
    double x0 = margin + floor((content_w - grid_w) / 2);
    for (int first = 0; first < s->n_cells; first += columns) {
        int n = s->n_cells - first < columns ? s->n_cells - first : columns;
        y = add_row(p, s, first, n, x0, first ? y + gap : y, cell, cell + gap, box_h, size_px);
    }
    p->w = content_w + 2 * margin;
    p->h = ceil(y) + margin;
    return 0;
}

void page_close(struct page *p)
{
    for (int i = 0; i < p->n_lines; i++) {
        pango_layout_line_unref(p->line[i].line);
        g_free(p->line[i].text);
    }
    g_free(p->line);
    for (int i = 0; i < p->n_pictures; i++) free(p->picture[i].rgb);
    free(p->picture);
    g_free(p->title);
    if (p->pango) g_object_unref(p->pango);
    if (p->fonts) g_object_unref(p->fonts);
    *p = (struct page){0};
}
