/* attn_want.h: attention by plain loops in double, with a bound for each element, for the tests of both tiers. */
#ifndef TESTS_SIMT_ATTN_WANT_H
#define TESTS_SIMT_ATTN_WANT_H

#include "tests/simt/check.h"

/* Scores' bounds carry into the exponentials; probabilities are rounded to the type. */
static void want_row(const cuda_attn_args &a, int64_t i, int64_t kv, int h, int64_t q, std::vector<val> *out)
{
    int d = a.q.c / a.heads;
    int64_t tk = (int64_t)a.k.h * a.k.w;
    std::vector<double> s((size_t)tk), es((size_t)tk);
    double top = -INFINITY, sum = 0, wide = 0;
    for (int64_t j = 0; j < tk; j++) {
        double dot = 0, big = 0;
        for (int c = 0; c < d; c++) {
            double p = t_at(a.q, i, q, h * d + c) * t_at(a.k, kv, j, h * d + c);
            dot += p, big += fabs(p);
        }
        double b = a.bias.p ? t_at(a.bias, h, q * tk + j, 0) : 0;
        s[(size_t)j] = dot * (double)a.scale + b;
        es[(size_t)j] = C_ACC * u_acc * (big * (double)a.scale + fabs(b));
        if ((a.causal && j > q) || (a.key_mask && !a.key_mask[kv * tk + j]))
            s[(size_t)j] = -INFINITY;
        else if (es[(size_t)j] > wide)
            wide = es[(size_t)j];
        if (s[(size_t)j] > top) top = s[(size_t)j];
    }
    for (int64_t j = 0; j < tk; j++) {
        s[(size_t)j] = s[(size_t)j] == -INFINITY ? 0 : exp(s[(size_t)j] - top);
        sum += s[(size_t)j];
    }
    for (int c = 0; c < d; c++) {
        double v = 0, big = 0;
        for (int64_t j = 0; j < tk && sum > 0; j++) {
            double p = s[(size_t)j] / sum * t_at(a.v, kv, j, h * d + c);
            v += p, big += fabs(p);
        }
        /* + f16's smallest step for tiny probabilities */
        double tiny = a.q.t == DL_F16 ? 0x1p-25 * (double)tk / (sum > 0 ? sum : 1) : 0;
        out->push_back({v, big * (2 * wide + u_of(a.q.t) + 2 * C_ACC * u_acc) + tiny});
    }
}

#endif
