/* The Hopper tier without a Hopper: its index arithmetic against the definitions, its plans, and its kernels' own
 * source over emulated TMA, mbarriers and wgmma (tests/simt/hopper.h), against plain loops in double. Convolutions and
 * products: test_hopper_conv.cpp. */
#include "kernels/cuda/hopper/hopper.h"
#include "tests/simt/attn_want.h"
#include "tests/simt/hopper.h"

/* ---- index arithmetic ---- */

static void swizzle_is_tma(void **)
{
    for (uint32_t r = 0; r < 64; r++)
        for (uint32_t chunk = 0; chunk < 8; chunk++)
            for (uint32_t b = 0; b < 16; b += 2) {
                uint32_t at = 5 * 1024 + r * 128 + chunk * 16 + b;
                assert_int_equal(hop_swizzle(at), 5 * 1024 + r * 128 + (chunk ^ r % 8) * 16 + b);
                assert_int_equal(hop_swizzle(hop_swizzle(at)), at);
            }
}

static void descriptor_fields(void **)
{
    uint64_t d = hop_desc(0x38c20, 16384, 1024);
    assert_int_equal(d & 0x3fff, 0x38c20 / 16);
    assert_int_equal(d >> 16 & 0x3fff, 16384 / 16);
    assert_int_equal(d >> 32 & 0x3fff, 1024 / 16);
    assert_int_equal(d >> 49 & 7, 0);
    assert_int_equal(d >> 62, 1);
    assert_int_equal(d & ~((uint64_t)0x3fff | (uint64_t)0x3fff << 16 | (uint64_t)0x3fff << 32 | (uint64_t)3 << 62), 0);
}

/* What a descriptor names, by the canonical layouts of the PTX ISA, is where TMA puts the element. */
static void descriptors_find_elements(void **)
{
    for (uint32_t tile = 2048; tile <= 0x20000; tile += 0x1f000 - 1024)
        for (uint32_t rows = 64; rows <= 128; rows += 64)
            for (uint32_t step = 0; step < 10; step++)
                for (uint32_t x = 0; x < rows; x++)
                    for (uint32_t k = 0; k < 16; k++) {
                        uint64_t d = hop_desc_k(tile, rows, x / 64 * 64, step);
                        uint32_t r = x % 64, at = (uint32_t)(d & 0x3fff) * 16 + r % 8 * 128 +
                                                  r / 8 * ((uint32_t)(d >> 32 & 0x3fff) * 16) + 2 * k;
                        assert_int_equal(hop_swizzle(at), hop_swizzle(tile + hop_tile_at(rows, x, step * 16 + k)));
                    }
    for (uint32_t rows = 64; rows <= 128; rows += 64)
        for (uint32_t j = 0; j < rows / 16; j++)
            for (uint32_t from = 0; from < 192; from += 64)
                for (uint32_t n = 0; n + from < 192; n++)
                    for (uint32_t k = 0; k < 16; k++) {
                        uint64_t d = hop_desc_mn(4096, rows, j, from);
                        uint32_t at = (uint32_t)(d & 0x3fff) * 16 + n % 64 * 2 +
                                      n / 64 * ((uint32_t)(d >> 16 & 0x3fff) * 16) + k % 8 * 128 +
                                      k / 8 * ((uint32_t)(d >> 32 & 0x3fff) * 16);
                        assert_int_equal(hop_swizzle(at), hop_swizzle(4096 + hop_tile_at(rows, j * 16 + k, from + n)));
                    }
}

static void fragments(void **)
{
    static int seen[64][256];
    for (int n = 8; n <= 256; n += 8) {
        memset(seen, 0, sizeof seen);
        for (int t = 0; t < 128; t++)
            for (int i = 0; i < n / 2; i++) {
                assert_in_range(hop_acc_row(t, i), t / 32 * 16, t / 32 * 16 + 15); /* warp w has rows 16 w .. */
                assert_true(hop_acc_col(t, i) < n);
                seen[hop_acc_row(t, i)][hop_acc_col(t, i)]++;
            }
        for (int r = 0; r < 64; r++)
            for (int c = 0; c < n; c++) assert_int_equal(seen[r][c], 1);
    }
    memset(seen, 0, sizeof seen);
    for (int t = 0; t < 128; t++)
        for (int r = 0; r < 4; r++)
            for (int h = 0; h < 2; h++) seen[hop_a_row(t, r)][hop_a_col(t, r, h)]++;
    for (int r = 0; r < 64; r++)
        for (int c = 0; c < 16; c++) assert_int_equal(seen[r][c], 1);
    for (int t = 0; t < 128; t++) /* scores become operands in place */
        for (int i = 0; i < 128; i++) {
            assert_int_equal(hop_acc_row(t, i), hop_a_row(t, i / 2 % 4));
            assert_int_equal(hop_acc_col(t, i) - i / 8 * 16, hop_a_col(t, i / 2 % 4, i % 2));
        }
}

static void exponential(void **)
{
    double worst = 0;
    for (double x = 0; x > -125.9; x -= 0.00037) {
        float f = (float)x;
        double e = fabs((double)hop_exp2(f) / exp2((double)f) - 1);
        if (e > worst) worst = e;
    }
    assert_true(worst < 4e-6);
    print_message("2^x by multiply-adds: relative error %.2g\n", worst);
    assert_true(hop_exp2(0) == 1 && hop_exp2(-1) == 0.5f && hop_exp2(-126) == 0x1p-126f);
    assert_true(hop_exp2(-127) == 0 && hop_exp2(-1e30f) == 0 && hop_exp2(-INFINITY) == 0);
    for (float f = -126; f > -127; f -= 0.01f) assert_true(hop_exp2(f) >= 0 && hop_exp2(f) < 0x1p-125f);
}

/* ---- plans ---- */

static cuda_attn_args args_of(int t, int n, int kn, int heads, int d, int tq, int tk, int pad)
{
    cuda_attn_args a = cuda_attn_args();
    a.q = t_random(t_act(t, n, 1, tq, heads * d, pad), 0, 2);
    a.k = t_random(t_act(t, kn, 1, tk, heads * d, 0), 0, 2);
    a.v = t_random(t_act(t, kn, 1, tk, heads * d, 2 * pad), 0, 2);
    a.y = t_act(t, n, 1, tq, heads * d, pad);
    a.heads = heads, a.scale = 1 / sqrtf((float)d);
    return a;
}

static void plans(void **)
{
    const int dims[] = {40, 64, 80, 128, 160};
    for (int d : dims) {
        hop_shape s = hop_shape_of(d);
        assert_int_equal(s.d, d);
        assert_true(hop_smem(d, s.bn, s.stages) <= HOP_SMEM_MOST && s.bn % 16 == 0 && s.stages >= 2);
        cuda_attn_args a = args_of(DL_F16, 1, 1, 2, d, 8, 8, 8);
        assert_non_null(cuda_attn_hopper_variant(&a, true));
        assert_null(cuda_attn_hopper_variant(&a, false)); /* small */
        a.q.w = a.k.w = a.v.w = a.y.w = HOP_PAYS;
        assert_non_null(cuda_attn_hopper_variant(&a, false));
        hop_map m = hop_map_of(&a.v, 2, s.bn);
        assert_true(m.dim[0] == (uint64_t)d && m.dim[1] == 2 && m.dim[2] == HOP_PAYS && m.dim[3] == 1);
        assert_true(m.stride[0] == (uint64_t)d * 2 && m.stride[1] == (uint64_t)a.v.ld * 2 && hop_map_ok(&m));
        cuda_attn_args b = a;
        b.causal = true;
        assert_null(cuda_attn_hopper_variant(&b, true));
        b = a, b.key_mask = (const uint8_t *)a.q.p;
        assert_null(cuda_attn_hopper_variant(&b, true));
        b = a, b.bias = a.q, b.bias.t = DL_F32;
        assert_null(cuda_attn_hopper_variant(&b, true));
        b = a, b.k.ld += 1;
        assert_null(cuda_attn_hopper_variant(&b, true));
        assert_int_equal(cuda_attn_hopper(nullptr, &b, &b, 1), CUDA_K_UNSUPPORTED);
        assert_int_equal(cuda_attn_hopper(nullptr, &a, nullptr, 1), CUDA_K_UNSUPPORTED);
    }
    assert_int_equal(hop_shape_of(72).d, 0);
    cuda_attn_args a = args_of(DL_BF16, 1, 1, 1, 72, 8, 8, 0);
    assert_null(cuda_attn_hopper_variant(&a, true));
}

/* ---- the attention kernel ---- */

enum { ROWS = 1, SHARED = 2, JOINT = 4 };

struct hop_case {
    const char *name;
    int t, n, heads, d, tq, tk, parts, sms;
};

static const hop_case cases[] = {
    {"d64 one tile, less than a tile", DL_F16, 1, 1, 64, 70, 33, 0, 4},
    {"d64 one query one key", DL_F16, 1, 1, 64, 1, 1, 0, 1},
    {"d64 full tiles", DL_F16, 1, 1, 64, 128, 256, 0, 1},
    {"d64 more stages than keys, odd", DL_F16, 2, 1, 64, 200, 700, 0, 1},
    {"d64 bf16, one block takes all", DL_BF16, 2, 2, 64, 150, 300, 0, 1},
    {"d64 three blocks", DL_BF16, 2, 2, 64, 130, 77, 0, 3},
    {"d40 odd", DL_F16, 1, 3, 40, 150, 150, 0, 2},
    {"d40 bf16, k q v of one matrix", DL_BF16, 2, 2, 40, 260, 260, JOINT, 2},
    {"d40 kv_row", DL_F16, 3, 2, 40, 20, 77, ROWS, 1},
    {"d40 shared row", DL_F16, 2, 1, 40, 130, 140, SHARED, 2},
    {"d80", DL_F16, 1, 2, 80, 130, 390, 0, 1},
    {"d80 bf16, joint", DL_BF16, 1, 2, 80, 64, 64, JOINT, 1},
    {"d128", DL_F16, 1, 2, 128, 130, 520, 0, 1},
    {"d128 bf16, joint, two rows", DL_BF16, 2, 1, 128, 190, 190, JOINT, 2},
    {"d160", DL_F16, 2, 1, 160, 64, 64, 0, 1},
    {"d160 bf16 cross", DL_BF16, 1, 2, 160, 150, 333, 0, 1},
};

static void one(const hop_case &k)
{
    int c = k.heads * k.d, kn = k.parts & SHARED ? 1 : k.parts & ROWS ? 2 : k.n;
    cuda_attn_args a;
    if (k.parts & JOINT) {
        a = cuda_attn_args();
        dl_act all = t_random(t_act(k.t, k.n, 1, k.tq, 3 * c, 0), 0, 2);
        a.q = dl_act_cols(all, 0, c), a.k = dl_act_cols(all, c, c), a.v = dl_act_cols(all, 2 * c, c);
        a.y = t_act(k.t, k.n, 1, k.tq, c, 0);
        a.heads = k.heads, a.scale = 1 / sqrtf((float)k.d);
    } else {
        a = args_of(k.t, k.n, kn, k.heads, k.d, k.tq, k.tk, 8);
    }
    std::vector<int32_t> rows;
    for (int i = 0; i < k.n; i++) rows.push_back(kn == 1 ? 0 : k.parts & ROWS ? (i + 1) % 2 : i);
    if (k.parts & ROWS) a.kv_row = t_ints(rows);
    std::vector<val> want;
    for (int i = 0; i < k.n; i++)
        for (int q = 0; q < k.tq; q++)
            for (int h = 0; h < k.heads; h++) want_row(a, i, rows[(size_t)i], h, q, &want);
    t_ran(k.name, cuda_attn_hopper(nullptr, &a, &a, k.sms));
    t_compare(k.name, cuda_attn_hopper_variant(&a, true), a.y, want);
}

static void attentions(void **)
{
    simt_cc = 90;
    for (int order = 0; order < 2; order++) /* of threads, copies and products: drawn anew */
        for (const hop_case &k : cases) {
            one(k);
            simt_free_all();
        }
    simt_cc = 80;
}

/* ---- the emulation itself finds faults ---- */

enum { FINE, EARLY_READ, EARLY_FREE, NO_FENCE, NO_INIT_FENCE, DEADLOCK, LEFT, EARLY_SUM, OUTSIDE, TOO_MANY };

struct faulty {
    int what;
    float *out;
};

/* One warpgroup: a tile of 64 tokens x 64 channels by TMA, its product with itself, sums to out [128][32]. */
__global__ void small_kernel(faulty f, DL_MAP_PARAM map)
{
    uint32_t tile = dl_smem_1024(), bar = tile + 64 * 128;
    float d[32];
    if (threadIdx.x == 0) {
        dl_mbar_init(bar, 1);
        if (f.what != NO_INIT_FENCE) dl_mbar_init_fence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        if (f.what != DEADLOCK) dl_mbar_expect(bar, 64 * 128);
        dl_tma_load(f.what == OUTSIDE ? tile + 1024 : tile, &map, bar, 0, 0, 0, 0);
        if (f.what == TOO_MANY) dl_mbar_expect(bar, 0);
    }
    if (f.what != EARLY_READ) dl_mbar_wait(bar, 0);
    if (f.what != NO_FENCE) dl_wgmma_fence();
    for (uint32_t c = 0; c < 4; c++)
        dl_wgmma_ss<dl_half, 64>(d, hop_desc_k(tile, 64, 0, c), hop_desc_k(tile, 64, 0, c), c > 0);
    dl_wgmma_commit();
    if (f.what == EARLY_FREE) {
        __syncthreads();
        if (threadIdx.x == 0) dl_mbar_expect(bar, 64 * 128), dl_tma_load(tile, &map, bar, 0, 0, 0, 0);
        __syncthreads();
    }
    if (f.what == EARLY_SUM)
        for (int i = 0; i < 32; i++) dl_st(f.out + threadIdx.x * 32 + i, d[i]);
    if (f.what == LEFT) dl_bar_arrive(3, 256);
    dl_wgmma_wait<0>();
    if (f.what == EARLY_FREE) dl_mbar_wait(bar, 1);
    if (f.what != EARLY_SUM)
        for (int i = 0; i < 32; i++) dl_st(f.out + threadIdx.x * 32 + i, d[i]);
}

static void emulation_finds(void **)
{
    static const struct {
        int what;
        const char *says;
    } faults[] = {{FINE, ""},
                  {EARLY_READ, "wgmma reads shared byte"},
                  {EARLY_FREE, "wgmma reads shared byte"},
                  {NO_FENCE, "without wgmma.fence"},
                  {NO_INIT_FENCE, "not fenced"},
                  {DEADLOCK, "an mbarrier's phase, which will not come"},
                  {LEFT, "arrivals are left at barrier 3"},
                  {EARLY_SUM, ""},
                  {OUTSIDE, "outside shared memory"},
                  {TOO_MANY, "more than 1 arrivals"}};
    simt_cc = 90;
    for (const auto &k : faults) {
        dl_act x = t_random(t_act(DL_F16, 1, 1, 64, 64, 0), 0, 1);
        hop_map m = hop_map_of(&x, 1, 64);
        dl_tensor_map map;
        assert_int_equal(dl_tensor_map_make(&m, &map, &m), 0);
        faulty f = {k.what, (float *)simt_alloc(128 * 32 * 4)};
        int rc = DL_LAUNCH(small_kernel, dim3(1), 128, 64 * 128 + 1024 + 16, nullptr, f, map);
        if (!*k.says && (rc || simt_report()[0])) fail_msg("fault %d: %s", k.what, simt_report());
        if (*k.says && (!rc || !strstr(simt_report(), k.says))) fail_msg("fault %d: %s", k.what, simt_report());
        for (int t = 0; !*k.says && t < 128; t++)
            for (int i = 0; i < 32; i++) {
                double sum = 0, got = (double)f.out[t * 32 + i];
                for (int c = 0; c < 64; c++) sum += t_at(x, 0, hop_acc_row(t, i), c) * t_at(x, 0, hop_acc_col(t, i), c);
                if (k.what == EARLY_SUM)
                    assert_true(isnan(got));
                else
                    assert_true(fabs(got - sum) < 1e-5);
            }
        simt_free_all();
    }
    simt_cc = 80;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(swizzle_is_tma),
        cmocka_unit_test(descriptor_fields),
        cmocka_unit_test(descriptors_find_elements),
        cmocka_unit_test(fragments),
        cmocka_unit_test(exponential),
        cmocka_unit_test_teardown(plans, t_clear),
        cmocka_unit_test_teardown(emulation_finds, t_clear),
        cmocka_unit_test_teardown(attentions, t_clear),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
