#include "lens/range.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct asked {
    const char *option; /* "--layers" */
    const char *noun;   /* "layer" */
    const char *owner;  /* "model" */
    int n;              /* how many there are: 0..n-1 */
    const bool *has;    /* [n] which of them, or NULL */
    int add;            /* from the user's number to k */
    bool *seen;         /* [n] */
    struct range *r;
    struct dl_err *e;
};

static int none_such(const struct asked *a, const char *item, int len, long long number)
{
    char list[200];
    size_t at = 0;
    if (!a->has)
        return dl_fail(a->e, DL_EUSAGE, "%s %.*s: there is no %s %lld; this %s has %ss 0..%d", a->option, len, item,
                       a->noun, number, a->owner, a->noun, a->n - 1);
    for (int i = 0; i < a->n && at < sizeof list - 20; i++)
        if (a->has[i]) at += (size_t)snprintf(list + at, sizeof list - at, "%s%d", at ? ", " : "", i);
    return dl_fail(a->e, DL_EUSAGE, "%s %.*s: there is no %s %lld; this %s has %ss %s%s", a->option, len, item, a->noun,
                   number, a->owner, a->noun, list, at < sizeof list - 20 ? "" : ", ...");
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

static bool is_there(const struct asked *a, long long i) { return i >= 0 && i < a->n && (!a->has || a->has[i]); }

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
        for (int i = 0; i < a->n; i++)
            if (is_there(a, i)) take(a, i);
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
        if (!is_there(a, i)) return none_such(a, item, len, number[0]);
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
        if (!is_there(a, i)) return none_such(a, item, len, i);
        take(a, (int)i);
    }
    return 0;
}

static int parse(struct asked a, const char *text)
{
    struct range *r = a.r;
    struct dl_err *e = a.e;
    *r = (struct range){0};
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

int range_parse(struct range *r, const char *text, enum range_unit unit, int n_blocks, struct dl_err *e)
{
    bool blocks = unit == RANGE_BLOCKS;
    return parse((struct asked){.option = blocks ? "--blocks" : "--layers",
                                .noun = blocks ? "block" : "layer",
                                .owner = "model",
                                .n = blocks ? n_blocks : n_blocks + 1,
                                .add = blocks,
                                .r = r,
                                .e = e},
                 text);
}

int range_pick(struct range *r, const char *text, const struct range_of *of, struct dl_err *e)
{
    return parse(
        (struct asked){
            .option = of->option, .noun = of->noun, .owner = of->owner, .n = of->n, .has = of->has, .r = r, .e = e},
        text);
}

void range_close(struct range *r)
{
    free(r->k);
    *r = (struct range){0};
}
