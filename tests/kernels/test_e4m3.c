/* gemm in e4m3 against plain loops over the same quantised operands, and that what does not qualify is bf16's bits. */
#include "tests/kernels/oracle.h"

#include "engine/e4m3.h"

#if defined RIG_CUDA && !defined TESTS_SIMT_CUDA_RUNTIME_API_H
static const double u_sum = 0x1p-13; /* tensor cores keep about 14 bits of a sum of e4m3 products */
#else
static const double u_sum = C_ACC * 0x1p-24;
#endif

struct e4m3_case {
    const char *name;
    uint8_t tw, ty, fn;
    int n, h, w, in, out, parts, pad, w_parts;
};

static const struct e4m3_case cases[] = {
    {"bias", DL_F32, DL_BF16, 0, 1, 1, 17, 32, 48, BIAS, 0, 1},
    {"no bias, q k v", DL_BF16, DL_BF16, 0, 2, 1, 77, 64, 192, 0, 0, 3},
    {"pitched", DL_F16, DL_BF16, 0, 2, 4, 5, 48, 80, BIAS, 8, 1},
    {"residual", DL_BF16, DL_BF16, 0, 2, 4, 4, 64, 64, BIAS | RES, 0, 1},
    {"gelu", DL_BF16, DL_BF16, DL_GELU_TANH, 2, 1, 19, 48, 192, BIAS, 0, 1},
    {"glu, pitched", DL_F32, DL_BF16, DL_GELU, 2, 1, 33, 32, 64, BIAS | GLU, 8, 1},
    {"gate and residual, steps", DL_BF16, DL_BF16, 0, 3, 1, 16, 192, 48, BIAS | GATE | RES | STEPS, 8, 1},
    {"all parts, f32 out", DL_F32, DL_F32, DL_SILU, 2, 4, 5, 160, 96, BIAS | ADD | GATE | RES | SCALE, 8, 1},
    {"deep", DL_BF16, DL_BF16, 0, 1, 1, 40, 1280, 64, BIAS, 0, 1},
    {"odd pitch", DL_BF16, DL_BF16, 0, 2, 1, 16, 32, 32, BIAS | RES, 3, 1},
};

static void call(struct dl_run *r, void *arg) { dl_op_gemm(r, *(struct dl_gemm *)arg); }

/* Rows as e4m3 has them, widened; their scales. */
static void quantised(const struct dl_gemm *a, float *x, float *sx, float *w, float *sw)
{
    int64_t in = a->x.c, pixels = (int64_t)a->x.h * a->x.w, each = dl_w_count(a->w) / a->w->n_parts;
    for (int64_t m = 0; m < a->x.n * pixels; m++) {
        for (int64_t c = 0; c < in; c++) x[m * in + c] = (float)t_at(a->x, m / pixels, m % pixels, c);
        sx[m] = dl_e4m3_round(x + m * in, in);
    }
    for (int64_t o = 0; o < a->w->dim[0]; o++) {
        for (int64_t i = o * in; i < o * in + in; i++)
            w[i] = dl_load(a->w->part[i / each].file, a->w->part[i / each].t, i % each);
        sw[o] = dl_e4m3_round(w + o * in, in);
    }
}

static struct val dot(const float *x, double sx, const float *w, double sw, int64_t n)
{
    struct val s = {0};
    for (int64_t i = 0; i < n; i++) {
        double q = (double)x[i] * (double)w[i];
        s.v += q, s.e += u_sum * fabs(q);
    }
    s.v *= sx * sw;
    s.e = s.e * sx * sw + 2 * u_acc * fabs(s.v);
    return s;
}

static bool has_e4m3(int table)
{
    return table == REFERENCE || strcmp(rig.be[table]->name, "cuda") ||
           rig.be[table]->supports(rig.ctx[table], DL_E4M3);
}

static void run_case(const struct e4m3_case *k)
{
    const int step = k->parts & STEPS ? 2 : 0;
    int64_t rows = (int64_t)k->n * k->h * k->w, outs = k->out * (k->parts & GLU ? 2 : 1);
    struct dl_gemm a = {.x = t_random(t_act(DL_BF16, k->n, k->h, k->w, k->in, k->pad), 0.1, 1)};
    a.y = t_act(k->ty, k->n, k->h, k->w, k->out, k->pad);
    a.w = t_w(k->tw, k->w_parts, 0, 0.5, 2, (int64_t[]){outs, k->in});
    a.e = t_epi_make(k->parts, k->fn, k->tw, a.y, k->pad);
    float *x = t_mem(rows * k->in * 4), *sx = t_mem(rows * 4), *w = t_mem(outs * k->in * 4), *sw = t_mem(outs * 4);
    quantised(&a, x, sx, w, sw);
    struct val *want = t_want(a.y), *at = want;
    for (int64_t m = 0; m < rows; m++)
        for (int64_t o = 0; o < k->out; o++) {
            const float *xm = x + m * k->in, *wo = w + o * k->in;
            struct val s = dot(xm, (double)sx[m], wo, (double)sw[o], k->in), s2 = {0};
            if (a.e.glu) s2 = dot(xm, (double)sx[m], wo + (int64_t)k->out * k->in, (double)sw[k->out + o], k->in);
            *at++ = t_epi(&a.e, DL_BF16, step, a.y, s, s2, m / (k->h * k->w), m % (k->h * k->w), o);
        }
    for (int table = 0; table < TABLES; table++) {
        if (!has_e4m3(table)) continue;
        rig_run(table, DL_E4M3, step, call, &a);
        if (!strstr(rig.variant, "e4m3")) fail_msg("%s: done by %s", k->name, rig.variant);
        t_compare(k->name, table, a.y, want);
        for (int i = 0; i < k->n; i++) {
            struct dl_gemm one = a;
            one.x = t_row(a.x, i), one.y = t_act(k->ty, 1, k->h, k->w, k->out, 0), one.e = t_epi_row(a.e, i);
            rig_run(table, DL_E4M3, step, call, &one);
            t_same_row(k->name, a.y, i, one.y);
        }
    }
}

static void cases_hold(void **state)
{
    (void)state;
    if (!has_e4m3(DEFAULT)) print_message("skipped: e4m3 on this GPU (compute capability below 8.9)\n");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        run_case(&cases[i]);
        rig_clear(NULL);
    }
}

/* What does not qualify gives the bits of a bf16 run. */
static void the_rest_is_bf16(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        for (int table = 0; table < TABLES; table++) {
            struct dl_gemm a = {.x = t_random(t_act(DL_BF16, 2, 1, i == 0 ? 15 : 16, i == 1 ? 40 : 64, 0), 0, 1)};
            a.y = t_act(DL_BF16, 2, 1, a.x.w, 64, 0), a.w = t_w(DL_F32, 1, 0, 1, 2, (int64_t[]){64, a.x.c});
            a.fine = i == 2;
            rig_run(table, DL_E4M3, 0, call, &a);
            assert_null(strstr(rig.variant, "e4m3"));
            dl_act mine = a.y;
            a.y = t_act(DL_BF16, 2, 1, a.x.w, 64, 0);
            rig_run(table, DL_BF16, 0, call, &a);
            assert_memory_equal(mine.p, a.y.p, (size_t)dl_act_bytes(a.y));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(cases_hold, rig_clear),
        cmocka_unit_test_teardown(the_rest_is_bf16, rig_clear),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
