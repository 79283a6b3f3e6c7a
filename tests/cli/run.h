/* run.h: running the dlens program from a test, without a shell.
 *
 * cmake gives DLENS_BINARY. A program's streams go to files in the test's folder and are read back whole.
 */
#ifndef TESTS_RUN_H
#define TESTS_RUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/folder.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

/* A program that runs or ran. */
struct ran {
    pid_t pid;
    int status;      /* exit status; 128 + signal when one ended it; -1: not ended yet */
    char *out, *err; /* its streams; owned, see run_free */
    char out_path[FOLDER_PATH + 32], err_path[FOLDER_PATH + 32];
};

/* Starts argv (NULL at its end). Its streams go to files in `folder`. */
static inline void run_start(struct ran *r, const char *folder, const char *const *argv)
{
    static int number;
    *r = (struct ran){.status = -1};
    snprintf(r->out_path, sizeof r->out_path, "%s/run%d.out", folder, ++number);
    snprintf(r->err_path, sizeof r->err_path, "%s/run%d.err", folder, number);
    fflush(stdout), fflush(stderr);
    r->pid = fork();
    assert_true(r->pid >= 0);
    if (r->pid == 0) {
        int in = open("/dev/null", O_RDONLY), out = open(r->out_path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
        int err = open(r->err_path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
        if (in < 0 || out < 0 || err < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(126);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
}

/* Waits for its end. */
static inline void run_wait(struct ran *r)
{
    int s;
    assert_int_equal(waitpid(r->pid, &s, 0), r->pid);
    r->status = WIFEXITED(s) ? WEXITSTATUS(s) : 128 + WTERMSIG(s);
    r->out = folder_read(r->out_path, NULL), r->err = folder_read(r->err_path, NULL);
    assert_non_null(r->out);
    assert_non_null(r->err);
    unlink(r->out_path), unlink(r->err_path);
    bool finding = strstr(r->err, "Sanitizer") || strstr(r->err, "runtime error: ");
    if (finding || r->status == 126 || r->status == 127 || r->status == 128 + SIGSEGV || r->status == 128 + SIGABRT)
        fail_msg("the program crashed: %s", r->err);
}

static inline void run_free(struct ran *r)
{
    free(r->out), free(r->err);
    r->out = r->err = NULL;
}

static inline void run_argv(struct ran *r, const char *folder, const char *const *argv)
{
    run_start(r, folder, argv);
    run_wait(r);
}

/* Runs dlens with these arguments. */
#define run_dlens(r, folder, ...) run_argv(r, folder, (const char *const[]){DLENS_BINARY, __VA_ARGS__, NULL})

/* Runs dlens, which must succeed; nothing is kept. */
#define run_well(folder, ...)                                                                                          \
    do {                                                                                                               \
        struct ran run_r;                                                                                              \
        run_dlens(&run_r, folder, __VA_ARGS__);                                                                        \
        if (run_r.status != 0) fail_msg("%s:%d: exit status %d: %s", __FILE__, __LINE__, run_r.status, run_r.err);     \
        run_free(&run_r);                                                                                              \
    } while (0)

#endif
