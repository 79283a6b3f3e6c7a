/* DeepFloyd IF's folders and options: what is not right is named for what it is, in one line. */
#include "tests/cli/cli.h"

#include "kernels/cpu/cpu.h"
#include "pipelines/pipe.h"
#include "tools/synth.h"

static char first[CLI_PATH], second[CLI_PATH], model[CLI_PATH]; /* both stages; the copy that is being spoilt */

static int setup(void **state)
{
    if (cli_setup(state) < 0) return -1;
    snprintf(first, sizeof first, "%s/if", root);
    snprintf(second, sizeof second, "%s/if2", root);
    run_well(root, "synth", "--like", "if", "--out", first);
    run_well(root, "synth", "--like", "if2", "--out", second);
    return 0;
}

static void fresh(const char *from)
{
    snprintf(model, sizeof model, "%s/model", root);
    folder_remove(model);
    copy_folder(from, model);
}

/* model/name, in one of four buffers that take turns. */
static const char *part(const char *name)
{
    static char path[4][CLI_PATH + 100];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", model, name);
    return p;
}

/* Puts another folder's part in the place of the copy's. */
static void replace(const char *name, const char *from, const char *other)
{
    char path[CLI_PATH + 100];
    folder_remove(part(name));
    snprintf(path, sizeof path, "%s/%s", from, other);
    copy_folder(path, part(name));
}

#define sweep_of(status, text, m, ...)                                                                                 \
    refuses(status, text, "sweep", "--model", m, "--prompt", "x", SHORT, "--out", in_root("never"), ##__VA_ARGS__)
#define bad(text, ...) sweep_of(3, text, model, ##__VA_ARGS__)

static void test_folders(void **state)
{
    (void)state;
    fresh(first);
    assert_int_equal(unlink(part("tokenizer/spiece.model")), 0);
    bad("tokenizer/spiece.model: missing. A T5 tokenizer needs it");
    fresh(first);
    put_file(part("tokenizer/spiece.model"), "\n\x0e\n\x05<pad>");
    bad("tokenizer/spiece.model");
    fresh(first);
    replace("text_encoder", sd15, "text_encoder");
    bad("text_encoder/config.json");
    fresh(first);
    replace("tokenizer", sd15, "tokenizer");
    bad("tokenizer/spiece.model: missing. A T5 tokenizer needs it");
    fresh(first);
    replace("unet", sd15, "unet");
    bad("unet/config.json");
    fresh(first);
    replace("scheduler", sd15, "scheduler");
    bad("scheduler/scheduler_config.json: pndm: it does not know a learned variance");
    fresh(sd15);
    replace("text_encoder", first, "text_encoder");
    bad("text_encoder/config.json");
    assert_false(exists(in_root("never")));
}

/* One stage given as the other, by option and by folder. */
static void test_stages(void **state)
{
    (void)state;
    sweep_of(2, "this is a second stage (IFSuperResolutionPipeline), which enlarges pictures", second);
    sweep_of(2, "this is no second stage, which enlarges pictures, but IFPipeline", first, "--upscale", first);
    sweep_of(2, "this is no second stage, which enlarges pictures, but StableDiffusionPipeline", first, "--upscale",
             sd15);
    sweep_of(2, "--upscale adds DeepFloyd IF's second stage, and this model has none", sd15, "--upscale", second);
    sweep_of(3, "No such file or directory", first, "--upscale", in_root("nowhere"));
    fresh(first);
    replace("unet", second, "unet");
    bad("model_index.json says IFPipeline, but the unet is that of stage II");
    fresh(second);
    replace("unet", first, "unet");
    sweep_of(3, "model_index.json says IFSuperResolutionPipeline, but the unet is that of stage I (", first,
             "--upscale", model);
    fresh(second);
    folder_remove(part("image_noising_scheduler"));
    sweep_of(3, "image_noising_scheduler: the component's folder is missing", first, "--upscale", model);
    refuses(2, "this is a second stage", "encode", "--model", second, "--prompt", "x", "--out", in_root("never"));
    refuses(2, "this is a second stage", "tokens", "--model", second, "--prompt", "x");
    assert_false(exists(in_root("never")));
}

static void test_options(void **state)
{
    (void)state;
    sweep_of(2, "--upscale-steps, --upscale-guidance and --upscale-seed go with --upscale DIR", first,
             "--upscale-steps", "3");
    sweep_of(2, "--upscale-guidance", first, "--upscale", second, "--upscale-guidance", "x");
    sweep_of(2, "--upscale-seed", first, "--upscale", second, "--upscale-seed", "x");
    sweep_of(2, "--clean-caption is about DeepFloyd IF's prompts", sd15, "--clean-caption", "off");
    sweep_of(2, "--clean-caption", first, "--clean-caption", "perhaps");
    sweep_of(2, "--max-tokens", first, "--max-tokens", "1");
    sweep_of(2, "multiples of 4", first, "--size", "18x18");
    sweep_of(2, "--scheduler flow-euler", first, "--scheduler", "flow-euler");
    sweep_of(2, "--scheduler pndm: it does not know a learned variance", first, "--scheduler", "pndm");
    sweep_of(2, "--scheduler ddim: it does not know a learned variance", first, "--scheduler", "ddim");
    sweep_of(2, "--scheduler euler: it does not know a learned variance", first, "--scheduler", "euler");
    sweep_of(2, "--pooled", first, "--pooled", "full");
    sweep_of(2, "--vae-tile and --vae-dtype are about a VAE", first, "--vae-tile", "8");
    sweep_of(2, "--vae-tile and --vae-dtype are about a VAE", first, "--vae-dtype", "f32");
    sweep_of(2, "--other", first, "--other", "prompt");
    assert_false(exists(in_root("never")));
}

/* What does not fit into 77 tokens is quoted. */
static void test_long_prompt(void **state)
{
    (void)state;
    char text[800] = "";
    for (int i = 0; i < 76; i++) strcat(text, "cat ");
    strcat(text, "and a dog");
    struct ran r;
    run_dlens(&r, root, "sweep", "--model", first, "--prompt", text, SHORT, "--out", in_root("long"));
    assert_int_equal(r.status, 0);
    if (!strstr(r.err, "prompt 0: longer than 77 tokens; cut off: \"and a dog\"")) fail_msg("not warned: %s", r.err);
    run_free(&r);
    run_dlens(&r, root, "sweep", "--model", first, "--prompt", text, "--max-tokens", "90", SHORT, "--out",
              in_root("longer"));
    assert_int_equal(r.status, 0);
    assert_null(strstr(r.err, "cut off"));
    run_free(&r);
}

/* Parts and plans of both. */
static void test_inspect(void **state)
{
    (void)state;
    json_t *o = json_of("inspect", first, "--upscale", second);
    assert_string_equal(json_string_value(json_object_get(o, "class")), "IFPipeline");
    assert_int_equal(json_array_size(json_object_get(o, "parts")), 2);
    assert_int_equal(json_array_size(json_object_get(o, "faults")), 0);
    json_decref(o);
    o = json_of("inspect", second);
    assert_int_equal(json_integer_value(json_object_get(o, "upscales")), 4);
    assert_int_equal(json_array_size(json_object_get(o, "faults")), 0);
    json_decref(o);
}

/* ---- the real sizes ---- */

struct counts {
    int64_t text, unet; /* parameters */
};

static void count(void *user, const char *name, const struct st_set *files)
{
    struct counts *c = user;
    int64_t *sum = strcmp(name, "unet") ? &c->text : &c->unet;
    for (int64_t i = 0; i < st_set_count(files); i++) {
        const struct st_tensor *t = st_set_at(files, i);
        int64_t n = 1;
        for (int d = 0; d < t->nd; d++) n *= t->dim[d];
        *sum += n;
    }
}

/* Parameters as the published models have them, nothing missing or extra. The files are holes. */
static void test_full_size(void **state)
{
    (void)state;
    static const struct {
        const char *like;
        int64_t text, unet;
    } full[] = {{"if-m", 4762310656, 371605830},
                {"if", 4762310656, 935365830},
                {"if-xl", 4762310656, 4304695110},
                {"if2", 0, 1243277190}}; /* its text encoder is not looked at */
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct dl_err e = {0};
    if (cpu_open(&be, &ctx, &(struct dl_cpu_opts){.threads = 1}, &e) < 0) fail_msg("%s", e.msg);
    for (size_t i = 0; i < sizeof full / sizeof *full; i++) {
        struct pipe *p = NULL;
        struct counts c = {0};
        const char *dir = in_root("full");
        struct synth_opts o = {.like = full[i].like, .full = true, .hollow = true, .out = dir, .type = DL_BF16};
        if (synth_write(&o, &e) < 0 || pipe_open(&p, dir, &(struct pipe_opts){.be = be, .ctx = ctx}, &e) < 0 ||
            pipe_check(p, count, &c, &e) < 0)
            fail_msg("%s: %s", full[i].like, e.msg);
        assert_int_equal(c.text, full[i].text);
        assert_int_equal(c.unet, full[i].unet);
        pipe_close(p);
        folder_remove(dir);
    }
    be->close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders),     cmocka_unit_test(test_stages),  cmocka_unit_test(test_options),
        cmocka_unit_test(test_long_prompt), cmocka_unit_test(test_inspect), cmocka_unit_test(test_full_size),
    };
    return cmocka_run_group_tests(tests, setup, root_remove);
}
