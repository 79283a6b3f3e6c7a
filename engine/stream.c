/* Places in the announced sequence of stages are counted 0, 1, 2, ...; place p lies in slot p % 2. Workers fill place
 * after place, together; the computing thread enters them in order; a slot is free for place p + 2 once place p was
 * left. A thread of its own asks the system for the pages of one stage more than is being filled, because asking blocks
 * when the disk's queue is full.
 *
 * The packs' data pointers belong to the computing thread: workers fill through copies of their own. */
#include "engine/stream.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct item {
    const struct dl_w *w;
    struct dl_pack *pack;
    int64_t at; /* place in the slot */
};

struct worker {
    struct dl_stream *s;
    pthread_t thread;
    int number;
};

struct dl_stream {
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct item *item; /* by stage */
    int64_t *first;    /* [stages + 1] stage i has items [first[i], first[i + 1]) */
    int stages;
    void *slot[DL_STREAM_SLOTS];
    struct dl_lanes *lanes; /* NULL where the backend has none */
    struct worker worker[DL_STREAM_WORKERS];
    pthread_t reader;
    int n_workers; /* started */
    bool has_reader;

    pthread_mutex_t lock; /* for what follows */
    pthread_cond_t changed;
    int from, to;
    int64_t places;   /* announced; 0 when no pass is under way */
    int64_t filling;  /* place under way, or next */
    int64_t next;     /* item of it to be filled next */
    int64_t left;     /* items of it that are not filled yet */
    int64_t read;     /* places whose pages were asked for */
    int64_t entered;  /* places entered */
    int64_t released; /* places left */
    int busy;         /* threads at an item */
    bool quit;
    struct dl_err err; /* the first failure of a worker; stops filling */
    struct dl_stream_stats stats;
};

static int64_t rounded(int64_t bytes) { return (bytes + DL_ALIGN - 1) & ~(int64_t)(DL_ALIGN - 1); }

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int stages_of(const struct dl_wset *set)
{
    int n = 0;
    for (int64_t i = 0; i < set->n; i++)
        if (set->w[i]->stage > n) n = set->w[i]->stage;
    return n;
}

static int64_t file_bytes(const struct dl_w *w)
{
    int64_t n = 0;
    for (int i = 0; i < w->n_parts; i++)
        if (!w->part[i].made_up) n += dl_wpart_count(w, i) * dl_type_bytes(w->part[i].t);
    return n;
}

/* Forms of one stage (as dl_w.stage counts), each at its place in a slot, into item where it is not NULL. */
static int64_t lay_out(const struct dl_wset *set, int stage, struct item *item, int64_t *items)
{
    int64_t at = 0;
    for (int64_t i = 0; i < set->n; i++) {
        struct dl_w *w = set->w[i];
        if (w->stage != stage) continue;
        for (struct dl_pack *p = w->packs; p; p = p->next) {
            if (item) item[*items] = (struct item){w, p, at};
            ++*items, at += rounded(p->bytes);
        }
    }
    return at;
}

struct dl_stream_sizes dl_stream_sizes(const struct dl_wset *set)
{
    struct dl_stream_sizes z = {.stages = stages_of(set)};
    int64_t items = 0;
    z.kept_bytes = lay_out(set, 0, NULL, &items);
    z.resident_bytes = z.kept_bytes;
    for (int i = 1; i <= z.stages; i++) {
        int64_t bytes = lay_out(set, i, NULL, &items);
        if (bytes > z.slot_bytes) z.slot_bytes = bytes;
        z.resident_bytes += bytes;
    }
    for (int64_t i = 0; i < set->n; i++)
        if (set->w[i]->stage && set->w[i]->packs) z.pass_bytes += file_bytes(set->w[i]);
    z.streamed_bytes = z.kept_bytes + DL_STREAM_SLOTS * z.slot_bytes;
    return z;
}

static int stage_at(const struct dl_stream *s, int64_t place) { return s->from + (int)(place % (s->to - s->from)); }

/* Makes `filling` the next place that has anything to fill. Under the lock. */
static void take_place(struct dl_stream *s)
{
    for (; s->filling < s->places; s->filling++) {
        int i = stage_at(s, s->filling);
        s->next = s->first[i], s->left = s->first[i + 1] - s->first[i];
        if (s->left) break;
    }
    pthread_cond_broadcast(&s->changed);
}

static int fill(struct dl_stream *s, const struct item *it, int worker, int slot, struct dl_err *e)
{
    const struct dl_lane_ops *lanes = s->be->lanes;
    struct dl_pack p = {.key = it->pack->key, .bytes = it->pack->bytes, .arg = it->pack->arg};
    p.data = (uint8_t *)s->slot[slot] + it->at;
    if (s->lanes && lanes->begin(s->lanes, worker, slot, &p.lane, e) < 0) return -1;
    if (it->pack->fill(&p, it->w, p.arg, e) < 0) return -1;
    dl_w_release_pages(it->w);
    return s->lanes ? lanes->end(s->lanes, worker, slot, e) : 0;
}

/* Whether there is an item to fill. Under the lock. */
static bool work_to_do(const struct dl_stream *s)
{
    return s->filling < s->places && s->filling < s->released + DL_STREAM_SLOTS &&
           s->next < s->first[stage_at(s, s->filling) + 1] && !s->err.code;
}

static void *work(void *arg)
{
    const struct worker *me = arg;
    struct dl_stream *s = me->s;
    pthread_mutex_lock(&s->lock);
    while (!s->quit) {
        if (!work_to_do(s)) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        const struct item *it = &s->item[s->next++];
        int slot = (int)(s->filling % DL_STREAM_SLOTS);
        struct dl_err e = {0};
        s->busy++;
        pthread_mutex_unlock(&s->lock);
        int rc = fill(s, it, me->number, slot, &e);
        pthread_mutex_lock(&s->lock);
        s->busy--;
        if (rc < 0)
            dl_fail(&s->err, e.code ? e.code : DL_EFAIL, "%s", e.msg);
        else
            s->stats.filled_bytes += it->pack->bytes;
        if (--s->left == 0 && !s->err.code) s->filling++, take_place(s);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void *read_ahead(void *arg)
{
    struct dl_stream *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->quit) {
        if (s->read >= s->places || s->read > s->filling + 1 || s->err.code) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        int stage = stage_at(s, s->read++);
        s->busy++;
        for (int64_t i = s->first[stage]; i < s->first[stage + 1] && s->places; i++) {
            pthread_mutex_unlock(&s->lock);
            dl_w_want_pages(s->item[i].w);
            pthread_mutex_lock(&s->lock);
        }
        s->busy--;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static int start(struct dl_stream *s, int workers, struct dl_err *e)
{
    for (int i = 0; i < workers; i++) {
        s->worker[i] = (struct worker){.s = s, .number = i};
        if (pthread_create(&s->worker[i].thread, NULL, work, &s->worker[i]))
            return dl_fail(e, DL_ENOMEM, "cannot start the %d threads that stream weights", workers + 1);
        s->n_workers++;
    }
    if (pthread_create(&s->reader, NULL, read_ahead, s))
        return dl_fail(e, DL_ENOMEM, "cannot start the %d threads that stream weights", workers + 1);
    s->has_reader = true;
    return 0;
}

int dl_stream_open(struct dl_stream **out, struct dl_run *r, struct dl_wset *set, int workers, struct dl_err *e)
{
    struct dl_stream_sizes z = dl_stream_sizes(set);
    const struct dl_lane_ops *lanes = r->be->lanes;
    int64_t items = 0;
    *out = NULL;
    if (!z.stages) return dl_fail(e, DL_EFAIL, "this network has no stages: its weights cannot be streamed");
    if (workers <= 0) workers = lanes ? lanes->workers : 1;
    if (workers > DL_STREAM_WORKERS) workers = DL_STREAM_WORKERS;
    struct dl_stream *s = calloc(1, sizeof *s);
    if (!s) return dl_fail(e, DL_ENOMEM, "no memory to stream weights");
    s->be = r->be, s->ctx = r->ctx, s->stages = z.stages;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    for (int i = 1; i <= z.stages; i++) lay_out(set, i, NULL, &items);
    s->item = calloc((size_t)items + 1, sizeof *s->item);
    s->first = calloc((size_t)z.stages + 1, sizeof *s->first);
    if (!s->item || !s->first) {
        dl_fail(e, DL_ENOMEM, "no memory for the list of %lld streamed weights", (long long)items);
        goto fail;
    }
    items = 0;
    for (int i = 1; i <= z.stages; i++) {
        lay_out(set, i, s->item, &items);
        s->first[i] = items;
    }
    if (dl_run_load_unstaged(r, set, e) < 0) goto fail;
    for (int i = 0; i < DL_STREAM_SLOTS; i++)
        if (s->be->alloc(s->ctx, z.slot_bytes, &s->slot[i], e) < 0) {
            dl_fail_in(e, "the %d slots of the largest stage", DL_STREAM_SLOTS);
            goto fail;
        }
    if (lanes && lanes->open(s->ctx, workers, DL_STREAM_SLOTS, &s->lanes, e) < 0) goto fail;
    if (start(s, workers, e) < 0) goto fail;
    *out = s;
    return 0;
fail:
    dl_stream_close(s);
    return -1;
}

int dl_stream_begin(struct dl_stream *s, int from, int to, int passes, struct dl_err *e)
{
    dl_stream_end(s);
    if (from < 0 || to > s->stages || from >= to || passes < 1)
        return dl_fail(e, DL_EFAIL, "%d passes over stages %d to %d of a network of %d stages", passes, from, to,
                       s->stages);
    pthread_mutex_lock(&s->lock);
    s->from = from, s->to = to, s->places = (int64_t)(to - from) * passes;
    s->err = (struct dl_err){0};
    take_place(s);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* Ends the use of the place entered last, if there is one. By the computing thread, under the lock. */
static int leave(struct dl_stream *s, struct dl_err *e)
{
    if (s->released == s->entered) return 0;
    int64_t place = s->released;
    int stage = stage_at(s, place), rc = 0;
    if (s->lanes) rc = s->be->lanes->leave(s->lanes, (int)(place % DL_STREAM_SLOTS), e);
    for (int64_t i = s->first[stage]; i < s->first[stage + 1]; i++) s->item[i].pack->data = NULL;
    s->released++;
    pthread_cond_broadcast(&s->changed);
    return rc;
}

void dl_stream_end(struct dl_stream *s)
{
    pthread_mutex_lock(&s->lock);
    struct dl_err e = {0};
    int64_t places = s->places;
    leave(s, &e); /* a device that fails here fails in the next op as well */
    s->places = 0;
    while (s->busy) pthread_cond_wait(&s->changed, &s->lock);
    /* What was filled for nothing may still be on its way: the next pass's copies into these slots, by whichever lane,
     * come after it. */
    for (int64_t p = s->entered; s->lanes && p < places && p <= s->filling && p < s->entered + DL_STREAM_SLOTS; p++) {
        int slot = (int)(p % DL_STREAM_SLOTS);
        if (s->be->lanes->enter(s->lanes, slot, &e) == 0) s->be->lanes->leave(s->lanes, slot, &e);
    }
    s->filling = s->next = s->left = s->read = s->entered = s->released = 0;
    pthread_mutex_unlock(&s->lock);
}

static void enter(struct dl_stream *s, struct dl_run *r, int stage)
{
    if (leave(s, &r->err) < 0) return;
    int64_t place = s->entered;
    if (place >= s->places || stage_at(s, place) != stage) {
        dl_fail(&r->err, DL_EFAIL, "stage %d of the streamed weights was not announced as number %lld", stage,
                (long long)place);
        return;
    }
    double t = now_ms();
    while (s->filling <= place && !s->err.code) pthread_cond_wait(&s->changed, &s->lock);
    s->stats.wait_ms += now_ms() - t;
    if (s->filling <= place) {
        dl_fail(&r->err, s->err.code, "%s", s->err.msg);
        return;
    }
    int slot = (int)(place % DL_STREAM_SLOTS);
    if (s->lanes && s->be->lanes->enter(s->lanes, slot, &r->err) < 0) return;
    for (int64_t i = s->first[stage]; i < s->first[stage + 1]; i++)
        s->item[i].pack->data = (uint8_t *)s->slot[slot] + s->item[i].at;
    s->entered++, s->stats.stages++;
}

void dl_stage(struct dl_run *r, int i)
{
    struct dl_stream *s = r->stream;
    if (r->at_stage && r->mode == DL_EAGER && dl_run_ok(r)) r->at_stage(r->stage_user, r, i);
    if (!s || dl_run_is_dry(r) || !dl_run_ok(r)) return;
    if (r->mode == DL_CAPTURE) {
        dl_fail(&r->err, DL_EFAIL, "stage %d: a program with streamed weights cannot be recorded", i);
        return;
    }
    pthread_mutex_lock(&s->lock);
    enter(s, r, i);
    pthread_mutex_unlock(&s->lock);
}

struct dl_stream_stats dl_stream_stats(struct dl_stream *s)
{
    pthread_mutex_lock(&s->lock);
    struct dl_stream_stats z = s->stats;
    pthread_mutex_unlock(&s->lock);
    return z;
}

void dl_stream_close(struct dl_stream *s)
{
    if (!s) return;
    dl_stream_end(s);
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->n_workers; i++) pthread_join(s->worker[i].thread, NULL);
    if (s->has_reader) pthread_join(s->reader, NULL);
    if (s->lanes) s->be->lanes->close(s->lanes);
    for (int i = 0; i < DL_STREAM_SLOTS; i++)
        if (s->slot[i]) s->be->free(s->ctx, s->slot[i]);
    free(s->item), free(s->first);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
