/* pool.h: a small persistent thread pool for the CPU kernels' own loops.
 *
 * One loop runs at a time, started by the thread that runs the model; that thread works too (as worker 0). Chunks are
 * dealt out as workers become free, so which worker computes an item is not fixed: what an item's value is must not
 * depend on it, nor on where chunks begin.
 */
#ifndef CPU_POOL_H
#define CPU_POOL_H

#include <stdint.h>

struct pool;

/* `threads` counts the calling thread. NULL when memory or threads cannot be had. */
struct pool *pool_open(int threads);
void pool_close(struct pool *p);
int pool_threads(const struct pool *p);

/* Computes items [from, to); worker is in [0, pool_threads) and picks its scratch. */
typedef void pool_fn(void *arg, int64_t from, int64_t to, int worker);

/* Calls fn over [0, n) in chunks of `grain` items (the last may be shorter) on all threads; returns when all is done.
 * Not to be called from within fn. */
void pool_for(struct pool *p, int64_t n, int64_t grain, pool_fn *fn, void *arg);

#endif
