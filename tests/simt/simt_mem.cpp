/* simt_mem.cpp: shared memory with a shadow for each byte, asynchronous copies, guarded global buffers. */
#include "tests/simt/simt_priv.h"

#include "kernels/cuda/dev/ptx.cuh"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

namespace simt {

enum { LIMIT = 99 << 10, USUAL = 48 << 10, GAP = 64, MAX_ARRAYS = 32, ARENA = LIMIT + (MAX_ARRAYS + 2) * GAP };

/* Who touched a byte last, and in which barrier interval. */
struct shadow {
    uint32_t w_epoch, w_warp_epoch, r_epoch, r_warp_epoch;
    int16_t writer, reader;
    bool r_many_warps, r_many;        /* readers of that interval besides `reader` */
    bool mine, pending, atomic;       /* belongs to an array; a copy is under way; the last write was atomic */
};

struct fixed {
    const void *key;
    uint8_t *p;
};

alignas(256) static uint8_t arena[ARENA];
static shadow shadows[ARENA];
static fixed arrays[MAX_ARRAYS];
static int n_arrays;
static size_t used, total, dyn_bytes;

static uint8_t *take(size_t bytes)
{
    uint8_t *p = arena + used;
    for (size_t i = 0; i < bytes; i++) shadows[used + i].mine = true;
    used += (bytes + 15) / 16 * 16 + GAP;
    return p;
}

bool shared_begin(size_t dyn)
{
    if (dyn > LIMIT) {
        fault("%zu bytes of shared memory; %d is the limit", dyn, LIMIT);
        return false;
    }
    blk.epoch += 2;
    blk.first_epoch = blk.epoch;
    memset(arena, 0xff, sizeof arena);
    for (size_t i = 0; i < ARENA; i++) shadows[i].mine = shadows[i].pending = false;
    n_arrays = 0;
    used = GAP, total = dyn_bytes = dyn;
    take(dyn);
    return true;
}

uint8_t *shared_dyn(size_t align)
{
    if (align > 16) fault("dynamic shared memory is aligned to 16 bytes, not %zu", align);
    return arena + GAP;
}

uint8_t *shared_fixed(const void *key, size_t bytes)
{
    for (int i = 0; i < n_arrays; i++)
        if (arrays[i].key == key) return arrays[i].p;
    total += (bytes + 15) / 16 * 16;
    if (n_arrays == MAX_ARRAYS || total > LIMIT) fault("%zu bytes of shared memory; %d is the limit", total, LIMIT);
    if (total > USUAL && dyn_bytes <= (size_t)DL_SMEM_ASK)
        fault("%zu bytes of shared memory, of which %zu are dynamic: more than %d, and not asked for", total, dyn_bytes,
              USUAL);
    arrays[n_arrays] = {key, take(bytes)};
    return arrays[n_arrays++].p;
}

static long where(const uint8_t *p) { return (long)(p - (arena + GAP)); }

static void read_byte(shadow *s, const uint8_t *p, int me)
{
    uint32_t we = blk.warp_epoch[me / 32];
    if (s->pending) fault("reads shared byte %ld, to which cp.async copies: no wait stands between", where(p));
    if (s->w_epoch < blk.first_epoch) fault("reads shared byte %ld, which nobody wrote", where(p));
    if (s->w_epoch == blk.epoch && s->writer != me && !(s->writer / 32 == me / 32 && s->w_warp_epoch < we))
        fault("race: reads shared byte %ld, which thread %d wrote with no barrier between", where(p), s->writer);
    if (s->r_epoch != blk.epoch) {
        s->r_epoch = blk.epoch, s->reader = (int16_t)me, s->r_many = s->r_many_warps = false;
    } else if (s->reader / 32 != me / 32) {
        s->r_many_warps = true;
    } else if (s->reader != me) {
        if (s->r_warp_epoch < we) s->reader = (int16_t)me, s->r_many = false;
        else s->r_many = true;
    }
    s->r_warp_epoch = we;
}

static void write_byte(shadow *s, const uint8_t *p, int me, bool atomic)
{
    uint32_t we = blk.warp_epoch[me / 32];
    if (s->pending) fault("writes shared byte %ld, to which cp.async copies: no wait stands between", where(p));
    if (s->w_epoch == blk.epoch && s->writer != me && !(s->writer / 32 == me / 32 && s->w_warp_epoch < we) &&
        !(atomic && s->atomic))
        fault("race: writes shared byte %ld, which thread %d wrote with no barrier between", where(p), s->writer);
    if (s->r_epoch == blk.epoch &&
        (s->r_many_warps || s->reader / 32 != me / 32 || (s->r_warp_epoch == we && (s->r_many || s->reader != me))))
        fault("race: writes shared byte %ld, which thread %d read with no barrier between", where(p), s->reader);
    s->w_epoch = blk.epoch, s->w_warp_epoch = we, s->writer = (int16_t)me, s->atomic = atomic;
}

static shadow *shadow_of(const uint8_t *p, size_t size, size_t align, const char *what)
{
    if (p < arena || p + size > arena + ARENA) fault("%s of %zu bytes is outside shared memory", what, size);
    for (size_t i = 0; i < size; i++)
        if (!shadows[p - arena + i].mine)
            fault("%s of %zu bytes at shared byte %ld is outside its array (dynamic: %zu bytes)", what, size, where(p),
                  dyn_bytes);
    if ((size_t)(p - arena) % align) fault("%s of %zu bytes at shared byte %ld is unaligned", what, size, where(p));
    return &shadows[p - arena];
}

void shared_access(const uint8_t *p, size_t size, size_t align, access how)
{
    shadow *s = shadow_of(p, size, align, how == READ ? "read" : "write");
    int me = current_thread();
    for (size_t i = 0; i < size; i++) {
        if (how == READ) read_byte(&s[i], p + i, me);
        else write_byte(&s[i], p + i, me, how == ATOMIC);
        if (how == ATOMIC && s[i].w_epoch < blk.first_epoch)
            fault("adds to shared byte %ld, which nobody wrote", where(p));
    }
}

void copy_async(uint8_t *dst, const void *src, int bytes)
{
    shadow *s = shadow_of(dst, 16, 16, "cp.async");
    if (bytes) global_access(src, 16, 16, READ);
    for (int i = 0; i < 16; i++) {
        write_byte(&s[i], dst + i, current_thread(), false);
        s[i].pending = true;
    }
    memset(dst, 0xff, 16);
    lane_state *l = current_lane();
    l->copies.push_back({dst, src, bytes, l->group});
}

void copy_commit(void) { current_lane()->group++; }

void copy_wait(int groups)
{
    lane_state *l = current_lane();
    size_t keep = 0;
    for (const copy_job &c : l->copies) {
        if (c.group >= l->group - groups) { /* among the latest, or not committed */
            l->copies[keep++] = c;
            continue;
        }
        shadow *s = &shadows[c.dst - arena];
        memset(c.dst, 0, 16);
        if (c.bytes) memcpy(c.dst, c.src, (size_t)c.bytes);
        for (int i = 0; i < 16; i++) {
            s[i].pending = false;
            write_byte(&s[i], c.dst + i, current_thread(), false);
        }
    }
    l->copies.resize(keep);
}

void copies_clear(lane_state *l)
{
    l->group = 0;
    l->copies.clear();
}

/* ---- global memory ---- */

enum { PAGE = 4096, CANARY = 0x5a };

struct buffer {
    uint8_t *map;
    size_t map_bytes;
    uint8_t *p;
    size_t bytes;
};

static std::vector<buffer> buffers;
static uint8_t signal_stack[64 << 10];
static struct sigaction old_segv;
static stack_t old_stack;

static const buffer *buffer_of(const void *q, size_t size)
{
    const uint8_t *p = static_cast<const uint8_t *>(q);
    static size_t latest;
    if (latest < buffers.size() && p >= buffers[latest].p && p + size <= buffers[latest].p + buffers[latest].bytes)
        return &buffers[latest];
    for (const buffer &b : buffers)
        if (p >= b.p && p + size <= b.p + b.bytes) {
            latest = (size_t)(&b - buffers.data());
            return &b;
        }
    return nullptr;
}

void global_access(const void *p, size_t size, size_t align, access how)
{
    if (!buffer_of(p, size)) {
        for (const buffer &b : buffers)
            if ((const uint8_t *)p >= b.map && (const uint8_t *)p < b.map + b.map_bytes)
                fault("%s of %zu bytes at %ld of a global buffer of %zu bytes", how == READ ? "read" : "write", size,
                      (long)((const uint8_t *)p - b.p), b.bytes);
        fault("%s of %zu bytes at %p, which is no global buffer", how == READ ? "read" : "write", size, p);
    }
    if ((uintptr_t)p % align)
        fault("%s of %zu bytes at global %p is unaligned", how == READ ? "read" : "write", size, p);
}

static void on_fault(int sig, siginfo_t *info, void *)
{
    (void)sig;
    if (!self) _exit(139);
    fault("touches address %p, outside every global buffer", info->si_addr);
}

void watch_begin()
{
    stack_t st = stack_t();
    st.ss_sp = signal_stack, st.ss_size = sizeof signal_stack;
    sigaltstack(&st, &old_stack);
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_sigaction = on_fault;
    sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &sa, &old_segv);
}

void watch_end()
{
    sigaction(SIGSEGV, &old_segv, nullptr);
    sigaltstack(&old_stack, nullptr);
    self = nullptr;
    for (const buffer &b : buffers) {
        for (uint8_t *p = b.map + PAGE; p < b.p; p++)
            if (*p != CANARY) fault("byte %ld of a global buffer of %zu bytes was written", (long)(p - b.p), b.bytes);
        for (uint8_t *p = b.p + b.bytes; p < b.map + b.map_bytes - PAGE; p++)
            if (*p != CANARY) fault("byte %ld of a global buffer of %zu bytes was written", (long)(p - b.p), b.bytes);
    }
}

} // namespace simt

void *simt_alloc(int64_t bytes)
{
    simt::buffer b;
    size_t room = ((size_t)bytes + 15) / 16 * 16;
    b.map_bytes = (room + 4095) / 4096 * 4096 + 2 * 4096;
    void *m = mmap(nullptr, b.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) abort();
    b.map = static_cast<uint8_t *>(m);
    memset(b.map, simt::CANARY, b.map_bytes);
    b.p = b.map + b.map_bytes - 4096 - room;
    b.bytes = (size_t)bytes;
    memset(b.p, 0xff, b.bytes);
    mprotect(b.map, 4096, PROT_NONE);
    mprotect(b.map + b.map_bytes - 4096, 4096, PROT_NONE);
    simt::buffers.push_back(b);
    return b.p;
}

void simt_free_all(void)
{
    for (const simt::buffer &b : simt::buffers) munmap(b.map, b.map_bytes);
    simt::buffers.clear();
}
