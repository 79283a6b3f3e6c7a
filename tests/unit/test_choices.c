/* Choices by measurement on their way through a manifest: from a backend, into the file, to another backend. */
#include "lens/choices.h"
#include "tests/unit/root.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

/* Stands for a backend's state: what it was told to choose. */
struct dl_ctx {
    int n;
    char what[4][64], how[4][64];
    bool full; /* takes no more */
};

static int choose(struct dl_ctx *c, const char *what, const char *how, struct dl_err *e)
{
    if (c->full) return dl_fail(e, DL_ENOMEM, "no room");
    assert_true(c->n < 4);
    snprintf(c->what[c->n], 64, "%s", what), snprintf(c->how[c->n], 64, "%s", how);
    c->n++;
    return 0;
}

static void tell(struct dl_ctx *c, void (*each)(void *user, const char *what, const char *how), void *user)
{
    for (int i = 0; i < c->n; i++) each(user, c->what[i], c->how[i]);
}

static const struct dl_backend measuring = {.name = "fake", .choices = tell, .choose = choose}, plain = {.name = "cpu"};

/* A sweep in `dir` on that backend, of no images; `run` is what its manifest begins with. */
static void sweep(const char *dir, const struct dl_backend *be, struct dl_ctx *c, json_t *run)
{
    struct manifest *m;
    struct dl_err e = {0};
    json_t *settings = json_object();
    struct manifest_spec s = {.dlens = "0.1.0",
                              .command = "sweep",
                              .model = {"Tiny", "./tiny", "StableDiffusionPipeline", "0123abcd"},
                              .settings = settings,
                              .run = run};
    if (manifest_open(&m, dir, &s, &e)) fail_msg("%s", e.msg);
    choices_note(be, c, m);
    assert_int_equal(manifest_close(m, &e), 0);
    json_decref(settings);
    json_decref(run);
}

static void through_a_manifest(void **state)
{
    (void)state;
    char dir[FOLDER_PATH + 8];
    struct dl_ctx first = {0}, second = {0};
    struct manifest_doc d;
    struct dl_err e = {0};
    json_t *kept;
    snprintf(dir, sizeof dir, "%s/a", root);
    assert_int_equal(choose(&first, "gemm 320->320 4096 n24 f16", "cublaslt 1", &e), 0);
    assert_int_equal(choose(&first, "conv k3", "mma 128x160x32", &e), 0);
    sweep(dir, &measuring, &first, json_pack("{s:s}", "device", "fake"));
    assert_int_equal(manifest_read(&d, dir, &e), 0);
    assert_string_equal(json_string_value(json_object_get(d.run, "device")), "fake");

    assert_int_equal(choices_recall(&measuring, &second, &d, &kept, &e), 0);
    assert_int_equal(second.n, 2);
    assert_int_equal(json_object_size(kept), 2);
    assert_string_equal(json_string_value(json_object_get(kept, "conv k3")), "mma 128x160x32");
    for (int i = 0; i < 2; i++)
        assert_string_equal(json_string_value(json_object_get(kept, second.what[i])), second.how[i]);

    /* A run that resumes it and makes nothing keeps them; a new choice goes before an old one. */
    snprintf(second.how[0], 64, "another way");
    second.n = 1;
    sweep(dir, &measuring, &second, json_pack("{s:O}", "choices", kept));
    manifest_doc_close(&d);
    assert_int_equal(manifest_read(&d, dir, &e), 0);
    const json_t *list = json_object_get(d.run, "choices");
    assert_int_equal(json_object_size(list), 2);
    assert_string_equal(json_string_value(json_object_get(list, second.what[0])), "another way");
    json_decref(kept);

    /* A backend that measures nothing is asked nothing, and notes nothing. */
    assert_int_equal(choices_recall(&plain, NULL, &d, &kept, &e), 0);
    assert_int_equal(json_object_size(kept), 0);
    json_decref(kept);
    manifest_doc_close(&d);
    snprintf(dir, sizeof dir, "%s/b", root);
    sweep(dir, &plain, NULL, json_pack("{s:s}", "device", "cpu"));
    assert_int_equal(manifest_read(&d, dir, &e), 0);
    assert_null(json_object_get(d.run, "choices"));
    assert_int_equal(choices_recall(&measuring, &second, &d, &kept, &e), 0); /* none in it */
    assert_int_equal(json_object_size(kept), 0);
    json_decref(kept);
    manifest_doc_close(&d);
}

static void refused(void **state)
{
    (void)state;
    char dir[FOLDER_PATH + 8];
    struct dl_ctx c = {0}, full = {.full = true};
    struct manifest_doc d;
    struct dl_err e = {0}, why = {0};
    json_t *kept;
    snprintf(dir, sizeof dir, "%s/c", root);
    sweep(dir, &plain, NULL, json_pack("{s:{s:s, s:i}}", "choices", "one", "way", "two", 3));
    assert_int_equal(manifest_read(&d, dir, &e), 0);
    assert_int_equal(choices_recall(&measuring, &c, &d, &kept, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_non_null(strstr(e.msg, "\"two\" is not text"));
    assert_null(kept);
    assert_int_equal(choices_recall(&measuring, &full, &d, &kept, &why), -1);
    assert_string_equal(why.msg, "no room");
    manifest_doc_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(through_a_manifest), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, root_make, root_remove);
}
