/* The shim itself: kernels that are right pass, and each kind of mistake is caught and named. */
#include "tests/simt/check.h"

#include "kernels/cuda/dev/reduce.cuh"

/* Reverses 64 floats through shared memory; without the barrier it is a race. */
__global__ void reverse(const float *x, float *y, bool sync)
{
    DL_SHARED(float, s, 64);
    int i = (int)threadIdx.x;
    s[i] = dl_ld(x + blockIdx.x * 64 + i);
    if (sync) __syncthreads();
    dl_st(y + blockIdx.x * 64 + i, (float)s[63 - i]);
}

static void expect(int result, const char *word)
{
    if (!word) {
        if (result || simt_report()[0]) fail_msg("unexpected: %s", simt_report());
        return;
    }
    if (!result || !strstr(simt_report(), word)) fail_msg("wanted \"%s\", got \"%s\"", word, simt_report());
    print_message("caught: %s\n", simt_report());
}

static void right_and_race(void **)
{
    float *x = (float *)simt_alloc(128 * 4), *y = (float *)simt_alloc(128 * 4);
    for (int i = 0; i < 128; i++) x[i] = (float)i;
    for (int seed = 0; seed < 5; seed++) {
        simt_seed = (uint64_t)seed;
        expect(DL_LAUNCH(reverse, 2, 64, 0, nullptr, x, y, true), nullptr);
        for (int i = 0; i < 128; i++) assert_true(y[i] == x[i / 64 * 64 + 63 - i % 64]);
        int e = DL_LAUNCH(reverse, 2, 64, 0, nullptr, x, y, false);
        if (!e || (!strstr(simt_report(), "race") && !strstr(simt_report(), "nobody wrote")))
            fail_msg("a race was missed: %s", simt_report());
    }
    print_message("caught: %s\n", simt_report());
}

/* mode 0: two warps write the same word; 1: a word is read, then overwritten by another; 2: within a warp, __syncwarp
 * between; 3: the same without. */
__global__ void races(float *y, int mode)
{
    DL_SHARED(float, s, 64);
    int i = (int)threadIdx.x;
    s[i] = (float)i;
    __syncthreads();
    if (mode == 0) s[i % 32] = 1;
    if (mode == 1) {
        float v = s[(i + 32) % 64];
        s[i] = v;
    }
    if (mode >= 2) {
        float v = s[i ^ 1];
        if (mode == 2) __syncwarp();
        s[i] = v;
    }
    __syncthreads();
    dl_st(y + i, (float)s[i]);
}

static void more_races(void **)
{
    float *y = (float *)simt_alloc(64 * 4);
    for (int seed = 0; seed < 3; seed++) {
        simt_seed = (uint64_t)seed;
        expect(DL_LAUNCH(races, 1, 64, 0, nullptr, y, 0), "race: writes");
        expect(DL_LAUNCH(races, 1, 64, 0, nullptr, y, 1), "race");
        expect(DL_LAUNCH(races, 1, 64, 0, nullptr, y, 2), nullptr);
        expect(DL_LAUNCH(races, 1, 64, 0, nullptr, y, 3), "race");
    }
}

__global__ void touches(float *p, int mode)
{
    DL_DYN_SHARED(float, s);
    DL_SHARED(float, other, 32);
    int i = (int)threadIdx.x;
    s[i] = 0;
    other[i] = 0;
    if (mode == 0 && i == 31) s[i + 1] = 1;                      /* beyond the array in the last thread */
    if (mode == 1 && i == 0) other[i - 1] = 1;                   /* before it in the first */
    if (mode == 2) dl_st(p + i + 1, 0.f);                        /* global, checked */
    if (mode == 3) p[i + 8] = 0;                                 /* global, into the page behind */
    if (mode == 4) p[-1 - i] = 0;                                /* global, the bytes before */
    if (mode == 5) (void)dl_ld(reinterpret_cast<float4 *>(p + 1)); /* unaligned vectors */
    if (mode == 6) *dl_scast<float2>(s + 1) = make_float2(0, 0);
    if (mode == 7) {
        volatile float *far = reinterpret_cast<float *>((uintptr_t)(64 + 4 * i));
        (void)*far;
    }
    if (mode == 8) p[i] = 0;
}

static void out_of_bounds(void **)
{
    float *p = (float *)simt_alloc(32 * 4);
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 8), nullptr);
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 0), "outside its array");
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 1), "outside its array");
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 2), "of a global buffer");
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 3), "touches address");
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 5), "unaligned");
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 6), "unaligned");
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 7), "touches address");
    expect(DL_LAUNCH(touches, 1, 32, (100 << 10), nullptr, p, 8), "is the limit");
    expect(DL_LAUNCH(touches, 1, 32, (99 << 10), nullptr, p, 8), "is the limit"); /* with `other` */
    expect(DL_LAUNCH(touches, 1, 32, 128, nullptr, p, 4), "was written");
}

__global__ void barriers(int mode)
{
    int i = (int)threadIdx.x;
    if (mode == 0 && i < 32) __syncthreads(); /* the others end */
    if (mode == 1) {
        if (i < 32) {
            __syncthreads();
        } else {
            __syncthreads();
        }
    }
    if (mode == 2 && i % 2) (void)dl_any(true);
    if (mode == 3) {
        float v = i % 2 ? dl_shfl(1.f, 0) : dl_shfl_xor(1.f, 1);
        (void)v;
    }
}

static void divergence(void **)
{
    expect(DL_LAUNCH(barriers, 1, 64, 0, nullptr, 0), "divergent barrier");
    expect(DL_LAUNCH(barriers, 1, 64, 0, nullptr, 1), "divergent barrier");
    expect(DL_LAUNCH(barriers, 1, 64, 0, nullptr, 2), "divergent warp");
    expect(DL_LAUNCH(barriers, 1, 64, 0, nullptr, 3), "divergent warp");
    expect(DL_LAUNCH(barriers, 1, 48, 0, nullptr, 3), "a launch of");
}

/* mode 0: right; 1: no wait; 2: wait, but no barrier before another thread's part is read; 3: waits for one group too
 * few; 4: overwrites the destination while the copy is under way. */
__global__ void copies(const float *x, float *y, int mode)
{
    DL_SHARED(float, s, 256);
    int i = (int)threadIdx.x;
    dl_cp_async16(s + i * 4, x + i * 4, true);
    dl_cp_commit();
    if (mode == 3) dl_cp_wait<1>();
    else if (mode != 1 && mode != 4) dl_cp_wait<0>();
    if (mode == 4) s[i * 4] = 0;
    if (mode != 2) __syncthreads();
    for (int k = 0; k < 4; k++) dl_st(y + i * 4 + k, (float)s[((i + 32) % 64) * 4 + k]);
}

static void async_copies(void **)
{
    float *x = (float *)simt_alloc(256 * 4), *y = (float *)simt_alloc(256 * 4);
    for (int i = 0; i < 256; i++) x[i] = (float)i;
    expect(DL_LAUNCH(copies, 1, 64, 0, nullptr, x, y, 0), nullptr);
    for (int i = 0; i < 256; i++) assert_true(y[i] == x[(i + 128) % 256]);
    expect(DL_LAUNCH(copies, 1, 64, 0, nullptr, x, y, 1), "no wait stands between");
    int e = DL_LAUNCH(copies, 1, 64, 0, nullptr, x, y, 2);
    if (!e || (!strstr(simt_report(), "race") && !strstr(simt_report(), "no wait") &&
               !strstr(simt_report(), "nobody wrote")))
        fail_msg("missed: %s", simt_report());
    expect(DL_LAUNCH(copies, 1, 64, 0, nullptr, x, y, 3), "no wait stands between");
    expect(DL_LAUNCH(copies, 1, 64, 0, nullptr, x, y, 4), "no wait stands between");
}

/* Shuffles, votes and sums: what each lane gets. */
__global__ void warps(float *y)
{
    DL_SHARED(float, tmp, 4);
    int i = (int)threadIdx.x, l = i % 32;
    float v = (float)i, block = k_block_sum<4>(v, tmp);
    dl_st(y + i * 6, dl_shfl_xor(v, 5));
    dl_st(y + i * 6 + 1, dl_shfl_down(v, 3));
    dl_st(y + i * 6 + 2, dl_shfl(v, (l + 7) % 32));
    dl_st(y + i * 6 + 3, (float)(dl_ballot(l % 3 == 0) & 0xffff));
    dl_st(y + i * 6 + 4, block);
    dl_st(y + i * 6 + 5, dl_any(l == 4) && !dl_all(l == 4) ? 1.f : 0.f);
}

static void warp_wide(void **)
{
    float *y = (float *)simt_alloc(128 * 6 * 4);
    expect(DL_LAUNCH(warps, 1, 128, 0, nullptr, y), nullptr);
    for (int i = 0; i < 128; i++) {
        int l = i % 32, w = i - l;
        assert_true(y[i * 6] == (float)(w + (l ^ 5)));
        assert_true(y[i * 6 + 1] == (float)(l + 3 < 32 ? i + 3 : i));
        assert_true(y[i * 6 + 2] == (float)(w + (l + 7) % 32));
        assert_true(y[i * 6 + 3] == (float)0x9249);
        assert_true(y[i * 6 + 4] == 127 * 128 / 2);
        assert_true(y[i * 6 + 5] == 1);
    }
}

/* d = a b^T for a [16][16], b [8][16] by ldmatrix and mma; with trans b is stored [16][8 of 16]. */
template <class T> __global__ void products(const T *a, const T *b, float *d, bool trans)
{
    DL_SHARED(T, sa, 16 * 16);
    DL_SHARED(T, sb, 16 * 16);
    int l = (int)threadIdx.x;
    for (int i = l; i < 256; i += 32) {
        sa[i] = dl_ld(a + i);
        sb[i] = dl_ld(b + i);
    }
    __syncthreads();
    uint32_t fa[4], fb[4];
    float c[4] = {0, 0, 0, 0}, e[4] = {0, 0, 0, 0};
    dl_ldmatrix4(fa, sa + (l % 16 * 16 + l / 16 * 8));
    if (trans) dl_ldmatrix4_t(fb, sb + (l % 16 * 16 + l / 16 * 8));
    else dl_ldmatrix4(fb, sb + ((l / 16 * 8 + l % 8) * 16 + l / 8 % 2 * 8));
    dl_mma<T>(c, fa, fb[0], fb[1]);
    dl_mma<T>(e, fa, fb[2], fb[3]);
    for (int k = 0; k < 4; k++) {
        dl_st(d + (l / 4 + k / 2 * 8) * 16 + l % 4 * 2 + k % 2, c[k]);
        dl_st(d + (l / 4 + k / 2 * 8) * 16 + 8 + l % 4 * 2 + k % 2, e[k]);
    }
}

template <class T> static void product_case(bool trans)
{
    T *a = (T *)simt_alloc(512), *b = (T *)simt_alloc(512);
    float *d = (float *)simt_alloc(1024);
    for (int i = 0; i < 256; i++) dl_of_f32(a[i], (float)t_rnd()), dl_of_f32(b[i], (float)t_rnd());
    expect(DL_LAUNCH(products<T>, 1, 32, 0, nullptr, a, b, d, trans), nullptr);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            double sum = 0;
            for (int k = 0; k < 16; k++)
                sum += (double)dl_to_f32(a[m * 16 + k]) * (double)dl_to_f32(trans ? b[k * 16 + n] : b[n * 16 + k]);
            assert_true(fabs(sum - (double)d[m * 16 + n]) <= 1e-6 * (1 + fabs(sum)));
        }
}

static void matrix_products(void **)
{
    product_case<dl_half>(false);
    product_case<dl_half>(true);
    product_case<dl_bf16>(false);
    product_case<dl_bf16>(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(right_and_race, t_clear), cmocka_unit_test_teardown(more_races, t_clear),
        cmocka_unit_test_teardown(out_of_bounds, t_clear),  cmocka_unit_test_teardown(divergence, t_clear),
        cmocka_unit_test_teardown(async_copies, t_clear),   cmocka_unit_test_teardown(warp_wide, t_clear),
        cmocka_unit_test_teardown(matrix_products, t_clear),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
