/* net.h: a network of a product model: its files, mapped once, and whether its weights are bound. */
#ifndef DL_NET_H
#define DL_NET_H

#include "pipelines/pipe.h"

#include <stdlib.h>

struct net {
    const char *part; /* component, "unet" */
    struct st_set *files;
    bool ready; /* bound */
};

/* Binds a network's tensors; `user` is the network. */
typedef int net_binder(void *user, struct bind *b, struct dl_err *e);

/* Maps the files of component `part` and binds its weights into `set`; idempotent. Faults go to p->report. After a
 * failure n->files tells whether the files could be opened. */
int net_open(struct net *n, struct pipe *p, const char *part, struct dl_wset *set, net_binder *bind, void *user,
             struct dl_err *e);
/* For a class's check, after net_open gave rc: tells the listener of the network if its files could be opened. Returns
 * rc. */
typedef void net_listener(void *user, const char *part, const struct st_set *files);
int net_tell(const struct net *n, int rc, net_listener *part, void *user);
/* Unmaps; the network's weights must be closed before. */
void net_close(struct net *n);

/* Reads a component's config file with reader(cfg, path, e): 0 or -1. */
#define NET_CONFIG(p, part, file, reader, cfg, e)                                                                      \
    ({                                                                                                                 \
        char *path_ = model_dir_file(&(p)->dir, part, file, e);                                                        \
        int rc_ = path_ ? reader(cfg, path_, e) : -1;                                                                  \
        free(path_);                                                                                                   \
        rc_;                                                                                                           \
    })

#endif
