#include "lens/curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int final_of(const struct marks *m, int row) { return marks_at(m, row, m->n_layers - 1); }

/* The cells of one seed at one layer. */
struct tally {
    int64_t n, right;
};

static double percent(int64_t part, int64_t whole) { return 100.0 * (double)part / (double)whole; }

/* Mean and sample standard deviation over the seeds that have cells. */
static void over_seeds(struct curve_point *p, const struct tally *t, int n_seeds)
{
    double sum = 0, squares = 0;
    for (int s = 0; s < n_seeds; s++) {
        if (!t[s].n) continue;
        sum += percent(t[s].right, t[s].n);
        p->seeds++;
    }
    p->mean = p->seeds ? sum / p->seeds : NAN;
    for (int s = 0; s < n_seeds; s++) {
        double d = t[s].n ? percent(t[s].right, t[s].n) - p->mean : 0;
        squares += d * d;
    }
    p->sd = p->seeds > 1 ? sqrt(squares / (p->seeds - 1)) : NAN;
}

/* Curve points by a rule. seed_of [n_rows] are places among the n_seeds; t [n_seeds] is scratch. */
static void fill_points(struct curve_point *point, const struct marks *m, enum curves_rule rule, const int *seed_of,
                        struct tally *t, int n_seeds)
{
    for (int i = 0; i < m->n_layers; i++) {
        struct curve_point *p = &point[i];
        *p = (struct curve_point){.k = m->layer[i]};
        memset(t, 0, (size_t)n_seeds * sizeof *t);
        for (int r = 0; r < m->n_rows; r++) {
            int mark = marks_at(m, r, i);
            if (mark < 0 || (rule == CURVES_FINAL && final_of(m, r) != 1)) continue;
            t[seed_of[r]].n++, p->n++;
            t[seed_of[r]].right += mark, p->right += mark;
        }
        over_seeds(p, t, n_seeds);
        if (rule == CURVES_ALL) p->mean = p->n ? percent(p->right, p->n) : NAN, p->sd = NAN;
    }
}

static void derive(struct curve *c, const struct marks *m)
{
    double earliest = 0, stable = 0;
    for (int r = 0; r < m->n_rows; r++) {
        if (final_of(m, r) != 1) continue;
        int first = 0, from = m->n_layers - 1;
        while (marks_at(m, r, first) != 1) first++;
        while (from > 0 && marks_at(m, r, from - 1) == 1) from--;
        earliest += m->layer[first];
        stable += m->layer[from];
        c->n_final++;
    }
    c->earliest = c->n_final ? earliest / (double)c->n_final : NAN;
    c->stable = c->n_final ? stable / (double)c->n_final : NAN;
}

/* Numbers the seeds of the rows by their size. Returns how many there are, or -1 without memory. */
static int number_seeds(const struct marks *m, int *seed_of)
{
    size_t rows = (size_t)m->n_rows;
    uint64_t *seed = malloc(rows * sizeof *seed);
    int n = 0;
    if (!seed) return -1;
    memcpy(seed, m->seed, rows * sizeof *seed);
    qsort(seed, rows, sizeof *seed, by_number);
    for (int r = 0; r < m->n_rows; r++)
        if (!r || seed[r] != seed[n - 1]) seed[n++] = seed[r];
    for (int r = 0; r < m->n_rows; r++) {
        uint64_t *at = bsearch(&m->seed[r], seed, (size_t)n, sizeof *seed, by_number);
        seed_of[r] = (int)(at - seed);
    }
    free(seed);
    return n;
}

int curves_compute(struct curve *c, const struct marks *m, enum curves_rule rule, struct dl_err *e)
{
    *c = (struct curve){.n_points = m->n_layers, .n_images = m->n_rows, .half = -1};
    int *seed_of = calloc((size_t)m->n_rows, sizeof *seed_of);
    struct tally *t = NULL;
    c->point = calloc((size_t)m->n_layers, sizeof *c->point);
    if (seed_of) c->n_seeds = number_seeds(m, seed_of);
    if (seed_of && c->n_seeds > 0) t = calloc((size_t)c->n_seeds, sizeof *t);
    int rc = c->point && t ? 0 : dl_fail(e, DL_ENOMEM, "%s: no memory", m->path);
    if (!rc) {
        derive(c, m);
        fill_points(c->point, m, CURVES_FINAL, seed_of, t, c->n_seeds);
        for (int i = 0; i < m->n_layers && c->half < 0; i++)
            if (c->point[i].mean >= 50) c->half = c->point[i].k;
        if (rule != CURVES_FINAL) fill_points(c->point, m, rule, seed_of, t, c->n_seeds);
    }
    free(seed_of);
    free(t);
    if (rc) curves_close(c);
    return rc;
}

void curves_close(struct curve *c)
{
    free(c->point);
    *c = (struct curve){0};
}

/* Rows in an order in which those of the same image stand at the same place in two files. */
struct place {
    const char *prompt;
    uint64_t seed;
    int row;
};

static int same_image(const struct place *a, const struct place *b)
{
    int c = strcmp(a->prompt, b->prompt);
    return c ? c : by_number(&a->seed, &b->seed);
}

static int by_image(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    int c = same_image(x, y);
    return c ? c : (x->row > y->row) - (x->row < y->row);
}

static struct place *sorted_rows(const struct marks *m)
{
    struct place *p = malloc((size_t)m->n_rows * sizeof *p);
    for (int r = 0; p && r < m->n_rows; r++) p[r] = (struct place){m->prompt[r], m->seed[r], r};
    if (p) qsort(p, (size_t)m->n_rows, sizeof *p, by_image);
    return p;
}

/* The row of `want` in p [n], from *at on, or -1. A row that was found is passed over: of several the next is found. */
static int take_row(const struct place *p, int n, int *at, const struct place *want)
{
    while (*at < n && same_image(&p[*at], want) < 0) ++*at;
    return *at < n && !same_image(&p[*at], want) ? p[(*at)++].row : -1;
}

static void decide(struct curves_bars *b, const struct marks *first, int r1, const struct marks *second, int r2)
{
    b->n++;
    for (int i = 0; i < first->n_layers; i++) {
        bool one = marks_at(first, r1, i) == 1, two = marks_at(second, r2, i) == 1;
        if (one == two) continue;
        b->first += one, b->second += two;
        return;
    }
    b->tie++;
}

static bool same_layers(const struct marks *a, const struct marks *b)
{
    return a->n_layers == b->n_layers && !memcmp(a->layer, b->layer, (size_t)a->n_layers * sizeof *a->layer);
}

int curves_bars(struct curves_bars *b, const struct marks *correct, const struct marks *first,
                const struct marks *second, struct dl_err *e)
{
    *b = (struct curves_bars){0};
    const struct marks *const of[] = {correct, first, second};
    for (int i = 1; i < 3; i++)
        if (!same_layers(correct, of[i]))
            return dl_fail(e, DL_EINPUT, "%s: has other layers than %s; one series has the same in all its files",
                           of[i]->path, correct->path);
    struct place *p[3];
    int at[2] = {0, 0};
    for (int i = 0; i < 3; i++) p[i] = sorted_rows(of[i]);
    int rc = p[0] && p[1] && p[2] ? 0 : dl_fail(e, DL_ENOMEM, "%s: no memory", correct->path);
    for (int r = 0; !rc && r < correct->n_rows; r++) {
        /* Also for rows that are not kept, so that the n-th of several finds the n-th. */
        int r1 = take_row(p[1], first->n_rows, &at[0], &p[0][r]);
        int r2 = take_row(p[2], second->n_rows, &at[1], &p[0][r]);
        if (final_of(correct, p[0][r].row) != 1) continue;
        if (r1 < 0 || r2 < 0)
            b->n_unmatched++;
        else
            decide(b, first, r1, second, r2);
    }
    for (int i = 0; i < 3; i++) free(p[i]);
    return rc;
}

int curves_group(int *group, int *n_groups, const struct marks *m, int n, struct dl_err *e)
{
    static const char *const question[] = {"IsCorrect", "IsFirstClass", "IsSecondClass"};
    *n_groups = 0;
    for (int i = 0; i < n; i++) {
        int q = 0, g = 0;
        while (q < 3 && strcmp(m[i].name.question, question[q])) q++;
        if (q == 3)
            return dl_fail(
                e, DL_EUSAGE,
                "%s: bars are made from files whose names have IsCorrect, IsFirstClass or IsSecondClass behind "
                "the series and before the model, such as syntax_head_IsCorrect_df.csv",
                m[i].path);
        for (; g < *n_groups; g++) {
            int other = -1;
            for (int j = 0; j < 3; j++)
                if (group[3 * g + j] >= 0) other = group[3 * g + j];
            if (!strcmp(m[other].name.series, m[i].name.series) && !strcmp(m[other].name.model, m[i].name.model)) break;
        }
        if (g == *n_groups) group[3 * g] = group[3 * g + 1] = group[3 * g + 2] = -1, ++*n_groups;
        if (group[3 * g + q] >= 0)
            return dl_fail(e, DL_EUSAGE, "%s: answers the same as %s; give one of them", m[i].path,
                           m[group[3 * g + q]].path);
        group[3 * g + q] = i;
    }
    for (int g = 0; g < *n_groups; g++)
        for (int q = 0; q < 3; q++) {
            int there = group[3 * g] >= 0 ? group[3 * g] : group[3 * g + 1] >= 0 ? group[3 * g + 1] : group[3 * g + 2];
            if (group[3 * g + q] < 0)
                return dl_fail(e, DL_EUSAGE, "%s: bars need the file of %s too", m[there].path, question[q]);
        }
    return 0;
}
