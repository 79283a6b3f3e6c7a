/* gemm_ways.h: a product that can be computed in several ways: the choice among them (tune.h), and the run. */
#ifndef DL_CUDA_GEMM_WAYS_H
#define DL_CUDA_GEMM_WAYS_H

#include "kernels/cuda/cuda_priv.h"

struct cuda_ways {
    struct dl_run *r;
    const char *op; /* for the choice's key and for messages */
    int32_t x_ld;   /* pitch of x, for the key */
    dl_act y, res;  /* res p NULL: none; it may be y */
    int n;          /* at least 1; the best guess first */
    const char *name[CUDA_WAYS];
    /* Enqueues one way into y; returns as the functions of kernels.h do, or leaves a library's failure in the run. */
    int (*go)(void *user, int way, dl_act y);
    void *user;
    void *other; /* cuda_ways_run's: memory to time an op in that adds to its own result */
};

/* Chooses, names the way in r->variant, and runs it unless the run is dry. All scratch must be there. */
void cuda_ways_run(struct cuda_ways *w);

#endif
