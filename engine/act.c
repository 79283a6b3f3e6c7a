#include "engine/run.h"

/* Bytes of [n][h][w][c] of type t, or -1. */
static int64_t size_of(int t, int32_t n, int32_t h, int32_t w, int32_t c)
{
    int64_t s = dl_type_bytes(t);
    if (s == 0 || n < 1 || h < 1 || w < 1 || c < 1) return -1;
    if (__builtin_mul_overflow(s, (int64_t)n * h, &s) || __builtin_mul_overflow(s, (int64_t)w * c, &s)) return -1;
    return s;
}

int64_t dl_parts_bytes(dl_act a)
{
    int64_t sets = a.n * ((int64_t)a.h * a.w / DL_PART_PIXELS);
    return ((sets - 1) * a.ld + a.c) * 2 * (int64_t)sizeof *a.parts;
}

bool dl_parts_wanted(const struct dl_run *r, const dl_act *a)
{
    return r->be->parts && (int64_t)a->h * a->w % DL_PART_PIXELS == 0;
}

static dl_act with_parts(struct dl_run *r, void *(*end)(struct dl_arena *, int64_t), dl_act a)
{
    a.parts = NULL;
    if (!a.p || !dl_run_ok(r) || !dl_parts_wanted(r, &a)) return a;
    a.parts = end(&r->arena, dl_parts_bytes(a));
    if (!a.parts)
        dl_fail(&r->err, DL_ENOMEM, "arena of %lld bytes is too small: no room for the statistics of [%d,%d,%d,%d]",
                (long long)r->arena.cap_bytes, a.n, a.h, a.w, a.c);
    return a;
}

dl_act dl_parts_lo(struct dl_run *r, dl_act a) { return with_parts(r, dl_arena_lo, a); }

dl_act dl_parts_hi(struct dl_run *r, dl_act a) { return with_parts(r, dl_arena_hi, a); }

dl_act dl_parts_none(dl_act a)
{
    a.parts = NULL;
    return a;
}

dl_act dl_act_at(void *p, int t, int32_t n, int32_t h, int32_t w, int32_t c)
{
    return (dl_act){.p = p, .n = n, .h = h, .w = w, .c = c, .ld = c, .rs = (int64_t)h * w * c, .t = (uint8_t)t};
}

static dl_act take(struct dl_run *r, void *(*end)(struct dl_arena *, int64_t), int t, int32_t n, int32_t h, int32_t w,
                   int32_t c)
{
    dl_act a = dl_act_at(NULL, t, n, h, w, c);
    if (!dl_run_ok(r)) return a;
    int64_t bytes = size_of(t, n, h, w, c);
    if (bytes < 0) {
        dl_fail(&r->err, DL_EFAIL, "activation [%d,%d,%d,%d] of type %s is not possible", n, h, w, c, dl_type_name(t));
        return a;
    }
    a.p = end(&r->arena, bytes);
    if (!a.p)
        dl_fail(&r->err, DL_ENOMEM, "arena of %lld bytes is too small: no room for activation [%d,%d,%d,%d] %s",
                (long long)r->arena.cap_bytes, n, h, w, c, dl_type_name(t));
    return a;
}

dl_act dl_act_lo(struct dl_run *r, int t, int32_t n, int32_t h, int32_t w, int32_t c)
{
    return take(r, dl_arena_lo, t, n, h, w, c);
}

dl_act dl_act_hi(struct dl_run *r, int t, int32_t n, int32_t h, int32_t w, int32_t c)
{
    return take(r, dl_arena_hi, t, n, h, w, c);
}

/* The views below answer an impossible wish with an absent activation, which the next op refuses by its shapes. */

dl_act dl_act_cols(dl_act a, int32_t from, int32_t c)
{
    bool ok = a.p && from >= 0 && c >= 1 && from <= a.c - c;
    a.p = ok ? (uint8_t *)a.p + (int64_t)from * dl_type_bytes(a.t) : NULL;
    if (a.parts) a.parts = ok ? a.parts + (int64_t)from * 2 : NULL;
    a.c = c;
    return a;
}

dl_act dl_act_rows(dl_act a, int32_t from, int32_t n)
{
    bool ok = a.p && from >= 0 && n >= 1 && from <= a.n - n;
    a.p = ok ? (uint8_t *)a.p + from * a.rs * dl_type_bytes(a.t) : NULL;
    if (a.parts) a.parts = ok ? a.parts + from * ((int64_t)a.h * a.w / DL_PART_PIXELS) * a.ld * 2 : NULL;
    a.n = n;
    return a;
}

dl_act dl_act_tokens(dl_act a)
{
    int64_t tokens = (int64_t)a.h * a.w;
    if (tokens > INT32_MAX) a.p = NULL;
    a.h = 1, a.w = (int32_t)tokens;
    return a;
}

dl_act dl_act_pixels(dl_act a, int32_t h, int32_t w)
{
    if ((int64_t)a.h * a.w != (int64_t)h * w) a.p = NULL;
    a.h = h, a.w = w;
    return a;
}

int64_t dl_act_bytes(dl_act a)
{
    int64_t last = (a.n - 1) * a.rs + ((int64_t)a.h * a.w - 1) * a.ld + a.c;
    return last * dl_type_bytes(a.t);
}
