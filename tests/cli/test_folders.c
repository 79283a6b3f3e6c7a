/* Folders that a sweep writes and reads: other sweeps' folders, folders that cannot be written, full disks, two sweeps
 * at once, figures of unfinished sweeps; and snapshot files that were edited or made by others. */
#define _GNU_SOURCE /* mount, setrlimit */
#include "tests/cli/cli.h"

#include "loaders/st_write.h"

#include <errno.h>
#include <math.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <time.h>

/* How many pictures a folder has. */
static int pictures(const char *dir)
{
    char images[CLI_PATH + 16];
    int n = 0;
    snprintf(images, sizeof images, "%s/images", dir);
    DIR *d = opendir(images);
    for (struct dirent *f; d && (f = readdir(d));) {
        size_t len = strlen(f->d_name);
        n += len > 4 && !strcmp(f->d_name + len - 4, ".png");
    }
    if (d) closedir(d);
    return n;
}

static void test_unwritable(void **state)
{
    (void)state;
    put_file(in_root("plain"), "x");
    refuses(1, "is a file, a folder is needed here", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out",
            in_root("plain"));
    refuses(1, "the folder cannot be made", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out",
            in_root("plain/below"));
    refuses(1, "plain/below.safetensors", "encode", "--model", sd15, "--prompt", "x", "--out",
            in_root("plain/below.safetensors"));
    if (access("/proc/self", F_OK) == 0)
        refuses(1, "/proc/sweep: the folder cannot be made", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out",
                "/proc/sweep");
    if (geteuid() == 0) {
        print_message("the folder without write permission is left out: root may write everywhere\n");
        return;
    }
    mkdir(in_root("locked"), 0500);
    refuses(1, "locked", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", in_root("locked"));
}

static void test_other_sweeps(void **state)
{
    (void)state;
    char dir[CLI_PATH];
    snprintf(dir, sizeof dir, "%s", in_root("first"));
    run_well(root, "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", dir);
    refuses(2, "with steps 1, and now steps 2 is asked for", "sweep", "--model", sd15, "--prompt", "x", SHORT,
            "--steps", "2", "--out", dir);
    refuses(2, "\"x\"", "sweep", "--model", sd15, "--prompt", "y", SHORT, "--out", dir);
    refuses(2, "layers", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--layers", "2", "--out", dir);
    refuses(2, "seed", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--seed", "18", "--out", dir);
    refuses(2, "guidance", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--guidance", "3", "--out", dir);
    refuses(2, "norm", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--norm", "off", "--out", dir);
    run_well(root, "synth", "--like", "sd15", "--seed", "1", "--out", in_root("other-values"));
    refuses(2, "model", "sweep", "--model", in_root("other-values"), "--prompt", "x", SHORT, "--out",
            dir); /* of the same name and shapes */
    assert_int_equal(pictures(dir), 1);

    mkdir(in_root("photos"), 0700);
    put_file(in_root("photos/holiday.jpg"), "x");
    refuses(2, "this folder is not empty (holiday.jpg)", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out",
            in_root("photos"));
    assert_int_equal(folder_count(in_root("photos")), 1);
    put_file(in_root("photos/manifest.json"), "{}");
    refuses(3, "manifest.json", "sweep", "--model", sd15, "--prompt", "x", SHORT, "--out", in_root("photos"));
}

/* A finished picture that was spoilt is made again, with a warning; one that was taken away as well. */
static void test_lost_pictures(void **state)
{
    (void)state;
    const char *dir = in_root("lost");
    run_well(root, "sweep", "--model", sd15, "--prompt", "x", "--steps", "1", "--out", dir);
    put_file(in_root("lost/images/p000_s17_k02.png"), "no picture");
    unlink(in_root("lost/images/p000_s17_k03.png"));
    json_t *o = json_of("sweep", "--model", sd15, "--prompt", "x", "--steps", "1", "--out", dir);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "images"), "made")), 2);
    assert_non_null(strstr(json_string_value(json_array_get(json_object_get(o, "warnings"), 0)),
                           "2 finished images are gone or changed"));
    json_decref(o);
    assert_int_equal(pictures(dir), 4);
}

#define LONG                                                                                                           \
    "sweep", "--model", sd15, "--prompt", "x", "--seeds", "0:40", "--layers", "all", "--steps", "5", "--batch", "1",   \
        "--save-latents"
enum { LONG_IMAGES = 200 };

/* Waits until dir has n pictures. */
static void wait_for(const char *dir, int n, struct ran *r)
{
    for (int64_t ms = 0; pictures(dir) < n; ms += 2) {
        if (ms > 120000) {
            kill(r->pid, SIGKILL);
            fail_msg("no picture in two minutes");
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

static void test_two_at_once(void **state)
{
    (void)state;
    char dir[CLI_PATH];
    struct ran r;
    snprintf(dir, sizeof dir, "%s", in_root("twice"));
    run_start(&r, root, (const char *const[]){DLENS_BINARY, LONG, "--out", dir, NULL});
    wait_for(dir, 1, &r);
    refuses(2, "twice", LONG, "--out", dir);
    /* Its figure can be drawn meanwhile: cells that are missing stay empty. So can its page. */
    run_well(root, "figure", dir, "--out", in_root("meanwhile.png"));
    run_well(root, "report", dir, "--out", in_root("meanwhile.html"));
    kill(r.pid, SIGINT);
    run_wait(&r);
    assert_int_equal(r.status, 130);
    const char *said = strstr(r.err, "dlens sweep: interrupted: ");
    assert_non_null(said);
    assert_int_equal(atoi(said + strlen("dlens sweep: interrupted: ")), pictures(dir)); /* it says how far it came */
    run_free(&r);
    /* The figure of an unfinished sweep, in all its forms. */
    assert_true(pictures(dir) < LONG_IMAGES);
    static const char *const names[] = {"unfinished.png", "unfinished.pdf", "unfinished.svg"};
    for (int i = 0; i < 3; i++) {
        char first[64];
        run_well(root, "figure", dir, "--out", in_root(names[i]));
        snprintf(first, sizeof first, "unfinished_p000_s0.%s", names[i] + 11);
        assert_true(exists(in_root(first)));
    }
    refuses(2, "must end in .png, .pdf or .svg", "figure", dir, "--out", in_root("unfinished.jpg"));
    refuses(3, "no folder with a manifest.json", "figure", sd15);
    refuses(3, "no folder with a manifest.json", "figure", in_root("nowhere"));
}

/* ---- a disk that becomes full ---- */

/* A resumed sweep in dir must end as if nothing had been, and leave what was finished. */
static void finish(const char *dir, int before)
{
    json_t *o = json_of(LONG, "--seeds", "0:4", "--out", dir);
    const json_t *images = json_object_get(o, "images");
    assert_int_equal(json_integer_value(json_object_get(images, "total")), 20);
    assert_int_equal(json_integer_value(json_object_get(images, "resumed")), before);
    assert_int_equal(json_integer_value(json_object_get(images, "made")), 20 - before);
    json_decref(o);
    assert_int_equal(pictures(dir), 20);
}

static void test_full_disk(void **state)
{
    (void)state;
    const char *disk = in_root("disk"), *dir = in_root("disk/sweep");
    assert_int_equal(mkdir(disk, 0700), 0);
    if (mount("tmpfs", disk, "tmpfs", 0, "size=96k") < 0) {
        print_message("skipped: a tmpfs cannot be mounted here (%s)\n", strerror(errno));
        skip();
    }
    struct ran r;
    run_dlens(&r, root, LONG, "--seeds", "0:4", "--out", dir);
    int before = pictures(dir), rc = r.status;
    bool said = strstr(r.err, "No space left on device") != NULL,
         resumed = mount("tmpfs", disk, "tmpfs", MS_REMOUNT, "size=8m") == 0;
    if (rc == 1 && said && resumed && before > 0) finish(dir, before);
    if (rc != 1 || !said) fail_msg("exit status %d: %s", rc, r.err);
    assert_true(resumed);
    assert_in_range(before, 1, 19);
    run_free(&r);
}

/* Also after a failure. */
static int unmount_disk(void **state)
{
    (void)state;
    umount2(in_root("disk"), MNT_DETACH);
    return 0;
}

/* The same where no file may grow beyond a few KB, which needs no permission. latents.safetensors is what does not fit.
 */
static void test_file_limit(void **state)
{
    (void)state;
    const char *dir = in_root("limit");
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        struct rlimit small = {24 * 1024, 24 * 1024};
        signal(SIGXFSZ, SIG_IGN); /* the write fails instead */
        if (setrlimit(RLIMIT_FSIZE, &small) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0) _exit(126);
        execv(DLENS_BINARY,
              (char *const *)(const char *const[]){DLENS_BINARY, LONG, "--seeds", "0:4", "--out", dir, NULL});
        _exit(127);
    }
    int s;
    assert_int_equal(waitpid(pid, &s, 0), pid);
    assert_true(WIFEXITED(s));
    assert_int_equal(WEXITSTATUS(s), 1);
    finish(dir, pictures(dir));
}

/* ---- snapshots ---- */

static char states[CLI_PATH];

/* Writes root/edited.safetensors: the snapshot with its tensors changed. */
static const char *edited(int64_t (*change)(struct st_tensor *t, int64_t n))
{
    struct st_file *f;
    must(st_open(&f, states, e));
    int64_t n = st_file_count(f);
    struct st_tensor *t = calloc((size_t)n + 1, sizeof *t);
    assert_non_null(t);
    for (int64_t i = 0; i < n; i++) t[i] = *st_file_at(f, i);
    n = change(t, n);
    must(st_write(in_root("edited.safetensors"), t, n, NULL, 0, e)); /* foreign files have no metadata of ours */
    free(t);
    st_close(f);
    return in_root("edited.safetensors");
}

static struct st_tensor *named(struct st_tensor *t, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++)
        if (!strcmp(t[i].name, name)) return &t[i];
    fail_msg("no tensor \"%s\"", name);
    return NULL;
}

static int64_t states_alone(struct st_tensor *t, int64_t n) /* all that reading needs */
{
    struct st_tensor a = *named(t, n, "p000.text_encoder.hidden_states"),
                     b = *named(t, n, "negative.text_encoder.hidden_states");
    t[0] = a, t[1] = b;
    return 2;
}

static int64_t no_negative(struct st_tensor *t, int64_t n)
{
    t[0] = *named(t, n, "p000.text_encoder.hidden_states");
    return 1;
}

static int64_t few_layers(struct st_tensor *t, int64_t n)
{
    n = states_alone(t, n);
    t[0].dim[0]--;
    return n;
}

static int64_t turned(struct st_tensor *t, int64_t n)
{
    n = states_alone(t, n);
    t[0].dim[1] = 32, t[0].dim[2] = 77;
    return n;
}

static int64_t flat(struct st_tensor *t, int64_t n)
{
    n = states_alone(t, n);
    t[0].nd = 1, t[0].dim[0] = 5 * 77 * 32;
    return n;
}

static int64_t as_integers(struct st_tensor *t, int64_t n)
{
    n = states_alone(t, n);
    t[0].t = DL_I32;
    return n;
}

static int64_t other_encoder(struct st_tensor *t, int64_t n)
{
    n = states_alone(t, n);
    t[0].name = "p000.text_encoder_2.hidden_states";
    return n;
}

static int64_t not_first(struct st_tensor *t, int64_t n)
{
    n = states_alone(t, n);
    t[0].name = "p001.text_encoder.hidden_states";
    return n;
}

static int64_t bad_negative(struct st_tensor *t, int64_t n)
{
    n = states_alone(t, n);
    t[1].dim[0]--;
    return n;
}

static int64_t zeroed(struct st_tensor *t, int64_t n) /* what an experiment does */
{
    static const float zero[5 * 77 * 32];
    n = states_alone(t, n);
    t[0].data = zero;
    return n;
}

static int64_t not_numbers(struct st_tensor *t, int64_t n) /* what an experiment that failed does */
{
    static float v[5 * 77 * 32];
    n = states_alone(t, n);
    memcpy(v, t[0].data, sizeof v);
    v[1000] = INFINITY, t[0].data = v;
    return n;
}

static void test_snapshots(void **state)
{
    (void)state;
    snprintf(states, sizeof states, "%s/states.safetensors", root);
    run_well(root, "encode", "--model", sd15, "--prompt", "A house", "--out", states);
    static const struct {
        int64_t (*change)(struct st_tensor *, int64_t);
        const char *text;
    } cases[] = {
        {no_negative, "no negative.text_encoder.hidden_states: guidance needs the negative prompt's states"},
        {few_layers, "p000.text_encoder.hidden_states"},
        {turned, "p000.text_encoder.hidden_states"},
        {flat, "p000.text_encoder.hidden_states"},
        {as_integers, "expected F32, F16 or BF16"},
        {other_encoder, "p000.text_encoder.hidden_states"},
        {not_first, "no tensors of a prompt (p000.text_encoder.hidden_states)"},
        {bad_negative, "negative.text_encoder.hidden_states"},
        {not_numbers, "p000.text_encoder.hidden_states: element 1000 is inf; states must be numbers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        folder_remove(in_root("replay"));
        refuses(3, cases[i].text, "replay", "--model", sd15, "--snapshots", edited(cases[i].change), SHORT, "--out",
                in_root("replay"));
        refuses(3, "edited.safetensors", "replay", "--model", sd15, "--snapshots", in_root("edited.safetensors"), SHORT,
                "--out", in_root("replay"));
    }
    folder_remove(in_root("replay"));
    /* without guidance no negative is needed */
    run_well(root, "replay", "--model", sd15, "--snapshots", edited(no_negative), SHORT, "--guidance", "1", "--out",
             in_root("replay-1"));
    run_well(root, "replay", "--model", sd15, "--snapshots", edited(states_alone), SHORT, "--out", in_root("replay-2"));
    run_well(root, "replay", "--model", sd15, "--snapshots", edited(zeroed), SHORT, "--out", in_root("replay-3"));
    int64_t a, b;
    char *x = folder_read(in_root("replay-2/images/p000_s17_k01.png"), &a),
         *y = folder_read(in_root("replay-3/images/p000_s17_k01.png"), &b);
    assert_non_null(x);
    assert_non_null(y);
    assert_true(a != b || memcmp(x, y, (size_t)a));
    free(x), free(y);

    refuses(3, "nothing.safetensors", "replay", "--model", sd15, "--snapshots", in_root("nothing.safetensors"), SHORT,
            "--out", in_root("replay"));
    put_file(in_root("short.safetensors"), "12345");
    refuses(3, "short.safetensors", "replay", "--model", sd15, "--snapshots", in_root("short.safetensors"), SHORT,
            "--out", in_root("replay"));
    run_well(root, "synth", "--like", "sd21", "--out", in_root("sd21"));
    refuses(3, "p000.text_encoder.hidden_states", "replay", "--model", in_root("sd21"), "--snapshots", states, SHORT,
            "--out", in_root("replay"));
    /* A file that is being replayed into a folder of another file's images. */
    run_well(root, "encode", "--model", sd15, "--prompt", "the ocean", "--out", in_root("ocean.safetensors"));
    run_well(root, "replay", "--model", sd15, "--snapshots", states, SHORT, "--out", in_root("replay-4"));
    refuses(2, "replay-4", "replay", "--model", sd15, "--snapshots", in_root("ocean.safetensors"), SHORT, "--out",
            in_root("replay-4"));
    /* States that differ where the prompts are the same: the images must not be mixed. */
    refuses(2, "snapshots", "replay", "--model", sd15, "--snapshots", edited(zeroed), SHORT, "--out",
            in_root("replay-2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_other_sweeps),
        cmocka_unit_test(test_lost_pictures),
        cmocka_unit_test(test_two_at_once),
        cmocka_unit_test_teardown(test_full_disk, unmount_disk),
        cmocka_unit_test(test_file_limit),
        cmocka_unit_test(test_snapshots),
    };
    return cmocka_run_group_tests(tests, cli_setup, root_remove);
}
