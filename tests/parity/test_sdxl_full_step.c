/* One UNet step of the full-size synthetic SDXL at 128x128 latents against diffusers in float32
 * (tools/ref/sdxl_full_step.py), and what its decoder loses in half precision. Runs where DLENS_FULL_DIR names a folder
 * with room for 7 GB and the machine has 13 GB of memory: the checkpoint, in f16, is made there when it is absent. */

#include "tests/parity/net.h"
#include "tools/synth.h"

#include "pipelines/unet.h"
#include "pipelines/vae.h"

#include <time.h>
#include <unistd.h>

static const char *folder_or_skip(void)
{
    const char *dir = getenv("DLENS_FULL_DIR");
    if (dir && *dir) return dir;
    print_message("skipped: DLENS_FULL_DIR is not set; it names a folder for the full-size checkpoint, 7 GB\n");
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
    dl_act x, text, pooled, y;
    struct unet_rows rows;
    void *kv;
    float *table, t;
};

static const float sizes[UNET_SIZES] = {1024, 1024, 0, 0, 1024, 1024};

static void phase(struct dl_run *r, void *arg)
{
    struct job *j = arg;
    unet_text(r, j->u, j->text, j->kv);
    unet_steps_added(r, j->u, &j->t, 1, j->pooled, sizes, j->table);
    unet_step(r, j->u, j->x, &j->rows, j->y);
}

/* The checkpoint, made where it is absent. */
static void full_checkpoint(char folder[1000])
{
    char path[1100];
    snprintf(folder, 1000, "%s/sdxl", folder_or_skip());
    snprintf(path, sizeof path, "%s/model_index.json", folder);
    if (!access(path, F_OK)) return;
    print_message("making %s\n", folder);
    must(synth_write(&(struct synth_opts){.like = "sdxl", .full = true, .type = DL_F16, .out = folder}, e));
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void test_full_step(void **state)
{
    (void)state;
    char folder[1000], path[1100];
    full_checkpoint(folder);
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
    must(st_open(&ref, DLENS_SOURCE_DIR "/tests/parity/data/full_sdxl_step.safetensors", e));

    struct machine mc = machine_open(false);
    struct dl_run r;
    dl_run_open(&r, mc.be, mc.ctx, DL_F32);
    static const int32_t one[] = {0};
    const int64_t pixels = 128 * 128;
    float *latent = noise(1, pixels * 4), *text = noise(2, (int64_t)77 * c.cross_dim), *pooled = noise(3, c.pooled);
    struct job j = {.u = u, .t = (float)atof(st_meta(ref, "timestep"))};
    j.x = dl_act_at(net_put(&mc, DL_F32, latent, pixels * 4), DL_F32, 1, 128, 128, 4);
    j.text = dl_act_at(net_put(&mc, DL_F32, text, (int64_t)77 * c.cross_dim), DL_F32, 1, 1, 77, c.cross_dim);
    j.pooled = dl_act_at(net_put(&mc, DL_F32, pooled, c.pooled), DL_F32, 1, 1, 1, c.pooled);
    j.y = dl_act_at(net_alloc(&mc, pixels * 4 * 4), DL_F32, 1, 128, 128, 4);
    j.kv = net_alloc(&mc, unet_kv_bytes(u, 1, 77, DL_F32));
    j.table = net_alloc(&mc, unet_table_bytes(u, 1));
    j.rows = (struct unet_rows){.n = 1,
                                .lat_row = one,
                                .kv_row = one,
                                .kv = j.kv,
                                .kv_rows = 1,
                                .tokens = 77,
                                .table = j.table,
                                .table_steps = 1};
    double from = seconds();
    net_run(&r, &mc, &u->weights, phase, &j);
    double took = seconds() - from;

    int64_t n;
    const float *eps = ref_floats(ref, "eps", &n), *mine = j.y.p;
    double diff = 0, sum = 0;
    assert_int_equal(n, pixels * 4);
    for (int64_t i = 0; i < n; i++)
        diff += ((double)mine[i] - eps[i]) * ((double)mine[i] - eps[i]), sum += (double)eps[i] * eps[i];
    print_message("full-size SDXL, one step, one row: relative L2 error %.2e (limit 1e-4), %.1f s with loading\n",
                  sqrt(diff / sum), took);
    assert_true(sqrt(diff / sum) <= 1e-4);

    void *all[] = {j.x.p, j.text.p, j.pooled.p, j.y.p, j.kv, j.table};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) net_free(&mc, all[i]);
    free(latent), free(text), free(pooled);
    dl_run_close(&r);
    unet_close(u);
    free(u);
    machine_close(&mc);
    st_set_close(files);
    st_close(ref);
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
    char path[1100];
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
    float *z = noise(4, SIDE * SIDE * 4);
    struct decode d = {.v = v};
    d.z = dl_act_at(net_put(&mc, DL_F32, z, SIDE * SIDE * 4), DL_F32, 1, SIDE, SIDE, 4);
    d.x = dl_act_at(net_alloc(&mc, (int64_t)SIDE * f * SIDE * f * 3 * 4), DL_F32, 1, SIDE * f, SIDE * f, 3);
    net_run(&r, &mc, &v->weights, decode_phase, &d);
    float *x = net_get(d.x);
    net_free(&mc, d.z.p), net_free(&mc, d.x.p);
    free(z);
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
    char folder[1000];
    full_checkpoint(folder);
    float *want = decode_as(folder, DL_F32);
    for (int t = 0; t < 2; t++) {
        float *x = decode_as(folder, types[t]);
        double diff = 0, sum = 0;
        for (int64_t i = 0; i < (int64_t)SIDE * SIDE * 64 * 3; i++)
            diff += ((double)x[i] - want[i]) * ((double)x[i] - want[i]), sum += (double)want[i] * want[i];
        print_message("full-size decoder, %s: relative L2 error against f32 %.2e (limit %.0e)\n",
                      dl_type_name(types[t]), sqrt(diff / sum), limits[t]);
        assert_true(sqrt(diff / sum) <= limits[t]);
        free(x);
    }
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full_step), cmocka_unit_test(test_full_decoder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
