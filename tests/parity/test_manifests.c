/* The tensor lists that networks give in list mode, from which synth writes its checkpoints, are those of the published
 * models: same names, same shapes, nothing more. */
#include "loaders/bind.h"
#include "pipelines/clip.h"
#include "pipelines/flux.h"
#include "pipelines/t5.h"
#include "pipelines/unet.h"
#include "pipelines/unet_if.h"
#include "pipelines/vae.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX = 2048, LINE = 300 };

struct lines {
    char (*line)[LINE];
    int n;
};

static void add(void *user, const char *name, const int64_t *dim, int nd, enum bind_role role)
{
    struct lines *l = user;
    (void)role;
    assert_true(l->n < MAX);
    int at = snprintf(l->line[l->n], LINE, "%s\t", name);
    for (int i = 0; i < nd; i++)
        at += snprintf(l->line[l->n] + at, (size_t)(LINE - at), "%s%lld", i ? "," : "", (long long)dim[i]);
    l->n++;
}

static int order(const void *a, const void *b) { return strcmp(a, b); }

/* The published VAEs have the old names of the middle's attention; list mode gives the new ones. */
static void rename_old(char *line)
{
    static const char *const names[][2] = {
        {"query", "to_q"}, {"key", "to_k"}, {"value", "to_v"}, {"proj_attn", "to_out.0"}};
    for (int i = 0; i < 4; i++) {
        char old[40], tail[LINE];
        snprintf(old, sizeof old, "attentions.0.%s.", names[i][0]);
        char *at = strstr(line, old);
        if (!at) continue;
        snprintf(tail, sizeof tail, "%s", at + strlen(old));
        snprintf(at, (size_t)(LINE - (at - line)), "attentions.0.%s.%s", names[i][1], tail);
    }
}

static struct lines published(const char *model, const char *part)
{
    char path[600];
    struct lines l = {.line = calloc(MAX, LINE)};
    assert_non_null(l.line);
    snprintf(path, sizeof path, "%s/manifests/%s.%s.tsv", DLENS_SHARED, model, part);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (l.n < MAX && fgets(l.line[l.n], LINE, f)) {
        l.line[l.n][strcspn(l.line[l.n], "\n")] = 0;
        if (!strcmp(part, "vae")) rename_old(l.line[l.n]);
        l.n++;
    }
    fclose(f);
    return l;
}

/* What lists one network: reads the config at `path`, binds in list mode. */
typedef int list_fn(struct bind *b, const char *path, struct dl_err *e);

static int list_clip(struct bind *b, const char *path, struct dl_err *e)
{
    struct clip m = {0};
    struct clip_config c;
    int rc = clip_config_read(&c, path, e) < 0 ? -1 : clip_bind(&m, &c, b, e);
    clip_close(&m);
    return rc;
}

static int list_unet(struct bind *b, const char *path, struct dl_err *e)
{
    struct unet *m = calloc(1, sizeof *m);
    struct unet_config c;
    assert_non_null(m);
    int rc = unet_config_read(&c, path, e) < 0 ? -1 : unet_bind(m, &c, b, e);
    unet_close(m);
    free(m);
    return rc;
}

static int list_unet_if(struct bind *b, const char *path, struct dl_err *e)
{
    struct unet_if *m = calloc(1, sizeof *m);
    struct unet_if_config c;
    assert_non_null(m);
    int rc = unet_if_config_read(&c, path, e);
    if (rc == 0) unet_if_bind(m, &c, b);
    unet_if_close(m);
    free(m);
    return rc;
}

static int list_vae(struct bind *b, const char *path, struct dl_err *e)
{
    struct vae *m = calloc(1, sizeof *m);
    struct vae_config c;
    assert_non_null(m);
    int rc = vae_config_read(&c, path, e);
    if (rc == 0) vae_bind(m, &c, b);
    vae_close(m);
    free(m);
    return rc;
}

static int list_flux(struct bind *b, const char *path, struct dl_err *e)
{
    struct flux m = {0};
    struct flux_config c;
    int rc = flux_config_read(&c, path, e) < 0 ? -1 : flux_bind(&m, &c, b, e);
    flux_close(&m);
    return rc;
}

static int list_t5(struct bind *b, const char *path, struct dl_err *e)
{
    struct t5 m = {0};
    struct t5_config c;
    int rc = t5_config_read(&c, path, e) < 0 ? -1 : t5_bind(&m, &c, b, e);
    t5_close(&m);
    return rc;
}

static struct lines listed(const char *model, const char *part, list_fn *list)
{
    char path[600];
    struct lines l = {.line = calloc(MAX, LINE)};
    struct dl_err e = {0};
    struct bind b;
    assert_non_null(l.line);
    snprintf(path, sizeof path, "%s/models/%s/%s/config.json", DLENS_SHARED, model, part);
    assert_int_equal(bind_open_list(&b, add, &l, &e), 0);
    int rc = list(&b, path, &e);
    if (bind_close(&b, &e) < 0 || rc < 0) fail_msg("%s %s: %s", model, part, e.msg);
    return l;
}

static const struct {
    const char *model, *part;
    list_fn *list;
} networks[] = {
    {"stable-diffusion-v1-5", "text_encoder", list_clip},
    {"stable-diffusion-v1-5", "unet", list_unet},
    {"stable-diffusion-v1-5", "vae", list_vae},
    {"stable-diffusion-2-1", "text_encoder", list_clip},
    {"stable-diffusion-2-1", "unet", list_unet},
    {"stable-diffusion-2-1", "vae", list_vae},
    {"stable-diffusion-2-1-base", "text_encoder", list_clip},
    {"stable-diffusion-2-1-base", "unet", list_unet},
    {"stable-diffusion-2-1-base", "vae", list_vae},
    {"stable-diffusion-xl-base-1.0", "text_encoder", list_clip},
    {"stable-diffusion-xl-base-1.0", "text_encoder_2", list_clip},
    {"stable-diffusion-xl-base-1.0", "unet", list_unet},
    {"stable-diffusion-xl-base-1.0", "vae", list_vae},
    {"IF-I-M-v1.0", "text_encoder", list_t5},
    {"IF-I-L-v1.0", "text_encoder", list_t5},
    {"IF-I-XL-v1.0", "text_encoder", list_t5},
    {"IF-II-L-v1.0", "text_encoder", list_t5},
    {"FLUX.1-schnell", "text_encoder_2", list_t5},
    {"FLUX.1-dev", "text_encoder_2", list_t5},
    {"IF-I-M-v1.0", "unet", list_unet_if},
    {"IF-I-L-v1.0", "unet", list_unet_if},
    {"IF-I-XL-v1.0", "unet", list_unet_if},
    {"IF-II-L-v1.0", "unet", list_unet_if},
    {"FLUX.1-schnell", "text_encoder", list_clip},
    {"FLUX.1-schnell", "transformer", list_flux},
    {"FLUX.1-schnell", "vae", list_vae},
    {"FLUX.1-dev", "text_encoder", list_clip},
    {"FLUX.1-dev", "transformer", list_flux},
    {"FLUX.1-dev", "vae", list_vae},
};

static void test_lists(void **state)
{
    (void)state;
    if (access(DLENS_SHARED "/manifests", F_OK)) {
        print_message("skipped: no %s/manifests\n", DLENS_SHARED);
        skip();
    }
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++) {
        const char *model = networks[i].model, *part = networks[i].part;
        struct lines a = published(model, part), b = listed(model, part, networks[i].list);
        qsort(a.line, (size_t)a.n, LINE, order);
        qsort(b.line, (size_t)b.n, LINE, order);
        for (int k = 0; k < a.n && k < b.n; k++)
            if (strcmp(a.line[k], b.line[k]))
                fail_msg("%s %s: published %s, listed %s", model, part, a.line[k], b.line[k]);
        assert_int_equal(a.n, b.n);
        print_message("%s %s: %d tensors\n", model, part, a.n);
        free(a.line), free(b.line);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
