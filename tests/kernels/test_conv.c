/* conv of both CPU tables against plain loops. */
#include "tests/kernels/oracle.h"

struct conv_case {
    const char *name;
    uint8_t t, tw, fn;
    int n, h, w, in, out, k, stride, up_h, up_w, groups, parts, pad;
};

enum { PRE_SILU = 1024, PRE_SHIFT = 2048, NORMED = 4096 }; /* parts of a case that the epilogue does not know */

static const struct conv_case cases[] = {
    {"one pixel k3", DL_F32, DL_F32, 0, 1, 1, 1, 4, 4, 3, 1, 0, 0, 0, BIAS, 0},
    {"k3 4->32 latent in", DL_F32, DL_F32, 0, 2, 9, 9, 4, 32, 3, 1, 0, 0, 0, BIAS, 0},
    {"k3 32->4 latent out", DL_F32, DL_F16, 0, 2, 9, 9, 32, 4, 3, 1, 0, 0, 0, BIAS, 0},
    {"k3 32->32 16x16", DL_F32, DL_F32, 0, 2, 16, 16, 32, 32, 3, 1, 0, 0, 0, BIAS | ADD, 0},
    {"k3 64->48 13x11", DL_F32, DL_F32, 0, 1, 13, 11, 64, 48, 3, 1, 0, 0, 0, BIAS | RES, 0},
    {"k3 odd 5->7 pitched", DL_F32, DL_F32, DL_SILU, 2, 5, 6, 5, 7, 3, 1, 0, 0, 0, BIAS | RES | SCALE, 3},
    {"k3 128->96 20x20 pre silu", DL_F32, DL_F32, 0, 1, 20, 20, 128, 96, 3, 1, 0, 0, 32, BIAS | ADD | PRE_SILU, 0},
    {"k3 128->64 19x21 pitched", DL_F32, DL_F32, 0, 2, 19, 21, 128, 64, 3, 1, 0, 0, 0, BIAS | RES | SCALE, 4},
    {"k3 pre silu all parts", DL_F32, DL_F32, DL_SILU, 3, 7, 5, 32, 24, 3, 1, 0, 0, 8,
     BIAS | ADD | GATE | RES | SCALE | STEPS | PRE_SILU, 4},
    {"k3 pre scale shift", DL_F32, DL_F32, 0, 2, 6, 6, 32, 32, 3, 1, 0, 0, 4, BIAS | PRE_SILU | PRE_SHIFT | STEPS, 0},
    {"k3 stride 2", DL_F32, DL_F32, 0, 2, 8, 8, 32, 32, 3, 2, 0, 0, 0, BIAS, 0},
    {"k3 stride 2 odd", DL_F32, DL_F32, 0, 2, 7, 9, 20, 12, 3, 2, 0, 0, 0, BIAS, 4},
    {"k3 up x2", DL_F32, DL_F32, 0, 2, 6, 6, 32, 32, 3, 1, 12, 12, 0, BIAS, 0},
    {"k3 up odd", DL_F32, DL_F32, 0, 1, 4, 5, 16, 24, 3, 1, 7, 9, 0, BIAS, 2},
    {"k1 64->32", DL_F32, DL_F32, 0, 2, 8, 8, 64, 32, 1, 1, 0, 0, 0, BIAS | RES, 0},
    {"k1 stride 2 pre", DL_F32, DL_F32, 0, 2, 5, 5, 12, 20, 1, 2, 0, 0, 3, BIAS, 1},
    {"bf16 k3 32->48", DL_BF16, DL_F32, 0, 2, 9, 9, 32, 48, 3, 1, 0, 0, 0, BIAS | RES, 0},
    {"bf16 k3 pre silu", DL_BF16, DL_BF16, 0, 2, 8, 8, 32, 32, 3, 1, 0, 0, 8, BIAS | ADD | PRE_SILU, 0},
    {"bf16 k3 stride 2 odd", DL_BF16, DL_F32, 0, 1, 7, 5, 12, 20, 3, 2, 0, 0, 0, BIAS, 4},
    {"bf16 k3 up", DL_BF16, DL_F32, 0, 1, 5, 5, 32, 16, 3, 1, 10, 10, 0, BIAS, 0},
    {"f16 k3 16->24", DL_F16, DL_F16, 0, 2, 6, 7, 16, 24, 3, 1, 0, 0, 0, BIAS | ADD | RES, 0},
    {"k3 5->12 normed", DL_F32, DL_F32, 0, 2, 8, 8, 5, 12, 3, 1, 0, 0, 0, BIAS | RES | NORMED, 3},
    {"bf16 k3 pre silu 8x8 normed", DL_BF16, DL_BF16, 0, 3, 8, 8, 32, 72, 3, 1, 0, 0, 8,
     BIAS | ADD | PRE_SILU | NORMED, 0},
    {"f16 k3 pre silu 12x16 normed", DL_F16, DL_F16, 0, 2, 12, 16, 24, 40, 3, 1, 0, 0, 4,
     BIAS | RES | SCALE | PRE_SILU | NORMED, 8},
    {"f16 k3 pre silu 16x6 normed", DL_F16, DL_F16, DL_SILU, 2, 16, 6, 16, 24, 3, 1, 0, 0, 4,
     BIAS | PRE_SILU | NORMED, 0},
    {"f16 k3 64x33 -> 16 normed", DL_F16, DL_F16, 0, 1, 64, 33, 8, 16, 3, 1, 0, 0, 0, BIAS | NORMED, 0},
    {"f16 k3 stride 2 normed", DL_F16, DL_F16, 0, 3, 15, 8, 32, 24, 3, 2, 0, 0, 0, BIAS | NORMED, 0},
    {"bf16 k3 up normed", DL_BF16, DL_BF16, 0, 2, 4, 4, 32, 20, 3, 1, 8, 8, 0, BIAS | NORMED, 4},
    {"f16 k1 pre normed", DL_F16, DL_F16, 0, 2, 8, 12, 32, 40, 1, 1, 0, 0, 4, BIAS | RES | NORMED, 8},
    {"f16 k3 pre silu up", DL_F16, DL_F16, 0, 1, 5, 4, 16, 16, 3, 1, 10, 8, 4, BIAS | PRE_SILU, 0},
};

struct job {
    struct dl_conv a;
    struct dl_gnorm g; /* groups 0: none */
    struct t_normed after;
};

static void call(struct dl_run *r, void *arg)
{
    struct job j = *(struct job *)arg;
    struct dl_mark m = dl_arena_mark(&r->arena);
    if (j.g.groups) j.a.pre = dl_op_gnorm(r, j.g);
    if (j.after.groups) j.a.y = dl_parts_hi(r, j.a.y);
    dl_op_conv(r, j.a);
    if (j.after.groups) t_normed_call(r, &j.after, j.a.y);
    dl_arena_release(&r->arena, m);
}

/* The normalised input [n][pixel][c] with bounds; in half precision a backend may store it in that type. */
static struct val *normalised(const struct job *j, int step)
{
    dl_act x = j->a.x;
    struct val *out = t_want(x);
    int64_t pixels = (int64_t)x.h * x.w, size = j->g.groups ? x.c / j->g.groups : 1;
    for (int64_t i = 0; i < x.n; i++)
        for (int64_t c = 0; c < x.c; c++) {
            double mean = 0, size_of_x = 0, var = 0, n = (double)(pixels * size);
            int64_t c0 = c / size * size;
            for (int64_t q = 0; q < pixels * size; q++) {
                mean += t_at(x, i, q / size, c0 + q % size) / n;
                size_of_x += fabs(t_at(x, i, q / size, c0 + q % size)) / n; /* what the mean's error goes by */
            }
            for (int64_t q = 0; q < pixels * size; q++) var += pow(t_at(x, i, q / size, c0 + q % size) - mean, 2) / n;
            double rstd = 1 / sqrt(var + (double)j->g.eps);
            for (int64_t p = 0; p < pixels; p++) {
                struct val v = {t_at(x, i, p, c), 0};
                if (j->g.groups) {
                    double gamma = t_w_at(j->g.gamma, c, x.t), beta = t_w_at(j->g.beta, c, x.t);
                    double k = j->g.scale.p ? 1 + t_vec_at(j->g.scale, step, i, c) : 1;
                    double d = j->g.shift.p ? t_vec_at(j->g.shift, step, i, c) : 0;
                    double big = (fabs(v.v) + size_of_x) * rstd * fabs(gamma * k) + fabs(beta * k) + fabs(d);
                    v.v = ((v.v - mean) * rstd * gamma + beta) * k + d;
                    v.e = C_ACC * u_acc * big;
                }
                v = t_fn(j->a.pre_fn, v);
                if (x.t != DL_F32 && j->g.groups) v.e += u_of(x.t) * fabs(v.v);
                out[(i * pixels + p) * x.c + c] = v;
            }
        }
    return out;
}

static struct val sum_at(const struct dl_conv *a, const struct val *in, int64_t i, int64_t y, int64_t x, int64_t o)
{
    struct val s = {0};
    int64_t h = a->up ? a->y.h : a->x.h, w = a->up ? a->y.w : a->x.w;
    for (int64_t ky = 0; ky < a->k; ky++)
        for (int64_t kx = 0; kx < a->k; kx++) {
            int64_t sy = y * a->stride + ky - a->k / 2, sx = x * a->stride + kx - a->k / 2;
            if (sy < 0 || sy >= h || sx < 0 || sx >= w) continue;
            if (a->up) sy = sy * a->x.h / h, sx = sx * a->x.w / w;
            for (int64_t c = 0; c < a->x.c; c++) {
                struct val v = in[((i * a->x.h + sy) * a->x.w + sx) * a->x.c + c];
                double q = t_w_at(a->w, ((o * a->x.c + c) * a->k + ky) * a->k + kx, a->x.t);
                s.v += v.v * q, s.e += (C_ACC * u_acc * fabs(v.v) + v.e) * fabs(q);
            }
        }
    return s;
}

static void run_case(const struct conv_case *k)
{
    const int step = k->parts & STEPS ? 1 : 0, steps = k->parts & STEPS ? 2 : 1;
    struct job j = {.a = {.x = t_random(t_act(k->t, k->n, k->h, k->w, k->in, k->pad), 0.3, 1)}};
    struct dl_conv *a = &j.a;
    a->k = k->k, a->stride = k->stride, a->up = k->up_h > 0;
    a->pre_fn = k->parts & PRE_SILU ? DL_SILU : DL_NONE;
    a->y = t_act(k->t, k->n, a->up ? k->up_h : (k->h - 1) / k->stride + 1, a->up ? k->up_w : (k->w - 1) / k->stride + 1,
                 k->out, k->pad);
    a->w = t_w(k->tw, 1, 0, 0.3, 4, (int64_t[]){k->out, k->in, k->k, k->k});
    a->e = t_epi_make(k->parts, k->fn, k->tw, a->y, k->pad);
    if (k->groups) {
        j.g = (struct dl_gnorm){.x = a->x, .groups = k->groups, .eps = 1e-5f};
        j.g.gamma = t_w1(k->tw, k->in, 1, 0.5), j.g.beta = t_w1(k->tw, k->in, 0, 0.5);
        if (k->parts & PRE_SHIFT) {
            j.g.scale = t_vec(k->t, steps, k->n, k->in, 0, 0.5);
            j.g.shift = t_vec(k->t, steps, k->n, k->in, 0, 0.5);
        }
    }
    if (k->parts & NORMED) j.after = t_normed_make(4, k->n);
    struct val *in = normalised(&j, step), *want = t_want(a->y), *w = want;
    for (int64_t i = 0; i < k->n; i++)
        for (int64_t p = 0; p < a->y.h * a->y.w; p++)
            for (int64_t o = 0; o < k->out; o++) {
                struct val s = sum_at(a, in, i, p / a->y.w, p % a->y.w, o);
                *w++ = t_epi(&a->e, k->t, step, a->y, s, (struct val){0}, i, p, o);
            }
    for (int table = 0; table < TABLES; table++) {
        rig_run(table, k->t, step, call, &j);
        t_compare(k->name, table, a->y, want);
        if (j.after.groups) t_normed_ok(k->name, &j.after, a->y);
        for (int i = 0; i < k->n; i++) {
            struct job one = j;
            one.after.groups = 0;
            one.a.x = one.g.x = t_row(a->x, i), one.a.e = t_epi_row(a->e, i);
            one.a.y = t_act(k->t, 1, a->y.h, a->y.w, k->out, 0);
            one.g.scale = t_vec_row(j.g.scale, i), one.g.shift = t_vec_row(j.g.shift, i);
            rig_run(table, k->t, step, call, &one);
            t_same_row(k->name, a->y, i, one.a.y);
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

/* [h | skip] in one buffer: columns of two convolutions, the first of rows that were shared until then, normed in
 * groups of which one has channels of both. */
struct concat {
    struct dl_conv h, skip;
    dl_act both;
    const int32_t *map;
    struct t_normed after;
};

static void call_concat(struct dl_run *r, void *arg)
{
    struct concat j = *(struct concat *)arg;
    struct dl_mark m = dl_arena_mark(&r->arena);
    j.both = dl_parts_lo(r, j.both);
    j.h.y = dl_parts_hi(r, dl_act_hi(r, j.both.t, j.h.x.n, j.h.x.h, j.h.x.w, 40));
    j.skip.y = dl_act_cols(j.both, 40, 24);
    dl_op_conv(r, j.h);
    dl_op_copy(r, (struct dl_copy){.x = j.h.y, .y = dl_act_cols(j.both, 0, 40), .row = j.map});
    dl_op_conv(r, j.skip);
    t_normed_call(r, &j.after, j.both);
    dl_arena_release(&r->arena, m);
}

static void concat_is_normed(void **state)
{
    (void)state;
    static const int32_t map[3] = {1, 0, 1};
    struct concat j = {.both = t_act(DL_F16, 3, 8, 16, 64, 0), .map = map, .after = t_normed_make(4, 3)};
    j.h.x = t_random(t_act(DL_F16, 2, 8, 16, 16, 0), 0.3, 1), j.skip.x = t_random(t_act(DL_F16, 3, 8, 16, 8, 0), 0, 2);
    j.h.w = t_w(DL_F16, 1, 0, 0.3, 4, (int64_t[]){40, 16, 3, 3}), j.h.k = 3;
    j.skip.w = t_w(DL_F16, 1, 0, 0.3, 2, (int64_t[]){24, 8}), j.skip.k = 1;
    for (int table = 0; table < TABLES; table++) {
        rig_run(table, DL_F16, 0, call_concat, &j);
        t_normed_ok("concat", &j.after, j.both);
    }
}

/* A 2 x 2 image of ones under a kernel of 1..9: each output is the sum of the taps that lie inside. */
static void by_hand(void **state)
{
    (void)state;
    float *x = t_copy((float[]){1, 1, 1, 1}, 16), *y = t_mem(16);
    struct job j = {.a = {.x = dl_act_at(x, DL_F32, 1, 2, 2, 1), .y = dl_act_at(y, DL_F32, 1, 2, 2, 1), .k = 3}};
    j.a.w = t_w(DL_F32, 1, 0, 0, 4, (int64_t[]){1, 1, 3, 3});
    memcpy((void *)(uintptr_t)j.a.w->part[0].file, (float[]){1, 2, 3, 4, 5, 6, 7, 8, 9}, 36);
    for (int table = 0; table < TABLES; table++) {
        rig_run(table, DL_F32, 0, call, &j);
        const float want[4] = {5 + 6 + 8 + 9, 4 + 5 + 7 + 8, 2 + 3 + 5 + 6, 1 + 2 + 4 + 5};
        for (int i = 0; i < 4; i++) assert_true(fabsf(y[i] - want[i]) < 1e-5f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(by_hand, rig_clear),
        cmocka_unit_test_teardown(cases_hold, rig_clear),
        cmocka_unit_test_teardown(concat_is_normed, rig_clear),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
