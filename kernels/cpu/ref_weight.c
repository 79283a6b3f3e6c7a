/* The forms of weights that the reference and other plain C code of the CPU backend use. */
#include "engine/e4m3.h"
#include "kernels/cpu/cpu_priv.h"

#include <stdlib.h>

static int type_of(const struct dl_pack *p) { return (int)(p->key & 0xff); }

static void round_to(float *v, int t, int64_t n)
{
    if (t == DL_F32) return;
    for (int64_t i = 0; i < n; i++) v[i] = t == DL_BF16 ? dl_bf16_to(dl_bf16_of(v[i])) : dl_f16_to(dl_f16_of(v[i]));
}

static int fill_plain(struct dl_pack *p, const struct dl_w *w, void *arg, struct dl_err *e)
{
    (void)arg;
    if (dl_w_need_values(w, e) < 0) return -1;
    dl_w_read(w, p->data, type_of(p));
    return 0;
}

static int fill_wide(struct dl_pack *p, const struct dl_w *w, void *arg, struct dl_err *e)
{
    (void)arg;
    if (dl_w_need_values(w, e) < 0) return -1;
    dl_w_read(w, p->data, DL_F32);
    round_to(p->data, type_of(p), dl_w_count(w));
    return 0;
}

static int fill_ohwi(struct dl_pack *p, const struct dl_w *w, void *arg, struct dl_err *e)
{
    (void)arg;
    if (dl_w_need_values(w, e) < 0) return -1;
    int64_t count = dl_w_count(w), in = w->dim[1], taps = w->nd == 4 ? w->dim[2] * w->dim[3] : 1;
    float *all = malloc((size_t)count * sizeof *all), *d = p->data;
    if (!all) return dl_fail(e, DL_ENOMEM, "no memory to reorder weight %s", w->name);
    dl_w_read(w, all, DL_F32);
    round_to(all, type_of(p), count);
    for (int64_t o = 0; o < w->dim[0]; o++)
        for (int64_t k = 0; k < taps; k++)
            for (int64_t c = 0; c < in; c++) d[(o * taps + k) * in + c] = all[(o * in + c) * taps + k];
    free(all);
    return 0;
}

static int fill_e4m3(struct dl_pack *p, const struct dl_w *w, void *arg, struct dl_err *e)
{
    (void)arg;
    if (dl_w_need_values(w, e) < 0) return -1;
    int64_t in = w->dim[1];
    float *v = p->data, *scale = v + w->dim[0] * in;
    dl_w_read(w, v, DL_F32);
    for (int64_t o = 0; o < w->dim[0]; o++) scale[o] = dl_e4m3_round(v + o * in, in);
    return 0;
}

static const void *get(struct dl_run *r, struct dl_w *w, uint64_t key, int64_t bytes,
                       int (*fill)(struct dl_pack *, const struct dl_w *, void *, struct dl_err *))
{
    struct dl_pack *p = dl_w_pack(w, key);
    if (dl_run_is_dry(r)) {
        if (!p && !dl_w_want(w, key, bytes, fill, NULL, NULL))
            dl_fail(&r->err, DL_ENOMEM, "no memory for the forms of weight %s", w->name);
        return NULL;
    }
    if (p && p->data) return p->data;
    dl_fail(&r->err, DL_EFAIL, "weight %s: its form for %s was not asked for in a dry run, or not loaded", w->name,
            dl_type_name((int)(key & 0xff)));
    return NULL;
}

const void *cpu_w_plain(struct dl_run *r, struct dl_w *w, int t)
{
    return get(r, w, CPU_FORM(CPU_FORM_PLAIN, t), dl_w_count(w) * dl_type_bytes(t), fill_plain);
}

const float *cpu_w_wide(struct dl_run *r, struct dl_w *w, int t)
{
    if (t == DL_F32) return cpu_w_plain(r, w, t);
    return get(r, w, CPU_FORM(CPU_FORM_WIDE, t), dl_w_count(w) * 4, fill_wide);
}

const float *cpu_w_ohwi(struct dl_run *r, struct dl_w *w, int t)
{
    if (w->nd < 4 || w->dim[2] * w->dim[3] == 1) return cpu_w_wide(r, w, t);
    return get(r, w, CPU_FORM(CPU_FORM_WIDE_OHWI, t), dl_w_count(w) * 4, fill_ohwi);
}

const float *cpu_w_e4m3(struct dl_run *r, struct dl_w *w)
{
    return get(r, w, CPU_FORM(CPU_FORM_E4M3, DL_E4M3), (dl_w_count(w) + w->dim[0]) * 4, fill_e4m3);
}
