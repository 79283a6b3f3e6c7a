/* clock.h: how long one op takes, and what the machine can do at most.
 *
 * An op goes round its sets (case.h), which are together larger than the last cache. On a backend that records (CUDA) a
 * round is one graph of at least a few hundred microseconds and its replays are timed by device events, so no launch is
 * in the numbers; otherwise each call is timed by itself with the host's clock. Everything is warmed up before.
 */
#ifndef BENCH_CLOCK_H
#define BENCH_CLOCK_H

#include "tools/bench/case.h"

struct timing {
    double median_us, min_us;
    int repeats;
};

double clock_us(void); /* the host's, monotonic */

/* repeat 0: until the median is steady enough, 5 to 50 times within about a second. */
int clock_case(struct case_run *c, int repeat, struct timing *t, struct dl_err *e);

/* Median and least of n values; the array is sorted. */
struct timing timing_of(double *us, int n);

/* Last-level cache that a timing loop must not live in: of the CPU within 8..64 MiB, or the GPU's L2. */
int64_t clock_cache_bytes(const struct dl_backend *be, struct dl_ctx *ctx);

/* The roof of this machine, measured: a large product in each type that is asked for, and a large copy. */
struct roof {
    double flops[DL_NTYPES]; /* FLOP/s; 0: not measured */
    double bytes;            /* per second, read plus written */
};

/* Measures flops[type], and the copy where r->bytes is 0 yet. threads: of the library's own product (CPU); 0: all. */
int roof_measure(struct roof *r, int type, const struct dl_backend *be, struct dl_ctx *ctx, int threads,
                 struct dl_err *e);

#endif
