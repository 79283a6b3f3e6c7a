#include "lens/sha256.h"

#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>

static void finish(char hex[SHA256_HEX], GChecksum *sum)
{
    memcpy(hex, g_checksum_get_string(sum), SHA256_HEX);
    g_checksum_free(sum);
}

void sha256_bytes(char hex[SHA256_HEX], const void *data, int64_t bytes)
{
    GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_checksum_update(sum, data, bytes);
    finish(hex, sum);
}

int sha256_file(char hex[SHA256_HEX], const char *path, int64_t *bytes, struct dl_err *e)
{
    FILE *f = fopen(path, "rb");
    if (!f) return dl_fail(e, DL_EFAIL, "%s: cannot be opened: %s", path, strerror(errno));
    GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
    unsigned char part[1 << 16];
    int64_t total = 0;
    for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0; total += (int64_t)n)
        g_checksum_update(sum, part, (gssize)n);
    int failed = ferror(f), why = errno;
    fclose(f);
    finish(hex, sum);
    if (failed) return dl_fail(e, DL_EFAIL, "%s: cannot be read: %s", path, strerror(why));
    if (bytes) *bytes = total;
    return 0;
}
