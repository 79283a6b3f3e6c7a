#define _GNU_SOURCE /* strndup */
#include "lens/marks.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* The text without blanks around it: where it begins, and its length. */
static const char *trimmed(const char *s, size_t *n)
{
    while (is_blank(*s)) s++;
    *n = strlen(s);
    while (*n && is_blank(s[*n - 1])) (*n)--;
    return s;
}

static bool is_word(const char *s, const char *word)
{
    size_t n;
    s = trimmed(s, &n);
    return n == strlen(word) && !memcmp(s, word, n);
}

/* A layer's number from the title of a column, or -1. */
static int read_layer(const char *s)
{
    size_t n;
    int k = 0;
    s = trimmed(s, &n);
    if (!n) return -1;
    for (size_t i = 0; i < n; i++) {
        if (!is_digit(s[i])) return -1;
        k = k * 10 + (s[i] - '0');
        if (k > MARKS_LAYER_MAX) return -1;
    }
    return k;
}

/* Digits, or, as pandas writes them, digits with ".0". */
static bool read_seed(const char *s, uint64_t *seed)
{
    size_t n, i = 0;
    uint64_t v = 0;
    s = trimmed(s, &n);
    for (; i < n && is_digit(s[i]); i++) {
        unsigned d = (unsigned)(s[i] - '0');
        if (v > (UINT64_MAX - d) / 10) return false;
        v = v * 10 + d;
    }
    if (!i) return false;
    if (i < n && s[i] == '.')
        for (i++; i < n && s[i] == '0';) i++;
    *seed = v;
    return i == n;
}

enum cell { CELL_NUMBER, CELL_BLANK, CELL_UNREADABLE };

/* A decimal number and nothing else: strtod would also take "inf", "0x1" and blanks. */
static enum cell read_cell(const char *s, double *v)
{
    char digits[64], *end;
    size_t n;
    s = trimmed(s, &n);
    if (!n) return CELL_BLANK;
    if (n >= sizeof digits || strspn(s, "0123456789.eE+-") < n) return CELL_UNREADABLE;
    memcpy(digits, s, n);
    digits[n] = 0;
    *v = strtod(digits, &end);
    return *end || end == digits ? CELL_UNREADABLE : CELL_NUMBER;
}

/* Finds the columns: *prompt, *seed, and column [n_layers] beside m->layer, ascending. */
static int read_header(struct marks *m, int *prompt, int *seed, int **column, struct dl_err *e)
{
    const struct csv *c = &m->csv;
    *prompt = *seed = -1;
    m->layer = calloc((size_t)c->n_columns, sizeof *m->layer);
    *column = calloc((size_t)c->n_columns, sizeof **column);
    if (!m->layer || !*column) return dl_fail(e, DL_ENOMEM, "%s: no memory", m->path);
    for (int i = 0; i < c->n_columns; i++) {
        const char *title = csv_at(c, 0, i);
        int k = read_layer(title), *word = is_word(title, "prompt") ? prompt : is_word(title, "seed") ? seed : NULL;
        int at = m->n_layers;
        while (k >= 0 && at > 0 && m->layer[at - 1] >= k) at--;
        if ((word && *word >= 0) || (k >= 0 && at < m->n_layers && m->layer[at] == k))
            return dl_fail(e, DL_EINPUT, "%s: line %d: two columns \"%.60s\"; take one away", m->path, c->line[0],
                           title);
        if (word) {
            *word = i;
        } else if (k >= 0) {
            size_t behind = (size_t)(m->n_layers - at);
            memmove(m->layer + at + 1, m->layer + at, behind * sizeof *m->layer);
            memmove(*column + at + 1, *column + at, behind * sizeof **column);
            m->layer[at] = k, (*column)[at] = i, m->n_layers++;
        } else if (!m->n_ignored++) {
            m->ignored = title;
        }
    }
    const char *lacks = *prompt < 0    ? "\"prompt\""
                        : *seed < 0    ? "\"seed\""
                        : !m->n_layers ? "with a layer's number"
                                       : NULL;
    if (!lacks) return 0;
    bool other = c->n_columns == 1 && strpbrk(csv_at(c, 0, 0), ";\t");
    return dl_fail(e, DL_EINPUT, "%s: line %d: there is no column %s; %s", m->path, c->line[0], lacks,
                   other ? "save the file with commas between the cells"
                         : "an annotation file has the columns prompt, one for each layer number, and seed");
}

/* Reads the marks of all rows from score [n_rows][n_layers], NaN where missing. */
static int read_rows(struct marks *m, int prompt, int seed, const int *column, double *score, struct dl_err *e)
{
    const struct csv *c = &m->csv;
    for (int r = 0; r < m->n_rows; r++) {
        int line = c->line[r + 1];
        m->prompt[r] = csv_at(c, r + 1, prompt);
        if (!read_seed(csv_at(c, r + 1, seed), &m->seed[r]))
            return dl_fail(e, DL_EINPUT, "%s: line %d, column \"seed\": \"%.60s\" is no whole number of 0..%llu",
                           m->path, line, csv_at(c, r + 1, seed), (unsigned long long)UINT64_MAX);
        for (int i = 0; i < m->n_layers; i++) {
            const char *text = csv_at(c, r + 1, column[i]);
            double v = NAN;
            enum cell kind = read_cell(text, &v);
            if (kind == CELL_NUMBER && !(v >= 0 && v <= 10))
                return dl_fail(
                    e, DL_EINPUT,
                    "%s: line %d, column \"%d\": %.60s is neither 0, 1 nor blank, nor a grade of 0 to 10; other "
                    "scales have to be brought to one of these",
                    m->path, line, m->layer[i], text);
            score[(size_t)r * (size_t)m->n_layers + (size_t)i] = kind == CELL_NUMBER ? v : NAN;
            m->graded |= kind == CELL_NUMBER && v > 1;
            m->n_blank += kind == CELL_BLANK;
            if (kind == CELL_UNREADABLE && !m->n_unreadable++)
                m->unreadable = text, m->unreadable_line = line, m->unreadable_layer = m->layer[i];
        }
    }
    return 0;
}

/* m->csv and m->path are there. */
static int read_marks(struct marks *m, int threshold, struct dl_err *e)
{
    int prompt, seed, *column = NULL, rc = read_header(m, &prompt, &seed, &column, e);
    double *score = NULL;
    m->n_rows = m->csv.n_rows - 1;
    if (!rc && !m->n_rows) rc = dl_fail(e, DL_EINPUT, "%s: has a header and no rows", m->path);
    if (!rc) {
        size_t rows = (size_t)m->n_rows, cells = rows * (size_t)m->n_layers;
        m->mark = malloc(cells);
        m->prompt = calloc(rows, sizeof *m->prompt);
        m->seed = calloc(rows, sizeof *m->seed);
        score = calloc(cells, sizeof *score);
        if (!m->mark || !m->prompt || !m->seed || !score) rc = dl_fail(e, DL_ENOMEM, "%s: no memory", m->path);
    }
    if (!rc) rc = read_rows(m, prompt, seed, column, score, e);
    if (!rc) {
        m->threshold = m->graded ? threshold : 1;
        for (int64_t i = 0; i < (int64_t)m->n_rows * m->n_layers; i++)
            m->mark[i] = isnan(score[i]) ? -1 : score[i] >= m->threshold;
    }
    free(score);
    free(column);
    if (rc) marks_close(m);
    return rc;
}

static int open_with(struct marks *m, struct csv csv, const char *name, int threshold, struct dl_err *e)
{
    *m = (struct marks){.csv = csv, .path = strdup(name)};
    marks_name_read(&m->name, name);
    if (m->path && m->name.series && m->name.question && m->name.model) return read_marks(m, threshold, e);
    marks_close(m);
    return dl_fail(e, DL_ENOMEM, "%s: no memory", name);
}

int marks_open(struct marks *m, const char *path, int threshold, struct dl_err *e)
{
    struct csv csv;
    *m = (struct marks){0};
    return csv_open(&csv, path, e) ? -1 : open_with(m, csv, path, threshold, e);
}

int marks_open_memory(struct marks *m, const void *data, size_t n, const char *name, int threshold, struct dl_err *e)
{
    struct csv csv;
    *m = (struct marks){0};
    return csv_open_memory(&csv, data, n, name, e) ? -1 : open_with(m, csv, name, threshold, e);
}

void marks_close(struct marks *m)
{
    free(m->path);
    marks_name_close(&m->name);
    free(m->layer);
    free(m->mark);
    free(m->prompt);
    free(m->seed);
    csv_close(&m->csv);
    *m = (struct marks){0};
}
