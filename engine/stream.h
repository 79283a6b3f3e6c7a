/* stream.h: weights that pass through memory in stages, for networks that are larger than it.
 *
 * A network that can be streamed marks its weights by stage while it binds them (dl_wset_mark): stage 0, 1, ... in the
 * order in which a pass uses them, and no stage for what is needed throughout. Its programs say dl_stage(r, i) before
 * the first op that uses a weight of stage i. A dry run asks for weight forms as always; then either
 *
 *   resident   dl_run_load(&r, &set, e)           everything stays; dl_stage costs nothing
 *   streamed   dl_stream_open(&s, &r, &set, 0, e) weights without a stage are loaded, two slots of the largest stage's
 *              r.stream = s;                      bytes are taken, and threads started that fill them
 *              dl_stream_begin(s, 0, n, 1, e);    for each pass: the stages that it will go through
 *              program(&r);
 *              dl_stream_end(s);                  also after a failure
 *              dl_stream_close(s);                before the set is closed
 *
 * While the ops of one stage compute, the next is made ready in the other slot: its pages, which the system was asked
 * to read one stage before, become the forms that were asked for, and are then dropped. What a failing fill (a file
 * that cannot be read, no memory) says becomes the run's error at the stage that needed it. Results are the resident
 * ones, bit for bit: the same forms, filled by the same functions.
 *
 * A stream serves one run and one thread that computes. Forms that a later dry run asks for are not in it: close it and
 * open it again. Streamed programs are never recorded (dl_replay_run runs them eagerly).
 */
#ifndef DL_STREAM_H
#define DL_STREAM_H

#include "engine/run.h"

enum { DL_STREAM_SLOTS = 2, DL_STREAM_WORKERS = 8 /* at most */ };

/* What the forms asked for so far take, in bytes of the backend's memory. */
struct dl_stream_sizes {
    int stages;
    int64_t resident_bytes; /* everything loaded */
    int64_t kept_bytes;     /* what belongs to no stage */
    int64_t slot_bytes;     /* the largest stage */
    int64_t streamed_bytes; /* kept + both slots: what a streamed run holds */
    int64_t pass_bytes;     /* read from files for one pass over all stages */
};

struct dl_stream_sizes dl_stream_sizes(const struct dl_wset *set);

/* What happened since the stream was opened. */
struct dl_stream_stats {
    int64_t stages;       /* entered */
    int64_t filled_bytes; /* of forms made */
    double wait_ms;       /* the computing thread waited for weights */
};

struct dl_stream;

/* r's backend; r and set are borrowed. workers: threads that fill, 0: the backend's choice. On failure *out is NULL. */
int dl_stream_open(struct dl_stream **out, struct dl_run *r, struct dl_wset *set, int workers, struct dl_err *e);

/* Announces `passes` times the stages [from, to) and begins to read. */
int dl_stream_begin(struct dl_stream *s, int from, int to, int passes, struct dl_err *e);

/* Ends what was begun, also in the middle; what is being filled is finished first. */
void dl_stream_end(struct dl_stream *s);

struct dl_stream_stats dl_stream_stats(struct dl_stream *s);

/* Ends, stops the threads and frees the slots. NULL is fine. */
void dl_stream_close(struct dl_stream *s);

/* The ops that follow use stage i, and no longer the one before. Waits until it is ready. Nothing happens in a dry run
 * and in runs without a stream; a stage out of the announced order, or in a recording, is the run's error. With or
 * without a stream, r->at_stage is called. */
void dl_stage(struct dl_run *r, int i);

#endif
