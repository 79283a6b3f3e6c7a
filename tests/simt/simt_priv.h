/* simt_priv.h: between the parts of the SIMT shim: simt.cpp (fibres), simt_mem.cpp (memory and its checks),
 * simt_warp.cpp (warp-wide instructions). */
#ifndef TESTS_SIMT_PRIV_H
#define TESTS_SIMT_PRIV_H

#include "tests/simt/simt.h"

#include <vector>

namespace simt
{

struct copy_job {
    uint8_t *dst;
    const void *src;
    int bytes; /* the rest of 16 is zeros */
    int group;
};

struct lane_state {
    enum kind { READY, BARRIER, WARP, POLL, DONE, DEAD } state;
    thread_id id;
    const char *file; /* where it waits */
    int line;
    void *slot;
    int group; /* cp.async groups committed */
    std::vector<copy_job> copies;
};

/* The block under way. */
struct block_state {
    const char *name;
    dim3 bid, bdim, gdim;
    int threads, at_barrier;
    int at_warp[32];
    uint32_t epoch, first_epoch, warp_epoch[32]; /* grow over barriers and blocks */
};
extern block_state blk;

int current_thread();
lane_state *current_lane();
/* Writes the report of the launch; from a thread it does not return. */
__attribute__((format(printf, 1, 2))) void fault(const char *format, ...);

bool shared_begin(size_t dyn); /* a block's shared memory, forgotten and poisoned; false: too much */
void copies_clear(lane_state *l);
/* The running thread sleeps until something that threads wait for (`what`) has changed; the others are told of it. */
void poll_wait(const char *what);
void poke();

/* simt_hopper.cpp. Begin: a block of simt_cc 90 begins; returns how much shared_begin is to give of dynamic memory.
 * Idle: no thread can run; whether a copy under way has landed instead. End: of a block that ran through. */
size_t hopper_begin(size_t dyn);
bool hopper_idle();
void hopper_end();
uint64_t random_next();

void watch_begin(); /* plain accesses outside global buffers become faults */
void watch_end();

} // namespace simt

#endif
