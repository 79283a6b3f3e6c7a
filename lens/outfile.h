/* outfile.h: files that are either there and complete or not there.
 *
 * A file is written under a temporary name in its own folder, synced and renamed; then the folder is synced. So `path`
 * is the old file or the whole new one whatever happens, and a killed run leaves at most a temporary file
 * (`<name>.<process>.tmp`), which outfile_sweep takes away.
 *
 * Errors are DL_EFAIL and name the file and the system's reason: a full disk, a folder that cannot be written.
 */
#ifndef LENS_OUTFILE_H
#define LENS_OUTFILE_H

#include "engine/err.h"

#include <stdbool.h>
#include <stdint.h>

int outfile_write(const char *path, const void *data, int64_t bytes, struct dl_err *e);

/* The same for a file that is too large to be held: opened, appended to in pieces, and committed, which syncs and
 * renames it. Until then `path` is what it was. */
struct outfile;
int outfile_open(struct outfile **f, const char *path, struct dl_err *e);
int outfile_append(struct outfile *f, const void *data, int64_t bytes, struct dl_err *e);
int outfile_commit(struct outfile *f, struct dl_err *e); /* frees, also when it fails */
void outfile_abandon(struct outfile *f);                 /* removes what was written and frees; NULL is fine */

/* Makes a folder and those above it; one that is there already is fine. */
int outfile_folder(const char *path, struct dl_err *e);

/* Reads a whole file of at most `max_bytes` into *data (owned by the caller, with a zero byte behind it that does not
 * count). Absent or unreadable is DL_EFAIL, too large is DL_EINPUT. */
int outfile_read(const char *path, int64_t max_bytes, uint8_t **data, int64_t *bytes, struct dl_err *e);

/* Whether a name is one of a temporary file as above. */
bool outfile_is_temporary(const char *name);
/* Removes the temporary files that earlier runs left in a folder. Only whoever holds the folder's lock may. */
void outfile_sweep(const char *folder);

#endif
