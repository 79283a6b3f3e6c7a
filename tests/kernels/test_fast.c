/* Promises of the CPU's fast kernels that no single case shows: a row's bits depend neither on the other rows nor on
 * the number of threads; AVX2 and AVX-512 give the same bits where sums run in order; Winograd's error stays near the
 * plain sum's. */
#include "kernels/cpu/fast.h"
#include "tests/kernels/oracle.h"

enum { OPS = 8, ROWS = 3 };

#if defined(__x86_64__)
extern const struct simd simd_avx2, simd_avx512;
#endif

/* One op on ROWS rows; x, k, v and res are sliced to run it on fewer. */
struct job {
    struct dl_gemm gemm;
    struct dl_conv conv;
    struct dl_gnorm gnorm;
    struct dl_norm norm;
    struct dl_lnorm lnorm;
    struct dl_attn attn;
    const struct simd *s; /* NULL: what the table picks */
    bool wino;
};

static dl_act *out_of(struct job *j)
{
    if (j->gemm.w) return &j->gemm.y;
    if (j->conv.w) return &j->conv.y;
    if (j->attn.heads) return &j->attn.y;
    return j->norm.x.p ? &j->norm.y : &j->lnorm.y;
}

static void call(struct dl_run *r, struct job *j)
{
    if (j->s && j->gemm.w)
        fast_gemm(r, j->s, &j->gemm);
    else if (j->s && j->conv.w)
        (j->wino ? fast_wino : fast_conv)(r, j->s, &j->conv);
    else if (j->s)
        fast_attn(r, j->s, &j->attn);
    else if (j->gemm.w)
        dl_op_gemm(r, j->gemm);
    else if (j->attn.heads)
        dl_op_attn(r, j->attn);
    else if (j->lnorm.x.p)
        dl_op_lnorm(r, j->lnorm);
    else {
        struct dl_stat s = dl_op_gnorm(r, j->gnorm);
        if (j->conv.w) {
            j->conv.pre = s, j->conv.pre_fn = DL_SILU;
            dl_op_conv(r, j->conv);
        } else {
            j->norm.s = s, j->norm.fn = DL_SILU;
            dl_op_norm(r, j->norm);
        }
    }
}

static void run_job(struct job *j, int threads, int t)
{
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct dl_err e = {0};
    struct dl_run r;
    struct dl_cpu_opts o = {.threads = threads};
    assert_int_equal(cpu_open(&be, &ctx, &o, &e), 0);
    dl_run_open(&r, be, ctx, t);
    dl_run_dry(&r);
    call(&r, j);
    assert_int_equal(dl_run_check(&r, &e), 0);
    int64_t peak = r.arena.peak_bytes;
    assert_int_equal(dl_run_load(&r, &rig.set, &e), 0);
    void *mem = aligned_alloc(DL_ALIGN, (size_t)peak + DL_ALIGN);
    assert_non_null(mem);
    memset(mem, 0xff, (size_t)peak + DL_ALIGN); /* NaN: scratch must be written before it is read */
    dl_run_bind(&r, mem, peak);
    call(&r, j);
    assert_int_equal(dl_run_check(&r, &e), 0);
    assert_int_equal(r.arena.peak_bytes, peak);
    free(mem);
    dl_run_close(&r);
    be->close(ctx);
}

static struct job make(int op, int t)
{
    struct job j = {0};
    int pix = op == 0 ? 300 : 77;
    if (op < 2) {
        j.gemm.x = t_random(t_act(t, ROWS, 1, pix, 64, 0), 0, 1), j.gemm.y = t_act(t, ROWS, 1, pix, 176, 0);
        j.gemm.w = t_w(t, 1, 0, 0.3, 2, (int64_t[]){op ? 352 : 176, 64}), j.gemm.e.glu = op,
        j.gemm.e.fn = op ? DL_GELU : 0;
    } else if (op < 5) {
        int size = op == 2 ? 20 : 12, in = op == 3 ? 36 : 64; /* bands with remainder, implicit GEMM, small Winograd */
        j.conv.x = t_random(t_act(t, ROWS, size, size, in, 0), 0.3, 1), j.conv.y = t_act(t, ROWS, size, size, 80, 0);
        j.conv.w = t_w(t, 1, 0, 0.1, 4, (int64_t[]){80, in, 3, 3}), j.conv.k = 3;
        j.gnorm = (struct dl_gnorm){.x = j.conv.x, .groups = 4, .eps = 1e-5f};
    } else if (op == 5) {
        j.norm.x = t_random(t_act(t, ROWS, 9, 9, 40, 0), 0.3, 1), j.norm.y = t_act(t, ROWS, 9, 9, 40, 0);
        j.gnorm = (struct dl_gnorm){.x = j.norm.x, .groups = 4, .eps = 1e-5f};
    } else if (op == 6) {
        j.lnorm.x = t_random(t_act(t, ROWS, 1, 77, 72, 0), 0.3, 1), j.lnorm.y = t_act(t, ROWS, 1, 77, 72, 0);
        j.lnorm.eps = 1e-5f;
    } else {
        j.attn.q = t_random(t_act(t, ROWS, 1, 150, 80, 0), 0, 2),
        j.attn.k = t_random(t_act(t, ROWS, 1, 150, 80, 0), 0, 2);
        j.attn.v = t_random(t_act(t, ROWS, 1, 150, 80, 0), 0, 1), j.attn.y = t_act(t, ROWS, 1, 150, 80, 0);
        j.attn.heads = 2, j.attn.scale = 0.3f, j.attn.causal = true;
    }
    return j;
}

/* The job on row `i` alone, with an output of its own. */
static struct job only_row(struct job j, int i)
{
    dl_act *acts[] = {&j.gemm.x, &j.conv.x, &j.gnorm.x, &j.norm.x, &j.lnorm.x, &j.attn.q, &j.attn.k, &j.attn.v};
    for (size_t k = 0; k < sizeof acts / sizeof *acts; k++)
        if (acts[k]->p) *acts[k] = dl_act_rows(*acts[k], i, 1);
    dl_act *y = out_of(&j);
    *y = t_act(y->t, 1, y->h, y->w, y->c, 0);
    return j;
}

static void rows_and_threads(void **state)
{
    (void)state;
    static const int types[] = {DL_F32, DL_BF16, DL_F16};
    for (int op = 0; op < OPS; op++)
        for (int k = 0; k < 3; k++) {
            struct job all = make(op, types[k]), again;
            run_job(&all, 1, types[k]);
            dl_act y = *out_of(&all);
            int64_t row = y.rs * dl_type_bytes(y.t);
            for (int threads = 2; threads <= 5; threads += 3) {
                again = all;
                *out_of(&again) = t_act(y.t, ROWS, y.h, y.w, y.c, 0);
                run_job(&again, threads, types[k]);
                assert_memory_equal(out_of(&again)->p, y.p, (size_t)(row * ROWS));
            }
            for (int i = 0; i < ROWS; i++) {
                struct job one = only_row(all, i);
                run_job(&one, 2, types[k]);
                assert_memory_equal(out_of(&one)->p, (uint8_t *)y.p + i * row, (size_t)row);
            }
        }
}

static double relative(dl_act a, dl_act b)
{
    double d = 0, n = 0;
    for (int64_t i = 0; i < a.n; i++)
        for (int64_t p = 0; p < (int64_t)a.h * a.w; p++)
            for (int64_t c = 0; c < a.c; c++) {
                double x = t_at(a, i, p, c), y = t_at(b, i, p, c);
                d += (x - y) * (x - y), n += y * y;
            }
    return sqrt(d / n);
}

static void call_attn(struct dl_run *r, void *arg) { dl_op_attn(r, *(struct dl_attn *)arg); }

/* More queries and keys than any block holds, with a remainder, against the reference. */
static void long_attention(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        int t = k & 1 ? DL_BF16 : DL_F32;
        struct dl_attn a = {.heads = 2, .scale = 0.3f, .causal = k & 2};
        a.q = t_random(t_act(t, 1, 1, 550, 80, 8), 0, 1), a.k = t_random(t_act(t, 1, 1, 1100, 80, 8), 0, 1);
        a.v = t_random(t_act(t, 1, 1, 1100, 80, 8), 0, 1), a.y = t_act(DL_F32, 1, 1, 550, 80, 0);
        rig_run(REFERENCE, t, 0, call_attn, &a);
        struct dl_attn b = a;
        b.y = t_act(DL_F32, 1, 1, 550, 80, 0);
        rig_run(DEFAULT, t, 0, call_attn, &b);
        assert_true(relative(b.y, a.y) < (t == DL_F32 ? 1e-6 : 3e-3));
    }
}

#if defined(__x86_64__)
static void both_instruction_sets(void **state)
{
    (void)state;
    if (simd_pick() != &simd_avx512) {
        print_message("skipped: AVX2 against AVX-512, which this machine does not have\n");
        skip();
    }
    for (int op = 0; op < OPS; op++) {
        if (op == 5 || op == 6) continue;
        for (int wino = 0; wino <= (op == 2 || op == 4); wino++) {
            struct job a = make(op, DL_F32), b = a;
            a.wino = b.wino = wino;
            if (a.conv.w) a.conv.stride = b.conv.stride = 1, a.conv.e.scale = b.conv.e.scale = 1;
            if (a.gemm.w) a.gemm.e.scale = b.gemm.e.scale = 1;
            *out_of(&b) = t_act(DL_F32, ROWS, out_of(&a)->h, out_of(&a)->w, out_of(&a)->c, 0);
            a.s = &simd_avx512, b.s = &simd_avx2;
            run_job(&a, 2, DL_F32);
            run_job(&b, 2, DL_F32);
            dl_act x = *out_of(&a), y = *out_of(&b);
            if (a.attn.heads)
                assert_true(relative(x, y) < 5e-7);
            else
                assert_memory_equal(x.p, y.p, (size_t)(x.rs * ROWS * 4));
        }
    }
}

/* 320 channels as in the widest layer of an SD UNet's first level; inputs like SiLU's outputs. */
static void winograd_error(void **state)
{
    (void)state;
    enum { SIZE = 12, C = 320 };
    const struct simd *s = simd_pick();
    if (!s) {
        print_message("skipped: Winograd's error, no vector unit that it is written for\n");
        skip();
    }
    struct job j = {.s = s};
    j.conv = (struct dl_conv){.x = t_act(DL_F32, 1, SIZE, SIZE, C, 0), .y = t_act(DL_F32, 1, SIZE, SIZE, C, 0), .k = 3};
    j.conv.stride = 1, j.conv.e.scale = 1;
    t_random(j.conv.x, 0, 3);
    for (int64_t i = 0; i < SIZE * SIZE * C; i++) {
        float *x = (float *)j.conv.x.p + i;
        *x = (float)((double)*x / (1 + exp(-(double)*x)));
    }
    j.conv.w = t_w(DL_F32, 1, 0, 0.03, 4, (int64_t[]){C, C, 3, 3});
    run_job(&j, 2, DL_F32);
    struct job w = j, ref = {.conv = j.conv};
    w.wino = true, w.conv.y = t_act(DL_F32, 1, SIZE, SIZE, C, 0);
    ref.conv.y = t_act(DL_F32, 1, SIZE, SIZE, C, 0);
    run_job(&w, 2, DL_F32);
    struct dl_run r;
    struct dl_err e = {0};
    dl_run_open(&r, rig.be[REFERENCE], rig.ctx[REFERENCE], DL_F32);
    for (int real = 0; real < 2; real++) {
        int64_t peak = r.arena.peak_bytes;
        void *mem = real ? t_mem(peak + DL_ALIGN) : NULL;
        if (real)
            dl_run_bind(&r, (void *)(((uintptr_t)mem + DL_ALIGN - 1) / DL_ALIGN * DL_ALIGN), peak);
        else
            dl_run_dry(&r);
        dl_op_conv(&r, ref.conv);
        assert_int_equal(dl_run_load(&r, &rig.set, &e), 0);
        assert_int_equal(dl_run_check(&r, &e), 0);
    }
    dl_run_close(&r);
    double plain = relative(j.conv.y, ref.conv.y), wino = relative(w.conv.y, ref.conv.y);
    print_message("relative error on %d channels: plain sum %.2e, Winograd %.2e\n", (int)C, plain, wino);
    assert_true(wino < 2.5e-6);
    assert_true(plain > 0 && plain < 2e-6);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(rows_and_threads, rig_clear),
        cmocka_unit_test_teardown(long_attention, rig_clear),
#if defined(__x86_64__)
        cmocka_unit_test_teardown(both_instruction_sets, rig_clear),
        cmocka_unit_test_teardown(winograd_error, rig_clear),
#endif
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
