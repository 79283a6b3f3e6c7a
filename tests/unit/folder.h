/* folder.h: a folder under TMPDIR for one test program, and what tests do with files in it. */
#ifndef TESTS_FOLDER_H
#define TESTS_FOLDER_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDER_PATH = 600 };

static inline void folder_remove(const char *path)
{
    struct stat st;
    if (!lstat(path, &st) && S_ISDIR(st.st_mode)) {
        DIR *d = opendir(path);
        for (struct dirent *f; d && (f = readdir(d));) {
            char inner[FOLDER_PATH];
            if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, "..")) continue;
            if (snprintf(inner, sizeof inner, "%s/%s", path, f->d_name) < (int)sizeof inner) folder_remove(inner);
        }
        if (d) closedir(d);
        rmdir(path);
    } else {
        unlink(path);
    }
}

/* A new folder; its name is copied to `path`. Returns 0, as cmocka's setups do. */
static inline int folder_make(char path[FOLDER_PATH])
{
    const char *tmp = getenv("TMPDIR");
    snprintf(path, FOLDER_PATH, "%s/dlens-test-XXXXXX", tmp && strlen(tmp) < 400 ? tmp : "/tmp");
    return mkdtemp(path) ? 0 : -1;
}

/* The bytes of a file with a zero byte behind them, or NULL (and *bytes 0). */
static inline char *folder_read(const char *path, int64_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (bytes) *bytes = 0;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *data = malloc((size_t)n + 1);
    if (data) {
        if (fread(data, 1, (size_t)n, f) != (size_t)n) n = 0;
        data[n] = 0;
    }
    fclose(f);
    if (bytes) *bytes = n;
    return data;
}

static inline int folder_write(const char *path, const void *data, int64_t bytes)
{
    FILE *f = fopen(path, "wb");
    if (!f) return -1;
    size_t n = fwrite(data, 1, (size_t)bytes, f);
    return fclose(f) || n != (size_t)bytes ? -1 : 0;
}

/* How many entries a folder has. */
static inline int folder_count(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));) n += strcmp(f->d_name, ".") && strcmp(f->d_name, "..");
    if (d) closedir(d);
    return n;
}

#endif
