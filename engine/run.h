/* run.h: one run of model functions on one backend: its mode, arena, account and sticky error.
 *
 *   struct dl_run r;
 *   dl_run_open(&r, backend, type);
 *   dl_run_dry(&r); model_step(&r, ...);      -> r.arena.peak_bytes, r.account, weight packs asked for
 *   dl_run_load(&r, &weights, e);             makes the packs (idempotent; only what is missing)
 *   dl_run_bind(&r, base, bytes); model_step(&r, ...);
 *
 * The CPU backend executes at once. A CUDA backend executes on its stream, and while it captures it records instead.
 *
 * A program that is run again and again with the step index alone changing can be recorded once and replayed
 * (dl_replay): a backend that cannot record runs it again instead, so models know nothing of it.
 */
#ifndef DL_RUN_H
#define DL_RUN_H

#include "engine/arena.h"
#include "engine/err.h"
#include "engine/op.h"
#include "engine/rng.h"

enum dl_mode { DL_DRY, DL_EAGER, DL_CAPTURE };

/* What a model run costs by its arithmetic; a multiply-add counts 2. */
struct dl_account {
    int64_t flops, bytes; /* bytes: each operand once */
    int64_t ops;
};

/* One line of the op log. */
struct dl_log {
    const char *op;      /* "gemm", "conv", ... */
    const char *variant; /* as chosen by the backend */
    char shape[120];
    int64_t flops, bytes;
    double ms; /* filled in eager runs when the run is timed */
};

struct dl_ctx;    /* a backend's own state: device, streams, primitive cache */
struct dl_graph;  /* a recorded program, the backend's own */
struct dl_lanes;  /* a backend's ways for copies beside its own queue */
struct dl_lane;   /* one of them, of one thread */
struct dl_stream; /* stream.h */

/* How weights reach a device from other threads while it computes, see stream.h. `workers` threads fill slots; begin
 * and end are called by worker number `worker` around each fill into slot number `slot`, enter and leave by the
 * computing thread around the ops that use the slot. The backend sees to it that what is copied into a slot waits for
 * the ops before its last leave, and the ops after an enter for what was copied. */
struct dl_lane_ops {
    int workers; /* how many it takes to keep the copies going */
    int (*open)(struct dl_ctx *, int workers, int slots, struct dl_lanes **, struct dl_err *);
    int (*begin)(struct dl_lanes *, int worker, int slot, struct dl_lane **, struct dl_err *);
    int (*end)(struct dl_lanes *, int worker, int slot, struct dl_err *);
    int (*enter)(struct dl_lanes *, int slot, struct dl_err *);
    int (*leave)(struct dl_lanes *, int slot, struct dl_err *);
    void (*close)(struct dl_lanes *); /* waits for copies and ops that are under way */
};

struct dl_backend {
    const char *name;   /* "cpu", "cuda" */
    const char *device; /* what it computes on, for reports: "NVIDIA H200, ..."; NULL: the host's processor */
    const struct dl_ops *ops;
    bool parts; /* group norms are cheaper from the parts of what they read (dl_act), so models make room for them */
    /* Memory that ops compute in, aligned to DL_ALIGN. */
    int (*alloc)(struct dl_ctx *, int64_t bytes, void **p, struct dl_err *);
    void (*free)(struct dl_ctx *, void *p);
    int (*upload)(struct dl_ctx *, void *dst, const void *src, int64_t bytes, struct dl_err *);
    int (*download)(struct dl_ctx *, void *dst, const void *src, int64_t bytes, struct dl_err *);
    int (*sync)(struct dl_ctx *, struct dl_err *);
    int64_t (*free_bytes)(struct dl_ctx *); /* memory that can still be had */
    bool (*supports)(struct dl_ctx *,
                     int type); /* whether this machine computes in `type` by more than the plain reference */
    /* Recording; all four are NULL in a backend without it. Between begin and end ops are recorded and not executed;
     * what they need (weight forms, tuning, copies of host arrays) must have been made by an eager run of the same
     * program before. end with g == NULL throws the recording away and cannot fail. replay runs it with the step index
     * `step`. */
    int (*record_begin)(struct dl_ctx *, struct dl_err *);
    int (*record_end)(struct dl_ctx *, struct dl_graph **g, struct dl_err *);
    int (*replay)(struct dl_ctx *, struct dl_graph *g, int32_t step, struct dl_err *);
    void (*graph_free)(struct dl_ctx *, struct dl_graph *g);
    /* y [n][h][w][c], f32 = one draw of rng_normal's in the order [row][channel][y][x], rounded to `type`, made where the
     * ops run; the generator goes on as it does there. Returns 1, and has done nothing, where this kind of generator or
     * size is the host's to draw. NULL: all are. */
    int (*noise)(struct dl_ctx *, struct dl_rng *, dl_act y, int type, struct dl_err *);
    /* Choices among several ways to compute the same that the backend has made by measurement, as pairs of texts: what
     * is done (a product's shape, say), and how. choices tells those that this process has used; choose makes one
     * beforehand, as a run recorded it, where it can be honoured. way, for tests and benchmarks: from now on always the
     * n-th way of each op or its last, 0: by measurement again. All NULL in a backend that measures nothing. */
    void (*choices)(struct dl_ctx *, void (*each)(void *user, const char *what, const char *how), void *user);
    int (*choose)(struct dl_ctx *, const char *what, const char *how, struct dl_err *);
    void (*way)(struct dl_ctx *, int n);
    const struct dl_lane_ops *lanes; /* NULL: the backend's memory is the host's, and ops are done when they return */
    void (*close)(struct dl_ctx *);
};

struct dl_run {
    const struct dl_backend *be;
    struct dl_ctx *ctx; /* borrowed */
    enum dl_mode mode;
    uint8_t t; /* type of activations */
    bool e4m3; /* products that qualify are done in 8 bits, see e4m3.h; t is bf16 then */
    struct dl_arena arena;
    int32_t step; /* step index for dl_vec tables and the scheduler ops; CUDA keeps its own on the device */
    struct dl_account account;
    struct dl_err err;        /* sticky */
    struct dl_stream *stream; /* where dl_stage gets weights from; NULL: all are loaded. Borrowed */
    /* Called by dl_stage in eager runs, before it waits; may end the run by r->err. NULL: nothing. */
    void (*at_stage)(void *user, struct dl_run *r, int stage);
    void *stage_user;

    const char *shape;   /* of the op under way, as the log has it; for the backend's entry */
    const char *variant; /* set by the backend's entry: what it chose for the op under way */
    struct dl_log *log;  /* [n_log] kept when log_on; owned, see dl_run_close */
    int64_t n_log, cap_log;
    bool log_on, time_on; /* set after dl_run_open */

    /* Called by dl_tap in eager runs: parity tests look at inner activations here. */
    void (*tap)(void *user, struct dl_run *, const char *name, dl_act a);
    void *tap_user;
};

/* type DL_E4M3: t = bf16 and e4m3. */
void dl_run_open(struct dl_run *r, const struct dl_backend *be, struct dl_ctx *ctx, int type);
void dl_run_close(struct dl_run *r); /* frees the log */

/* Starts a dry run: fresh dry arena, account zero, log empty. */
void dl_run_dry(struct dl_run *r);
/* Starts real runs in memory of the backend, borrowed. */
void dl_run_bind(struct dl_run *r, void *base, int64_t bytes);

/* One program and its recording. Zeroed is valid: nothing recorded yet. */
struct dl_replay {
    struct dl_graph *graph;
    void *key; /* [key_bytes] of the program that ran last; owned */
    int64_t key_bytes;
    bool warm; /* that program has run eagerly */
};

/* Runs `program` on r for the step r->step in `work` [bytes], as dl_run_bind and a call would. The first run of a key
 * is eager; from the second on the program is recorded and replayed where the backend can. `key` [key_bytes] is
 * everything that the program depends on besides the step index (row maps, sizes): another key starts afresh. A run
 * that is tapped, logged, timed or streamed (stream.h) is always eager. */
int dl_replay_run(struct dl_replay *p, struct dl_run *r, void *work, int64_t bytes, const void *key, int64_t key_bytes,
                  void (*program)(void *user), void *user, struct dl_err *e);
void dl_replay_close(struct dl_replay *p, const struct dl_run *r);

/* Makes every weight form of the set that was asked for and has no data yet. */
int dl_run_load(struct dl_run *r, struct dl_wset *s, struct dl_err *e);
/* Those of weights that belong to no stage. */
int dl_run_load_unstaged(struct dl_run *r, struct dl_wset *s, struct dl_err *e);

/* First failure of the run: copies it to e and returns -1, or 0. Also reports an arena that was too small. */
int dl_run_check(struct dl_run *r, struct dl_err *e);

/* Marks an inner activation by a name like "down_blocks.0.resnets.1" (printf style). Costs nothing without a listener.
 */
void dl_tap(struct dl_run *r, dl_act a, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static inline bool dl_run_ok(const struct dl_run *r) { return r->err.code == DL_OK; }
static inline bool dl_run_is_dry(const struct dl_run *r) { return r->mode == DL_DRY; }

#endif
