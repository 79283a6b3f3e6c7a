/* st_write.h: writes safetensors files.
 *
 * A file is written under a temporary name in the same folder, synced and renamed, so that `path` is either the old
 * file or the complete new one. The header is padded with spaces to a multiple of 8 bytes; data follow in the order of
 * the tensors given, without gaps. Tensors of mixed types: give those with the widest elements first and all stay
 * aligned.
 *
 * Errors (a full disk, a folder that cannot be written) name the file and the system's reason.
 */
#ifndef ST_WRITE_H
#define ST_WRITE_H

#include "loaders/safetensors.h"

struct st_pair {
    const char *key, *value; /* UTF-8 */
};

struct st_writer;

/* Writes a whole file: t[i].name, t, nd, dim and data count; bytes is computed. */
int st_write(const char *path, const struct st_tensor *t, int64_t n, const struct st_pair *meta, int n_meta,
             struct dl_err *e);

/* The same without having all data at once: open writes the header (t[i].data is not looked at; t is not kept), then
 * the data of all tensors come in order, in pieces of any size, then close. */
int st_writer_open(struct st_writer **w, const char *path, const struct st_tensor *t, int64_t n,
                   const struct st_pair *meta, int n_meta, struct dl_err *e);
int st_writer_add(struct st_writer *w, const void *data, int64_t bytes, struct dl_err *e);
/* As adding that many zero bytes, but as a hole in the file, which takes no room on the disk. */
int st_writer_hole(struct st_writer *w, int64_t bytes, struct dl_err *e);
/* Checks that every byte came, syncs, renames and frees; on failure the temporary file is gone. */
int st_writer_close(struct st_writer *w, struct dl_err *e);
/* Gives up: removes the temporary file and frees. NULL is fine. */
void st_writer_drop(struct st_writer *w);

#endif
