/* Whole sweeps of the tiny synthetic DeepFloyd IF checkpoints, both stages, against diffusers' own pipelines: float32
 * latents and pictures, bf16 within PyTorch's own bf16 error; then the lens identities, byte for byte. The reference is
 * made by tools/ref/if_sweep.py, the checkpoints and pictures here and now by the dlens program. */
#include "tests/parity/sweep.h"

#include <time.h>

#define PROMPT "Hello! A \"GIRAFFE\" in a big house,a 4x4 (red) car & the ocean"

enum { BLOCKS = 4, LAYERS = BLOCKS + 1 };

static const char *const models[] = {"if", "if2"};
static char model[FOLDER_PATH + 16], second[FOLDER_PATH + 16];

static const double latent_limit = 1e-4;

static int make_checkpoints(void **state)
{
    int rc = sweep_make(state, models, 2);
    snprintf(model, sizeof model, "%s/if", root);
    snprintf(second, sizeof second, "%s/if2", root);
    return rc;
}

static const struct sweep_case cases[] = {
    {"default", "all", LAYERS, {NULL}},
    {"bare", "all", LAYERS, {"--norm", "off", NULL}},
    {"unguided", "2", 1, {"--guidance", "1", NULL}},
    {"negative", "3", 1, {"--negative", "a house", NULL}},
    {"raw", "4", 1, {"--clean-caption", "off", NULL}},
    {"dpm", "2", 1, {"--scheduler", "dpm++", NULL}},
    {"wide", "2", 1, {"--size", "24x16", NULL}},
    {"sequential", "3,0,2", 3, {"--noise", "sequential", NULL}},
    {"up", "0,2,4", 3, {"--upscale", second, "--upscale-steps", "6", "--upscale-seed", "42", NULL}},
    {"up-wide",
     "3",
     1,
     {"--upscale", second, "--upscale-steps", "6", "--upscale-guidance", "1", "--size", "24x8", NULL}},
};

static void run_case(char dir[ROOT_PATH], const struct sweep_case *c, const char *dtype)
{
    static const char *const prompt[] = {"--prompt", PROMPT, NULL}, *const common[] = {"--steps", "8", NULL};
    sweep_run(dir, "sweep", models[0], prompt, common, c, dtype);
}

static void test_f32(void **state)
{
    (void)state;
    int over = 0;
    char dir[ROOT_PATH];
    struct st_file *ref = ref_open("sweep_if");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct sweep_case *c = &cases[i];
        run_case(dir, c, "f32");
        over += sweep_compare_case(ref, c->name, c->images, dir, latent_limit);
        /* The last layer is the ordinary picture: pipe(prompt). */
        if (i == 0) over += sweep_compare(ref, "default.plain", dir, BLOCKS, latent_limit);
    }
    st_close(ref);
    assert_int_equal(over, 0);
}

static void test_bf16(void **state)
{
    (void)state;
    sweep_needs_bf16();
    struct st_file *ref = ref_open("sweep_if");
    char dir[ROOT_PATH];
    run_case(dir, &(struct sweep_case){"bf16", "all", LAYERS, {"--guidance", "1", NULL}}, "bf16");
    sweep_compare_bf16(ref, LAYERS, dir);
    st_close(ref);
}

/* ---- identities ---- */

enum { PROMPTS = 2, SEEDS = 2 };
static const uint64_t seeds[SEEDS] = {17, 42};
static const char *const prompts[PROMPTS] = {"A giraffe in a house", "the ocean and a few people"};
static const char *const negatives[PROMPTS] = {"", "a house"};

#define UP "--upscale", second, "--upscale-steps", "3"
#define SHORT "--model", model, "--steps", "4", "--rng", "torch-cpu", "--dtype", "f32", "--save-latents", "--quiet", UP

/* Both stages' pictures and the last stage's latent: prompt i of folder a against prompt j of folder b. */
static void same_image(const char *a, int i, const char *b, int j, uint64_t seed, int k)
{
    images_same(a, i, b, j, seed, k);
    images_same_png(a, "stage1", i, b, "stage1", j, seed, k);
}

/* What is made does not depend on what was asked for together, on batch or threads, or on stored states. */
static void test_identities(void **state)
{
    (void)state;
    char file[ROOT_PATH], whole[ROOT_PATH];
    snprintf(file, sizeof file, "%s", in_root("prompts.jsonl"));
    snprintf(whole, sizeof whole, "%s", in_root("whole"));
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    for (int i = 0; i < PROMPTS; i++)
        fprintf(f, "{\"prompt\": \"%s\", \"negative\": \"%s\"}\n", prompts[i], negatives[i]);
    assert_int_equal(fclose(f), 0);
    run_well(root, "sweep", SHORT, "--prompts", file, "--seeds", "17,42", "--layers", "all", "--threads", "2", "--out",
             whole);

    images_differ(whole, 17, 0, 1);

    const char *one = in_root("one"), *odd = in_root("odd"), *replay = in_root("replay");
    run_well(root, "sweep", SHORT, "--prompts", file, "--seeds", "17,42", "--layers", "all", "--threads", "1",
             "--batch", "1", "--out", one);
    run_well(root, "sweep", SHORT, "--prompts", file, "--seeds", "17,42", "--layers", "all", "--threads", "3",
             "--batch", "7", "--out", odd);
    char states[ROOT_PATH];
    snprintf(states, sizeof states, "%s", in_root("states.safetensors"));
    run_well(root, "encode", "--model", model, "--prompts", file, "--out", states);
    run_well(root, "replay", SHORT, "--snapshots", states, "--seeds", "17,42", "--layers", "all", "--out", replay);
    for (int i = 0; i < PROMPTS; i++)
        for (int s = 0; s < SEEDS; s++)
            for (int k = 0; k < LAYERS; k++) {
                same_image(whole, i, one, i, seeds[s], k);
                same_image(whole, i, odd, i, seeds[s], k);
                same_image(whole, i, replay, i, seeds[s], k);
            }
    const char *single = in_root("single");
    run_well(root, "sweep", SHORT, "--prompt", prompts[1], "--negative", negatives[1], "--seed", "42", "--layers", "3",
             "--out", single);
    same_image(whole, 1, single, 0, 42, 3);
    const char *streamed = in_root("streamed");
    run_well(root, "sweep", SHORT, "--prompt", prompts[1], "--negative", negatives[1], "--seed", "42", "--layers", "3",
             "--resident", "stream", "--out", streamed);
    same_image(whole, 1, streamed, 0, 42, 3);
}

/* The small pictures are the first stage's own, and the second stage goes on from an interruption. */
static void test_stages(void **state)
{
    (void)state;
    char whole[ROOT_PATH], path[FOLDER_PATH + 200], name[NAMES_MAX];
    snprintf(whole, sizeof whole, "%s", in_root("both"));
    run_well(root, "sweep", SHORT, "--prompt", prompts[0], "--layers", "1,4", "--out", whole);
    const char *small = in_root("small");
    run_well(root, "sweep", "--model", model, "--steps", "4", "--rng", "torch-cpu", "--dtype", "f32", "--quiet",
             "--prompt", prompts[0], "--layers", "1,4", "--out", small);
    for (int k = 1; k <= 4; k += 3) {
        images_same_png(small, "images", 0, whole, "stage1", 0, SWEEP_SEED, k);
        struct dl_png p = images_png(whole, "images", 0, SWEEP_SEED, k);
        assert_int_equal(p.w, 4 * 16);
        dl_png_close(&p);
    }

    static const char *const longer[] = {
        DLENS_BINARY, "sweep",     "--model",         model, "--prompt",      "the ocean", "--steps", "4",
        "--rng",      "torch-cpu", "--dtype",         "f32", "--layers",      "all",       "--batch", "1",
        "--upscale",  second,      "--upscale-steps", "60",  "--save-latents"};
    const char *argv[32] = {0};
    const char *broken = in_root("broken"), *once = in_root("once");
    int n = (int)(sizeof longer / sizeof *longer);
    memcpy(argv, longer, sizeof longer);
    argv[n] = "--out", argv[n + 1] = broken;
    struct ran r;
    run_start(&r, root, argv);
    names_image(name, "images", 0, SWEEP_SEED, 1);
    snprintf(path, sizeof path, "%s/%s", broken, name);
    for (int64_t ms = 0; access(path, F_OK); ms += 2) {
        if (ms > 120000) {
            kill(r.pid, SIGKILL);
            fail_msg("no picture in two minutes");
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    kill(r.pid, SIGINT);
    run_wait(&r);
    assert_int_equal(r.status, 130);
    assert_non_null(strstr(r.err, "the same command goes on from there"));
    run_free(&r);
    run_argv(&r, root, argv);
    if (r.status) fail_msg("resumed: exit status %d: %s", r.status, r.err);
    assert_non_null(strstr(r.err, "going on"));
    run_free(&r);
    argv[n + 1] = once;
    run_argv(&r, root, argv);
    assert_int_equal(r.status, 0);
    run_free(&r);
    for (int k = 1; k < LAYERS; k++) same_image(broken, 0, once, 0, SWEEP_SEED, k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_identities),
        cmocka_unit_test(test_stages),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, root_remove);
}
