/* Whole sweeps of the tiny synthetic checkpoints against diffusers' own pipeline, each layer's state fed as
 * prompt_embeds: float32 latents and pictures, bf16 within PyTorch's own bf16 error. The reference is made by
 * tools/ref/sweep.py, the checkpoints and pictures here and now by the dlens program. */
#include "tests/parity/images.h"

#include "kernels/cpu/cpu.h"

static const char *const models[] = {"sd15", "sd21"};
static const char *const prompts[] = {"A few people are in the ocean splashing around", "Hello! A giraffe in a house"};
enum { MODELS = 2, SEED = 17, EXTRA = 6 };

/* Of the final latents, relative L2; a byte of the picture may differ by 1. */
static const double latent_limit = 5e-5;

static char root[FOLDER_PATH];

static int make_checkpoints(void **state)
{
    (void)state;
    if (folder_make(root) < 0) return -1;
    for (int i = 0; i < MODELS; i++) {
        char folder[FOLDER_PATH + 16];
        snprintf(folder, sizeof folder, "%s/%s", root, models[i]);
        run_well(root, "synth", "--like", models[i], "--out", folder);
    }
    return 0;
}

static int remove_checkpoints(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

struct sweep_case {
    const char *name, *layers;
    const char *extra[EXTRA + 1]; /* further arguments */
};

static const struct sweep_case cases[] = {
    {"default", "all", {NULL}},
    {"ddim", "2", {"--scheduler", "ddim", NULL}},
    {"euler", "2", {"--scheduler", "euler", NULL}},
    {"dpm", "2", {"--scheduler", "dpm++", NULL}},
    {"unguided", "1", {"--guidance", "1", NULL}},
    {"negative", "3", {"--negative", "a house", NULL}},
    {"wide", "2", {"--size", "96x64", NULL}},
    {"odd", "3", {"--size", "72x56", NULL}}, /* latents of 18 x 14: halved twice, the sides become odd */
    {"tiled", "2", {"--size", "64x64", "--vae-tile", "8", NULL}},
    {"slivers", "2", {"--size", "96x64", "--vae-tile", "20", NULL}}, /* a last row of tiles one latent pixel high */
};

static struct st_file *open_reference(int model)
{
    char path[1024];
    struct st_file *f = NULL;
    snprintf(path, sizeof path, DLENS_SOURCE_DIR "/tests/parity/data/sweep_%s.safetensors", models[model]);
    must(st_open(&f, path, e));
    return f;
}

/* Sweeps into root/MODEL-NAME, whose path is put in dir. */
static void sweep(int model, const struct sweep_case *c, const char *dtype, char dir[FOLDER_PATH + 40])
{
    char folder[FOLDER_PATH + 16];
    snprintf(folder, sizeof folder, "%s/%s", root, models[model]);
    snprintf(dir, FOLDER_PATH + 40, "%s-%s-%s", folder, c->name, dtype);
    const char *argv[40] = {DLENS_BINARY, "sweep",     "--model",        folder,      "--prompt", prompts[model],
                            "--layers",   c->layers,   "--out",          dir,         "--dtype",  dtype,
                            "--steps",    "10",        "--guidance",     "7.5",       "--seed",   "17",
                            "--rng",      "torch-cpu", "--save-latents", "--threads", "2",        "--quiet"};
    int n = 0;
    while (argv[n]) n++;
    for (int i = 0; c->extra[i]; i++) argv[n++] = c->extra[i];
    struct ran r;
    run_argv(&r, root, argv);
    if (r.status) fail_msg("%s %s: exit status %d: %s", models[model], c->name, r.status, r.err);
    run_free(&r);
}

static const struct st_tensor *reference(const struct st_file *f, const char *name, const char *k, const char *what)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s.%s", name, k, what);
    return st_find(f, key);
}

/* One picture and its latent in dir against the reference NAME.K; the number of faults. */
static int compare(const struct st_file *ref, const char *name, const char *k_name, const char *dir, int k)
{
    const struct st_tensor *want = reference(ref, name, k_name, "latents"),
                           *want_rgb = reference(ref, name, k_name, "image");
    assert_non_null(want);
    assert_non_null(want_rgb);
    struct st_file *f = images_latents(dir);
    const struct st_tensor *got = images_latent(f, 0, SEED, k);
    assert_memory_equal(got->dim, want->dim, 3 * sizeof *got->dim);
    double err = images_error(got->data, want->data, want->bytes / 4);
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
    print_message("  %-9s %-6s latents %.2e (limit %.0e)  bytes: %d of %lld differ, by %d at most%s\n", name, k_name,
                  err, latent_limit, differ, (long long)want_rgb->bytes, worst, over ? "  OVER" : "");
    return over;
}

static void test_f32(void **state)
{
    (void)state;
    int over = 0;
    for (int m = 0; m < MODELS; m++) {
        struct st_file *ref = open_reference(m);
        print_message("%s, f32\n", models[m]);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const struct sweep_case *c = &cases[i];
            char dir[FOLDER_PATH + 40], name[8];
            int compared = 0, last = -1;
            sweep(m, c, "f32", dir);
            for (int k = 0; k < 32; k++) {
                snprintf(name, sizeof name, "k%02d", k);
                if (!reference(ref, c->name, name, "latents")) continue;
                over += compare(ref, c->name, name, dir, k);
                compared++, last = k;
            }
            assert_int_equal(compared, i ? 1 : 5 - m); /* sd15-like: 4 blocks, sd21-like: 3 */
            /* The last layer is the ordinary picture: pipe(prompt). */
            if (i == 0) over += compare(ref, c->name, "plain", dir, last);
        }
        st_close(ref);
    }
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
    for (int m = 0; m < MODELS; m++) {
        struct st_file *ref = open_reference(m);
        char dir[FOLDER_PATH + 40], name[8];
        double own = 0, torch = 0;
        int n = 0;
        sweep(m, &(struct sweep_case){"bf16", "all", {NULL}}, "bf16", dir);
        struct st_file *f = images_latents(dir);
        print_message("%s, bf16\n", models[m]);
        for (int k = 0; k < 32; k++) {
            snprintf(name, sizeof name, "k%02d", k);
            const struct st_tensor *want = reference(ref, "bf16", name, "latents"),
                                   *limit = reference(ref, "bf16", name, "error");
            if (!want) continue;
            assert_non_null(limit);
            double err = images_error(images_latent(f, 0, SEED, k)->data, want->data, want->bytes / 4);
            print_message("  %s latents %.2e, PyTorch's bf16 %.2e\n", name, err, *(const float *)limit->data);
            own += err, torch += *(const float *)limit->data;
            n++;
        }
        st_close(f);
        st_close(ref);
        assert_int_equal(n, 5 - m);
        print_message("  mean %.2e, PyTorch's bf16 %.2e\n", own / n, torch / n);
        assert_true(own <= torch);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, make_checkpoints, remove_checkpoints);
}
