#include "kernels/cuda/gemm_ways.h"

#include <stdio.h>

/* For the race: what a way cannot do is no failure of the run. */
static bool timed(void *user, int i)
{
    struct cuda_ways *w = user;
    dl_act y = w->y;
    if (w->res.p == y.p) {
        if (!w->other && cudaMalloc(&w->other, (size_t)dl_act_bytes(y)) != cudaSuccess) {
            (void)cudaGetLastError();
            return false;
        }
        y.p = w->other;
    }
    struct dl_err before = w->r->err;
    int rc = w->go(w->user, i, y);
    bool ok = rc == 0 && dl_run_ok(w->r);
    w->r->err = before;
    return ok;
}

void cuda_ways_run(struct cuda_ways *w)
{
    struct dl_run *r = w->r;
    char key[CUDA_TUNE_KEY];
    snprintf(key, sizeof key, "%s %s y %s ld%d,%d,%d", w->op, r->shape, dl_type_name(w->y.t), w->x_ld, w->y.ld,
             w->res.ld);
    int i = cuda_choose(r, key, w->n, w->name, cuda_live(r) ? timed : NULL, w);
    if (w->other) (void)cudaFree(w->other);
    r->variant = w->name[i];
    if (cuda_live(r)) cuda_launched(r, w->op, w->go(w->user, i, w->y));
}
