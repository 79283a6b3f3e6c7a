/* root.h: one folder for a whole test program, made and removed by its group's fixtures. */
#ifndef TESTS_ROOT_H
#define TESTS_ROOT_H

#include "tests/unit/folder.h"

enum { ROOT_PATH = FOLDER_PATH + 200 };

static char root[FOLDER_PATH];

static inline int root_make(void **state)
{
    (void)state;
    return folder_make(root);
}

static inline int root_remove(void **state)
{
    (void)state;
    folder_remove(root);
    return 0;
}

/* root/name, in one of eight buffers that take turns. */
static inline const char *in_root(const char *name)
{
    static char path[8][ROOT_PATH];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, ROOT_PATH, "%s/%.150s", root, name);
    return p;
}

#endif
