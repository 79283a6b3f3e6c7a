/* What the test says to the library in CUPTI's place (cupti.c). */
#ifndef TESTS_FAKE_CUPTI_H
#define TESTS_FAKE_CUPTI_H

#include <stdint.h>

struct fake_cupti {
    int enabled; /* kinds of records */
    int refused; /* number of the kind that may not be enabled; -1: none */
    int dropped; /* records that it says were dropped, once */
};
extern struct fake_cupti fake_cupti;

/* A kernel by its name, "[memcpy]" or "[memset]"; NULL: a record of another kind. */
void fake_cupti_ran(const char *name, int64_t start_ns, int64_t end_ns);

#endif
