/* gemm of both CPU tables against plain loops. */
#include "tests/kernels/oracle.h"

struct gemm_case {
    const char *name;
    uint8_t tx, tw, ty, fn;
    int n, h, w, in, out, parts, pad, w_parts;
};

enum { NORMED = 4096 }; /* of a case's parts: a group norm reads y */

static const struct gemm_case cases[] = {
    {"one number", DL_F32, DL_F32, DL_F32, 0, 1, 1, 1, 1, 1, 0, 0, 1},
    {"one pixel 320->1280 silu", DL_F32, DL_F32, DL_F32, DL_SILU, 2, 1, 1, 320, 1280, BIAS, 0, 1},
    {"odd 13->7", DL_F32, DL_F32, DL_F32, 0, 3, 1, 5, 13, 7, BIAS, 0, 1},
    {"77 tokens 64->192 q k v", DL_F32, DL_F16, DL_F32, 0, 2, 1, 77, 64, 192, BIAS, 0, 3},
    {"pitched 40->72", DL_F32, DL_F32, DL_F32, 0, 2, 4, 5, 40, 72, BIAS | RES, 8, 1},
    {"odd pitch 33->65", DL_F32, DL_F32, DL_F32, 0, 2, 3, 7, 33, 65, BIAS | RES, 3, 1},
    {"all parts", DL_F32, DL_F32, DL_F32, DL_GELU, 3, 1, 9, 48, 40, BIAS | ADD | GATE | RES | SCALE, 4, 1},
    {"step table", DL_F32, DL_F32, DL_F32, DL_GELU_TANH, 3, 1, 9, 48, 40, BIAS | ADD | GATE | RES | STEPS, 4, 1},
    {"quick gelu", DL_F32, DL_F32, DL_F32, DL_QUICK_GELU, 1, 1, 77, 48, 96, BIAS, 0, 1},
    {"glu 64->2x128", DL_F32, DL_F32, DL_F32, DL_GELU, 2, 8, 8, 64, 128, BIAS | GLU, 0, 1},
    {"glu odd, no bias", DL_F32, DL_F32, DL_F32, DL_GELU_TANH, 2, 1, 11, 19, 21, GLU | RES, 5, 1},
    {"wide 256x640->640", DL_F32, DL_BF16, DL_F32, 0, 1, 16, 16, 640, 640, BIAS | RES, 0, 1},
    {"bf16 64->96", DL_BF16, DL_F32, DL_BF16, 0, 2, 8, 8, 64, 96, BIAS | RES, 0, 1},
    {"bf16 odd all parts", DL_BF16, DL_BF16, DL_BF16, DL_SILU, 2, 1, 77, 37, 51, BIAS | ADD | GATE | RES | SCALE, 3, 1},
    {"bf16 glu", DL_BF16, DL_F32, DL_BF16, DL_GELU, 2, 4, 4, 32, 64, BIAS | GLU, 0, 1},
    {"bf16 -> f32", DL_BF16, DL_F32, DL_F32, 0, 1, 1, 17, 64, 48, BIAS, 0, 1},
    {"f16 64->96", DL_F16, DL_F16, DL_F16, 0, 2, 8, 8, 64, 96, BIAS | RES, 0, 1},
    {"f32 normed", DL_F32, DL_F32, DL_F32, 0, 2, 4, 8, 13, 20, BIAS | RES | NORMED, 3, 1},
    {"f16 normed", DL_F16, DL_F16, DL_F16, 0, 2, 8, 12, 64, 96, BIAS | RES | NORMED, 0, 1},
    {"f16 all parts normed", DL_F16, DL_F16, DL_F16, DL_SILU, 3, 4, 8, 40, 72,
     BIAS | ADD | GATE | RES | SCALE | NORMED, 8, 1},
    {"f16 -> f32, no epilogue, normed", DL_F16, DL_F16, DL_F32, 0, 2, 8, 12, 64, 96, NORMED, 0, 1},
    {"bf16 glu normed", DL_BF16, DL_BF16, DL_BF16, DL_GELU, 2, 8, 8, 32, 72, BIAS | GLU | NORMED, 0, 1},
    {"f16 glu odd", DL_F16, DL_F32, DL_F16, DL_GELU, 2, 1, 5, 35, 17, BIAS | GLU, 1, 1},
};

static void call(struct dl_run *r, void *arg) { dl_op_gemm(r, *(struct dl_gemm *)arg); }

struct normed_job {
    struct dl_gemm a;
    struct t_normed after;
};

static void call_normed(struct dl_run *r, void *arg)
{
    struct normed_job j = *(struct normed_job *)arg;
    struct dl_mark m = dl_arena_mark(&r->arena);
    j.a.y = dl_parts_hi(r, j.a.y);
    dl_op_gemm(r, j.a);
    t_normed_call(r, &j.after, j.a.y);
    dl_arena_release(&r->arena, m);
}

static struct val dot(const struct dl_gemm *a, int64_t i, int64_t p, int64_t o)
{
    struct val s = {0};
    for (int64_t c = 0; c < a->x.c; c++) {
        double q = t_at(a->x, i, p, c) * t_w_at(a->w, o * a->x.c + c, a->x.t);
        s.v += q, s.e += C_ACC * u_acc * fabs(q);
    }
    return s;
}

static void run_case(const struct gemm_case *k)
{
    const int step = k->parts & STEPS ? 2 : 0;
    struct dl_gemm a = {.x = t_random(t_act(k->tx, k->n, k->h, k->w, k->in, k->pad), 0.1, 1)};
    a.y = t_act(k->ty, k->n, k->h, k->w, k->out, k->pad);
    a.w = t_w(k->tw, k->w_parts, 0, 0.5, 2, (int64_t[]){k->out * (k->parts & GLU ? 2 : 1), k->in});
    a.e = t_epi_make(k->parts, k->fn, k->tw, a.y, k->pad);
    struct val *want = t_want(a.y), *w = want;
    for (int64_t i = 0; i < k->n; i++)
        for (int64_t p = 0; p < k->h * k->w; p++)
            for (int64_t o = 0; o < k->out; o++) {
                struct val s = dot(&a, i, p, o), s2 = {0};
                if (a.e.glu) s2 = dot(&a, i, p, k->out + o);
                *w++ = t_epi(&a.e, k->tx, step, a.y, s, s2, i, p, o);
            }
    for (int table = 0; table < TABLES; table++) {
        struct normed_job normed = {a, t_normed_make(4, k->n)};
        if (k->parts & NORMED) rig_run(table, k->tx, step, call_normed, &normed);
        else rig_run(table, k->tx, step, call, &a);
        t_compare(k->name, table, a.y, want);
        if (k->parts & NORMED) t_normed_ok(k->name, &normed.after, a.y);
        for (int i = 0; i < k->n; i++) {
            struct dl_gemm one = a;
            one.x = t_row(a.x, i), one.y = t_act(k->ty, 1, k->h, k->w, k->out, 0), one.e = t_epi_row(a.e, i);
            rig_run(table, k->tx, step, call, &one);
            t_same_row(k->name, a.y, i, one.y);
        }
    }
}

static void cases_hold(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_case(&cases[i]);
        rig_clear(NULL);
    }
}

/* x and y inside wider buffers, the residual y itself, a 1x1 convolution's weight. */
static void in_place(void **state)
{
    (void)state;
    for (int table = 0; table < TABLES; table++) {
        dl_act wide = t_random(t_act(DL_F32, 2, 3, 3, 24, 0), 0, 1), old = t_act(DL_F32, 2, 3, 3, 24, 0);
        memcpy(old.p, wide.p, (size_t)dl_act_bytes(wide));
        struct dl_gemm a = {.x = dl_act_cols(wide, 0, 8), .y = dl_act_cols(wide, 8, 16)};
        a.w = t_w(DL_F32, 1, 0, 0.5, 4, (int64_t[]){16, 8, 1, 1});
        a.e.res = a.y;
        rig_run(table, DL_F32, 0, call, &a);
        for (int64_t i = 0; i < 2; i++)
            for (int64_t p = 0; p < 9; p++) {
                for (int64_t c = 0; c < 8; c++) assert_true(t_at(wide, i, p, c) == t_at(old, i, p, c));
                for (int64_t o = 0; o < 16; o++) {
                    double v = t_at(old, i, p, 8 + o);
                    for (int64_t c = 0; c < 8; c++) v += t_at(old, i, p, c) * t_w_at(a.w, o * 8 + c, DL_F32);
                    assert_true(fabs(v - t_at(wide, i, p, 8 + o)) < 1e-5);
                }
            }
    }
}

/* Numbers worked out by hand: [1 2] . [[3 4] [5 6]]^T + [1 -20], silu of the rest is left alone. */
static void by_hand(void **state)
{
    (void)state;
    float *x = t_copy((float[]){1, 2}, 8), *y = t_mem(8);
    struct dl_w *w = t_w(DL_F32, 1, 0, 0, 2, (int64_t[]){2, 2}), *b = t_w1(DL_F32, 2, 0, 0);
    memcpy((void *)(uintptr_t)w->part[0].file, (float[]){3, 4, 5, 6}, 16);
    memcpy((void *)(uintptr_t)b->part[0].file, (float[]){1, -20}, 8);
    struct dl_gemm a = {.x = dl_act_at(x, DL_F32, 1, 1, 1, 2), .y = dl_act_at(y, DL_F32, 1, 1, 1, 2), .w = w};
    a.e.bias = b, a.e.scale = 2;
    for (int table = 0; table < TABLES; table++) {
        rig_run(table, DL_F32, 0, call, &a);
        assert_true(y[0] == 24 && y[1] == -6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(by_hand, rig_clear),
        cmocka_unit_test_teardown(cases_hold, rig_clear),
        cmocka_unit_test_teardown(in_place, rig_clear),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
