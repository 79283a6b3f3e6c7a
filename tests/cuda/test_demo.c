/* The demo model whole: encoders, denoiser and decoder on the GPU against the CPU in f32, in every type; the GPU's
 * recorded steps against its eager ones, byte for byte. DLENS_TEST_TINY=1: one image of three steps in f16, for the
 * emulator, which takes half an hour for all of it. */
#include "kernels/cpu/cpu.h"
#include "pipelines/pipe.h"

#include <math.h>
#include <string.h>

#include "tests/cuda/rig_cuda.h"

enum { IMAGES = 3, EVALUATIONS = 8, TINY_EVALUATIONS = 3 };

static int images = IMAGES, evaluations = EVALUATIONS;

struct device {
    const struct dl_backend *be;
    struct dl_ctx *ctx;
};

struct result {
    float *latent; /* [images][count] */
    uint8_t *rgb;  /* of the first image */
    float *hidden; /* the text's states */
    int64_t count, pixels, states;
};

static void no_tap(void *user, struct dl_run *r, const char *name, dl_act a)
{
    (void)user, (void)r, (void)name, (void)a;
}

static void must(int rc, const struct dl_err *e)
{
    if (rc < 0) fail_msg("%s", e->msg);
}

/* The last layers of one prompt. eager: taps are on, so nothing is recorded. */
static struct result make(struct device d, int type, bool eager)
{
    struct dl_err e = {0};
    struct pipe *p;
    struct pipe_opts o = {.be = d.be, .ctx = d.ctx};
    struct text_states st[PIPE_ENCODERS] = {0}, none[PIPE_ENCODERS] = {0};
    struct pipe_cond cond[IMAGES + 1] = {0};
    struct pipe_image im[IMAGES];
    struct pipe_plan plan;
    struct result r = {0};
    must(pipe_open(&p, DLENS_SOURCE_DIR "/tools/demo_model/model", &o, &e), &e);
    if (eager) p->tap = no_tap;
    must(pipe_encode(p, "a red circle", NULL, st, &e), &e);
    must(pipe_encode(p, "", NULL, none, &e), &e);
    r.states = (int64_t)(st[0].blocks + 1) * st[0].tokens * st[0].width;
    r.hidden = malloc((size_t)r.states * 4);
    assert_non_null(r.hidden);
    memcpy(r.hidden, st[0].hidden, (size_t)r.states * 4);
    const struct pipe_lens lens = {.norm = true};
    for (int i = 0; i < images; i++)
        must(pipe_condition(p, st, &lens, st[0].blocks - images + 1 + i, &cond[i], &e), &e);
    must(pipe_condition(p, none, NULL, 0, &cond[images], &e), &e);
    pipe_drop_text(p);
    struct pipe_gen g = {.width = p->def.width,
                         .height = p->def.height,
                         .steps = evaluations,
                         .guidance = 5,
                         .scheduler = SCHED_FILE,
                         .type = type,
                         .batch = images,
                         .images = images,
                         .conds = images + 1,
                         .vae_tile = 0,
                         .vae_type = -1};
    must(pipe_plan(p, &g, &plan, &e), &e);
    must(pipe_load(p, &e), &e);
    must(pipe_conditions(p, cond, images + 1, &e), &e);
    r.count = pipe_latent_count(p, g.width, g.height), r.pixels = (int64_t)g.width * g.height * 3;
    r.latent = malloc((size_t)(r.count * images) * 4), r.rgb = malloc((size_t)r.pixels);
    assert_true(r.latent && r.rgb);
    for (int turn = 0; turn < 2;
         turn++) { /* the second batch has the same row maps: recorded from its second step on */
        uint64_t s = 5;
        for (int64_t j = 0; j < r.count; j++) {
            float v = 0;
            for (int k = 0; k < 12; k++)
                s = s * 6364136223846793005u + 1442695040888963407u, v += (float)(s >> 40) * 0x1p-24f;
            for (int i = 0; i < images; i++) r.latent[i * r.count + j] = v - 6; /* near enough to a normal */
        }
        for (int i = 0; i < images; i++)
            im[i] = (struct pipe_image){.cond = i, .negative = images, .noise = 0, .latent = r.latent + i * r.count};
        must(pipe_denoise(p, im, images, NULL, &e), &e);
    }
    must(pipe_decode(p, r.latent, r.rgb, NULL, &e), &e);
    for (int i = 0; i <= images; i++) pipe_cond_close(&cond[i]);
    text_states_close(st);
    text_states_close(none);
    pipe_close(p);
    return r;
}

static void result_close(struct result *r) { free(r->latent), free(r->rgb), free(r->hidden); }

/* |a - b| / |b|; NaN stays NaN. */
static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) d += pow((double)a[i] - (double)b[i], 2), s += pow((double)b[i], 2);
    return sqrt(d / s);
}

static struct device cpu, gpu;

static int open_both(void **state)
{
    (void)state;
    struct dl_err e = {0};
    if (getenv("DLENS_TEST_TINY")) images = 1, evaluations = TINY_EVALUATIONS;
    rig_cuda_open(&gpu.be, &gpu.ctx);
    return cpu_open(&cpu.be, &cpu.ctx, NULL, &e);
}

static int close_both(void **state)
{
    (void)state;
    gpu.be->close(gpu.ctx);
    cpu.be->close(cpu.ctx);
    return 0;
}

/* Bounds are loose: what halves may do over 8 guided steps; how well kernels keep to their budgets is their own tests'
 * business. */
static void gpu_is_cpu(void **state)
{
    (void)state;
    const struct {
        int type;
        double latent, colour; /* relative; mean difference of 255 */
    } cases[] = {{DL_F32, 2e-3, 0.5}, {DL_F16, 5e-2, 3}, {DL_BF16, 2e-1, 8}};
    struct result want = make(cpu, DL_F32, false);
    for (int i = 0; i < 3; i++) {
        if (images == 1 && cases[i].type != DL_F16) continue;
        struct result got = make(gpu, cases[i].type, false), eager = make(gpu, cases[i].type, true);
        double text = distance(got.hidden, want.hidden, want.states),
               latent = distance(got.latent, want.latent, images * want.count), colour = 0;
        for (int64_t j = 0; j < want.pixels; j++)
            colour += fabs((double)got.rgb[j] - (double)want.rgb[j]) / (double)want.pixels;
        print_message("%-4s text %.2e, latents %.2e, colours %.2f of 255 off the CPU's f32\n",
                      dl_type_name(cases[i].type), text, latent, colour);
        assert_true(text < 1e-4);
        assert_true(latent < cases[i].latent);
        assert_true(colour < cases[i].colour);
        assert_memory_equal(got.latent, eager.latent, (size_t)(images * got.count) * 4);
        assert_memory_equal(got.rgb, eager.rgb, (size_t)got.pixels);
        result_close(&got);
        result_close(&eager);
    }
    result_close(&want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpu_is_cpu)};
    return cmocka_run_group_tests(tests, open_both, close_both);
}
