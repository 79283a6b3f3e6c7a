#define _GNU_SOURCE
#include "tools/bench/library.h"
#include "tools/bench/cudnn.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A product or convolution by its size alone. */
struct size {
    int64_t n, m, out, in, k, stride, h, w, oh, ow; /* m: pixels or tokens of all rows */
    bool conv;
};

static bool size_of(const struct tape_case *k, struct size *s)
{
    *s = (struct size){0};
    if (k->kind == OP_GEMM) {
        const struct dl_gemm *a = &k->a.gemm;
        *s = (struct size){.m = (int64_t)a->x.n * a->x.h * a->x.w, .out = a->w->dim[0], .in = a->x.c, .k = 1};
        return true;
    }
    if (k->kind != OP_CONV) return false;
    const struct dl_conv *a = &k->a.conv;
    *s = (struct size){.n = a->x.n,
                       .m = (int64_t)a->y.n * a->y.h * a->y.w,
                       .out = a->y.c,
                       .in = a->x.c,
                       .k = a->k,
                       .stride = a->stride ? a->stride : 1,
                       .h = a->up ? a->y.h : a->x.h,
                       .w = a->up ? a->y.w : a->x.w,
                       .oh = a->y.h,
                       .ow = a->y.w,
                       .conv = true};
    return true;
}

/* ---- CUDA: a plain product through the backend, which hands it to cuBLASLt ---- */

static int plain_product(const struct tape_case *k, const struct size *s, const struct dl_backend *be,
                         struct dl_ctx *ctx, int repeat, struct library_time *out, struct dl_err *e)
{
    struct dl_w w;
    struct case_run c;
    struct tape_case g = case_gemm(&w, k->run_t, s->m, s->out, s->in * s->k * s->k);
    int sets = case_sets_for(&g, 3 * clock_cache_bytes(be, ctx)); /* as ours: not out of the cache */
    if (case_open(&c, &g, be, ctx, sets, CASE_SIGNED, e) < 0) return -1;
    int rc = clock_case(&c, repeat, &out->t, e);
    if (rc == 0 && c.variant && strstr(c.variant, "cublas")) out->name = s->conv ? "cuBLASLt, implicit" : "cuBLASLt";
    case_close(&c);
    return rc;
}

/* ---- CPU: oneDNN 2.x ---- */

#if DNNL_VERSION_MAJOR < 3
struct prim {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t p;
    dnnl_memory_t mem[4];
    int n_mem;
};

static void prim_close(struct prim *p)
{
    for (int i = 0; i < p->n_mem; i++) dnnl_memory_destroy(p->mem[i]);
    if (p->p) dnnl_primitive_destroy(p->p);
    if (p->pd) dnnl_primitive_desc_destroy(p->pd);
    if (p->stream) dnnl_stream_destroy(p->stream);
    if (p->engine) dnnl_engine_destroy(p->engine);
}

static bool describe_matmul(struct prim *p, const struct size *s, dnnl_data_type_t t)
{
    dnnl_memory_desc_t x, w, y;
    dnnl_matmul_desc_t d;
    dnnl_dims_t dx = {s->m, s->in}, dw = {s->in, s->out}, dy = {s->m, s->out};
    return !dnnl_memory_desc_init_by_tag(&x, 2, dx, t, dnnl_ab) &&
           !dnnl_memory_desc_init_by_tag(&w, 2, dw, t, dnnl_format_tag_any) &&
           !dnnl_memory_desc_init_by_tag(&y, 2, dy, t, dnnl_ab) && !dnnl_matmul_desc_init(&d, &x, &w, NULL, &y) &&
           !dnnl_primitive_desc_create(&p->pd, &d, NULL, p->engine, NULL);
}

static bool describe_conv(struct prim *p, const struct size *s, dnnl_data_type_t t)
{
    dnnl_memory_desc_t x, w, y;
    dnnl_convolution_desc_t d;
    dnnl_dims_t dx = {s->n, s->in, s->h, s->w}, dw = {s->out, s->in, s->k, s->k}, dy = {s->n, s->out, s->oh, s->ow};
    int64_t need_h = (s->oh - 1) * s->stride + s->k - s->h - s->k / 2;
    int64_t need_w = (s->ow - 1) * s->stride + s->k - s->w - s->k / 2;
    dnnl_dims_t stride = {s->stride, s->stride}, pad = {s->k / 2, s->k / 2}, pad_r = {need_h, need_w};
    return !dnnl_memory_desc_init_by_tag(&x, 4, dx, t, dnnl_nhwc) &&
           !dnnl_memory_desc_init_by_tag(&w, 4, dw, t, dnnl_format_tag_any) &&
           !dnnl_memory_desc_init_by_tag(&y, 4, dy, t, dnnl_nhwc) &&
           !dnnl_convolution_forward_desc_init(&d, dnnl_forward_inference, dnnl_convolution_direct, &x, &w, NULL, &y,
                                               stride, pad, pad_r) &&
           !dnnl_primitive_desc_create(&p->pd, &d, NULL, p->engine, NULL);
}

/* Small values that are not zero, whatever the type: zeros can run faster than data. */
static bool give_memory(struct prim *p, dnnl_query_t what)
{
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(p->pd, what, 0);
    size_t bytes = dnnl_memory_desc_get_size(md);
    void *data = NULL;
    if (dnnl_memory_create(&p->mem[p->n_mem], md, p->engine, DNNL_MEMORY_ALLOCATE)) return false;
    if (dnnl_memory_get_data_handle(p->mem[p->n_mem++], &data)) return false;
    for (size_t i = 0; i < bytes / 2; i++) ((uint16_t *)data)[i] = (uint16_t)(0x3d00 + (i * 40503u >> 7 & 0x7f));
    return true;
}

static void set_threads(int n)
{
    void (*set)(int) = NULL;
    void *f = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&set, &f, sizeof f);
    if (set) set(n > 0 ? n : (int)sysconf(_SC_NPROCESSORS_ONLN));
}

static bool prim_open(struct prim *p, const struct size *s, dnnl_data_type_t t)
{
    *p = (struct prim){0};
    return !dnnl_engine_create(&p->engine, dnnl_cpu, 0) &&
           !dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags) &&
           (s->conv ? describe_conv(p, s, t) : describe_matmul(p, s, t)) && !dnnl_primitive_create(&p->p, p->pd) &&
           give_memory(p, dnnl_query_src_md) && give_memory(p, dnnl_query_weights_md) &&
           give_memory(p, dnnl_query_dst_md);
}

static int onednn(const struct size *s, int type, int threads, int repeat, struct library_time *out, struct dl_err *e)
{
    struct prim p;
    int n = repeat ? repeat : 10;
    if (type != DL_F32 && type != DL_BF16) return 0;
    double *us = malloc((size_t)n * sizeof *us);
    if (!us) return dl_fail(e, DL_ENOMEM, "no memory for %d times", n);
    set_threads(threads);
    if (prim_open(&p, s, type == DL_F32 ? dnnl_f32 : dnnl_bf16)) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p.mem[0]}, {DNNL_ARG_WEIGHTS, p.mem[1]}, {DNNL_ARG_DST, p.mem[2]}};
        bool ok = true;
        for (int i = -1; i < n && ok; i++) {
            double from = clock_us();
            ok = !dnnl_primitive_execute(p.p, p.stream, 3, args) && !dnnl_stream_wait(p.stream);
            if (i >= 0) us[i] = clock_us() - from;
        }
        if (ok) out->name = s->conv ? "oneDNN conv" : "oneDNN matmul", out->t = timing_of(us, n);
    }
    prim_close(&p);
    free(us);
    return 0;
}
#else
static int onednn(const struct size *s, int type, int threads, int repeat, struct library_time *out, struct dl_err *e)
{
    (void)s, (void)type, (void)threads, (void)repeat, (void)out, (void)e;
    return 0;
}
#endif

int library_case(const struct tape_case *k, const struct dl_backend *be, struct dl_ctx *ctx, int threads, int repeat,
                 struct library_time *out, struct dl_err *e)
{
    struct size s;
    *out = (struct library_time){0};
    if (!size_of(k, &s)) return 0;
    if (s.conv && !strcmp(be->name, "cuda")) {
        int rc = bench_cudnn(ctx, k->run_t, (int64_t[]){s.n, s.h, s.w}, s.in, s.out, s.k, s.stride, repeat, out, e);
        if (rc) return rc < 0 ? -1 : 0;
    }
    if (!strcmp(be->name, "cuda")) return plain_product(k, &s, be, ctx, repeat, out, e);
    return onednn(&s, k->run_t, threads, repeat, out, e);
}
