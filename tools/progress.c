#include "tools/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAR = 24 };

void progress_open(struct progress *p, const struct cli *c)
{
    *p = (struct progress){.cli = c,
                           .terminal = isatty(STDERR_FILENO),
                           .from = -1,
                           .start = cli_seconds(c),
                           .last = -1,
                           .decoding = 2,
                           .step_start = -1};
}

/* Steps follow each other without a pause, so one ends where the next begins. */
static void time_step(struct progress *p, double now, int step)
{
    if (step > 1 && p->step_start >= 0) {
        if (!(p->n_steps & (p->n_steps - 1))) { /* room grows at powers of two */
            double *more = realloc(p->step_ms, (size_t)(p->n_steps ? 2 * p->n_steps : 1) * sizeof *more);
            if (!more) return;
            p->step_ms = more;
        }
        p->step_ms[p->n_steps++] = (now - p->step_start) * 1e3;
    }
    p->step_start = step ? now : -1;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void progress_step_ms(struct progress *p, double *median, double *least)
{
    *median = *least = 0;
    if (!p->n_steps) return;
    qsort(p->step_ms, (size_t)p->n_steps, sizeof *p->step_ms, by_size);
    *median = p->step_ms[p->n_steps / 2], *least = p->step_ms[0];
}

/* inner: the part that is done of the step after `step`; < 0 when `step` has just ended. */
static void show(struct progress *p, int64_t done, int64_t images, int step, int steps, int batch, double inner)
{
    double now = cli_seconds(p->cli), at = inner > 0 ? step + inner : step;
    bool image = !steps;
    if (steps) p->ready = done + batch, p->steps = steps;
    /* Images under way count by their steps, and by decoding. */
    double part = p->ready > done ? (double)(p->ready - done) * (steps ? at : p->steps) / (p->steps + p->decoding) : 0;
    if (p->from < 0) p->from = (double)done + part, p->told = image ? done - 1 : done, p->start = now;
    if (p->cli->quiet) return;
    if (p->terminal ? !image && now - p->last < 0.1 : done == p->told && now - p->last < 30) return;

    double made = (double)done + part - p->from,
           left = made > 0 ? ((double)(images - done) - part) * (now - p->start) / made : 0;
    char rest[32], line[256], bar[BAR + 1];
    int full = (int)(((double)done + part) / (double)images * BAR);
    memset(bar, '-', BAR);
    memset(bar, '#', (size_t)(full > BAR ? BAR : full));
    bar[BAR] = 0;
    int n = snprintf(line, sizeof line, "%s%s%simage %" PRId64 "/%" PRId64, p->terminal ? "[" : "",
                     p->terminal ? bar : "", p->terminal ? "] " : "", done, images);
    if (steps) n += snprintf(line + n, sizeof line - (size_t)n, ", step %d/%d", inner < 0 ? step : step + 1, steps);
    if (steps && inner >= 0) n += snprintf(line + n, sizeof line - (size_t)n, " (%.0f %%)", 100 * inner);
    if (steps && batch == 1) n += snprintf(line + n, sizeof line - (size_t)n, " of the next");
    if (steps && batch > 1) n += snprintf(line + n, sizeof line - (size_t)n, " of the next %d", batch);
    if (made > 0 && done < images) snprintf(line + n, sizeof line - (size_t)n, ", %s left", cli_duration(rest, left));
    int width = (int)strlen(line);
    if (p->terminal)
        fprintf(stderr, "\r%s%*s", line, p->width > width ? p->width - width : 0, "");
    else
        fprintf(stderr, "%s\n", line);
    fflush(stderr);
    p->width = width, p->last = now, p->told = done, p->shown = true;
}

void progress_tell(void *user, int64_t done, int64_t images, int step, int steps, int batch)
{
    struct progress *p = user;
    time_step(p, cli_seconds(p->cli), step);
    show(p, done, images, step, steps, batch, -1);
}

void progress_part(void *user, int64_t done, int64_t images, int step, int steps, int batch, double part)
{
    show(user, done, images, step, steps, batch, part);
}

void progress_close(struct progress *p)
{
    if (p->terminal && p->shown) fputc('\n', stderr);
    p->shown = false;
    free(p->step_ms);
    p->step_ms = NULL, p->n_steps = 0;
}
