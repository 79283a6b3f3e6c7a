/* Layout of a chart: where everything stands. See plot.h and figure_page.h. */
#include "lens/plot.h"
#include "lens/figure_page.h"

#include <math.h>
#include <stdlib.h>

enum { MARKERS = 6, COLOURS = 7, GREY = 0x555555, GRID = 0xe2e2e2, AXIS = 0x8a8a8a, WHITE = 0xffffff };

static const unsigned palette[COLOURS] = {0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x1a1a1a};
/* Next to each other in bars, which have no markers: unlike in grey, too. */
static const unsigned bar_palette[COLOURS] = {0x0072b2, 0xe69f00, 0x999999, 0x1a1a1a, 0x56b4e9, 0xd55e00, 0xcc79a7};

/* A chart being laid out. Lengths are pixels; `u` is one of the standard size's. */
struct chart {
    struct page *p;
    const struct plot_spec *s;
    double u, text_px, margin;
    double x0, x1, y0, y1; /* the plot: 0 % is at y0, `top` % at y1 < y0 */
    double top;
    int *layer; /* [n_layers] of all curves, ascending */
    int n_layers;
};

static double y_of(const struct chart *c, double percent)
{
    return c->y0 + (c->y1 - c->y0) * fmin(fmax(percent, 0), c->top) / c->top;
}

/* Markers at the first and last layer must not stand on the plot's border. */
static double x_of(const struct chart *c, int k)
{
    int first = c->layer[0], last = c->layer[c->n_layers - 1];
    double inner = fmin(20 * c->u, (c->x1 - c->x0) / 8);
    if (first == last) return (c->x0 + c->x1) / 2;
    return c->x0 + inner + (c->x1 - c->x0 - 2 * inner) * (k - first) / (last - first);
}

/* A shape with room for n corners, to be filled in. It moves when the next one is added. */
static struct page_shape *add_shape(struct page *p, enum page_form form, int n)
{
    p->shape = g_realloc_n(p->shape, (gsize)p->n_shapes + 1, sizeof *p->shape);
    struct page_shape *s = &p->shape[p->n_shapes++];
    *s = (struct page_shape){.form = form, .xy = g_new0(double, 2 * (gsize)n)};
    return s;
}

static void add_corner(struct page_shape *s, double x, double y)
{
    s->xy[2 * s->n] = x;
    s->xy[2 * s->n + 1] = y;
    s->n++;
}

static void add_segment(struct page *p, double xa, double ya, double xb, double yb, unsigned colour, double width)
{
    struct page_shape *s = add_shape(p, PAGE_POLYLINE, 2);
    add_corner(s, xa, ya);
    add_corner(s, xb, yb);
    s->stroke = colour, s->stroke_w = width;
}

static void add_box(struct page *p, double x, double y, double w, double h, unsigned colour)
{
    struct page_shape *s = add_shape(p, PAGE_POLYGON, 4);
    for (int i = 0; i < 4; i++) add_corner(s, x + w * (i == 1 || i == 2), y + h * (i > 1));
    s->fill = colour, s->opacity = 1;
}

/* Marker number i: circle, square, triangle, diamond, triangle upside down, star. They look equally large. */
static void add_marker(struct chart *c, double x, double y, int i)
{
    static const struct {
        int corners;
        double radius, turn; /* of the corners' circle; the first corner's angle, in parts of a whole turn */
    } form[MARKERS] = {{0, 1, 0}, {4, 1.3, 0.125}, {3, 1.5, -0.25}, {4, 1.4, 0.25}, {3, 1.5, 0.25}, {10, 1.7, -0.25}};
    int kind = i % MARKERS, n = form[kind].corners;
    double r = 5.2 * c->u;
    struct page_shape *s = add_shape(c->p, n ? PAGE_POLYGON : PAGE_CIRCLE, n ? n : 1);
    if (!n) add_corner(s, x, y), s->radius = r;
    for (int j = 0; j < n; j++) {
        double far = form[kind].radius * r * (n == 10 && j % 2 ? 0.45 : 1);
        double angle = 2 * G_PI * (form[kind].turn + (double)j / n);
        add_corner(s, x + far * cos(angle), y + far * sin(angle));
    }
    s->fill = palette[i % COLOURS], s->opacity = 1;
    s->stroke = WHITE, s->stroke_w = 1.2 * c->u;
}

/* Sets text in at most `lines` lines with its left (PAGE_LEFT), right or middle at x, its top at y. Returns its height.
 */
static double add_text(struct chart *c, const char *text, double x, double y, double size_px, double width, int lines,
                       unsigned colour, enum page_anchor anchor)
{
    char *clean = page_text_clean(text);
    PangoLayout *l = page_text(c->p, clean, size_px, 0);
    double w = fmin(page_text_width(l), floor(width)), h;
    if (anchor == PAGE_LEFT) pango_layout_set_alignment(l, PANGO_ALIGN_LEFT);
    pango_layout_set_width(l, (int)(w * PANGO_SCALE));
    page_text_cut(l, lines);
    page_text_balance(l);
    w = (double)pango_layout_get_width(l) / PANGO_SCALE;
    int before = c->p->n_lines;
    double left = anchor == PAGE_LEFT ? x : anchor == PAGE_RIGHT ? x - w : x - w / 2;
    page_text_add(c->p, l, round(left), round(y), size_px, colour);
    for (int i = before; i < c->p->n_lines; i++) c->p->line[i].anchor = anchor;
    h = ceil(page_text_height(l));
    g_object_unref(l);
    g_free(clean);
    return h;
}

static double width_of(struct chart *c, const char *text, double size_px)
{
    char *clean = page_text_clean(text);
    PangoLayout *l = page_text(c->p, clean, size_px, 0);
    double w = page_text_width(l);
    g_object_unref(l);
    g_free(clean);
    return w;
}

static const char *legend_label(const struct plot_spec *s, int i)
{
    return s->n_curves ? s->curve[i].label : s->bars.series[i];
}

enum { LEGEND_LINES = 2 }; /* of one label */

/* The legend from y on: in one row where it fits, else in columns of one width. Returns the y below it. */
static double add_legend(struct chart *c, double y)
{
    const struct plot_spec *s = c->s;
    int n = s->n_curves ? s->n_curves : s->bars.n_series, shown = 0, at = 0;
    double room = c->p->w - 2 * c->margin, sample = (s->n_curves ? 34 : 14) * c->u, gap = 9 * c->u, between = 30 * c->u;
    double widest = 0, sum = 0;
    for (int i = 0; i < n; i++) {
        if (!legend_label(s, i)) continue;
        double w = width_of(c, legend_label(s, i), c->text_px);
        widest = fmax(widest, w);
        sum += sample + gap + w + (shown++ ? between : 0);
    }
    if (!shown) return y;
    bool one_row = sum <= room;
    widest = fmin(widest, room - sample - gap);
    double step = sample + gap + widest + between, row_h = 0, x = c->margin;
    int columns = (int)fmin(shown, fmax(1, floor((room + between) / step))), rows = (shown + columns - 1) / columns;
    columns = one_row ? shown : (shown + rows - 1) / rows;
    for (int i = 0; i < n; i++) {
        const char *label = legend_label(s, i);
        if (!label) continue;
        if (at && at % columns == 0) x = c->margin, y += row_h + 3 * c->u, row_h = 0;
        double middle = y + 0.66 * c->text_px;
        if (s->n_curves) {
            add_segment(c->p, x, middle, x + sample, middle, palette[i % COLOURS], 2.4 * c->u);
            add_marker(c, x + sample / 2, middle, i);
        } else {
            add_box(c->p, x, middle - sample / 2, sample, sample, bar_palette[i % COLOURS]);
        }
        double text_x = x + sample + gap,
               h = add_text(c, label, text_x, y, c->text_px, widest, LEGEND_LINES, PAGE_INK, PAGE_LEFT);
        row_h = fmax(row_h, h);
        x += one_row ? sample + gap + width_of(c, label, c->text_px) + between : step;
        at++;
    }
    return y + row_h + 12 * c->u;
}

/* Lines across and their numbers, every 20 % or, in a low plot, every 50 %. */
static void add_percents(struct chart *c)
{
    int step = (c->y0 - c->y1) * 20 / c->top > 1.5 * c->text_px || c->top < 50 ? 20 : 50;
    for (int v = 0; v <= c->top; v += step) {
        char text[16];
        double y = round(y_of(c, v)) + 0.5;
        add_segment(c->p, c->x0, y, c->x1, y, v ? GRID : AXIS, fmax(1, round(c->u)));
        g_snprintf(text, sizeof text, "%d", v);
        add_text(c, text, c->x0 - 9 * c->u, y - 0.59 * c->text_px, c->text_px, c->margin * 4, 1, GREY, PAGE_RIGHT);
    }
}

/* How many layers there are from one number to the next, so that the numbers stand clear of each other. */
static int layers_a_number(struct chart *c)
{
    for (int every = 1; every < c->n_layers; every++) {
        bool clear = true;
        double end = -1e9;
        for (int i = 0; i < c->n_layers && clear; i += every) {
            char text[16];
            g_snprintf(text, sizeof text, "%d", c->layer[i]);
            double w = width_of(c, text, c->text_px), x = x_of(c, c->layer[i]);
            clear = x - w / 2 > end + 0.4 * c->text_px;
            end = x + w / 2;
        }
        if (clear) return every;
    }
    return c->n_layers;
}

static void add_layers(struct chart *c)
{
    int every = layers_a_number(c);
    for (int i = 0; i < c->n_layers; i++) {
        double x = round(x_of(c, c->layer[i])) + 0.5;
        if (i % every == 0) add_segment(c->p, x, c->y0, x, c->y1, GRID, fmax(1, round(c->u)));
    }
    add_percents(c);
    for (int i = 0; i < c->n_layers; i++) {
        char text[16];
        double x = round(x_of(c, c->layer[i])) + 0.5;
        bool numbered = i % every == 0;
        add_segment(c->p, x, c->y0, x, c->y0 + (numbered ? 6 : 4) * c->u, AXIS, fmax(1, round(c->u)));
        g_snprintf(text, sizeof text, "%d", c->layer[i]);
        if (numbered)
            add_text(c, text, x_of(c, c->layer[i]), c->y0 + 8 * c->u, c->text_px, c->margin * 4, 1, GREY, PAGE_MIDDLE);
    }
}

/* Goes from one place to the next with a corner wherever the way crosses 0 or 100 %, so that what lies outside is cut
 * off there (y_of does it) without bending what lies inside. */
static void go_to(const struct chart *c, struct page_shape *s, double xa, double a, double xb, double b)
{
    double bound[2] = {a < b ? 0 : c->top, a < b ? c->top : 0};
    for (int i = 0; i < 2; i++)
        if ((a < bound[i]) != (b < bound[i]))
            add_corner(s, xa + (xb - xa) * (bound[i] - a) / (b - a), y_of(c, bound[i]));
    add_corner(s, xb, y_of(c, b));
}

static void add_band(struct chart *c, const struct plot_point *q, int n, unsigned colour)
{
    if (n == 1) { /* no area: a line of the same height */
        double x = x_of(c, q->k);
        add_segment(c->p, x, y_of(c, q->mean - q->sd), x, y_of(c, q->mean + q->sd), colour, 1.2 * c->u);
        return;
    }
    struct page_shape *s = add_shape(c->p, PAGE_POLYGON, 6 * n);
    for (int side = 0; side < 2; side++)
        for (int j = 0; j < n; j++) {
            int i = side ? n - 1 - j : j, before = side ? i + 1 : i - 1;
            double sign = side ? -1 : 1, x = x_of(c, q[i].k), v = q[i].mean + sign * q[i].sd;
            if (j)
                go_to(c, s, x_of(c, q[before].k), q[before].mean + sign * q[before].sd, x, v);
            else
                add_corner(s, x, y_of(c, v));
        }
    s->fill = colour, s->opacity = 0.16;
}

enum part { BANDS, LINES, MARKS };

/* One part of a curve: whatever is between its gaps. */
static void add_curve(struct chart *c, int number, enum part part)
{
    const struct plot_curve *curve = &c->s->curve[number];
    const struct plot_point *q = curve->point;
    unsigned colour = palette[number % COLOURS];
    for (int i = 0, n; i < curve->n_points; i += n ? n : 1) {
        for (n = 0; i + n < curve->n_points; n++)
            if (isnan(q[i + n].mean) || (part == BANDS && isnan(q[i + n].sd))) break;
        if (part == BANDS && n) add_band(c, q + i, n, colour);
        if (part == LINES && n > 1) {
            struct page_shape *s = add_shape(c->p, PAGE_POLYLINE, n);
            for (int j = i; j < i + n; j++) add_corner(s, x_of(c, q[j].k), y_of(c, q[j].mean));
            s->stroke = colour, s->stroke_w = 2.4 * c->u;
        }
        for (int j = i; part == MARKS && j < i + n; j++) add_marker(c, x_of(c, q[j].k), y_of(c, q[j].mean), number);
    }
}

static void add_curves(struct chart *c)
{
    add_layers(c);
    for (enum part part = BANDS; part <= MARKS; part++)
        for (int i = 0; i < c->s->n_curves; i++) add_curve(c, i, part);
}

static void add_bars(struct chart *c)
{
    const struct plot_bars *b = &c->s->bars;
    double group = (c->x1 - c->x0) / b->n_groups, bar = fmin(0.72 * group / b->n_series, 90 * c->u), gap = 0.06 * bar;
    bool numbers = width_of(c, "100.0", c->text_px) < bar;
    add_percents(c);
    for (int g = 0; g < b->n_groups; g++) {
        double middle = c->x0 + group * (g + 0.5), x = middle - bar * b->n_series / 2;
        for (int i = 0; i < b->n_series; i++, x += bar) {
            double v = b->value[g * b->n_series + i], y = y_of(c, v);
            char text[32];
            add_box(c->p, x + gap, y, bar - 2 * gap, c->y0 - y, bar_palette[i % COLOURS]);
            g_snprintf(text, sizeof text, "%.1f", v);
            if (numbers) { /* on white, for a line of the axis may go through it */
                double w = width_of(c, text, c->text_px);
                add_box(c->p, x + (bar - w) / 2, y - 1.25 * c->text_px, w, 1.2 * c->text_px, WHITE);
                add_text(c, text, x + bar / 2, y - 1.3 * c->text_px, c->text_px, bar * 2, 1, PAGE_INK, PAGE_MIDDLE);
            }
        }
    }
    add_segment(c->p, c->x0, round(c->y0) + 0.5, c->x1, round(c->y0) + 0.5, AXIS, fmax(1, round(c->u)));
}

/* What is written under the groups, at y = 0 as yet: how high it is decides where the plot ends. Returns the height. */
static double add_group_labels(struct chart *c)
{
    const struct plot_bars *b = &c->s->bars;
    double group = (c->x1 - c->x0) / b->n_groups, tallest = 0;
    for (int g = 0; g < b->n_groups; g++) {
        double h = add_text(c, b->group[g], c->x0 + group * (g + 0.5), 0, c->text_px, group - 10 * c->u, 4, PAGE_INK,
                            PAGE_MIDDLE);
        tallest = fmax(tallest, h);
    }
    return tallest;
}

static int by_layer(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* All layers of all curves, each once. */
static void find_layers(struct chart *c)
{
    int n = 0;
    for (int i = 0; i < c->s->n_curves; i++) n += c->s->curve[i].n_points;
    c->layer = g_new0(int, (gsize)n + 1);
    n = 0;
    for (int i = 0; i < c->s->n_curves; i++)
        for (int j = 0; j < c->s->curve[i].n_points; j++) c->layer[n++] = c->s->curve[i].point[j].k;
    qsort(c->layer, (size_t)n, sizeof *c->layer, by_layer);
    for (int i = 0; i < n; i++)
        if (!i || c->layer[i] != c->layer[c->n_layers - 1]) c->layer[c->n_layers++] = c->layer[i];
}

/* 100 % for curves; bars end below it where that leaves no more room for them than they need. */
static double top_of(const struct plot_spec *s)
{
    double most = s->n_curves ? 100 : 0;
    for (int i = 0; !s->n_curves && i < s->bars.n_groups * s->bars.n_series; i++) most = fmax(most, s->bars.value[i]);
    return fmin(100, 20 * ceil((most + 4) / 20));
}

/* Title, legend and what the vertical axis says. Returns the y below. */
static double add_head(struct chart *c)
{
    double y = c->margin, room = c->p->w - 2 * c->margin, title_px = round(22 * c->u);
    if (*c->p->title) y += add_text(c, c->p->title, c->margin, y, title_px, room, 4, PAGE_INK, PAGE_LEFT) + 10 * c->u;
    y = add_legend(c, y);
    if (c->s->y_title) y += add_text(c, c->s->y_title, c->margin, y, c->text_px, room, 3, GREY, PAGE_LEFT) + 6 * c->u;
    return y;
}

static int no_room(const struct chart *c, struct dl_err *e)
{
    return dl_fail(e, DL_EUSAGE,
                   "a figure of %.0f x %.0f pixels has no room for the plot beside its title and labels; give a larger "
                   "one (--size), shorter labels (--label), or fewer files",
                   c->p->w, c->p->h);
}

int plot_layout(struct page *p, const void *spec, bool pixels, struct dl_err *e)
{
    const struct plot_spec *s = spec;
    struct chart c = {.p = p, .s = s, .top = top_of(s)};
    *p = (struct page){.w = s->w ? s->w : PLOT_WIDTH, .h = s->h ? s->h : PLOT_HEIGHT};
    page_fonts(p, pixels);
    c.u = fmax(0.65, fmin(p->w / PLOT_WIDTH, p->h / PLOT_HEIGHT)); /* to be read at any size */
    c.text_px = round(17 * c.u);
    c.margin = round(24 * c.u);
    p->title = page_text_clean(s->title ? s->title : "");
    c.x0 = c.margin + ceil(width_of(&c, "100", c.text_px) + 9 * c.u);
    c.x1 = p->w - c.margin;
    if (!s->n_curves && (c.x1 - c.x0) / s->bars.n_groups < 4 * c.text_px) return no_room(&c, e);
    /* Half of a number of the axis, or the one over a bar, stands above the plot. */
    c.y1 = add_head(&c) + (s->n_curves ? 0.7 : 1.5) * c.text_px;
    int first_label = p->n_lines;
    double below = c.margin + 8 * c.u + (s->n_curves ? ceil(1.2 * c.text_px) : add_group_labels(&c));
    if (s->x_title) below += ceil(1.2 * c.text_px) + 4 * c.u;
    c.y0 = p->h - below;
    for (int i = first_label; i < p->n_lines; i++) p->line[i].y += round(c.y0 + 8 * c.u);
    if (c.y0 - c.y1 < 4 * c.text_px) return no_room(&c, e);
    if (s->n_curves) {
        find_layers(&c);
        add_curves(&c);
        g_free(c.layer);
    } else {
        add_bars(&c);
    }
    if (s->x_title)
        add_text(&c, s->x_title, (c.x0 + c.x1) / 2, p->h - c.margin - 1.2 * c.text_px, c.text_px, c.x1 - c.x0, 1, GREY,
                 PAGE_MIDDLE);
    return 0;
}

int plot_draw(const struct plot_spec *s, const char *path, struct dl_err *e)
{
    int side[2] = {s->w ? s->w : PLOT_WIDTH, s->h ? s->h : PLOT_HEIGHT};
    for (int i = 0; i < 2; i++)
        if (side[i] < PLOT_SIDE_MIN || side[i] > PLOT_SIDE_MAX)
            return dl_fail(e, DL_EUSAGE, "%s: %d x %d pixels; a side has %d to %d", path, side[0], side[1],
                           PLOT_SIDE_MIN, PLOT_SIDE_MAX);
    if (s->n_curves > PLOT_CURVES_MAX)
        return dl_fail(e, DL_EUSAGE, "%s: %d curves cannot be told apart in one figure; give at most %d files", path,
                       s->n_curves, PLOT_CURVES_MAX);
    return page_draw(plot_layout, s, path, e);
}
