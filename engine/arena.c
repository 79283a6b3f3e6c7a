#include "engine/arena.h"

#include <assert.h>
#include <stddef.h>

static const uintptr_t fake_base = (uintptr_t)1 << 20;
static const int64_t fake_cap = (int64_t)1 << 46;

void dl_arena_dry(struct dl_arena *a)
{
    *a = (struct dl_arena){.base = (uint8_t *)fake_base, .cap_bytes = fake_cap, .dry = true};
}

void dl_arena_bind(struct dl_arena *a, void *base, int64_t cap_bytes)
{
    assert((uintptr_t)base % DL_ALIGN == 0);
    *a = (struct dl_arena){.base = base, .cap_bytes = cap_bytes & ~(int64_t)(DL_ALIGN - 1)};
}

/* Whether `bytes` more fit; on success their rounded size is in *size and the peak is kept. */
static bool take(struct dl_arena *a, int64_t bytes, int64_t *size)
{
    int64_t used = a->lo_bytes + a->hi_bytes;
    if (bytes < 0 || bytes > a->cap_bytes - used ||
        ((bytes + DL_ALIGN - 1) & ~(int64_t)(DL_ALIGN - 1)) > a->cap_bytes - used) {
        a->failed = true;
        return false;
    }
    *size = (bytes + DL_ALIGN - 1) & ~(int64_t)(DL_ALIGN - 1);
    if (used + *size > a->peak_bytes) a->peak_bytes = used + *size;
    return true;
}

void *dl_arena_lo(struct dl_arena *a, int64_t bytes)
{
    int64_t size;
    if (!take(a, bytes, &size)) return NULL;
    void *p = a->base + a->lo_bytes;
    a->lo_bytes += size;
    return p;
}

void *dl_arena_hi(struct dl_arena *a, int64_t bytes)
{
    int64_t size;
    if (!take(a, bytes, &size)) return NULL;
    a->hi_bytes += size;
    return a->base + (a->cap_bytes - a->hi_bytes);
}

struct dl_mark dl_arena_mark(const struct dl_arena *a) { return (struct dl_mark){a->lo_bytes, a->hi_bytes}; }

void dl_arena_release_lo(struct dl_arena *a, struct dl_mark m)
{
    assert(m.lo_bytes <= a->lo_bytes);
    a->lo_bytes = m.lo_bytes;
}

void dl_arena_release_hi(struct dl_arena *a, struct dl_mark m)
{
    assert(m.hi_bytes <= a->hi_bytes);
    a->hi_bytes = m.hi_bytes;
}

void dl_arena_release(struct dl_arena *a, struct dl_mark m)
{
    dl_arena_release_lo(a, m);
    dl_arena_release_hi(a, m);
}
