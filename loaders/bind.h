/* bind.h: from a network's expected tensors to its weights.
 *
 * A model describes its tensors once, in one function that walks its config and calls bind_* with shapes and names.
 * That function serves three purposes:
 *   bind    every name is looked up in the checkpoint, its shape and type checked, and a struct dl_w filled;
 *   list    nothing is read: each name, shape and role goes to a callback (synth writes checkpoints from that, tests
 *           hold it against the published manifests);
 *   finish  bind_close names what the checkpoint has beyond that.
 *
 * Errors are collected, not raised at the first: bind_close returns -1 with one line that counts the missing,
 * mis-shaped and unknown tensors and names the first of each with what was expected; `report`, set after bind_open,
 * gets each of them (dlens inspect prints them all). A weight with a fault stays unbound (n_parts 0), shape alone.
 *
 * A matrix [out, in] may be stored as a 1x1 convolution [out, in, 1, 1] and the other way round (attention weights of
 * old VAEs); the weight has the shape that the model asked for.
 */
#ifndef DL_BIND_H
#define DL_BIND_H

#include "engine/weight.h"
#include "loaders/safetensors.h"

/* What a tensor is for; synth chooses its values by it. */
enum bind_role { BIND_MATRIX, BIND_BIAS, BIND_GAIN /* norm weight */, BIND_TABLE /* embedding */ };

enum bind_fault { BIND_MISSING, BIND_SHAPE, BIND_TYPE, BIND_EXTRA };

struct bind {
    const struct st_set *files; /* borrowed; NULL in list mode */
    struct dl_wset *set;        /* receives every weight; NULL in list mode */
    /* list mode: called for each tensor in order. dim [nd]. */
    void (*list)(void *user, const char *name, const int64_t *dim, int nd, enum bind_role role);
    /* called for each fault when set; text says what was expected and what was found */
    void (*report)(void *user, enum bind_fault fault, const char *name, const char *text);
    void *user;

    char scope[256];          /* current name prefix, "down_blocks.0.resnets.1." */
    struct bind_state *state; /* what was consumed, faults so far */
    struct dl_err err;        /* memory, over-long names */
};

/* files and set are borrowed (files until bind_close, the mapping as long as packs are still to be made). Messages name
 * the set's path. */
int bind_open(struct bind *b, const struct st_set *files, struct dl_wset *set, struct dl_err *e);
int bind_open_list(struct bind *b, void (*list)(void *, const char *, const int64_t *, int, enum bind_role), void *user,
                   struct dl_err *e);

/* Opens and leaves a scope: bind_in(b, "resnets.%d", j) puts "resnets.1." before the names that follow. Scopes nest up
 * to 32 deep; bind_out takes off all that the last bind_in put there. */
void bind_in(struct bind *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void bind_out(struct bind *b);

/* Whether the checkpoint has scope + name; false in list mode. For checkpoints with older names. */
bool bind_has(const struct bind *b, const char *name);

/* One tensor of dim [nd] (torch order) into w. f32, f16 and bf16 are accepted. */
void bind_w(struct bind *b, struct dl_w *w, enum bind_role role, const char *name, int nd, const int64_t *dim);
/* Two to DL_WPARTS matrices [rows[i], in] stacked into one w [sum rows, in] (with in = 0: vectors [rows[i]]). */
void bind_stack(struct bind *b, struct dl_w *w, enum bind_role role, int n, const char *const *name,
                const int64_t *rows, int64_t in);
/* Expected and shape-checked, never loaded (a VAE's encoder). */
void bind_skip(struct bind *b, enum bind_role role, const char *name, int nd, const int64_t *dim);
/* May be there (old writers' position_ids, any type and shape). */
void bind_allow(struct bind *b, const char *name);

/* Short forms: name.weight [out, in] and name.bias [out] (bias may be NULL: no bias expected); conv [out, in, k, k];
 * norm weight and bias [c] (beta may be NULL). */
void bind_linear(struct bind *b, struct dl_w *w, struct dl_w *bias, const char *name, int64_t out, int64_t in);
void bind_conv(struct bind *b, struct dl_w *w, struct dl_w *bias, const char *name, int64_t out, int64_t in, int64_t k);
void bind_norm(struct bind *b, struct dl_w *gamma, struct dl_w *beta, const char *name, int64_t c);

/* Looks for tensors that nobody asked for, frees the state; -1 with one line when there was any fault. */
int bind_close(struct bind *b, struct dl_err *e);

#endif
