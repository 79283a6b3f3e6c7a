/* Runs and op checks: dry against real, the sticky error, account, log, and what each op refuses. */
#include "kernels/cpu/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A model of one layer: y = x + proj(silu(gn(conv(x)))). */
struct model {
    struct dl_wset set;
    struct dl_w conv, proj, gamma, beta;
};

static const struct dl_backend *be;
static struct dl_ctx *ctx;
static struct model m;
static float values[64 * 64 * 9];

static void bind(struct dl_w *w, const char *name, int nd, int64_t a, int64_t b, int64_t k)
{
    *w = (struct dl_w){.dim = {a, b, k, k}, .nd = nd, .n_parts = 1};
    w->part[0] = (struct dl_wpart){.file = values, .rows = a, .t = DL_F32};
    assert_int_equal(dl_wset_add(&m.set, w, name, NULL), 0);
}

static int open_all(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) values[i] = (float)(i % 17) * 0.01f;
    if (cpu_open(&be, &ctx, &(struct dl_cpu_opts){.threads = 2, .reference_only = true}, NULL) < 0) return -1;
    bind(&m.conv, "conv.weight", 4, 32, 16, 3);
    bind(&m.proj, "proj.weight", 2, 16, 32, 1);
    bind(&m.gamma, "norm.weight", 1, 32, 1, 1);
    bind(&m.beta, "norm.bias", 1, 32, 1, 1);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    dl_wset_close(&m.set);
    be->close(ctx);
    return 0;
}

/* x [2][4][4][16] at the arena's low end; y beside it. */
static dl_act model(struct dl_run *r)
{
    dl_act x = dl_act_lo(r, r->t, 2, 4, 4, 16), y = dl_act_lo(r, r->t, 2, 4, 4, 16);
    if (!dl_run_is_dry(r) && dl_run_ok(r)) memset(x.p, 0, (size_t)dl_act_bytes(x));
    struct dl_mark mark = dl_arena_mark(&r->arena);
    dl_act h = dl_act_hi(r, r->t, 2, 4, 4, 32);
    dl_op_conv(r, (struct dl_conv){.x = x, .y = h, .w = &m.conv, .k = 3});
    dl_tap(r, h, "conv.%d", 0);
    struct dl_stat s = dl_op_gnorm(r, (struct dl_gnorm){h, 4, 1e-5f, &m.gamma, &m.beta, {0}, {0}});
    dl_op_norm(r, (struct dl_norm){.x = h, .y = h, .s = s, .fn = DL_SILU});
    dl_op_gemm(r, (struct dl_gemm){.x = h, .y = y, .w = &m.proj, .e.res = x});
    dl_arena_release_hi(&r->arena, mark);
    return y;
}

struct taps {
    int n;
    char name[32];
    float first;
};

static void on_tap(void *user, struct dl_run *r, const char *name, dl_act a)
{
    struct taps *t = user;
    (void)r;
    t->n++;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->first = dl_load(a.p, a.t, 0);
}

static void dry_and_real(void **state)
{
    (void)state;
    struct dl_run r;
    struct dl_err e = {0};
    struct taps taps = {0};
    void *mem;
    dl_run_open(&r, be, ctx, DL_F32);
    r.log_on = r.time_on = true, r.tap = on_tap, r.tap_user = &taps;
    model(&r);
    assert_int_equal(dl_run_check(&r, &e), 0);
    int64_t peak = r.arena.peak_bytes;
    struct dl_account dry = r.account;
    assert_int_equal(taps.n, 0);
    assert_int_equal(r.n_log, 4);
    assert_int_equal(dry.ops, 4);
    assert_int_equal(dry.flops, 2 * (2 * 16 * 32) * 16 * 9 + 2 * (2 * 16 * 16) * 32);
    assert_string_equal(r.log[0].op, "conv");
    assert_string_equal(r.log[0].variant, "reference");
    assert_string_equal(r.log[0].shape, "k3 s1 16->32 4x4 n2 f32");
    assert_string_equal(r.log[3].shape, "32->16 16 n2 f32 res");
    assert_true(peak >= (2 * 16 * 16 * 2 + 2 * 16 * 32) * 4);
    assert_int_equal(m.set.loaded_bytes, 0);
    assert_int_equal(dl_run_load(&r, &m.set, &e), 0);
    assert_true(m.set.loaded_bytes > 0 && m.set.loaded_bytes == m.set.pack_bytes);
    int64_t loaded = m.set.loaded_bytes;
    assert_int_equal(dl_run_load(&r, &m.set, &e), 0); /* nothing is missing */
    assert_int_equal(m.set.loaded_bytes, loaded);

    assert_int_equal(be->alloc(ctx, peak, &mem, &e), 0);
    assert_int_equal((uintptr_t)mem % DL_ALIGN, 0);
    dl_run_bind(&r, mem, peak);
    dl_act y = model(&r);
    assert_int_equal(dl_run_check(&r, &e), 0);
    assert_int_equal(r.arena.peak_bytes, peak);
    assert_memory_equal(&r.account, &dry, sizeof dry);
    assert_int_equal(taps.n, 1);
    assert_string_equal(taps.name, "conv.0");
    assert_true(taps.first == 0 && r.log[0].ms >= 0);
    /* x is 0, so the norm gives beta and every pixel the same */
    assert_true(dl_load(y.p, y.t, 0) > 0 && dl_load(y.p, y.t, 0) == dl_load(y.p, y.t, 16 * 31));

    dl_run_bind(&r, mem, peak - DL_ALIGN); /* one block short */
    model(&r);
    assert_int_equal(dl_run_check(&r, &e), -1);
    assert_int_equal(e.code, DL_ENOMEM);
    be->free(ctx, mem);
    dl_run_close(&r);
}

static void error_sticks(void **state)
{
    (void)state;
    struct dl_run r;
    struct dl_err e = {0};
    dl_run_open(&r, be, ctx, DL_F32);
    dl_act x = dl_act_lo(&r, DL_F32, 2, 4, 4, 16), y = dl_act_lo(&r, DL_F32, 2, 4, 4, 8);
    dl_op_conv(&r, (struct dl_conv){.x = x, .y = y, .w = &m.conv, .k = 3});
    assert_false(dl_run_ok(&r));
    assert_non_null(strstr(r.err.msg, "op conv: x [2,4,4,16] f32 y [2,4,4,8] f32 w [32,16,3,3] conv.weight: "));
    dl_op_add(&r, (struct dl_add){.a = x, .b = x, .y = y});
    model(&r); /* returns at once everywhere */
    assert_int_equal(r.account.ops, 0);
    assert_int_equal(dl_run_check(&r, &e), -1);
    assert_non_null(strstr(e.msg, "op conv"));
    dl_run_close(&r);
}

/* A weight whose form nobody asked for, outside a dry run. */
static void not_loaded(void **state)
{
    (void)state;
    struct dl_run r;
    struct dl_err e = {0};
    static _Alignas(DL_ALIGN) uint8_t mem[1 << 16];
    dl_run_open(&r, be, ctx, DL_BF16);
    dl_run_bind(&r, mem, sizeof mem);
    model(&r);
    assert_int_equal(dl_run_check(&r, &e), -1);
    assert_non_null(strstr(e.msg, "conv.weight"));
    dl_run_close(&r);
}

/* Each wrong call must be refused with words that name the fault. */
#define REFUSES(words, call)                                                                                           \
    do {                                                                                                               \
        struct dl_run r;                                                                                               \
        dl_run_open(&r, be, ctx, DL_F32);                                                                              \
        if (!dry) dl_run_bind(&r, mem, sizeof mem);                                                                    \
        call;                                                                                                          \
        if (dl_run_ok(&r)) fail_msg("%d: not refused, want: %s", __LINE__, words);                                     \
        if (!strstr(r.err.msg, words)) fail_msg("%d: %s", __LINE__, r.err.msg);                                        \
        dl_run_close(&r);                                                                                              \
    } while (0)

static void refusals(void **state)
{
    (void)state;
    static _Alignas(DL_ALIGN) uint8_t mem[1 << 16];
    const bool dry = false;
    const int32_t map[2] = {0, 2}, minus[2] = {-1, 0};
    dl_act x = dl_act_at(values, DL_F32, 2, 4, 4, 16), y = dl_act_at(values, DL_F32, 2, 4, 4, 32), none = {0};
    dl_act tight = x, lapped = y, half = x, u8 = x, small = dl_act_at(values, DL_F32, 2, 4, 3, 16);
    dl_act kv = dl_act_rows(x, 0, 1), wide = dl_act_at(values, DL_F32, 2, 4, 4, 64);
    tight.ld = 15, lapped.rs = 0, half.t = DL_F16, u8.t = DL_U8;
    dl_vec narrow = {.p = values, .rs = 8}, u8_vec = {.p = values, .t = DL_U8};
    struct dl_w loose = {.nd = 2, .dim = {32, 16}};
    struct dl_stat stat = {.mean_rstd = values, .groups = 4};

    REFUSES("x is absent", dl_op_gemm(&r, (struct dl_gemm){.x = none, .y = y, .w = &m.proj}));
    REFUSES("pitch 15", dl_op_gemm(&r, (struct dl_gemm){.x = tight, .y = y, .w = &m.proj}));
    REFUSES("type u8", dl_op_gemm(&r, (struct dl_gemm){.x = u8, .y = y, .w = &m.proj}));
    REFUSES("row stride 0", dl_op_gemm(&r, (struct dl_gemm){.x = x, .y = lapped, .w = &m.proj}));
    REFUSES("not bound", dl_op_gemm(&r, (struct dl_gemm){.x = x, .y = y, .w = &loose}));
    REFUSES("not bound", dl_op_gemm(&r, (struct dl_gemm){.x = x, .y = y}));
    REFUSES("larger than 1x1", dl_op_gemm(&r, (struct dl_gemm){.x = x, .y = y, .w = &m.conv}));
    REFUSES("takes 32", dl_op_gemm(&r, (struct dl_gemm){.x = x, .y = x, .w = &m.proj}));
    REFUSES("gives 16", dl_op_gemm(&r, (struct dl_gemm){.x = y, .y = x, .w = &m.proj, .e.glu = true}));
    REFUSES("rows or pixels", dl_op_gemm(&r, (struct dl_gemm){.x = y, .y = small, .w = &m.proj}));
    REFUSES("bias", dl_op_gemm(&r, (struct dl_gemm){.x = y, .y = x, .w = &m.proj, .e.bias = &m.beta}));
    REFUSES("residual is", dl_op_gemm(&r, (struct dl_gemm){.x = y, .y = x, .w = &m.proj, .e.res = y}));
    REFUSES("add has strides", dl_op_gemm(&r, (struct dl_gemm){.x = y, .y = x, .w = &m.proj, .e.add = narrow}));
    REFUSES("gate has type", dl_op_gemm(&r, (struct dl_gemm){.x = y, .y = x, .w = &m.proj, .e.gate = u8_vec}));
    REFUSES("no activation", dl_op_gemm(&r, (struct dl_gemm){.x = y, .y = x, .w = &m.proj, .e.fn = 9}));

    REFUSES("kernel of 5", dl_op_conv(&r, (struct dl_conv){.x = x, .y = y, .w = &m.conv, .k = 5}));
    REFUSES("not 1 x 1", dl_op_conv(&r, (struct dl_conv){.x = x, .y = y, .w = &m.conv, .k = 1}));
    REFUSES("stride of 3", dl_op_conv(&r, (struct dl_conv){.x = x, .y = y, .w = &m.conv, .k = 3, .stride = 3}));
    REFUSES("2 x 2 pixels", dl_op_conv(&r, (struct dl_conv){.x = x, .y = y, .w = &m.conv, .k = 3, .stride = 2}));
    REFUSES("other channels", dl_op_conv(&r, (struct dl_conv){.x = y, .y = y, .w = &m.conv, .k = 3}));
    REFUSES("no GLU", dl_op_conv(&r, (struct dl_conv){.x = x, .y = y, .w = &m.conv, .k = 3, .e.glu = true}));
    struct dl_conv blind = {.x = x, .y = y, .w = &m.conv, .k = 3, .pre.gamma = &m.beta};
    REFUSES("no statistics", dl_op_conv(&r, blind));
    REFUSES("do not make 5", dl_op_gnorm(&r, (struct dl_gnorm){.x = x, .groups = 5, .eps = 1}));
    REFUSES("eps", dl_op_gnorm(&r, (struct dl_gnorm){.x = x, .groups = 4}));
    REFUSES("gamma", dl_op_gnorm(&r, (struct dl_gnorm){.x = x, .groups = 4, .eps = 1, .gamma = &m.gamma}));
    REFUSES("statistics are absent", dl_op_norm(&r, (struct dl_norm){.x = x, .y = x}));
    REFUSES("differ in shape", dl_op_norm(&r, (struct dl_norm){.x = x, .y = y, .s = stat}));
    REFUSES("no beta", dl_op_lnorm(&r, (struct dl_lnorm){.x = y, .y = y, .beta = &m.beta, .eps = 1, .rms = true}));

    REFUSES("do not make 3", dl_op_attn(&r, (struct dl_attn){.q = x, .k = x, .v = x, .y = x, .heads = 3, .scale = 1}));
    REFUSES("scale of 0", dl_op_attn(&r, (struct dl_attn){.q = x, .k = x, .v = x, .y = x, .heads = 2}));
    REFUSES("k is f16", dl_op_attn(&r, (struct dl_attn){.q = x, .k = half, .v = x, .y = x, .heads = 2, .scale = 1}));
    REFUSES("k is [", dl_op_attn(&r, (struct dl_attn){.q = x, .k = x, .v = small, .y = x, .heads = 2, .scale = 1}));
    REFUSES("bias is", dl_op_attn(&r, (struct dl_attn){x, x, x, x, 2, 1, false, y, NULL, NULL}));
    REFUSES("kv_row[1] is 2", dl_op_attn(&r, (struct dl_attn){x, x, x, x, 2, 1, false, none, NULL, map}));
    REFUSES("no kv_row", dl_op_attn(&r, (struct dl_attn){kv, x, x, kv, 2, 1, false, none, NULL, NULL}));

    REFUSES("row[0] is -1", dl_op_copy(&r, (struct dl_copy){.x = x, .y = x, .row = minus}));
    REFUSES("differ in shape", dl_op_copy(&r, (struct dl_copy){.x = x, .y = y}));
    dl_act with = y, odd = dl_act_at(values, DL_F32, 2, 4, 3, 32); /* 16 and 12 pixels: no whole set */
    with.parts = odd.parts = values;
    struct dl_norm norm = {.x = y, .y = with, .s = stat};
    REFUSES("whole sets", dl_op_conv(&r, (struct dl_conv){.x = x, .y = with, .w = &m.conv, .k = 3}));
    REFUSES("whole sets", dl_op_gnorm(&r, (struct dl_gnorm){.x = odd, .groups = 4, .eps = 1}));
    REFUSES("does not write", dl_op_norm(&r, norm));
    dl_act whole = dl_act_at(values, DL_F32, 2, 4, 8, 32);
    with = whole, with.parts = values;
    REFUSES("does not write", dl_op_add(&r, (struct dl_add){.a = whole, .b = whole, .y = with}));
    REFUSES("values with theirs", dl_op_copy(&r, (struct dl_copy){.x = whole, .y = with}));
    REFUSES("values with theirs", dl_op_copy(&r, (struct dl_copy){.x = with, .y = with, .a = 2}));
    REFUSES("values with theirs", dl_op_copy(&r, (struct dl_copy){.x = with, .y = with, .fn = DL_SILU}));
    REFUSES("b is", dl_op_add(&r, (struct dl_add){.a = x, .b = y, .y = x}));
    REFUSES("even", dl_op_sinus(&r, (struct dl_sinus){.t = values, .y = x}));
    REFUSES("one", dl_op_embed(&r, (struct dl_embed){.ids = map, .y = x, .table = &m.proj}));
    REFUSES("ids are absent", dl_op_embed(&r, (struct dl_embed){.y = dl_act_tokens(y), .table = &m.proj}));
    REFUSES("table is absent", dl_op_sched_in(&r, (struct dl_sched_in){.latent = x, .y = x, .row = map}));
    REFUSES("table is absent", dl_op_sched_step(&r, (struct dl_sched_step){.eps = x, .latent = x, .c_row = map}));
    REFUSES("memory is absent", dl_op_image(&r, (struct dl_image){.x = x}));
    REFUSES("x is absent", dl_op_gemm(&r, (struct dl_gemm){.x = dl_act_cols(wide, 60, 16), .y = y, .w = &m.proj}));
    REFUSES("x is absent", dl_op_gemm(&r, (struct dl_gemm){.x = dl_act_rows(x, 1, 2), .y = y, .w = &m.proj}));
    REFUSES("not possible", dl_act_lo(&r, DL_F32, 1 << 30, 1 << 30, 1 << 30, 4));
    REFUSES("too small", dl_act_lo(&r, DL_F32, 1, 1, 1, 1 << 20));
}

/* A token id outside the table would read anywhere in memory. */
static void hostile_ids(void **state)
{
    (void)state;
    static _Alignas(DL_ALIGN) uint8_t mem[1 << 12];
    const bool dry = false;
    dl_act y = dl_act_at(values, DL_F32, 1, 1, 2, 32);
    REFUSES("token id 16", dl_op_embed(&r, (struct dl_embed){.ids = (int32_t[]){15, 16}, .y = y, .table = &m.proj}));
    REFUSES("token id -1", dl_op_embed(&r, (struct dl_embed){.ids = (int32_t[]){-1, 0}, .y = y, .table = &m.proj}));
}

static void views(void **state)
{
    (void)state;
    dl_act a = dl_act_at(values, DL_F32, 3, 4, 5, 8), c = dl_act_cols(a, 2, 3), b = dl_act_rows(a, 1, 2);
    assert_ptr_equal(c.p, values + 2);
    assert_true(c.c == 3 && c.ld == 8 && c.rs == 160);
    assert_ptr_equal(b.p, values + 160);
    assert_int_equal(dl_act_bytes(a), 3 * 160 * 4);
    assert_int_equal(dl_act_bytes(c), (2 * 160 + 19 * 8 + 3) * 4);
    dl_act t = dl_act_tokens(a), p = dl_act_pixels(t, 10, 2);
    assert_true(t.h == 1 && t.w == 20 && p.h == 10 && p.w == 2 && p.p);
    assert_null(dl_act_pixels(t, 3, 7).p);
}

/* Room for parts, its views, and copies of them. */
static void parts(void **state)
{
    (void)state;
    struct dl_backend wants = *be;
    struct dl_run r;
    struct dl_err e = {0};
    static _Alignas(DL_ALIGN) uint8_t mem[1 << 16];
    dl_run_open(&r, be, ctx, DL_F32);
    assert_null(dl_parts_hi(&r, dl_act_hi(&r, DL_F32, 2, 8, 8, 12)).parts);
    wants.parts = true;
    dl_run_open(&r, &wants, ctx, DL_F32);
    dl_run_bind(&r, mem, sizeof mem);
    assert_null(dl_parts_hi(&r, dl_act_hi(&r, DL_F32, 2, 8, 7, 12)).parts);
    dl_act a = dl_parts_hi(&r, dl_act_hi(&r, DL_F32, 2, 8, 8, 12)), c = dl_act_cols(a, 3, 5), b = dl_act_rows(a, 1, 1);
    assert_int_equal(dl_parts_bytes(a), 2 * 2 * 12 * 2 * 4);
    assert_int_equal(dl_parts_bytes(c), (3 * 12 + 5) * 2 * 4);
    assert_ptr_equal(c.parts, a.parts + 3 * 2);
    assert_ptr_equal(b.parts, a.parts + 2 * 12 * 2);
    assert_ptr_equal(dl_act_tokens(a).parts, a.parts);
    assert_null(dl_parts_none(a).parts);

    const int32_t map[3] = {1, 0, 1};
    dl_act y = dl_parts_lo(&r, dl_act_lo(&r, DL_F32, 3, 8, 8, 7)), to = dl_act_cols(y, 2, 5);
    for (int i = 0; i < 2 * 2 * 12 * 2; i++) a.parts[i] = (float)i;
    for (int i = 0; i < 3 * 2 * 7 * 2; i++) y.parts[i] = -1;
    memset(a.p, 0, (size_t)dl_act_bytes(a));
    dl_op_copy(&r, (struct dl_copy){.x = c, .y = to, .row = map});
    assert_int_equal(dl_run_check(&r, &e), 0);
    for (int i = 0; i < 3 * 2 * 7 * 2; i++) {
        int row = i / 28, set = i / 14 % 2, at = i % 14;
        assert_true(y.parts[i] == (at < 4 ? -1 : (float)((map[row] * 2 + set) * 24 + at - 4 + 6)));
    }
    assert_null(dl_parts_hi(&r, dl_act_at(values, DL_F32, 1, 64, 64, 128)).parts);
    assert_int_equal(dl_run_check(&r, &e), -1);
    assert_non_null(strstr(e.msg, "statistics of [1,64,64,128]"));
    dl_run_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dry_and_real), cmocka_unit_test(error_sticks), cmocka_unit_test(not_loaded),
        cmocka_unit_test(refusals),     cmocka_unit_test(hostile_ids),  cmocka_unit_test(views),
        cmocka_unit_test(parts),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
