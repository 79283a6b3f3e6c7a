/* One UNet step of the full-size synthetic SD 1.5 at 64x64 latents against diffusers in float32
 * (tools/ref/full_step.py). Runs where DLENS_FULL_DIR names a folder with room for 4.3 GB: the checkpoint is made there
 * when it is absent. */

#include "tests/parity/net.h"
#include "tools/synth.h"

#include "pipelines/unet.h"

#include <time.h>
#include <unistd.h>

static const char *folder_or_skip(void)
{
    const char *dir = getenv("DLENS_FULL_DIR");
    if (dir && *dir) return dir;
    print_message("skipped: DLENS_FULL_DIR is not set; it names a folder for the full-size checkpoint, 4.3 GB\n");
    skip();
    return NULL;
}

/* The reference's noise(): a 32-bit hash of salt and place as numbers in [-2, 2). */
static float *noise(uint32_t salt, int64_t n)
{
    float *out = malloc((size_t)n * sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)i + salt * 0x9e3779b9u;
        x = (x ^ x >> 16) * 0x85ebca6bu;
        x = (x ^ x >> 13) * 0xc2b2ae35u;
        x ^= x >> 16;
        out[i] = (float)(x >> 8) / 4194304 - 2;
    }
    return out;
}

struct job {
    struct unet *u;
    dl_act x, text, y;
    struct unet_rows rows;
    void *kv;
    float *table, t;
};

static void phase(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    unet_text(r, j->u, j->text, j->kv);
    unet_steps(r, j->u, &j->t, 1, j->table);
    unet_step(r, j->u, j->x, &j->rows, j->y);
}

static void test_full_step(void **state)
{
    (void)state;
    char folder[1000], path[1100];
    snprintf(folder, sizeof folder, "%s/sd15", folder_or_skip());
    snprintf(path, sizeof path, "%s/model_index.json", folder);
    if (access(path, F_OK)) {
        print_message("making %s\n", folder);
        must(synth_write(&(struct synth_opts){.like = "sd15", .full = true, .out = folder}, e));
    }
    struct unet *u = calloc(1, sizeof *u);
    assert_non_null(u);
    struct unet_config c;
    struct st_set *files;
    struct st_file *ref;
    struct bind b;
    snprintf(path, sizeof path, "%s/unet", folder);
    must(st_set_open(&files, path, "diffusion_pytorch_model", e));
    snprintf(path, sizeof path, "%s/unet/config.json", folder);
    must(unet_config_read(&c, path, e));
    must(bind_open(&b, files, &u->weights, e));
    must(unet_bind(u, &c, &b, e));
    must(bind_close(&b, e));
    must(st_open(&ref, DLENS_SOURCE_DIR "/tests/parity/data/full_sd15_step.safetensors", e));

    struct machine mc = machine_open(false);
    struct dl_run r;
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    static const int32_t two[] = {0, 1};
    const int64_t pixels = 64 * 64;
    float *latent = noise(1, 2 * pixels * 4), *text = noise(2, (int64_t)2 * 77 * c.cross_dim);
    struct job j = {.u = u, .t = (float)atof(st_meta(ref, "timestep"))};
    j.x = dl_act_at(net_put(&mc, DL_F32, latent, 2 * pixels * 4), DL_F32, 2, 64, 64, 4);
    j.text = dl_act_at(net_put(&mc, DL_F32, text, (int64_t)2 * 77 * c.cross_dim), DL_F32, 2, 1, 77, c.cross_dim);
    j.y = dl_act_at(net_alloc(&mc, 2 * pixels * 4 * 4), DL_F32, 2, 64, 64, 4);
    j.kv = net_alloc(&mc, unet_kv_bytes(u, 2, 77, DL_F32));
    j.table = net_alloc(&mc, unet_table_bytes(u, 1));
    j.rows = (struct unet_rows){
        .n = 2, .lat_row = two, .kv_row = two, .kv = j.kv, .kv_rows = 2, .tokens = 77, .table = j.table};
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    net_run(&r, &mc, &u->weights, phase, &j);
    clock_gettime(CLOCK_MONOTONIC, &to);

    int64_t n;
    const float *eps = ref_floats(ref, "eps", &n), *mine = j.y.p;
    double diff = 0, sum = 0;
    assert_int_equal(n, 2 * pixels * 4);
    for (int64_t i = 0; i < n; i++)
        diff += ((double)mine[i] - eps[i]) * ((double)mine[i] - eps[i]), sum += (double)eps[i] * eps[i];
    print_message("full-size SD 1.5, one step, two rows: relative L2 error %.2e (limit 1e-4), %.1f s with loading\n",
                  sqrt(diff / sum), (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9);
    assert_true(sqrt(diff / sum) <= 1e-4);

    void *all[] = {j.x.p, j.text.p, j.y.p, j.kv, j.table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(&mc, all[i]);
    free(latent), free(text);
    dl_run_close(&r);
    unet_close(u);
    free(u);
    machine_close(&mc);
    st_set_close(files);
    st_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
