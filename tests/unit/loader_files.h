/* loader_files.h: scratch folders and hand-made files for the loaders' tests. */
#ifndef LOADER_FILES_H
#define LOADER_FILES_H

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char scratch[64]; /* this test's own folder */

static int scratch_open(void **state)
{
    (void)state;
    snprintf(scratch, sizeof scratch, "/tmp/dlens-test-XXXXXX");
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *at)
{
    (void)s, (void)kind, (void)at;
    return remove(path);
}

static int scratch_close(void **state)
{
    (void)state;
    return nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* scratch/name; valid until the fourth call after. */
static inline const char *at(const char *name)
{
    static char buf[4][512];
    static int i;
    i = (i + 1) % 4;
    snprintf(buf[i], sizeof buf[i], "%s/%s", scratch, name);
    return buf[i];
}

/* Writes a file in the scratch folder, making the folders that its name needs. */
static inline void put_bytes(const char *name, const void *data, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s", at(name));
    for (char *p = path + strlen(scratch) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        assert_true(mkdir(path, 0777) == 0 || errno == EEXIST);
        *p = '/';
    }
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void put_text(const char *name, const char *text) { put_bytes(name, text, strlen(text)); }

/* A safetensors file made of a header as it stands and n bytes of data counting up; to be freed. */
static inline uint8_t *st_bytes(const char *header, size_t n, size_t *total)
{
    size_t len = strlen(header);
    uint8_t *p = malloc(8 + len + n);
    assert_non_null(p);
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)((uint64_t)len >> 8 * i);
    memcpy(p + 8, header, len);
    for (size_t i = 0; i < n; i++) p[8 + len + i] = (uint8_t)i;
    *total = 8 + len + n;
    return p;
}

static inline void put_st(const char *name, const char *header, size_t n)
{
    size_t total;
    uint8_t *p = st_bytes(header, n, &total);
    put_bytes(name, p, total);
    free(p);
}

/* The message has every one of the words, up to a NULL. */
static inline void assert_says(const char *msg, const char *word, ...)
{
    va_list ap;
    va_start(ap, word);
    for (; word; word = va_arg(ap, const char *))
        if (!strstr(msg, word)) fail_msg("\"%s\" does not say \"%s\"", msg, word);
    va_end(ap);
}

#endif
