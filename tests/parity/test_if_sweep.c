/* Whole sweeps of the tiny synthetic DeepFloyd IF checkpoints, both stages, against diffusers' own pipelines: float32
 * latents and pictures, bf16 within PyTorch's own bf16 error; then the lens identities, byte for byte. The reference is
 * made by tools/ref/if_sweep.py, the checkpoints and pictures here and now by the dlens program. */
#include "tests/parity/images.h"

#include "kernels/cpu/cpu.h"

#include <time.h>

static const char prompt[] = "Hello! A \"GIRAFFE\" in a big house,a 4x4 (red) car & the ocean";
enum { SEED = 17, BLOCKS = 4, LAYERS = BLOCKS + 1, THIN = 7 /* of stage II's latents every seventh is stored */ };

/* Of the final latents, relative L2; a byte of the picture may differ by 1. */
static const double latent_limit = 1e-4;

static char root[FOLDER_PATH], model[FOLDER_PATH + 16], second[FOLDER_PATH + 16];

/* root/name in one of four buffers that take turns. */
static const char *place(const char *name)
{
    static char path[4][FOLDER_PATH + 48];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%.40s", root, name);
    return p;
}

static int make_checkpoints(void **state)
{
    (void)state;
    if (folder_make(root) < 0) return -1;
    snprintf(model, sizeof model, "%s/if", root);
    snprintf(second, sizeof second, "%s/if2", root);
    run_well(root, "synth", "--like", "if", "--out", model);
    run_well(root, "synth", "--like", "if2", "--out", second);
    return 0;
}

static int remove_checkpoints(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

enum { EXTRA = 10 };

static const struct sweep_case {
    const char *name, *layers;
    int n; /* of layers */
    const char *extra[EXTRA + 1];
} cases[] = {
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

#define SETTINGS                                                                                                       \
    "--model", model, "--steps", "8", "--seed", "17", "--rng", "torch-cpu", "--save-latents", "--threads", "2",        \
        "--quiet"

static void sweep(const struct sweep_case *c, const char *dtype, const char *dir)
{
    const char *argv[48] = {DLENS_BINARY, "sweep",    SETTINGS,  "--dtype", dtype, "--prompt",
                            prompt,       "--layers", c->layers, "--out",   dir};
    int n = 0;
    while (argv[n]) n++;
    for (int i = 0; c->extra[i]; i++) argv[n++] = c->extra[i];
    struct ran r;
    run_argv(&r, root, argv);
    if (r.status) fail_msg("%s: exit status %d: %s", c->name, r.status, r.err);
    run_free(&r);
}

static struct st_file *open_reference(void)
{
    struct st_file *f = NULL;
    must(st_open(&f, DLENS_SOURCE_DIR "/tests/parity/data/sweep_if.safetensors", e));
    return f;
}

static const struct st_tensor *reference(const struct st_file *f, const char *name, const char *k, const char *what)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s.%s", name, k, what);
    return st_find(f, key);
}

/* Relative L2 error of a latent against all of the stored one, or where that is flat against every seventh element. */
static double latent_error(const struct st_tensor *got, const struct st_tensor *want)
{
    int64_t n = want->bytes / 4, step = want->nd == 1 ? THIN : 1;
    assert_int_equal((got->bytes / 4 + step - 1) / step, n);
    float *kept = malloc((size_t)want->bytes);
    assert_non_null(kept);
    for (int64_t i = 0; i < n; i++) kept[i] = ((const float *)got->data)[i * step];
    double err = images_error(kept, want->data, n);
    free(kept);
    return err;
}

/* One picture and its latent in dir against the reference NAME.K; the number of faults. */
static int compare(const struct st_file *ref, const char *name, const char *k_name, const char *dir, int k)
{
    const struct st_tensor *want = reference(ref, name, k_name, "latents"),
                           *want_rgb = reference(ref, name, k_name, "image");
    assert_non_null(want);
    assert_non_null(want_rgb);
    struct st_file *f = images_latents(dir);
    double err = latent_error(images_latent(f, 0, SEED, k), want);
    st_close(f);

    struct dl_png png = images_png(dir, 0, SEED, k);
    assert_int_equal(png.h, want_rgb->dim[0]);
    assert_int_equal(png.w, want_rgb->dim[1]);
    const uint8_t *rgb = want_rgb->data;
    int worst = 0, differ = 0, inner = 0;
    for (int64_t i = 0; i < want_rgb->bytes; i++) {
        int d = abs(png.rgb[i] - rgb[i]);
        worst = d > worst ? d : worst, differ += d > 0;
        inner += rgb[i] > 0 && rgb[i] < 255;
    }
    dl_png_close(&png);
    /* A picture that is mostly clipped would compare nothing. */
    bool over = !(err <= latent_limit) || worst > 1 || inner < want_rgb->bytes / 2;
    print_message("  %-10s %-6s latents %.2e (limit %.0e)  bytes: %d of %lld differ, by %d at most%s\n", name, k_name,
                  err, latent_limit, differ, (long long)want_rgb->bytes, worst, over ? "  OVER" : "");
    return over;
}

static void test_f32(void **state)
{
    (void)state;
    int over = 0;
    struct st_file *ref = open_reference();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct sweep_case *c = &cases[i];
        char name[8];
        int compared = 0;
        const char *dir = place(c->name);
        sweep(c, "f32", dir);
        for (int k = 0; k < LAYERS; k++) {
            snprintf(name, sizeof name, "k%02d", k);
            if (!reference(ref, c->name, name, "latents")) continue;
            over += compare(ref, c->name, name, dir, k);
            compared++;
        }
        assert_int_equal(compared, c->n);
        /* The last layer is the ordinary picture: pipe(prompt). */
        if (i == 0) over += compare(ref, c->name, "plain", dir, BLOCKS);
    }
    st_close(ref);
    assert_int_equal(over, 0);
}

static bool has_bf16(void)
{
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    must(cpu_open(&be, &ctx, &(struct dl_cpu_opts){.threads = 1}, e));
    bool yes = be->supports(ctx, DL_BF16);
    be->close(ctx);
    return yes;
}

static void test_bf16(void **state)
{
    (void)state;
    if (!has_bf16()) {
        print_message("skipped: this CPU has no bf16 arithmetic\n");
        skip();
    }
    struct st_file *ref = open_reference();
    const char *dir = place("bf16");
    double own = 0, torch = 0;
    sweep(&(struct sweep_case){"bf16", "all", LAYERS, {"--guidance", "1", NULL}}, "bf16", dir);
    struct st_file *f = images_latents(dir);
    for (int k = 0; k < LAYERS; k++) {
        char name[8];
        snprintf(name, sizeof name, "k%02d", k);
        const struct st_tensor *want = reference(ref, "bf16", name, "latents"),
                               *limit = reference(ref, "bf16", name, "error");
        assert_non_null(want);
        assert_non_null(limit);
        double err = latent_error(images_latent(f, 0, SEED, k), want);
        print_message("  %s latents %.2e, PyTorch's bf16 %.2e\n", name, err, *(const float *)limit->data);
        own += err, torch += *(const float *)limit->data;
    }
    st_close(f);
    st_close(ref);
    print_message("  mean %.2e, PyTorch's bf16 %.2e\n", own / LAYERS, torch / LAYERS);
    assert_true(own <= torch);
}

/* ---- identities ---- */

enum { PROMPTS = 2, SEEDS = 2 };
static const uint64_t seeds[SEEDS] = {17, 42};
static const char *const prompts[PROMPTS] = {"A giraffe in a house", "the ocean and a few people"};
static const char *const negatives[PROMPTS] = {"", "a house"};

#define UP "--upscale", second, "--upscale-steps", "3"
#define SHORT "--model", model, "--steps", "4", "--rng", "torch-cpu", "--dtype", "f32", "--save-latents", "--quiet", UP

static void same_file(const char *a, int i, const char *b, int j, const char *folder, uint64_t seed, int k)
{
    char name[NAMES_MAX], path[FOLDER_PATH + 200];
    struct dl_png p, q;
    names_image(name, folder, i, seed, k);
    snprintf(path, sizeof path, "%s/%s", a, name);
    must(dl_png_read(&p, path, e));
    names_image(name, folder, j, seed, k);
    snprintf(path, sizeof path, "%s/%s", b, name);
    must(dl_png_read(&q, path, e));
    assert_int_equal(p.w, q.w);
    assert_int_equal(p.h, q.h);
    if (memcmp(p.rgb, q.rgb, (size_t)p.w * (size_t)p.h * 3))
        fail_msg("%s: prompt %d, seed %d, layer %d: %s and %s differ", folder, i, (int)seed, k, a, b);
    dl_png_close(&p), dl_png_close(&q);
}

/* Both stages' pictures and the last stage's latent: prompt i of folder a against prompt j of folder b. */
static void same_image(const char *a, int i, const char *b, int j, uint64_t seed, int k)
{
    same_file(a, i, b, j, "images", seed, k);
    same_file(a, i, b, j, "stage1", seed, k);
    struct st_file *f = images_latents(a), *g = images_latents(b);
    const struct st_tensor *x = images_latent(f, i, seed, k), *y = images_latent(g, j, seed, k);
    assert_int_equal(x->bytes, y->bytes);
    if (memcmp(x->data, y->data, (size_t)x->bytes))
        fail_msg("prompt %d, seed %d, layer %d: latents of %s and %s differ, by %.2e", i, (int)seed, k, a, b,
                 images_error(x->data, y->data, x->bytes / 4));
    st_close(f), st_close(g);
}

/* What is made does not depend on what was asked for together, on batch or threads, or on stored states. */
static void test_identities(void **state)
{
    (void)state;
    char file[FOLDER_PATH + 48], whole[FOLDER_PATH + 48];
    snprintf(file, sizeof file, "%s", place("prompts.jsonl"));
    snprintf(whole, sizeof whole, "%s", place("whole"));
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    for (int i = 0; i < PROMPTS; i++)
        fprintf(f, "{\"prompt\": \"%s\", \"negative\": \"%s\"}\n", prompts[i], negatives[i]);
    assert_int_equal(fclose(f), 0);
    run_well(root, "sweep", SHORT, "--prompts", file, "--seeds", "17,42", "--layers", "all", "--threads", "2", "--out",
             whole);

    struct dl_png first = images_png(whole, 0, 17, 0), other = images_png(whole, 0, 17, 1);
    assert_memory_not_equal(first.rgb, other.rgb, (size_t)first.w * (size_t)first.h * 3);
    dl_png_close(&first), dl_png_close(&other);

    const char *one = place("one"), *odd = place("odd"), *replay = place("replay");
    run_well(root, "sweep", SHORT, "--prompts", file, "--seeds", "17,42", "--layers", "all", "--threads", "1",
             "--batch", "1", "--out", one);
    run_well(root, "sweep", SHORT, "--prompts", file, "--seeds", "17,42", "--layers", "all", "--threads", "3",
             "--batch", "7", "--out", odd);
    char states[FOLDER_PATH + 48];
    snprintf(states, sizeof states, "%s", place("states.safetensors"));
    run_well(root, "encode", "--model", model, "--prompts", file, "--out", states);
    run_well(root, "replay", SHORT, "--snapshots", states, "--seeds", "17,42", "--layers", "all", "--out", replay);
    for (int i = 0; i < PROMPTS; i++)
        for (int s = 0; s < SEEDS; s++)
            for (int k = 0; k < LAYERS; k++) {
                same_image(whole, i, one, i, seeds[s], k);
                same_image(whole, i, odd, i, seeds[s], k);
                same_image(whole, i, replay, i, seeds[s], k);
            }
    const char *single = place("single");
    run_well(root, "sweep", SHORT, "--prompt", prompts[1], "--negative", negatives[1], "--seed", "42", "--layers", "3",
             "--out", single);
    same_image(whole, 1, single, 0, 42, 3);
    const char *streamed = place("streamed");
    run_well(root, "sweep", SHORT, "--prompt", prompts[1], "--negative", negatives[1], "--seed", "42", "--layers", "3",
             "--resident", "stream", "--out", streamed);
    same_image(whole, 1, streamed, 0, 42, 3);
}

/* The small pictures are the first stage's own, and the second stage goes on from an interruption. */
static void test_stages(void **state)
{
    (void)state;
    char whole[FOLDER_PATH + 48], path[FOLDER_PATH + 200], name[NAMES_MAX];
    snprintf(whole, sizeof whole, "%s", place("both"));
    run_well(root, "sweep", SHORT, "--prompt", prompts[0], "--layers", "1,4", "--out", whole);
    const char *small = place("small");
    run_well(root, "sweep", "--model", model, "--steps", "4", "--rng", "torch-cpu", "--dtype", "f32", "--quiet",
             "--prompt", prompts[0], "--layers", "1,4", "--out", small);
    for (int k = 1; k <= 4; k += 3) {
        struct dl_png p = images_png(small, 0, SEED, k), q;
        names_image(name, "stage1", 0, SEED, k);
        snprintf(path, sizeof path, "%s/%s", whole, name);
        must(dl_png_read(&q, path, e));
        assert_int_equal(p.w, q.w);
        assert_memory_equal(p.rgb, q.rgb, (size_t)p.w * (size_t)p.h * 3);
        dl_png_close(&p), dl_png_close(&q);
        p = images_png(whole, 0, SEED, k);
        assert_int_equal(p.w, 4 * 16);
        dl_png_close(&p);
    }

    static const char *const longer[] = {
        DLENS_BINARY, "sweep",     "--model",         model, "--prompt",      "the ocean", "--steps", "4",
        "--rng",      "torch-cpu", "--dtype",         "f32", "--layers",      "all",       "--batch", "1",
        "--upscale",  second,      "--upscale-steps", "60",  "--save-latents"};
    const char *argv[32] = {0};
    const char *broken = place("broken"), *once = place("once");
    int n = (int)(sizeof longer / sizeof *longer);
    memcpy(argv, longer, sizeof longer);
    argv[n] = "--out", argv[n + 1] = broken;
    struct ran r;
    run_start(&r, root, argv);
    names_image(name, "images", 0, SEED, 1);
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
    for (int k = 1; k < LAYERS; k++) same_image(broken, 0, once, 0, SEED, k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_identities),
        cmocka_unit_test(test_stages),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, remove_checkpoints);
}
