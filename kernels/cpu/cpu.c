#define _GNU_SOURCE
#include "kernels/cpu/cpu_priv.h"
#include "kernels/cpu/onednn.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { HUGE_BYTES = 2 << 20 };

static int cpu_alloc(struct dl_ctx *c, int64_t bytes, void **p, struct dl_err *e)
{
    (void)c;
    bool big = bytes >= HUGE_BYTES;
    *p = NULL;
    if (bytes < 0 || posix_memalign(p, big ? HUGE_BYTES : DL_ALIGN, bytes ? (size_t)bytes : 1))
        return dl_fail(e, DL_ENOMEM, "no memory for %lld bytes", (long long)bytes);
    if (big) madvise(*p, (size_t)bytes & ~(size_t)(HUGE_BYTES - 1), MADV_HUGEPAGE); /* a wish: may be refused */
    return 0;
}

static void cpu_free(struct dl_ctx *c, void *p)
{
    (void)c;
    free(p);
}

static int cpu_move(struct dl_ctx *c, void *dst, const void *src, int64_t bytes, struct dl_err *e)
{
    (void)c, (void)e;
    memcpy(dst, src, (size_t)bytes);
    return 0;
}

static int cpu_sync(struct dl_ctx *c, struct dl_err *e)
{
    (void)c, (void)e;
    return 0;
}

/* The first number of a one-line file; -1 when there is none ("max", no such file). */
static int64_t number_in(const char *path)
{
    long long v = -1;
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    if (fscanf(f, "%lld", &v) != 1) v = -1;
    fclose(f);
    return v;
}

/* The number after `key` at the start of a line; -1 when there is none. */
static int64_t entry_in(const char *path, const char *key)
{
    char line[256];
    int64_t v = -1;
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    size_t n = strlen(key);
    while (v < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0) v = strtoll(line + n, NULL, 10);
    fclose(f);
    return v;
}

/* What the control group (version 2, or 1) still allows; pages of files count as free. */
static int64_t cgroup_free_bytes(void)
{
    int64_t limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
    int64_t files = entry_in("/sys/fs/cgroup/memory.stat", "inactive_file ");
    if (limit < 0) {
        limit = number_in("/sys/fs/cgroup/memory/memory.limit_in_bytes");
        used = number_in("/sys/fs/cgroup/memory/memory.usage_in_bytes");
        files = entry_in("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file ");
    }
    if (limit < 0 || used < 0) return INT64_MAX;
    int64_t free_bytes = limit - used + (files > 0 ? files : 0);
    return free_bytes > 0 ? free_bytes : 0;
}

static int64_t cpu_free_bytes(struct dl_ctx *c)
{
    (void)c;
    int64_t kib = entry_in("/proc/meminfo", "MemAvailable:"), group = cgroup_free_bytes();
    int64_t host = kib < 0 ? INT64_MAX : kib * 1024;
    return host < group ? host : group;
}

/* Processors that this process may use: its affinity mask, and the time that its control group grants, rounded up. */
static int usable_threads(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    long long quota = -1, period = 100000;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1;
        fclose(f);
    } else {
        quota = number_in("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
        period = number_in("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    }
    if (quota > 0 && period > 0 && (quota + period - 1) / period < n) n = (int)((quota + period - 1) / period);
    return n < 1 ? 1 : n;
}

static bool cpu_supports(struct dl_ctx *c, int type)
{
    if (type == DL_F32) return true;
    return type == DL_BF16 && !c->reference_only && onednn_has_bf16();
}

static void cpu_close(struct dl_ctx *c)
{
    if (c->onednn_close) c->onednn_close(c->onednn);
    pool_close(c->pool);
    free(c);
}

int cpu_open(const struct dl_backend **be, struct dl_ctx **ctx, const struct dl_cpu_opts *o, struct dl_err *e)
{
    struct dl_ctx *c = calloc(1, sizeof *c);
    if (!c) return dl_fail(e, DL_ENOMEM, "no memory for the CPU backend");
    c->threads = o && o->threads > 0 ? o->threads : usable_threads();
    c->reference_only = o && o->reference_only;
    c->pool = pool_open(c->threads);
    if (!c->pool) {
        int threads = c->threads;
        free(c);
        return dl_fail(e, DL_ENOMEM, "cannot start %d threads; ask for fewer", threads);
    }
    ref_init(&c->ops);
    if (!c->reference_only) onednn_init(&c->ops);
    c->be = (struct dl_backend){
        .name = "cpu",
        .ops = &c->ops,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .upload = cpu_move,
        .download = cpu_move,
        .sync = cpu_sync,
        .free_bytes = cpu_free_bytes,
        .supports = cpu_supports,
        .close = cpu_close,
    };
    *be = &c->be, *ctx = c;
    return 0;
}
