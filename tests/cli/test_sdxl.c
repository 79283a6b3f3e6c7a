/* What is SDXL's alone on the command line: encoders, pooled text, sizes; and folders of it that do not fit together.
 */
#include "tests/cli/cli.h"

static char sdxl[CLI_PATH], model[CLI_PATH];

static int setup(void **state)
{
    if (cli_setup(state) < 0) return -1;
    snprintf(sdxl, sizeof sdxl, "%s/sdxl", root);
    snprintf(model, sizeof model, "%s/model", root);
    run_well(root, "synth", "--like", "sdxl", "--out", sdxl);
    return 0;
}

#define usage(text, ...)                                                                                               \
    refuses(2, text, "sweep", "--model", sdxl, "--prompt", "x", SHORT, "--out", in_root("never"), __VA_ARGS__)

static void test_usage(void **state)
{
    (void)state;
    usage("this model has text_encoder and text_encoder_2", "--encoder", "3");
    usage("--pooled: the pooled vector is that of text_encoder_2", "--encoder", "1", "--pooled", "full");
    usage("there is no other encoder", "--encoder", "both", "--other", "prompt");
    usage("--pooled", "--pooled", "half");
    usage("--other", "--other", "nothing");
    usage("--crop 3: expected X,Y", "--crop", "3");
    usage("--crop -1,0", "--crop", "-1,0");
    usage("--original-size 0x64", "--original-size", "0x64");
    usage("--target-size big", "--target-size", "big");
    usage("multiples of 4", "--size", "62x64");
    usage("there is no layer 6", "--layers", "6");
    usage("there is no layer 5", "--layers", "5", "--encoder", "text_encoder");
    usage("is about T5", "--max-tokens", "20");
    refuses(2, "this model has text_encoder only", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out",
            in_root("never"), "--encoder", "both");
    refuses(2, "are what SDXL is told", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", in_root("never"),
            "--crop", "0,0");
    assert_false(exists(in_root("never")));
}

/* A file of a fresh copy is replaced by the text, in which every ' is ". */
static void spoil(const char *file, const char *from, const char *to)
{
    char path[CLI_PATH + 100];
    folder_remove(model);
    copy_folder(sdxl, model);
    snprintf(path, sizeof path, "%s/%s", model, file);
    int64_t n;
    char *text = folder_read(path, &n), *out = calloc(1, (size_t)n + strlen(to) + 1);
    assert_non_null(text);
    assert_non_null(out);
    char *whole = strndup(text, (size_t)n), *at = strstr(whole, from);
    if (!at) fail_msg("%s has no %s", file, from);
    snprintf(out, (size_t)n + strlen(to) + 1, "%.*s%s%s", (int)(at - whole), whole, to, at + strlen(from));
    put_file(path, out);
    free(whole), free(text), free(out);
}

#define bad(text) refuses(3, text, "sweep", "--model", model, "--prompt", "x", SHORT, "--out", in_root("never"))

static void test_models(void **state)
{
    (void)state;
    spoil("text_encoder_2/config.json", "CLIPTextModelWithProjection", "CLIPTextModel");
    bad("text_encoder_2/config.json: architectures: expected CLIPTextModelWithProjection");
    spoil("text_encoder_2/config.json", "\"projection_dim\": 40", "\"projection_dim\": 48");
    bad("the UNet takes a pooled text vector of 40, text encoder 2 gives 48");
    spoil("unet/config.json", "\"cross_attention_dim\": 80", "\"cross_attention_dim\": 32");
    bad("the UNet takes text of width 32, the text encoders give 80");
    spoil("unet/config.json", "\"projection_class_embeddings_input_dim\": 88",
          "\"projection_class_embeddings_input_dim\": 48");
    bad("projection_class_embeddings_input_dim: 48 leaves no room for text beside 6 sizes of 8");
    spoil("unet/config.json", "text_time", "image");
    bad("addition_embed_type");
    spoil("model_index.json", "tokenizer_2", "tokenizer_3");
    bad("names no tokenizer_2");
    spoil("model_index.json", "\"force_zeros_for_empty_prompt\": true", "\"force_zeros_for_empty_prompt\": 3");
    bad("force_zeros_for_empty_prompt");
    spoil("model_index.json", "StableDiffusionXLPipeline", "StableDiffusionPipeline");
    bad("the UNet also takes a pooled text vector");
}

/* force_zeros_for_empty_prompt false: without a negative prompt it is "". */
static void test_no_zeros(void **state)
{
    (void)state;
    static const char *const blank[2] = {"--negative", ""};
    char out[3][CLI_PATH], path[CLI_PATH + 60];
    char *image[3];
    int64_t n[3];
    spoil("model_index.json", "\"force_zeros_for_empty_prompt\": true", "\"force_zeros_for_empty_prompt\": false");
    for (int i = 0; i < 3; i++) {
        snprintf(out[i], sizeof out[i], "%s/zeros-%d", root, i);
        const char *argv[] = {DLENS_BINARY,
                              "sweep",
                              "--quiet",
                              "--model",
                              i == 1 ? model : sdxl,
                              "--prompt",
                              "x",
                              "--steps",
                              "2",
                              "--layers",
                              "1",
                              "--dtype",
                              "f32",
                              "--out",
                              out[i],
                              i ? NULL : blank[0],
                              blank[1],
                              NULL};
        struct ran r;
        run_argv(&r, root, argv);
        if (r.status) fail_msg("exit status %d: %s", r.status, r.err);
        run_free(&r);
        snprintf(path, sizeof path, "%s/zeros-%d/images/p000_s17_k01.png", root, i);
        image[i] = folder_read(path, &n[i]);
        assert_non_null(image[i]);
    }
    /* PNGs hold their settings, which are alike but for the model; so the pictures are compared by their tail. */
    assert_true(n[0] > 500 && n[1] > 500 && n[2] > 500);
    assert_memory_equal(image[0] + n[0] - 500, image[1] + n[1] - 500, 500);
    assert_memory_not_equal(image[0] + n[0] - 500, image[2] + n[2] - 500, 500);
    for (int i = 0; i < 3; i++) free(image[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_usage), cmocka_unit_test(test_models),
                                       cmocka_unit_test(test_no_zeros)};
    return cmocka_run_group_tests(tests, setup, root_remove);
}
