/* Layout of a grid of pictures: where everything stands. See figure_page.h. */
#include "lens/figure_page.h"
#include "lens/png.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TITLE_LINES = 10, CELL_TITLE_LINES = 2 };

static double clamp(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

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

/* A column is as wide as the widest picture, or the widest title where that needs more (but not more than a cell). */
static double column_width(struct page *p, const struct figure_spec *s, double box_w, double cell, double size_px)
{
    double w = box_w;
    for (int i = 0; i < s->n_cells && w < cell; i++) {
        if (!s->cell[i].title) continue;
        char *text = page_text_clean(s->cell[i].title);
        PangoLayout *l = page_text(p, text, size_px, 0);
        w = fmax(w, fmin(cell, page_text_width(l)));
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
        char *text = page_text_clean(given);
        title[i] = page_text(p, text, size_px, cell);
        g_free(text);
        page_text_cut(title[i], CELL_TITLE_LINES);
        tallest = fmax(tallest, page_text_height(title[i]));
    }
    double top = ceil(y + tallest + (tallest > 0 ? size_px * 0.3 : 0));
    for (int i = 0; i < n; i++) {
        double x = x0 + i * step;
        struct page_picture *pic = &p->picture[first + i];
        pic->x = floor(x + (cell - pic->box_w) / 2);
        pic->y = floor(top + (box_h - pic->box_h) / 2);
        if (!pic->rgb) {
            PangoLayout *l = page_text(p, "missing", size_px, pic->box_w);
            page_text_add(p, l, pic->x, pic->y + (pic->box_h - page_text_height(l)) / 2, size_px, PAGE_FAINT);
            g_object_unref(l);
        }
        if (!title[i]) continue;
        page_text_add(p, title[i], x, top - size_px * 0.3 - page_text_height(title[i]), size_px, PAGE_INK);
        g_object_unref(title[i]);
    }
    g_free(title);
    return top + box_h;
}

int page_layout(struct page *p, const void *spec, bool pixels, struct dl_err *e)
{
    const struct figure_spec *s = spec;
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
    page_fonts(p, pixels);
    double margin = round(clamp(cell_px / 10.0, 10, 40)), gap = round(clamp(cell_px / 16.0, 6, 32));
    double size_px = clamp(round(cell_px / 16.0), 9, 24), title_px = clamp(round(cell_px / 12.0), 12, 32);
    double cell = column_width(p, s, box_w, cell_px, size_px);
    double grid_w = columns * cell + (columns - 1) * gap, content_w = grid_w, y = margin;
    p->title = page_text_clean(s->title ? s->title : "");
    if (*p->title) {
        /* A narrow grid gets a wider page rather than a tower of words. */
        PangoLayout *l = page_text(p, p->title, title_px, 0);
        double room = fmax(grid_w, fmin(page_text_width(l) + 1, title_px * 24));
        pango_layout_set_width(l, (int)(room * PANGO_SCALE));
        page_text_cut(l, TITLE_LINES);
        page_text_balance(l);
        double title_w = ceil((double)pango_layout_get_width(l) / PANGO_SCALE);
        content_w = fmax(grid_w, title_w);
        page_text_add(p, l, margin + floor((content_w - title_w) / 2), y, title_px, PAGE_INK);
        y += ceil(page_text_height(l)) + gap;
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
    for (int i = 0; i < p->n_shapes; i++) g_free(p->shape[i].xy);
    g_free(p->shape);
    g_free(p->title);
    if (p->pango) g_object_unref(p->pango);
    if (p->fonts) g_object_unref(p->fonts);
    *p = (struct page){0};
}
