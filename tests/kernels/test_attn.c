/* attn of both CPU tables against plain loops. */
#include "tests/kernels/oracle.h"

enum { CAUSAL = 1, T5_BIAS = 2, MASK = 4, KV_ROW = 8, KV_ONE = 16, FUSED = 32 };

struct attn_case {
    const char *name;
    uint8_t t, ty;
    int n, tq, tk, kn, heads, d, how, pad;
    double amp; /* of q and k: how peaked the softmax is */
};

static const struct attn_case cases[] = {
    {"one query, one key", DL_F32, DL_F32, 1, 1, 1, 1, 1, 8, 0, 0, 1},
    {"self 64 d40", DL_F32, DL_F32, 2, 64, 64, 2, 2, 40, 0, 0, 1},
    {"self odd 35 d8", DL_F32, DL_F32, 2, 35, 35, 2, 3, 8, 0, 3, 2},
    {"fused q k v columns", DL_F32, DL_F32, 2, 33, 33, 2, 2, 16, FUSED, 0, 1},
    {"cross 77 keys, row map", DL_F32, DL_F32, 5, 20, 77, 3, 2, 40, KV_ROW, 0, 1},
    {"cross 77 keys, one row", DL_F32, DL_F32, 3, 16, 77, 1, 2, 24, KV_ONE, 2, 1},
    {"causal 77 d64", DL_F32, DL_F32, 2, 77, 77, 2, 3, 64, CAUSAL, 0, 1},
    {"bias and mask d64", DL_F32, DL_F32, 2, 40, 40, 2, 4, 64, T5_BIAS | MASK, 0, 0.5},
    {"mask, row map", DL_F32, DL_F32, 3, 9, 21, 2, 2, 16, MASK | KV_ROW, 0, 1},
    {"peaked softmax", DL_F32, DL_F32, 1, 50, 300, 1, 2, 32, 0, 0, 8},
    {"d 80", DL_F32, DL_F32, 1, 19, 130, 1, 2, 80, 0, 0, 1},
    {"d 160", DL_F32, DL_F32, 1, 19, 65, 1, 2, 160, 0, 0, 1},
    {"vae d 512", DL_F32, DL_F32, 1, 36, 36, 1, 1, 512, 0, 0, 0.5},
    {"bf16 self 64 d64", DL_BF16, DL_BF16, 2, 64, 64, 2, 2, 64, 0, 0, 1},
    {"bf16 cross odd", DL_BF16, DL_BF16, 3, 13, 77, 2, 2, 40, KV_ROW, 3, 1},
    {"bf16 bias mask", DL_BF16, DL_BF16, 2, 20, 20, 2, 2, 64, T5_BIAS | MASK, 0, 1},
    {"f16 self 64 d40", DL_F16, DL_F16, 2, 64, 64, 2, 2, 40, 0, 0, 1},
    {"f16 causal -> f32", DL_F16, DL_F32, 1, 21, 21, 1, 2, 32, CAUSAL, 1, 1},
};

static void call(struct dl_run *r, void *arg) { dl_op_attn(r, *(struct dl_attn *)arg); }

/* One output row of one head: a score's error is C_ACC u_acc sum|q||k|, which multiplies its weight. In half precision
 * a backend may round the weights to the type before they meet v, so each term may be off by its unit as well. */
static void query(const struct dl_attn *a, int64_t i, int64_t row, int64_t head, int64_t q, struct val *out)
{
    int64_t d = a->q.c / a->heads, tk = (int64_t)a->k.h * a->k.w;
    struct val *s = malloc((size_t)tk * sizeof *s);
    double top = -INFINITY, sum = 0, e = 0;
    assert_non_null(s);
    for (int64_t j = 0; j < tk; j++) {
        double v = 0, big = 0;
        for (int64_t c = 0; c < d; c++) {
            double p = t_at(a->q, i, q, head * d + c) * t_at(a->k, row, j, head * d + c);
            v += p, big += fabs(p);
        }
        v *= (double)a->scale, big *= fabs((double)a->scale);
        if (a->bias.p) v += t_at(a->bias, head, q * tk + j, 0), big += fabs(v);
        if ((a->causal && j > q) || (a->key_mask && !a->key_mask[row * tk + j])) v = -INFINITY;
        s[j] = (struct val){v, C_ACC * u_acc * (big + 1)};
        if (v > top) top = v;
    }
    for (int64_t j = 0; j < tk; j++) {
        s[j].v = exp(s[j].v - top), s[j].e += u_acc * (fabs(top) + (s[j].v > 0 ? -log(s[j].v) : 0));
        if (a->q.t != DL_F32) s[j].e += u_of(a->q.t);
        sum += s[j].v, e += s[j].v * s[j].e;
    }
    for (int64_t c = 0; c < d; c++) {
        struct val y = {0, 0};
        double big = 0;
        for (int64_t j = 0; j < tk; j++) {
            double p = s[j].v / sum * t_at(a->v, row, j, head * d + c);
            y.v += p, y.e += fabs(p) * s[j].e, big += fabs(p);
        }
        y.e += C_ACC * u_acc * big + fabs(y.v) * e / sum;
        out[head * d + c] = y;
    }
    free(s);
}

static void run_case(const struct attn_case *k)
{
    int c = k->heads * k->d;
    struct dl_attn a = {.heads = k->heads, .scale = (float)(1 / sqrt(k->d)), .causal = k->how & CAUSAL};
    int32_t map[8];
    uint8_t *mask = t_mem((int64_t)k->kn * k->tk);
    if (k->how & FUSED) {
        dl_act qkv = t_random(t_act(k->t, k->n, 1, k->tq, 3 * c, k->pad), 0, k->amp);
        a.q = dl_act_cols(qkv, 0, c), a.k = dl_act_cols(qkv, c, c), a.v = dl_act_cols(qkv, 2 * c, c);
    } else {
        a.q = t_random(t_act(k->t, k->n, 1, k->tq, c, k->pad), 0, k->amp);
        a.k = t_random(t_act(k->t, k->kn, 1, k->tk, c, k->pad), 0, k->amp);
        a.v = t_random(t_act(k->t, k->kn, 1, k->tk, c, 2 * k->pad), 0.2, 1);
    }
    a.y = t_act(k->ty, k->n, 1, k->tq, c, k->pad);
    for (int i = 0; i < k->n; i++) map[i] = (i * 2 + 1) % k->kn;
    if (k->how & KV_ROW) a.kv_row = map;
    for (int j = 0; j < k->kn * k->tk; j++) mask[j] = j % k->tk == 0 || t_rnd() < 0.2;
    if (k->how & MASK) a.key_mask = mask;
    if (k->how & T5_BIAS) a.bias = t_random(t_act(DL_F32, k->heads, k->tq, k->tk, 1, 0), 0, 3);
    struct val *want = t_want(a.y);
    for (int64_t i = 0; i < k->n; i++)
        for (int64_t h = 0; h < k->heads; h++)
            for (int64_t q = 0; q < k->tq; q++)
                query(&a, i, k->how & KV_ROW ? map[i] : k->kn == 1 ? 0 : i, h, q, want + (i * k->tq + q) * c);
    for (int table = 0; table < TABLES; table++) {
        rig_run(table, k->t, 0, call, &a);
        t_compare(k->name, table, a.y, want);
        for (int i = 0; i < k->n; i++) {
            struct dl_attn one = a;
            int row = k->how & KV_ROW ? map[i] : k->kn == 1 ? 0 : i;
            one.q = t_row(a.q, i), one.k = t_row(a.k, row), one.v = t_row(a.v, row), one.kv_row = NULL;
            if (a.key_mask) one.key_mask = mask + row * k->tk;
            one.y = t_act(k->ty, 1, 1, k->tq, c, 0);
            rig_run(table, k->t, 0, call, &one);
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

/* Equal scores give the mean of the values; a score of +ln 3 gives weights 3/4 and 1/4. */
static void by_hand(void **state)
{
    (void)state;
    float *q = t_copy((float[16]){1}, 64), *k = t_copy((float[16]){0}, 64), *v = t_copy((float[16]){0}, 64),
          *y = t_mem(64);
    k[0] = logf(3), v[0] = 4, v[8] = 8;
    struct dl_attn a = {.q = dl_act_at(q, DL_F32, 1, 1, 2, 8), .k = dl_act_at(k, DL_F32, 1, 1, 2, 8), .heads = 1};
    a.v = dl_act_at(v, DL_F32, 1, 1, 2, 8), a.y = dl_act_at(y, DL_F32, 1, 1, 2, 8), a.scale = 1;
    for (int table = 0; table < TABLES; table++) {
        rig_run(table, DL_F32, 0, call, &a);
        assert_true(fabsf(y[0] - 5) < 1e-5f && fabsf(y[8] - 6) < 1e-5f && y[1] == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(by_hand, rig_clear),
        cmocka_unit_test_teardown(cases_hold, rig_clear),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
