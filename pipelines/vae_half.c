#include "pipelines/vae.h"

#include <stdlib.h>

/* A power of two, so that scaled f32 values are exact. */
static const float shrink_to = 1.0f / 32;

/* Weights that vae_shrink made, in a list. */
struct vae_own {
    struct vae_own *next;
    float value[];
};

static int scale(struct vae *v, struct dl_w *w, struct dl_err *e)
{
    if (!w->n_parts || !dl_w_has_values(w)) return 0;
    int64_t n = dl_w_count(w);
    struct vae_own *o = malloc(sizeof *o + (size_t)n * sizeof o->value[0]);
    if (!o) return dl_fail(e, DL_ENOMEM, "no memory for %s of a decoder in f16", w->name);
    o->next = v->owns;
    v->owns = o;
    dl_w_read(w, o->value, DL_F32);
    dl_w_release_pages(w);
    for (int64_t i = 0; i < n; i++) o->value[i] *= v->scale;
    w->n_parts = 1;
    w->part[0] = (struct dl_wpart){.file = o->value, .rows = w->dim[0], .t = DL_F32};
    return 0;
}

/* Both sums of a block: the one inside, and the one that is added to the stream. The shortcut's input is scaled
 * already, its bias is not. */
static int scale_resnet(struct vae *v, struct vae_resnet *n, struct dl_err *e)
{
    struct dl_w *w[] = {&n->conv1, &n->conv1_b, &n->conv2, &n->conv2_b, &n->shortcut_b};
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        if (scale(v, w[i], e) < 0) return -1;
    return 0;
}

int vae_shrink(struct vae *v, struct dl_err *e)
{
    struct dl_w *w[] = {&v->conv_in, &v->conv_in_b, &v->attn_out, &v->attn_out_b};
    if (v->scale != 1) return 0;
    v->scale = shrink_to;
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        if (scale(v, w[i], e) < 0) return -1;
    for (int i = 0; i < 2; i++)
        if (scale_resnet(v, &v->mid[i], e) < 0) return -1;
    for (int i = 0; i < v->cfg.levels; i++) {
        for (int j = 0; j <= v->cfg.layers; j++)
            if (scale_resnet(v, &v->up[i][j], e) < 0) return -1;
        if (i + 1 < v->cfg.levels && scale(v, &v->sample_b[i], e) < 0) return -1;
    }
    return 0;
}

void vae_close(struct vae *v)
{
    dl_wset_close(&v->weights);
    for (struct vae_own *o = v->owns, *next; o; o = next) next = o->next, free(o);
    *v = (struct vae){0};
}
