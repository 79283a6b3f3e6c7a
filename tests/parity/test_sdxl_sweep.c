/* Whole sweeps of the tiny synthetic SDXL checkpoint against diffusers' own pipeline, each layer seen through the lens
 * by hooks on its encoders: float32 latents and pictures, bf16 within PyTorch's own bf16 error, and replay from stored
 * states. The reference is made by tools/ref/sdxl_sweep.py, the checkpoint and pictures here and now by the dlens
 * program. */
#include "tests/parity/sweep.h"

#define PROMPT "Hello! A giraffe in a house"

static const char *const models[] = {"sdxl"};

static const double latent_limit = 5e-5;

static int make_checkpoint(void **state) { return sweep_make(state, models, 1); }

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

static void run_case(char dir[ROOT_PATH], const char *command, const char *const *source, const struct sweep_case *c,
                     const char *dtype)
{
    static const char *const common[] = {"--steps", "6", NULL};
    sweep_run(dir, command, models[0], source, common, c, dtype);
}

static const char *const from_prompt[] = {"--prompt", PROMPT, NULL};

static void test_f32(void **state)
{
    (void)state;
    struct st_file *ref = ref_open("sweep_sdxl");
    char dir[ROOT_PATH];
    int over = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_case(dir, "sweep", from_prompt, &cases[i], "f32");
        over += sweep_compare_case(ref, cases[i].name, cases[i].images, dir, latent_limit);
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        run_case(dir, "sweep", from_prompt, &plain[i], "f32");
        over += sweep_compare(ref, plain[i].name, dir, 4, latent_limit);
    }
    st_close(ref);
    assert_int_equal(over, 0);
}

static void test_reference_differs(void **state)
{
    (void)state;
    struct st_file *ref = ref_open("sweep_sdxl");
    sweep_differs(ref, cases, sizeof cases / sizeof *cases, latent_limit);
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
    struct st_file *ref = ref_open("sweep_sdxl");
    char dir[ROOT_PATH], file[FOLDER_PATH + 40];
    int over = 0;
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        snprintf(file, sizeof file, "%s/states-%zu.safetensors", root, i);
        run_well(root, "encode", "--model", in_root(models[0]), "--prompt", PROMPT, stored[i].extra[0],
                 stored[i].extra[1], "--out", file, "--quiet");
        const char *const from_file[] = {"--snapshots", file, NULL};
        for (int j = 0; j < stored[i].n; j++) {
            struct sweep_case c = cases[stored[i].cases[j]];
            if (stored[i].cases[j] == 8) c.extra[0] = NULL; /* the file has the negative */
            run_case(dir, "replay", from_file, &c, "f32");
            over += sweep_compare_case(ref, c.name, c.images, dir, latent_limit);
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
        {"together", "all", 6, {"--seeds", "17,42", "--batch", "5", NULL}},
        {"alone", "3", 1, {"--batch", "1", NULL}},
        {"pair", "4,3", 1, {"--batch", "2", "--pooled", "lens", NULL}},
    };
    static const char *const ocean[] = {"--prompt", "the ocean", NULL};
    char dir[3][ROOT_PATH];
    for (int i = 0; i < 3; i++) run_case(dir[i], "sweep", ocean, &together[i], "f32");
    for (int i = 1; i < 3; i++) images_same(dir[0], 0, dir[i], 0, SWEEP_SEED, 3);
}

static void test_bf16(void **state)
{
    (void)state;
    sweep_needs_bf16();
    struct st_file *ref = ref_open("sweep_sdxl");
    char dir[ROOT_PATH];
    run_case(dir, "sweep", from_prompt, &(struct sweep_case){"bf16", "all", 6, {NULL}}, "bf16");
    sweep_compare_bf16(ref, 6, dir);
    st_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_reference_differs),
                                       cmocka_unit_test(test_replay), cmocka_unit_test(test_alone),
                                       cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, make_checkpoint, root_remove);
}
