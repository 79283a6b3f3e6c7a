/* Model folders: layout, the Hugging Face cache, and what else a user may point at. */
#define _GNU_SOURCE
#include "loaders/model_dir.h"
#include "loader_files.h"

#define INDEX                                                                                                          \
    "{\"_class_name\": \"StableDiffusionPipeline\", \"_diffusers_version\": \"0.6.0\","                                \
    " \"_pair\": [\"not\", \"a component\"], \"unet\": [\"diffusers\", \"UNet2DConditionModel\"],"                     \
    " \"text_encoder\": [\"transformers\", \"CLIPTextModel\"], \"scheduler\": [\"diffusers\", \"PNDMScheduler\"],"     \
    " \"safety_checker\": [null, null], \"image_encoder\": null, \"requires_safety_checker\": false}"

#define ST_A "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}"

static void test_folder(void **state)
{
    (void)state;
    struct model_dir m;
    struct dl_err e = {0};
    put_text("sd/model_index.json", INDEX);
    put_text("sd/unet/config.json", "{\"in_channels\": 4}");
    put_text("sd/scheduler/scheduler_config.json", "{\"steps_offset\": 1}");
    put_st("sd/unet/diffusion_pytorch_model.safetensors", ST_A, 2);
    put_st("sd/text_encoder/model.safetensors", ST_A, 2);
    char spec[200];
    snprintf(spec, sizeof spec, "%s//", at("sd"));
    if (model_dir_open(&m, spec, &e)) fail_msg("%s", e.msg);
    assert_string_equal(m.path, at("sd"));
    assert_string_equal(m.spec, spec);
    assert_string_equal(m.class_name, "StableDiffusionPipeline");
    assert_int_equal(m.n_parts, 3);
    assert_string_equal(m.part[0].name, "unet");
    assert_string_equal(m.part[1].library, "transformers");
    assert_true(model_dir_has(&m, "scheduler"));
    assert_string_equal(model_dir_class(&m, "scheduler"), "PNDMScheduler");
    assert_false(model_dir_has(&m, "safety_checker"));
    assert_false(model_dir_has(&m, "image_encoder"));
    assert_false(model_dir_has(&m, "text_encoder_2"));
    assert_null(model_dir_class(&m, "text_encoder_2"));
    assert_false(cfg_bool(m.index, "requires_safety_checker", 1));

    struct cfg *c;
    if (model_dir_config(&m, "unet", &c, &e)) fail_msg("%s", e.msg);
    assert_int_equal(cfg_int(c, "in_channels", CFG_REQUIRED, 1, 9), 4);
    cfg_close(c);
    if (model_dir_config(&m, "scheduler", &c, &e)) fail_msg("%s", e.msg);
    assert_true(cfg_has(c, "steps_offset"));
    cfg_close(c);
    struct st_set *s;
    static const char *const parts[] = {"unet", "text_encoder"};
    for (int i = 0; i < 2; i++) {
        if (model_dir_weights(&m, parts[i], &s, &e)) fail_msg("%s", e.msg);
        assert_int_equal(st_set_count(s), 1);
        st_set_close(s);
    }
    char *path = model_dir_join(&m, "unet", NULL, &e);
    assert_string_equal(path, at("sd/unet"));
    free(path);

    assert_int_equal(model_dir_config(&m, "text_encoder", &c, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_says(e.msg, at("sd/text_encoder/config.json"), "No such file", NULL);
    e.code = 0;
    assert_int_equal(model_dir_config(&m, "vae", &c, &e), -1);
    assert_says(e.msg, at("sd/vae"), "folder is missing", NULL);
    e.code = 0;
    assert_int_equal(model_dir_weights(&m, "vae", &s, &e), -1);
    assert_says(e.msg, at("sd/vae"), "missing", NULL);
    model_dir_close(&m);
}

/* Opens spec, which must fail, and checks the message. */
#define assert_refused(spec, ...)                                                                                      \
    do {                                                                                                               \
        struct model_dir m_;                                                                                           \
        struct dl_err e_ = {0};                                                                                        \
        assert_int_equal(model_dir_open(&m_, spec, &e_), -1);                                                          \
        assert_null(m_.path);                                                                                          \
        assert_true(e_.code == DL_EINPUT || e_.code == DL_EUSAGE);                                                     \
        assert_says(e_.msg, __VA_ARGS__, NULL);                                                                        \
    } while (0)

static void test_other_things(void **state)
{
    (void)state;
    put_text("v1-5.safetensors", "x");
    assert_refused(at("v1-5.safetensors"), "v1-5.safetensors", "one file", "from_single_file");
    put_text("notes.txt", "x");
    assert_refused(at("notes.txt"), "notes.txt", "a file", "diffusers layout");
    mkdir(at("empty"), 0777);
    assert_refused(at("empty"), at("empty"), "empty folder");
    put_text("one/sd15.ckpt", "x");
    assert_refused(at("one"), "model_index.json", "sd15.ckpt", "one file");
    put_text("sd/unet/config.json", "{}");
    assert_refused(at("sd/unet"), "one component", "folder above it", at("sd"));
    assert_refused(at("sd"), at("sd"), "no model_index.json");
    assert_refused(at("nowhere"), at("nowhere"), "No such file");
    assert_refused(at("notes.txt/x"), "Not a directory");
    assert_refused("", "empty");
    char *longest = malloc(100001);
    assert_non_null(longest);
    memset(longest, 'a', 100000);
    longest[100000] = 0;
    assert_refused(longest, "too long");
    free(longest);
}

static void test_bad_index(void **state)
{
    (void)state;
    put_text("m/model_index.json", "[1]");
    assert_refused(at("m"), "model_index.json", "a list of 1");
    put_text("m/model_index.json", "{}");
    assert_refused(at("m"), "model_index.json", "_class_name", "nothing");
    put_text("m/model_index.json", "{\"_class_name\": \"X\", \"../unet\": [\"diffusers\", \"U\"]}");
    assert_refused(at("m"), "model_index.json", "../unet");
    put_text("m/model_index.json", "{\"_class_name\": \"X\", \"\": [\"diffusers\", \"U\"]}");
    assert_refused(at("m"), "impossible name");
}

static void clear_env(void)
{
    static const char *const names[] = {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"};
    for (int i = 0; i < 4; i++) unsetenv(names[i]);
}

static void test_cache(void **state)
{
    (void)state;
    struct model_dir m;
    struct dl_err e = {0};
    static const char *const where[4][2] = {{"HF_HUB_CACHE", "hub"},
                                            {"HF_HOME", "home/hub"},
                                            {"XDG_CACHE_HOME", "xdg/huggingface/hub"},
                                            {"HOME", "user/.cache/huggingface/hub"}};
    static const char *const value[4] = {"hub", "home", "xdg", "user"};
    clear_env();
    assert_refused("org/my.model-1", "HF_HUB_CACHE", "HOME");
    /* From the last to be looked at to the first, each with its own snapshot, so that the right one shows. */
    for (int i = 3; i >= 0; i--) {
        char name[200];
        setenv(where[i][0], at(value[i]), 1);
        assert_refused("org/my.model-1", "org/my.model-1", where[i][1], "models--org--my.model-1",
                       "hf download org/my.model-1");
        snprintf(name, sizeof name, "%s/models--org--my.model-1/refs/main", where[i][1]);
        put_text(name, i % 2 ? "0123abcd" : "0123abcd\n");
        assert_refused("org/my.model-1", "snapshots/0123abcd", "is missing");
        /* As in a real cache, the files are links into blobs/. */
        snprintf(name, sizeof name, "%s/models--org--my.model-1/blobs/b", where[i][1]);
        put_text(name, INDEX);
        snprintf(name, sizeof name, "%s/models--org--my.model-1/snapshots/0123abcd/x", where[i][1]);
        put_text(name, "");
        snprintf(name, sizeof name, "%s/models--org--my.model-1/snapshots/0123abcd/model_index.json", where[i][1]);
        assert_int_equal(symlink("../../blobs/b", at(name)), 0);
        if (model_dir_open(&m, "org/my.model-1", &e)) fail_msg("%s", e.msg);
        assert_string_equal(m.spec, "org/my.model-1");
        snprintf(name, sizeof name, "%s/models--org--my.model-1/snapshots/0123abcd", where[i][1]);
        assert_string_equal(m.path, at(name));
        assert_int_equal(m.n_parts, 3);
        model_dir_close(&m);
    }
    /* The cache's own folder for the model does as well. */
    if (model_dir_open(&m, at("hub/models--org--my.model-1"), &e)) fail_msg("%s", e.msg);
    assert_string_equal(m.path, at("hub/models--org--my.model-1/snapshots/0123abcd"));
    model_dir_close(&m);

    assert_refused("a/b/c", "a/b/c", "hub id like org/name");
    assert_refused("../b", "../b", "hub id like org/name");
    assert_refused("a/..", "a/..");
    assert_refused("name-alone", "name-alone", "hub id like org/name");
    put_text("hub/models--org--my.model-1/refs/main", "../../../etc");
    assert_refused("org/my.model-1", "refs/main", "does not hold");
    put_text("hub/models--org--my.model-1/refs/main", "");
    assert_refused("org/my.model-1", "refs/main", "does not hold");
    unlink(at("hub/models--org--my.model-1/refs/main"));
    assert_refused("org/my.model-1", "refs/main", "snapshots/0123abcd");
}

/* The real model_index.json files. */
static void test_published(void **state)
{
    (void)state;
    static const struct {
        const char *name, *class_name, *unet;
    } models[] = {
        {"stable-diffusion-v1-5", "StableDiffusionPipeline", "UNet2DConditionModel"},
        {"stable-diffusion-2-1", "StableDiffusionPipeline", "UNet2DConditionModel"},
        {"stable-diffusion-xl-base-1.0", "StableDiffusionXLPipeline", "UNet2DConditionModel"},
        {"IF-I-XL-v1.0", "IFPipeline", "UNet2DConditionModel"},
        {"FLUX.1-schnell", "FluxPipeline", NULL},
    };
    if (access(DLENS_SHARED "/models", F_OK)) {
        print_message("skipped: no %s/models\n", DLENS_SHARED);
        skip();
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[500];
        struct model_dir m;
        struct dl_err e = {0};
        struct cfg *c;
        snprintf(path, sizeof path, "%s/models/%s", DLENS_SHARED, models[i].name);
        if (model_dir_open(&m, path, &e)) fail_msg("%s", e.msg);
        assert_string_equal(m.class_name, models[i].class_name);
        if (models[i].unet)
            assert_string_equal(model_dir_class(&m, "unet"), models[i].unet);
        else
            assert_false(model_dir_has(&m, "unet"));
        if (model_dir_config(&m, "text_encoder", &c, &e)) fail_msg("%s", e.msg);
        assert_true(cfg_has(c, "architectures"));
        cfg_close(c);
        if (model_dir_config(&m, "scheduler", &c, &e)) fail_msg("%s", e.msg);
        cfg_close(c);
        model_dir_close(&m);
    }
}

int main(void)
{
#define IN_SCRATCH(f) cmocka_unit_test_setup_teardown(f, scratch_open, scratch_close)
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(test_folder), IN_SCRATCH(test_other_things),    IN_SCRATCH(test_bad_index),
        IN_SCRATCH(test_cache),  cmocka_unit_test(test_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
