/* The networks against the tensors that the published checkpoints really have: files with those names and shapes, and
 * holes for data, must bind without a fault; with one tensor renamed, both names are told. */
#define _GNU_SOURCE
#include "loaders/bind.h"
#include "pipelines/clip.h"
#include "pipelines/unet.h"
#include "pipelines/vae.h"
#include "loader_files.h"

static const char *const models[] = {"stable-diffusion-v1-5", "stable-diffusion-2-1", "stable-diffusion-2-1-base"};
static const char *const parts[] = {"text_encoder", "unet", "vae"};

/* Makes scratch/net/model.safetensors from a manifest's lines (name, tab, comma-separated shape), all f16. Line
 * `renamed` gets another name; the old one goes to was. Returns the number of tensors. */
static int make_file(const char *manifest, int renamed, char *was, size_t cap)
{
    char line[400];
    size_t room = 1 << 20, n = 0;
    int64_t offset = 0;
    int count = 0;
    FILE *f = fopen(manifest, "r");
    char *header = malloc(room);
    assert_non_null(f);
    assert_non_null(header);
    header[n++] = '{';
    while (fgets(line, sizeof line, f)) {
        char *tab = strchr(line, '\t');
        assert_non_null(tab);
        assert_true(room - n > 1000);
        *tab = 0;
        tab[1 + strcspn(tab + 1, "\n")] = 0;
        int64_t bytes = 2;
        for (char *p = tab; p; p = strchr(p + 1, ',')) bytes *= atoll(p + 1);
        if (count == renamed) snprintf(was, cap, "%.*s", (int)cap - 1, line);
        n += (size_t)snprintf(header + n, room - n,
                              "%s\"%s%s\":{\"dtype\":\"F16\",\"shape\":[%s],\"data_offsets\":[%lld,%lld]}",
                              count ? "," : "", line, count == renamed ? ".renamed" : "", tab + 1, (long long)offset,
                              (long long)(offset + bytes));
        offset += bytes;
        count++;
    }
    snprintf(header + n, room - n, "}");
    put_st("net/model.safetensors", header, 0);
    assert_int_equal(truncate(at("net/model.safetensors"), (off_t)(8 + strlen(header) + (size_t)offset)), 0);
    free(header);
    fclose(f);
    return count;
}

/* Reads the part's config and binds scratch/net to it. Tensors bound as weights go to *bound. */
static int bind_part(const char *model, const char *part, int *bound, struct dl_err *e)
{
    char path[500];
    struct st_set *s;
    struct bind b;
    struct dl_wset *set;
    static struct clip clip;
    static struct unet unet;
    static struct vae vae;
    struct clip_config clip_cfg;
    struct unet_config unet_cfg;
    struct vae_config vae_cfg;
    snprintf(path, sizeof path, "%s/models/%s/%s/config.json", DLENS_SHARED, model, part);
    if (st_set_open(&s, at("net"), "model", e)) fail_msg("%s", e->msg);
    memset(&clip, 0, sizeof clip);
    memset(&unet, 0, sizeof unet);
    memset(&vae, 0, sizeof vae);
    int rc;
    if (!strcmp(part, "text_encoder")) {
        if (clip_config_read(&clip_cfg, path, e)) fail_msg("%s", e->msg);
        assert_int_equal(bind_open(&b, s, set = &clip.weights, e), 0);
        rc = clip_bind(&clip, &clip_cfg, &b, e);
    } else if (!strcmp(part, "unet")) {
        if (unet_config_read(&unet_cfg, path, e)) fail_msg("%s", e->msg);
        assert_int_equal(bind_open(&b, s, set = &unet.weights, e), 0);
        rc = unet_bind(&unet, &unet_cfg, &b, e);
    } else {
        if (vae_config_read(&vae_cfg, path, e)) fail_msg("%s", e->msg);
        assert_int_equal(bind_open(&b, s, set = &vae.weights, e), 0);
        vae_bind(&vae, &vae_cfg, &b);
        rc = 0;
    }
    assert_int_equal(rc, 0);
    rc = bind_close(&b, e);
    *bound = 0;
    for (int64_t i = 0; i < set->n; i++) *bound += set->w[i]->n_parts;
    if (!strcmp(part, "text_encoder")) clip_close(&clip);
    if (!strcmp(part, "unet")) unet_close(&unet);
    if (!strcmp(part, "vae")) vae_close(&vae);
    st_set_close(s);
    return rc;
}

static void test_published_names(void **state)
{
    (void)state;
    if (access(DLENS_SHARED "/manifests", F_OK)) {
        print_message("skipped: no %s/manifests\n", DLENS_SHARED);
        skip();
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
            char manifest[500], was[300] = "";
            struct dl_err e = {0};
            int bound, other;
            snprintf(manifest, sizeof manifest, "%s/manifests/%s.%s.tsv", DLENS_SHARED, models[i], parts[j]);
            int n = make_file(manifest, -1, was, sizeof was);
            if (bind_part(models[i], parts[j], &bound, &e)) fail_msg("%s %s: %s", models[i], parts[j], e.msg);
            /* Only the VAE has tensors that are expected and not loaded: its encoder's. */
            if (strcmp(parts[j], "vae"))
                assert_int_equal(bound, n);
            else
                assert_true(bound > n / 2 && bound < n);

            make_file(manifest, n / 2, was, sizeof was);
            if (!bind_part(models[i], parts[j], &other, &e)) fail_msg("%s is not missed", was);
            assert_says(e.msg, "1 tensor missing", "1 tensor unknown", was, NULL);
            assert_true(other < bound || !strcmp(parts[j], "vae"));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_published_names, scratch_open, scratch_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
