/* The command line itself: help, options refused with the reason, what goes to stdout and stderr, --json, --quiet,
 * --dry-run. */
#include "tests/cli/cli.h"

static const char *const commands[] = {"demo",   "sweep",  "encode", "replay",  "tokens",
                                       "figure", "report", "curves", "inspect", "synth"};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void test_help(void **state)
{
    (void)state;
    struct ran r;
    char usage[64];
    run_dlens(&r, root, "--help");
    assert_int_equal(r.status, 0);
    assert_string_equal(r.err, "");
    for (int i = 0; i < COMMANDS; i++) {
        snprintf(usage, sizeof usage, "\n  %s ", commands[i]);
        assert_non_null(strstr(r.out, usage));
    }
    run_free(&r);
    for (int i = 0; i < COMMANDS; i++) {
        run_dlens(&r, root, commands[i], "--help");
        assert_int_equal(r.status, 0);
        assert_string_equal(r.err, "");
        snprintf(usage, sizeof usage, "usage: dlens %s ", commands[i]);
        if (strncmp(r.out, usage, strlen(usage))) fail_msg("%s --help begins differently: %s", commands[i], r.out);
        for (const char *line = r.out; *line;) { /* as wide as a terminal may be */
            size_t n = strcspn(line, "\n");
            if (n > 120) fail_msg("%s --help has a line of %zu bytes", commands[i], n);
            line += n + (line[n] == '\n');
        }
        run_free(&r);
    }
    run_dlens(&r, root, "--version");
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "dlens 0."));
    run_free(&r);
    run_argv(&r, root, (const char *const[]){DLENS_BINARY, NULL});
    assert_int_equal(r.status, 2);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "usage: dlens"));
    run_free(&r);
    run_dlens(&r, root, "sweeep");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "sweeep: no such command"));
    run_free(&r);
}

/* Every option that a command knows is in its help: an option without a description would stay unknown. */
static void test_help_is_complete(void **state)
{
    (void)state;
    static const char *const options[] = {
        "--model",         "--prompt",       "--prompts",     "--negative",   "--text",          "--preset",
        "--layers",        "--blocks",       "--encoder",     "--norm",       "--seed",          "--seeds",
        "--seed-offset",   "--steps",        "--guidance",    "--size",       "--scheduler",     "--noise",
        "--rng",           "--dtype",        "--batch",       "--vae-tile",   "--out",           "--titles",
        "--title",         "--save-latents", "--device",      "--threads",    "--dry-run",       "--json",
        "--quiet",         "--other",        "--pooled",      "--max-tokens", "--clean-caption", "--vae-dtype",
        "--original-size", "--crop",         "--target-size", "--resident",   "--choices"};
    struct ran r;
    run_dlens(&r, root, "sweep", "--help");
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (!strstr(r.out, options[i])) fail_msg("sweep --help does not describe %s", options[i]);
    run_free(&r);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *out = in_root("never");
#define SWEEP "sweep", "--model", sd15, "--prompt", "x", "--out", out
    refuses(2, "--bogus: no such option; see dlens sweep --help", "sweep", "--bogus");
    refuses(2, "-x: no such option", "sweep", "-x");
    refuses(2, "--se: could be several options", "sweep", "--se", "5");
    refuses(2, "--json takes no value", "sweep", "--json=5");
    refuses(2, "--steps needs a value", "sweep", "--steps");
    refuses(2, "more: unexpected", SWEEP, "more");
    refuses(2, "--model DIR is needed", "sweep", "--prompt", "x", "--out", out);
    refuses(2, "--prompt TEXT or --prompts FILE is needed", "sweep", "--model", sd15, "--out", out);
    refuses(2, "--out DIR is needed", "sweep", "--model", sd15, "--prompt", "x");
    refuses(2, "exclude each other", SWEEP, "--prompts", "file");
    refuses(2, "--layers 5: there is no layer 5; this model has layers 0..4", SWEEP, "--layers", "5");
    refuses(2, "no layer 5", SWEEP, "--layers", "1:9");
    refuses(2, "--blocks 4", SWEEP, "--blocks", "4");
    refuses(2, "--layers", SWEEP, "--layers", "");
    refuses(2, "--encoder text_encoder_2: this model has text_encoder only", SWEEP, "--encoder", "text_encoder_2");
    refuses(2, "--norm maybe: expected off or on", SWEEP, "--norm", "maybe");
    refuses(2, "--steps 0: expected a whole number from 1 to 1000", SWEEP, "--steps", "0");
    refuses(2, "--steps 5x", SWEEP, "--steps", "5x");
    refuses(2, "--guidance nan", SWEEP, "--guidance", "nan");
    refuses(2, "--guidance -1", SWEEP, "--guidance", "-1");
    refuses(2, "--size 63x64: this model needs multiples of 4", SWEEP, "--size", "63x64");
    refuses(2, "--size 64: expected WxH", SWEEP, "--size", "64");
    refuses(2, "--size 100000x64", SWEEP, "--size", "100000x64");
    refuses(2, "--scheduler lms: known are pndm", SWEEP, "--scheduler", "lms");
    refuses(2, "--scheduler flow-euler", SWEEP, "--scheduler", "flow-euler");
    refuses(2, "--noise", SWEEP, "--noise", "none");
    refuses(2, "--rng", SWEEP, "--rng", "numpy");
    refuses(2, "--dtype int8", SWEEP, "--dtype", "int8");
    refuses(2, "--dtype e4m3: this CPU does not compute in e4m3", SWEEP, "--dtype", "e4m3", "--device", "cpu");
    refuses(2, "--batch 0", SWEEP, "--batch", "0");
    refuses(2, "--vae-tile 6: expected a multiple of 4", SWEEP, "--vae-tile", "6");
    refuses(2, "--titles", SWEEP, "--titles", "both");
    refuses(2, "--text", SWEEP, "--text", "hf6");
    refuses(2, "--preset nope: expected", SWEEP, "--preset", "nope");
    refuses(2, "--title: text is not valid UTF-8", SWEEP, "--title", "a\xff");
    refuses(2, "--seed 1.5", SWEEP, "--seed", "1.5");
    refuses(2, "--seed 18446744073709551616", SWEEP, "--seed", "18446744073709551616");
    refuses(2, "--seed -2", SWEEP, "--seed", "-2");
    refuses(2, "5 is named twice", SWEEP, "--seeds", "4,5,5");
    refuses(2, "is empty", SWEEP, "--seeds", "5:5");
    refuses(2, "more than", SWEEP, "--seeds", "0:18446744073709551615");
    refuses(2, "--threads 0", SWEEP, "--threads", "0");
    refuses(2, "--device gpu: known are", SWEEP, "--device", "gpu");
    refuses(4, "--device cuda:7", SWEEP, "--device", "cuda:7");
    refuses(2, "--choices: on this device nothing is chosen by measurement", SWEEP, "--choices", out, "--device",
            "cpu");
    refuses(2, "--negative has no effect without guidance", SWEEP, "--guidance", "1", "--negative", "people");
    /* What other models honour and this one cannot. */
    refuses(2, "--pooled is about SDXL", SWEEP, "--pooled", "lens");
    refuses(2, "--other says what a second text encoder is fed", SWEEP, "--other", "prompt");
    refuses(2, "--max-tokens is about T5", SWEEP, "--max-tokens", "64");
    refuses(2, "--upscale adds DeepFloyd IF's second stage", SWEEP, "--upscale", "dir");
    refuses(2, "--clean-caption is about DeepFloyd IF", SWEEP, "--clean-caption", "on");
    assert_false(exists(out));

    refuses(2, "--snapshots FILE is needed", "replay", "--model", sd15, "--out", out);
    refuses(2, "--prompt: no such option", "replay", "--prompt", "x");
    refuses(2, "--out FILE.safetensors is needed", "encode", "--model", sd15, "--prompt", "x");
    refuses(2, "the folder of a sweep is needed", "figure", "--columns", "3");
    refuses(2, "--columns 0", "figure", root, "--columns", "0");
    refuses(2, "--cell 7", "figure", root, "--cell", "7");
    refuses(2, "--dry-run", "figure", root, "--dry-run");
    refuses(2, "a model folder is needed", "inspect", "--batch", "1");
    refuses(2, "unexpected", "inspect", sd15, sd15);
    refuses(2, "--like", "synth", "--out", out);
    refuses(2, "not known", "synth", "--like", "sd99", "--out", out);
    refuses(2, "this folder holds a model; name another, or remove it first", "synth", "--like", "sd15", "--out", sd15);
    refuses(2, "--dry-run: dlens synth has no plan to show", "synth", "--like", "sd15", "--out", out, "--dry-run");
    refuses(2, "--dry-run: dlens tokens has no plan to show", "tokens", "--model", sd15, "--prompt", "x", "--dry-run");
    refuses(2, "--resident says how the weights of T5-XXL", "inspect", sd15, "--resident", "all");
    assert_false(exists(out));
}

/* Streams: only the result on stdout, all else on stderr, and with --quiet nothing there. */
static void test_streams(void **state)
{
    (void)state;
    struct ran r;
    char grid[CLI_PATH];
    snprintf(grid, sizeof grid, "%s/grid.png\n", in_root("streams"));
    run_dlens(&r, root, "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", in_root("streams"));
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out, grid);
    assert_non_null(strstr(r.err, "plan: 1 image of 64 x 64 pixels"));
    assert_non_null(strstr(r.err, "image 1/1"));
    assert_null(strchr(r.err, '\r')); /* no bar where there is no terminal */
    run_free(&r);
    run_dlens(&r, root, "sweep", "--quiet", "--model", sd15, "--prompt", "x", SHORT, "--out", in_root("quiet"));
    assert_int_equal(r.status, 0);
    snprintf(grid, sizeof grid, "%s/grid.png\n", in_root("quiet"));
    assert_string_equal(r.out, grid);
    assert_string_equal(r.err, "");
    run_free(&r);
    /* A result that cannot be told is a failure. */
    if (access("/dev/full", W_OK) == 0) {
        pid_t pid = fork();
        if (pid == 0) {
            int full = open("/dev/full", O_WRONLY), null = open("/dev/null", O_WRONLY);
            dup2(full, 1), dup2(null, 2);
            execl(DLENS_BINARY, "dlens", "tokens", "--model", sd15, "--prompt", "x", (char *)NULL);
            _exit(127);
        }
        int s;
        assert_int_equal(waitpid(pid, &s, 0), pid);
        assert_true(WIFEXITED(s) && WEXITSTATUS(s) == 1);
    }
}

/* Whether an object has all these keys, NULL at the end. */
static void has_keys(const json_t *o, const char *const *key)
{
    for (; *key; key++)
        if (!json_object_get(o, *key)) {
            char *text = json_dumps(o, JSON_COMPACT);
            fail_msg("no \"%s\" in %s", *key, text);
        }
}

#define keys(o, ...) has_keys(o, (const char *const[]){__VA_ARGS__, NULL})

static void test_json(void **state)
{
    (void)state;
    const char *dir = in_root("json"), *states = in_root("json.safetensors");
    json_t *o = json_of("sweep", "--model", sd15, "--prompt", "x", "--seeds", "1,2", SHORT, "--out", dir);
    keys(o, "command", "out", "figures", "report", "images", "plan", "seconds", "warnings", "peak_rss_bytes");
    assert_string_equal(json_string_value(json_object_get(o, "command")), "sweep");
    assert_string_equal(json_string_value(json_object_get(o, "out")), dir);
    keys(json_object_get(o, "images"), "total", "made", "resumed");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "images"), "made")), 2);
    assert_int_equal(json_array_size(json_object_get(o, "figures")), 2);
    keys(json_object_get(o, "plan"), "images", "dtype", "batch", "evaluations", "vae_tile", "peak_bytes", "step_flops");
    assert_int_equal(json_array_size(json_object_get(o, "warnings")), 0);
    json_decref(o);

    o = json_of("sweep", "--model", sd15, "--prompt", "x", "--seeds", "1,2", SHORT, "--out", dir); /* again */
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "images"), "made")), 0);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "images"), "resumed")), 2);
    json_decref(o);

    o = json_of("encode", "--model", sd15, "--prompt", "x", "--out", states);
    keys(o, "command", "out", "prompts", "seconds", "warnings");
    json_decref(o);
    o = json_of("replay", "--model", sd15, "--snapshots", states, SHORT, "--out", in_root("json-replay"));
    keys(o, "command", "out", "figures", "images", "plan", "seconds", "warnings");
    json_decref(o);
    o = json_of("figure", dir, "--columns", "1");
    keys(o, "command", "figures", "seconds", "warnings");
    json_decref(o);
    o = json_of("report", dir);
    keys(o, "command", "report", "seconds", "warnings");
    json_decref(o);
    o = json_of("tokens", "--model", sd15, "--prompt", "A house");
    keys(o, "prompt", "text_encoder");
    keys(json_object_get(o, "text_encoder"), "ids", "pieces", "truncated");
    assert_int_equal(json_array_size(json_object_get(json_object_get(o, "text_encoder"), "ids")), 77);
    json_decref(o);
    o = json_of("inspect", sd15);
    keys(o, "command", "model", "class", "blocks", "parts", "faults", "plan", "seconds", "warnings");
    assert_int_equal(json_array_size(json_object_get(o, "parts")), 3);
    assert_int_equal(json_array_size(json_object_get(o, "faults")), 0);
    json_decref(o);
    o = json_of("synth", "--like", "sd21", "--out", in_root("json-synth"));
    keys(o, "command", "seconds", "warnings");
    json_decref(o);
    /* Warnings are there as well as on stderr. */
    char longer[600] = "";
    for (int i = 0; i < 90; i++) strcat(longer, "house ");
    o = json_of("encode", "--model", sd15, "--prompt", longer, "--out", states);
    assert_int_equal(json_array_size(json_object_get(o, "warnings")), 1);
    assert_non_null(
        strstr(json_string_value(json_array_get(json_object_get(o, "warnings"), 0)), "longer than 77 tokens"));
    json_decref(o);
    /* A path need not be UTF-8, JSON must be. */
    char odd[CLI_PATH];
    snprintf(odd, sizeof odd, "%s/odd\xff", root);
    o = json_of("sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", odd);
    assert_non_null(strstr(json_string_value(json_object_get(o, "out")), "odd\xef\xbf\xbd"));
    json_decref(o);
}

static void test_dry_run(void **state)
{
    (void)state;
    const char *dir = in_root("dry"), *states = in_root("dry.safetensors");
    struct ran r;
    run_dlens(&r, root, "sweep", "--model", sd15, "--prompt", "x", "--seeds", "0:3", "--out", dir, "--dry-run");
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out, "");
    assert_non_null(strstr(r.err, "plan: 12 images of 64 x 64 pixels"));
    assert_non_null(strstr(r.err, "memory: "));
    run_free(&r);
    json_t *o = json_of("sweep", "--model", sd15, "--prompt", "x", "--seeds", "0:3", "--dry-run");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "plan"), "images")), 12);
    json_decref(o);
    run_well(root, "encode", "--model", sd15, "--prompt", "x", "--out", states, "--dry-run");
    assert_false(exists(states));
    run_well(root, "encode", "--model", sd15, "--prompt", "x", "--out", states);
    run_well(root, "replay", "--model", sd15, "--snapshots", states, "--out", dir, "--dry-run");
    assert_false(exists(dir));
    refuses(4, "MiB are needed", "sweep", "--model", sd15, "--prompt", "x", "--size", "16384x16384", "--batch", "64",
            "--vae-tile", "0", "--dry-run");
}

/* The preset's values hold unless an option says otherwise, whatever the order and however short the name. */
static void test_presets(void **state)
{
    (void)state;
    json_t *o = json_of("sweep", "--model", sd15, "--preset", "tutorial-sd15", "--dry-run");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "plan"), "evaluations")), 51);
    json_decref(o);
    o = json_of("sweep", "--model", sd15, "--steps", "3", "--layers", "2", "--pre", "tutorial-sd15", "--dry-run");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "plan"), "evaluations")), 4);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "plan"), "images")), 1);
    json_decref(o);
    put_file(in_root("two"), "a\nb\n");
    o = json_of("sweep", "--model", sd15, "--preset", "tutorial-sd15", "--prompts", in_root("two"), "--dry-run");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "plan"), "images")), 8);
    json_decref(o);
    refuses(2, "exclude each other", "sweep", "--model", sd15, "--preset", "tutorial-sd15", "--prompts", in_root("two"),
            "--prompt", "x", "--dry-run");
    refuses(2, "--prompt TEXT or --prompts FILE is needed", "sweep", "--model", sd15, "--preset", "paper-sd21",
            "--dry-run");
    /* another model's settings, and layers that nobody typed */
    refuses(2, "--preset tutorial-flux holds the settings of a FluxPipeline, and sd15 is a StableDiffusionPipeline",
            "sweep", "--model", sd15, "--preset", "tutorial-flux", "--dry-run");
    refuses(2, "--preset paper-sd21: --layers 3:24:4: there is no layer 7", "sweep", "--model", sd15, "--preset",
            "paper-sd21", "--prompt", "x", "--dry-run");
    refuses(2, "sweep: --layers 9: there is no layer 9", "sweep", "--model", sd15, "--preset", "paper-sd21", "--prompt",
            "x", "--layers", "9", "--dry-run");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help),     cmocka_unit_test(test_help_is_complete),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_streams),
        cmocka_unit_test(test_json),     cmocka_unit_test(test_dry_run),
        cmocka_unit_test(test_presets),
    };
    return cmocka_run_group_tests(tests, cli_setup, root_remove);
}
