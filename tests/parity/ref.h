/* ref.h: files of reference values, tests/parity/data/NAME.safetensors, as tools/ref/ writes them. */
#ifndef TESTS_REF_H
#define TESTS_REF_H

#include "loaders/safetensors.h"
#include "tests/unit/check.h"

#include <stdio.h>

/* st_close. */
static inline struct st_file *ref_open(const char *name)
{
    char path[1000];
    struct st_file *f;
    snprintf(path, sizeof path, DLENS_SOURCE_DIR "/tests/parity/data/%s.safetensors", name);
    must(st_open(&f, path, e));
    return f;
}

/* A tensor of whatever type; dim may be NULL. */
static inline const void *ref_data(const struct st_file *f, const char *name, const int64_t **dim)
{
    const struct st_tensor *t = st_find(f, name);
    if (!t) fail_msg("%s has no %s", st_file_path(f), name);
    if (dim) *dim = t->dim;
    return t->data;
}

/* An f32 tensor [n]. */
static inline const float *ref_floats(const struct st_file *f, const char *name, int64_t *n)
{
    const struct st_tensor *t = st_find(f, name);
    if (!t || t->t != DL_F32) fail_msg("%s: no f32 tensor \"%s\"", st_file_path(f), name);
    *n = t->bytes / 4;
    return t->data;
}

#endif
