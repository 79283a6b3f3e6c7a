#include "lens/report.h"
#include "lens/names.h"
#include "lens/outfile.h"
#include "lens/png.h"
#include "lens/report_page.h"
#include "lens/thumb.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SAMPLE = 12, DOTS_PX = 128, CELL_BYTES = 64 }; /* the last: the least that a cell takes, also an empty one */

static const int64_t max_default = (int64_t)64 << 20;
static const int cells[] = {512, 384, 256, 192, 128, 96, 64};
enum { CELLS = sizeof cells / sizeof *cells };

int report_path(char *path, int64_t room, const char *dir, const struct report_opts *o, struct dl_err *e)
{
    int n = o->out ? snprintf(path, (size_t)room, "%s", o->out) : snprintf(path, (size_t)room, "%s/report.html", dir);
    return n < room ? 0 : dl_fail(e, DL_EFAIL, "%.200s...: the name is too long", path);
}

/* ---- what is shown ---- */

static int by_order(const void *x, const void *y)
{
    const struct report_row *a = x, *b = y;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* Where a number stands in a list, or -1. */
static int64_t place_of_seed(const struct report_opts *o, uint64_t seed)
{
    for (int i = 0; i < o->n_seeds; i++)
        if (o->seed[i] == seed) return i;
    return -1;
}

/* The rows that are asked for, in the order asked for: prompts, then their seeds, both as in the manifest unless
 * chosen. */
static int pick_rows(struct report *r, const struct report_opts *o, struct dl_err *e)
{
    const struct manifest_doc *d = r->d;
    struct manifest_group *group;
    int64_t n;
    if (manifest_groups(d, &group, &n, e)) return -1;
    int *place = malloc(((size_t)d->n_prompts + 1) * sizeof *place); /* of each prompt on the page, or -1 */
    r->row = malloc(((size_t)n + 1) * sizeof *r->row);
    if (!place || !r->row) {
        free(place), free(group);
        return dl_fail(e, DL_ENOMEM, "%s: no memory", r->dir);
    }
    for (int i = 0; i < d->n_prompts; i++) place[i] = o->prompt ? -1 : i;
    for (int i = 0; i < o->n_prompts; i++) place[o->prompt[i]] = i;
    /* Seeds keep their order within a prompt; the prompt's place counts first. */
    int64_t span = d->n_images > o->n_seeds ? d->n_images : o->n_seeds;
    for (int64_t i = 0; i < n; i++) {
        int64_t prompt = place[group[i].prompt], seed = o->seed ? place_of_seed(o, group[i].seed) : group[i].first;
        if (prompt < 0 || seed < 0) continue;
        r->row[r->n_rows++] = (struct report_row){group[i].prompt, group[i].seed, prompt * span + seed};
    }
    free(group);
    qsort(r->row, (size_t)r->n_rows, sizeof *r->row, by_order);
    free(place);
    if (!d->n_images) return dl_fail(e, DL_EINPUT, "%s/manifest.json: no images, so there is nothing to show", r->dir);
    if (!r->n_rows && o->seed)
        return dl_fail(e, DL_EUSAGE, "--seeds: no prompt that is shown has seed %" PRIu64 "%s", o->seed[0],
                       o->n_seeds > 1 ? " or another of the list" : "");
    return r->n_rows ? 0 : dl_fail(e, DL_EUSAGE, "--prompts: the sweep has no images of these prompts");
}

/* ---- pictures ---- */

static int image_path(char path[PATH_MAX], const struct report *r, const struct report_row *row, int k,
                      struct dl_err *e)
{
    char file[NAMES_MAX];
    names_image(file, "images", row->prompt, row->seed, k);
    if (snprintf(path, PATH_MAX, "%s/%s", r->dir, file) < PATH_MAX) return 0;
    return dl_fail(e, DL_EFAIL, "%.200s...: the name is too long", r->dir);
}

struct picture {
    uint8_t *data; /* a PNG file, [bytes]; owned */
    int64_t bytes; /* 0: missing */
    int w, h;
    bool reduced;
};

/* Reduces a decoded picture to the page's cells and encodes it. */
static int reduce(struct picture *p, const struct dl_png *png, int w, int h, struct dl_err *e)
{
    uint8_t *rgb = malloc((size_t)w * (size_t)h * 3);
    uint64_t *sum = malloc((size_t)png->w * 3 * sizeof *sum);
    int rc = rgb && sum ? 0 : dl_fail(e, DL_ENOMEM, "no memory for a picture");
    free(p->data);
    p->data = NULL;
    if (!rc) {
        thumb_make(png->rgb, png->w, png->h, rgb, w, h, sum);
        rc = dl_png_encode(rgb, w, h, NULL, 0, &p->data, &p->bytes, e);
    }
    p->w = w, p->h = h, p->reduced = true;
    free(rgb), free(sum);
    return rc;
}

/* A picture as it goes into the page; p->data is the caller's. */
static int load(struct picture *p, const char *path, int cell_px, struct dl_err *e)
{
    *p = (struct picture){0};
    struct dl_png png;
    int w, h;
    if (access(path, F_OK)) return 0;
    if (outfile_read(path, DL_PNG_MAX_FILE, &p->data, &p->bytes, e)) return -1;
    int rc = dl_png_decode(&png, p->data, p->bytes, path, e);
    if (!rc) {
        p->w = png.w, p->h = png.h;
        thumb_size(png.w, png.h, cell_px ? cell_px : INT_MAX, &w, &h);
        if (w < png.w || h < png.h) rc = reduce(p, &png, w, h, e);
        dl_png_close(&png);
    }
    if (rc) free(p->data), p->data = NULL;
    return rc;
}

/* The picture of a row and layer, or its frame. A page that is counted takes the file's size, or the mean of the
 * sample's. */
int report_picture(struct report *r, struct web *to, const struct report_row *row, int k, struct dl_err *e)
{
    char path[PATH_MAX];
    struct stat st;
    struct picture p = {0};
    if (image_path(path, r, row, k, e)) return -1;
    if (!r->counting && load(&p, path, r->cell_px, e)) return -1;
    if (r->counting && !stat(path, &st)) p.bytes = r->counted_bytes ? r->counted_bytes : st.st_size;
    if (!p.bytes) {
        r->missing++;
        web_put(to, "<span class=\"frame missing\" role=\"img\" aria-label=\"");
        report_alt(r, to, row, k);
        web_put(to, ", missing\">missing</span>");
        return 0;
    }
    r->pictures++;
    web_put(to, "<span class=\"frame\"><img src=\"data:image/png;base64,");
    if (p.data)
        web_base64(to, p.data, p.bytes);
    else
        web_skip(to, (p.bytes + 2) / 3 * 4);
    web_put(to, "\" alt=\"");
    report_alt(r, to, row, k);
    /* page.css: upright formats are measured by their height, and those that were made small show their pixels */
    web_putf(to, "\" width=\"%d\" height=\"%d\" class=\"%s%s\"></span>", p.w, p.h, p.h > p.w ? "tall " : "",
             p.w <= DOTS_PX && p.h <= DOTS_PX && !p.reduced ? "dots" : "");
    free(p.data);
    return 0;
}

/* ---- how large ---- */

/* How many bytes a picture at this cell has, the mean of a few that stand far apart; 0 when there is none. */
static int sample(const struct report *r, int cell_px, int64_t *bytes, struct dl_err *e)
{
    int64_t all = r->n_rows * r->n_layers, sum = 0, n = 0;
    for (int64_t i = 0; i < SAMPLE && i < all; i++) {
        int64_t at = all <= SAMPLE ? i : i * (all - 1) / (SAMPLE - 1);
        char path[PATH_MAX];
        struct picture p;
        if (image_path(path, r, &r->row[at / r->n_layers], r->layer[at % r->n_layers], e)) return -1;
        if (load(&p, path, cell_px, e)) return -1;
        if (p.data) sum += p.bytes, n++;
        free(p.data);
    }
    *bytes = n ? (sum + n - 1) / n : 0;
    return 0;
}

/* About how large the page would be at a cell (0: full size). */
static int count(struct report *r, int cell_px, int64_t *bytes, struct dl_err *e)
{
    struct web *to;
    r->counting = true, r->counted_bytes = 0, r->cell_px = cell_px;
    if (cell_px && sample(r, cell_px, &r->counted_bytes, e)) return -1;
    if (web_open(&to, NULL, INT64_MAX, e)) return -1;
    int rc = report_page(r, to, e);
    r->counting = false;
    if (!rc) return web_close(to, bytes, e);
    web_abandon(to);
    return rc;
}

/* 1: written; 0: it became larger than it may be, and is not there. */
static int try_write(struct report *r, const char *path, int cell_px, int64_t max_bytes, int64_t *bytes,
                     struct dl_err *e)
{
    struct web *to;
    r->cell_px = cell_px, r->pictures = r->missing = 0;
    if (web_open(&to, path, max_bytes, e)) return -1;
    int rc = report_page(r, to, e);
    bool full = web_is_full(to);
    if (!rc && !full) return web_close(to, bytes, e) ? -1 : 1;
    web_abandon(to);
    return rc;
}

static double mib(int64_t bytes) { return (double)bytes / (1 << 20); }

static int too_large(const char *path, int64_t bytes, int cell_px, int64_t max_bytes, struct dl_err *e)
{
    char at[48] = "at full size";
    if (cell_px) snprintf(at, sizeof at, "with pictures of %d pixels", cell_px);
    return dl_fail(
        e, DL_EUSAGE,
        "%s: the page would take about %.1f MiB %s, more than %.1f MiB; show a part of the sweep (--prompts, "
        "--seeds, --layers)%s or allow more (--max-size)",
        path, mib(bytes), at, mib(max_bytes), cell_px > cells[CELLS - 1] ? ", smaller pictures (--cell)" : "");
}

/* Writes the page at the cell asked for, or at the first that fits. An estimate says which one to try; should the page
 * be larger than that, it is not finished and the next cell has its turn. */
static int write_fitting(struct report *r, const char *path, const struct report_opts *o, struct report_made *made,
                         struct dl_err *e)
{
    int64_t max_bytes = o->max_bytes ? o->max_bytes : max_default, about = r->n_rows * r->n_layers * CELL_BYTES;
    int cell_px = o->cell_px;
    /* Told without looking for a million pictures. */
    if (about > max_bytes) return too_large(path, about, cell_px ? cell_px : cells[CELLS - 1], max_bytes, e);
    for (int i = -1; i < CELLS; i++) {
        if (!o->cell_px) cell_px = i < 0 ? 0 : cells[i];
        if (count(r, cell_px, &about, e)) return -1;
        if (!cell_px) made->full_bytes = about;
        int rc = about > max_bytes ? 0 : try_write(r, path, cell_px, max_bytes, &made->bytes, e);
        if (rc) {
            made->cell_px = cell_px;
            return rc < 0 ? rc : 0;
        }
        if (o->cell_px) break;
    }
    /* Where the page itself was too large the estimate was too low. */
    return too_large(path, about > max_bytes ? about : max_bytes + 1, cell_px, max_bytes, e);
}

int report_write(const char *dir, const struct manifest_doc *d, const struct report_opts *o, struct report_made *made,
                 struct dl_err *e)
{
    *made = (struct report_made){0};
    struct report r = {.dir = dir,
                       .d = d,
                       .by_block = figure_by_block(o->titles, d),
                       .layer = o->layer ? o->layer : d->layer,
                       .n_layers = o->layer ? o->n_layers : d->n_layers};
    char path[PATH_MAX];
    if (report_path(path, sizeof path, dir, o, e)) return -1;
    int rc = pick_rows(&r, o, e);
    if (!rc && !r.n_layers) rc = dl_fail(e, DL_EINPUT, "%s/manifest.json: no layers, so there is nothing to show", dir);
    if (!rc) rc = write_fitting(&r, path, o, made, e);
    made->rows = (int)r.n_rows, made->pictures = r.pictures, made->missing = r.missing;
    free(r.row);
    return rc;
}
