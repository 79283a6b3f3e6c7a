/* check.h: what tests in all folders check with. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include "engine/err.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A call that reports failure by a message to `e`, and must not fail. */
#define must(call)                                                                                                     \
    do {                                                                                                               \
        struct dl_err must_e = {0}, *e = &must_e;                                                                      \
        if ((call) < 0) fail_msg("%s: %s", #call, must_e.msg);                                                         \
    } while (0)

/* Relative L2 error of x against y [n]. */
static inline double l2_error(const float *x, const float *y, int64_t n)
{
    double diff = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - y[i];
        diff += d * d, sum += (double)y[i] * y[i];
    }
    return sqrt(diff / sum);
}

#endif
