/* cli.h: what the tests of the program share: a folder with tiny checkpoints, and what a refusal must look like.
 *
 * A refusal is: the right exit status, nothing on stdout, and one line on stderr, "dlens COMMAND: ..." with what is
 * asked for in it.
 */
#ifndef TESTS_CLI_H
#define TESTS_CLI_H

#include "tests/cli/run.h"
#include "tests/unit/check.h"
#include "tests/unit/root.h"

#include <jansson.h>

enum { CLI_PATH = ROOT_PATH };

static char sd15[FOLDER_PATH + 16];

/* A group's setup: root/sd15. Its teardown is root_remove. */
static inline int cli_setup(void **state)
{
    if (root_make(state) < 0) return -1;
    snprintf(sd15, sizeof sd15, "%s/sd15", root);
    run_well(root, "synth", "--like", "sd15", "--out", sd15);
    return 0;
}

static inline void put_file(const char *path, const char *text)
{
    if (folder_write(path, text, (int64_t)strlen(text)) < 0) fail_msg("%s cannot be written", path);
}

static inline void copy_file(const char *from, const char *to)
{
    int64_t n;
    char *data = folder_read(from, &n);
    if (!data || folder_write(to, data, n) < 0) fail_msg("%s cannot be copied to %s", from, to);
    free(data);
}

/* Copies a folder and all in it. */
static inline void copy_folder(const char *from, const char *to)
{
    DIR *d = opendir(from);
    if (!d || mkdir(to, 0700) < 0) fail_msg("%s cannot be copied to %s", from, to);
    for (struct dirent *f; (f = readdir(d));) {
        char a[CLI_PATH], b[CLI_PATH];
        struct stat st;
        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, "..")) continue;
        if (snprintf(a, sizeof a, "%s/%s", from, f->d_name) >= CLI_PATH) fail_msg("path too long");
        if (snprintf(b, sizeof b, "%s/%s", to, f->d_name) >= CLI_PATH) fail_msg("path too long");
        assert_int_equal(stat(a, &st), 0);
        if (S_ISDIR(st.st_mode))
            copy_folder(a, b);
        else
            copy_file(a, b);
    }
    closedir(d);
}

static inline bool exists(const char *path) { return access(path, F_OK) == 0; }

/* Runs argv, which must be refused with `status` and with `text` in the one line. */
static inline void refused(const char *where, int line, int status, const char *text, const char *const *argv)
{
    struct ran r;
    char begin[64];
    run_argv(&r, root, argv);
    snprintf(begin, sizeof begin, "dlens %s: ", argv[1]);
    size_t n = strlen(r.err);
    const char *end = strchr(r.err, '\n');
    if (r.status != status)
        fail_msg("%s:%d: exit status %d, expected %d; stderr: %s", where, line, r.status, status, r.err);
    if (*r.out) fail_msg("%s:%d: stdout has \"%s\"", where, line, r.out);
    if (strncmp(r.err, begin, strlen(begin)))
        fail_msg("%s:%d: stderr does not begin with \"%s\": %s", where, line, begin, r.err);
    if (!end || end != r.err + n - 1) fail_msg("%s:%d: stderr is not one line: %s", where, line, r.err);
    if (!strstr(r.err, text)) fail_msg("%s:%d: stderr does not say \"%s\": %s", where, line, text, r.err);
    run_free(&r);
}

#define refuses(status, text, command, ...)                                                                            \
    refused(__FILE__, __LINE__, status, text,                                                                          \
            (const char *const[]){DLENS_BINARY, command, "--quiet", __VA_ARGS__, NULL})

/* Runs dlens with --json, which must succeed; the one object on stdout, to be released. */
static inline json_t *result_of(const char *const *argv)
{
    struct ran r;
    json_error_t e;
    run_argv(&r, root, argv);
    if (r.status) fail_msg("exit status %d: %s", r.status, r.err);
    json_t *o = json_loads(r.out, 0, &e);
    if (!json_is_object(o)) fail_msg("stdout is no JSON object (%s): %s", e.text, r.out);
    run_free(&r);
    return o;
}

#define json_of(command, ...) result_of((const char *const[]){DLENS_BINARY, command, "--json", __VA_ARGS__, NULL})

/* The shortest sweep that makes images. */
#define SHORT "--steps", "1", "--layers", "1", "--threads", "1"

#endif
