/* Noise that the device draws against the host's: the same generator, numbers but for the GPU's fast functions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "tests/cuda/rig_cuda.h"

#include <math.h>
#include <string.h>

static const struct dl_backend *be;
static struct dl_ctx *ctx;

static int setup(void **state)
{
    (void)state;
    rig_cuda_open(&be, &ctx);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    be->close(ctx);
    return 0;
}

/* __sincosf is 2^-21.4 off up to pi and more beyond, for a radius of at most 6.7 (engine/rng.h). */
static const double slack = 2e-5;

static void as_the_host(void **state)
{
    (void)state;
    static const struct {
        int h, w, c, sms, type;
        uint64_t seed;
    } cases[] = {
        {64, 64, 4, 0, DL_F32, 17},
        {64, 64, 3, 0, DL_F16, 0x123456789abcdefu},
        {31, 17, 3, 2, DL_BF16, 5}, /* more than a turn a thread */
        {256, 256, 3, 0, DL_F32, UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t pixels = (int64_t)cases[i].h * cases[i].w, n = pixels * cases[i].c;
        dl_act y = dl_act_at(rig_cuda_mem(n * 4), DL_F32, 1, cases[i].h, cases[i].w, cases[i].c);
        float *want = malloc((size_t)n * 4), *got = y.p;
        struct dl_rng host, device;
        struct dl_err e = {0};
        double worst = 0, step = cases[i].type == DL_F32 ? 0 : cases[i].type == DL_F16 ? 0x1p-10 : 0x1p-7;
        assert_non_null(want);
        rng_seed(&host, RNG_TORCH_CUDA, cases[i].seed, cases[i].sms, 0);
        device = host;
        for (int draw = 0; draw < 2; draw++) { /* the second goes on where the first ended */
            rng_normal(&host, want, n, (enum dl_type)cases[i].type);
            memset(got, 0xff, (size_t)n * 4);
            assert_int_equal(be->noise(ctx, &device, y, cases[i].type, &e), 0);
            assert_int_equal(be->sync(ctx, &e), 0);
            assert_true(device.offset == host.offset);
            for (int64_t c = 0; c < cases[i].c; c++)
                for (int64_t p = 0; p < pixels; p++) {
                    double w = (double)want[c * pixels + p], d = fabs((double)got[p * cases[i].c + c] - w);
                    if (!(d <= slack + step * fabs(w))) fail_msg("channel %d pixel %d: %g off", (int)c, (int)p, d);
                    if (d > worst) worst = d;
                }
        }
        print_message("%d x %d x %d %s: at most %.2g from the host's\n", cases[i].h, cases[i].w, cases[i].c,
                      dl_type_name(cases[i].type), worst);
        free(want);
        rig_cuda_clear();
    }
}

static void left_to_the_host(void **state)
{
    (void)state;
    struct dl_rng r, before;
    struct dl_err e = {0};
    dl_act y = dl_act_at(rig_cuda_mem(4096), DL_F32, 1, 8, 8, 4);
    rng_seed(&r, RNG_TORCH_CPU, 17, 0, 0);
    memcpy(&before, &r, sizeof r);
    assert_int_equal(be->noise(ctx, &r, y, DL_F32, &e), 1);
    assert_memory_equal(&r, &before, sizeof r);
    rig_cuda_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_the_host), cmocka_unit_test(left_to_the_host)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
