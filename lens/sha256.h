/* sha256.h: SHA-256 (FIPS 180-4) as 64 lower-case hexadecimal digits. */
#ifndef LENS_SHA256_H
#define LENS_SHA256_H

#include "engine/err.h"

#include <stdint.h>

enum { SHA256_HEX = 65 }; /* bytes, the final zero included */

void sha256_bytes(char hex[SHA256_HEX], const void *data, int64_t bytes);

/* Of a whole file, read in pieces. A file that is absent or unreadable is DL_EFAIL and named. `bytes` (may be NULL)
 * receives its size. */
int sha256_file(char hex[SHA256_HEX], const char *path, int64_t *bytes, struct dl_err *e);

#endif
