/* The tensor lists that networks give in list mode, from which synth writes its checkpoints, are those of the published
 * models: same names, same shapes, nothing more. */
#include "loaders/bind.h"
#include "pipelines/clip.h"
#include "pipelines/unet.h"
#include "pipelines/vae.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX = 1024, LINE = 300 };

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

static struct lines listed(const char *model, const char *part)
{
    char path[600];
    struct lines l = {.line = calloc(MAX, LINE)};
    struct dl_err e = {0};
    struct bind b;
    assert_non_null(l.line);
    snprintf(path, sizeof path, "%s/models/%s/%s/config.json", DLENS_SHARED, model, part);
    assert_int_equal(bind_open_list(&b, add, &l, &e), 0);
    int rc;
    if (!strcmp(part, "text_encoder")) {
        struct clip m = {0};
        struct clip_config c;
        rc = clip_config_read(&c, path, &e) < 0 ? -1 : clip_bind(&m, &c, &b, &e);
        clip_close(&m);
    } else if (!strcmp(part, "unet")) {
        struct unet *m = calloc(1, sizeof *m);
        struct unet_config c;
        assert_non_null(m);
        rc = unet_config_read(&c, path, &e) < 0 ? -1 : unet_bind(m, &c, &b, &e);
        unet_close(m);
        free(m);
    } else {
        struct vae *m = calloc(1, sizeof *m);
        struct vae_config c;
        assert_non_null(m);
        rc = vae_config_read(&c, path, &e);
        if (rc == 0) vae_bind(m, &c, &b);
        vae_close(m);
        free(m);
    }
    if (bind_close(&b, &e) < 0 || rc < 0) fail_msg("%s %s: %s", model, part, e.msg);
    return l;
}

static void test_lists(void **state)
{
    (void)state;
    static const char *const models[] = {"stable-diffusion-v1-5", "stable-diffusion-2-1", "stable-diffusion-2-1-base"};
    static const char *const parts[] = {"text_encoder", "unet", "vae"};
    if (access(DLENS_SHARED "/manifests", F_OK)) {
        print_message("skipped: no %s/manifests\n", DLENS_SHARED);
        skip();
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            struct lines a = published(models[i], parts[j]), b = listed(models[i], parts[j]);
            qsort(a.line, (size_t)a.n, LINE, order);
            qsort(b.line, (size_t)b.n, LINE, order);
            for (int k = 0; k < a.n && k < b.n; k++)
                if (strcmp(a.line[k], b.line[k]))
                    fail_msg("%s %s: published %s, listed %s", models[i], parts[j], a.line[k], b.line[k]);
            assert_int_equal(a.n, b.n);
            print_message("%s %s: %d tensors\n", models[i], parts[j], a.n);
            free(a.line), free(b.line);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
