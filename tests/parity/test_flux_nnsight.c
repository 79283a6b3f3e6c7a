/* The FLUX cell of the NNsight tutorial, run by NNsight itself on the tiny synthetic checkpoint
 * (tools/ref/flux_nnsight.py): the same pictures within 1 in any byte. */
#include "tests/parity/nnsight.h"

static const char *const models[] = {"flux"};

static int make_checkpoint(void **state) { return sweep_make(state, models, 1); }

static void test_cell(void **state)
{
    (void)state;
    struct st_file *ref = ref_open("nnsight_flux");
    char size[40];
    /* pictures that are alike would compare nothing */
    const struct st_tensor *first = nnsight_picture(ref, "", 0), *second = nnsight_picture(ref, "", 2);
    assert_true(nnsight_farthest(first->data, second->data, first->bytes) > 5);
    snprintf(size, sizeof size, "%lldx%lld", (long long)first->dim[1], (long long)first->dim[0]);
    run_well(root, "sweep", "--model", in_root(models[0]), "--preset", "tutorial-flux", "--blocks", "0:3:2", "--size",
             size, "--rng", "torch-cpu", "--dtype", "f32", "--threads", "2", "--out", in_root("cell"), "--quiet");
    nnsight_compare(ref, "", 3, in_root("cell"));
    st_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cell)};
    return cmocka_run_group_tests(tests, make_checkpoint, root_remove);
}
