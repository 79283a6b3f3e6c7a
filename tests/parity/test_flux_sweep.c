/* Whole sweeps of the tiny synthetic FLUX checkpoints (schnell and dev) against diffusers' own pipeline, each layer
 * seen through the lens by hooks on its encoders: float32 latents and pictures, bf16 within PyTorch's own bf16 error,
 * replay from stored states, and the same bytes with streamed weights, in any batch, of several prompts at once. The
 * reference is made by tools/ref/flux_sweep.py, the checkpoints and pictures here and now by the dlens program. */
#include "tests/parity/images.h"

#include "kernels/cpu/cpu.h"

#define PROMPT "A red cat's painting in the dark house"

enum { SEED = 17, EXTRA = 10, MAX_K = 8, MODELS = 2 };

/* Of the final latents, relative L2; a byte of the picture may differ by 1. */
static const double latent_limit = 5e-5;

static const char *const models[MODELS] = {"flux", "flux-dev"};
static char root[FOLDER_PATH], folder[MODELS][FOLDER_PATH + 16];

static int make_checkpoints(void **state)
{
    (void)state;
    if (folder_make(root) < 0) return -1;
    for (int i = 0; i < MODELS; i++) {
        snprintf(folder[i], sizeof folder[i], "%s/%s", root, models[i]);
        run_well(root, "synth", "--like", models[i], "--out", folder[i]);
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
    int model;
    const char *name, *layers;
    int images;
    const char *extra[EXTRA + 1]; /* further arguments */
};

static const struct sweep_case cases[] = {
    {0, "default", "all", 5, {NULL}},
    {0, "bare", "all", 5, {"--norm", "off", NULL}},
    {0, "other", "2", 1, {"--other", "prompt", NULL}},
    {0, "clip", "all", 5, {"--encoder", "1", NULL}},
    {0, "clip-other", "2", 1, {"--encoder", "text_encoder", "--other", "prompt", "--norm", "off", NULL}},
    {0, "steps", "3", 1, {"--steps", "4", NULL}},
    {0, "short", "3", 1, {"--max-tokens", "12", NULL}},
    {0, "wide", "4", 1, {"--size", "112x48", NULL}},
    {1, "default", "0,2,4", 3, {"--steps", "3", NULL}},
    {1, "guided", "2", 1, {"--steps", "3", "--guidance", "1.5", NULL}},
    {1, "unguided", "2", 1, {"--steps", "3", "--guidance", "0", NULL}},
    {1, "large", "3", 1, {"--steps", "2", "--size", "192x128", NULL}},
    {1, "clip", "0,2,4", 3, {"--encoder", "1", "--steps", "2", NULL}},
};

/* The ordinary pictures: what pipe(prompt) gives. */
static const struct sweep_case plain[] = {
    {0, "plain", "4", 1, {"--other", "prompt", NULL}},
    {1, "plain", "4", 1, {"--other", "prompt", "--steps", "3", NULL}},
};

static struct st_file *open_reference(int model)
{
    char path[600];
    struct st_file *f = NULL;
    snprintf(path, sizeof path, DLENS_SOURCE_DIR "/tests/parity/data/sweep_%s.safetensors", models[model]);
    must(st_open(&f, path, e));
    return f;
}

/* Runs `command` of dlens with what all cases have in common into root/COMMAND-MODEL-NAME-DTYPE, whose path is put in
 * dir; source [4] says where the states come from. What a case gives as well overrides what stands before. */
static void run_into(const char *command, const char *const *source, const struct sweep_case *c, const char *dtype,
                     char dir[FOLDER_PATH + 60])
{
    snprintf(dir, FOLDER_PATH + 60, "%s/%s-%s-%s-%s", root, command, models[c->model], c->name, dtype);
    const char *argv[48] = {
        DLENS_BINARY,     command,     "--model", folder[c->model], "--layers", c->layers, "--out", dir,
        "--dtype",        dtype,       "--size",  "64x48",          "--seed",   "17",      "--rng", "torch-cpu",
        "--save-latents", "--threads", "2",       "--quiet"};
    struct ran r;
    int n = 0;
    while (argv[n]) n++;
    for (int i = 0; source[i]; i++) argv[n++] = source[i];
    for (int i = 0; c->extra[i]; i++) argv[n++] = c->extra[i];
    run_argv(&r, root, argv);
    if (r.status) fail_msg("%s %s: exit status %d: %s", command, c->name, r.status, r.err);
    run_free(&r);
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
    char dir[FOLDER_PATH + 60];
    int over = 0;
    for (int m = 0; m < MODELS; m++) {
        struct st_file *ref = open_reference(m);
        print_message("%s\n", models[m]);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            if (cases[i].model != m) continue;
            run_into("sweep", from_prompt, &cases[i], "f32", dir);
            over += compare_case(ref, &cases[i], dir);
        }
        run_into("sweep", from_prompt, &plain[m], "f32", dir);
        over += compare(reference(ref, "plain", -1, "latents"), reference(ref, "plain", -1, "image"), "plain", dir, 4);
        st_close(ref);
    }
    assert_int_equal(over, 0);
}

/* The reference tells the cases apart: one that were ignored would show. */
static void test_reference_differs(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        struct st_file *ref = open_reference(m);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int k = 0; k < MAX_K && cases[i].model == m && strcmp(cases[i].name, "default"); k++) {
                const struct st_tensor *a = reference(ref, "default", k, "latents"),
                                       *b = reference(ref, cases[i].name, k, "latents");
                if (!a || !b || a->bytes != b->bytes) continue;
                double d = images_error(b->data, a->data, a->bytes / 4);
                if (!(d > 100 * latent_limit))
                    fail_msg("%s k%02d differs from the default by %.2e", cases[i].name, k, d);
            }
        st_close(ref);
    }
}

/* Pictures from stored states: nothing of the encoders is then read but final norms. */
static void test_replay(void **state)
{
    (void)state;
    static const struct {
        const char *encoder;
        int cases[2], n; /* numbers in `cases`: what is looked at differently in the same states */
    } stored[] = {{"2", {0, 1}, 2}, {"1", {3}, 1}};
    struct st_file *ref = open_reference(0);
    char dir[FOLDER_PATH + 60], file[FOLDER_PATH + 40];
    int over = 0;
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        snprintf(file, sizeof file, "%s/states-%zu.safetensors", root, i);
        run_well(root, "encode", "--model", folder[0], "--prompt", PROMPT, "--encoder", stored[i].encoder, "--out",
                 file, "--quiet");
        const char *const from_file[] = {"--snapshots", file, NULL};
        for (int j = 0; j < stored[i].n; j++) {
            const struct sweep_case *c = &cases[stored[i].cases[j]];
            run_into("replay", from_file, c, "f32", dir);
            over += compare_case(ref, c, dir);
        }
    }
    st_close(ref);
    assert_int_equal(over, 0);
}

/* Pictures of two folders, byte for byte: prompt from 0 in `a` and prompt `at` in `b`. */
static void same_pictures(const char *a, const char *b, int at)
{
    for (int k = 0; k <= 4; k++) {
        struct dl_png x = images_png(a, 0, SEED, k), y = images_png(b, at, SEED, k);
        assert_int_equal(x.w * x.h, y.w * y.h);
        assert_memory_equal(x.rgb, y.rgb, (size_t)(x.w * x.h * 3));
        dl_png_close(&x), dl_png_close(&y);
    }
}

/* However the work is divided, each image is the same, byte for byte. */
static void test_ways(void **state)
{
    (void)state;
    static const char *const encoders[] = {"1", "2"};
    char whole[FOLDER_PATH + 60], other[FOLDER_PATH + 60], list[FOLDER_PATH + 20];
    snprintf(list, sizeof list, "%s/prompts.txt", root);
    assert_int_equal(folder_write(list, "a dog near the sea\n" PROMPT "\n", (int64_t)strlen(PROMPT) + 20), 0);
    const char *const from_list[] = {"--prompts", list, NULL};
    for (int i = 0; i < 2; i++) {
        char name[4][16];
        static const char *const ways[] = {"whole", "ones", "stream", "two"};
        for (int j = 0; j < 4; j++) snprintf(name[j], sizeof name[j], "%s-%s", ways[j], encoders[i]);
        run_into("sweep", from_prompt,
                 &(struct sweep_case){
                     1, name[0], "all", 5, {"--encoder", encoders[i], "--steps", "2", "--resident", "all", NULL}},
                 "f32", whole);
        run_into("sweep", from_prompt,
                 &(struct sweep_case){
                     1, name[1], "all", 5, {"--encoder", encoders[i], "--steps", "2", "--batch", "1", NULL}},
                 "f32", other);
        same_pictures(whole, other, 0);
        run_into("sweep", from_prompt,
                 &(struct sweep_case){
                     1,
                     name[2],
                     "all",
                     5,
                     {"--encoder", encoders[i], "--steps", "2", "--resident", "stream", "--batch", "2", NULL}},
                 "f32", other);
        same_pictures(whole, other, 0);
        run_into("sweep", from_list,
                 &(struct sweep_case){
                     1, name[3], "all", 10, {"--encoder", encoders[i], "--steps", "2", "--batch", "3", NULL}},
                 "f32", other);
        same_pictures(whole, other, 1);
    }
}

/* Stored states may differ in what a sweep's have in common: here each prompt's own pooled vector. */
static void test_foreign(void **state)
{
    (void)state;
    char sweep[FOLDER_PATH + 60], replayed[FOLDER_PATH + 60], list[FOLDER_PATH + 20], file[FOLDER_PATH + 40];
    snprintf(list, sizeof list, "%s/two.txt", root);
    snprintf(file, sizeof file, "%s/foreign.safetensors", root);
    assert_int_equal(folder_write(list, "a dog near the sea\n" PROMPT "\n", (int64_t)strlen(PROMPT) + 20), 0);
    run_well(root, "encode", "--model", folder[1], "--prompts", list, "--other", "prompt", "--out", file, "--quiet");
    const char *const from_list[] = {"--prompts", list, NULL}, *const from_file[] = {"--snapshots", file, NULL};
    run_into("sweep", from_list, &(struct sweep_case){1, "own", "all", 10, {"--other", "prompt", "--steps", "2", NULL}},
             "f32", sweep);
    run_into("replay", from_file, &(struct sweep_case){1, "own", "all", 10, {"--steps", "2", NULL}}, "f32", replayed);
    same_pictures(sweep, replayed, 0);
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
    struct st_file *ref = open_reference(0);
    char dir[FOLDER_PATH + 60];
    double own = 0, torch = 0;
    int n = 0;
    run_into("sweep", from_prompt, &(struct sweep_case){0, "bf16", "all", 5, {NULL}}, "bf16", dir);
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
    assert_int_equal(n, 5);
    print_message("  mean %.2e, PyTorch's bf16 %.2e\n", own / n, torch / n);
    assert_true(own <= torch);
}

/* Options that a FLUX model cannot honour, and what the message names. */
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        int model;
        const char *option, *value, *says;
    } bad[] = {
        {0, "--guidance", "3.5", "guidance_embeds"}, {0, "--size", "64x56", "multiples of 16"},
        {0, "--max-tokens", "513", "512"},           {0, "--negative", "a dog", "--negative"},
        {0, "--pooled", "full", "--pooled"},         {0, "--scheduler", "euler", "flow"},
        {1, "--negative", "a dog", "--negative"},    {1, "--layers", "5", "5"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char dir[FOLDER_PATH + 20];
        struct ran r;
        snprintf(dir, sizeof dir, "%s/refused", root);
        const char *argv[] = {DLENS_BINARY, "sweep", "--model", folder[bad[i].model], "--prompt",   "a",
                              "--out",      dir,     "--quiet", bad[i].option,        bad[i].value, NULL};
        run_argv(&r, root, argv);
        if (r.status != 2 || !strstr(r.err, bad[i].says))
            fail_msg("%s %s: exit status %d: %s", bad[i].option, bad[i].value, r.status, r.err);
        run_free(&r);
    }
}

/* A number of the plan in a program's JSON output; -1 without it. */
static double plan_number(const char *json, const char *key)
{
    char quoted[60];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(json, quoted);
    if (!at) return -1;
    at += strlen(quoted) + strspn(at + strlen(quoted), " ");
    return !strncmp(at, "true", 4) ? 1 : !strncmp(at, "false", 5) ? 0 : atof(at);
}

/* What --resident means for the plan: of the blocks, two are in memory. */
static void test_plan(void **state)
{
    (void)state;
    double bytes[2];
    static const char *const modes[] = {"all", "stream"};
    for (int i = 0; i < 2; i++) {
        struct ran r;
        char dir[FOLDER_PATH + 20];
        snprintf(dir, sizeof dir, "%s/planned", root);
        run_dlens(&r, root, "sweep", "--model", folder[0], "--prompt", "a", "--out", dir, "--dtype", "f32", "--dry-run",
                  "--json", "--resident", modes[i]);
        if (r.status) fail_msg("exit status %d: %s", r.status, r.err);
        assert_true(plan_number(r.out, "streamed") == i);
        bytes[i] = plan_number(r.out, "denoiser_bytes");
        run_free(&r);
    }
    print_message("denoiser's weights: %.0f bytes, streamed %.0f\n", bytes[0], bytes[1]);
    assert_true(bytes[1] > 0 && bytes[1] < 0.8 * bytes[0]);
}

/* Folders whose parts do not fit each other are told by what does not fit. The checkpoint is spoilt by this. */
static void test_unfit(void **state)
{
    (void)state;
    static const struct {
        const char *file, *from, *to, *says;
    } bad[] = {
        {"vae/config.json", "\"latent_channels\": 16", "\"latent_channels\": 17", "2 x 2 pixels"},
        {"transformer/config.json", "\"pooled_projection_dim\": 40", "\"pooled_projection_dim\": 41", "width 41"},
        {"transformer/config.json", "\"joint_attention_dim\": 32", "\"joint_attention_dim\": 33", "width 33"},
        {"transformer/config.json", "\"num_single_layers\": 3", "\"num_single_layers\": 4", "missing"},
        {"transformer/config.json", "\"guidance_embeds\": false", "\"guidance_embeds\": true ", "guidance_embedder"},
        {"scheduler/scheduler_config.json", "FlowMatchEulerDiscrete", "EulerDiscrete", "flow"},
        {"model_index.json", "tokenizer_2", "tokenizer_3", "tokenizer_2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[FOLDER_PATH + 80], dir[FOLDER_PATH + 20], *text, *at, *changed;
        int64_t n;
        struct ran r;
        snprintf(path, sizeof path, "%s/%s", folder[0], bad[i].file);
        text = folder_read(path, &n);
        assert_non_null(text);
        at = strstr(text, bad[i].from);
        if (!at) fail_msg("%s has no %s", path, bad[i].from);
        size_t before = (size_t)(at - text), room = (size_t)n + strlen(bad[i].to) + 1;
        changed = malloc(room);
        assert_non_null(changed);
        snprintf(changed, room, "%.*s%s%s", (int)before, text, bad[i].to, at + strlen(bad[i].from));
        assert_int_equal(folder_write(path, changed, (int64_t)strlen(changed)), 0);
        snprintf(dir, sizeof dir, "%s/unfit", root);
        run_dlens(&r, root, "sweep", "--model", folder[0], "--prompt", "a", "--out", dir, "--quiet");
        if (r.status != 3 || !strstr(r.err, bad[i].says))
            fail_msg("%s: exit status %d: %s", bad[i].to, r.status, r.err);
        run_free(&r);
        assert_int_equal(folder_write(path, text, n), 0);
        free(text), free(changed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),     cmocka_unit_test(test_reference_differs),
        cmocka_unit_test(test_replay),  cmocka_unit_test(test_ways),
        cmocka_unit_test(test_foreign), cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_plan),
        cmocka_unit_test(test_unfit),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, remove_checkpoints);
}
