#include "tools/bench/roofline.h"

#include <cairo-svg.h>
#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 900, HEIGHT = 600, LEFT = 90, RIGHT = 170, TOP = 60, BOTTOM = 70 };

bool roofline_built(void) { return true; }

/* Both axes are powers of ten, [from, to] their exponents. */
struct axes {
    double x0, x1, y0, y1;
};

static double place_x(const struct axes *a, double v)
{
    return LEFT + (log10(v) - a->x0) / (a->x1 - a->x0) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const struct axes *a, double v)
{
    return HEIGHT - BOTTOM - (log10(v) - a->y0) / (a->y1 - a->y0) * (HEIGHT - TOP - BOTTOM);
}

static void write_at(cairo_t *cr, double x, double y, double align, const char *text)
{
    cairo_text_extents_t t;
    cairo_text_extents(cr, text, &t);
    cairo_move_to(cr, x - align * t.x_advance, y);
    cairo_show_text(cr, text);
}

static void grid(cairo_t *cr, const struct axes *a)
{
    char text[32];
    cairo_set_line_width(cr, 0.5);
    for (int i = (int)a->x0; i <= (int)a->x1; i++) {
        double x = place_x(a, pow(10, i));
        cairo_set_source_rgb(cr, 0.8, 0.8, 0.8);
        cairo_move_to(cr, x, TOP), cairo_line_to(cr, x, HEIGHT - BOTTOM), cairo_stroke(cr);
        cairo_set_source_rgb(cr, 0.2, 0.2, 0.2);
        snprintf(text, sizeof text, "%g", pow(10, i));
        write_at(cr, x, HEIGHT - BOTTOM + 18, 0.5, text);
    }
    for (int i = (int)a->y0; i <= (int)a->y1; i++) {
        double y = place_y(a, pow(10, i));
        cairo_set_source_rgb(cr, 0.8, 0.8, 0.8);
        cairo_move_to(cr, LEFT, y), cairo_line_to(cr, WIDTH - RIGHT, y), cairo_stroke(cr);
        cairo_set_source_rgb(cr, 0.2, 0.2, 0.2);
        snprintf(text, sizeof text, "%g", pow(10, i - 9));
        write_at(cr, LEFT - 8, y + 4, 1, text);
    }
    write_at(cr, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 22, 0.5, "FLOP per byte");
    cairo_save(cr);
    cairo_translate(cr, 24, (TOP + HEIGHT - BOTTOM) / 2.0);
    cairo_rotate(cr, -M_PI / 2);
    write_at(cr, 0, 0, 0.5, "GFLOP/s");
    cairo_restore(cr);
}

static void colour(cairo_t *cr, int group, double alpha)
{
    static const double rgb[][3] = {{0.12, 0.47, 0.71}, {0.84, 0.15, 0.16}, {0.17, 0.63, 0.17}, {1, 0.5, 0.05},
                                    {0.58, 0.4, 0.74},  {0.55, 0.34, 0.29}, {0.89, 0.47, 0.76}, {0.5, 0.5, 0.5}};
    const double *c = rgb[group % 8];
    cairo_set_source_rgba(cr, c[0], c[1], c[2], alpha);
}

static void roof(cairo_t *cr, const struct axes *a, const struct roofline *r)
{
    double ridge = r->peak_flops / r->peak_bytes, left = pow(10, a->x0), right = pow(10, a->x1);
    cairo_set_source_rgb(cr, 0, 0, 0);
    cairo_set_line_width(cr, 1.5);
    cairo_move_to(cr, place_x(a, left), place_y(a, left * r->peak_bytes));
    cairo_line_to(cr, place_x(a, ridge), place_y(a, r->peak_flops));
    cairo_line_to(cr, place_x(a, right), place_y(a, r->peak_flops));
    cairo_stroke(cr);
}

static void paint(cairo_t *cr, const struct roofline *r)
{
    double ridge = r->peak_flops / r->peak_bytes;
    struct axes a = {-1, ceil(log10(ridge * 30)), floor(log10(r->peak_bytes * 0.05)), ceil(log10(r->peak_flops * 1.2))};
    for (int i = 0; i < r->n; i++) {
        if (r->point[i].flops > 0) a.y0 = fmin(a.y0, floor(log10(r->point[i].flops)));
        if (r->point[i].flops > 0) a.y1 = fmax(a.y1, ceil(log10(r->point[i].flops)));
        if (r->point[i].intensity > 0) a.x1 = fmax(a.x1, ceil(log10(r->point[i].intensity)));
    }
    cairo_set_source_rgb(cr, 1, 1, 1);
    cairo_paint(cr);
    cairo_select_font_face(cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(cr, 15);
    cairo_set_source_rgb(cr, 0, 0, 0);
    write_at(cr, LEFT, 34, 0, r->title);
    cairo_set_font_size(cr, 12);
    grid(cr, &a);
    cairo_save(cr);
    cairo_rectangle(cr, LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    cairo_clip(cr);
    roof(cr, &a, r);
    for (int i = 0; i < r->n; i++) {
        const struct roofline_point *p = &r->point[i];
        if (p->flops <= 0 || p->intensity <= 0) continue;
        colour(cr, p->group, 0.65);
        cairo_arc(cr, place_x(&a, p->intensity), place_y(&a, p->flops), 3 + 30 * sqrt(p->share), 0, 2 * M_PI);
        cairo_fill(cr);
    }
    cairo_restore(cr);
    for (int i = 0; i < r->n_groups; i++) {
        colour(cr, i, 0.9);
        cairo_arc(cr, WIDTH - RIGHT + 24, TOP + 20 + 22 * i, 6, 0, 2 * M_PI);
        cairo_fill(cr);
        cairo_set_source_rgb(cr, 0, 0, 0);
        write_at(cr, WIDTH - RIGHT + 38, TOP + 24 + 22 * i, 0, r->group[i]);
    }
    write_at(cr, WIDTH - RIGHT + 18, HEIGHT - BOTTOM, 0, "area: share of time");
}

int roofline_draw(const char *path, const struct roofline *r, struct dl_err *e)
{
    size_t n = strlen(path);
    bool svg = n > 4 && !strcmp(path + n - 4, ".svg");
    cairo_surface_t *s = svg ? cairo_svg_surface_create(path, WIDTH, HEIGHT)
                             : cairo_image_surface_create(CAIRO_FORMAT_RGB24, WIDTH, HEIGHT);
    cairo_t *cr = cairo_create(s);
    paint(cr, r);
    cairo_status_t bad = cairo_status(cr);
    cairo_destroy(cr);
    if (!bad && !svg) bad = cairo_surface_write_to_png(s, path);
    cairo_surface_finish(s);
    if (!bad) bad = cairo_surface_status(s);
    cairo_surface_destroy(s);
    return bad ? dl_fail(e, DL_EFAIL, "%s: cannot be written: %s", path, cairo_status_to_string(bad)) : 0;
}
