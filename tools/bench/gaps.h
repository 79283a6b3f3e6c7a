/* gaps.h: what a device did in a stretch of time, from the intervals in which its kernels ran: how long it was busy,
 * how long idle between kernels, and which kernels took the time. Pure; the intervals come from kernels/cuda/trace.c.
 */
#ifndef BENCH_GAPS_H
#define BENCH_GAPS_H

#include "kernels/cuda/cuda.h"

enum { GAPS_TOP = 10, GAPS_NAME = 64, GAPS_LEAST_NS = 1000 };

struct gaps_kernel {
    char name[GAPS_NAME]; /* readable, see gaps_name */
    int count;
    int64_t ns; /* all its runs together, also where they overlap */
};

struct gaps {
    int64_t span_ns;    /* first start to last end */
    int64_t busy_ns;    /* something ran */
    int64_t gap_ns;     /* nothing ran: span - busy */
    int64_t largest_ns; /* gap */
    int64_t kernels;
    int n_gaps; /* longer than GAPS_LEAST_NS */
    struct gaps_kernel top[GAPS_TOP];
    int n_top;
};

/* span [n] in any order, overlapping or not; sorted on return. Nothing ran: all zero. */
void gaps_of(struct gaps *g, struct cuda_span *span, int64_t n);

/* "attn_kernel<attn_cfg<__half, 64>>" of "void ns::attn_kernel<ns::attn_cfg<__half, 64>>(args)": without result,
 * namespaces and parameters; "..." stands for what has no room. Other names stay as they are. */
void gaps_name(const char *name, char out[GAPS_NAME]);

#endif
