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

static const char anonymous[] = "(anonymous namespace)::";

/* Where the name's parameters begin: a "(" outside of template arguments that is not an anonymous namespace's. */
static size_t name_ends(const char *s)
{
    int depth = 0;
    size_t i = 0;
    for (; s[i]; i++) {
        depth += (s[i] == '<') - (s[i] == '>' && depth > 0);
        if (s[i] == '(' && depth == 0 && strncmp(s + i, anonymous, sizeof anonymous - 1) != 0) break;
    }
    return i;
}

void gaps_name(const char *name, char out[GAPS_NAME])
{
    size_t end = name_ends(name), n = 0, from = 0; /* from: where the identifier under way begins in out */
    for (size_t i = 0; i < end; i++) {
        if (name[i] == ':' && name[i + 1] == ':') { /* what stood before it was a namespace, or a class around it */
            n = from, i++;
            continue;
        }
        if (!strncmp(name + i, anonymous, sizeof anonymous - 1)) {
            i += sizeof anonymous - 2;
            continue;
        }
        if (n == GAPS_NAME - 4) {
            memcpy(out + n, "...", 3), n += 3;
            break;
        }
        out[n++] = name[i];
        if (strchr("<, ", name[i])) from = n;
        if (n == 5 && !memcmp(out, "void ", 5)) n = from = 0; /* a template's result */
    }
    out[n] = 0;
}
