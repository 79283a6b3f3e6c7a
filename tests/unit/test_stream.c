/* Streaming of weights: the same bytes as with everything loaded, on every type and variant; memory that is bounded by
 * two slots; failures of the threads that fill; passes that end early; and the calls that a device's lanes get. Meant
 * to be run under ThreadSanitizer as well (-DDLENS_SANITIZE=thread). */
#include "engine/stream.h"
#ifdef RIG_CUDA /* tests/cuda/test_stream.c */
#include "tests/cuda/rig_cuda.h"
#else
#include "kernels/cpu/cpu.h"
#endif

#include <math.h>
#include <sched.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "tests/unit/check.h"

#ifdef RIG_CUDA
enum { REFERENCES = 1 };
#else
enum { REFERENCES = 2 }; /* the backend with and without its variants */
#endif
enum { STAGES = 7, WIDTH = 64, TOKENS = 9 };

/* A chain of residual blocks: a head of no stage, then STAGES blocks of unequal size. Some weights are made up. */
struct net {
    struct dl_w head, wide[STAGES], back[STAGES], bias[STAGES];
    struct dl_wset set;
    void *file; /* all values, in mapped memory */
    int64_t file_bytes, used;
    dl_act x, y;
    int from, to, passes;
};

static int block_width(int i) { return 64 + 32 * ((i * 5) % 4); }

static bool made_up(int i) { return i % 3 == 1; }

static void bind_made_up(struct net *n, struct dl_w *w, int64_t rows, int64_t in, int t)
{
    *w = (struct dl_w){.nd = 2, .dim = {rows, in, 1, 1}, .n_parts = 1};
    must(dl_wset_add(&n->set, w, "a made-up weight", e));
    w->part[0] = (struct dl_wpart){.rows = rows, .t = (uint8_t)t, .made_up = true, .made = {(uint32_t)rows, 0, 0.2f}};
}

static void bind_w(struct net *n, struct dl_w *w, int nd, int64_t rows, int64_t in, int t)
{
    int64_t count = rows * in;
    *w = (struct dl_w){.nd = nd, .dim = {rows, nd > 1 ? in : 1, 1, 1}};
    must(dl_wset_add(&n->set, w, "a weight", e));
    uint8_t *at = (uint8_t *)n->file + n->used;
    for (int64_t i = 0; i < count; i++) dl_store(at, t, i, sinf((float)(i * 7 + n->used)) / sqrtf((float)in));
    w->part[w->n_parts++] = (struct dl_wpart){.file = at, .rows = rows, .t = (uint8_t)t, .mapped = true};
    n->used += count * dl_type_bytes(t);
    assert_true(n->used <= n->file_bytes);
}

static struct net *net_open(void)
{
    struct net *n = calloc(1, sizeof *n);
    assert_non_null(n);
    n->file_bytes = 1 << 20;
    n->file = mmap(NULL, (size_t)n->file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(n->file != MAP_FAILED);
    bind_w(n, &n->head, 2, WIDTH, WIDTH, DL_F32);
    for (int i = 0; i < STAGES; i++) {
        dl_wset_mark(&n->set, i);
        if (made_up(i))
            bind_made_up(n, &n->wide[i], block_width(i), WIDTH, DL_BF16);
        else
            bind_w(n, &n->wide[i], 2, block_width(i), WIDTH, DL_BF16);
        bind_w(n, &n->bias[i], 1, block_width(i), 1, DL_BF16);
        bind_w(n, &n->back[i], 2, WIDTH, block_width(i), i % 2 ? DL_BF16 : DL_F32);
    }
    dl_wset_mark(&n->set, -1);
    n->to = STAGES, n->passes = 1;
    return n;
}

static void net_close(struct net *n)
{
    dl_wset_close(&n->set);
    munmap(n->file, (size_t)n->file_bytes);
    free(n);
}

static void program(struct dl_run *r, struct net *n)
{
    dl_op_gemm(r, (struct dl_gemm){.x = n->x, .y = n->y, .w = &n->head});
    for (int pass = 0; pass < n->passes; pass++)
        for (int i = n->from; i < n->to; i++) {
            struct dl_mark m = dl_arena_mark(&r->arena);
            dl_stage(r, i);
            dl_act h = dl_act_hi(r, r->t, n->x.n, 1, TOKENS, block_width(i));
            dl_op_gemm(
                r, (struct dl_gemm){.x = n->y, .y = h, .w = &n->wide[i], .e = {.bias = &n->bias[i], .fn = DL_SILU}});
            dl_op_gemm(r, (struct dl_gemm){.x = h, .y = n->y, .w = &n->back[i], .e = {.res = n->y}});
            dl_arena_release_hi(&r->arena, m);
        }
}

/* A CPU backend that counts the bytes it has given out, and its peak. */
struct machine {
    const struct dl_backend *inner;
    struct dl_backend be;
    struct dl_ctx *ctx;
};

static struct {
    pthread_mutex_t lock;
    void *at[256];
    int64_t bytes[256], now, peak;
} counted = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const struct dl_backend *inner;

static int counted_alloc(struct dl_ctx *c, int64_t bytes, void **p, struct dl_err *e)
{
    if (inner->alloc(c, bytes, p, e) < 0) return -1;
    pthread_mutex_lock(&counted.lock);
    for (int i = 0; i < 256; i++)
        if (!counted.at[i]) {
            counted.at[i] = *p, counted.bytes[i] = bytes, counted.now += bytes;
            break;
        }
    if (counted.now > counted.peak) counted.peak = counted.now;
    pthread_mutex_unlock(&counted.lock);
    return 0;
}

static void counted_free(struct dl_ctx *c, void *p)
{
    pthread_mutex_lock(&counted.lock);
    for (int i = 0; i < 256; i++)
        if (counted.at[i] == p) counted.at[i] = NULL, counted.now -= counted.bytes[i];
    pthread_mutex_unlock(&counted.lock);
    inner->free(c, p);
}

static struct machine machine_open(bool reference)
{
    struct machine m = {0};
#ifdef RIG_CUDA
    static struct machine one; /* open until the end */
    (void)reference;
    if (!one.ctx) rig_cuda_open(&one.inner, &one.ctx);
    m = one;
#else
    must(cpu_open(&m.inner, &m.ctx, &(struct dl_cpu_opts){.threads = 2, .reference_only = reference}, e));
#endif
    inner = m.inner;
    m.be = *m.inner;
    m.be.alloc = counted_alloc, m.be.free = counted_free;
    return m;
}

static void machine_close(struct machine *m)
{
#ifdef RIG_CUDA
    (void)m;
#else
    m->inner->close(m->ctx);
#endif
}

/* A run over the net with its input, planned. */
struct job {
    struct machine *m;
    struct net *n;
    struct dl_run r;
    void *work, *x, *y;
    int64_t work_bytes, act_bytes;
    uint8_t host[2 * TOKENS * WIDTH * 4]; /* the result, [act_bytes] */
};

static struct job job_open(struct machine *m, struct net *n, int type)
{
    struct job j = {.m = m, .n = n, .act_bytes = 2 * TOKENS * WIDTH * dl_type_bytes(type)};
    must(m->inner->alloc(m->ctx, j.act_bytes, &j.x, e));
    must(m->inner->alloc(m->ctx, j.act_bytes, &j.y, e));
    for (int i = 0; i < 2 * TOKENS * WIDTH; i++) dl_store(j.host, type, i, cosf((float)i));
    must(m->inner->upload(m->ctx, j.x, j.host, j.act_bytes, e));
    n->x = dl_act_at(j.x, type, 2, 1, TOKENS, WIDTH), n->y = dl_act_at(j.y, type, 2, 1, TOKENS, WIDTH);
    dl_run_open(&j.r, &m->be, m->ctx, type);
    program(&j.r, n);
    must(dl_run_check(&j.r, e));
    j.work_bytes = j.r.arena.peak_bytes;
    must(m->inner->alloc(m->ctx, j.work_bytes, &j.work, e));
    return j;
}

static void job_close(struct job *j)
{
    dl_run_close(&j->r);
    j->m->inner->free(j->m->ctx, j->work);
    j->m->inner->free(j->m->ctx, j->x);
    j->m->inner->free(j->m->ctx, j->y);
}

/* One run; the result is in j->host, if there is any. */
static void job_run(struct job *j)
{
    memset(j->host, 0xff, (size_t)j->act_bytes);
    must(j->m->inner->upload(j->m->ctx, j->y, j->host, j->act_bytes, e));
    dl_run_bind(&j->r, j->work, j->work_bytes);
    program(&j->r, j->n);
    must(j->m->inner->download(j->m->ctx, j->host, j->y, j->act_bytes, e));
}

/* The result with all weights loaded; to be freed. */
static void *resident(struct machine *m, int type, int from, int to, int passes)
{
    struct net *n = net_open();
    n->from = from, n->to = to, n->passes = passes;
    struct job j = job_open(m, n, type);
    must(dl_run_load(&j.r, &n->set, e));
    job_run(&j);
    must(dl_run_check(&j.r, e));
    void *y = malloc((size_t)j.act_bytes);
    assert_non_null(y);
    memcpy(y, j.host, (size_t)j.act_bytes);
    job_close(&j);
    net_close(n);
    return y;
}

static void same_bytes(struct machine *m, int type, int from, int to, int passes, int workers)
{
    void *want = resident(m, type, from, to, passes);
    struct net *n = net_open();
    struct dl_stream *s;
    n->from = from, n->to = to, n->passes = passes;
    struct job j = job_open(m, n, type);
    must(dl_stream_open(&s, &j.r, &n->set, workers, e));
    j.r.stream = s;
    for (int again = 0; again < 3; again++) {
        must(dl_stream_begin(s, from, to, passes, e));
        job_run(&j);
        must(dl_run_check(&j.r, e));
        dl_stream_end(s);
        assert_memory_equal(j.host, want, (size_t)j.act_bytes);
    }
    struct dl_stream_stats z = dl_stream_stats(s);
    assert_int_equal(z.stages, 3 * (to - from) * passes);
    assert_true(z.filled_bytes > 0);
    dl_stream_close(s);
    job_close(&j);
    net_close(n);
    free(want);
}

static void test_same_bytes(void **state)
{
    (void)state;
    static const int types[] = {DL_F32, DL_BF16};
    for (int reference = 0; reference < REFERENCES; reference++) {
        struct machine m = machine_open(reference);
        for (int t = 0; t < 2; t++) {
            if (!m.be.supports(m.ctx, types[t])) print_message("no bf16 primitives here: rows of the reference\n");
            same_bytes(&m, types[t], 0, STAGES, 1, 1);
            same_bytes(&m, types[t], 0, STAGES, 4, 3);
            same_bytes(&m, types[t], 2, 5, 3, 2);
            same_bytes(&m, types[t], 3, 5, 5, 1); /* as many stages as slots */
            same_bytes(&m, types[t], 6, 7, 4, 8); /* one stage, in turn in both slots */
        }
        machine_close(&m);
    }
    assert_int_equal(counted.now, 0);
}

/* What a streamed run holds is what the sizes said: the kept weights and two slots, at most. */
static void test_memory(void **state)
{
    (void)state;
    struct machine m = machine_open(false);
    struct net *n = net_open();
    struct job j = job_open(&m, n, DL_F32);
    struct dl_stream_sizes z = dl_stream_sizes(&n->set);
    int64_t files = 0, largest = 0;
    for (int i = 0; i < STAGES; i++) {
        files += (made_up(i) ? 2 : 2 * WIDTH + 2) * block_width(i) + (i % 2 ? 2 : 4) * WIDTH * block_width(i);
        int64_t bytes = 2 * 4 * WIDTH * block_width(i);
        if (bytes > largest) largest = bytes;
    }
    assert_int_equal(z.stages, STAGES);
    assert_int_equal(z.pass_bytes, files);
    assert_true(z.slot_bytes >= largest && z.slot_bytes < largest + largest / 4);
    assert_int_equal(z.streamed_bytes, z.kept_bytes + 2 * z.slot_bytes);
    assert_true(z.resident_bytes > z.streamed_bytes);
    assert_true(z.resident_bytes >= n->set.pack_bytes && z.resident_bytes < n->set.pack_bytes + 256 * 4 * STAGES);

    struct dl_stream *s;
    counted.peak = counted.now = 0;
    must(dl_stream_open(&s, &j.r, &n->set, 2, e));
    j.r.stream = s;
    must(dl_stream_begin(s, 0, STAGES, 1, e));
    job_run(&j);
    must(dl_run_check(&j.r, e));
    dl_stream_close(s);
    assert_true(counted.peak <= z.streamed_bytes);
    assert_int_equal(n->set.loaded_bytes, counted.now); /* the head stays until the set is closed */
    for (int i = 0; i < STAGES; i++) assert_null(n->wide[i].packs->data);
    job_close(&j);
    net_close(n);
    assert_int_equal(counted.now, 0);
    machine_close(&m);
}

/* A weight that cannot be filled fails the run at its stage, and not before; the next pass is a new try. */
static void test_failure(void **state)
{
    (void)state;
    struct machine m = machine_open(false);
    struct net *n = net_open();
    struct job j = job_open(&m, n, DL_F32);
    struct dl_stream *s;
    const void *file = n->back[3].part[0].file;
    must(dl_stream_open(&s, &j.r, &n->set, 2, e));
    j.r.stream = s;

    n->back[3].part[0].file = NULL;
    n->to = 3;
    must(dl_stream_begin(s, 0, STAGES, 1, e));
    job_run(&j);
    must(dl_run_check(&j.r, e)); /* stages 0..2 are sound */
    n->from = 3, n->to = STAGES;
    program(&j.r, n);
    struct dl_err e = {0};
    assert_int_equal(dl_run_check(&j.r, &e), -1);
    assert_non_null(strstr(e.msg, "weight a weight: only its shape is known"));
    dl_stream_end(s);

    n->back[3].part[0].file = file;
    n->from = 0, j.r.err = (struct dl_err){0};
    must(dl_stream_begin(s, 0, STAGES, 1, e));
    job_run(&j);
    must(dl_run_check(&j.r, e));
    void *want = resident(&m, DL_F32, 0, STAGES, 1);
    assert_memory_equal(j.host, want, (size_t)j.act_bytes);
    free(want);
    dl_stream_close(s);
    job_close(&j);
    net_close(n);
    machine_close(&m);
}

/* Passes that end early, at every stage, and streams closed in the middle of one. */
static void test_stopped(void **state)
{
    (void)state;
    struct machine m = machine_open(false);
    for (int at = 0; at <= STAGES; at++)
        for (int ended = 0; ended < 2; ended++) {
            struct net *n = net_open();
            struct job j = job_open(&m, n, DL_F32);
            struct dl_stream *s;
            must(dl_stream_open(&s, &j.r, &n->set, 1 + at % 3, e));
            j.r.stream = s;
            must(dl_stream_begin(s, 0, STAGES, 2, e));
            n->to = at;
            job_run(&j);
            must(dl_run_check(&j.r, e));
            if (ended) {
                dl_stream_end(s);
                n->to = STAGES;
                must(dl_stream_begin(s, 0, STAGES, 1, e));
                job_run(&j);
                must(dl_run_check(&j.r, e));
            }
            dl_stream_close(s);
            job_close(&j);
            net_close(n);
        }
    machine_close(&m);
    assert_int_equal(counted.now, 0);
}

static void expect_error(struct job *j, const char *text)
{
    struct dl_err e = {0};
    assert_int_equal(dl_run_check(&j->r, &e), -1);
    if (!strstr(e.msg, text)) fail_msg("\"%s\" does not say \"%s\"", e.msg, text);
    j->r.err = (struct dl_err){0};
}

static void test_misuse(void **state)
{
    (void)state;
    struct machine m = machine_open(false);
    struct net *n = net_open();
    struct job j = job_open(&m, n, DL_F32);
    struct dl_stream *s;
    struct dl_err e = {0};
    must(dl_stream_open(&s, &j.r, &n->set, 1, e));
    dl_run_bind(&j.r, j.work, j.work_bytes);
    j.r.stream = s;
    dl_stage(&j.r, 0); /* nothing was announced */
    expect_error(&j, "was not announced");
    must(dl_stream_begin(s, 0, STAGES, 1, e));
    dl_stage(&j.r, 1);
    expect_error(&j, "stage 1 of the streamed weights was not announced as number 0");
    j.r.mode = DL_CAPTURE;
    dl_stage(&j.r, 0);
    expect_error(&j, "cannot be recorded");
    assert_int_equal(dl_stream_begin(s, 0, STAGES + 1, 1, &e), -1);
    assert_non_null(strstr(e.msg, "network of 7 stages"));
    dl_stream_close(s);

    for (int i = 0; i < STAGES; i++) n->wide[i].stage = n->back[i].stage = n->bias[i].stage = 0;
    e = (struct dl_err){0};
    assert_int_equal(dl_stream_open(&s, &j.r, &n->set, 1, &e), -1);
    assert_null(s);
    assert_non_null(strstr(e.msg, "no stages"));
    job_close(&j);
    net_close(n);
    machine_close(&m);
}

/* Forms are asked for anew after dl_wset_forget. */
static void test_forget(void **state)
{
    (void)state;
    struct machine m = machine_open(false);
    struct net *n = net_open();
    struct job j = job_open(&m, n, DL_F32);
    int64_t bytes = n->set.pack_bytes;
    must(dl_run_load(&j.r, &n->set, e));
    assert_int_equal(n->set.loaded_bytes, bytes);
    dl_wset_forget(&n->set);
    assert_int_equal(counted.now, 0);
    assert_int_equal(n->set.pack_bytes + n->set.loaded_bytes, 0);
    dl_run_dry(&j.r);
    program(&j.r, n);
    assert_int_equal(n->set.pack_bytes, bytes);
    job_close(&j);
    net_close(n);
    machine_close(&m);
}

#ifndef RIG_CUDA
/* Lanes: what they are told must keep copies and ops apart. A slot's number of uses stands for the device's events. */
struct dl_lane {
    int worker;
};

struct dl_lanes {
    struct dl_lane lane[DL_STREAM_WORKERS];
    int workers, slots;
};

static struct {
    pthread_mutex_t lock;
    int copies[DL_STREAM_SLOTS];  /* under way */
    int loose[DL_STREAM_SLOTS];   /* done since the slot was left last */
    bool in_use[DL_STREAM_SLOTS]; /* entered and not left */
    int64_t begun, ended, entered, left, wrong, open, fail_at;
    bool worker_seen[DL_STREAM_WORKERS];
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int lanes_open(struct dl_ctx *c, int workers, int slots, struct dl_lanes **out, struct dl_err *e)
{
    (void)c, (void)e;
    *out = calloc(1, sizeof **out);
    assert_non_null(*out);
    (*out)->workers = workers, (*out)->slots = slots;
    for (int i = 0; i < DL_STREAM_WORKERS; i++) (*out)->lane[i].worker = i;
    seen.open++;
    return 0;
}

static int lanes_begin(struct dl_lanes *l, int worker, int slot, struct dl_lane **lane, struct dl_err *e)
{
    pthread_mutex_lock(&seen.lock);
    seen.wrong += worker >= l->workers || slot >= l->slots || seen.in_use[slot];
    seen.copies[slot]++, seen.begun++, seen.worker_seen[worker] = true;
    *lane = &l->lane[worker];
    int rc = seen.begun == seen.fail_at ? dl_fail(e, DL_EFAIL, "the device fell off the bus") : 0;
    if (rc < 0) seen.copies[slot]--;
    pthread_mutex_unlock(&seen.lock);
    return rc;
}

static int lanes_end(struct dl_lanes *l, int worker, int slot, struct dl_err *e)
{
    (void)l, (void)worker, (void)e;
    pthread_mutex_lock(&seen.lock);
    seen.copies[slot]--, seen.loose[slot]++, seen.ended++;
    pthread_mutex_unlock(&seen.lock);
    return 0;
}

static int lanes_enter(struct dl_lanes *l, int slot, struct dl_err *e)
{
    (void)l, (void)e;
    pthread_mutex_lock(&seen.lock);
    seen.wrong += seen.in_use[slot] || seen.in_use[1 - slot] || seen.copies[slot];
    seen.in_use[slot] = true, seen.entered++;
    pthread_mutex_unlock(&seen.lock);
    return 0;
}

static int lanes_leave(struct dl_lanes *l, int slot, struct dl_err *e)
{
    (void)l, (void)e;
    pthread_mutex_lock(&seen.lock);
    seen.wrong += !seen.in_use[slot];
    seen.in_use[slot] = false, seen.loose[slot] = 0, seen.left++;
    pthread_mutex_unlock(&seen.lock);
    return 0;
}

static void lanes_close(struct dl_lanes *l)
{
    seen.open--;
    free(l);
}

static void test_lanes(void **state)
{
    (void)state;
    static const struct dl_lane_ops lanes = {.workers = 3,
                                             .open = lanes_open,
                                             .begin = lanes_begin,
                                             .end = lanes_end,
                                             .enter = lanes_enter,
                                             .leave = lanes_leave,
                                             .close = lanes_close};
    struct machine m = machine_open(false);
    m.be.lanes = &lanes;
    same_bytes(&m, DL_F32, 0, STAGES, 5, 0);
    assert_int_equal(seen.wrong, 0);
    assert_int_equal(seen.begun, 3 * 5 * STAGES * 3);
    assert_int_equal(seen.ended, seen.begun);
    assert_int_equal(seen.entered, 3 * 5 * STAGES);
    assert_int_equal(seen.left, seen.entered);
    assert_false(seen.worker_seen[3]);
    assert_int_equal(seen.open, 0);

    /* A pass that is given up: the copies made for it come before the next pass's. */
    struct net *n = net_open();
    struct job j = job_open(&m, n, DL_F32);
    struct dl_stream *s;
    must(dl_stream_open(&s, &j.r, &n->set, 0, e));
    j.r.stream = s;
    must(dl_stream_begin(s, 0, STAGES, 1, e));
    while (dl_stream_stats(s).filled_bytes == 0) sched_yield();
    dl_stream_end(s);
    assert_int_equal(seen.loose[0], 0);
    assert_int_equal(seen.loose[1], 0);
    assert_int_equal(seen.wrong, 0);

    seen.fail_at = seen.begun + 8;
    must(dl_stream_begin(s, 0, STAGES, 1, e));
    job_run(&j);
    expect_error(&j, "the device fell off the bus");
    dl_stream_close(s);
    assert_int_equal(seen.open, 0);
    assert_int_equal(seen.left, seen.entered);
    job_close(&j);
    net_close(n);
    machine_close(&m);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_memory), cmocka_unit_test(test_failure),
        cmocka_unit_test(test_stopped),    cmocka_unit_test(test_misuse), cmocka_unit_test(test_forget),
#ifndef RIG_CUDA
        cmocka_unit_test(test_lanes),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
