/* dlens inspect --measure on tiny checkpoints: what the types cost, in the order that their bits say. */
#include "tests/cli/cli.h"

#include <math.h>

/* "measured" of one run; to be released. */
static json_t *measured(const char *model, const char *dtype, const char *size)
{
    json_t *o = size ? json_of("inspect", model, "--measure", "--dtype", dtype, "--device", "cpu", "--size", size)
                     : json_of("inspect", model, "--measure", "--dtype", dtype, "--device", "cpu");
    json_t *m = json_incref(json_object_get(o, "measured"));
    assert_non_null(m);
    json_decref(o);
    return m;
}

static double number(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    if (!json_is_number(v)) fail_msg("%s is no number", name);
    return json_number_value(v);
}

/* The arithmetic of products whose variant has `text` in its name, and of all. */
static double flops_by(const json_t *m, const char *text, double *all)
{
    double sum = 0;
    size_t i;
    json_t *p;
    *all = 0;
    json_array_foreach(json_object_get(m, "products"), i, p)
    {
        *all += number(p, "flops");
        if (strstr(json_string_value(json_object_get(p, "variant")), text)) sum += number(p, "flops");
    }
    return sum;
}

static const json_t *block_of(const json_t *m, const char *name)
{
    size_t i;
    json_t *b;
    json_array_foreach(json_object_get(m, "blocks"), i, b)
    {
        if (!strcmp(json_string_value(json_object_get(b, "name")), name)) return b;
    }
    fail_msg("no block %s", name);
    return NULL;
}

/* Errors are of the size of the type's roundoff, and largest values are those of f32 within them. */
static void sane(const json_t *m, double roundoff)
{
    double error = number(m, "error"), largest = number(m, "largest_f32");
    if (!(error > roundoff / 32 && error < 32 * roundoff)) fail_msg("error %g with roundoff %g", error, roundoff);
    assert_true(json_is_true(json_object_get(m, "finite")) && largest > 0.1 && largest < 1e3);
    assert_true(fabs(number(m, "largest") - largest) < 0.2 * largest);
    size_t i;
    json_t *b;
    assert_true(json_array_size(json_object_get(m, "blocks")) > 10);
    json_array_foreach(json_object_get(m, "blocks"), i, b)
    {
        assert_true(number(b, "error") < 64 * roundoff && number(b, "largest_f32") > 0 && number(b, "largest") > 0);
    }
}

static void test_sd15(void **state)
{
    (void)state;
    double all;
    json_t *half = measured(sd15, "f16", NULL), *bf = measured(sd15, "bf16", NULL), *e4 = measured(sd15, "e4m3", NULL);
    sane(half, 0x1p-11), sane(bf, 0x1p-8), sane(e4, 0x1p-8);
    assert_true(number(half, "error") < number(bf, "error") / 2);
    assert_true(flops_by(half, "e4m3", &all) == 0 && flops_by(bf, "e4m3", &all) == 0);
    /* The small one has channels enough at its deepest level alone: before it e4m3 is bf16, after it worse. */
    assert_true(flops_by(e4, "e4m3", &all) > 0 && flops_by(e4, "e4m3", &all) < all);
    assert_true(number(block_of(e4, "down_blocks.2.resnets.1"), "error") ==
                number(block_of(bf, "down_blocks.2.resnets.1"), "error"));
    assert_true(number(block_of(e4, "mid_block.attentions.0"), "error") >
                1.3 * number(block_of(bf, "mid_block.attentions.0"), "error"));
    assert_string_equal(json_string_value(json_object_get(e4, "dtype")), "e4m3");
    assert_true(number(e4, "evaluation") == 1 && number(e4, "evaluations") > 1 && number(e4, "timestep") > 900);
    json_decref(half), json_decref(bf), json_decref(e4);
}

static void test_flux(void **state)
{
    (void)state;
    double all, e4_flops;
    const char *flux = in_root("flux");
    run_well(root, "synth", "--quiet", "--like", "flux", "--out", flux);
    json_t *bf = measured(flux, "bf16", "64x64"), *e4 = measured(flux, "e4m3", "64x64");
    sane(bf, 0x1p-8), sane(e4, 0x1p-4);
    assert_true(number(e4, "error") > 4 * number(bf, "error"));
    assert_true(number(e4, "error_bf16") == number(bf, "error") && !json_object_get(bf, "error_bf16"));
    assert_true(fabs(number(e4, "from_bf16") / number(e4, "error") - 1) < 0.2);
    assert_true(number(block_of(e4, "x_embedder"), "from_bf16") == 0);
    /* All but where the image comes in and goes out. */
    e4_flops = flops_by(e4, "e4m3", &all);
    assert_true(e4_flops > 0.9 * all && e4_flops < all);
    assert_true(number(block_of(e4, "x_embedder"), "error") == number(block_of(bf, "x_embedder"), "error"));
    assert_string_equal(json_string_value(json_object_get(e4, "size")), "64x64");
    /* The same again. */
    json_t *again = measured(flux, "e4m3", "64x64");
    assert_true(json_equal(e4, again));
    json_decref(bf), json_decref(e4), json_decref(again);
}

static void test_told(void **state)
{
    (void)state;
    struct ran r;
    run_argv(&r, root, (const char *const[]){DLENS_BINARY, "inspect", sd15, "--measure", "--device", "cpu", NULL});
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "measured: bf16 against f32, on cpu"));
    assert_non_null(strstr(r.out, "% of their arithmetic, by "));
    assert_non_null(strstr(r.out, "\n  prediction "));
    run_free(&r);
}

static void test_refused(void **state)
{
    (void)state;
    const char *second = in_root("if2");
    run_well(root, "synth", "--quiet", "--like", "if2", "--out", second);
    refuses(2, "--dtype f32: expected auto, bf16, f16", "inspect", sd15, "--measure", "--json", "--dtype", "f32");
    refuses(2, "--size 64: expected WxH", "inspect", sd15, "--measure", "--json", "--size", "64");
    refuses(2, "--size 0x64: expected WxH", "inspect", sd15, "--measure", "--json", "--size", "0x64");
    refuses(2, "--measure takes a first stage", "inspect", second, "--measure", "--json");
    refuses(2, "--vae-dtype e4m3: expected", "sweep", "--model", sd15, "--prompt", "x", "--vae-dtype", "e4m3", "--out",
            in_root("never"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sd15),
        cmocka_unit_test(test_flux),
        cmocka_unit_test(test_told),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, cli_setup, root_remove);
}
