/* Whole sweeps of the tiny synthetic SDXL checkpoint against diffusers' own pipeline, each layer seen through the lens
 * by hooks on its encoders: float32 latents and pictures, bf16 within PyTorch's own bf16 error, and replay from stored
 * states. The reference is made by tools/ref/sdxl_sweep.py, the checkpoint and pictures here and now by the dlens
 * program. */
#include "tests/parity/images.h"

#include "kernels/cpu/cpu.h"

#define PROMPT "Hello! A giraffe in a house"

enum { SEED = 17, EXTRA = 10, MAX_K = 8 };

/* Of the final latents, relative L2; a byte of the picture may differ by 1. */
static const double latent_limit = 5e-5;

static char root[FOLDER_PATH], model[FOLDER_PATH + 16];

static int make_checkpoint(void **state)
{
    (void)state;
    if (folder_make(root) < 0) return -1;
    snprintf(model, sizeof model, "%s/sdxl", root);
    run_well(root, "synth", "--like", "sdxl", "--out", model);
    return 0;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

struct sweep_case {
    const char *name, *layers;
    int images;
    const char *extra[EXTRA + 1]; /* further arguments */
};

static const struct sweep_case cases[] = {
    {"default", "all", 6, {NULL}},
    {"bare", "all", 6, {"--norm", "off", NULL}},
    {"other", "2", 1, {"--other", "prompt", NULL}},
    {"full", "2", 1, {"--pooled", "full", NULL}},
    {"empty", "2", 1, {"--pooled", "empty", NULL}},
    {"first", "all", 5, {"--encoder", "1", NULL}},
    {"first-other", "2", 1, {"--encoder", "text_encoder", "--other", "prompt", "--norm", "off", NULL}},
    {"both", "all", 6, {"--encoder", "both", NULL}},
    {"negative", "3", 1, {"--negative", "a house", NULL}},
    {"blank", "3", 1, {"--negative", "", NULL}},
    {"unguided", "1", 1, {"--guidance", "1", NULL}},
    {"dpm", "2", 1, {"--scheduler", "dpm++", NULL}},
    {"told",
     "3",
     1,
     {"--size", "96x64", "--original-size", "200x100", "--crop", "3,5", "--target-size", "90x60", NULL}},
    {"odd", "3", 1, {"--size", "72x56", NULL}}, /* latents of 18 x 14: halved twice, the sides become odd */
};

/* The ordinary picture: what pipe(prompt) gives. */
static const struct sweep_case plain[] = {
    {"default.plain", "4", 1, {"--norm", "off", "--other", "prompt", NULL}},
    {"blank.plain", "4", 1, {"--norm", "off", "--other", "prompt", "--negative", "", NULL}},
};

static struct st_file *open_reference(void)
{
    struct st_file *f = NULL;
    must(st_open(&f, DLENS_SOURCE_DIR "/tests/parity/data/sweep_sdxl.safetensors", e));
    return f;
}

static void run_case(const char *const *argv)
{
    struct ran r;
    run_argv(&r, root, argv);
    if (r.status) fail_msg("%s: exit status %d: %s", argv[1], r.status, r.err);
    run_free(&r);
}

/* Runs `command` of dlens with what all cases have in common into root/NAME-DTYPE, whose path is put in dir; source
 * [4] says where the states come from. */
static void run_into(const char *command, const char *const *source, const struct sweep_case *c, const char *dtype,
                     char dir[FOLDER_PATH + 60])
{
    snprintf(dir, FOLDER_PATH + 60, "%s/%s-%s-%s", root, command, c->name, dtype);
    const char *argv[48] = {DLENS_BINARY, command,  "--model", model,       "--layers",       c->layers,
                            "--out",      dir,      "--dtype", dtype,       "--steps",        "6",
                            "--seed",     "17",     "--rng",   "torch-cpu", "--save-latents", "--threads",
                            "2",          "--quiet"};
    int n = 0;
    while (argv[n]) n++;
    for (int i = 0; source[i]; i++) argv[n++] = source[i];
    for (int i = 0; c->extra[i]; i++) argv[n++] = c->extra[i];
    run_case(argv);
}

static const char *const from_prompt[] = {"--prompt", PROMPT, NULL};

static const struct st_tensor *reference(const struct st_file *f, const char *name, int k, const char *what)
{
    char key[128];
    if (k < 0)
        snprintf(key, sizeof key, "%s.%s", name, what);
    else
        snprintf(key, sizeof key, "%s.k%02d.%s", name, k, what);
    return st_find(f, key);
}

/* Picture and latent k in dir against the reference; the number of faults. */
static int compare(const struct st_tensor *want, const struct st_tensor *want_rgb, const char *name, const char *dir,
                   int k)
{
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
    print_message("  %-13s k%02d latents %.2e (limit %.0e)  bytes: %d of %lld differ, by %d at most%s\n", name, k, err,
                  latent_limit, differ, (long long)want_rgb->bytes, worst, over ? "  OVER" : "");
    return over;
}

static int compare_case(const struct st_file *ref, const struct sweep_case *c, const char *dir)
{
    int over = 0, compared = 0;
    for (int k = 0; k < MAX_K; k++) {
        const struct st_tensor *want = reference(ref, c->name, k, "latents");
        if (!want) continue;
        over += compare(want, reference(ref, c->name, k, "image"), c->name, dir, k);
        compared++;
    }
    assert_int_equal(compared, c->images);
    return over;
}

static void test_f32(void **state)
{
    (void)state;
    struct st_file *ref = open_reference();
    char dir[FOLDER_PATH + 60];
    int over = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_into("sweep", from_prompt, &cases[i], "f32", dir);
        over += compare_case(ref, &cases[i], dir);
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        run_into("sweep", from_prompt, &plain[i], "f32", dir);
        over += compare(reference(ref, plain[i].name, -1, "latents"), reference(ref, plain[i].name, -1, "image"),
                        plain[i].name, dir, 4);
    }
    st_close(ref);
    assert_int_equal(over, 0);
}

/* The reference tells the cases apart: one that were ignored would show. */
static void test_reference_differs(void **state)
{
    (void)state;
    struct st_file *ref = open_reference();
    for (size_t i = 1; i < sizeof cases / sizeof *cases; i++)
        for (int k = 0; k < MAX_K; k++) {
            const struct st_tensor *a = reference(ref, "default", k, "latents"),
                                   *b = reference(ref, cases[i].name, k, "latents");
            if (!a || !b || a->bytes != b->bytes) continue;
            double d = images_error(b->data, a->data, a->bytes / 4);
            if (!(d > 100 * latent_limit)) fail_msg("%s k%02d differs from the default by %.2e", cases[i].name, k, d);
        }
    st_close(ref);
}

/* Pictures from stored states: nothing of the encoders is then read but final norm, last block and projection. */
static void test_replay(void **state)
{
    (void)state;
    static const struct {
        const char *extra[2]; /* of encode */
        int cases[4], n;      /* numbers in `cases`: what is looked at differently in the same states */
    } stored[] = {
        {{"--encoder", "2"}, {0, 1, 3, 4}, 4}, {{"--encoder", "1"}, {5}, 1}, {{"--negative", "a house"}, {8}, 1}};
    struct st_file *ref = open_reference();
    char dir[FOLDER_PATH + 60], file[FOLDER_PATH + 40];
    int over = 0;
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        snprintf(file, sizeof file, "%s/states-%zu.safetensors", root, i);
        run_well(root, "encode", "--model", model, "--prompt", PROMPT, stored[i].extra[0], stored[i].extra[1], "--out",
                 file, "--quiet");
        const char *const from_file[] = {"--snapshots", file, NULL};
        for (int j = 0; j < stored[i].n; j++) {
            struct sweep_case c = cases[stored[i].cases[j]];
            if (stored[i].cases[j] == 8) c.extra[0] = NULL; /* the file has the negative */
            run_into("replay", from_file, &c, "f32", dir);
            over += compare_case(ref, &c, dir);
        }
    }
    st_close(ref);
    assert_int_equal(over, 0);
}

/* What a layer shows does not depend on the layers, prompts and batch that are asked for with it. */
static void test_alone(void **state)
{
    (void)state;
    static const struct sweep_case together[] = {
        {"together", "all", 6, {"--prompt", "the ocean", "--seeds", "17,42", "--batch", "5", NULL}},
        {"alone", "3", 1, {"--prompt", "the ocean", "--batch", "1", NULL}},
        {"pair", "4,3", 1, {"--prompt", "the ocean", "--batch", "2", "--pooled", "lens", NULL}},
    };
    static const char *const nothing[] = {NULL};
    char dir[3][FOLDER_PATH + 60];
    for (int i = 0; i < 3; i++) run_into("sweep", nothing, &together[i], "f32", dir[i]);
    struct st_file *f = images_latents(dir[0]);
    const struct st_tensor *want = images_latent(f, 0, SEED, 3);
    for (int i = 1; i < 3; i++) {
        struct st_file *g = images_latents(dir[i]);
        const struct st_tensor *got = images_latent(g, 0, SEED, 3);
        assert_int_equal(got->bytes, want->bytes);
        assert_memory_equal(got->data, want->data, (size_t)want->bytes);
        st_close(g);
    }
    st_close(f);
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
    char dir[FOLDER_PATH + 60];
    double own = 0, torch = 0;
    int n = 0;
    run_into("sweep", from_prompt, &(struct sweep_case){"bf16", "all", 6, {NULL}}, "bf16", dir);
    struct st_file *f = images_latents(dir);
    for (int k = 0; k < MAX_K; k++) {
        const struct st_tensor *want = reference(ref, "bf16", k, "latents"),
                               *limit = reference(ref, "bf16", k, "error");
        if (!want) continue;
        assert_non_null(limit);
        double err = images_error(images_latent(f, 0, SEED, k)->data, want->data, want->bytes / 4);
        print_message("  k%02d latents %.2e, PyTorch's bf16 %.2e\n", k, err, *(const float *)limit->data);
        own += err, torch += *(const float *)limit->data;
        n++;
    }
    st_close(f);
    st_close(ref);
    assert_int_equal(n, 6);
    print_message("  mean %.2e, PyTorch's bf16 %.2e\n", own / n, torch / n);
    assert_true(own <= torch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_reference_differs),
                                       cmocka_unit_test(test_replay), cmocka_unit_test(test_alone),
                                       cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, make_checkpoint, remove_checkpoint);
}
