/* bench.h: what the parts of `dlens bench` share: its options, and one function for each thing that it measures. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "tools/bench/model.h"
#include "tools/cli.h"

enum bench_what { BENCH_NONE, BENCH_KERNELS, BENCH_MODEL, BENCH_SWEEP };

enum { BENCH_BUCKETS = 16 };

struct bench_args {
    enum bench_what what;
    struct bench_source source;
    struct bench_sweep sweep;
    const char *dtype;          /* NULL: the device's */
    int batches[BENCH_BUCKETS]; /* of --batch, in its order */
    int n_batches;
    int64_t rows, repeat, top;
    unsigned phases; /* bits 1 << enum tape_phase */
    const char *filter, *plot, *predict, *against, *save;
    bool check, ways;
};

/* Opens the device of --device, picks the type. */
struct bench_device {
    const struct dl_backend *be;
    struct dl_ctx *ctx;
};
int bench_device_open(const struct cli *c, struct bench_args *a, struct bench_device *d, struct dl_err *e);
void bench_device_close(struct bench_device *d);
/* "cpu: AMD EPYC, 2 threads" or the GPU's name, into out [200]. */
char *bench_device_text(const struct cli *c, const struct bench_device *d, char out[200]);

/* Facts of the model and settings, for the JSON result. */
void bench_tell(struct cli *c, const struct bench_args *a, const struct bench_model *m, const struct pipe_plan *p);

int bench_kernels(struct cli *c, struct bench_args *a, struct dl_err *e);
int bench_model(struct cli *c, struct bench_args *a, struct dl_err *e);
int bench_sweep(struct cli *c, struct bench_args *a, struct dl_err *e);
int bench_predict(struct cli *c, struct bench_args *a, struct dl_err *e);

#endif
