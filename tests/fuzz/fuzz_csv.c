/* Any bytes as a CSV file of annotations: the table is whole, the marks are in their range, and the curves and bars
 * made of them add up. */
#include "lens/curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

static void try_table(const uint8_t *data, size_t n)
{
    struct csv c;
    struct dl_err e = {0};
    if (csv_open_memory(&c, data, n, "fuzz", &e)) {
        CHECK(!c.cell && !c.text && e.code && *e.msg);
        return;
    }
    CHECK(c.n_rows > 0 && c.n_columns > 0 && c.n_columns <= CSV_MAX_COLUMNS);
    size_t bytes = 0;
    for (int r = 0; r < c.n_rows; r++) {
        CHECK(c.line[r] > (r ? c.line[r - 1] : 0));
        for (int i = 0; i < c.n_columns; i++) bytes += strlen(csv_at(&c, r, i));
    }
    CHECK(bytes <= n);
    csv_close(&c);
}

static void try_curve(const struct marks *m, enum curves_rule rule)
{
    struct curve c;
    CHECK(!curves_compute(&c, m, rule, NULL));
    CHECK(c.n_points == m->n_layers && c.n_seeds > 0 && c.n_seeds <= m->n_rows && c.n_final <= c.n_images);
    for (int i = 0; i < c.n_points; i++) {
        const struct curve_point *p = &c.point[i];
        CHECK(p->right <= p->n && p->n <= c.n_images && p->seeds <= c.n_seeds && (p->seeds > 0) == (p->n > 0));
        CHECK(isnan(p->mean) == !p->n && !(p->mean < 0 || p->mean > 100.0001) && !(p->sd < 0 || p->sd > 100));
        CHECK(!i || p->k > c.point[i - 1].k);
    }
    CHECK(isnan(c.earliest) == !c.n_final && !(c.earliest > c.stable));
    curves_close(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct marks m;
    struct dl_err e = {0};
    try_table(data, n);
    if (marks_open_memory(&m, data, n, "series_IsCorrect_df.csv", 6, &e)) {
        CHECK(!m.mark && e.code && *e.msg);
        return 0;
    }
    int64_t missing = 0;
    for (int r = 0; r < m.n_rows; r++)
        for (int i = 0; i < m.n_layers; i++) {
            CHECK(marks_at(&m, r, i) >= -1 && marks_at(&m, r, i) <= 1);
            missing += marks_at(&m, r, i) < 0;
        }
    CHECK(missing == m.n_blank + m.n_unreadable);
    try_curve(&m, CURVES_FINAL);
    try_curve(&m, CURVES_ALL);
    struct curves_bars b;
    CHECK(!curves_bars(&b, &m, &m, &m, &e));
    CHECK(!b.first && !b.second && b.tie == b.n && !b.n_unmatched); /* the same nouns at once, in every image */
    marks_close(&m);
    return 0;
}
