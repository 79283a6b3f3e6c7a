/* manifest.json: what it says, resuming after a clean end and after a kill, what is refused and how that is said, the
 * lock, and files that are no manifest. */
#include "lens/manifest.h"
#include "lens/writer.h"
#include "tests/unit/folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>

enum { N_IMAGES = 6 };

static char root[FOLDER_PATH], dir[FOLDER_PATH + 8], file[FOLDER_PATH + 32];

static int setup(void **state)
{
    (void)state;
    if (folder_make(root)) return -1;
    snprintf(dir, sizeof dir, "%s/out", root);
    snprintf(file, sizeof file, "%s/manifest.json", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

/* A sweep over two prompts and three layers, to be changed by each test. */
struct sweep {
    struct manifest_spec s;
    struct manifest_prompt prompt[2];
    int layer[3];
    struct manifest_image image[N_IMAGES];
    json_t *settings;
};

static void sweep_make(struct sweep *w)
{
    *w = (struct sweep){.prompt = {{"a cat", NULL}, {"a \"dog\" \xe7\x8a\xac", ""}}, .layer = {0, 5, 12}};
    for (int i = 0; i < N_IMAGES; i++)
        w->image[i] = (struct manifest_image){.prompt = i / 3, .seed = i / 3 ? UINT64_MAX : 17, .k = w->layer[i % 3]};
    w->settings = json_pack("{s:i, s:f, s:s, s:n}", "steps", 20, "guidance", 7.5, "norm", "on", "negative");
    assert_non_null(w->settings);
    w->s = (struct manifest_spec){.dlens = "0.1.0",
                                  .command = "sweep",
                                  .model = {"Tiny", "./tiny", "StableDiffusionPipeline", "0123abcd"},
                                  .settings = w->settings,
                                  .prompt = w->prompt,
                                  .n_prompts = 2,
                                  .layer = w->layer,
                                  .n_layers = 3,
                                  .image = w->image,
                                  .n_images = N_IMAGES};
}

static void sweep_free(struct sweep *w) { json_decref(w->settings); }

/* Makes image i as a sweep does, through the writer. */
static void make_image(struct manifest *m, struct writer *w, int i)
{
    uint8_t rgb[4 * 4 * 3];
    struct dl_err e = {0};
    memset(rgb, 40 * i, sizeof rgb);
    char *text = manifest_image_text(m, i);
    assert_non_null(text);
    const struct dl_png_text t = {"dlens", text};
    assert_int_equal(writer_push(w, &(struct writer_job){manifest_path(m, i), i, rgb, 4, 4, &t, 1}, &e), 0);
    free(text);
}

/* Opens the folder, makes the images first..last-1 and closes. */
static void run_sweep(const struct sweep *w, int first, int last)
{
    struct manifest *m;
    struct writer *out;
    struct dl_err e = {0};
    if (manifest_open(&m, dir, &w->s, &e)) print_message("%s\n", e.msg);
    assert_non_null(m);
    assert_int_equal(writer_open(&out, 2, manifest_done, m, &e), 0);
    for (int i = first; i < last; i++) make_image(m, out, i);
    assert_int_equal(writer_close(out, &e), 0);
    assert_int_equal(manifest_close(m, &e), 0);
}

static void written_and_read(void **state)
{
    (void)state;
    struct sweep w;
    struct dl_err e = {0};
    struct manifest_doc d;
    sweep_make(&w);
    run_sweep(&w, 0, 4);
    assert_int_equal(manifest_read(&d, dir, &e), 0);
    assert_string_equal(d.dlens, "0.1.0");
    assert_string_equal(d.command, "sweep");
    assert_string_equal(d.model.title, "Tiny");
    assert_string_equal(d.model.fingerprint, "0123abcd");
    assert_true(json_equal(d.settings, w.settings));
    assert_int_equal(d.n_prompts, 2);
    assert_string_equal(d.prompt[1].text, w.prompt[1].text);
    assert_null(d.prompt[0].negative);
    assert_string_equal(d.prompt[1].negative, "");
    assert_int_equal(d.n_layers, 3);
    assert_int_equal(d.layer[2], 12);
    assert_int_equal(d.n_images, N_IMAGES);
    for (int i = 0; i < N_IMAGES; i++) {
        assert_int_equal(d.image[i].done, i < 4);
        assert_true(d.image[i].seed == w.image[i].seed);
        assert_int_equal(d.image[i].k, w.image[i].k);
    }
    assert_string_equal(d.image[1].file, "images/p000_s17_k05.png");
    /* Layers are in it both ways. */
    const json_t *entry = json_array_get(json_object_get(d.root, "images"), 1);
    assert_int_equal(json_integer_value(json_object_get(entry, "block")), 4);
    entry = json_array_get(json_object_get(d.root, "images"), 0);
    assert_true(json_is_null(json_object_get(entry, "block")));
    char path[FOLDER_PATH + NAMES_MAX + 16], hex[SHA256_HEX];
    snprintf(path, sizeof path, "%s/%s", dir, d.image[3].file);
    assert_int_equal(sha256_file(hex, path, NULL, &e), 0);
    assert_string_equal(hex, d.image[3].sha256);
    manifest_doc_close(&d);
    /* Nothing else was left: the manifest and images/. */
    assert_int_equal(folder_count(dir), 2);
    sweep_free(&w);
}

static void resumed(void **state)
{
    (void)state;
    struct sweep w;
    struct manifest *m;
    struct dl_err e = {0};
    char path[N_IMAGES][FOLDER_PATH + 64];
    sweep_make(&w);
    run_sweep(&w, 0, 4);
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), 0);
    assert_true(manifest_is_resumed(m));
    assert_int_equal(manifest_n_done(m), 4);
    assert_int_equal(manifest_n_lost(m), 0);
    for (int i = 0; i < N_IMAGES; i++) {
        assert_int_equal(manifest_is_done(m, i), i < 4);
        snprintf(path[i], sizeof path[i], "%s", manifest_path(m, i));
    }
    assert_int_equal(manifest_close(m, &e), 0);
    /* One is removed, one altered: both are to be made again, and the user can be told. */
    unlink(path[0]);
    assert_int_equal(folder_write(path[1], "changed", 7), 0);
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), 0);
    assert_int_equal(manifest_n_done(m), 2);
    assert_int_equal(manifest_n_lost(m), 2);
    assert_false(manifest_is_done(m, 0));
    assert_false(manifest_is_done(m, 1));
    assert_true(manifest_is_done(m, 2));
    assert_int_equal(manifest_close(m, &e), 0);
    /* The model's folder may have moved. */
    w.s.model.name = "/elsewhere/tiny";
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), 0);
    assert_int_equal(manifest_close(m, &e), 0);
    sweep_free(&w);
}

static void killed(void **state)
{
    (void)state;
    struct sweep w;
    struct dl_err e = {0};
    struct manifest *m;
    sweep_make(&w);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        struct writer *out;
        if (manifest_open(&m, dir, &w.s, &e) || writer_open(&out, 2, manifest_done, m, &e)) _exit(1);
        char *first = folder_read(file, NULL);
        for (int i = 0; i < 3; i++) make_image(m, out, i);
        /* All are on disk, and the manifest (written at most once a second) still says pending. Where the disk was so
         * slow that it does not, its first state is put back. */
        if (writer_close(out, &e) || folder_write(file, first, (int64_t)strlen(first))) _exit(1);
        raise(SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    struct manifest_doc d;
    assert_int_equal(manifest_read(&d, dir, &e), 0);
    assert_false(d.image[2].done);
    manifest_doc_close(&d);
    /* A picture of other settings in the place of the next, half a picture in that after it, and a temporary file. */
    char path[FOLDER_PATH + 64], other[FOLDER_PATH + 64];
    snprintf(path, sizeof path, "%s/images/p000_s17_k12.png", dir);
    int64_t n = 0;
    char *bytes = folder_read(path, &n);
    assert_non_null(bytes);
    snprintf(other, sizeof other, "%s/images/p001_s18446744073709551615_k00.png", dir);
    assert_int_equal(folder_write(other, bytes, n), 0);
    snprintf(other, sizeof other, "%s/images/p001_s18446744073709551615_k05.png", dir);
    assert_int_equal(folder_write(other, bytes, n / 2), 0);
    snprintf(other, sizeof other, "%s/images/p001_s18446744073709551615_k12.png.77.tmp", dir);
    assert_int_equal(folder_write(other, bytes, n / 2), 0);
    free(bytes);
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), 0);
    for (int i = 0; i < N_IMAGES; i++) assert_int_equal(manifest_is_done(m, i), i < 3);
    assert_int_equal(manifest_n_lost(m), 0);
    assert_int_not_equal(access(other, F_OK), 0);
    assert_int_equal(manifest_close(m, &e), 0);
    run_sweep(&w, 3, N_IMAGES);
    assert_int_equal(manifest_read(&d, dir, &e), 0);
    for (int i = 0; i < N_IMAGES; i++) assert_true(d.image[i].done);
    /* The folder is, to the byte, that of a sweep without a break. */
    char *broken = folder_read(file, NULL), *whole;
    folder_remove(dir);
    run_sweep(&w, 0, N_IMAGES);
    whole = folder_read(file, NULL);
    assert_string_equal(broken, whole);
    free(broken);
    free(whole);
    manifest_doc_close(&d);
    sweep_free(&w);
}

static void is_refused(const struct sweep *w, const char *a, const char *b, const char *c)
{
    struct manifest *m;
    struct dl_err e = {0};
    assert_int_equal(manifest_open(&m, dir, &w->s, &e), -1);
    assert_null(m);
    if (!strstr(e.msg, a) || !strstr(e.msg, b) || !strstr(e.msg, c)) print_message("%s\n", e.msg);
    assert_int_equal(e.code, DL_EUSAGE);
    assert_non_null(strstr(e.msg, a));
    assert_non_null(strstr(e.msg, b));
    assert_non_null(strstr(e.msg, c));
    assert_non_null(strstr(e.msg, "--out"));
    assert_non_null(strstr(e.msg, dir));
}

static void other_settings(void **state)
{
    (void)state;
    struct sweep w;
    sweep_make(&w);
    run_sweep(&w, 0, 1);
    char *before = folder_read(file, NULL);
    json_object_set_new(w.settings, "guidance", json_real(5));
    is_refused(&w, "guidance 7.5", "guidance 5.0", "");
    sweep_free(&w);
    sweep_make(&w);
    json_object_set_new(w.settings, "rng", json_string("torch-cpu"));
    is_refused(&w, "rng (none)", "rng \"torch-cpu\"", "");
    sweep_free(&w);
    sweep_make(&w);
    json_object_del(w.settings, "negative");
    is_refused(&w, "negative null", "negative (none)", "");
    sweep_free(&w);
    sweep_make(&w);
    w.prompt[1].text = "a bird";
    is_refused(&w, "prompt", "dog", "a bird");
    w.prompt[1].text = "a \"dog\" \xe7\x8a\xac";
    w.prompt[1].negative = NULL;
    is_refused(&w, "negative prompt \"\"", "negative prompt null", "");
    w.prompt[1].negative = "";
    w.image[0].seed = w.image[1].seed = w.image[2].seed = 18;
    is_refused(&w, "seeds [17]", "seeds [18]", "");
    w.image[0].seed = w.image[1].seed = w.image[2].seed = 17;
    w.layer[1] = 6;
    is_refused(&w, "layers [0,5,12]", "layers [0,6,12]", "");
    w.layer[1] = 5;
    w.s.n_images = 3;
    w.s.n_prompts = 1;
    is_refused(&w, "2 prompts and 6 images", "1 prompts and 3 images", "");
    w.s.n_images = N_IMAGES;
    w.s.n_prompts = 2;
    w.image[1].k = 7;
    is_refused(&w, "other images", "p000_s17_k05.png", "");
    w.image[1].k = 5;
    w.s.model.fingerprint = "ffff";
    is_refused(&w, "model files", "0123abcd", "ffff");
    w.s.model.fingerprint = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    is_refused(&w, "model files", "0123abcd", "model files fedcba987654... is asked for");
    w.s.model.name = "./other";
    is_refused(&w, "model \"./tiny\"", "model \"./other\"", "");
    sweep_free(&w);
    sweep_make(&w);
    w.s.command = "replay";
    is_refused(&w, "command \"sweep\"", "command \"replay\"", "");
    /* A refused folder stays as it was. */
    char *after = folder_read(file, NULL);
    assert_string_equal(before, after);
    assert_int_equal(folder_count(dir), 2);
    free(before);
    free(after);
    /* A long value is cut, and the message stays valid UTF-8. */
    char text[4000] = "";
    while (strlen(text) < sizeof text - 8) strcat(text, "\xe7\x8a\xac");
    w.s.command = "sweep";
    w.prompt[0].text = text;
    is_refused(&w, "prompt \"a cat\"", "...", "\xe7\x8a\xac...");
    sweep_free(&w);
}

static void foreign_folder(void **state)
{
    (void)state;
    struct sweep w;
    struct manifest *m;
    struct dl_err e = {0};
    char path[FOLDER_PATH + 64];
    sweep_make(&w);
    assert_int_equal(mkdir(dir, 0777), 0);
    snprintf(path, sizeof path, "%s/thesis.tex", dir);
    assert_int_equal(folder_write(path, "x", 1), 0);
    is_refused(&w, "is not empty (thesis.tex)", "no manifest.json", "");
    assert_int_equal(folder_count(dir), 1);
    unlink(path);
    /* An empty one is fine, and so is what a run leaves that was killed at its very start. */
    snprintf(path, sizeof path, "%s/manifest.json.5.tmp", dir);
    assert_int_equal(folder_write(path, "{", 1), 0);
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), 0);
    assert_false(manifest_is_resumed(m));
    assert_int_equal(manifest_close(m, &e), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    /* A file in the place of the folder. */
    folder_remove(dir);
    assert_int_equal(folder_write(dir, "x", 1), 0);
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    unlink(dir);
    e = (struct dl_err){0};
    assert_int_equal(manifest_open(&m, "", &w.s, &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    sweep_free(&w);
}

static void locked(void **state)
{
    (void)state;
    struct sweep w;
    struct dl_err e = {0};
    struct manifest *m;
    struct manifest_doc d;
    sweep_make(&w);
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), 0);
    is_refused(&w, "another dlens is writing to this folder", "", "");
    /* Reading goes on meanwhile. */
    assert_int_equal(manifest_read(&d, dir, &e), 0);
    manifest_doc_close(&d);
    assert_int_equal(manifest_close(m, &e), 0);
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), 0);
    assert_int_equal(manifest_close(m, &e), 0);
    sweep_free(&w);
}

/* Replaces the first `from` of the manifest by `to` and says what reading it gives. */
static void reads_as(const char *good, const char *from, const char *to, const char *says)
{
    const char *at = strstr(good, from);
    assert_non_null(at);
    size_t head = (size_t)(at - good), mid = strlen(to), tail = strlen(at + strlen(from));
    char *bad = malloc(head + mid + tail);
    assert_non_null(bad);
    memcpy(bad, good, head);
    memcpy(bad + head, to, mid);
    memcpy(bad + head + mid, at + strlen(from), tail);
    assert_int_equal(folder_write(file, bad, (int64_t)(head + mid + tail)), 0);
    struct manifest_doc d;
    struct dl_err e = {0};
    assert_int_equal(manifest_read(&d, dir, &e), -1);
    if (e.code != DL_EINPUT || !strstr(e.msg, says)) print_message("%s -> %s: %s\n", from, to, e.msg);
    assert_int_equal(e.code, DL_EINPUT);
    assert_non_null(strstr(e.msg, says));
    assert_non_null(strstr(e.msg, "manifest.json"));
    assert_null(d.root);
    free(bad);
}

static void hostile(void **state)
{
    (void)state;
    struct sweep w;
    struct dl_err e = {0};
    struct manifest_doc d;
    sweep_make(&w);
    run_sweep(&w, 0, N_IMAGES);
    char *good = folder_read(file, NULL);
    reads_as(good, "\"schema\": 1", "\"schema\": 2", "schema 2; this dlens reads schema 1");
    reads_as(good, "\"schema\": 1", "\"schema\": \"1\"", "no number \"schema\"");
    reads_as(good, "\"dlens\": \"0.1.0\"", "\"dlens\": 1", "no text \"dlens\"");
    reads_as(good, "\"fingerprint\"", "\"finger\"", "no text \"fingerprint\"");
    reads_as(good, "\"settings\"", "\"other\"", "no object \"settings\"");
    reads_as(good, "\"text\": \"a cat\"", "\"text\": 5", "no text \"text\"");
    reads_as(good, "\"negative\": \"\"", "\"negative\": []", "prompts[1].negative");
    reads_as(good, "\"layer\": 5", "\"layer\": -5", "layers[1].layer");
    reads_as(good, "\"prompt\": 1", "\"prompt\": 2", "images[3].prompt is not a number in 0..1");
    reads_as(good, "\"prompt\": 0", "\"prompt\": 1e9", "images[0].prompt");
    reads_as(good, "\"prompt\": 0", "\"prompt\": 99999999999999999999", "not JSON");
    reads_as(good, "\"seed\": 17", "\"seed\": -17", "images[0].seed");
    reads_as(good, "18446744073709551615\", \"layer\"", "18446744073709551616\", \"layer\"", "images[3].seed");
    reads_as(good, "images/p000_s17_k05.png", "../../etc/passwd", "images[1].file");
    reads_as(good, "\"done\"", "\"finished\"", "images[0].state");
    reads_as(good, "\"sha256\": \"", "\"sha256\": \"xx", "images[0].sha256");
    reads_as(good, "{", "", "not JSON");
    reads_as(good, "\"schema\"", "\"images\": [], \"schema\"", "not JSON: duplicate");
    reads_as(good, "\"a cat\"", "\"\xff\"", "not JSON");
    char *nested = malloc(400001);
    assert_non_null(nested);
    memset(nested, '[', 400000);
    nested[400000] = 0;
    reads_as(good, "\"run\": {}", nested, "not JSON");
    /* Cut anywhere: an error, never more. */
    for (size_t n = strlen(good) - 2, i = 0; i < n; i += 7) {
        e = (struct dl_err){0};
        assert_int_equal(folder_write(file, good, (int64_t)i), 0);
        assert_int_equal(manifest_read(&d, dir, &e), -1);
        assert_int_equal(e.code, DL_EINPUT);
    }
    /* A sweep does not write over what it cannot read. */
    struct manifest *m;
    e = (struct dl_err){0};
    assert_int_equal(folder_write(file, "{}", 2), 0);
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    assert_int_equal(folder_count(dir), 2);
    e = (struct dl_err){0};
    assert_int_equal(manifest_read(&d, root, &e), -1);
    assert_int_equal(e.code, DL_EFAIL);
    free(nested);
    free(good);
    sweep_free(&w);
}

/* Text that is not UTF-8 must not become a manifest with a hole. */
static void not_utf8(void **state)
{
    (void)state;
    struct sweep w;
    struct manifest *m;
    struct dl_err e = {0};
    sweep_make(&w);
    w.prompt[0].text = "\xff";
    assert_int_equal(manifest_open(&m, dir, &w.s, &e), -1);
    assert_non_null(strstr(e.msg, "UTF-8"));
    assert_int_not_equal(access(dir, F_OK), 0);
    sweep_free(&w);
}

/* One group for each prompt and seed, in the order of their first images, also where images are mixed. */
static void groups(void **state)
{
    (void)state;
    struct manifest_image image[] = {{.prompt = 1, .seed = 9, .k = 1}, {.prompt = 0, .seed = 9, .k = 1},
                                     {.prompt = 1, .seed = 9, .k = 2}, {.prompt = 0, .seed = UINT64_MAX, .k = 1},
                                     {.prompt = 0, .seed = 9, .k = 2}, {.prompt = 1, .seed = 3, .k = 1}};
    const struct manifest_group want[] = {{1, 9, 0}, {0, 9, 1}, {0, UINT64_MAX, 3}, {1, 3, 5}};
    struct manifest_doc d = {.image = image, .n_images = 6};
    struct manifest_group *group;
    struct dl_err err = {0};
    int64_t n;
    assert_int_equal(manifest_groups(&d, &group, &n, &err), 0);
    assert_int_equal(n, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(group[i].prompt, want[i].prompt);
        assert_int_equal(group[i].seed, want[i].seed);
        assert_int_equal(group[i].first, want[i].first);
    }
    free(group);
    d.n_images = 0;
    assert_int_equal(manifest_groups(&d, &group, &n, &err), 0);
    assert_int_equal(n, 0);
    free(group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_and_read, setup, teardown),
        cmocka_unit_test_setup_teardown(resumed, setup, teardown),
        cmocka_unit_test_setup_teardown(killed, setup, teardown),
        cmocka_unit_test_setup_teardown(other_settings, setup, teardown),
        cmocka_unit_test_setup_teardown(foreign_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(locked, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(not_utf8, setup, teardown),
        cmocka_unit_test(groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
