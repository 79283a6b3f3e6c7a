/* weight.h: weights as the file has them and as a backend wants them.
 *
 * A struct dl_w stands in the model's own structs (struct unet has one for every tensor) and is filled by binding: its
 * shape, and where its bytes lie in the mapped file. It may be made of several file tensors stacked along the first
 * dimension (q, k and v projections as one matrix), so that one GEMM serves them.
 *
 * Which form an op wants (a type, a blocked layout) is known only once it has chosen its variant, and that happens in
 * the dry run: the variant asks for the form there (a struct dl_pack is then hung on the weight, without bytes), and
 * dl_run_load() makes all forms that were asked for before the first real run. Packs belong to the weight's set and die
 * with it; file bytes are borrowed from the mapping, which must outlive the set until dl_run_load() has returned.
 *
 * A weight may be marked with a stage, see stream.h: then its packs can pass through memory instead of staying there.
 *
 * A part may stand in no file at all: its values are made up, each a function of the part's seed and the element's
 * index (dl_made_value). Fills get at values by dl_w_read and dl_wpart_read, which serve both kinds; a backend with
 * memory of its own may instead compute the same values there, so that a model of any size is in place without a byte
 * on the disk or through the host (tools/bench/model.h).
 */
#ifndef DL_WEIGHT_H
#define DL_WEIGHT_H

#include "engine/err.h"
#include "engine/type.h"

#include <stdbool.h>
#include <stdint.h>

enum { DL_WPARTS = 4 };

struct dl_ctx;
struct dl_lane; /* run.h */
struct dl_w;
struct dl_wset;

/* Uniform values in [mean - amp, mean + amp]; their standard deviation is amp / sqrt(3). */
struct dl_made {
    uint32_t seed;
    float mean, amp;
};

struct dl_wpart {
    const void *file; /* mapped bytes, row-major, not necessarily aligned; NULL when only shapes are known or made_up */
    int64_t rows;     /* of the first dimension */
    uint8_t t;        /* f32, f16, bf16 as stored; what made-up values are rounded to */
    bool mapped;      /* file lies in a mapped file, so its pages may be dropped after use */
    bool made_up;     /* element i is dl_made_value(made, i), and file is NULL */
    struct dl_made made;
};

/* One form of a weight, owned by the set. */
struct dl_pack {
    struct dl_pack *next;
    uint64_t key;         /* which form: the backend's own number (type, layout) */
    int64_t bytes;        /* size of data */
    void *data;           /* NULL until loaded; in one of the set's blocks or in a stream's slot */
    struct dl_lane *lane; /* what a copy goes by, in a stream's thread; NULL: the backend's own queue */
    /* Fills data from the weight's parts; called with data allocated, once by dl_run_load(), or many times by a
     * stream's threads, several of them at once. `arg` is the variant's. */
    int (*fill)(struct dl_pack *, const struct dl_w *, void *arg, struct dl_err *);
    void (*drop)(void *arg); /* frees arg; may be NULL */
    void *arg;
};

struct dl_w {
    const char *name; /* of the first part, owned by the set: for messages and the op log */
    int64_t dim[4];   /* torch order: Linear [out, in], Conv [out, in, kh, kw], norm [c]; all parts together */
    int nd;
    int n_parts; /* 0: not bound */
    int stage;   /* 0: needed throughout; else 1 + its stage, as dl_wset_mark said when it was bound */
    struct dl_wpart part[DL_WPARTS];
    struct dl_pack *packs;
    struct dl_wset *set;
};

/* Memory of the backend's that several packs lie in; owned by the set. */
struct dl_block {
    struct dl_block *next;
    void *data;
};

/* All weights of one network. */
struct dl_wset {
    struct dl_w *
        *w; /* [n] every bound weight, in the order of binding; the array is owned, the weights are the model's */
    int64_t n, cap;
    int mark; /* what w->stage becomes; see dl_wset_mark */
    struct dl_block *blocks;
    int64_t pack_bytes;                             /* of all packs asked for so far */
    int64_t loaded_bytes;                           /* of all packs that have their data */
    void (*free_data)(struct dl_ctx *, void *data); /* how a block goes back: set by dl_run_load */
    struct dl_ctx *ctx;                             /* the backend's, which must outlive the set's packs */
};

int64_t dl_w_count(const struct dl_w *w);               /* elements */
int64_t dl_wpart_count(const struct dl_w *w, int part); /* of one part */

/* Element i of made-up values: the hash of a counter, the same bits on every machine and device: one product and one
 * sum, each rounded. Values come again after 2^32. Mixing: "lowbias32" of C. Wellons' hash-prospector. */
static inline uint32_t dl_made_bits(uint32_t seed, int64_t i)
{
    uint32_t x = (uint32_t)i * 0x9e3779b9u + seed;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static inline float dl_made_value(const struct dl_made *m, int64_t i)
{
    float v = m->amp * ((float)(int32_t)dl_made_bits(m->seed, i) * 0x1p-31f);
    return m->mean + v;
}

/* Adds w to the set (w->name is copied). Returns < 0 when memory is out. */
int dl_wset_add(struct dl_wset *s, struct dl_w *w, const char *name, struct dl_err *e);

/* Weights that are added from now on belong to this stage (>= 0), or are needed throughout (-1, as at the beginning).
 * s may be NULL, as it is where tensors are only listed. */
void dl_wset_mark(struct dl_wset *s, int stage);

/* Frees all packs, so that the next dry run asks anew; not while a stream is open over the set. */
void dl_wset_forget(struct dl_wset *s);

/* Frees packs and names; the weights themselves are the model's. Leaves an empty set. */
void dl_wset_close(struct dl_wset *s);

/* The pack with this key, or NULL. */
struct dl_pack *dl_w_pack(const struct dl_w *w, uint64_t key);

/* Hangs a new pack on the weight, to be filled by dl_run_load(). NULL when memory is out. */
struct dl_pack *dl_w_want(struct dl_w *w, uint64_t key, int64_t bytes,
                          int (*fill)(struct dl_pack *, const struct dl_w *, void *, struct dl_err *), void *arg,
                          void (*drop)(void *));

/* Whether every part has values; need fails where one has not, for fills. */
bool dl_w_has_values(const struct dl_w *w);
int dl_w_need_values(const struct dl_w *w, struct dl_err *e);

/* Copies the weight as stored, all parts in order, into dst as type t: [count]. */
void dl_w_read(const struct dl_w *w, void *dst, int t);

/* Elements [from, from + n) of one part, as stored, into dst as type t. */
void dl_wpart_read(const struct dl_wpart *p, int64_t from, int64_t n, void *dst, int t);

/* Asks the system to read the file pages behind w; returns before they are there. */
void dl_w_want_pages(const struct dl_w *w);

/* Tells the system that the file pages behind w may be dropped (they come back from the file when touched). */
void dl_w_release_pages(const struct dl_w *w);

#endif
