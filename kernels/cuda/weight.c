/* The forms of weights that the CUDA backend uses. */
#include "engine/e4m3.h"
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/kernels.h"

#include <stdlib.h>

/* Keys of packs: form << 8 | type that values are rounded to first. No number is one of the CPU backend's. */
enum form { FORM_PLAIN = 0x101, FORM_WIDE, FORM_OHWI, FORM_E4M3 };

/* Whether the device can make the values itself; a weight with some parts in files goes through the host. */
static bool all_made_up(const struct dl_w *w)
{
    for (int i = 0; i < w->n_parts; i++)
        if (!w->part[i].made_up) return false;
    return w->n_parts > 0;
}

/* Every form of made-up values, by kernels: nothing passes through the host. */
static int make(struct dl_ctx *c, struct dl_pack *p, const struct dl_w *w, enum form form, int t, struct dl_err *e)
{
    struct CUstream_st *stream = cuda_stream_of(c, p->lane);
    uint8_t *y = p->data, *scale = y + dl_w_count(w);
    int rc = 0;
    for (int i = 0; i < w->n_parts && rc == 0; i++) {
        const struct dl_wpart *part = &w->part[i];
        struct cuda_made_args a = {.made = part->made, .count = dl_wpart_count(w, i), .stored = part->t, .t = t};
        a.y = y, a.y_t = form == FORM_WIDE ? DL_F32 : t;
        if (form == FORM_OHWI) a.in = (int32_t)w->dim[1], a.taps = (int32_t)(w->dim[2] * w->dim[3]);
        struct cuda_made_e4m3_args q = {.made = part->made, .rows = part->rows, .stored = part->t, .q = y};
        q.in = (int32_t)w->dim[1], q.scale = (float *)(void *)scale;
        rc = form == FORM_E4M3 ? cuda_made_e4m3(stream, &q) : cuda_made(stream, &a);
        y += a.count * (form == FORM_E4M3 ? 1 : dl_type_bytes(a.y_t)), scale += part->rows * 4;
    }
    if (rc == CUDA_K_UNSUPPORTED)
        return dl_fail(e, DL_EFAIL, "weight %s: no CUDA kernel makes values up for this shape", w->name);
    return rc ? cuda_fail(e, (cudaError_t)rc, "making up weight %s", w->name) : 0;
}

/* Uploads the parts as they lie in the file, or converted to t in pieces. */
static int upload_parts(struct dl_ctx *c, struct dl_lane *by, uint8_t *dst, const struct dl_w *w, int t,
                        struct dl_err *e)
{
    enum { PIECE = 1 << 20 };
    uint8_t *tmp = NULL;
    int rc = 0;
    for (int i = 0; i < w->n_parts && rc == 0; i++) {
        const struct dl_wpart *p = &w->part[i];
        bool as_is = p->file && p->t == t;
        int64_t count = dl_wpart_count(w, i), piece = as_is ? count : PIECE;
        if (!as_is && !tmp && !(tmp = malloc((size_t)PIECE * 4)))
            rc = dl_fail(e, DL_ENOMEM, "no memory to convert weight %s", w->name);
        for (int64_t at = 0; at < count && rc == 0; at += piece) {
            int64_t n = count - at < piece ? count - at : piece, bytes = n * dl_type_bytes(t);
            if (!as_is) dl_wpart_read(p, at, n, tmp, t);
            rc = cuda_upload_by(c, by, dst, as_is ? p->file : tmp, bytes, e);
            dst += bytes;
        }
    }
    free(tmp);
    return rc;
}

/* Quantised by some rows at a time; the scales follow the values. */
static int upload_e4m3(struct dl_ctx *c, struct dl_lane *by, uint8_t *dst, const struct dl_w *w, struct dl_err *e)
{
    int64_t in = w->dim[1], out = w->dim[0], piece = (1 << 20) / in + 1, done = 0;
    float *row = malloc((size_t)in * 4), *scale = malloc((size_t)out * 4);
    uint8_t *q = malloc((size_t)(piece * in));
    int rc = row && scale && q ? 0 : dl_fail(e, DL_ENOMEM, "no memory to quantise weight %s", w->name);
    for (int i = 0; i < w->n_parts && rc == 0; i++) {
        const struct dl_wpart *p = &w->part[i];
        for (int64_t at = 0; at < p->rows && rc == 0; at += piece) {
            int64_t n = p->rows - at < piece ? p->rows - at : piece;
            for (int64_t r = 0; r < n; r++) {
                dl_wpart_read(p, (at + r) * in, in, row, DL_F32);
                scale[done + r] = dl_e4m3_row(q + r * in, row, in);
            }
            rc = cuda_upload_by(c, by, dst + done * in, q, n * in, e);
            done += n;
        }
    }
    if (rc == 0) rc = cuda_upload_by(c, by, dst + out * in, scale, out * 4, e);
    free(row), free(scale), free(q);
    return rc;
}

/* [out][in][taps] as [out][taps][in]. */
#define TAPS_FIRST(name, T)                                                                                            \
    static void name(T *to, const T *from, int64_t out, int64_t in, int64_t taps)                                      \
    {                                                                                                                  \
        for (int64_t o = 0; o < out; o++, to += in * taps, from += in * taps)                                          \
            for (int64_t k = 0; k < taps; k++)                                                                         \
                for (int64_t i = 0; i < in; i++) to[k * in + i] = from[i * taps + k];                                  \
    }
TAPS_FIRST(taps_first_2, uint16_t)
TAPS_FIRST(taps_first_4, uint32_t)

static int fill(struct dl_pack *p, const struct dl_w *w, void *arg, struct dl_err *e)
{
    struct dl_ctx *c = arg;
    int form = (int)(p->key >> 8), t = (int)(p->key & 0xff);
    if (dl_w_need_values(w, e) < 0) return -1;
    if (all_made_up(w)) return make(c, p, w, (enum form)form, t, e);
    if (form == FORM_E4M3) return upload_e4m3(c, p->lane, p->data, w, e);
    if (form == FORM_PLAIN) return upload_parts(c, p->lane, p->data, w, t, e);

    int64_t count = dl_w_count(w), in = w->nd > 1 ? w->dim[1] : 1, taps = w->nd == 4 ? w->dim[2] * w->dim[3] : 1;
    void *a = malloc((size_t)count * 4), *b = malloc((size_t)count * 4);
    int rc = -1;
    if (!a || !b) {
        dl_fail(e, DL_ENOMEM, "no memory to convert weight %s", w->name);
        goto end;
    }
    dl_w_read(w, a, t);
    if (form == FORM_WIDE) dl_convert(b, DL_F32, a, t, count);
    if (form == FORM_OHWI && t == DL_F32) taps_first_4(b, a, w->dim[0], in, taps);
    if (form == FORM_OHWI && t != DL_F32) taps_first_2(b, a, w->dim[0], in, taps);
    rc = cuda_upload_by(c, p->lane, p->data, b, p->bytes, e);
end:
    free(a);
    free(b);
    return rc;
}

static const void *get(struct dl_run *r, struct dl_w *w, enum form form, int t, int64_t bytes)
{
    uint64_t key = (uint64_t)form << 8 | (uint64_t)t;
    struct dl_pack *p = dl_w_pack(w, key);
    if (dl_run_is_dry(r)) {
        if (!p && !dl_w_want(w, key, bytes, fill, r->ctx, NULL))
            dl_fail(&r->err, DL_ENOMEM, "no memory for the forms of weight %s", w->name);
        return NULL;
    }
    if (p && p->data) return p->data;
    dl_fail(&r->err, DL_EFAIL, "weight %s: its form for %s was not asked for in a dry run, or not loaded", w->name,
            dl_type_name(t));
    return NULL;
}

const void *cuda_w_plain(struct dl_run *r, struct dl_w *w, int t)
{
    return get(r, w, FORM_PLAIN, t, dl_w_count(w) * dl_type_bytes(t));
}

const float *cuda_w_wide(struct dl_run *r, struct dl_w *w, int t)
{
    if (!w) return NULL;
    return t == DL_F32 ? cuda_w_plain(r, w, t) : get(r, w, FORM_WIDE, t, dl_w_count(w) * 4);
}

const void *cuda_w_ohwi(struct dl_run *r, struct dl_w *w, int t)
{
    if (w->nd < 4 || w->dim[2] * w->dim[3] == 1) return cuda_w_plain(r, w, t);
    return get(r, w, FORM_OHWI, t, dl_w_count(w) * dl_type_bytes(t));
}

const uint8_t *cuda_w_e4m3(struct dl_run *r, struct dl_w *w)
{
    return get(r, w, FORM_E4M3, DL_E4M3, dl_w_count(w) + w->dim[0] * 4);
}
