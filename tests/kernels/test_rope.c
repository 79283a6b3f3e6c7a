/* What attention needs besides products, of both CPU tables: rope, rel_bias, token_mean. */
#include "kernels/cpu/simd.h"
#include "tests/kernels/oracle.h"

static void call_rope(struct dl_run *r, void *arg) { dl_op_rope(r, *(struct dl_rope *)arg); }
static void call_bias(struct dl_run *r, void *arg) { dl_op_rel_bias(r, *(struct dl_rel_bias *)arg); }
static void call_mean(struct dl_run *r, void *arg) { dl_op_token_mean(r, *(struct dl_token_mean *)arg); }

struct rope_case {
    const char *name;
    int t, ty, n, tokens, heads, d, gammas, turns, in_place, pad;
    double mean;
};

static const struct rope_case rope_cases[] = {
    {"rope flux 2x24 heads", DL_F32, DL_F32, 1, 9, 48, 128, 2, 1, 0, 0, 0},
    {"rope flux in place, pitched", DL_F32, DL_F32, 2, 17, 4, 128, 2, 1, 1, 512, 0.3},
    {"rope bf16 in place", DL_BF16, DL_BF16, 2, 5, 8, 64, 2, 1, 1, 256, 0},
    {"rope f16", DL_F16, DL_F16, 3, 7, 6, 32, 2, 1, 0, 8, 0},
    {"rope one gamma", DL_F32, DL_F32, 2, 5, 3, 72, 1, 1, 0, 24, 0},
    {"rope odd pitch", DL_F32, DL_BF16, 2, 5, 2, 40, 2, 1, 0, 3, 0},
    {"rope odd pairs", DL_F32, DL_F32, 2, 6, 3, 6, 1, 1, 0, 1, 0},
    {"rope one pair", DL_BF16, DL_F32, 1, 3, 5, 2, 1, 1, 0, 0, 0},
    {"rope without norm", DL_F16, DL_F32, 2, 4, 3, 16, 0, 1, 1, 0, 0},
    {"rope norm alone, odd", DL_BF16, DL_BF16, 2, 5, 4, 37, 2, 0, 1, 1, 0},
    {"rope norm alone", DL_F32, DL_F16, 1, 33, 2, 64, 2, 0, 0, 0, 2},
    {"rope 100 heads", DL_F16, DL_F16, 1, 3, 100, 32, 2, 1, 0, 0, 0},
    {"rope 26 heads of 160", DL_BF16, DL_BF16, 1, 3, 26, 160, 2, 1, 0, 8, 0},
    {"rope many tokens", DL_BF16, DL_BF16, 1, 8203, 1, 8, 1, 1, 0, 0, 0},
    {"rope wide head", DL_F32, DL_F32, 1, 3, 2, 520, 2, 1, 1, 0, 0},
};

static void rope_want(const struct dl_rope *a, int t, struct val *w)
{
    int64_t d = a->x.c / a->heads, tokens = (int64_t)a->x.h * a->x.w;
    for (int64_t item = 0; item < a->x.n * tokens * a->heads; item++) {
        int64_t i = item / a->heads / tokens, p = item / a->heads % tokens, h = item % a->heads;
        const struct dl_w *g = a->gamma[a->gamma[1] && 2 * h >= a->heads];
        double v[1024], sum = 0;
        for (int64_t j = 0; j < d; j++) v[j] = t_at(a->x, i, p, h * d + j), sum += v[j] * v[j];
        for (int64_t j = 0; j < d && g; j++) v[j] *= t_w_at(g, j, t) / sqrt(sum / (double)d + (double)a->eps);
        for (int64_t j = 0; j < d; j++, w++) {
            if (!a->table) {
                *w = (struct val){v[j], C_ACC * u_acc * fabs(v[j])};
                continue;
            }
            double c = (double)a->table[p * d + (j & ~1)], s = (double)a->table[p * d + (j | 1)];
            double other = (j & 1 ? s : -s) * v[j ^ 1];
            *w = (struct val){v[j] * c + other, C_ACC * u_acc * (fabs(v[j] * c) + fabs(other))};
        }
    }
}

/* cos and sin [tokens][d / 2][2]; not all of angles, so that a swap would show. */
static const float *turns(int64_t count)
{
    float *p = t_mem(count * 4);
    for (int64_t i = 0; i < count; i++) p[i] = (float)t_rnd();
    return p;
}

static void rope_case(const struct rope_case *k, int table)
{
    int c = k->heads * k->d;
    struct dl_rope a = {.x = t_random(t_act(k->t, k->n, 1, k->tokens, c, k->pad), k->mean, 1.5), .heads = k->heads};
    a.y = k->in_place ? a.x : t_act(k->ty, k->n, 1, k->tokens, c, k->pad);
    a.y.t = (uint8_t)(k->in_place ? k->t : k->ty), a.eps = 1e-2f; /* so large that it shows */
    if (k->gammas > 0) a.gamma[0] = t_w1(DL_F32, k->d, 1, 0.5);
    if (k->gammas > 1) a.gamma[1] = t_w1(DL_F32, k->d, -1, 0.5);
    if (k->turns) a.table = turns((int64_t)k->tokens * k->d);
    struct val *want = t_want(a.y);
    rope_want(&a, k->t, want);
    dl_act x = t_act(k->t, k->n, 1, k->tokens, c, k->pad); /* as it was before */
    memcpy(x.p, a.x.p, (size_t)dl_act_bytes(x));
    rig_run(table, k->t, 0, call_rope, &a);
    t_compare(k->name, table, a.y, want);

    struct dl_rope one = a;
    int i = k->n - 1, first = k->tokens / 2; /* the last row alone; then its span of tokens from `first` on */
    one.x = t_row(x, i), one.y = t_act(a.y.t, 1, 1, k->tokens, c, 0);
    rig_run(table, k->t, 0, call_rope, &one);
    t_same_row(k->name, a.y, i, one.y);
    one.x.p = (uint8_t *)one.x.p + (int64_t)first * x.ld * dl_type_bytes(x.t);
    one.x.w = k->tokens - first, one.y = t_act(a.y.t, 1, 1, one.x.w, c, 0);
    if (a.table) one.table = a.table + (int64_t)first * k->d;
    rig_run(table, k->t, 0, call_rope, &one);
    dl_act span = t_row(a.y, i);
    span.p = (uint8_t *)span.p + (int64_t)first * span.ld * dl_type_bytes(span.t), span.w = one.x.w;
    t_same_row(k->name, span, 0, one.y);
}

static void ropes_hold(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rope_cases / sizeof rope_cases[0]; i++)
        for (int table = 0; table < TABLES; table++) {
            rope_case(&rope_cases[i], table);
            rig_clear(NULL);
        }
}

/* A quarter turn takes (x0, x1) to (-x1, x0); (3, 4) has the mean square 12.5, (0, 5) too. */
static void rope_by_hand(void **state)
{
    (void)state;
    const float quarter[4] = {0, 1, 1, 0}; /* the second pair stays */
    for (int table = 0; table < TABLES; table++) {
        float *x = t_copy((float[]){3, 4, 0, 5}, 16), *y = t_mem(16), *turn = t_copy(quarter, 16);
        struct dl_rope a = {.x = dl_act_at(x, DL_F32, 1, 1, 1, 4), .y = dl_act_at(y, DL_F32, 1, 1, 1, 4), .heads = 1};
        a.table = turn;
        rig_run(table, DL_F32, 0, call_rope, &a);
        assert_memory_equal(y, ((float[]){-4, 3, 0, 5}), 16);
    }
}

/* Distances and buckets of T5: 32 buckets up to 128, from transformers' _relative_position_bucket. */
static void buckets(void **state)
{
    (void)state;
    static const int32_t want[][2] = {{0, 0},     {-1, 1},    {-7, 7},   {-8, 8},   {-11, 8},        {-12, 9},
                                      {-15, 9},   {-16, 10},  {-22, 10}, {-23, 11}, {-31, 11},       {-32, 12},
                                      {-45, 12},  {-46, 13},  {-63, 13}, {-64, 14}, {-90, 14},       {-91, 15},
                                      {-127, 15}, {-511, 15}, {1, 17},   {7, 23},   {8, 24},         {16, 26},
                                      {64, 30},   {127, 31},  {128, 31}, {511, 31}, {INT32_MIN, 15}, {INT32_MAX, 31}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        int32_t got = dl_rel_bucket(want[i][0], 32, 128);
        if (got != want[i][1]) fail_msg("distance %d has bucket %d, not %d", want[i][0], got, want[i][1]);
    }
    for (int32_t d = -300; d <= 300; d++) assert_in_range(dl_rel_bucket(d, 20, 77), 0, 19);
}

static void biases(void **state)
{
    (void)state;
    static const struct {
        int heads, q, k, pad, t;
    } cases[] = {{4, 77, 77, 0, DL_F32}, {3, 5, 150, 0, DL_BF16}, {64, 9, 9, 2, DL_F16}, {1, 1, 1, 0, DL_F32}};
    for (int table = 0; table < TABLES; table++)
        for (size_t q = 0; q < sizeof cases / sizeof cases[0]; q++) {
            struct dl_rel_bias a = {.max_distance = 128};
            a.y = t_act(DL_F32, cases[q].heads, cases[q].q, cases[q].k, 1, cases[q].pad);
            a.table = t_w(DL_F32, 1, 0, 1, 2, (int64_t[]){32, cases[q].heads});
            rig_run(table, cases[q].t, 0, call_bias, &a);
            struct val *want = t_want(a.y), *w = want;
            for (int h = 0; h < a.y.n; h++)
                for (int i = 0; i < a.y.h; i++)
                    for (int k = 0; k < a.y.w; k++)
                        *w++ = (struct val){
                            t_w_at(a.table, dl_rel_bucket(k - i, 32, 128) * (int64_t)a.y.n + h, cases[q].t), 0};
            t_compare("rel_bias", table, a.y, want);
            rig_clear(NULL);
        }
}

static void means(void **state)
{
    (void)state;
    static const struct {
        int t, ty, n, tokens, c, pad, pos;
    } cases[] = {{DL_F32, DL_F32, 3, 77, 96, 0, 1},   {DL_F32, DL_F32, 2, 5, 13, 3, 0},
                 {DL_BF16, DL_BF16, 2, 77, 64, 8, 1}, {DL_F16, DL_F32, 2, 300, 33, 1, 1},
                 {DL_F32, DL_F16, 1, 1, 8, 0, 0},     {DL_F32, DL_F32, 1, 9, 300, 0, 1}};
    for (int table = 0; table < TABLES; table++)
        for (size_t q = 0; q < sizeof cases / sizeof cases[0]; q++) {
            int t = cases[q].t, c = cases[q].c, tokens = cases[q].tokens;
            struct dl_token_mean a = {.x = t_random(t_act(t, cases[q].n, 1, tokens, c, cases[q].pad), 1, 2)};
            a.y = t_act(cases[q].ty, cases[q].n, 1, 1, c, cases[q].pad);
            if (cases[q].pos) a.pos = t_w(DL_F32, 1, 0, 1, 2, (int64_t[]){1, c});
            rig_run(table, t, 0, call_mean, &a);
            struct val *want = t_want(a.y), *w = want;
            for (int64_t i = 0; i < a.y.n; i++)
                for (int64_t j = 0; j < c; j++, w++) {
                    double sum = 0, size = 0, pos = a.pos ? t_w_at(a.pos, j, t) : 0;
                    for (int64_t p = 0; p < tokens; p++) sum += t_at(a.x, i, p, j), size += fabs(t_at(a.x, i, p, j));
                    *w = (struct val){sum / tokens + pos, C_ACC * u_acc * (size / tokens + fabs(pos))};
                }
            t_compare("token_mean", table, a.y, want);
            struct dl_token_mean one = a;
            int i = cases[q].n - 1;
            one.x = t_row(a.x, i), one.y = t_act(cases[q].ty, 1, 1, 1, c, 0);
            rig_run(table, t, 0, call_mean, &one);
            t_same_row("token_mean", a.y, i, one.y);
            rig_clear(NULL);
        }
}

#if defined(__x86_64__) && !defined(RIG_CUDA)
extern const struct simd simd_avx2;

/* The narrower instruction set, which no table takes where there is a wider one. */
static void avx2_heads(void **state)
{
    (void)state;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        print_message("skipped: AVX2, which this machine does not have\n");
        skip();
    }
    static const int sizes[] = {2, 6, 8, 40, 128};
    for (size_t q = 0; q < sizeof sizes / sizeof sizes[0]; q++)
        for (int t = DL_F32; t <= DL_BF16; t++) {
            int d = sizes[q];
            struct dl_rope a = {.x = t_random(t_act(t, 1, 1, 1, d, 0), 0, 2), .y = t_act(t, 1, 1, 1, d, 5), .heads = 1};
            a.gamma[0] = t_w1(t, d, 1, 0.5), a.eps = 0.1f, a.table = turns(d);
            struct val *want = t_want(a.y);
            rope_want(&a, t, want);
            float g[128];
            for (int j = 0; j < d; j++) g[j] = (float)t_w_at(a.gamma[0], j, t);
            simd_avx2.rope(a.y.p, t, a.x.p, t, g, a.table, d, a.eps);
            rig.variant = "avx2";
            t_compare("rope of a head", DEFAULT, a.y, want);
        }
}
#endif

#define REFUSES(words, call)                                                                                           \
    do {                                                                                                               \
        struct dl_err refused = {0};                                                                                   \
        dl_run_dry(&r), r.err = (struct dl_err){0};                                                                    \
        call;                                                                                                          \
        if (dl_run_check(&r, &refused) == 0) fail_msg("accepted: %s", #call);                                          \
        if (!strstr(refused.msg, words)) fail_msg("\"%s\" does not say \"%s\"", refused.msg, words);                   \
    } while (0)

static void refusals(void **state)
{
    (void)state;
    struct dl_run r;
    dl_run_open(&r, rig.be[REFERENCE], rig.ctx[REFERENCE], DL_F32);
    dl_act x = t_act(DL_F32, 2, 1, 6, 24, 0), p = t_act(DL_F32, 2, 4, 6, 24, 0), half = t_act(DL_F32, 2, 2, 3, 24, 0);
    dl_act one = t_act(DL_F32, 2, 1, 1, 24, 0), bias = t_act(DL_F32, 4, 5, 6, 1, 0);
    struct dl_w *g8 = t_w1(DL_F32, 8, 0, 1), *g24 = t_w1(DL_F32, 24, 0, 1);
    struct dl_w *table = t_w(DL_F32, 1, 0, 1, 2, (int64_t[]){32, 4}), *odd = t_w(DL_F32, 1, 0, 1, 2, (int64_t[]){6, 4});
    const float *turn = x.p;
    REFUSES("do not make 5", dl_op_rope(&r, (struct dl_rope){.x = x, .y = x, .heads = 5}));
    REFUSES("no pairs", dl_op_rope(&r, (struct dl_rope){.x = x, .y = x, .heads = 8, .table = turn}));
    REFUSES("without gamma[0]", dl_op_rope(&r, (struct dl_rope){.x = x, .y = x, .heads = 3, .gamma = {NULL, g8}}));
    REFUSES("eps of", dl_op_rope(&r, (struct dl_rope){.x = x, .y = x, .heads = 3, .gamma = {g8}}));
    REFUSES("no halves", dl_op_rope(&r, (struct dl_rope){x, x, 3, {g8, g8}, 1, NULL}));
    REFUSES("has 24 elements", dl_op_rope(&r, (struct dl_rope){x, x, 3, {g24, NULL}, 1, NULL}));
    REFUSES("differ in shape", dl_op_rope(&r, (struct dl_rope){.x = x, .y = one, .heads = 3}));
    REFUSES("y is x", dl_op_resize(&r, (struct dl_resize){p, p, DL_RESIZE_NEAREST}));
    REFUSES("not half", dl_op_resize(&r, (struct dl_resize){p, x, DL_RESIZE_MEAN2}));
    REFUSES("no kind", dl_op_resize(&r, (struct dl_resize){p, half, 7}));
    REFUSES("rows or channels", dl_op_resize(&r, (struct dl_resize){p, bias, DL_RESIZE_NEAREST}));
    REFUSES("6 buckets", dl_op_rel_bias(&r, (struct dl_rel_bias){odd, 128, bias}));
    REFUSES("distance of 8", dl_op_rel_bias(&r, (struct dl_rel_bias){table, 8, bias}));
    REFUSES("not [buckets, 2]", dl_op_rel_bias(&r, (struct dl_rel_bias){table, 128, dl_act_rows(bias, 0, 2)}));
    REFUSES("y is not f32", dl_op_rel_bias(&r, (struct dl_rel_bias){table, 128, x}));
    REFUSES("not [n,1,1,c]", dl_op_token_mean(&r, (struct dl_token_mean){x, x, NULL}));
    REFUSES("has 8 elements", dl_op_token_mean(&r, (struct dl_token_mean){x, one, g8}));
    REFUSES("table is absent", dl_op_pick(&r, (struct dl_pick){.y = one}));
    REFUSES("less than 24", dl_op_pick(&r, (struct dl_pick){.table = {x.p, 23, 0, DL_F32}, .y = one}));
    REFUSES("not [n,1,1,c]", dl_op_pick(&r, (struct dl_pick){.table = {x.p, 24, 0, DL_F32}, .y = x}));
    dl_run_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(ropes_hold, rig_clear),
        cmocka_unit_test_teardown(rope_by_hand, rig_clear),
        cmocka_unit_test_teardown(buckets, rig_clear),
        cmocka_unit_test_teardown(biases, rig_clear),
        cmocka_unit_test_teardown(means, rig_clear),
        cmocka_unit_test_teardown(refusals, rig_clear),
#if defined(__x86_64__) && !defined(RIG_CUDA)
        cmocka_unit_test_teardown(avx2_heads, rig_clear),
#endif
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
