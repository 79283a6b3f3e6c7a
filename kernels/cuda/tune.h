/* tune.h: choices by measurement: of several ways to do the same, the one that is fastest on this GPU.
 *
 * A choice is a pair of texts: a key that says what is done (op, types, shape, pitches, epilogue: everything that may
 * change which way is best) and a value that says how (a way's name, or a library's algorithm). The first eager run of a
 * key times its ways; the choice then holds for the process, and for later ones through a file, so that the same shapes
 * give the same bytes again. Nothing is ever measured in a dry run or a capture.
 *
 * The file is $XDG_CACHE_HOME/dlens/tuned-DEVICE-LIBRARY.txt (or under ~/.cache), "key TAB value" a line. Whoever reads
 * a value checks it (a name that is not offered, an algorithm that the library refuses: measured again), so a damaged
 * file costs time and nothing else. A file that cannot be read or written is no error.
 *
 * A sweep's manifest records the choices that it used, and another run can be given them: cuda_tune_pin. */
#ifndef DL_CUDA_TUNE_H
#define DL_CUDA_TUNE_H

#include "engine/err.h"

#include <stdbool.h>
#include <stddef.h>

struct dl_ctx;
struct dl_run;
struct cuda_tune;

enum { CUDA_TUNE_KEY = 200, CUDA_TUNE_VALUE = 160 };

/* library: its version, part of the file's name. The file is neither read nor written with the option no_tuning. */
int cuda_tune_open(struct dl_ctx *c, size_t library, struct dl_err *e);
void cuda_tune_close(struct dl_ctx *c);

/* The value chosen for a key, or NULL; it counts as used from now on. Valid until the next keep or pin of the key. */
const char *cuda_tune_find(struct dl_ctx *c, const char *key);
/* Chooses; `store`: also in the file. */
int cuda_tune_keep(struct dl_ctx *c, const char *key, const char *value, bool store, struct dl_err *e);
/* As keep, from outside, into memory alone: counts as used once it is found. */
int cuda_tune_pin(struct dl_ctx *c, const char *key, const char *value, struct dl_err *e);
/* All choices that this process has used. */
void cuda_tune_each(struct dl_ctx *c, void (*each)(void *user, const char *key, const char *value), void *user);

/* The option `way`, see struct dl_backend. */
void cuda_tune_way(struct dl_ctx *c, int n);

/* Runs ways 0 .. n-1 of one thing (at most CUDA_WAYS), each several times, on the stream of the ops; returns the
 * fastest, or -1 where none ran. go enqueues a way and returns false where it cannot. */
int cuda_tune_race(struct dl_ctx *c, int n, bool (*go)(void *user, int way), void *user);

/* Which of n named ways (the best guess first) serves a key: the choice made before; in an eager run
 * a new one by a race, with `go` as above or NULL where nothing can be timed (then the guess, not stored); else the
 * guess. The option `way` of struct dl_cuda_opts goes before all. */
int cuda_choose(struct dl_run *r, const char *key, int n, const char *const *name, bool (*go)(void *user, int way),
                void *user);

#endif
