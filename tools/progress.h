/* progress.h: how far a sweep is, on stderr: a bar that is redrawn on a terminal, plain lines elsewhere. */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include "tools/cli.h"

struct progress {
    const struct cli *cli;
    bool terminal, shown;
    double start, last;  /* seconds on the command's clock */
    int64_t first;       /* images that were there before */
    int64_t told;        /* images at the last plain line */
    int width;           /* of the line that is to be overwritten */
};

void progress_open(struct progress *p, const struct cli *c, int64_t done);
/* Signature of lens_progress.tell. */
void progress_tell(void *user, int64_t done, int64_t images, int step, int steps, int batch);
void progress_close(struct progress *p);

#endif
