/* Weight panels and epilogues of the fast kernels. */
#include "kernels/cpu/fast.h"

#include <stdlib.h>
#include <string.h>

/* What a pack's key says beside the type: panel width and halves. */
static uint64_t key_of(int nr, int halves, int t)
{
    return CPU_FORM(CPU_FORM_PANELS + (nr == SIMD_NR_MAX) * 2 + (halves - 1), t);
}

/* Rows [from, from + n) of the first dimension as f32 rounded to t, at pitch ld. */
static void read_rows(const struct dl_w *w, int t, int64_t from, int64_t n, float *dst, int64_t ld)
{
    int64_t size = dl_w_count(w) / w->dim[0], first = 0;
    for (int i = 0; i < w->n_parts && n > 0; first += w->part[i].rows, i++) {
        const struct dl_wpart *p = &w->part[i];
        if (from >= first + p->rows) continue;
        int64_t rows = first + p->rows - from < n ? first + p->rows - from : n;
        for (int64_t r = 0; r < rows; r++, dst += ld) {
            dl_wpart_read(p, (from - first + r) * size, size, dst, DL_F32);
            for (int64_t j = 0; j < size && t == DL_BF16 && p->t != t; j++) dst[j] = dl_bf16_to(dl_bf16_of(dst[j]));
            for (int64_t j = 0; j < size && t == DL_F16 && p->t != t; j++) dst[j] = dl_f16_to(dl_f16_of(dst[j]));
        }
        from += rows, n -= rows;
    }
}

static int fill_panels(struct dl_pack *p, const struct dl_w *w, void *arg, struct dl_err *e)
{
    (void)arg;
    enum { BLOCK = 16 }; /* channels at a time, so that what is read strided stays in the first-level cache */
    int t = (int)(p->key & 0xff), form = (int)(p->key >> 8) - CPU_FORM_PANELS;
    int64_t nr = form & 2 ? SIMD_NR_MAX : SIMD_NR_MAX / 2, halves = (form & 1) + 1;
    int64_t in = w->dim[1], taps = w->nd == 4 ? w->dim[2] * w->dim[3] : 1, out = w->dim[0] / halves;
    int64_t panels = (out + nr - 1) / nr, size = taps * in;
    int64_t ld = size + BLOCK; /* keeps the rows of a panel in different sets of the cache */
    if (dl_w_need_values(w, e) < 0) return -1;
    float *rows = malloc((size_t)(nr * ld) * sizeof *rows), *d = p->data;
    if (!rows) return dl_fail(e, DL_ENOMEM, "no memory to reorder weight %s", w->name);
    for (int64_t q = 0; q < halves * panels; q++, d += size * nr) {
        int64_t first = q % panels * nr, n = out - first < nr ? out - first : nr;
        read_rows(w, t, q / panels * out + first, n, rows, ld);
        memset(rows + n * ld, 0, (size_t)((nr - n) * ld) * sizeof *rows);
        for (int64_t c0 = 0; c0 < in; c0 += BLOCK)
            for (int64_t k = 0; k < taps; k++)
                for (int64_t c = c0; c < in && c < c0 + BLOCK; c++)
                    for (int64_t j = 0; j < nr; j++) d[(k * in + c) * nr + j] = rows[j * ld + c * taps + k];
    }
    free(rows);
    return 0;
}

const float *fast_w_panels(struct dl_run *r, struct dl_w *w, int t, const struct simd *s, int halves)
{
    uint64_t key = key_of(s->nr, halves, t);
    struct dl_pack *p = dl_w_pack(w, key);
    if (!p && dl_run_is_dry(r)) {
        int64_t taps = w->nd == 4 ? w->dim[2] * w->dim[3] : 1;
        int64_t panels = (w->dim[0] / halves + s->nr - 1) / s->nr;
        p = dl_w_want(w, key, halves * panels * s->nr * taps * w->dim[1] * 4, fill_panels, NULL, NULL);
        if (!p) dl_fail(&r->err, DL_ENOMEM, "no memory for a form of weight %s", w->name);
        return NULL;
    }
    if (dl_run_is_dry(r)) return NULL;
    if (!p || !p->data) {
        dl_fail(&r->err, DL_EFAIL, "weight %s: its form was not asked for in a dry run, or not loaded", w->name);
        return NULL;
    }
    return p->data;
}

bool fast_epi_open(struct fast_epi *o, struct dl_run *r, const struct dl_epi *e, const dl_act *y, int t)
{
    *o = (struct fast_epi){.r = r, .e = e, .y = y};
    if (e->bias) o->bias = cpu_w_wide(r, e->bias, t);
    return dl_run_ok(r);
}

void fast_epi_line(const struct fast_epi *o, const struct simd *s, int64_t i, int64_t pix, int64_t from, int64_t n,
                   const float *c, const float *c2, int64_t cs)
{
    const struct dl_epi *e = o->e;
    const dl_act *y = o->y;
    struct simd_line l = {.c = c, .c2 = c2, .cs = cs, .n = n, .fn = e->fn, .scale = e->scale};
    if (o->bias) l.bias = o->bias + from;
    if (o->bias && c2) l.bias2 = o->bias + y->c + from;
    l.y = (uint8_t *)cpu_at(y, i, pix) + from * dl_type_bytes(y->t), l.y_t = y->t;
    if (e->add.p)
        l.add = (const uint8_t *)cpu_vec_at(o->r, e->add, i) + from * dl_type_bytes(e->add.t), l.add_t = e->add.t;
    if (e->gate.p)
        l.gate = (const uint8_t *)cpu_vec_at(o->r, e->gate, i) + from * dl_type_bytes(e->gate.t), l.gate_t = e->gate.t;
    if (e->res.p) l.res = (const uint8_t *)cpu_at(&e->res, i, pix) + from * dl_type_bytes(e->res.t), l.res_t = e->res.t;
    s->line(&l);
}
