/* Noise against torch's own draws (CPU generator, bit by bit) and against the definition (CUDA generator). The data
 * file is written by tools/ref/rng.py. */
#include "engine/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static uint64_t fnv(const float *x, int64_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < n; i++)
        for (int b = 0; b < 32; b += 8) h = (h ^ ((bits_of(x[i]) >> b) & 0xff)) * 0x100000001b3u;
    return h;
}

static enum dl_type type_of(const char *name)
{
    return strcmp(name, "f32") == 0 ? DL_F32 : strcmp(name, "f16") == 0 ? DL_F16 : DL_BF16;
}

static void cpu_equals_torch(void **state)
{
    (void)state;
    FILE *f = fopen(DLENS_SOURCE_DIR "/tests/unit/data/rng_cpu.txt", "r");
    assert_non_null(f);
    struct dl_rng r;
    char line[1024], name[8], where[64];
    int draws = 0;
    while (fgets(line, sizeof line, f)) {
        unsigned long long seed, hash;
        long n;
        int used = 0;
        if (line[0] == '#') continue;
        if (sscanf(line, "seed %llu", &seed) == 1) {
            rng_seed(&r, RNG_TORCH_CPU, seed, 0, 0);
            continue;
        }
        assert_int_equal(sscanf(line, "draw %ld %7s %llx%n", &n, name, &hash, &used), 3);
        float *x = malloc((size_t)n * sizeof *x);
        assert_non_null(x);
        rng_normal(&r, x, n, type_of(name));
        const char *p = line + used;
        for (long i = 0; i < (n <= 32 ? n : 32); i++) {
            long at = n <= 32 || i < 16 ? i : n - 32 + i;
            char *end;
            uint32_t want = (uint32_t)strtoul(p, &end, 16);
            assert_true(end > p);
            p = end;
            snprintf(where, sizeof where, "seed %llu, %ld %s, element %ld", seed, n, name, at);
            if (bits_of(x[at]) != want) print_message("%s: %08x, torch has %08x\n", where, bits_of(x[at]), want);
            assert_int_equal(bits_of(x[at]), want);
        }
        if (fnv(x, n) != hash) print_message("seed %llu, %ld %s: some element differs\n", seed, n, name);
        assert_true(fnv(x, n) == hash);
        free(x);
        draws++;
    }
    fclose(f);
    assert_true(draws > 30);
}

static void philox_known_answers(void **state)
{
    (void)state;
    const uint32_t zero[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    const uint32_t want0[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    const uint32_t want1[4] = {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu};
    uint32_t out[4];
    rng_philox(out, zero, zero);
    assert_memory_equal(out, want0, sizeof out);
    rng_philox(out, ones, ones);
    assert_memory_equal(out, want1, sizeof out);
}

/* What torch printed on a GPU for torch.randn(12, device="cuda") and a second draw, seed 0. */
static void cuda_published_draws(void **state)
{
    (void)state;
    static const float first[12] = {-0.9247f, -0.4253f, -2.6438f, 0.1452f,  -0.1209f, -0.5797f,
                                    -0.6229f, -0.3284f, -1.0745f, -0.3631f, -1.6711f, 2.2655f};
    static const float second[4] = {0.1808f, -0.5523f, 0.9238f, -0.7350f};
    struct dl_rng r;
    float x[12];
    rng_seed(&r, RNG_TORCH_CUDA, 0, 0, 0);
    rng_normal(&r, x, 12, DL_F32);
    for (int i = 0; i < 12; i++) assert_true(fabsf(x[i] - first[i]) < 5.1e-5f);
    rng_normal(&r, x, 4, DL_F32);
    for (int i = 0; i < 4; i++) assert_true(fabsf(x[i] - second[i]) < 5.1e-5f);
    assert_int_equal(r.offset, 8);
}

/* Element e of call number `offset / 4` + turn, from the definition, in double. */
static double cuda_element(uint64_t seed, uint64_t offset, int64_t e, int64_t threads, double *s)
{
    int64_t turn = e / (4 * threads), lane = e % (4 * threads) / threads, i = e % threads;
    uint64_t count = offset / 4 + (uint64_t)turn;
    const uint32_t ctr[4] = {(uint32_t)count, (uint32_t)(count >> 32), (uint32_t)i, 0};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t w[4];
    rng_philox(w, ctr, key);
    const float unit = 2.3283064e-10f, turn_of = 2.3283064e-10f * 6.2831855f;
    double u = fmaf((float)w[lane & 2], unit, unit / 2), v = fmaf((float)w[(lane & 2) + 1], turn_of, turn_of / 2);
    *s = sqrt(-2 * log(u));
    return *s * ((lane & 1) ? cos(v) : sin(v));
}

static void cuda_layout_and_bound(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed;
        int sms, per_sm;
        int64_t n, threads, advance;
    } cases[] = {
        {17, 0, 0, 16384, 16384, 4},         /* SD on any card: lane 0 alone */
        {17, 132, 2048, 262144, 262144, 4},  /* FLUX on an H100 */
        {17, 128, 1536, 262144, 196608, 4},  /* FLUX on an RTX 4090: the cosines begin at 196,608 */
        {17, 40, 1024, 65536, 40960, 4},     /* SDXL on a T4 */
        {~0ull, 1, 2048, 20000, 2048, 12},   /* three turns */
        {1ull << 63, 2, 512, 1000, 1024, 4}, /* a block that is not full */
        {0, 1, 256, 1025, 256, 8},
    };
    double worst = 0;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct dl_rng r;
        int64_t n = cases[c].n;
        float *x = malloc((size_t)n * sizeof *x);
        assert_non_null(x);
        rng_seed(&r, RNG_TORCH_CUDA, cases[c].seed, cases[c].sms, cases[c].per_sm);
        for (int call = 0; call < 2; call++) {
            uint64_t offset = r.offset;
            for (int64_t i = 0; i < n; i++) x[i] = NAN;
            rng_normal(&r, x, n, DL_F32);
            assert_int_equal(r.offset - offset, cases[c].advance);
            for (int64_t i = 0; i < n; i++) {
                double s, want = cuda_element(cases[c].seed, offset, i, cases[c].threads, &s);
                double d = fabs(x[i] - want) / (RNG_CUDA_BOUND * (1 + s));
                if (!(d <= 1)) print_message("case %zu call %d element %lld\n", c, call, (long long)i);
                assert_true(d <= 1);
                if (d > worst) worst = d;
            }
        }
        free(x);
    }
    print_message("CUDA normals: %.0f %% of the stated bound\n", 100 * worst);
}

static void halves_are_rounded_draws(void **state)
{
    (void)state;
    enum { N = 1000 };
    float a[N], b[N];
    struct dl_rng r;
    for (int t = DL_F16; t <= DL_BF16; t++) {
        rng_seed(&r, RNG_TORCH_CUDA, 5, 0, 0);
        rng_normal(&r, a, N, DL_F32);
        rng_seed(&r, RNG_TORCH_CUDA, 5, 0, 0);
        rng_normal(&r, b, N, (enum dl_type)t);
        int changed = 0;
        for (int i = 0; i < N; i++) {
            float want = t == DL_F16 ? dl_f16_to(dl_f16_of(a[i])) : dl_bf16_to(dl_bf16_of(a[i]));
            assert_int_equal(bits_of(b[i]), bits_of(want));
            changed += bits_of(a[i]) != bits_of(want);
        }
        assert_true(changed > N / 2);
    }
}

static void empty_draw_keeps_the_state(void **state)
{
    (void)state;
    for (int kind = RNG_TORCH_CPU; kind <= RNG_TORCH_CUDA; kind++) {
        struct dl_rng r, before;
        rng_seed(&r, (enum rng_kind)kind, 9, 0, 0);
        before = r;
        rng_normal(&r, NULL, 0, DL_F32);
        assert_memory_equal(&r, &before, sizeof r);
    }
}

/* Blocks of 16 stand alone: a long draw begins like a short one, so a noise tensor's first row is the one-row tensor.
 */
static void long_draws_begin_like_short_ones(void **state)
{
    (void)state;
    float a[64], b[32];
    struct dl_rng r;
    rng_seed(&r, RNG_TORCH_CPU, 3, 0, 0);
    rng_normal(&r, a, 64, DL_F32);
    rng_seed(&r, RNG_TORCH_CPU, 3, 0, 0);
    rng_normal(&r, b, 32, DL_F32);
    assert_memory_equal(a, b, sizeof b);
    rng_normal(&r, b, 32, DL_F32);
    assert_memory_equal(a + 32, b, sizeof b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_equals_torch),
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(cuda_published_draws),
        cmocka_unit_test(cuda_layout_and_bound),
        cmocka_unit_test(halves_are_rounded_draws),
        cmocka_unit_test(empty_draw_keeps_the_state),
        cmocka_unit_test(long_draws_begin_like_short_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
