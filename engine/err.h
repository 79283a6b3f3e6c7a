/* err.h: how every library of dlens reports failure.
 *
 * Libraries never print and never exit. A function that can fail on its environment (a file, memory, a device) takes a
 * `struct dl_err *` as its last argument and returns a negative value, after having written there one line that names
 * the file, the thing (tensor, byte offset, option) and the way out. The code says which kind of failure it was and is
 * also the program's exit status. Errors of the programmer (a wrong shape, a null pointer) are asserts, see op.h.
 */
#ifndef DL_ERR_H
#define DL_ERR_H

enum dl_code {
    DL_OK = 0,
    DL_EFAIL = 1,        /* the rest: disk full, folder unwritable, a library failed */
    DL_EUSAGE = 2,       /* usage: an option, a range, something that this model cannot honour */
    DL_EINPUT = 3,       /* a bad model or input file */
    DL_ENOMEM = 4,       /* no memory, or no such device */
    DL_EINTERRUPT = 130, /* stopped by the user */
};

struct dl_err {
    enum dl_code code;
    char msg[1024]; /* one line without a line break at its end; UTF-8 */
};

/* Writes code and message (printf style) and returns -1, so that `return dl_fail(e, ...)` reads well. The first failure
 * stands: when e already holds an error, nothing is changed. Control characters in the result (they may come from a
 * hostile file) are written as '?'. e may be NULL. */
int dl_fail(struct dl_err *e, enum dl_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "context: " before a message that is already there, and returns -1. */
int dl_fail_in(struct dl_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
