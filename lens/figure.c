#define _GNU_SOURCE /* asprintf */
#include "lens/figure.h"
#include "lens/figure_page.h"
#include "lens/outfile.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool figure_built(void) { return true; }

int figure_columns(int n_cells)
{
    int c = 1;
    while ((int64_t)c * c < n_cells) c++;
    return c;
}

typedef int (*page_writer)(const struct page *, const char *, uint8_t **, int64_t *, struct dl_err *);

static page_writer writer_of(const char *path)
{
    const char *suffix = names_suffix(path);
    return !strcasecmp(suffix, ".png")   ? page_png
           : !strcasecmp(suffix, ".pdf") ? page_pdf
           : !strcasecmp(suffix, ".svg") ? page_svg
                                         : NULL;
}

int page_draw(page_maker *make, const void *spec, const char *path, struct dl_err *e)
{
    page_writer write = writer_of(path);
    if (!write) return dl_fail(e, DL_EUSAGE, "%s: a figure's name must end in .png, .pdf or .svg", path);
    struct page p = {0};
    uint8_t *data = NULL;
    int64_t bytes = 0;
    int rc = make(&p, spec, write == page_png, e);
    if (!rc) rc = write(&p, path, &data, &bytes, e);
    if (!rc) rc = outfile_write(path, data, bytes, e);
    free(data);
    page_close(&p);
    return rc;
}

int figure_draw(const struct figure_spec *s, const char *path, struct dl_err *e)
{
    if (s->cell_px && (s->cell_px < FIGURE_CELL_MIN || s->cell_px > FIGURE_CELL_MAX))
        return dl_fail(e, DL_EUSAGE, "%s: cells of %d pixels; %d to %d can be drawn", path, s->cell_px, FIGURE_CELL_MIN,
                       FIGURE_CELL_MAX);
    if (s->columns < 0) return dl_fail(e, DL_EUSAGE, "%s: %d columns cannot be drawn", path, s->columns);
    if (s->n_cells < 1) return dl_fail(e, DL_EUSAGE, "%s: a figure of no images cannot be drawn", path);
    return page_draw(page_layout, s, path, e);
}

static int out_path(char path[PATH_MAX], const char *dir, const struct figure_sweep *o, bool only_one,
                    struct manifest_group g)
{
    char name[NAMES_MAX];
    int n;
    if (!o->out) {
        names_grid(name, only_one, g.prompt, g.seed, "png");
        n = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    } else if (only_one) {
        n = snprintf(path, PATH_MAX, "%s", o->out);
    } else {
        const char *suffix = names_suffix(o->out);
        names_grid(name, false, g.prompt, g.seed, "");
        name[strlen(name) - 1] = 0; /* "grid_p000_s17." without its point */
        n = snprintf(path, PATH_MAX, "%.*s%s%s", (int)(suffix - o->out), o->out, name + strlen("grid"), suffix);
    }
    return n < PATH_MAX ? 0 : -1;
}

static int draw_group(const char *dir, const struct manifest_doc *d, const struct figure_sweep *o,
                      struct manifest_group g, const char *path, struct dl_err *e)
{
    bool blocks = figure_by_block(o->titles, d);
    bool big = strstr(d->model.class_name, "XL") || strstr(d->model.class_name, "Flux");
    struct figure_spec s = {.columns = o->columns, .cell_px = o->cell_px ? o->cell_px : big ? 512 : 256};
    struct figure_cell *cell = calloc((size_t)d->n_layers + 1, sizeof *cell);
    char(*text)[NAMES_MAX] = calloc((size_t)d->n_layers + 1, sizeof *text);
    char *title = NULL;
    int rc = cell && text ? 0 : dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    for (int i = 0; !rc && i < d->n_layers; i++) {
        char file[NAMES_MAX], *whole;
        int k = d->layer[i];
        names_title(text[i], blocks, k);
        names_image(file, "images", g.prompt, g.seed, k);
        if (asprintf(&whole, "%s/%s", dir, file) < 0) {
            rc = dl_fail(e, DL_ENOMEM, "%s: no memory", path);
        } else {
            cell[i] = (struct figure_cell){.title = text[i], .path = whole};
            s.n_cells++;
        }
    }
    s.cell = cell;
    const char *prompt = d->prompt[g.prompt].text;
    if (!rc && asprintf(&title, "%s Diffusion Lens%s%s", d->model.title, *prompt ? " - " : "", prompt) < 0) {
        title = NULL;
        rc = dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    }
    s.title = title;
    if (!rc) rc = figure_draw(&s, path, e);
    for (int i = 0; i < s.n_cells; i++) free((char *)cell[i].path);
    free(title);
    free(text);
    free(cell);
    return rc;
}

int figure_sweep(const char *dir, const struct manifest_doc *d, const struct figure_sweep *o,
                 void (*made)(void *ctx, const char *path), void *ctx, struct dl_err *e)
{
    struct manifest_group *group;
    int64_t n;
    if (manifest_groups(d, &group, &n, e)) return -1;
    int rc = n ? 0 : dl_fail(e, DL_EINPUT, "%s/manifest.json: no images, so there is nothing to draw", dir);
    for (int64_t i = 0; !rc && i < n; i++) {
        char path[PATH_MAX];
        if (out_path(path, dir, o, n == 1, group[i]))
            rc = dl_fail(e, DL_EFAIL, "%.200s...: the name is too long", dir);
        else
            rc = draw_group(dir, d, o, group[i], path, e);
        if (!rc && made) made(ctx, path);
    }
    free(group);
    return rc;
}
