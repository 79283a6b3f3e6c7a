/* csv.h: tables of text from CSV files (RFC 4180), distrusted.
 *
 * Cells stand between commas, rows end with LF or CRLF. A cell that begins with a quote ends with one; inside, commas
 * and line breaks are its text and a quote is written twice. A byte order mark at the beginning and empty lines are
 * skipped. What spreadsheets and pandas write is read; what RFC 4180 does not allow is an error and is not guessed at:
 * rows of another length than the first, a quote inside of a cell that does not begin with one, text behind a closing
 * quote, a quote that never closes, a zero byte.
 *
 * Bytes of cells are taken as they are; nothing is trimmed and no encoding is checked. Errors are DL_EINPUT and name
 * the file and the line, counted from 1 as an editor does.
 */
#ifndef DL_CSV_H
#define DL_CSV_H

#include "engine/err.h"

#include <stddef.h>
#include <stdint.h>

enum {
    CSV_MAX_BYTES = 16 << 20, /* of a file: some 100,000 rows of a sweep over 25 layers */
    CSV_MAX_COLUMNS = 4096,
};

struct csv {
    int n_rows, n_columns; /* at least 1 each; row 0 is the header */
    char **cell;           /* [n_rows * n_columns] each with a 0 at its end; in `text` */
    int *line;             /* [n_rows] the line on which a row begins */
    char *text;
};

int csv_open(struct csv *c, const char *path, struct dl_err *e);
/* From n bytes; `name` stands in messages. */
int csv_open_memory(struct csv *c, const void *data, size_t n, const char *name, struct dl_err *e);
void csv_close(struct csv *c); /* a zeroed struct is fine */

static inline const char *csv_at(const struct csv *c, int row, int column)
{
    return c->cell[(size_t)row * (size_t)c->n_columns + (size_t)column];
}

#endif
