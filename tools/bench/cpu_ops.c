/* cpu_ops: times the CPU backend's ops on the shapes of one step of Stable Diffusion 1.x's UNet at 64 x 64 latents.
 *
 *   cpu_ops [--type f32|bf16] [--rows N] [--threads N] [--reps N] [--only TEXT] [--conv auto|gemm|winograd]
 *
 * For each shape: how often a step has it, the variant that ran, the least wall and processor time of `reps` runs (wall
 * time alone says little on a shared machine), and FLOP rates from both. Between the ops the raw rate of oneDNN's
 * matmul of 2048^3 is measured in the same way. The sums at the end weigh each shape by its count. */
#define _GNU_SOURCE
#include "engine/run.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fast.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum kind { CONV, GEMM, ATTN, GNORM, LNORM };

/* One shape and its count in a step. conv: a = output height and width, b in, c out, k, stride (0: enlarge). gemm: a
 * pixels, b in, c out. attn: a queries, b keys, c head size (8 heads). norms: a pixels, b channels. */
struct shape {
    enum kind kind;
    int count, a, b, c, k, stride;
    bool pre, res, glu;
};

static const struct shape shapes[] = {
    {CONV, 1, 64, 4, 320, 3, 1, 0, 0, 0},       {CONV, 7, 64, 320, 320, 3, 1, 1, 1, 0},
    {CONV, 2, 64, 640, 320, 3, 1, 1, 1, 0},     {CONV, 1, 64, 960, 320, 3, 1, 1, 1, 0},
    {CONV, 1, 64, 320, 4, 3, 1, 1, 0, 0},       {CONV, 1, 64, 640, 640, 3, 0, 0, 0, 0},
    {CONV, 1, 32, 320, 320, 3, 2, 0, 0, 0},     {CONV, 1, 32, 320, 640, 3, 1, 1, 1, 0},
    {CONV, 6, 32, 640, 640, 3, 1, 1, 1, 0},     {CONV, 1, 32, 960, 640, 3, 1, 1, 1, 0},
    {CONV, 1, 32, 1280, 640, 3, 1, 1, 1, 0},    {CONV, 1, 32, 1920, 640, 3, 1, 1, 1, 0},
    {CONV, 1, 32, 1280, 1280, 3, 0, 0, 0, 0},   {CONV, 1, 16, 640, 640, 3, 2, 0, 0, 0},
    {CONV, 1, 16, 640, 1280, 3, 1, 1, 1, 0},    {CONV, 6, 16, 1280, 1280, 3, 1, 1, 1, 0},
    {CONV, 1, 16, 1920, 1280, 3, 1, 1, 1, 0},   {CONV, 2, 16, 2560, 1280, 3, 1, 1, 1, 0},
    {CONV, 1, 16, 1280, 1280, 3, 0, 0, 0, 0},   {CONV, 1, 8, 1280, 1280, 3, 2, 0, 0, 0},
    {CONV, 11, 8, 1280, 1280, 3, 1, 1, 1, 0},   {CONV, 3, 8, 2560, 1280, 3, 1, 1, 1, 0},
    {CONV, 2, 64, 640, 320, 1, 1, 0, 0, 0},     {CONV, 1, 64, 960, 320, 1, 1, 0, 0, 0},
    {CONV, 1, 32, 320, 640, 1, 1, 0, 0, 0},     {CONV, 1, 32, 960, 640, 1, 1, 0, 0, 0},
    {CONV, 1, 32, 1280, 640, 1, 1, 0, 0, 0},    {CONV, 1, 32, 1920, 640, 1, 1, 0, 0, 0},
    {CONV, 1, 16, 640, 1280, 1, 1, 0, 0, 0},    {CONV, 1, 16, 1920, 1280, 1, 1, 0, 0, 0},
    {CONV, 2, 16, 2560, 1280, 1, 1, 0, 0, 0},   {CONV, 3, 8, 2560, 1280, 1, 1, 0, 0, 0},
    {GEMM, 25, 4096, 320, 320, 0, 0, 0, 1, 0},  {GEMM, 5, 4096, 320, 960, 0, 0, 0, 0, 0},
    {GEMM, 5, 4096, 320, 1280, 0, 0, 0, 0, 1},  {GEMM, 5, 4096, 1280, 320, 0, 0, 0, 1, 0},
    {GEMM, 25, 1024, 640, 640, 0, 0, 0, 1, 0},  {GEMM, 5, 1024, 640, 1920, 0, 0, 0, 0, 0},
    {GEMM, 5, 1024, 640, 2560, 0, 0, 0, 0, 1},  {GEMM, 5, 1024, 2560, 640, 0, 0, 0, 1, 0},
    {GEMM, 25, 256, 1280, 1280, 0, 0, 0, 1, 0}, {GEMM, 5, 256, 1280, 3840, 0, 0, 0, 0, 0},
    {GEMM, 5, 256, 1280, 5120, 0, 0, 0, 0, 1},  {GEMM, 5, 256, 5120, 1280, 0, 0, 0, 1, 0},
    {GEMM, 5, 64, 1280, 1280, 0, 0, 0, 1, 0},   {GEMM, 1, 64, 1280, 3840, 0, 0, 0, 0, 0},
    {GEMM, 1, 64, 1280, 5120, 0, 0, 0, 0, 1},   {GEMM, 1, 64, 5120, 1280, 0, 0, 0, 1, 0},
    {ATTN, 5, 4096, 4096, 40, 0, 0, 0, 0, 0},   {ATTN, 5, 1024, 1024, 80, 0, 0, 0, 0, 0},
    {ATTN, 5, 256, 256, 160, 0, 0, 0, 0, 0},    {ATTN, 1, 64, 64, 160, 0, 0, 0, 0, 0},
    {ATTN, 5, 4096, 77, 40, 0, 0, 0, 0, 0},     {ATTN, 5, 1024, 77, 80, 0, 0, 0, 0, 0},
    {ATTN, 5, 256, 77, 160, 0, 0, 0, 0, 0},     {ATTN, 1, 64, 77, 160, 0, 0, 0, 0, 0},
    {GNORM, 18, 4096, 320, 0, 0, 0, 0, 0, 0},   {GNORM, 18, 1024, 640, 0, 0, 0, 0, 0, 0},
    {GNORM, 18, 256, 1280, 0, 0, 0, 0, 0, 0},   {LNORM, 15, 4096, 320, 0, 0, 0, 0, 0, 0},
    {LNORM, 15, 1024, 640, 0, 0, 0, 0, 0, 0},   {LNORM, 15, 256, 1280, 0, 0, 0, 0, 0, 0},
};

struct bench {
    struct dl_backend be;
    struct dl_ops ops;
    struct dl_ctx *ctx;
    int t, rows, threads, reps;
    const char *only;
    struct dl_wset set;
    struct dl_w w[4];
    int n_w;
    void *owned[16];
    int n_owned;
    uint32_t seed;
};

struct timing {
    double wall_ms, cpu_ms;
};

static struct timing now(void)
{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    return (struct timing){(double)a.tv_sec * 1e3 + (double)a.tv_nsec * 1e-6,
                           (double)b.tv_sec * 1e3 + (double)b.tv_nsec * 1e-6};
}

static void keep_least(struct timing *best, struct timing from)
{
    struct timing t = now();
    best->wall_ms = fmin(best->wall_ms, t.wall_ms - from.wall_ms);
    best->cpu_ms = fmin(best->cpu_ms, t.cpu_ms - from.cpu_ms);
}

static void give_up(const char *what)
{
    fprintf(stderr, "cpu_ops: %s\n", what);
    exit(1);
}

static void *owned(struct bench *b, int64_t bytes)
{
    void *p = aligned_alloc(DL_ALIGN, (size_t)((bytes + DL_ALIGN - 1) / DL_ALIGN * DL_ALIGN));
    if (!p || b->n_owned == 16) give_up("no memory");
    return b->owned[b->n_owned++] = p;
}

static void fill(struct bench *b, void *p, int t, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) {
        b->seed = b->seed * 1664525u + 1013904223u;
        dl_store(p, t, i, ((float)(b->seed >> 8) / 8388608.0f - 1) * scale);
    }
}

static dl_act act(struct bench *b, int h, int w, int c)
{
    dl_act a = dl_act_at(NULL, b->t, b->rows, h, w, c);
    int64_t n = (int64_t)b->rows * h * w * c;
    a.p = owned(b, n * dl_type_bytes(b->t));
    fill(b, a.p, b->t, n, 1.7f);
    return a;
}

static struct dl_w *weight(struct bench *b, int nd, int64_t out, int64_t in, int k)
{
    struct dl_w *w = &b->w[b->n_w++];
    struct dl_err e = {0};
    int64_t n = out * (nd > 1 ? in : 1) * (nd > 2 ? k * k : 1);
    void *p = owned(b, n * 4);
    fill(b, p, DL_F32, n, 1.7f / sqrtf((float)n / (float)out));
    *w = (struct dl_w){.dim = {out, in, k, k}, .nd = nd, .n_parts = 1, .part = {{p, out, DL_F32, false}}};
    if (dl_wset_add(&b->set, w, "weight", &e) < 0) give_up(e.msg);
    return w;
}

union args {
    struct dl_conv conv;
    struct dl_gemm gemm;
    struct dl_attn attn;
    struct dl_gnorm gnorm;
    struct dl_lnorm lnorm;
};

static void op(struct dl_run *r, const struct shape *s, union args a, const struct dl_stat *stat)
{
    struct dl_mark m = dl_arena_mark(&r->arena);
    switch (s->kind) {
    case CONV:
        if (s->pre) a.conv.pre = *stat, a.conv.pre_fn = DL_SILU;
        dl_op_conv(r, a.conv);
        break;
    case GEMM: dl_op_gemm(r, a.gemm); break;
    case ATTN: dl_op_attn(r, a.attn); break;
    case GNORM: dl_op_gnorm(r, a.gnorm); break;
    case LNORM: dl_op_lnorm(r, a.lnorm); break;
    }
    dl_arena_release(&r->arena, m);
}

static union args make(struct bench *b, const struct shape *s, struct dl_stat *stat)
{
    union args a;
    memset(&a, 0, sizeof a);
    if (s->kind == CONV) {
        int in = s->stride == 2 ? s->a * 2 : s->stride ? s->a : s->a / 2;
        a.conv = (struct dl_conv){.x = act(b, in, in, s->b), .y = act(b, s->a, s->a, s->c), .k = s->k};
        a.conv.stride = s->stride ? s->stride : 1, a.conv.up = !s->stride;
        a.conv.w = weight(b, 4, s->c, s->b, s->k), a.conv.e.bias = weight(b, 1, s->c, 0, 0);
        if (s->res) a.conv.e.res = act(b, s->a, s->a, s->c);
        if (s->pre) {
            float *mr = owned(b, (int64_t)b->rows * 32 * 2 * 4);
            for (int i = 0; i < b->rows * 32; i++) mr[2 * i] = 0.1f, mr[2 * i + 1] = 1;
            *stat =
                (struct dl_stat){mr, s->b % 32 ? 4 : 32, weight(b, 1, s->b, 0, 0), weight(b, 1, s->b, 0, 0), {0}, {0}};
        }
    } else if (s->kind == GEMM) {
        a.gemm = (struct dl_gemm){.x = act(b, 1, s->a, s->b), .y = act(b, 1, s->a, s->c)};
        a.gemm.w = weight(b, 2, s->c * (s->glu ? 2 : 1), s->b, 0), a.gemm.e.glu = s->glu;
        a.gemm.e.bias = weight(b, 1, s->c * (s->glu ? 2 : 1), 0, 0);
        if (s->glu) a.gemm.e.fn = DL_GELU;
        if (s->res) a.gemm.e.res = act(b, 1, s->a, s->c);
    } else if (s->kind == ATTN) {
        a.attn = (struct dl_attn){.q = act(b, 1, s->a, 8 * s->c), .k = act(b, 1, s->b, 8 * s->c), .heads = 8};
        a.attn.v = act(b, 1, s->b, 8 * s->c), a.attn.y = act(b, 1, s->a, 8 * s->c);
        a.attn.scale = 1 / sqrtf((float)s->c);
    } else if (s->kind == GNORM) {
        a.gnorm = (struct dl_gnorm){.x = act(b, 1, s->a, s->b), .groups = 32, .eps = 1e-5f};
    } else {
        a.lnorm = (struct dl_lnorm){.x = act(b, 1, s->a, s->b), .y = act(b, 1, s->a, s->b), .eps = 1e-5f};
        a.lnorm.gamma = weight(b, 1, s->b, 0, 0), a.lnorm.beta = weight(b, 1, s->b, 0, 0);
    }
    return a;
}

struct result {
    struct timing t;
    int64_t flops;
    char shape[120], variant[40];
    const char *name;
};

static struct result time_shape(struct bench *b, const struct shape *s)
{
    struct dl_run r;
    struct dl_err e = {0};
    struct dl_stat stat = {0};
    struct result res = {.t = {1e30, 1e30}};
    union args a = make(b, s, &stat);
    dl_run_open(&r, &b->be, b->ctx, b->t);
    r.log_on = true;
    dl_run_dry(&r);
    op(&r, s, a, &stat);
    if (dl_run_check(&r, &e) < 0) give_up(e.msg);
    res.flops = r.account.flops;
    res.name = r.log[0].op;
    memcpy(res.shape, r.log[0].shape, sizeof res.shape);
    snprintf(res.variant, sizeof res.variant, "%s", r.log[0].variant);
    int64_t peak = r.arena.peak_bytes;
    void *mem = aligned_alloc(DL_ALIGN, (size_t)peak + DL_ALIGN);
    if (!mem) give_up("no memory");
    if (dl_run_load(&r, &b->set, &e) < 0) give_up(e.msg);
    r.log_on = false;
    for (int i = 0; i <= b->reps; i++) {
        dl_run_bind(&r, mem, peak);
        struct timing from = now();
        op(&r, s, a, &stat);
        if (i > 0) keep_least(&res.t, from); /* the first run warms caches and pages */
    }
    if (dl_run_check(&r, &e) < 0) give_up(e.msg);
    dl_run_close(&r);
    dl_wset_close(&b->set);
    free(mem);
    for (int i = 0; i < b->n_owned; i++) free(b->owned[i]);
    b->n_owned = b->n_w = 0;
    return res;
}

/* oneDNN's own matmul [2048][2048] x [2048][2048] on all threads, in GFLOP/s: wall, and of one processor's time. */
static struct timing raw_rate(const struct bench *b)
{
#if DNNL_VERSION_MAJOR >= 3
    (void)b;
    return (struct timing){0, 0};
#else
    enum { N = 2048 };
    void (*set_threads)(int) = NULL;
    void *f = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&set_threads, &f, sizeof f);
    if (set_threads) set_threads(b->threads);
    dnnl_dims_t dim = {N, N};
    dnnl_data_type_t t = b->t == DL_BF16 ? dnnl_bf16 : dnnl_f32;
    dnnl_engine_t eng;
    dnnl_stream_t stream;
    dnnl_memory_desc_t plain, any;
    dnnl_matmul_desc_t d;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t p;
    dnnl_memory_t x, w, y;
    struct timing best = {1e30, 1e30};
    if (dnnl_engine_create(&eng, dnnl_cpu, 0) || dnnl_stream_create(&stream, eng, dnnl_stream_default_flags) ||
        dnnl_memory_desc_init_by_tag(&plain, 2, dim, t, dnnl_ab) ||
        dnnl_memory_desc_init_by_tag(&any, 2, dim, t, dnnl_format_tag_any) ||
        dnnl_matmul_desc_init(&d, &plain, &any, NULL, &plain) || dnnl_primitive_desc_create(&pd, &d, NULL, eng, NULL) ||
        dnnl_primitive_create(&p, pd) || dnnl_memory_create(&x, &plain, eng, DNNL_MEMORY_ALLOCATE) ||
        dnnl_memory_create(&w, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0), eng, DNNL_MEMORY_ALLOCATE) ||
        dnnl_memory_create(&y, &plain, eng, DNNL_MEMORY_ALLOCATE))
        return (struct timing){0, 0};
    void *hx, *hw;
    dnnl_memory_get_data_handle(x, &hx), dnnl_memory_get_data_handle(w, &hw);
    memset(hx, 0, (size_t)N * N * (t == dnnl_f32 ? 4 : 2)), memset(hw, 0, (size_t)N * N * (t == dnnl_f32 ? 4 : 2));
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}};
    for (int i = 0; i < 4; i++) {
        struct timing from = now();
        dnnl_primitive_execute(p, stream, 3, args);
        dnnl_stream_wait(stream);
        if (i > 0) keep_least(&best, from);
    }
    dnnl_memory_destroy(x), dnnl_memory_destroy(w), dnnl_memory_destroy(y);
    dnnl_primitive_destroy(p), dnnl_primitive_desc_destroy(pd), dnnl_stream_destroy(stream), dnnl_engine_destroy(eng);
    double gflop = 2.0 * N * N * N * 1e-6;
    return (struct timing){gflop / best.wall_ms, gflop / best.cpu_ms};
#endif
}

static void conv_by_gemm(struct dl_run *r, const struct dl_conv *a) { fast_conv(r, simd_pick(), a); }

static void conv_by_winograd(struct dl_run *r, const struct dl_conv *a)
{
    const struct simd *s = simd_pick();
    (fast_wino_takes(s, a) ? fast_wino : fast_conv)(r, s, a);
}

static void run_all(struct bench *b)
{
    double wall[5] = {0}, cpu[5] = {0}, flops[5] = {0}, raw_wall = 0, raw_cpu = 0;
    printf("%5s %-52s %-26s %9s %9s %8s %8s\n", "count", "op", "variant", "wall ms", "cpu ms", "GF/s", "GF/s/cpu");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        struct result t = time_shape(b, s);
        char line[160];
        snprintf(line, sizeof line, "%s %s", t.name, t.shape);
        if (b->only && !strstr(line, b->only)) continue;
        printf("%5d %-52s %-26s %9.2f %9.2f %8.1f %8.1f\n", s->count, line, t.variant, t.t.wall_ms, t.t.cpu_ms,
               (double)t.flops / t.t.wall_ms * 1e-6, (double)t.flops / t.t.cpu_ms * 1e-6);
        fflush(stdout);
        wall[s->kind] += s->count * t.t.wall_ms, cpu[s->kind] += s->count * t.t.cpu_ms;
        flops[s->kind] += (double)(s->count * t.flops);
        if (i % 16 == 0) {
            struct timing raw = raw_rate(b);
            raw_wall = fmax(raw_wall, raw.wall_ms), raw_cpu = fmax(raw_cpu, raw.cpu_ms);
        }
    }
    static const char *const name[] = {"conv", "gemm", "attn", "gnorm", "lnorm"};
    double w = 0, c = 0, f = 0;
    for (int k = 0; k < 5; k++) {
        printf("%-6s %9.1f GFLOP %9.1f ms wall %9.1f ms cpu %8.1f GF/s %8.1f GF/s/cpu\n", name[k], flops[k] * 1e-9,
               wall[k], cpu[k], flops[k] / fmax(wall[k], 1e-9) * 1e-6, flops[k] / fmax(cpu[k], 1e-9) * 1e-6);
        w += wall[k], c += cpu[k], f += flops[k];
    }
    printf("%-6s %9.1f GFLOP %9.1f ms wall %9.1f ms cpu %8.1f GF/s %8.1f GF/s/cpu\n", "step", f * 1e-9, w, c,
           f / w * 1e-6, f / c * 1e-6);
    printf("oneDNN matmul 2048^3 %s: %.1f GF/s, %.1f GF/s/cpu; step / raw: %.2f wall, %.2f cpu\n", dl_type_name(b->t),
           raw_wall, raw_cpu, f / w * 1e-6 / raw_wall, f / c * 1e-6 / raw_cpu);
}

int main(int argc, char **argv)
{
    struct bench b = {.t = DL_F32, .rows = 2, .reps = 2, .seed = 1};
    struct dl_cpu_opts o = {0};
    const struct dl_backend *be;
    struct dl_err e = {0};
    const char *conv = "auto";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--type"))
            b.t = strcmp(argv[i + 1], "bf16") ? DL_F32 : DL_BF16;
        else if (!strcmp(argv[i], "--rows"))
            b.rows = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--threads"))
            o.threads = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--reps"))
            b.reps = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--only"))
            b.only = argv[i + 1];
        else if (!strcmp(argv[i], "--conv"))
            conv = argv[i + 1];
        else
            give_up("unknown option; the head of cpu_ops.c lists them");
    }
    if (cpu_open(&be, &b.ctx, &o, &e) < 0) give_up(e.msg);
    b.be = *be, b.ops = *be->ops, b.be.ops = &b.ops, b.threads = b.ctx->threads;
    if (!strcmp(conv, "gemm")) b.ops.conv = conv_by_gemm;
    if (!strcmp(conv, "winograd")) b.ops.conv = conv_by_winograd;
    printf("SD 1.x UNet step, %d rows, 64 x 64, %s, %d threads, inner loops %s\n", b.rows, dl_type_name(b.t), b.threads,
           simd_pick() ? simd_pick()->name : "reference");
    run_all(&b);
    be->close(b.ctx);
    return 0;
}
