/* writer.h: the thread that turns pictures into PNG files while the model computes the next ones.
 *
 * A bounded queue: writer_push copies the picture and returns at once, or waits while the queue is full. Pictures are
 * written in the order pushed. After each one the `done` function is called on the writer's thread (manifest_done
 * fits). The first error, of a file or of `done`, stays: what is still queued is dropped, and the next push and the
 * close report it. What was finished before stays finished.
 */
#ifndef LENS_WRITER_H
#define LENS_WRITER_H

#include "engine/err.h"
#include "lens/png.h"

#include <stdint.h>

struct writer;

struct writer_job {
    const char *path;   /* where to; copied */
    int64_t index;      /* the caller's number of this picture, handed to `done` */
    const uint8_t *rgb; /* [h][w][3]; copied */
    int w, h;
    const struct dl_png_text *text; /* [n_text]; copied */
    int n_text;
};

/* `sha256` is that of the file's bytes. Returns < 0 with *e written to stop the writer. */
typedef int (*writer_done)(void *ctx, int64_t index, const char *sha256, int64_t bytes, struct dl_err *e);

/* `queue` pictures at most wait (at least 1). `done` may be NULL. */
int writer_open(struct writer **w, int queue, writer_done done, void *ctx, struct dl_err *e);
int writer_push(struct writer *w, const struct writer_job *job, struct dl_err *e);
/* Waits until everything pushed is written and reported, ends the thread and frees. NULL is fine. */
int writer_close(struct writer *w, struct dl_err *e);

#endif
