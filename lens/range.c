#include "lens/range.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct asked {
    const char *option; /* "--layers" */
    const char *noun;   /* "layer" */
    int n;              /* how many there are: 0..n-1 */
    int add;            /* from the user's number to k */
    bool *seen;         /* [n] */
    struct range *r;
    struct dl_err *e;
};

static int none_such(const struct asked *a, const char *item, int len, long long number)
{
    return dl_fail(a->e, DL_EUSAGE, "%s %.*s: there is no %s %lld; this model has %ss 0..%d", a->option, len, item,
                   a->noun, number, a->noun, a->n - 1);
}

static int not_understood(const struct asked *a, const char *item, int len)
{
    return dl_fail(a->e, DL_EUSAGE,
                   "%s: \"%.*s\" is not a %s; give numbers 0..%d, start:stop:step, \"all\" or \"last\", with commas "
                   "between",
                   a->option, len < 60 ? len : 60, item, a->noun, a->n - 1);
}

static void take(struct asked *a, int i)
{
    if (a->seen[i]) return;
    a->seen[i] = true;
    a->r->k[a->r->n++] = i + a->add;
}

/* Reads one number that ends at `end` or at a colon; *given is false when there is none. */
static int read_number(const char **p, const char *end, long long *value, bool *given)
{
    char digits[24];
    size_t n = 0;
    while (*p < end && **p != ':') {
        if (n + 1 >= sizeof digits) return -1;
        digits[n++] = *(*p)++;
    }
    digits[n] = 0;
    *given = n > 0;
    if (!n) return 0;
    if (strspn(digits[0] == '-' || digits[0] == '+' ? digits + 1 : digits, "0123456789") !=
            n - (digits[0] == '-' || digits[0] == '+') ||
        digits[n - 1] < '0')
        return -1;
    errno = 0;
    *value = strtoll(digits, NULL, 10);
    /* Far outside of any model, and far enough inside long long for the sums below. */
    return errno || *value > 1000000000 || *value < -1000000000 ? -1 : 0;
}

static int take_item(struct asked *a, const char *item, int len)
{
    const char *p = item, *end = item + len;
    if (len == 3 && !memcmp(item, "all", 3)) {
        for (int i = 0; i < a->n; i++) take(a, i);
        return 0;
    }
    if (len == 4 && !memcmp(item, "last", 4)) {
        take(a, a->n - 1);
        return 0;
    }
    long long number[3] = {0, 0, 1};
    bool given[3] = {false, false, false};
    int parts = 0;
    for (;; p++) {
        if (parts == 3 || read_number(&p, end, &number[parts], &given[parts])) return not_understood(a, item, len);
        parts++;
        if (p == end) break;
    }
    if (parts == 1) {
        if (!given[0]) return not_understood(a, item, len);
        long long i = number[0] < 0 ? number[0] + a->n : number[0];
        if (i < 0 || i >= a->n) return none_such(a, item, len, number[0]);
        take(a, (int)i);
        return 0;
    }
    long long step = given[2] ? number[2] : 1;
    if (!step) return dl_fail(a->e, DL_EUSAGE, "%s %.*s: the step must not be 0", a->option, len, item);
    for (int i = 0; i < 2; i++)
        if (given[i] && number[i] < 0) {
            /* Python lets a stop of -(n + 1) through and cuts it; here it names no place. */
            if (number[i] + a->n < 0) return none_such(a, item, len, number[i]);
            number[i] += a->n;
        }
    long long start = given[0] ? number[0] : step > 0 ? 0 : a->n - 1;
    long long stop = given[1] ? number[1] : step > 0 ? a->n : -1;
    for (long long i = start; step > 0 ? i < stop : i > stop; i += step) {
        if (i >= a->n) return none_such(a, item, len, i);
        take(a, (int)i);
    }
    return 0;
}

int range_parse(struct range *r, const char *text, enum range_unit unit, int n_blocks, struct dl_err *e)
{
    *r = (struct range){0};
    bool blocks = unit == RANGE_BLOCKS;
    struct asked a = {.option = blocks ? "--blocks" : "--layers",
                      .noun = blocks ? "block" : "layer",
                      .n = blocks ? n_blocks : n_blocks + 1,
                      .add = blocks,
                      .r = r,
                      .e = e};
    r->k = calloc((size_t)a.n, sizeof *r->k);
    a.seen = calloc((size_t)a.n, sizeof *a.seen);
    int rc = r->k && a.seen ? 0 : dl_fail(e, DL_ENOMEM, "%s: no memory", a.option);
    for (const char *p = text; !rc;) {
        const char *next = strchr(p, ',');
        const char *stop = next ? next : p + strlen(p);
        const char *last = stop;
        while (p < last && (*p == ' ' || *p == '\t')) p++;
        while (last > p && (last[-1] == ' ' || last[-1] == '\t')) last--;
        rc = last - p > 100 ? not_understood(&a, p, 60) : take_item(&a, p, (int)(last - p));
        if (!next) break;
        p = next + 1;
    }
    free(a.seen);
    if (!rc && !r->n) rc = dl_fail(e, DL_EUSAGE, "%s %.100s: this selects no %s", a.option, text, a.noun);
    if (rc) range_close(r);
    return rc;
}

void range_close(struct range *r)
{
    free(r->k);
    *r = (struct range){0};
}
