#include "loaders/csv.h"
#include "loaders/json_read.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A walk over the text. Cells are unquoted where they stand: what is written never overtakes what is read. */
struct walk {
    struct csv *c;
    char *at, *end;
    int line;           /* of `at` */
    size_t n, capacity; /* cells */
    int row_capacity;
    const char *name;
    struct dl_err *e;
};

static int no_memory(const struct walk *w) { return dl_fail(w->e, DL_ENOMEM, "%s: no memory for its cells", w->name); }

static int add_cell(struct walk *w, char *cell)
{
    if (w->n == w->capacity) {
        size_t more = w->capacity ? w->capacity * 2 : 256;
        char **grown = realloc(w->c->cell, more * sizeof *grown);
        if (!grown) return no_memory(w);
        w->c->cell = grown, w->capacity = more;
    }
    w->c->cell[w->n++] = cell;
    return 0;
}

static int add_row(struct walk *w, int line)
{
    if (w->c->n_rows == w->row_capacity) {
        int more = w->row_capacity ? w->row_capacity * 2 : 64;
        int *grown = realloc(w->c->line, (size_t)more * sizeof *grown);
        if (!grown) return no_memory(w);
        w->c->line = grown, w->row_capacity = more;
    }
    w->c->line[w->c->n_rows++] = line;
    return 0;
}

/* The length of the line break at p, or 0: LF, CRLF, and a CR that ends the file. */
static int line_break(const char *p, const char *end)
{
    if (p < end && *p == '\n') return 1;
    if (p < end && *p == '\r') return p + 1 == end ? 1 : p[1] == '\n' ? 2 : 0;
    return 0;
}

/* Reads one cell up to the comma or line break behind it. *stop: where its text ends, for the 0. */
static int read_cell(struct walk *w, int column, char **cell, char **stop)
{
    if (w->at == w->end || *w->at != '"') {
        *cell = w->at;
        for (; w->at < w->end && *w->at != ',' && !line_break(w->at, w->end); w->at++)
            if (*w->at == '"')
                return dl_fail(w->e, DL_EINPUT,
                               "%s: line %d, cell %d: a quote inside of a cell that does not begin with one; put the "
                               "whole cell into quotes and write this one twice",
                               w->name, w->line, column + 1);
        *stop = w->at;
        return 0;
    }
    int line = w->line;
    char *to = *cell = ++w->at;
    for (;; w->at++) {
        if (w->at == w->end)
            return dl_fail(
                w->e, DL_EINPUT,
                "%s: line %d, cell %d: the quote that begins this cell never closes; the file may be cut off", w->name,
                line, column + 1);
        if (*w->at == '"') {
            if (w->at + 1 == w->end || w->at[1] != '"') break;
            w->at++;
        }
        w->line += *w->at == '\n';
        *to++ = *w->at;
    }
    *stop = to;
    w->at++;
    if (w->at < w->end && *w->at != ',' && !line_break(w->at, w->end))
        return dl_fail(w->e, DL_EINPUT,
                       "%s: line %d, cell %d: text behind the closing quote; a quote inside of a cell is written twice",
                       w->name, w->line, column + 1);
    return 0;
}

static int read_row(struct walk *w)
{
    struct csv *c = w->c;
    int line = w->line, columns = 0;
    if (add_row(w, line)) return -1;
    for (bool more = true; more; columns++) {
        char *cell = NULL, *stop = NULL;
        if (columns == CSV_MAX_COLUMNS)
            return dl_fail(w->e, DL_EINPUT, "%s: line %d has more than %d cells", w->name, line, CSV_MAX_COLUMNS);
        if (read_cell(w, columns, &cell, &stop) || add_cell(w, cell)) return -1;
        more = w->at < w->end && *w->at == ',';
        int skip = more ? 1 : line_break(w->at, w->end);
        w->at += skip;
        *stop = 0; /* over the comma, the line break, the closing quote or the 0 behind the file */
    }
    w->line++;
    if (c->n_rows == 1) c->n_columns = columns;
    if (columns == c->n_columns) return 0;
    return dl_fail(w->e, DL_EINPUT,
                   "%s: line %d has %d cell%s and the header has %d; a comma inside of a cell needs "
                   "quotes around the cell",
                   w->name, line, columns, columns == 1 ? "" : "s", c->n_columns);
}

/* Takes `text` [n], with a 0 behind it, over. */
static int parse(struct csv *c, char *text, size_t n, const char *name, struct dl_err *e)
{
    *c = (struct csv){.text = text};
    struct walk w = {.c = c, .at = text, .end = text + n, .line = 1, .name = name, .e = e};
    int rc = 0;
    const char *zero = memchr(text, 0, n);
    if (zero)
        rc = dl_fail(e, DL_EINPUT, "%s: a zero byte at byte %zu: this is no CSV text; save it as CSV in UTF-8", name,
                     (size_t)(zero - text));
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) w.at += 3;
    while (!rc && w.at < w.end) {
        int empty = line_break(w.at, w.end);
        w.at += empty, w.line += empty > 0;
        if (!empty) rc = read_row(&w);
    }
    if (!rc && !c->n_rows) rc = dl_fail(e, DL_EINPUT, "%s: is empty", name);
    if (rc) csv_close(c);
    return rc;
}

int csv_open_memory(struct csv *c, const void *data, size_t n, const char *name, struct dl_err *e)
{
    *c = (struct csv){0};
    if (n > CSV_MAX_BYTES)
        return dl_fail(e, DL_EINPUT, "%s: has %zu bytes, more than the %d that such a file may have", name, n,
                       CSV_MAX_BYTES);
    char *text = malloc(n + 1);
    if (!text) return dl_fail(e, DL_ENOMEM, "%s: no memory for its %zu bytes", name, n);
    if (n) memcpy(text, data, n);
    text[n] = 0;
    return parse(c, text, n, name, e);
}

int csv_open(struct csv *c, const char *path, struct dl_err *e)
{
    char *text;
    size_t n;
    *c = (struct csv){0};
    return js_slurp(path, CSV_MAX_BYTES, &text, &n, e) ? -1 : parse(c, text, n, path, e);
}

void csv_close(struct csv *c)
{
    free(c->cell);
    free(c->line);
    free(c->text);
    *c = (struct csv){0};
}
