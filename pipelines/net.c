#include "pipelines/net.h"

int net_open(struct net *n, struct pipe *p, const char *part, struct dl_wset *set, net_binder *bind, void *user,
             struct dl_err *e)
{
    struct bind b;
    n->part = part;
    if (n->ready) return 0;
    if (!n->files && model_dir_weights(&p->dir, part, &n->files, e) < 0) return -1;
    if (bind_open(&b, n->files, set, e) < 0) return -1;
    b.report = p->report, b.user = p->report_user;
    int rc = bind(user, &b, e);
    if (bind_close(&b, e) < 0 || rc < 0) return -1;
    n->ready = true;
    return 0;
}

int net_tell(const struct net *n, int rc, net_listener *part, void *user)
{
    if (n->files) part(user, n->part, n->files);
    return rc;
}

void net_close(struct net *n)
{
    st_set_close(n->files);
    *n = (struct net){0};
}
