#include "tools/bench/gaps.h"

#include <stdlib.h>
#include <string.h>

/* ---- intervals ---- */

static int by_name(const void *a, const void *b)
{
    const struct cuda_span *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_start(const void *a, const void *b)
{
    const struct cuda_span *x = a, *y = b;
    return (x->start_ns > y->start_ns) - (x->start_ns < y->start_ns);
}

/* Puts k at its place among the kernels that took longest. */
static void rank(struct gaps *g, const char *name, int count, int64_t ns)
{
    int at = g->n_top;
    while (at > 0 && g->top[at - 1].ns < ns) at--;
    if (at == GAPS_TOP) return;
    int move = (g->n_top < GAPS_TOP ? g->n_top : GAPS_TOP - 1) - at;
    memmove(&g->top[at + 1], &g->top[at], (size_t)move * sizeof g->top[0]);
    g->top[at] = (struct gaps_kernel){.count = count, .ns = ns};
    gaps_name(name, g->top[at].name);
    if (g->n_top < GAPS_TOP) g->n_top++;
}

void gaps_of(struct gaps *g, struct cuda_span *span, int64_t n)
{
    *g = (struct gaps){.kernels = n};
    if (n < 1) return;
    qsort(span, (size_t)n, sizeof *span, by_name);
    for (int64_t i = 0, from = 0, ns = 0; i < n; i++) {
        ns += span[i].end_ns - span[i].start_ns;
        if (i + 1 < n && !strcmp(span[i].name, span[i + 1].name)) continue;
        rank(g, span[i].name, (int)(i + 1 - from), ns);
        from = i + 1, ns = 0;
    }
    qsort(span, (size_t)n, sizeof *span, by_start);
    int64_t end = span[0].start_ns;
    for (int64_t i = 0; i < n; i++) {
        int64_t gap = span[i].start_ns - end;
        if (gap > 0) {
            g->gap_ns += gap, g->n_gaps += gap > GAPS_LEAST_NS;
            if (gap > g->largest_ns) g->largest_ns = gap;
        }
        if (span[i].end_ns > end) end = span[i].end_ns;
    }
    g->span_ns = end - span[0].start_ns, g->busy_ns = g->span_ns - g->gap_ns;
}

/* ---- names ---- */

struct text {
    const char *at;
    char *out;
    int n, depth;
    bool bad; /* what is at `at` is not understood, or there is no room: nothing more is read */
};

static void put(struct text *t, const char *s, int n)
{
    if (t->bad) return;
    if (t->n + n > GAPS_NAME - 4) { /* keeps room for the dots */
        n = GAPS_NAME - 4 - t->n;
        t->bad = true;
    }
    memcpy(t->out + t->n, s, (size_t)n);
    t->n += n;
}

static bool take(struct text *t, char c)
{
    if (t->bad || *t->at != c) return false;
    t->at++;
    return true;
}

static bool digit(char c) { return c >= '0' && c <= '9'; }

/* The length before an identifier. */
static int length(struct text *t)
{
    int n = 0;
    while (digit(*t->at) && n < 1000) n = 10 * n + (*t->at++ - '0');
    if (n < 1 || memchr(t->at, 0, (size_t)n)) return t->bad = true, 0;
    return n;
}

static void type(struct text *t);
static void name(struct text *t);

static void literal(struct text *t)
{
    if (take(t, 'b')) {
        put(t, *t->at == '1' ? "true" : "false", *t->at == '1' ? 4 : 5);
        t->at += *t->at == '0' || *t->at == '1';
    } else {
        if (digit(*t->at)) /* an enumeration: its value */
            t->at += length(t);
        else if (*t->at && *t->at != 'N')
            t->at++;
        if (take(t, 'n')) put(t, "-", 1);
        const char *from = t->at;
        while (digit(*t->at)) t->at++;
        put(t, from, (int)(t->at - from));
    }
    if (!take(t, 'E')) t->bad = true;
}

/* After "I" or "J". */
static void arguments(struct text *t)
{
    for (bool first = true; !t->bad && !take(t, 'E'); first = false) {
        if (!first) put(t, ", ", 2);
        if (take(t, 'L'))
            literal(t);
        else
            type(t);
    }
}

static void type(struct text *t)
{
    static const char letters[] = "vbcahstijlmxyfd";
    static const char *const names[] = {"void", "bool",  "char", "int8", "uint8", "int16", "uint16", "int",
                                        "uint", "long", "ulong", "int64", "uint64", "float", "double"};
    if (++t->depth > 24) t->bad = true;
    while (take(t, 'P') || take(t, 'R') || take(t, 'K') || take(t, 'O') || take(t, 'V')) {
    }
    const char *known = *t->at ? strchr(letters, *t->at) : NULL;
    if (known && !t->bad) {
        t->at++;
        put(t, names[known - letters], (int)strlen(names[known - letters]));
    } else if (take(t, 'J')) {
        arguments(t);
    } else if (!t->bad) {
        name(t);
    }
    t->depth--;
}

/* One name of a nested one, or the template arguments behind it. */
static void component(struct text *t)
{
    if (take(t, 'I')) {
        put(t, "<", 1);
        arguments(t);
        put(t, ">", 1);
    } else if (take(t, 'S')) { /* "S_", "S1A_": what was named before; "Ss": one of std's */
        while (digit(*t->at) || (*t->at >= 'A' && *t->at <= 'Z')) t->at++;
        if (!take(t, '_') && *t->at) t->at++;
        put(t, "_", 1);
    } else {
        int n = length(t);
        if (!t->bad) put(t, t->at, n);
        t->at += n;
    }
}

/* Of a nested name the last, with its template arguments. */
static void name(struct text *t)
{
    if (take(t, 'N')) {
        int from = t->n;
        while (!t->bad && !take(t, 'E')) {
            if (*t->at != 'I') t->n = from; /* what stood here was a namespace, or a class around it */
            component(t);
        }
        return;
    }
    if (t->at[0] == 'S' && t->at[1] == 't') t->at += 2; /* std:: */
    component(t);
    if (*t->at == 'I') component(t);
}

void gaps_name(const char *mangled, char out[GAPS_NAME])
{
    struct text t = {.at = mangled, .out = out};
    if (strncmp(mangled, "_Z", 2) != 0) {
        put(&t, mangled, (int)strnlen(mangled, GAPS_NAME));
    } else {
        t.at += 2;
        name(&t);
        t.bad = t.bad || t.n == 0;
    }
    if (t.bad) memcpy(out + t.n, "...", 3), t.n += 3; /* put leaves room for them */
    out[t.n] = 0;
}
