/* Kernels as the device ran them, by CUPTI's activity records.
 *
 * CUPTI is found at run time, so that a program built with its headers starts without it. Its callbacks know no user:
 * hence the one static trace, under a lock, as they may come from CUPTI's own threads. Records of a graph's kernels
 * come one by one as long as CUPTI's graph-level records stay off. Of a record's fields only those are read that have
 * lain at the same place since version 5 of the kernel's record (CUDA 11.0), so the library may be older or newer than
 * the header. The library stays loaded and is not finalised: graphs that it has seen may still run. */
#include "kernels/cuda/cuda_priv.h"

#include <cupti.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { BUFFER_BYTES = 4 << 20 };

static const CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                           CUPTI_ACTIVITY_KIND_MEMSET};
enum { KINDS = sizeof kinds / sizeof *kinds };

struct cupti {
    CUptiResult (*callbacks)(CUpti_BuffersCallbackRequestFunc, CUpti_BuffersCallbackCompleteFunc);
    CUptiResult (*enable)(CUpti_ActivityKind);
    CUptiResult (*disable)(CUpti_ActivityKind);
    CUptiResult (*flush)(uint32_t flag);
    CUptiResult (*next)(uint8_t *buffer, size_t bytes, CUpti_Activity **record);
    CUptiResult (*dropped)(CUcontext, uint32_t stream, size_t *n);
    CUptiResult (*text)(CUptiResult, const char **);
};

struct name {
    char *mangled, *text; /* owned; spans point to text */
};

struct cuda_trace {
    struct dl_ctx *ctx;
    struct cupti f;
    int enabled; /* of kinds */
    /* Under the lock: */
    struct cuda_span *span;
    int64_t n, cap;
    struct name *name; /* [n_names] different ones */
    int64_t n_names, cap_names;
    int64_t lost; /* records without times, dropped by CUPTI, or for which there was no memory */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct cuda_trace *current;

static int cupti_fail(const struct cuda_trace *t, CUptiResult rc, const char *what, struct dl_err *e)
{
    const char *text = NULL;
    if (t->f.text(rc, &text) != CUPTI_SUCCESS || !text) text = "unknown error";
    return dl_fail(e, DL_EFAIL, "CUPTI, %s: %s", what, text);
}

/* Room for one more of n elements; NULL when memory is out. */
static void *grown(void *p, int64_t n, int64_t *cap, size_t size)
{
    if (n < *cap) return p;
    int64_t more = *cap ? 2 * *cap : 1024;
    void *q = realloc(p, (size_t)more * size);
    if (q) *cap = more;
    return q;
}

/* The C++ library's, which nvcc's objects need in any case: what a name was before the compiler mangled it, by malloc. */
char *__cxa_demangle(const char *mangled, char *out, size_t *bytes, int *status);

static const char *own_name(struct cuda_trace *t, const char *name)
{
    for (int64_t i = 0; i < t->n_names; i++)
        if (!strcmp(t->name[i].mangled, name)) return t->name[i].text;
    struct name *list = grown(t->name, t->n_names, &t->cap_names, sizeof *list);
    if (!list) return NULL;
    t->name = list;
    int status;
    struct name one = {strdup(name), strncmp(name, "_Z", 2) ? NULL : __cxa_demangle(name, NULL, NULL, &status)};
    if (one.mangled && !one.text) one.text = strdup(name); /* not a C++ name, or none that it reads */
    if (!one.text) {
        free(one.mangled);
        return NULL;
    }
    t->name[t->n_names++] = one;
    return one.text;
}

static void keep(struct cuda_trace *t, const char *name, uint64_t start, uint64_t end)
{
    const char *own = own_name(t, name ? name : "?");
    struct cuda_span *list = grown(t->span, t->n, &t->cap, sizeof *list);
    if (list) t->span = list;
    if (own && list && start && end >= start)
        t->span[t->n++] = (struct cuda_span){own, (int64_t)start, (int64_t)end};
    else
        t->lost++;
}

static void keep_record(struct cuda_trace *t, const CUpti_Activity *record)
{
    const void *p = record;
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL || record->kind == CUPTI_ACTIVITY_KIND_KERNEL) {
        const CUpti_ActivityKernel9 *k = p;
        keep(t, k->name, k->start, k->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
        const CUpti_ActivityMemcpy5 *m = p;
        keep(t, "[memcpy]", m->start, m->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
        const CUpti_ActivityMemset4 *m = p;
        keep(t, "[memset]", m->start, m->end);
    }
}

static void CUPTIAPI requested(uint8_t **buffer, size_t *bytes, size_t *most)
{
    *buffer = malloc(BUFFER_BYTES); /* aligned to 8 bytes, as is asked for */
    *bytes = *buffer ? BUFFER_BYTES : 0;
    *most = 0;
}

static void CUPTIAPI completed(CUcontext context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid)
{
    (void)bytes;
    pthread_mutex_lock(&lock);
    struct cuda_trace *t = current;
    CUpti_Activity *record = NULL;
    size_t dropped = 0;
    while (t && valid && t->f.next(buffer, valid, &record) == CUPTI_SUCCESS) keep_record(t, record);
    if (t && t->f.dropped(context, stream, &dropped) == CUPTI_SUCCESS) t->lost += (int64_t)dropped;
    pthread_mutex_unlock(&lock);
    free(buffer);
}

/* As POSIX has it: a function's address comes as a data pointer. */
static bool find(void *lib, const char *name, void *function)
{
    void *p = dlsym(lib, name);
    memcpy(function, &p, sizeof p);
    return p;
}

static int load(struct cupti *f, struct dl_err *e)
{
    char soname[32];
    snprintf(soname, sizeof soname, "libcupti.so.%d", CUDART_VERSION / 1000);
    void *lib = dlopen(DLENS_CUPTI, RTLD_NOW | RTLD_LOCAL); /* where the build found it, or its name */
    if (!lib) lib = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
    if (!lib) return dl_fail(e, DL_EFAIL, "no CUPTI: %s", dlerror());
    if (find(lib, "cuptiActivityRegisterCallbacks", &f->callbacks) && find(lib, "cuptiActivityEnable", &f->enable) &&
        find(lib, "cuptiActivityDisable", &f->disable) && find(lib, "cuptiActivityFlushAll", &f->flush) &&
        find(lib, "cuptiActivityGetNextRecord", &f->next) &&
        find(lib, "cuptiActivityGetNumDroppedRecords", &f->dropped) && find(lib, "cuptiGetResultString", &f->text))
        return 0;
    return dl_fail(e, DL_EFAIL, "no CUPTI: %s lacks a function", soname);
}

static int start(struct cuda_trace *t, struct dl_err *e)
{
    pthread_mutex_lock(&lock);
    bool taken = current;
    if (!taken) current = t;
    pthread_mutex_unlock(&lock);
    if (taken) return dl_fail(e, DL_EFAIL, "CUPTI serves one trace at a time");
    CUptiResult rc = t->f.callbacks(requested, completed);
    for (; t->enabled < KINDS && rc == CUPTI_SUCCESS; t->enabled += rc == CUPTI_SUCCESS)
        rc = t->f.enable(kinds[t->enabled]);
    return rc == CUPTI_SUCCESS ? 0 : cupti_fail(t, rc, "beginning a trace", e);
}

int cuda_trace_open(struct cuda_trace **out, struct dl_ctx *c, struct dl_err *e)
{
    *out = NULL;
    struct cuda_trace *t = calloc(1, sizeof *t);
    if (!t) return dl_fail(e, DL_ENOMEM, "no memory for a trace");
    t->ctx = c;
    if (load(&t->f, e) < 0) {
        free(t);
        return -1;
    }
    if (start(t, e) < 0) {
        cuda_trace_close(t);
        return -1;
    }
    *out = t;
    return 0;
}

static int by_start(const void *a, const void *b)
{
    const struct cuda_span *x = a, *y = b;
    return (x->start_ns > y->start_ns) - (x->start_ns < y->start_ns);
}

/* The callbacks come within the flush, or came before it. */
int cuda_trace_take(struct cuda_trace *t, struct cuda_span **span, int64_t *n, struct dl_err *e)
{
    *span = NULL, *n = 0;
    cudaError_t cu = cudaStreamSynchronize(t->ctx->stream);
    if (cu != cudaSuccess) return cuda_fail(e, cu, "waiting for the GPU");
    CUptiResult rc = t->f.flush(0);
    if (rc != CUPTI_SUCCESS) return cupti_fail(t, rc, "reading a trace", e);
    pthread_mutex_lock(&lock);
    int64_t lost = t->lost;
    *span = t->span, *n = t->n;
    t->span = NULL, t->n = t->cap = 0, t->lost = 0;
    pthread_mutex_unlock(&lock);
    if (lost == 0) {
        if (*n) qsort(*span, (size_t)*n, sizeof **span, by_start);
        return 0;
    }
    free(*span);
    *span = NULL, *n = 0;
    return dl_fail(e, DL_EFAIL, "CUPTI lost %lld records", (long long)lost);
}

void cuda_trace_close(struct cuda_trace *t)
{
    if (!t) return;
    while (t->enabled > 0) (void)t->f.disable(kinds[--t->enabled]);
    pthread_mutex_lock(&lock);
    bool mine = current == t;
    pthread_mutex_unlock(&lock);
    if (mine) (void)t->f.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED); /* gives its buffers back */
    pthread_mutex_lock(&lock);
    if (mine) current = NULL;
    pthread_mutex_unlock(&lock);
    for (int64_t i = 0; i < t->n_names; i++) free(t->name[i].mangled), free(t->name[i].text);
    free(t->name), free(t->span), free(t);
}
