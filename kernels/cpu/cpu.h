/* cpu.h: the CPU backend. The plain C reference of every op (ref_*.c) fills the op table; oneDNN and hand-written
 * variants override the entries that they do better. The reference is the oracle of the tests and stays complete: it
 * takes every type on every machine. */
#ifndef DL_CPU_H
#define DL_CPU_H

#include "engine/run.h"

struct dl_cpu_opts {
    int threads;         /* 0: all cores that this process may use */
    bool reference_only; /* the plain C table alone, as the tests' oracle */
};

/* On success *be and *ctx are set; ctx is owned by the caller (be->close). */
int cpu_open(const struct dl_backend **be, struct dl_ctx **ctx, const struct dl_cpu_opts *o, struct dl_err *e);

#endif
