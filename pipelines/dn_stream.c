#include "pipelines/dn_stream.h"

/* A backend that computes in the host's memory takes larger weights than this from the page cache, which gives its
 * pages back when they are wanted, in less time than it computes. */
static const int64_t host_bytes = (int64_t)2 << 30;

bool dn_can_stream(struct pipe *p) { return dl_stream_sizes(p->dn->net->weights(p)).stages > 0; }

void dn_plan_weights(struct pipe *p, int64_t room)
{
    struct dn *d = p->dn;
    const struct dl_wset *set = d->net->weights(p);
    const struct dl_stream_sizes z = dl_stream_sizes(set);
    const enum pipe_resident how = d->gen.resident;
    int64_t prep = d->net->prep ? dl_stream_sizes(d->net->prep(p)).streamed_bytes : 0;
    bool better = z.resident_bytes + prep > room || (!p->be->lanes && z.resident_bytes > host_bytes);
    d->plan.streamed = z.stages && (how == PIPE_RESIDENT_STREAM || (how == PIPE_RESIDENT_AUTO && better));
    d->plan.denoiser_bytes = prep + (d->plan.streamed ? z.streamed_bytes : set->pack_bytes);
}

int dn_load_weights(struct pipe *p, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dl_wset *set = d->net->weights(p);
    if (!d->plan.streamed) return dl_run_load(&d->run, set, e);
    if (d->stream && d->stream_bytes == set->pack_bytes) return 0;
    dl_stream_close(d->stream); /* it does not know the new forms */
    d->stream_bytes = set->pack_bytes;
    return dl_stream_open(&d->stream, &d->run, set, 0, e);
}

int dn_steps_begin(struct pipe *p, struct dl_err *e)
{
    struct dn *d = p->dn;
    if (!d->stream) return 0;
    d->run.stream = d->stream;
    return dl_stream_begin(d->stream, 0, dl_stream_sizes(d->net->weights(p)).stages, d->table->n, e);
}

void dn_steps_end(struct pipe *p)
{
    struct dn *d = p->dn;
    if (d->stream) dl_stream_end(d->stream);
    d->run.stream = NULL;
}

int dn_prep_begin(struct pipe *p, struct dl_err *e)
{
    struct dn *d = p->dn;
    struct dl_wset *set = d->net->prep(p);
    if (dl_stream_open(&d->prep_stream, &d->run, set, 0, e) < 0) return -1;
    d->run.stream = d->prep_stream;
    return dl_stream_begin(d->prep_stream, 0, dl_stream_sizes(set).stages, 1, e);
}

void dn_prep_end(struct pipe *p)
{
    struct dn *d = p->dn;
    if (!d->net->prep) return;
    dl_stream_close(d->prep_stream);
    d->prep_stream = d->run.stream = NULL;
    dl_wset_forget(d->net->prep(p));
}
