/* progress.h: how far a sweep is, on stderr: a bar that is redrawn on a terminal, plain lines elsewhere. */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include "tools/cli.h"

struct progress {
    const struct cli *cli;
    bool terminal, shown;
    double start, last; /* seconds on the command's clock: of the first call and the last line */
    double from;        /* images at the first call, those under way in part; -1 before it */
    int64_t ready;      /* images whose steps are done once those under way are */
    int steps;          /* of one image */
    double decoding;    /* what decoding takes, in steps; 2, for the caller to know better */
    int64_t told;       /* images at the last plain line */
    int width;          /* of the line that is to be overwritten */
    double step_start;  /* when the step under way began; < 0 outside of steps */
    double *step_ms;    /* [n_steps] time of every evaluation of the denoiser but the first of a batch */
    int64_t n_steps;
};

void progress_open(struct progress *p, const struct cli *c);
/* Signature of lens_progress.tell. */
void progress_tell(void *user, int64_t done, int64_t images, int step, int steps, int batch);
/* Signature of lens_progress.part. */
void progress_part(void *user, int64_t done, int64_t images, int step, int steps, int batch, double part);
/* Median and least time of one evaluation in milliseconds; 0 when none was timed. A batch's first step, which shares
 * more work than the others, is left out. */
void progress_step_ms(struct progress *p, double *median, double *least);
void progress_close(struct progress *p);

#endif
