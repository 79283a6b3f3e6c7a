/* One UNet step of the full-size synthetic SD 1.5 at 64x64 latents against diffusers in float32
 * (tools/ref/full_step.py). Runs where DLENS_FULL_DIR names a folder with room for 4.3 GB: the checkpoint is made there
 * when it is absent. */

#include "tests/parity/full_unet.h"
#include "tools/synth.h"

static void test_full_step(void **state)
{
    (void)state;
    char folder[FULL_PATH];
    if (full_missing(folder, "sd15", "model_index.json", "4.3 GB"))
        must(synth_write(&(struct synth_opts){.like = "sd15", .full = true, .out = folder}, e));
    full_unet_check("full-size SD 1.5, one step, two rows", folder, "full_sd15_step", 2, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
