#include "lens/outfile.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The entry in the folder must last too. Some file systems cannot sync a folder; the file itself is safe then. */
static void sync_folder_of(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int n = slash ? (slash == path ? 1 : (int)(slash - path)) : 1;
    snprintf(folder, sizeof folder, "%.*s", n, slash ? path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!fsync(fd);
    close(fd);
}

struct outfile {
    int fd;
    char path[PATH_MAX], tmp[PATH_MAX];
};

static int cannot_write(const struct outfile *f, int why, struct dl_err *e)
{
    return dl_fail(e, DL_EFAIL, "%s: cannot be written: %s", f->path, strerror(why));
}

int outfile_open(struct outfile **out, const char *path, struct dl_err *e)
{
    *out = NULL;
    struct outfile *f = malloc(sizeof *f);
    if (!f) return dl_fail(e, DL_ENOMEM, "%s: no memory", path);
    if (snprintf(f->tmp, sizeof f->tmp, "%s.%ld.tmp", path, (long)getpid()) >= (int)sizeof f->tmp) {
        free(f);
        return dl_fail(e, DL_EFAIL, "%.200s...: the name is too long", path);
    }
    snprintf(f->path, sizeof f->path, "%s", path);
    f->fd = open(f->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        int rc = cannot_write(f, errno, e);
        free(f);
        return rc;
    }
    *out = f;
    return 0;
}

int outfile_append(struct outfile *f, const void *data, int64_t bytes, struct dl_err *e)
{
    for (const uint8_t *at = data; bytes > 0;) {
        ssize_t n = write(f->fd, at, bytes < (1 << 30) ? (size_t)bytes : (size_t)1 << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return cannot_write(f, errno, e);
        at += n;
        bytes -= n;
    }
    return 0;
}

int outfile_commit(struct outfile *f, struct dl_err *e)
{
    int why = fsync(f->fd) ? errno : 0;
    if (close(f->fd) && !why) why = errno;
    if (!why && rename(f->tmp, f->path)) why = errno;
    if (why) {
        unlink(f->tmp);
        cannot_write(f, why, e);
    } else {
        sync_folder_of(f->path);
    }
    free(f);
    return why ? -1 : 0;
}

void outfile_abandon(struct outfile *f)
{
    if (!f) return;
    close(f->fd);
    unlink(f->tmp);
    free(f);
}

int outfile_write(const char *path, const void *data, int64_t bytes, struct dl_err *e)
{
    struct outfile *f;
    if (outfile_open(&f, path, e)) return -1;
    if (!outfile_append(f, data, bytes, e)) return outfile_commit(f, e);
    outfile_abandon(f);
    return -1;
}

int outfile_folder(const char *path, struct dl_err *e)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (!n || n >= sizeof part) return dl_fail(e, DL_EFAIL, "%.200s: no name for a folder", path);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i]) continue;
        char was = part[i];
        part[i] = 0;
        if (mkdir(part, 0777) && errno != EEXIST) {
            /* A folder above may be unwritable and there: only one that does not exist is a failure. */
            int why = errno;
            struct stat st;
            if (stat(part, &st)) return dl_fail(e, DL_EFAIL, "%s: the folder cannot be made: %s", path, strerror(why));
        }
        part[i] = was;
    }
    struct stat st;
    if (stat(path, &st)) return dl_fail(e, DL_EFAIL, "%s: the folder cannot be made: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return dl_fail(e, DL_EFAIL, "%s: is a file, a folder is needed here", path);
    return 0;
}

int outfile_read(const char *path, int64_t max_bytes, uint8_t **data, int64_t *bytes, struct dl_err *e)
{
    *data = NULL;
    /* Not blocking: a pipe in the place of a file must not hold the program. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) {
        int why = errno;
        if (fd >= 0) close(fd);
        return dl_fail(e, DL_EFAIL, "%s: cannot be opened: %s", path, strerror(why));
    }
    int rc = 0;
    int64_t n = 0;
    uint8_t *buf = NULL;
    if (!S_ISREG(st.st_mode))
        rc = dl_fail(e, DL_EINPUT, "%s: is not a file", path);
    else if (st.st_size > max_bytes)
        rc = dl_fail(e, DL_EINPUT, "%s: %lld bytes are more than the %lld that are read", path, (long long)st.st_size,
                     (long long)max_bytes);
    else if (!(buf = malloc((size_t)st.st_size + 1)))
        rc = dl_fail(e, DL_ENOMEM, "%s: no memory for its %lld bytes", path, (long long)st.st_size);
    while (!rc && n < st.st_size) {
        ssize_t got = read(fd, buf + n, (size_t)(st.st_size - n));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) rc = dl_fail(e, DL_EFAIL, "%s: cannot be read: %s", path, strerror(errno));
        if (got <= 0) break;
        n += got;
    }
    close(fd);
    if (rc) {
        free(buf);
        return -1;
    }
    buf[n] = 0;
    *data = buf;
    *bytes = n;
    return 0;
}

bool outfile_is_temporary(const char *name)
{
    size_t n = strlen(name);
    if (n < 7 || strcmp(name + n - 4, ".tmp")) return false;
    size_t i = n - 4;
    while (i > 0 && isdigit((unsigned char)name[i - 1])) i--;
    return i < n - 4 && i > 1 && name[i - 1] == '.';
}

void outfile_sweep(const char *folder)
{
    DIR *d = opendir(folder);
    if (!d) return;
    for (struct dirent *f; (f = readdir(d));)
        if (outfile_is_temporary(f->d_name)) unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
}
