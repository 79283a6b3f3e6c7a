/* Whole sweeps of the tiny synthetic FLUX checkpoints (schnell and dev) against diffusers' own pipeline, each layer
 * seen through the lens by hooks on its encoders: float32 latents and pictures, bf16 within PyTorch's own bf16 error,
 * replay from stored states, and the same bytes with streamed weights, in any batch, of several prompts at once. The
 * reference is made by tools/ref/flux_sweep.py, the checkpoints and pictures here and now by the dlens program. */
#include "tests/parity/sweep.h"

#define PROMPT "A red cat's painting in the dark house"

enum { SCHNELL, DEV, MODELS, CASES = 8 };

static const char *const models[MODELS] = {"flux", "flux-dev"};
static const char *const references[MODELS] = {"sweep_flux", "sweep_flux-dev"};

static const double latent_limit = 5e-5;

static int make_checkpoints(void **state) { return sweep_make(state, models, MODELS); }

static const struct {
    int n;
    struct sweep_case test[CASES];
} cases[MODELS] = {
    {8,
     {
         {"default", "all", 5, {NULL}},
         {"bare", "all", 5, {"--norm", "off", NULL}},
         {"other", "2", 1, {"--other", "prompt", NULL}},
         {"clip", "all", 5, {"--encoder", "1", NULL}},
         {"clip-other", "2", 1, {"--encoder", "text_encoder", "--other", "prompt", "--norm", "off", NULL}},
         {"steps", "3", 1, {"--steps", "4", NULL}},
         {"short", "3", 1, {"--max-tokens", "12", NULL}},
         {"wide", "4", 1, {"--size", "112x48", NULL}},
     }},
    {5,
     {
         {"default", "0,2,4", 3, {"--steps", "3", NULL}},
         {"guided", "2", 1, {"--steps", "3", "--guidance", "1.5", NULL}},
         {"unguided", "2", 1, {"--steps", "3", "--guidance", "0", NULL}},
         {"large", "3", 1, {"--steps", "2", "--size", "192x128", NULL}},
         {"clip", "0,2,4", 3, {"--encoder", "1", "--steps", "2", NULL}},
     }},
};

/* The ordinary pictures: what pipe(prompt) gives. */
static const struct sweep_case plain[MODELS] = {
    {"plain", "4", 1, {"--other", "prompt", NULL}},
    {"plain", "4", 1, {"--other", "prompt", "--steps", "3", NULL}},
};

static void run_case(char dir[ROOT_PATH], const char *command, int model, const char *const *source,
                     const struct sweep_case *c, const char *dtype)
{
    static const char *const common[] = {"--size", "64x48", NULL};
    sweep_run(dir, command, models[model], source, common, c, dtype);
}

static const char *const from_prompt[] = {"--prompt", PROMPT, NULL};

static void test_f32(void **state)
{
    (void)state;
    char dir[ROOT_PATH];
    int over = 0;
    for (int m = 0; m < MODELS; m++) {
        struct st_file *ref = ref_open(references[m]);
        print_message("%s\n", models[m]);
        for (int i = 0; i < cases[m].n; i++) {
            const struct sweep_case *c = &cases[m].test[i];
            run_case(dir, "sweep", m, from_prompt, c, "f32");
            over += sweep_compare_case(ref, c->name, c->images, dir, latent_limit);
        }
        run_case(dir, "sweep", m, from_prompt, &plain[m], "f32");
        over += sweep_compare(ref, "plain", dir, 4, latent_limit);
        st_close(ref);
    }
    assert_int_equal(over, 0);
}

static void test_reference_differs(void **state)
{
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        struct st_file *ref = ref_open(references[m]);
        sweep_differs(ref, cases[m].test, cases[m].n, latent_limit);
        st_close(ref);
    }
}

/* Pictures from stored states: nothing of the encoders is then read but final norms. */
static void test_replay(void **state)
{
    (void)state;
    static const struct {
        const char *encoder;
        int cases[2], n; /* numbers of schnell's: what is looked at differently in the same states */
    } stored[] = {{"2", {0, 1}, 2}, {"1", {3}, 1}};
    struct st_file *ref = ref_open(references[SCHNELL]);
    char dir[ROOT_PATH], file[FOLDER_PATH + 40];
    int over = 0;
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        snprintf(file, sizeof file, "%s/states-%zu.safetensors", root, i);
        run_well(root, "encode", "--model", in_root(models[SCHNELL]), "--prompt", PROMPT, "--encoder",
                 stored[i].encoder, "--out", file, "--quiet");
        const char *const from_file[] = {"--snapshots", file, NULL};
        for (int j = 0; j < stored[i].n; j++) {
            const struct sweep_case *c = &cases[SCHNELL].test[stored[i].cases[j]];
            run_case(dir, "replay", SCHNELL, from_file, c, "f32");
            over += sweep_compare_case(ref, c->name, c->images, dir, latent_limit);
        }
    }
    st_close(ref);
    assert_int_equal(over, 0);
}

/* All layers of prompt 0 in `a` and of prompt `at` in `b`. */
static void same_layers(const char *a, const char *b, int at)
{
    for (int k = 0; k <= 4; k++) images_same(a, 0, b, at, SWEEP_SEED, k);
}

/* However the work is divided, each image is the same, byte for byte. */
static void test_ways(void **state)
{
    (void)state;
    static const char *const encoders[] = {"1", "2"};
    char whole[ROOT_PATH], other[ROOT_PATH], list[ROOT_PATH];
    snprintf(list, sizeof list, "%s", in_root("prompts.txt"));
    assert_int_equal(folder_write(list, "a dog near the sea\n" PROMPT "\n", (int64_t)strlen(PROMPT) + 20), 0);
    const char *const from_list[] = {"--prompts", list, NULL};
    for (int i = 0; i < 2; i++) {
        const char *q = encoders[i];
        const struct sweep_case ways[] = {
            {i ? "whole2" : "whole1", "all", 5, {"--encoder", q, "--steps", "2", "--resident", "all", NULL}},
            {i ? "ones2" : "ones1", "all", 5, {"--encoder", q, "--steps", "2", "--batch", "1", NULL}},
            {i ? "stream2" : "stream1",
             "all",
             5,
             {"--encoder", q, "--steps", "2", "--resident", "stream", "--batch", "2", NULL}},
            {i ? "two2" : "two1", "all", 10, {"--encoder", q, "--steps", "2", "--batch", "3", NULL}},
        };
        run_case(whole, "sweep", DEV, from_prompt, &ways[0], "f32");
        for (int j = 1; j < 4; j++) {
            run_case(other, "sweep", DEV, j == 3 ? from_list : from_prompt, &ways[j], "f32");
            same_layers(whole, other, j == 3);
        }
    }
}

/* Stored states may differ in what a sweep's have in common: here each prompt's own pooled vector. */
static void test_foreign(void **state)
{
    (void)state;
    static const struct sweep_case own[] = {{"own", "all", 10, {"--other", "prompt", "--steps", "2", NULL}},
                                            {"own", "all", 10, {"--steps", "2", NULL}}};
    char sweep[ROOT_PATH], replayed[ROOT_PATH], list[ROOT_PATH], file[ROOT_PATH];
    snprintf(list, sizeof list, "%s", in_root("two.txt"));
    snprintf(file, sizeof file, "%s", in_root("foreign.safetensors"));
    assert_int_equal(folder_write(list, "a dog near the sea\n" PROMPT "\n", (int64_t)strlen(PROMPT) + 20), 0);
    run_well(root, "encode", "--model", in_root(models[DEV]), "--prompts", list, "--other", "prompt", "--out", file,
             "--quiet");
    const char *const from_list[] = {"--prompts", list, NULL}, *const from_file[] = {"--snapshots", file, NULL};
    run_case(sweep, "sweep", DEV, from_list, &own[0], "f32");
    run_case(replayed, "replay", DEV, from_file, &own[1], "f32");
    same_layers(sweep, replayed, 0);
}

static void test_bf16(void **state)
{
    (void)state;
    sweep_needs_bf16();
    struct st_file *ref = ref_open(references[SCHNELL]);
    char dir[ROOT_PATH];
    run_case(dir, "sweep", SCHNELL, from_prompt, &(struct sweep_case){"bf16", "all", 5, {NULL}}, "bf16");
    sweep_compare_bf16(ref, 5, dir);
    st_close(ref);
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
        const char *argv[] = {DLENS_BINARY, "sweep",       "--model",    in_root(models[bad[i].model]),
                              "--prompt",   "a",           "--out",      dir,
                              "--quiet",    bad[i].option, bad[i].value, NULL};
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
        run_dlens(&r, root, "sweep", "--model", in_root(models[SCHNELL]), "--prompt", "a", "--out", dir, "--dtype",
                  "f32", "--dry-run", "--json", "--resident", modes[i]);
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
        snprintf(path, sizeof path, "%s/%s", in_root(models[SCHNELL]), bad[i].file);
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
        run_dlens(&r, root, "sweep", "--model", in_root(models[SCHNELL]), "--prompt", "a", "--out", dir, "--quiet");
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
    return cmocka_run_group_tests(tests, make_checkpoints, root_remove);
}
