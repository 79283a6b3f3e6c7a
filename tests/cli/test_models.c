#define _GNU_SOURCE /* memmem */
/* Model folders as people have them and as nobody should: each is run or refused with file, thing and way out. */
#include "tests/cli/cli.h"

#include "loaders/st_write.h"

#include <math.h>

#define CLIP "text_encoder/model.safetensors"
#define UNET "unet/diffusion_pytorch_model.safetensors"
#define VAE "vae/diffusion_pytorch_model.safetensors"

static char model[CLI_PATH]; /* the copy that is being spoilt */

/* A fresh copy of the checkpoint in `model`. */
static void fresh(void)
{
    snprintf(model, sizeof model, "%s/model", root);
    folder_remove(model);
    copy_folder(sd15, model);
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

/* The sweep must be refused as a bad model. */
#define bad(text) refuses(3, text, "sweep", "--model", model, "--prompt", "x", SHORT, "--out", in_root("never"))

static void good(void)
{
    folder_remove(in_root("good"));
    run_well(root, "sweep", "--quiet", "--model", model, "--prompt", "A house", SHORT, "--rng", "torch-cpu", "--dtype",
             "f32", "--out", in_root("good"));
}

static void test_places(void **state)
{
    (void)state;
    fresh();
#define at(text, place) refuses(3, text, "sweep", "--model", place, "--prompt", "x", SHORT, "--out", in_root("never"))
    at("No such file or directory; --model takes a folder in diffusers layout", in_root("nowhere"));
    at("is one component of a model", part("unet"));
    at("is a checkpoint in one file, and dlens reads folders", part(UNET));
    at("hf download stabilityai/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1");
    mkdir(in_root("empty"), 0700);
    at("is an empty folder; download a model in diffusers layout into it", in_root("empty"));
    refuses(2, "the model's name is empty", "sweep", "--model", "", "--prompt", "x", SHORT, "--out", in_root("never"));
    unlink(part("model_index.json"));
    bad("model_index.json");
    refuses(3, "No such file or directory", "inspect", in_root("nowhere"));
    assert_false(exists(in_root("never")));
}

/* What `missing` is called in the message when a file of the folder is taken away. */
static void test_missing_files(void **state)
{
    (void)state;
    static const struct {
        const char *file, *text;
    } missing[] = {
        {CLIP, "text_encoder"},
        {UNET, "unet"},
        {VAE, "vae"},
        {"unet/config.json", "unet/config.json"},
        {"vae/config.json", "vae/config.json"},
        {"text_encoder/config.json", "text_encoder/config.json"},
        {"scheduler/scheduler_config.json", "scheduler/scheduler_config.json"},
        {"tokenizer/merges.txt", "tokenizer/merges.txt"},
        {"tokenizer/vocab.json", "tokenizer/vocab.json"},
    };
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        fresh();
        assert_int_equal(unlink(part(missing[i].file)), 0);
        bad(missing[i].text);
    }
    fresh(); /* old formats are named as such */
    assert_int_equal(rename(part(UNET), part("unet/diffusion_pytorch_model.bin")), 0);
    bad("diffusion_pytorch_model.bin");
    assert_false(exists(in_root("never")));
}

/* The weight file cut to `bytes`, or (negative) that many taken from its end; or (grow) lengthened. */
static void test_file_sizes(void **state)
{
    (void)state;
    static const char *const files[] = {CLIP, UNET, VAE};
    static const int64_t sizes[] = {0, 7, 8, 100, -1};
    for (int f = 0; f < 3; f++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct stat st;
            fresh();
            assert_int_equal(stat(part(files[f]), &st), 0);
            assert_int_equal(truncate(part(files[f]), sizes[i] < 0 ? st.st_size + sizes[i] : sizes[i]), 0);
            bad(files[f]);
        }
    fresh();
    struct stat st;
    assert_int_equal(stat(part(UNET), &st), 0);
    assert_int_equal(truncate(part(UNET), st.st_size + 4096), 0);
    bad(UNET);
    /* a header length beyond the file */
    fresh();
    int64_t n;
    char *data = folder_read(part(VAE), &n);
    assert_non_null(data);
    memset(data, 0xff, 8);
    assert_int_equal(folder_write(part(VAE), data, n), 0);
    free(data);
    bad(VAE);
}

/* Rewrites a weight file through `change`, which sees the list of tensors and may return another count. */
static void rewrite(const char *file, int64_t (*change)(struct st_tensor *t, int64_t n, const void *arg),
                    const void *arg)
{
    struct st_file *f;
    char path[CLI_PATH + 100], old[CLI_PATH + 110];
    snprintf(path, sizeof path, "%s", part(file));
    snprintf(old, sizeof old, "%s.old", path);
    assert_int_equal(rename(path, old), 0);
    must(st_open(&f, old, e));
    int64_t n = st_file_count(f);
    struct st_tensor *t = calloc((size_t)n + 1, sizeof *t);
    assert_non_null(t);
    for (int64_t i = 0; i < n; i++) t[i] = *st_file_at(f, i);
    n = change(t, n, arg);
    must(st_write(path, t, n, NULL, 0, e));
    free(t);
    st_close(f);
    unlink(old);
}

static int64_t index_of(const struct st_tensor *t, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++)
        if (!strcmp(t[i].name, name)) return i;
    fail_msg("no tensor \"%s\"", name);
    return -1;
}

static int64_t drop(struct st_tensor *t, int64_t n, const void *name)
{
    t[index_of(t, n, name)] = t[n - 1];
    return n - 1;
}

static int64_t turn(struct st_tensor *t, int64_t n, const void *name) /* [a, b] to [b, a] */
{
    struct st_tensor *x = &t[index_of(t, n, name)];
    int64_t first = x->dim[0];
    assert_int_equal(x->nd, 2);
    x->dim[0] = x->dim[1], x->dim[1] = first;
    return n;
}

static int64_t add(struct st_tensor *t, int64_t n, const void *name)
{
    static const float zero[4];
    t[n] = (struct st_tensor){.name = name, .t = DL_F32, .nd = 1, .dim = {4}, .data = zero};
    return n + 1;
}

static int64_t whole_numbers(struct st_tensor *t, int64_t n, const void *name) /* the same bytes as I32 */
{
    t[index_of(t, n, name)].t = DL_I32;
    return n;
}

static void test_tensors(void **state)
{
    (void)state;
    static const char norm[] = "text_model.final_layer_norm.weight",
                      proj[] = "mid_block.resnets.0.time_emb_proj.weight", conv[] = "decoder.conv_in.bias";
    fresh();
    rewrite(CLIP, drop, norm);
    bad("\"text_model.final_layer_norm.weight\" is missing, expected [32]");
    fresh();
    rewrite(VAE, drop, conv);
    bad("\"decoder.conv_in.bias\" is missing, expected [16]");
    fresh();
    rewrite(UNET, turn, proj);
    bad("\"mid_block.resnets.0.time_emb_proj.weight\" has shape");
    fresh();
    rewrite(UNET, add, "mid_block.unheard_of");
    bad("mid_block.unheard_of");
    fresh();
    rewrite(UNET, whole_numbers, proj);
    bad(proj);
    /* inspect goes on to name all of them, in all parts */
    fresh();
    rewrite(CLIP, drop, norm);
    rewrite(UNET, turn, proj);
    rewrite(UNET, add, "mid_block.unheard_of");
    rewrite(VAE, drop, conv);
    struct ran r;
    run_dlens(&r, root, "inspect", model);
    assert_int_equal(r.status, 3);
    assert_non_null(strstr(r.out, norm));
    assert_non_null(strstr(r.out, proj));
    assert_non_null(strstr(r.out, "mid_block.unheard_of"));
    assert_non_null(strstr(r.out, conv));
    run_free(&r);
    /* so does its JSON, which is there in spite of the exit status */
    run_dlens(&r, root, "inspect", "--json", model);
    assert_int_equal(r.status, 3);
    json_t *o = json_loads(r.out, 0, NULL);
    assert_non_null(o);
    assert_int_equal(json_array_size(json_object_get(o, "parts")), 3);
    assert_int_equal(json_array_size(json_object_get(o, "faults")), 4);
    assert_non_null(strstr(json_string_value(json_object_get(o, "error")), norm));
    json_decref(o);
    run_free(&r);
}

static int64_t spoil(struct st_tensor *t, int64_t n, const void *name)
{
    static float v[4096];
    struct st_tensor *x = &t[index_of(t, n, name)];
    assert_true(x->bytes <= (int64_t)sizeof v);
    memcpy(v, x->data, (size_t)x->bytes);
    v[0] = NAN, x->data = v;
    return n;
}

/* Pictures of what is no number are made, but not in silence. */
static void test_not_numbers(void **state)
{
    (void)state;
    fresh();
    rewrite(UNET, spoil, "conv_out.bias");
    json_t *o = json_of("sweep", "--model", model, "--prompt", "x", "--seeds", "4:7", "--steps", "1", "--out",
                        in_root("spoilt"));
    json_t *w = json_object_get(o, "warnings");
    assert_int_equal(json_array_size(w), 9); /* eight of twelve are named, and their number */
    assert_non_null(strstr(json_string_value(json_array_get(w, 0)), "prompt 0, seed 4, layer 1: the model's result"));
    assert_non_null(strstr(json_string_value(json_array_get(w, 8)), "12 pictures in all"));
    json_decref(o);
}

/* One value in a JSON file replaced: `from` must be there. */
static void edit(const char *file, const char *from, const char *to)
{
    int64_t n;
    char *text = folder_read(part(file), &n), *at = text ? strstr(text, from) : NULL;
    if (!at) fail_msg("%s has no %s", file, from);
    char *edited = malloc((size_t)n + strlen(to) + 1);
    assert_non_null(edited);
    sprintf(edited, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    put_file(part(file), edited);
    free(edited), free(text);
}

static void test_configs(void **state)
{
    (void)state;
    static const struct {
        const char *file, *from, *to, *text;
    } cases[] = {
        {"unet/config.json", "\"sample_size\": 16", "\"sample_size\": 1000000000", "sample_size: found 1000000000"},
        {"unet/config.json", "\"sample_size\": 16", "\"sample_size\": 0", "sample_size"},
        {"unet/config.json", "\"sample_size\": 16", "\"sample_size\": \"big\"", "sample_size"},
        {"unet/config.json", "\"norm_num_groups\": 8", "\"norm_num_groups\": 0", "norm_num_groups"},
        {"unet/config.json", "\"attention_head_dim\": 2", "\"attention_head_dim\": 1e30", "attention_head_dim"},
        {"unet/config.json", "\"layers_per_block\": 2", "\"layers_per_block\": 100000", "layers_per_block"},
        {"unet/config.json", "\"cross_attention_dim\": 32", "\"cross_attention_dim\": 64",
         "takes text of width 64, the text encoder gives 32"},
        {"unet/config.json", "\"in_channels\": 4", "\"in_channels\": 9", "inpainting"},
        {"text_encoder/config.json", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 2000000000",
         "num_hidden_layers"},
        {"text_encoder/config.json", "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 6", "layers.4."},
        {"text_encoder/config.json", "\"hidden_size\": 32", "\"hidden_size\": -32", "hidden_size"},
        {"text_encoder/config.json", "\"vocab_size\": 782", "\"vocab_size\": 10", "782 tokens"},
        {"text_encoder/config.json", "quick_gelu", "relu", "hidden_act"},
        {"vae/config.json", "\"latent_channels\": 4", "\"latent_channels\": 16", "16 latent"},
        {"vae/config.json", "\"norm_num_groups\": 4", "\"norm_num_groups\": 3", "norm_num_groups"},
        {"vae/config.json", "\"silu\"", "\"relu\"", "act_fn"},
        {"scheduler/scheduler_config.json", "\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 0",
         "num_train_timesteps"},
        {"scheduler/scheduler_config.json", "PNDMScheduler", "LMSDiscreteScheduler", "LMSDiscreteScheduler"},
        {"scheduler/scheduler_config.json", "\"epsilon\"", "\"sample\"", "prediction_type"},
        {"model_index.json", "StableDiffusionPipeline", "KandinskyPipeline",
         "this is a KandinskyPipeline; dlens runs StableDiffusionPipeline"},
        {"model_index.json", "\"unet\"", "\"prior\"", "names no unet"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fresh();
        edit(cases[i].file, cases[i].from, cases[i].to);
        bad(cases[i].text);
    }
    static const char *const files[] = {"model_index.json",
                                        "unet/config.json",
                                        "vae/config.json",
                                        "text_encoder/config.json",
                                        "scheduler/scheduler_config.json",
                                        "tokenizer/vocab.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char nested[2001];
        memset(nested, '[', 1000), memset(nested + 1000, ']', 1000), nested[2000] = 0;
        fresh();
        put_file(part(files[i]), nested);
        bad(files[i]);
        put_file(part(files[i]), "{\"a\": ");
        bad(files[i]);
        put_file(part(files[i]), "");
        bad(files[i]);
    }
    assert_false(exists(in_root("never")));
}

/* The picture of a good sweep of `model`, against one of the untouched checkpoint. */
static void same_picture(void)
{
    char a[CLI_PATH + 64], b[CLI_PATH + 64];
    int64_t na = 0, nb = 0;
    good();
    if (!exists(in_root("plain")))
        run_well(root, "sweep", "--quiet", "--model", sd15, "--prompt", "A house", SHORT, "--rng", "torch-cpu",
                 "--dtype", "f32", "--out", in_root("plain"));
    snprintf(a, sizeof a, "%s/images/p000_s17_k01.png", in_root("good")),
        snprintf(b, sizeof b, "%s/images/p000_s17_k01.png", in_root("plain"));
    char *x = folder_read(a, &na), *y = folder_read(b, &nb);
    assert_non_null(x);
    assert_non_null(y);
    /* The pixels: the chunk with the settings names the model, what comes from IDAT on does not. */
    const char *p = memmem(x, (size_t)na, "IDAT", 4), *q = memmem(y, (size_t)nb, "IDAT", 4);
    assert_true(p && q && x + na - p == y + nb - q);
    assert_memory_equal(p, q, (size_t)(x + na - p));
    free(x), free(y);
}

static void test_layouts(void **state)
{
    (void)state;
    /* names of the fp16 variant, in all parts */
    fresh();
    assert_int_equal(rename(part(CLIP), part("text_encoder/model.fp16.safetensors")), 0);
    assert_int_equal(rename(part(UNET), part("unet/diffusion_pytorch_model.fp16.safetensors")), 0);
    assert_int_equal(rename(part(VAE), part("vae/diffusion_pytorch_model.fp16.safetensors")), 0);
    same_picture();
}

/* Strips "text_model." as transformers 5 writes it. */
static int64_t strip(struct st_tensor *t, int64_t n, const void *arg)
{
    (void)arg;
    for (int64_t i = 0; i < n; i++)
        if (!strncmp(t[i].name, "text_model.", 11)) t[i].name += 11;
    return n;
}

/* Attention of the VAE as checkpoints before diffusers 0.18 have it. */
static int64_t age(struct st_tensor *t, int64_t n, const void *arg)
{
    static const char *const names[][2] = {
        {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
    static char old[64][120];
    int at = 0;
    (void)arg;
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < 4 && at < 64; j++) {
            const char *p = strstr(t[i].name, names[j][0]);
            if (!p || !strstr(t[i].name, "mid_block.attentions")) continue;
            snprintf(old[at], sizeof old[at], "%.*s%s%s", (int)(p - t[i].name), t[i].name, names[j][1],
                     p + strlen(names[j][0]));
            t[i].name = old[at++];
        }
    assert_int_equal(at, 16); /* encoder and decoder, weight and bias */
    return n;
}

static void test_names(void **state)
{
    (void)state;
    fresh();
    rewrite(CLIP, strip, NULL);
    same_picture();
    fresh();
    rewrite(VAE, age, NULL);
    same_picture();
}

/* A hub id is found in the cache as huggingface_hub lays it out: links from a snapshot into blobs. */
static void test_hub_cache(void **state)
{
    (void)state;
    static const char *const folders[] = {"hub",
                                          "hub/models--org--tiny",
                                          "hub/models--org--tiny/refs",
                                          "hub/models--org--tiny/blobs",
                                          "hub/models--org--tiny/snapshots",
                                          "hub/models--org--tiny/snapshots/0123abcd"};
    static const char *const files[] = {"model_index.json",
                                        "unet/config.json",
                                        "vae/config.json",
                                        "text_encoder/config.json",
                                        "scheduler/scheduler_config.json",
                                        "tokenizer/vocab.json",
                                        "tokenizer/merges.txt",
                                        "tokenizer/tokenizer_config.json",
                                        CLIP,
                                        UNET,
                                        VAE};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) assert_int_equal(mkdir(in_root(folders[i]), 0700), 0);
    put_file(in_root("hub/models--org--tiny/refs/main"), "0123abcd");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char blob[CLI_PATH], to[CLI_PATH], from[CLI_PATH], link[CLI_PATH];
        const char *slash = strchr(files[i], '/');
        snprintf(blob, sizeof blob, "hub/models--org--tiny/blobs/%zu", i);
        snprintf(from, sizeof from, "%s/%s", sd15, files[i]);
        copy_file(from, in_root(blob));
        if (slash) {
            snprintf(to, sizeof to, "%s/%.*s", in_root(folders[5]), (int)(slash - files[i]), files[i]);
            mkdir(to, 0700);
        }
        snprintf(to, sizeof to, "%s/%s", in_root(folders[5]), files[i]);
        snprintf(link, sizeof link, "%s../../blobs/%zu", slash ? "../" : "", i);
        assert_int_equal(symlink(link, to), 0);
    }
    assert_int_equal(setenv("HF_HUB_CACHE", in_root("hub"), 1), 0);
    snprintf(model, sizeof model, "org/tiny");
    same_picture();
    refuses(3, "org/other", "sweep", "--model", "org/other", "--prompt", "x", SHORT, "--out", in_root("never"));
    put_file(in_root("hub/models--org--tiny/refs/main"), "ffffffff");
    bad("is missing, though refs/main names it; download the model again");
    unlink(in_root("hub/models--org--tiny/refs/main"));
    put_file(in_root("hub/models--org--tiny/refs/main"), "../../../../etc");
    bad("refs/main: does not hold the name of a snapshot");
    assert_int_equal(unsetenv("HF_HUB_CACHE"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),  cmocka_unit_test(test_missing_files), cmocka_unit_test(test_file_sizes),
        cmocka_unit_test(test_tensors), cmocka_unit_test(test_configs),       cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_names),   cmocka_unit_test(test_hub_cache),     cmocka_unit_test(test_not_numbers),
    };
    return cmocka_run_group_tests(tests, cli_setup, root_remove);
}
