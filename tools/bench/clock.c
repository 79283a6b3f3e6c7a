#include "tools/bench/clock.h"
#include "tools/bench/library.h"
#ifdef DLENS_HAVE_CUDA
#include "kernels/cuda/cuda.h"
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { REPEATS_MIN = 5, REPEATS_MAX = 50, ROUND_US = 500, ROUND_OPS = 1024 };
static const double budget_us = 1e6;

double clock_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct timing timing_of(double *us, int n)
{
    qsort(us, (size_t)n, sizeof *us, by_value);
    double median = n % 2 ? us[n / 2] : (us[n / 2 - 1] + us[n / 2]) / 2;
    return (struct timing){median, us[0], n};
}

/* How often to measure what takes about `us` at a time. */
static int repeats_for(double us)
{
    double n = budget_us / (us > 1 ? us : 1);
    return n < REPEATS_MIN ? REPEATS_MIN : n > REPEATS_MAX ? REPEATS_MAX : (int)n;
}

/* One run of each set; the mean time of the later ones in *us. */
static int warm_up(struct case_run *c, double *us, struct dl_err *e)
{
    if (case_once(c, 0, e) < 0 || c->be->sync(c->ctx, e) < 0) return -1;
    double from = clock_us();
    for (int i = 0; i < c->n_sets; i++)
        if (case_once(c, i, e) < 0) return -1;
    if (c->be->sync(c->ctx, e) < 0) return -1;
    *us = (clock_us() - from) / c->n_sets;
    return 0;
}

static int time_calls(struct case_run *c, double *us, int n, struct dl_err *e)
{
    for (int i = 0; i < n; i++) {
        double from = clock_us();
        if (case_once(c, i % c->n_sets, e) < 0 || c->be->sync(c->ctx, e) < 0) return -1;
        us[i] = clock_us() - from;
    }
    return 0;
}

static int record_round(struct case_run *c, int ops, struct dl_graph **g, struct dl_err *e)
{
    dl_run_bind(&c->run, c->scratch, c->scratch_bytes);
    if (c->be->record_begin(c->ctx, e) < 0) return -1;
    c->run.mode = DL_CAPTURE;
    for (int i = 0; i < ops; i++) case_enqueue(c, i % c->n_sets);
    c->run.mode = DL_EAGER;
    if (dl_run_check(&c->run, e) == 0) return c->be->record_end(c->ctx, g, e);
    c->be->record_end(c->ctx, NULL, NULL);
    return -1;
}

static int time_replays(struct case_run *c, struct dl_graph *g, double *us, int n, struct dl_err *e)
{
#ifdef DLENS_HAVE_CUDA
    if (!strcmp(c->be->name, "cuda")) return cuda_time_graph(c->ctx, g, n, us, e);
#endif
    for (int i = 0; i < n; i++) {
        double from = clock_us();
        if (c->be->replay(c->ctx, g, 0, e) < 0 || c->be->sync(c->ctx, e) < 0) return -1;
        us[i] = clock_us() - from;
    }
    return 0;
}

static int time_rounds(struct case_run *c, double about_us, double *us, int n, struct dl_err *e)
{
    struct dl_graph *g = NULL;
    int ops = (int)ceil(ROUND_US / (about_us > 1 ? about_us : 1));
    ops = (ops + c->n_sets - 1) / c->n_sets * c->n_sets; /* whole rounds */
    if (ops > ROUND_OPS) ops = ROUND_OPS / c->n_sets * c->n_sets;
    if (record_round(c, ops, &g, e) < 0) return -1;
    int rc = time_replays(c, g, us, 1, e); /* the first uploads the graph */
    if (rc == 0) rc = time_replays(c, g, us, n, e);
    c->be->graph_free(c->ctx, g);
    for (int i = 0; i < n; i++) us[i] /= ops;
    return rc;
}

int clock_case(struct case_run *c, int repeat, struct timing *t, struct dl_err *e)
{
    double about;
    if (warm_up(c, &about, e) < 0) return -1;
    int n = repeat ? repeat : repeats_for(about);
    double *us = malloc((size_t)n * sizeof *us);
    if (!us) return dl_fail(e, DL_ENOMEM, "no memory for %d times", n);
    int rc = c->be->record_begin ? time_rounds(c, about, us, n, e) : time_calls(c, us, n, e);
    if (rc == 0) *t = timing_of(us, n);
    free(us);
    return rc;
}

int64_t clock_cache_bytes(const struct dl_backend *be, struct dl_ctx *ctx)
{
#ifdef DLENS_HAVE_CUDA
    if (!strcmp(be->name, "cuda")) return cuda_cache_bytes(ctx);
#endif
    (void)be, (void)ctx;
    int64_t least = 8 << 20, most = 64 << 20, bytes = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL3_CACHE_SIZE); /* of a virtual machine, often the whole socket's */
#endif
    return bytes < least ? least : bytes > most ? most : bytes;
}

static int time_one(struct tape_case *k, const struct dl_backend *be, struct dl_ctx *ctx, int sets, double *us,
                    struct dl_err *e)
{
    struct case_run c;
    struct timing t;
    if (case_open(&c, k, be, ctx, sets, CASE_SIGNED, e) < 0) return -1;
    int rc = clock_case(&c, 0, &t, e);
    *us = t.min_us;
    case_close(&c);
    return rc;
}

/* Bytes per second of the C library's copy on one core: more than the copy op reaches on some machines. */
static double host_copy_rate(int64_t bytes)
{
    char *a = malloc((size_t)bytes), *b = malloc((size_t)bytes);
    double best = 0;
    if (a && b) memset(a, 1, (size_t)bytes), memset(b, 2, (size_t)bytes);
    for (int i = 0; a && b && i < 3; i++) {
        double from = clock_us();
        memcpy(b, a, (size_t)bytes);
        __asm__ volatile("" : : "r"(b) : "memory");
        best = fmax(best, 2 * (double)bytes / (clock_us() - from) * 1e6);
    }
    free(a), free(b);
    return best;
}

static int measure_copy(struct roof *r, const struct dl_backend *be, struct dl_ctx *ctx, struct dl_err *e)
{
    bool cuda = !strcmp(be->name, "cuda");
    int64_t bytes = cuda ? (int64_t)1 << 30 : (int64_t)96 << 20;
#ifdef DLENS_HAVE_CUDA
    if (cuda) return cuda_copy_rate(ctx, bytes, &r->bytes, e);
#endif
    double us;
    struct tape_case k = case_copy(DL_F32, bytes / 4 / 1024, 1024);
    if (time_one(&k, be, ctx, 1, &us, e) < 0) return -1;
    r->bytes = fmax((double)k.bytes / us * 1e6, host_copy_rate(bytes));
    return 0;
}

int roof_measure(struct roof *r, int type, const struct dl_backend *be, struct dl_ctx *ctx, int threads,
                 struct dl_err *e)
{
    int64_t n = strcmp(be->name, "cuda") ? 1024 : 8192;
    struct dl_w w;
    double us;
    if (r->bytes == 0 && measure_copy(r, be, ctx, e) < 0) return -1;
    if (r->flops[type] > 0) return 0;
    struct tape_case k = case_gemm(&w, type, n, n, n);
    if (time_one(&k, be, ctx, 1, &us, e) < 0) return -1;
    r->flops[type] = (double)k.flops / us * 1e6;
    struct library_time l;
    if (library_case(&k, be, ctx, threads, 3, &l, e) < 0) return -1;
    if (l.name && l.t.min_us < us) r->flops[type] = (double)k.flops / l.t.min_us * 1e6;
    return 0;
}
