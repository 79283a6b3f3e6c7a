#include "tools/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR = 24 };

void progress_open(struct progress *p, const struct cli *c, int64_t done)
{
    *p = (struct progress){.cli = c, .terminal = isatty(STDERR_FILENO), .first = done, .told = done, .start = cli_seconds(c), .last = -1};
}

void progress_tell(void *user, int64_t done, int64_t images, int step, int steps, int batch)
{
    struct progress *p = user;
    double now = cli_seconds(p->cli), part = steps ? (double)step / steps * batch : 0;
    bool image = !steps;
    if (p->cli->quiet) return;
    if (p->terminal ? !image && now - p->last < 0.1 : done == p->told && now - p->last < 30) return;

    double made = (double)(done - p->first) + part, left = made > 0 ? ((double)(images - done) - part) * (now - p->start) / made : 0;
    char rest[32], line[256], bar[BAR + 1];
    int full = (int)(((double)done + part) / (double)images * BAR);
    memset(bar, '-', BAR);
    memset(bar, '#', (size_t)(full > BAR ? BAR : full));
    bar[BAR] = 0;
    int n = snprintf(line, sizeof line, "%s%s%simage %" PRId64 "/%" PRId64, p->terminal ? "[" : "", p->terminal ? bar : "", p->terminal ? "] " : "",
                     done, images);
    if (steps) n += snprintf(line + n, sizeof line - (size_t)n, ", step %d/%d of %d", step, steps, batch);
    if (made > 0 && done < images) snprintf(line + n, sizeof line - (size_t)n, ", %s left", cli_duration(rest, left));
    int width = (int)strlen(line);
    if (p->terminal) fprintf(stderr, "\r%s%*s", line, p->width > width ? p->width - width : 0, "");
    else fprintf(stderr, "%s\n", line);
    fflush(stderr);
    p->width = width, p->last = now, p->told = done, p->shown = true;
}

void progress_close(struct progress *p)
{
    if (p->terminal && p->shown) fputc('\n', stderr);
    p->shown = false;
}
