/* Whole sweeps of the tiny synthetic checkpoints against diffusers' own pipeline, each layer's state fed as
 * prompt_embeds: float32 latents and pictures, bf16 within PyTorch's own bf16 error. The reference is made by
 * tools/ref/sweep.py, the checkpoints and pictures here and now by the dlens program. */
#include "tests/parity/sweep.h"

static const char *const models[] = {"sd15", "sd21"};
static const char *const prompts[] = {"A few people are in the ocean splashing around", "Hello! A giraffe in a house"};
static const char *const references[] = {"sweep_sd15", "sweep_sd21"};
enum { MODELS = 2 };

static const double latent_limit = 5e-5;

static int make_checkpoints(void **state) { return sweep_make(state, models, MODELS); }

static const struct sweep_case cases[] = {
    /* all that a model has: sd15 4 blocks, sd21 3 */
    {"default", "all", 0, {NULL}},
    {"ddim", "2", 1, {"--scheduler", "ddim", NULL}},
    {"euler", "2", 1, {"--scheduler", "euler", NULL}},
    {"dpm", "2", 1, {"--scheduler", "dpm++", NULL}},
    {"unguided", "1", 1, {"--guidance", "1", NULL}},
    {"negative", "3", 1, {"--negative", "a house", NULL}},
    {"wide", "2", 1, {"--size", "96x64", NULL}},
    {"odd", "3", 1, {"--size", "72x56", NULL}}, /* latents of 18 x 14: halved twice, the sides become odd */
    {"tiled", "2", 1, {"--size", "64x64", "--vae-tile", "8", NULL}},
    {"slivers", "2", 1, {"--size", "96x64", "--vae-tile", "20", NULL}}, /* a last row of tiles one latent pixel high */
};

/* Images of a case that shows all layers. */
static int all_of(int model) { return model ? 4 : 5; }

static void run_case(char dir[ROOT_PATH], int model, const struct sweep_case *c, const char *dtype)
{
    static const char *const common[] = {"--steps", "10", "--guidance", "7.5", NULL};
    const char *const prompt[] = {"--prompt", prompts[model], NULL};
    sweep_run(dir, "sweep", models[model], prompt, common, c, dtype);
}

static void test_f32(void **state)
{
    (void)state;
    int over = 0;
    char dir[ROOT_PATH];
    for (int m = 0; m < MODELS; m++) {
        struct st_file *ref = ref_open(references[m]);
        print_message("%s, f32\n", models[m]);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const struct sweep_case *c = &cases[i];
            run_case(dir, m, c, "f32");
            over += sweep_compare_case(ref, c->name, c->images ? c->images : all_of(m), dir, latent_limit);
            /* The last layer is the ordinary picture: pipe(prompt). */
            if (i == 0) over += sweep_compare(ref, "default.plain", dir, all_of(m) - 1, latent_limit);
        }
        st_close(ref);
    }
    assert_int_equal(over, 0);
}

static void test_bf16(void **state)
{
    (void)state;
    sweep_needs_bf16();
    for (int m = 0; m < MODELS; m++) {
        struct st_file *ref = ref_open(references[m]);
        char dir[ROOT_PATH];
        print_message("%s, bf16\n", models[m]);
        run_case(dir, m, &(struct sweep_case){"bf16", "all", 0, {NULL}}, "bf16");
        sweep_compare_bf16(ref, all_of(m), dir);
        st_close(ref);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, make_checkpoints, root_remove);
}
