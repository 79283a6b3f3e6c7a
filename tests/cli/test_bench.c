/* dlens bench: what it refuses, what its JSON says, and that nothing is left behind. */
#include "tests/cli/cli.h"

#include <math.h>

#define TINY "--scale", "tiny", "--threads", "1"

static int setup(void **state)
{
    if (cli_setup(state)) return -1;
    return setenv("TMPDIR", root, 1); /* made-up models go there */
}

static void test_refusals(void **state)
{
    (void)state;
    refuses(2, "kernels, model, sweep or --predict CARD is needed", "bench", "--like", "sd15");
    refuses(2, "everything: expected kernels, model or sweep", "bench", "everything");
    refuses(2, "model: unexpected", "bench", "kernels", "model");
    refuses(2, "--like sd99: not known", "bench", "kernels", "--like", "sd99");
    refuses(2, "--like and --model", "bench", "kernels", "--like", "sd15", "--model", sd15);
    refuses(2, "--scale: it belongs to --like", "bench", "model", "--model", sd15, "--scale", "tiny");
    refuses(2, "--scale huge: expected full or tiny", "bench", "model", "--scale", "huge");
    refuses(2, "--size 64: expected WIDTHxHEIGHT", "bench", "model", "--size", "64");
    refuses(2, "--size 65x64: this model makes multiples", "bench", "model", TINY, "--size", "65x64");
    refuses(2, "--dtype f8: expected f32, f16, bf16 or e4m3", "bench", "model", TINY, "--dtype", "f8");
    refuses(2, "--dtype e4m3: expected f32, f16 or bf16", "bench", "kernels", TINY, "--dtype", "e4m3");
    refuses(2, "--dtype e4m3: this CPU does not compute in it", "bench", "model", TINY, "--dtype", "e4m3");
    refuses(2, "--rows 0: expected a whole number", "bench", "kernels", "--rows", "0");
    refuses(2, "--batch x: expected a whole number", "bench", "sweep", "--batch", "1,x");
    refuses(2, "--batch: one size here", "bench", "model", "--batch", "1,2");
    refuses(2, "--batch: kernels take --rows", "bench", "kernels", "--batch", "2");
    refuses(2, "--phase later: expected text, prepare", "bench", "kernels", "--phase", "step,later");
    refuses(2, "--filter: it belongs to dlens bench kernels", "bench", "model", "--filter", "conv");
    refuses(2, "--filter nothing: no op has this", "bench", "kernels", TINY, "--filter", "nothing");
    refuses(2, "--repeat: a prediction measures nothing", "bench", "--predict", "h200", "--repeat", "3");
    refuses(2, "--predict: it predicts a sweep; leave out \"kernels\"", "bench", "kernels", "--predict", "h200");
    refuses(2, "--predict rtx1: neither a card that dlens knows", "bench", "--predict", "rtx1");
    refuses(2, "--against: it belongs to --predict", "bench", "kernels", "--against", "x.json");
    refuses(2, "--dry-run: it belongs to dlens bench kernels", "bench", "model", "--dry-run");
    refuses(2, "--plot x.pdf: expected a name that ends in .png or .svg", "bench", "kernels", TINY, "--filter",
            "sched_in", "--repeat", "1", "--plot", "x.pdf", "--json");
    refuses(3, "not what dlens bench kernels --json prints", "bench", "--predict", "h200", TINY, "--against",
            in_root("sd15/model_index.json"), "--json");
    refuses(3, "none", "bench", "model", "--model", in_root("none"));
    refuses(4, "--device cuda:99", "bench", "kernels", TINY, "--device", "cuda:99");
}

static json_int_t int_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v)) fail_msg("no integer \"%s\"", key);
    return json_integer_value(v);
}

static double real_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_number(v)) fail_msg("no number \"%s\"", key);
    return json_number_value(v);
}

/* The list of ops is the step: counts times FLOPs and bytes. */
static void test_list(void **state)
{
    (void)state;
    static const char *const like[] = {"sd15", "sd21", "sdxl"};
    for (int i = 0; i < 3; i++) {
        json_t *o = json_of("bench", "kernels", "--like", like[i], "--dry-run", "--rows", "4"), *k;
        json_int_t flops = 0, bytes = 0, ops = 0;
        size_t j;
        json_array_foreach(json_object_get(o, "ops"), j, k)
        {
            flops += int_of(k, "count") * int_of(k, "flops"), bytes += int_of(k, "count") * int_of(k, "bytes");
            ops += int_of(k, "count");
            assert_null(json_object_get(k, "us"));
        }
        assert_int_equal(flops, int_of(o, "step_flops"));
        assert_int_equal(bytes, int_of(o, "step_bytes"));
        assert_int_equal(ops, int_of(o, "step_ops"));
        assert_int_equal(int_of(o, "rows"), 4);
        json_decref(o);
    }
}

static void test_kernels(void **state)
{
    (void)state;
    const char *plot = in_root("roof.svg");
    json_t *o = json_of("bench", "kernels", TINY, "--dtype", "f32", "--repeat", "2", "--filter", "conv k3", "--plot",
                        plot),
           *k;
    size_t j, n = json_array_size(json_object_get(o, "ops"));
    assert_true(n > 5);
    assert_int_equal(int_of(o, "outside_budget"), 0);
    assert_true(real_of(json_object_get(o, "roof"), "gb_per_s") > 0);
    assert_true(real_of(json_object_get(json_object_get(o, "roof"), "gflop_per_s"), "f32") > 0);
    double sum = 0;
    json_array_foreach(json_object_get(o, "ops"), j, k)
    {
        assert_string_equal(json_string_value(json_object_get(k, "op")), "conv");
        assert_string_equal(json_string_value(json_object_get(k, "dtype")), "f32");
        assert_true(*json_string_value(json_object_get(k, "variant")) != 0);
        assert_true(real_of(k, "us_min") > 0 && real_of(k, "us") >= real_of(k, "us_min"));
        assert_int_equal(int_of(k, "repeats"), 2);
        assert_true(real_of(k, "budget_percent") <= 100);
        assert_true(real_of(k, "roofline_percent") > 0);
        sum += (double)int_of(k, "count") * real_of(k, "us") * 1e-3;
    }
    assert_true(sum > 0.999 * real_of(o, "sum_ms") && sum < 1.001 * real_of(o, "sum_ms"));
    json_decref(o);
    int64_t bytes;
    char *svg = folder_read(plot, &bytes);
    assert_true(svg && bytes > 1000 && strstr(svg, "<svg"));
    free(svg);

    o = json_of("bench", "kernels", TINY, "--repeat", "1", "--filter", "lnorm", "--no-check", "--phase", "text,step");
    json_array_foreach(json_object_get(o, "ops"), j, k) assert_null(json_object_get(k, "budget_percent"));
    json_decref(o);
}

static void test_model(void **state)
{
    (void)state;
    json_t *o = json_of("bench", "model", TINY, "--steps", "4", "--batch", "2", "--dtype", "f32");
    assert_true(real_of(o, "step_ms") >= real_of(o, "step_ms_min") && real_of(o, "step_ms_min") > 0);
    assert_int_equal(int_of(o, "batch"), 2);
    assert_int_equal(int_of(o, "evaluations"), 5); /* PNDM has one more */
    assert_true(int_of(o, "weight_bytes") > 0 && int_of(o, "working_bytes") > 0);
    json_t *k;
    size_t j;
    double percent = 0;
    json_int_t flops = 0;
    json_array_foreach(json_object_get(o, "kinds"), j, k) percent += real_of(k, "percent"), flops += int_of(k, "flops");
    assert_true(percent > 99.9 && percent < 100.1);
    assert_int_equal(flops, int_of(o, "step_flops"));
    /* On a CPU the gaps are what the logged step took beside its ops. */
    const json_t *gaps = json_object_get(o, "gaps");
    assert_true(json_is_true(json_object_get(gaps, "measured")));
    assert_string_equal(json_string_value(json_object_get(gaps, "source")), "log of ops");
    double gap = real_of(gaps, "gap_ms"), step = real_of(gaps, "span_ms");
    assert_true(gap > 0 && fabs(gap + real_of(o, "ops_one_by_one_ms") - step) < 1e-6 * step);
    assert_true(fabs(real_of(gaps, "gap_percent") - 100 * gap / step) < 1e-4);
    assert_true(fabs(real_of(o, "image_steps_per_s") * real_of(o, "step_ms") - 2e3) < 1e-5 * 2e3);
    json_decref(o);
    o = json_of("bench", "model", "--like", "flux", TINY, "--steps", "1"); /* the only step is logged too */
    assert_true(json_array_size(json_object_get(o, "kinds")) > 3);
    assert_int_equal(int_of(o, "evaluations"), 1);
    assert_true(real_of(json_object_get(o, "gaps"), "gap_ms") > 0);
    json_decref(o);
    struct ran r;
    run_dlens(&r, root, "bench", "model", TINY, "--steps", "2"); /* as a person reads it */
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "between ops: "));
    assert_non_null(strstr(r.out, " a second with the model's own 50 steps"));
    run_free(&r);
    o = json_of("bench", "model", "--model", sd15, "--threads", "1", "--steps", "2"); /* a checkpoint's own weights */
    assert_true(real_of(o, "step_ms") > 0);
    json_decref(o);
}

static void test_sweep(void **state)
{
    (void)state;
    json_t *o = json_of("bench", "sweep", TINY, "--steps", "2", "--layers", "3", "--batch", "1,3,8"), *k;
    const json_t *list = json_object_get(o, "batches");
    static const int want[] = {1, 3, 3}; /* there are but three images */
    size_t j;
    assert_int_equal(json_array_size(list), 3);
    json_array_foreach(list, j, k)
    {
        assert_int_equal(int_of(k, "batch"), want[j]);
        assert_true(real_of(k, "images_per_s") > 0 && real_of(k, "denoise_s") > 0 && real_of(k, "decode_s") > 0);
        assert_true(real_of(k, "seconds") >= real_of(k, "denoise_s") + real_of(k, "decode_s"));
    }
    json_decref(o);
    struct ran r;
    run_dlens(&r, root, "bench", "sweep", TINY, "--steps", "1", "--layers", "2"); /* as a person reads it */
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "images/s"));
    assert_non_null(strstr(r.out, "\n     2 "));
    run_free(&r);
}

static void test_predict(void **state)
{
    (void)state;
    const char *card = in_root("card.json"), *measured = in_root("measured.json");
    put_file(card,
             "{\"name\": \"slow\", \"f16_tflops\": 1, \"gb_per_s\": 1e8, \"launch_us\": 0, \"source\": \"a test\"}");
    json_t *o = json_of("bench", "--predict", card, "--like", "sd15", "--batch", "4", "--steps", "10", "--layers", "4"),
           *k;
    const json_t *sweep = json_object_get(o, "sweep");
    /* All ops of the step are bound by 1 TFLOP/s (the memory is endlessly fast): FLOPs in TFLOP are seconds. */
    double step_s = (double)int_of(o, "step_flops") * 1e-12;
    assert_true(real_of(o, "step_ms") > 0.999e3 * step_s && real_of(o, "step_ms") < 1.001e3 * step_s);
    /* 11 evaluations of the batch, of which the first is cheaper: one unconditional row for all images. */
    assert_true(real_of(sweep, "denoise_s") > 10.5 * step_s && real_of(sweep, "denoise_s") < 10.9 * step_s);
    assert_true(real_of(sweep, "decode_s") > 0 && real_of(sweep, "seconds") > real_of(sweep, "denoise_s"));
    assert_string_equal(json_string_value(json_object_get(json_object_get(o, "card"), "source")), "a test");
    json_decref(o);

    struct ran r;
    run_dlens(&r, root, "bench", "kernels", TINY, "--repeat", "1", "--filter", "gemm", "--no-check", "--dtype", "f32",
              "--save", measured);
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "% of the roofline")); /* the table comes as well */
    run_free(&r);
    o = json_of("bench", "--predict", "rtx3090", "--scale", "tiny", "--dtype", "f32", "--batch", "1", "--against",
                measured);
    size_t j, with = 0;
    json_array_foreach(json_object_get(o, "ops"), j, k)
    {
        bool gemm = !strcmp(json_string_value(json_object_get(k, "op")), "gemm");
        assert_int_equal(gemm, json_object_get(k, "ratio") != NULL);
        with += gemm;
    }
    assert_true(with > 5 && real_of(o, "ratio") > 0);
    json_decref(o);

    run_dlens(&r, root, "bench", "--predict", "rtx4090", "--like", "sd15"); /* as a person reads it */
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "GeForce RTX 4090"));
    assert_non_null(strstr(r.out, "white paper"));
    assert_non_null(strstr(r.out, "a sweep of 12 layers, 51 evaluations each"));
    run_free(&r);
}

/* No folder of a made-up model stays, also not after a failure. */
static void test_nothing_stays(void **state)
{
    (void)state;
    DIR *d = opendir(root);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));)
        if (!strncmp(f->d_name, "dlens-bench-", 12)) fail_msg("%s was left", f->d_name);
    closedir(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_list),  cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_model),         cmocka_unit_test(test_sweep), cmocka_unit_test(test_predict),
        cmocka_unit_test(test_nothing_stays),
    };
    return cmocka_run_group_tests(tests, setup, root_remove);
}
