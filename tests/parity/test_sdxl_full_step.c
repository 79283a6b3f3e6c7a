/* One UNet step of the full-size synthetic SDXL at 128x128 latents against diffusers in float32
 * (tools/ref/sdxl_full_step.py), and what its decoder loses in half precision. Runs where DLENS_FULL_DIR names a folder
 * with room for 7 GB and the machine has 13 GB of memory: the checkpoint, in f16, is made there when it is absent. */

#include "tests/parity/full_unet.h"
#include "tools/synth.h"

#include "pipelines/vae.h"

/* The checkpoint, made where it is absent. */
static void full_checkpoint(char folder[FULL_PATH])
{
    if (full_missing(folder, "sdxl", "model_index.json", "7 GB"))
        must(synth_write(&(struct synth_opts){.like = "sdxl", .full = true, .type = DL_F16, .out = folder}, e));
}

static void test_full_step(void **state)
{
    (void)state;
    char folder[FULL_PATH];
    full_checkpoint(folder);
    full_unet_check("full-size SDXL, one step, one row", folder, "full_sdxl_step", 1, 128);
}

struct decode {
    struct vae *v;
    dl_act z, x;
};

static void decode_phase(struct dl_run *r, void *arg)
{
    struct decode *d = arg;
    vae_decode(r, d->v, d->z, d->x);
}

enum { SIDE = 16 }; /* of the latent: f16 is the plain reference's here */

/* The picture [SIDE * 8][SIDE * 8][3] in a type, to be freed. */
static float *decode_as(const char *folder, int type)
{
    char path[FULL_PATH + 100];
    struct vae *v = calloc(1, sizeof *v);
    struct vae_config c;
    struct st_set *files;
    struct bind b;
    assert_non_null(v);
    snprintf(path, sizeof path, "%s/vae", folder);
    must(st_set_open(&files, path, "diffusion_pytorch_model", e));
    snprintf(path, sizeof path, "%s/vae/config.json", folder);
    must(vae_config_read(&c, path, e));
    must(bind_open(&b, files, &v->weights, e));
    vae_bind(v, &c, &b);
    must(bind_close(&b, e));
    if (type == DL_F16) must(vae_shrink(v, e));
    struct machine mc = machine_open(type == DL_F16);
    struct dl_run r;
    dl_run_open(&r, mc.be, mc.ctx, type);
    int f = vae_factor(&c);
    struct decode d = {.v = v};
    d.z = full_input(&mc, DL_F32, 4, 1, 1, SIDE, SIDE, 4);
    d.x = net_act(&mc, DL_F32, 1, SIDE * f, SIDE * f, 3);
    net_run(&r, &mc, &v->weights, decode_phase, &d);
    float *x = net_get(d.x);
    net_free(&mc, d.z.p), net_free(&mc, d.x.p);
    dl_run_close(&r);
    vae_close(v);
    free(v);
    machine_close(&mc);
    st_set_close(files);
    return x;
}

static void test_full_decoder(void **state)
{
    (void)state;
    static const int types[] = {DL_BF16, DL_F16};
    static const double limits[] = {3e-2, 4e-3};
    char folder[FULL_PATH];
    full_checkpoint(folder);
    float *want = decode_as(folder, DL_F32);
    for (int t = 0; t < 2; t++) {
        float *x = decode_as(folder, types[t]);
        double err = l2_error(x, want, (int64_t)SIDE * SIDE * 64 * 3);
        print_message("full-size decoder, %s: relative L2 error against f32 %.2e (limit %.0e)\n",
                      dl_type_name(types[t]), err, limits[t]);
        assert_true(err <= limits[t]);
        free(x);
    }
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_step), cmocka_unit_test(test_full_decoder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
