#include "engine/run.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void dl_run_open(struct dl_run *r, const struct dl_backend *be, struct dl_ctx *ctx, int type)
{
    *r = (struct dl_run){.be = be, .ctx = ctx, .t = (uint8_t)type};
    if (type == DL_E4M3) r->t = DL_BF16, r->e4m3 = true;
    dl_run_dry(r);
}

void dl_run_close(struct dl_run *r)
{
    free(r->log);
    r->log = NULL, r->n_log = r->cap_log = 0;
}

void dl_run_dry(struct dl_run *r)
{
    dl_arena_dry(&r->arena);
    r->mode = DL_DRY;
    r->account = (struct dl_account){0};
    r->n_log = 0;
}

void dl_run_bind(struct dl_run *r, void *base, int64_t bytes)
{
    dl_arena_bind(&r->arena, base, bytes);
    r->mode = DL_EAGER;
    r->account = (struct dl_account){0};
    r->n_log = 0;
}

/* Whether the recording, or the warm run, is of this program; if not, forgets it and takes the key over. */
static int same_program(struct dl_replay *p, const struct dl_run *r, const void *key, int64_t bytes, struct dl_err *e)
{
    if (p->key_bytes == bytes && p->key && !memcmp(p->key, key, (size_t)bytes)) return 0;
    dl_replay_close(p, r);
    p->key = malloc(bytes ? (size_t)bytes : 1);
    if (!p->key) return dl_fail(e, DL_ENOMEM, "no memory for a program's key");
    memcpy(p->key, key, (size_t)bytes);
    p->key_bytes = bytes;
    return 0;
}

static int record(struct dl_replay *p, struct dl_run *r, void (*program)(void *), void *user, struct dl_err *e)
{
    if (r->be->record_begin(r->ctx, e) < 0) return -1;
    r->mode = DL_CAPTURE;
    program(user);
    r->mode = DL_EAGER;
    if (dl_run_check(r, e) == 0) return r->be->record_end(r->ctx, &p->graph, e);
    r->be->record_end(r->ctx, NULL, NULL);
    return -1;
}

int dl_replay_run(struct dl_replay *p, struct dl_run *r, void *work, int64_t bytes, const void *key, int64_t key_bytes,
                  void (*program)(void *user), void *user, struct dl_err *e)
{
    bool can = r->be->record_begin && !r->tap && !r->log_on && !r->time_on && !r->stream;
    dl_run_bind(r, work, bytes);
    if (can) {
        if (same_program(p, r, key, key_bytes, e) < 0) return -1;
        if (p->warm && !p->graph && record(p, r, program, user, e) < 0) return -1;
        if (p->graph) return r->be->replay(r->ctx, p->graph, r->step, e);
        p->warm = true;
    }
    program(user);
    return dl_run_check(r, e);
}

void dl_replay_close(struct dl_replay *p, const struct dl_run *r)
{
    if (p->graph) r->be->graph_free(r->ctx, p->graph);
    free(p->key);
    *p = (struct dl_replay){0};
}

static int64_t room_for(const struct dl_pack *p) { return (p->bytes + DL_ALIGN - 1) & ~(int64_t)(DL_ALIGN - 1); }

static bool to_load(const struct dl_w *w, bool staged) { return staged || !w->stage; }

/* Memory for all that is missing, as one block: a device gives memory in pages of megabytes, of which a model's
 * thousands of weights would each leave the last one half empty. */
static int load(struct dl_run *r, struct dl_wset *s, bool staged, struct dl_err *e)
{
    int64_t bytes = 0;
    uint8_t *at;
    s->free_data = r->be->free, s->ctx = r->ctx;
    for (int64_t i = 0; i < s->n; i++)
        for (struct dl_pack *p = s->w[i]->packs; p && to_load(s->w[i], staged); p = p->next)
            if (!p->data) bytes += room_for(p);
    if (!bytes) return 0;
    struct dl_block *block = calloc(1, sizeof *block);
    if (!block) return dl_fail(e, DL_ENOMEM, "no memory for the list of weights");
    if (r->be->alloc(r->ctx, bytes, &block->data, e) < 0) {
        free(block);
        return dl_fail_in(e, "weights");
    }
    block->next = s->blocks, s->blocks = block, at = block->data;
    for (int64_t i = 0; i < s->n; i++) {
        bool any = false;
        for (struct dl_pack *p = s->w[i]->packs; p && to_load(s->w[i], staged); p = p->next) {
            if (p->data) continue;
            p->data = at, at += room_for(p);
            if (p->fill(p, s->w[i], p->arg, e) < 0) {
                p->data = NULL;
                return -1;
            }
            s->loaded_bytes += p->bytes;
            any = true;
        }
        if (any) dl_w_release_pages(s->w[i]);
    }
    return 0;
}

int dl_run_load(struct dl_run *r, struct dl_wset *s, struct dl_err *e) { return load(r, s, true, e); }

int dl_run_load_unstaged(struct dl_run *r, struct dl_wset *s, struct dl_err *e) { return load(r, s, false, e); }

int dl_run_check(struct dl_run *r, struct dl_err *e)
{
    if (r->arena.failed && dl_run_ok(r))
        dl_fail(&r->err, DL_ENOMEM, "arena of %lld bytes is too small for this run", (long long)r->arena.cap_bytes);
    if (dl_run_ok(r)) return 0;
    return dl_fail(e, r->err.code, "%s", r->err.msg);
}

void dl_tap(struct dl_run *r, dl_act a, const char *fmt, ...)
{
    if (!r->tap || r->mode != DL_EAGER || !dl_run_ok(r)) return;
    char name[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    r->tap(r->tap_user, r, name, a);
}
