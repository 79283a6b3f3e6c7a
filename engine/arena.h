/* arena.h: the only memory that a model runs in.
 *
 * An arena is one block used as a stack from both ends. What lives long inside a phase (a UNet's skip buffers, in the
 * order of their making) is taken at the low end; temporaries are taken at the high end and given back by mark and
 * release. The high-water mark is the largest sum of both ends ever reached.
 *
 * A *dry* arena has a fake base that is not zero and no memory behind it: the same model function runs over it and the
 * high-water mark says how much the real one needs. A sealed arena (dl_arena_open) never grows: taking more than it has
 * is a failure, recorded in `failed`, and returns NULL.
 */
#ifndef DL_ARENA_H
#define DL_ARENA_H

#include <stdbool.h>
#include <stdint.h>

enum { DL_ALIGN = 256 }; /* bytes; every block of an arena starts at a multiple of it */

struct dl_arena {
    uint8_t *base;      /* owned by whoever opened it; fake in a dry arena */
    int64_t cap_bytes;  /* size of the block */
    int64_t lo_bytes;   /* taken at the low end */
    int64_t hi_bytes;   /* taken at the high end */
    int64_t peak_bytes; /* high-water mark of lo + hi */
    bool dry, failed;
};

struct dl_mark {
    int64_t lo_bytes, hi_bytes;
};

void dl_arena_dry(struct dl_arena *a);

/* `base` [cap_bytes], aligned to DL_ALIGN, is borrowed. */
void dl_arena_bind(struct dl_arena *a, void *base, int64_t cap_bytes);

/* `bytes` rounded up to DL_ALIGN; NULL (and failed) when the arena is full. Zero bytes give a valid address. */
void *dl_arena_lo(struct dl_arena *a, int64_t bytes);
void *dl_arena_hi(struct dl_arena *a, int64_t bytes);

/* Release gives back all that was taken since the mark: at both ends, at the low end only, at the high end only. */
struct dl_mark dl_arena_mark(const struct dl_arena *a);
void dl_arena_release(struct dl_arena *a, struct dl_mark m);
void dl_arena_release_lo(struct dl_arena *a, struct dl_mark m);
void dl_arena_release_hi(struct dl_arena *a, struct dl_mark m);

#endif
