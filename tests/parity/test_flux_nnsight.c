/* The FLUX cell of the NNsight tutorial, run by NNsight itself on the tiny synthetic checkpoint
 * (tools/ref/flux_nnsight.py): the same pictures within 1 in any byte. */
#include "tests/parity/images.h"

enum { SEED = 17, BLOCKS = 4 };

static char root[FOLDER_PATH], model[FOLDER_PATH + 16];
static struct st_file *ref;

static int make_checkpoint(void **state)
{
    (void)state;
    if (folder_make(root) < 0) return -1;
    snprintf(model, sizeof model, "%s/flux", root);
    run_well(root, "synth", "--like", "flux", "--out", model);
    must(st_open(&ref, DLENS_SOURCE_DIR "/tests/parity/data/nnsight_flux.safetensors", e));
    return 0;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    st_close(ref);
    folder_remove(root);
    return 0;
}

static const struct st_tensor *picture(int block)
{
    char key[40];
    snprintf(key, sizeof key, "b%02d", block);
    const struct st_tensor *t = st_find(ref, key);
    if (!t) fail_msg("%s has no %s", st_file_path(ref), key);
    return t;
}

static int farthest(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int most = 0;
    for (int64_t i = 0; i < n; i++)
        if (abs(a[i] - b[i]) > most) most = abs(a[i] - b[i]);
    return most;
}

static void test_cell(void **state)
{
    (void)state;
    char dir[FOLDER_PATH + 40], size[40];
    /* pictures that are alike would compare nothing */
    const struct st_tensor *first = picture(0), *second = picture(2);
    assert_true(farthest(first->data, second->data, first->bytes) > 5);
    snprintf(dir, sizeof dir, "%s/cell", root);
    snprintf(size, sizeof size, "%lldx%lld", (long long)first->dim[1], (long long)first->dim[0]);
    run_well(root, "sweep", "--model", model, "--preset", "tutorial-flux", "--blocks", "0:3:2", "--size", size, "--rng",
             "torch-cpu", "--dtype", "f32", "--threads", "2", "--out", dir, "--quiet");
    for (int block = 0; block < BLOCKS - 1; block += 2) {
        const struct st_tensor *want = picture(block);
        struct dl_png png = images_png(dir, 0, SEED, block + 1);
        assert_int_equal(png.h, want->dim[0]);
        assert_int_equal(png.w, want->dim[1]);
        int most = farthest(png.rgb, want->data, want->bytes);
        print_message("block %d: bytes differ by %d at most\n", block, most);
        assert_true(most <= 1);
        dl_png_close(&png);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cell)};
    return cmocka_run_group_tests(tests, make_checkpoint, remove_checkpoint);
}
