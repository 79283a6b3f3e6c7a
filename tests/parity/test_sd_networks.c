/* CLIP, UNet and VAE decoder on the tiny synthetic checkpoints: every tap against PyTorch's float32 run, bf16 within
 * PyTorch's own bf16 error, and rows that do not depend on their neighbours, byte for byte. The reference values are
 * made by tools/ref/networks.py, the checkpoints here and now by the synth library. */

#include "tests/parity/parts.h"
#include "tests/parity/sd_nets.h"
#include "tools/synth.h"

static const char *const models[] = {"sd15", "sd21"};
enum { MODELS = 2 };

static int make_checkpoints(void **state)
{
    if (root_make(state) < 0) return -1;
    for (int i = 0; i < MODELS; i++)
        must(synth_write(&(struct synth_opts){.like = models[i], .out = in_root(models[i])}, e));
    return 0;
}

/* Rows of the ids; states [(layers + 1) n] and their final norms. */
struct clip_job {
    struct clip *clip;
    const int32_t *ids;
    int n;
    dl_act states, finals;
};

static void clip_phase(struct dl_run *r, void *arg)
{
    struct clip_job *j = arg;
    clip_run(r, j->clip, j->ids, j->n, j->clip->cfg.layers, j->states);
    clip_final(r, j->clip, j->states, j->finals);
}

/* Runs rows [from, from + n). */
static struct clip_job clip_job(const struct machine *mc, struct dl_run *r, struct sd_nets *m, int from, int n)
{
    const struct clip_config *c = &m->clip[0].cfg;
    int rows = (c->layers + 1) * n;
    struct clip_job j = {
        .clip = m->clip, .ids = (const int32_t *)ref_data(m->ref, "in.ids", NULL) + SD_TOKENS * from, .n = n};
    j.states = net_act(mc, r->t, rows, 1, SD_TOKENS, c->width);
    j.finals = net_act(mc, r->t, rows, 1, SD_TOKENS, c->width);
    net_run(r, mc, &m->clip[0].weights, clip_phase, &j);
    return j;
}

static void clip_job_free(const struct machine *mc, struct clip_job *j)
{
    net_free(mc, j->states.p);
    net_free(mc, j->finals.p);
}

/* All networks of one model against the reference. */
static int compare(const struct machine *mc, const char *name, int type, double limit)
{
    struct sd_nets *m = sd_nets_open(name, 1);
    struct taps k = {.ref = m->ref, .limit = limit};
    struct dl_run r;
    print_message("%s, %s, %s backend\n", name, dl_type_name(type), mc->name);
    dl_run_open(&r, mc->be, mc->ctx, type);
    r.tap = taps_listen, r.tap_user = &k;

    taps_begin(&k, "clip/");
    struct clip_job c = clip_job(mc, &r, m, 0, SD_ROWS);
    for (int i = 0; i <= m->clip[0].cfg.layers; i++) {
        char tap[40];
        snprintf(tap, sizeof tap, "final.%d", i);
        taps_act(&k, tap, dl_act_rows(c.finals, SD_ROWS * i, SD_ROWS));
    }
    taps_end(&k);
    clip_job_free(mc, &c);

    taps_begin(&k, "vae/");
    net_free(mc, sd_decode(mc, &r, m, 0, SD_ROWS).p);
    taps_end(&k);
    sd_unet_compare(mc, &r, m, &k);

    int over = taps_over(&k);
    dl_run_close(&r);
    sd_nets_close(m);
    return over;
}

static void test_f32(void **state)
{
    (void)state;
    taps_f32(compare, models, MODELS);
}

static void test_bf16(void **state)
{
    (void)state;
    taps_bf16(compare, models, MODELS);
}

static void rows_of_clip_and_vae(const struct machine *mc, struct dl_run *r, struct sd_nets *m)
{
    struct clip_job c = clip_job(mc, r, m, 0, SD_ROWS);
    dl_act x = sd_decode(mc, r, m, 0, 3);
    for (int i = 0; i < 2; i++) {
        struct clip_job c1 = clip_job(mc, r, m, i, 1);
        for (int k = 0; k <= c.clip->cfg.layers; k++) net_same_rows(c.finals, SD_ROWS * k + i, c1.finals, k, 1, "CLIP");
        clip_job_free(mc, &c1);
        dl_act x1 = sd_decode(mc, r, m, i, 1);
        net_same_rows(x, i, x1, 0, 1, "VAE");
        net_free(mc, x1.p);
    }
    clip_job_free(mc, &c);
    net_free(mc, x.p);
}

static void rows_of(const struct machine *mc, struct dl_run *r, const char *name)
{
    struct sd_nets *m = sd_nets_open(name, 1);
    rows_of_clip_and_vae(mc, r, m);
    pairs_check(mc, sd_unet_run, &(struct sd_unet){.mc = mc, .r = r, .m = m});
    sd_nets_close(m);
}

static void test_rows(void **state)
{
    (void)state;
    net_each_type(models, MODELS, rows_of);
}

/* At a size where most levels' pixels make whole sets. */
static void parts_of_model(const struct machine *mc, struct dl_run *r, const char *name)
{
    struct sd_nets *m = sd_nets_open(name, 1);
    net_free(mc, sd_decode(mc, r, m, 0, 2).p);
    pairs_check(mc, sd_unet_run, &(struct sd_unet){.mc = mc, .r = r, .m = m, .h = 32, .w = 16});
    sd_nets_close(m);
}

static void test_parts(void **state)
{
    (void)state;
    parts_each_model(models, MODELS, parts_of_model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, make_checkpoints, root_remove);
}
