/* Attention of kernels/cuda/attn.cu in the shim, against plain loops in double: every head dim and every option. */
#include "tests/simt/attn_want.h"

#include "kernels/cuda/igemm.h"

enum { CAUSAL = 1, BIAS = 2, MASK = 4, ROWS = 8, SHARED = 16, JOINT = 32, HOLES = 64 };

struct attn_case {
    const char *name;
    int t, n, heads, d, tq, tk, parts;
};

static const attn_case cases[] = {
    {"self d40, odd tokens", DL_F16, 1, 2, 40, 150, 150, 0},
    {"self d40 bf16, k q v of one matrix", DL_BF16, 2, 2, 40, 36, 36, JOINT},
    {"cross d40, 77 keys, kv_row", DL_F16, 3, 2, 40, 20, 77, ROWS},
    {"cross d40, shared row", DL_F16, 2, 1, 40, 130, 77, SHARED},
    {"d8", DL_F16, 1, 3, 8, 9, 5, 0},
    {"d24 one query one key", DL_BF16, 1, 1, 24, 1, 1, 0},
    {"d32 causal", DL_F16, 1, 1, 32, 140, 140, CAUSAL},
    {"d48", DL_BF16, 1, 2, 48, 70, 130, 0},
    {"d64 causal, 77 tokens", DL_F16, 2, 2, 64, 77, 77, CAUSAL},
    {"d64 three tiles", DL_F16, 1, 1, 64, 129, 170, 0},
    {"d64 bf16", DL_BF16, 1, 2, 64, 64, 64, 0},
    {"d64 bias", DL_BF16, 2, 2, 64, 70, 70, BIAS},
    {"d64 bias, mask, causal, kv_row", DL_F16, 2, 2, 64, 40, 67, BIAS | MASK | CAUSAL | ROWS},
    {"d32 all keys masked", DL_F16, 2, 1, 32, 17, 65, MASK | HOLES},
    {"d72", DL_F16, 1, 1, 72, 20, 33, 0},
    {"d80", DL_F16, 1, 2, 80, 130, 70, 0},
    {"d88", DL_BF16, 1, 1, 88, 33, 40, 0},
    {"d128", DL_F16, 1, 1, 128, 130, 66, 0},
    {"d128 bf16 causal", DL_BF16, 1, 1, 128, 65, 65, CAUSAL},
    {"d128 mask", DL_F16, 2, 1, 128, 5, 45, MASK},
    {"d160", DL_F16, 2, 1, 160, 64, 64, 0},
    {"d160 bf16 cross", DL_BF16, 1, 2, 160, 16, 77, 0},
    {"d200", DL_F16, 1, 1, 200, 20, 40, 0},
    {"d256 bias and mask", DL_BF16, 1, 1, 256, 20, 40, BIAS | MASK},
    {"d512", DL_F16, 1, 1, 512, 37, 70, 0},
    {"d512 bf16", DL_BF16, 2, 1, 512, 40, 64, 0},
    {"d512 causal, mask, bias", DL_F16, 1, 1, 512, 40, 40, CAUSAL | MASK | BIAS},
};

static void one(const attn_case &k)
{
    cuda_attn_args a = cuda_attn_args();
    int c = k.heads * k.d, kn = k.parts & SHARED ? 1 : k.parts & ROWS ? 2 : k.n;
    if (k.parts & JOINT) {
        dl_act all = t_random(t_act(k.t, k.n, 1, k.tq, 3 * c, 0), 0, 2);
        a.q = dl_act_cols(all, 0, c), a.k = dl_act_cols(all, c, c), a.v = dl_act_cols(all, 2 * c, c);
    } else {
        a.q = t_random(t_act(k.t, k.n, 1, k.tq, c, 8), 0, 2);
        a.k = t_random(t_act(k.t, kn, 1, k.tk, c, 0), 0, 2);
        a.v = t_random(t_act(k.t, kn, 1, k.tk, c, 16), 0, 2);
    }
    a.y = t_act(k.t, k.n, 1, k.tq, c, 8);
    a.heads = k.heads, a.scale = 1 / sqrtf((float)k.d), a.causal = k.parts & CAUSAL;
    if (k.parts & BIAS) a.bias = t_random(t_act(DL_F32, k.heads, k.tq, k.tk, 1, 1), 0, 3);
    if (k.parts & MASK) {
        uint8_t *m = (uint8_t *)simt_alloc((int64_t)kn * k.tk);
        for (int j = 0; j < kn * k.tk; j++) m[j] = k.parts & HOLES && j < k.tk ? 0 : j % 3 != 1;
        a.key_mask = m;
    }
    std::vector<int32_t> rows;
    for (int i = 0; i < k.n; i++) rows.push_back(kn == 1 ? 0 : k.parts & ROWS ? (i + 1) % 2 : i);
    if (k.parts & ROWS) a.kv_row = t_ints(rows);
    std::vector<val> want;
    for (int i = 0; i < k.n; i++)
        for (int q = 0; q < k.tq; q++)
            for (int h = 0; h < k.heads; h++) want_row(a, i, rows[(size_t)i], h, q, &want);
    const char *variant;
    for (int way = 0; (variant = cuda_attn_variant(&a, way)); way++) {
        t_poison(a.y);
        t_ran(k.name, cuda_attn(nullptr, &a, way));
        t_compare(k.name, variant, a.y, want);
    }
    assert_non_null(cuda_attn_variant(&a, 0));
    assert_int_equal(cuda_attn(nullptr, &a, CUDA_WAYS), CUDA_K_UNSUPPORTED);
}

static void attentions(void **)
{
    for (const attn_case &k : cases) {
        one(k);
        simt_free_all();
    }
}

static void refused(void **)
{
    cuda_attn_args a = cuda_attn_args();
    a.q = a.k = a.v = a.y = t_act(DL_F16, 1, 1, 4, 36, 4);
    a.heads = 3, a.scale = 1;
    assert_null(cuda_attn_variant(&a, 0)); /* head dim 12 */
    assert_int_equal(cuda_attn(nullptr, &a, 0), CUDA_K_UNSUPPORTED);
    a.q = a.k = a.v = a.y = t_act(DL_F32, 1, 1, 4, 32, 0);
    a.heads = 1;
    assert_null(cuda_attn_variant(&a, 0)); /* f32 */
    a.q = a.k = a.v = a.y = t_act(DL_F16, 1, 1, 4, 32, 0);
    assert_non_null(cuda_attn_variant(&a, 0));
    a.k.ld = 33;
    assert_null(cuda_attn_variant(&a, 0)); /* a pitch that breaks 16 bytes */
}

/* The kernel for every shape, whose scores take all of the shared memory that a launch has without asking. */
static void plain(void **)
{
    cuda_attn_args a = cuda_attn_args();
    const int keys = (48 << 10) / 4 - 9;
    a.q = t_random(t_act(DL_F32, 1, 1, 2, 8, 0), 0, 2), a.y = t_act(DL_F32, 1, 1, 2, 8, 0);
    a.k = t_random(t_act(DL_F32, 1, 1, keys, 8, 0), 0, 2), a.v = t_random(t_act(DL_F32, 1, 1, keys, 8, 0), 0, 2);
    a.heads = 1, a.scale = 0.35f;
    std::vector<val> want;
    for (int q = 0; q < 2; q++) want_row(a, 0, 0, 0, q, &want);
    t_ran("48 KB", cuda_attn_plain(nullptr, &a));
    t_compare("48 KB", "plain", a.y, want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(attentions, t_clear),
        cmocka_unit_test_teardown(refused, t_clear),
        cmocka_unit_test_teardown(plain, t_clear),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
