/* The SDXL cell of the NNsight tutorial, run by NNsight itself on the tiny synthetic checkpoint
 * (tools/ref/sdxl_nnsight.py): the same pictures within 1 in any byte, norm on and off. */
#include "tests/parity/nnsight.h"

static const char *const models[] = {"sdxl"};

static int make_checkpoint(void **state) { return sweep_make(state, models, 1); }

static void compare(const struct st_file *ref, const char *prefix, const char *norm)
{
    const char *dir = in_root(norm);
    run_well(root, "sweep", "--model", in_root(models[0]), "--prompt", st_meta(ref, "prompt"), "--text", "hf4",
             "--blocks", "0:4:2", "--norm", norm, "--steps", "40", "--seed", "17", "--rng", "torch-cpu", "--dtype",
             "f32", "--threads", "2", "--out", dir, "--quiet");
    nnsight_compare(ref, prefix, 4, dir);
}

static void test_cell(void **state)
{
    (void)state;
    struct st_file *ref = ref_open("nnsight_sdxl");
    /* pictures that are alike would compare nothing */
    const struct st_tensor *a = nnsight_picture(ref, "norm.", 0), *b = nnsight_picture(ref, "norm.", 2),
                           *c = nnsight_picture(ref, "bare.", 2);
    assert_true(nnsight_farthest(a->data, b->data, a->bytes) > 5);
    assert_true(nnsight_farthest(c->data, b->data, a->bytes) > 3);
    compare(ref, "norm.", "on");
    compare(ref, "bare.", "off");
    st_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cell)};
    return cmocka_run_group_tests(tests, make_checkpoint, root_remove);
}
