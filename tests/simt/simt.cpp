/* simt.cpp: fibres, the random scheduler and the block's shared memory with its shadow. */
#include "tests/simt/simt_priv.h"

#include <mutex>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined __SANITIZE_ADDRESS__
#define SIMT_ASAN 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined __x86_64__ && !defined SIMT_UCONTEXT
#define SIMT_UCONTEXT 1
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

uint64_t simt_seed = 1;
simt::thread_id *simt::self;

namespace simt {

block_state blk;

enum { STACK = 256 << 10, MAX_THREADS = 1024 };

struct context {
#ifdef SIMT_UCONTEXT
    ucontext_t uc;
#else
    void *sp;
#endif
    void *fake; /* ASan's fake stack */
    const void *bottom;
    size_t size;
};

static context scheduler, fibre[MAX_THREADS];
static uint8_t *stacks; /* [MAX_THREADS][STACK], made at the first launch */
static lane_state lane[MAX_THREADS];
static int ready[MAX_THREADS], polling[MAX_THREADS], n_ready, n_polling, n_done, current, launches;
static char report[512];
static void (*kernel_call)(void *);
static void *kernel_arg;

#ifndef SIMT_UCONTEXT
extern "C" void simt_switch(void **save, void *to);
__asm__(".text\n.globl simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size simt_switch,.-simt_switch\n.section .note.GNU-stack,\"\",@progbits\n.text\n");
#endif

static void go(context *from, context *to, bool last)
{
    (void)last;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &from->fake, to->bottom, to->size);
#endif
#ifdef SIMT_UCONTEXT
    swapcontext(&from->uc, &to->uc);
#else
    simt_switch(&from->sp, to->sp);
#endif
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
}

static void to_scheduler(bool last) { go(&fibre[current], &scheduler, last); }

static void entry()
{
#ifdef SIMT_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    scheduler.bottom = bottom, scheduler.size = size;
#endif
    kernel_call(kernel_arg);
    lane[current].state = lane_state::DONE;
    n_done++;
    to_scheduler(true);
    abort(); /* nobody comes back here */
}

static void fibre_make(int i)
{
    uint8_t *stack = stacks + (size_t)i * STACK;
    context *c = &fibre[i];
    *c = context();
    c->bottom = stack, c->size = STACK;
#ifdef SIMT_ASAN
    __asan_unpoison_memory_region(stack, STACK);
#endif
#ifdef SIMT_UCONTEXT
    getcontext(&c->uc);
    c->uc.uc_stack.ss_sp = stack, c->uc.uc_stack.ss_size = STACK, c->uc.uc_link = nullptr;
    makecontext(&c->uc, entry, 0);
#else
    void **top = reinterpret_cast<void **>(stack + STACK) - 1; /* entry begins as after a call */
    *--top = reinterpret_cast<void *>(entry);
    for (int k = 0; k < 6; k++) *--top = nullptr;
    c->sp = top;
#endif
}

uint64_t random_next()
{
    simt_seed = simt_seed * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = simt_seed;
    return (x ^ (x >> 29)) >> 16;
}

static void say(const char *format, va_list list)
{
    if (report[0]) return;
    int n = snprintf(report, sizeof report, "%s, block (%u,%u,%u)", blk.name, blk.bid.x, blk.bid.y, blk.bid.z);
    if (self && n < (int)sizeof report) n += snprintf(report + n, sizeof report - n, ", thread %d", current);
    if (n < (int)sizeof report) n += snprintf(report + n, sizeof report - n, ": ");
    if (n < (int)sizeof report) vsnprintf(report + n, sizeof report - n, format, list);
}

void fault(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
    if (!self) return;
    lane[current].state = lane_state::DEAD;
    to_scheduler(true);
    abort();
}

int current_thread() { return current; }
lane_state *current_lane() { return &lane[current]; }

static void wait_here(lane_state::kind how)
{
    lane[current].state = how;
    to_scheduler(false);
}

static void wake(int i)
{
    lane[i].state = lane_state::READY;
    ready[n_ready++] = i;
}

void poll_wait(const char *what)
{
    lane[current].file = what, lane[current].line = 0;
    polling[n_polling++] = current;
    wait_here(lane_state::POLL);
}

void poke()
{
    for (int i = 0; i < n_polling; i++) wake(polling[i]);
    n_polling = 0;
}

void barrier(const char *file, int line)
{
    lane[current].file = file, lane[current].line = line;
    if (++blk.at_barrier < blk.threads) {
        wait_here(lane_state::BARRIER);
        return;
    }
    for (int i = 0; i < blk.threads; i++)
        if (lane[i].line != line || strcmp(lane[i].file, file) != 0)
            fault("divergent barrier: waits at %s:%d, thread %d at %s:%d", file, line, i, lane[i].file, lane[i].line);
    blk.at_barrier = 0;
    blk.epoch++;
    for (int i = 0; i < blk.threads; i++)
        if (i != current) wake(i);
}

void collective(const char *what, void *slot, void (*fn)(void *const slot[32]))
{
    int warp = current / 32, first = warp * 32;
    lane[current].file = what, lane[current].line = 0, lane[current].slot = slot;
    if (++blk.at_warp[warp] < 32) {
        wait_here(lane_state::WARP);
        return;
    }
    void *all[32];
    for (int i = 0; i < 32; i++) {
        if (strcmp(lane[first + i].file, what) != 0)
            fault("divergent warp: at %s, thread %d at %s", what, first + i, lane[first + i].file);
        all[i] = lane[first + i].slot;
    }
    blk.at_warp[warp] = 0;
    if (fn) fn(all);
    for (int i = 0; i < 32; i++)
        if (first + i != current) wake(first + i);
}

static void warp_over(void *const slot[32])
{
    (void)slot;
    blk.warp_epoch[current / 32]++;
}

void warp_barrier(const char *file, int line)
{
    (void)file, (void)line;
    collective("__syncwarp", nullptr, warp_over);
}

/* No thread can run and some have not ended: tells two that wait for each other. */
static void deadlock()
{
    for (int i = 0; i < blk.threads; i++) {
        if (lane[i].state == lane_state::DONE) continue;
        if (lane[i].state == lane_state::POLL) {
            fault("deadlock: thread %d waits for %s, which will not come", i, lane[i].file);
            return;
        }
        int other = 0;
        bool block = lane[i].state == lane_state::BARRIER;
        for (int j = 0; j < blk.threads; j++)
            if (j != i && lane[j].state != lane[i].state && (block || j / 32 == i / 32)) other = j;
        fault("divergent %s: thread %d waits at %s:%d, thread %d %s %s", block ? "barrier" : "warp", i, lane[i].file,
              lane[i].line, other, lane[other].state == lane_state::DONE ? "has ended" : "waits at", lane[other].file);
        return;
    }
}

static void run_block()
{
    n_ready = n_polling = n_done = 0;
    blk.at_barrier = 0;
    memset(blk.at_warp, 0, sizeof blk.at_warp);
    for (int i = 0; i < blk.threads; i++) {
        lane[i] = lane_state();
        lane[i].file = "";
        lane[i].id.bid = blk.bid, lane[i].id.bdim = blk.bdim, lane[i].id.gdim = blk.gdim;
        lane[i].id.tid = dim3(i % blk.bdim.x, i / blk.bdim.x % blk.bdim.y, i / (blk.bdim.x * blk.bdim.y));
        copies_clear(&lane[i]);
        fibre_make(i);
        ready[n_ready++] = i;
    }
    while (!report[0]) {
        if (n_ready == 0) {
            if (n_polling > 0 && hopper_idle()) continue;
            break;
        }
        int k = (int)(random_next() % (uint64_t)n_ready);
        current = ready[k];
        ready[k] = ready[--n_ready];
        self = &lane[current].id;
        go(&scheduler, &fibre[current], false);
        self = nullptr;
    }
    if (!report[0] && n_done < blk.threads) deadlock();
    if (!report[0]) hopper_end();
}

recording *recorder;

int launch(const char *name, dim3 grid, dim3 block, size_t smem, void (*call)(void *), void *arg)
{
    static std::mutex one; /* launch at a time: a stream's threads launch beside the computing one */
    std::lock_guard<std::mutex> hold(one);
    report[0] = 0;
    launches++;
    blk.name = name, blk.bdim = block, blk.gdim = grid;
    blk.threads = (int)(block.x * block.y * block.z);
    kernel_call = call, kernel_arg = arg;
    if (!stacks) {
        void *p = mmap(nullptr, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) abort();
        stacks = static_cast<uint8_t *>(p);
    }
    if (blk.threads < 32 || blk.threads > MAX_THREADS || blk.threads % 32 || grid.x < 1 || grid.y < 1 || grid.z < 1 ||
        grid.y > 65535 || grid.z > 65535)
        fault("a launch of (%u,%u,%u) blocks of %d threads", grid.x, grid.y, grid.z, blk.threads);
    int64_t blocks = (int64_t)grid.x * grid.y * grid.z;
    bool backwards = random_next() & 1;
    watch_begin();
    for (int64_t k = 0; k < blocks && !report[0]; k++) {
        int64_t b = backwards ? blocks - 1 - k : k;
        blk.bid = dim3((unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y));
        if (shared_begin(hopper_begin(smem))) run_block();
    }
    watch_end();
    return report[0] ? 719 : 0;
}

} // namespace simt

const char *simt_report(void) { return simt::report; }
int simt_launches(void) { return simt::launches; }
