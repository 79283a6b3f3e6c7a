#include "pipelines/unet_skip.h"

dl_act unet_skip_push(struct unet_skips *s, int n, int h, int w, int c)
{
    struct unet_skip *k = &s->skip[s->n];
    int both = s->up_in[s->n_ups - 1 - s->n]; /* the last skip is read first */
    s->n++;
    k->before = dl_arena_mark(&s->r->arena);
    k->both = dl_parts_lo(s->r, dl_act_lo(s->r, s->r->t, n, h, w, both));
    k->part = dl_act_cols(k->both, both - c, c);
    return k->part;
}

struct unet_skip unet_skip_pop(struct unet_skips *s) { return s->skip[--s->n]; }

dl_act unet_skip_head(const struct unet_skips *s)
{
    const struct unet_skip *k = &s->skip[s->n - 1];
    return dl_act_cols(k->both, 0, k->both.c - k->part.c);
}
