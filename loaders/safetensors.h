/* safetensors.h: the safetensors format (https://github.com/huggingface/safetensors), read by
 * mapping, and the sets of such files that make up one component of a model folder. st_write.h writes them.
 *
 * A file is: u64 little-endian length of the header, the header (JSON: name -> dtype, shape, data_offsets; optionally
 * "__metadata__" with strings), then the data without gaps. Every file is distrusted: all lengths, products, offsets
 * and names are checked when it is opened, so that what an st_tensor says can be used without further checks. The one
 * thing that cannot be checked is a file that somebody shortens while it is mapped.
 *
 * As in the reference implementation, data must cover the file exactly: tensors that overlap, bytes that belong to no
 * tensor, a file shorter or longer than its header says are errors.
 */
#ifndef ST_SAFETENSORS_H
#define ST_SAFETENSORS_H

#include "engine/err.h"
#include "engine/type.h"

#include <stdbool.h>
#include <stdint.h>

enum { ST_MAX_DIMS = 8 };

struct st_file; /* one file */
struct st_set;  /* the files of one component */

struct st_tensor {
    const char *name;         /* UTF-8, owned by the file */
    uint8_t t;                /* enum dl_type; DL_NTYPES when dlens cannot read this type (see dtype) */
    int nd;                   /* 0: a scalar */
    int64_t dim[ST_MAX_DIMS]; /* [nd]; products of all are checked against bytes */
    const void *data;         /* row-major, little-endian, not necessarily aligned to its type; valid until close */
    int64_t bytes;
    const char *dtype;          /* as the file has it, "BF16" */
    const struct st_file *file; /* for st_file_path, st_file_mapped */
};

/* Maps a file. On failure *f is NULL and the message names the file, the tensor and the bytes expected and found. */
int st_open(struct st_file **f, const char *path, struct dl_err *e);
/* The same from n bytes in memory (borrowed until st_close); label stands for the path in messages. */
int st_open_memory(struct st_file **f, const void *buf, int64_t n, const char *label, struct dl_err *e);
void st_close(struct st_file *f); /* NULL is fine */

const char *st_file_path(const struct st_file *f);
bool st_file_mapped(const struct st_file *f); /* false: memory */
int64_t st_file_count(const struct st_file *f);
const struct st_tensor *st_file_at(const struct st_file *f, int64_t i);     /* in the order of the data */
const struct st_tensor *st_find(const struct st_file *f, const char *name); /* or NULL */

/* The file's "__metadata__": the value of a key, or NULL; the number of pairs; pair i. */
const char *st_meta(const struct st_file *f, const char *key);
int64_t st_meta_count(const struct st_file *f);
void st_meta_at(const struct st_file *f, int64_t i, const char **key, const char **value);

/* Demands a tensor of this type and shape: returns it, or NULL with a message that says what was expected and what was
 * found. A dim of -1 accepts any size; t < 0 accepts any type that dlens reads. */
const struct st_tensor *st_need(const struct st_file *f, const char *name, int t, int nd, const int64_t *dim,
                                struct dl_err *e);

/* Writes "[320, 4, 3, 3]" into out and returns it. */
char *st_shape(char *out, int cap, int nd, const int64_t *dim);

/* Opens what a component folder has under this stem ("model" for text encoders, "diffusion_pytorch_model" for unet,
 * transformer and vae). The first of these that is complete is taken:
 *
 *   <stem>.safetensors
 *   <stem>.safetensors.index.json and its shards
 *   <stem>-00001-of-0000N.safetensors, all N, without an index
 *
 * and only where none is, the fp16 variant, then the bf16 variant, of each: <stem>.fp16.safetensors,
 * <stem>.safetensors.index.fp16.json or <stem>.fp16.safetensors.index.json, <stem>.fp16-00001-of-0000N.safetensors.
 *
 * An index must name files of this folder, each name in its map must be in the shard that it names, and no name may be
 * in two shards. Where nothing fits, the message says what is there instead (.bin, .ckpt) and the way out. */
int st_set_open(struct st_set **s, const char *folder, const char *stem, struct dl_err *e);
/* A set of one file, which the set owns from now on (also when this fails). */
int st_set_of(struct st_set **s, struct st_file *f, struct dl_err *e);
void st_set_close(struct st_set *s); /* NULL is fine */

const char *st_set_path(const struct st_set *s); /* the folder, or the one file's path: for messages */
int st_set_file_count(const struct st_set *s);
const struct st_file *st_set_file(const struct st_set *s, int i);
int64_t st_set_count(const struct st_set *s);
const struct st_tensor *st_set_at(const struct st_set *s, int64_t i);          /* sorted by name */
const struct st_tensor *st_set_find(const struct st_set *s, const char *name); /* or NULL */

#endif
