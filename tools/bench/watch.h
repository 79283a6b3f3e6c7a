/* watch.h: what the device did in each step of a program: gaps between its kernels, by CUPTI's records on CUDA. */
#ifndef BENCH_WATCH_H
#define BENCH_WATCH_H

#include "tools/bench/gaps.h"

struct watch; /* owned */

/* Fails with the reason where nothing can be measured: another backend, no CUPTI. Recordings must be made while it is
 * open, and dropped before it is closed. */
int watch_open(struct watch **w, const struct dl_backend *be, struct dl_ctx *ctx, struct dl_err *e);

/* What ran since the last look, or since it was opened. */
int watch_look(struct watch *w, struct gaps *g, struct dl_err *e);

void watch_close(struct watch *w); /* NULL is fine */

#endif
