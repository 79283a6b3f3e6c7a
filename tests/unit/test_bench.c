/* The library behind dlens bench: predictions against numbers worked out by hand, lists of ops against dry runs, ops
 * run alone, and checks that find what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "loaders/st_write.h"
#include "tests/unit/root.h"
#include "tools/bench/check.h"
#include "tools/bench/clock.h"
#include "tools/bench/devices.h"
#include "tools/bench/model.h"

#include <math.h>

static const struct device card = {
    .f32 = 10, .f16 = 100, .bf16 = 50, .gb_per_s = 1000, .memory_gib = 24, .launch_us = 2};

static void near(double got, double want) { assert_true(fabs(got - want) <= 1e-9 * fabs(want)); }

static void test_one_op(void **state)
{
    (void)state;
    near(device_us(&card, DL_F16, 2000000000, 1000000), 20);  /* 2 GFLOP at 100 TFLOP/s; 1 us of bytes */
    near(device_us(&card, DL_F16, 2000000000, 50000000), 50); /* 50 MB at 1 TB/s */
    near(device_us(&card, DL_BF16, 2000000000, 1000000), 40);
    near(device_us(&card, DL_F32, 2000000000, 1000000), 200);
    near(device_us(&card, DL_E4M3, 2000000000, 1000000), 200); /* the card has none: as f32 */
    near(device_us(&card, DL_F16, 0, 3000000), 3);
}

static void test_sweep_time(void **state)
{
    (void)state;
    struct tape_case c[] = {
        {.phase = TAPE_STEP, .run_t = DL_F16, .count = 3, .flops = 2000000000, .bytes = 1000000}, /* 20 us */
        {.phase = TAPE_STEP, .run_t = DL_F16, .count = 1, .bytes = 10000000},                     /* 10 us */
        {.phase = TAPE_FIRST, .run_t = DL_F16, .count = 1, .flops = 3000000000},                  /* 30 us */
        {.phase = TAPE_REST_STEP, .run_t = DL_F16, .count = 1, .flops = 1000000000},              /* 10 us */
        {.phase = TAPE_REST_FIRST, .run_t = DL_F16, .count = 1, .flops = 800000000},              /* 8 us */
        {.phase = TAPE_DECODE, .run_t = DL_F16, .count = 2, .flops = 500000000},                  /* 5 us */
        {.phase = TAPE_TEXT, .run_t = DL_F32, .count = 1, .flops = 80000000},                     /* 8 us */
        {.phase = TAPE_PREPARE, .run_t = DL_F16, .count = 1, .flops = 200000000},                 /* 2 us */
    };
    struct tape t = {.c = c, .n = sizeof c / sizeof *c};
    struct device_time step = device_phase(&card, &t, TAPE_STEP);
    near(step.op_ms, 0.070);
    near(step.launch_ms, 0.008);
    /* 7 images: two batches of 3 and one of 1, 5 evaluations each. With 2 us for each launch: text 10, prepare 4, a
     * full batch 32 + 4 * 78 = 344, the rest 10 + 4 * 12 = 58, decoding 7 * 14 = 98. */
    struct device_sweep s = device_sweep(&card, &t, 7, 3, 5);
    near(s.step_ms, 0.078);
    near(s.text_s, 10e-6);
    near(s.prepare_s, 4e-6);
    near(s.denoise_s, (2 * 344 + 58) * 1e-6);
    near(s.decode_s, 98e-6);
    near(s.total_s, (10 + 4 + 746 + 98) * 1e-6);
    near(device_sweep(&card, &t, 6, 3, 5).denoise_s, 2 * 344e-6);
    near(device_sweep(&card, &t, 3, 3, 1).denoise_s, 32e-6);
}

static void test_cards(void **state)
{
    (void)state;
    struct dl_err e = {0};
    for (int i = 0; device_at(i); i++) {
        const struct device *d = device_at(i);
        struct device read;
        assert_non_null(strstr(device_names(), d->name));
        assert_int_equal(device_read(&read, d->name, &e), 0);
        assert_string_equal(read.title, d->title);
        assert_true(d->f16 > d->f32 && d->gb_per_s > 500 && d->memory_gib >= 24 && d->launch_us > 0);
        assert_non_null(strstr(d->source, "(20"));
    }
    assert_null(device_at(5));
}

static int read_text(struct device *d, const char *text, struct dl_err *e)
{
    char path[FOLDER_PATH + 32];
    snprintf(path, sizeof path, "%s/card.json", root);
    assert_int_equal(folder_write(path, text, (int64_t)strlen(text)), 0);
    *e = (struct dl_err){0};
    return device_read(d, path, e);
}

static void refuse(const char *text, const char *why)
{
    struct device d;
    struct dl_err e;
    assert_int_equal(read_text(&d, text, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    if (!strstr(e.msg, why)) fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
}

static void test_card_files(void **state)
{
    (void)state;
    struct device d;
    struct dl_err e;
    assert_int_equal(read_text(&d, "{\"name\": \"x\", \"f16_tflops\": 40, \"gb_per_s\": 500.5}", &e), 0);
    assert_string_equal(d.name, "x");
    near(d.bf16, 40);
    near(d.f32, 20);
    near(d.gb_per_s, 500.5);
    assert_true(d.launch_us > 0);
    assert_int_equal(read_text(&d,
                               "{\"f16_tflops\": 40, \"bf16_tflops\": 30, \"f32_tflops\": 5, \"gb_per_s\": 9, "
                               "\"memory_gib\": 12, \"launch_us\": 0}",
                               &e),
                     0);
    near(d.bf16, 30);
    near(d.f32, 5);
    near(d.memory_gib, 12);
    assert_true(d.launch_us == 0);
    refuse("{\"f16_tflops\": 40}", "\"gb_per_s\" is needed");
    refuse("{\"f16_tflops\": -1, \"gb_per_s\": 5}", "\"f16_tflops\" is not a positive number");
    refuse("{\"f16_tflops\": \"fast\", \"gb_per_s\": 5}", "\"f16_tflops\" is not a positive number");
    refuse("{\"f16_tflops\": 4, \"gb_per_s\": 0}", "\"gb_per_s\" is not a positive number");
    refuse("[1]", "no JSON object");
    refuse("{", "no JSON object");
    e = (struct dl_err){0};
    assert_int_equal(device_read(&d, "rtx1", &e), -1);
    assert_int_equal(e.code, DL_EUSAGE);
    assert_non_null(strstr(e.msg, "h200, rtx5090"));
}

/* A hole is as long as what it stands for, reads as zeros and takes no room. */
static void test_hole(void **state)
{
    (void)state;
    char path[FOLDER_PATH + 32];
    struct st_tensor t[] = {{.name = "a", .t = DL_F32, .nd = 1, .dim = {2}},
                            {.name = "big", .t = DL_F32, .nd = 1, .dim = {4 << 20}},
                            {.name = "z", .t = DL_F32, .nd = 1, .dim = {1}}};
    struct st_writer *w;
    struct dl_err e = {0};
    struct stat st;
    const float a[2] = {1, 2}, z = 3;
    snprintf(path, sizeof path, "%s/hole.safetensors", root);
    assert_int_equal(st_writer_open(&w, path, t, 3, NULL, 0, &e), 0);
    assert_int_equal(st_writer_add(w, a, 8, &e), 0);
    assert_int_equal(st_writer_hole(w, 16 << 20, &e), 0);
    assert_int_equal(st_writer_add(w, &z, 4, &e), 0);
    assert_int_equal(st_writer_hole(w, 1, &e), -1); /* beyond what the header describes */
    assert_int_equal(st_writer_close(w, &e), 0);
    assert_int_equal(stat(path, &st), 0);
    if (st.st_blocks * 512 > 1 << 20) print_message("this file system knows no holes: %s\n", root);
    int64_t n;
    char *data = folder_read(path, &n);
    assert_non_null(data);
    assert_memory_equal(data + n - 4, &z, 4);
    assert_memory_equal(data + n - 4 - (16 << 20) - 8, a, 8);
    for (int64_t i = n - 4 - (16 << 20); i < n - 4; i++) assert_int_equal(data[i], 0);
    free(data);
}

/* Ops of a model: recorded. */
static struct tape *record(const char *like, bool tiny, int type, int layers, int batch, struct pipe_plan *plan)
{
    struct tape *t = NULL;
    struct bench_model m = {0};
    struct dl_err e = {0};
    struct bench_sweep s = {.layers = layers, .batch = batch, .guidance = NAN, .type = type};
    if (tiny && strstr(like, "flux")) s.width = s.height = 64;
    if (tape_open(&t, INT64_MAX / 4, true, &e) < 0 ||
        bench_model_open(&m, &(struct bench_source){.like = like, .tiny = tiny}, type, t->be, t->ctx, &e) < 0 ||
        bench_sweep_complete(m.pipe, &s, &e) < 0 || bench_record(t, &m, &s, plan, &e) < 0)
        fail_msg("%s: %s", like, e.msg);
    bench_model_close(&m);
    return t;
}

/* The list of SD 1.5's ops adds up to the dry run, of the tape and of the CPU backend alike. */
static void test_list_is_the_dry_run(void **state)
{
    (void)state;
    struct pipe_plan plan, on_cpu;
    struct dl_err e = {0};
    struct tape *t = record("sd15", false, DL_F16, 1, 1, &plan);
    struct tape_sum step = tape_sum_of(t, TAPE_STEP), decode = tape_sum_of(t, TAPE_DECODE);
    assert_int_equal(step.flops, plan.step_flops);
    assert_int_equal(step.bytes, plan.step_bytes);
    assert_int_equal(decode.flops, plan.decode_flops);
    assert_int_equal(plan.evaluations, 51);
    assert_true(step.flops > 1.55e12 && step.flops < 1.65e12); /* 0.8 TFLOP a row, as published counts have it */
    int count = 0;
    for (int i = 0; i < t->n; i++)
        if (t->c[i].phase == TAPE_STEP && t->c[i].kind == OP_ATTN) count += t->c[i].count;
    assert_int_equal(count, 32); /* self and cross attention of 16 transformers */
    tape_close(t);

    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct bench_model m = {0};
    struct bench_sweep s = {.layers = 1, .batch = 1, .guidance = NAN, .type = DL_F32};
    assert_int_equal(cpu_open(&be, &ctx, &(struct dl_cpu_opts){.threads = 1}, &e), 0);
    if (bench_model_open(&m, &(struct bench_source){.like = "sd15"}, DL_F32, be, ctx, &e) < 0 ||
        bench_sweep_complete(m.pipe, &s, &e) < 0)
        fail_msg("%s", e.msg);
    struct pipe_gen g = bench_gen(m.pipe, &s);
    if (pipe_plan(m.pipe, &g, &on_cpu, &e) < 0) fail_msg("%s", e.msg);
    assert_int_equal(on_cpu.step_flops, plan.step_flops);
    assert_int_equal(on_cpu.decode_flops, plan.decode_flops);
    bench_model_close(&m);
    be->close(ctx);
}

/* More images: the first step shares the unconditional row, and a last batch may be smaller. */
static void test_phases(void **state)
{
    (void)state;
    struct pipe_plan plan;
    struct tape *t = record("sd15", true, DL_F32, 5, 3, &plan);
    struct tape *one = record("sd15", true, DL_F32, 2, 2, &plan);
    assert_true(tape_sum_of(t, TAPE_FIRST).flops < tape_sum_of(t, TAPE_STEP).flops);
    assert_int_equal(tape_sum_of(t, TAPE_REST_STEP).flops, tape_sum_of(one, TAPE_STEP).flops);
    assert_int_equal(tape_sum_of(one, TAPE_REST_STEP).ops, 0);
    assert_true(tape_sum_of(t, TAPE_TEXT).flops > 0 && tape_sum_of(t, TAPE_PREPARE).flops > 0);
    for (int i = 0; i < t->n; i++) assert_true(t->c[i].count > 0 && t->c[i].bytes > 0 && *t->c[i].shape);
    tape_close(t);
    tape_close(one);
}

struct two {
    const struct dl_backend *be, *ref;
    struct dl_ctx *ctx, *ref_ctx;
};

static void open_two(struct two *w)
{
    struct dl_err e = {0};
    if (cpu_open(&w->be, &w->ctx, &(struct dl_cpu_opts){.threads = 1}, &e) < 0 ||
        cpu_open(&w->ref, &w->ref_ctx, &(struct dl_cpu_opts){.threads = 1, .reference_only = true}, &e) < 0)
        fail_msg("%s", e.msg);
}

static void close_two(struct two *w)
{
    w->be->close(w->ctx);
    w->ref->close(w->ref_ctx);
}

static double share_of(const struct two *w, const struct dl_backend *be, const struct tape_case *k)
{
    struct case_run c;
    struct check ch;
    struct dl_err e = {0};
    if (case_open(&c, k, be, w->ctx, 2, CASE_SIGNED, &e) < 0 || case_once(&c, 0, &e) < 0 ||
        check_case(&c, w->ref, w->ref_ctx, &ch, &e) < 0 || case_once(&c, 1, &e) < 0)
        fail_msg("%s %s: %s", op_name(k->kind), k->shape, e.msg);
    if (ch.elements < 1) fail_msg("%s %s: nothing was looked at", op_name(k->kind), k->shape);
    case_close(&c);
    return ch.share;
}

/* Every op of every model's small version runs alone, and gives what the reference gives. */
static void test_ops_alone(void **state)
{
    (void)state;
    static const char *const like[] = {"sd15", "sdxl", "if", "if2", "flux"};
    struct two w;
    bool seen[OP_KINDS] = {false};
    open_two(&w);
    for (size_t i = 0; i < sizeof like / sizeof *like; i++) {
        struct pipe_plan plan;
        struct tape *t = record(like[i], true, i == 1 ? DL_BF16 : DL_F32, 2, 2, &plan);
        double worst = 0;
        for (int j = 0; j < t->n; j++) {
            double share = share_of(&w, w.be, &t->c[j]);
            if (!(share <= 1))
                fail_msg("%s: %s %s %s: %.0f %% of its budget", like[i], tape_phase_name(t->c[j].phase),
                         op_name(t->c[j].kind), t->c[j].shape, 100 * share);
            seen[t->c[j].kind] = true;
            worst = fmax(worst, share);
        }
        print_message("%s: %d ops, at most %.0f %% of the budget\n", like[i], t->n, 100 * worst);
        tape_close(t);
    }
    for (int k = 0; k < OP_KINDS; k++)
        if (!seen[k]) print_message("no model had the op %s\n", op_name((enum op_kind)k));
    assert_true(seen[OP_GEMM] && seen[OP_CONV] && seen[OP_ATTN] && seen[OP_ROPE] && seen[OP_SCHED_STEP]);
    close_two(&w);
}

/* Two whole outputs of products, convolutions and attention: the default table's and the reference's agree, and do not
 * once the last element of one is off. */
static void test_pairs(void **state)
{
    (void)state;
    struct two w;
    struct pipe_plan plan;
    struct dl_err e = {0};
    int n = 0;
    open_two(&w);
    struct tape *t = record("sd15", true, DL_F32, 2, 2, &plan);
    for (int j = 0; j < t->n; j++) {
        const struct tape_case *k = &t->c[j];
        struct case_run c[2];
        struct check_want *want;
        struct check ch;
        dl_act y[2];
        if (k->kind != OP_GEMM && k->kind != OP_CONV && k->kind != OP_ATTN) continue;
        if (check_want_open(&want, k, w.ref, w.ref_ctx, &e) < 0) fail_msg("%s", e.msg);
        for (int i = 0; i < 2; i++) {
            if (case_open(&c[i], k, i ? w.ref : w.be, i ? w.ref_ctx : w.ctx, 1, CASE_SIGNED, &e) < 0 ||
                case_once(&c[i], 0, &e) < 0)
                fail_msg("%s", e.msg);
            const union op_args *a = &c[i].set[0].a;
            y[i] = k->kind == OP_GEMM ? a->gemm.y : k->kind == OP_CONV ? a->conv.y : a->attn.y;
        }
        check_pair(want, y[0], y[1], &ch);
        if (!(ch.share <= 1) || ch.elements != (int64_t)y[0].n * y[0].h * y[0].w * y[0].c)
            fail_msg("%s %s: %.9g and %.9g of %lld elements", op_name(k->kind), k->shape, ch.got, ch.want,
                     (long long)ch.elements);
        float *last = (float *)(void *)((uint8_t *)y[0].p + dl_act_bytes(y[0])) - 1;
        *last += 0.01f;
        check_pair(want, y[0], y[1], &ch);
        assert_true(ch.share > 1);
        case_close(&c[0]), case_close(&c[1]);
        check_want_close(want);
        n++;
    }
    assert_true(n > 3);
    tape_close(t);
    close_two(&w);
}

/* A backend that is wrong by a thousandth in one kind of op, or forgets a part of its output. */
static const struct dl_backend *right;
static bool forgets;

static void spoil(dl_act y)
{
    for (int64_t n = 0; n < y.n; n++)
        for (int64_t q = 0; q < (int64_t)y.h * y.w; q++)
            for (int32_t c = 0; c < y.c; c++) {
                int64_t at = n * y.rs + q * y.ld + c;
                float v = dl_load(y.p, y.t, at);
                if (!forgets) dl_store(y.p, y.t, at, v * 1.001f);
                if (forgets && q == (int64_t)y.h * y.w / 2) dl_store(y.p, y.t, at, NAN);
            }
}

static void bad_gemm(struct dl_run *r, const struct dl_gemm *a)
{
    right->ops->gemm(r, a);
    if (r->mode == DL_EAGER) spoil(a->y);
}

static void bad_conv(struct dl_run *r, const struct dl_conv *a)
{
    right->ops->conv(r, a);
    if (r->mode == DL_EAGER) spoil(a->y);
}

static void bad_attn(struct dl_run *r, const struct dl_attn *a)
{
    right->ops->attn(r, a);
    if (r->mode == DL_EAGER) spoil(a->y);
}

static void bad_lnorm(struct dl_run *r, const struct dl_lnorm *a)
{
    right->ops->lnorm(r, a);
    if (r->mode == DL_EAGER) spoil(a->y);
}

static void test_wrong_ops_are_found(void **state)
{
    (void)state;
    struct two w;
    struct pipe_plan plan;
    int found[OP_KINDS] = {0};
    open_two(&w);
    right = w.be;
    struct dl_ops ops = *w.be->ops;
    struct dl_backend bad = *w.be;
    ops.gemm = bad_gemm, ops.conv = bad_conv, ops.attn = bad_attn, ops.lnorm = bad_lnorm;
    bad.ops = &ops;
    struct tape *t = record("sd15", true, DL_F32, 1, 1, &plan);
    for (int mode = 0; mode < 2; mode++) {
        forgets = mode == 1;
        for (int i = 0; i < t->n; i++) {
            const struct tape_case *k = &t->c[i];
            if (k->kind != OP_GEMM && k->kind != OP_CONV && k->kind != OP_ATTN && k->kind != OP_LNORM) continue;
            if (k->phase != TAPE_STEP) continue;
            if (share_of(&w, &bad, k) <= 1) fail_msg("%s %s: an error went by", op_name(k->kind), k->shape);
            found[k->kind]++;
        }
    }
    assert_true(found[OP_GEMM] && found[OP_CONV] && found[OP_ATTN] && found[OP_LNORM]);
    tape_close(t);
    close_two(&w);
}

/* A backend that records: its replays take a millisecond, whatever is in them. */
static struct {
    bool recording;
    int ops, replays, graphs;
} recorder;

static void counted_lnorm(struct dl_run *r, const struct dl_lnorm *a)
{
    assert_int_equal(recorder.recording, r->mode == DL_CAPTURE);
    recorder.ops += recorder.recording;
    right->ops->lnorm(r, a);
}

static int begin(struct dl_ctx *c, struct dl_err *e)
{
    (void)c, (void)e;
    recorder.recording = true, recorder.graphs++;
    return 0;
}

static int end(struct dl_ctx *c, struct dl_graph **g, struct dl_err *e)
{
    (void)c, (void)e;
    recorder.recording = false;
    if (g) *g = (struct dl_graph *)(void *)&recorder;
    return 0;
}

static int replay(struct dl_ctx *c, struct dl_graph *g, int32_t step, struct dl_err *e)
{
    (void)c, (void)e;
    assert_ptr_equal(g, &recorder);
    assert_int_equal(step, 0);
    recorder.replays++;
    for (double until = clock_us() + 1000; clock_us() < until;) {
    }
    return 0;
}

static void drop(struct dl_ctx *c, struct dl_graph *g)
{
    (void)c, (void)g;
    recorder.graphs--;
}

static void test_recorded_rounds(void **state)
{
    (void)state;
    struct two w;
    struct pipe_plan plan;
    struct case_run c;
    struct timing t;
    struct dl_err e = {0};
    open_two(&w);
    right = w.be;
    struct dl_ops ops = *w.be->ops;
    struct dl_backend be = *w.be;
    ops.lnorm = counted_lnorm;
    be.ops = &ops, be.record_begin = begin, be.record_end = end, be.replay = replay, be.graph_free = drop;
    struct tape *tape = record("sd15", true, DL_F32, 1, 1, &plan);
    const struct tape_case *k = tape->c;
    while (k->kind != OP_LNORM) k++;
    memset(&recorder, 0, sizeof recorder);
    assert_int_equal(case_open(&c, k, &be, w.ctx, 3, CASE_SIGNED, &e), 0);
    assert_int_equal(clock_case(&c, 4, &t, &e), 0);
    assert_int_equal(t.repeats, 4);
    assert_int_equal(recorder.replays, 5); /* one to warm up */
    assert_int_equal(recorder.graphs, 0);
    assert_true(recorder.ops >= 3 && recorder.ops % 3 == 0); /* whole rounds over the sets */
    assert_true(t.min_us * recorder.ops >= 999 && t.median_us >= t.min_us);
    case_close(&c);
    tape_close(tape);
    close_two(&w);
}

static void test_median(void **state)
{
    (void)state;
    double odd[] = {5, 1, 9}, even[] = {4, 10, 2, 8};
    struct timing a = timing_of(odd, 3), b = timing_of(even, 4);
    assert_true(a.median_us == 5 && a.min_us == 1 && b.median_us == 6 && b.min_us == 2 && b.repeats == 4);
    assert_int_equal(case_sets_for(&(struct tape_case){.bytes = 10}, 25), 3);
    assert_int_equal(case_sets_for(&(struct tape_case){.bytes = 1}, 1000), 512);
    assert_int_equal(case_sets_for(&(struct tape_case){.bytes = 100}, 25), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_op),
        cmocka_unit_test(test_sweep_time),
        cmocka_unit_test(test_cards),
        cmocka_unit_test(test_card_files),
        cmocka_unit_test(test_hole),
        cmocka_unit_test(test_list_is_the_dry_run),
        cmocka_unit_test(test_phases),
        cmocka_unit_test(test_ops_alone),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_wrong_ops_are_found),
        cmocka_unit_test(test_recorded_rounds),
        cmocka_unit_test(test_median),
    };
    return cmocka_run_group_tests(tests, root_make, root_remove);
}
