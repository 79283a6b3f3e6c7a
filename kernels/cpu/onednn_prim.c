#define _GNU_SOURCE
#include "kernels/cpu/onednn_prim.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <stdlib.h>
#include <string.h>

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t md_own; /* to be destroyed */
typedef const_dnnl_memory_desc_t md_ref;
#define REF(md) (md)
#else
typedef dnnl_memory_desc_t md_own;
typedef const dnnl_memory_desc_t *md_ref;
#define REF(md) (&(md))
#endif

enum { X, W, Y, S, N_MEM };

typedef void set_threads_fn(int);

struct prim {
    struct prim *next;
    struct prim_key key;
    dnnl_primitive_t p; /* NULL: nothing fast */
    dnnl_primitive_desc_t pd;
    int64_t w_bytes, scratch_bytes;
    dnnl_memory_t *mem;     /* [workers][N_MEM] */
    dnnl_stream_t *streams; /* [workers], the state's */
    set_threads_fn *set;
};

struct state {
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* [workers] */
    set_threads_fn *set;
    int workers;
    struct prim *first;
};

/* oneDNN on OpenMP asks the calling thread how many threads to use: one_thread() says one. NULL where oneDNN is built
 * on something else. */
static set_threads_fn *find_set_threads(void)
{
    set_threads_fn *set;
    void *f = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&set, &f, sizeof set);
    return set;
}

static void one_thread(set_threads_fn *set)
{
    if (set) set(1);
}

static void md_free(md_own *md)
{
#if DNNL_VERSION_MAJOR >= 3
    if (*md) dnnl_memory_desc_destroy(*md);
    *md = NULL;
#else
    (void)md;
#endif
}

/* strides NULL: any layout. */
static int md_make(md_own *md, int nd, const int64_t *dim, dnnl_data_type_t t, const int64_t *strides)
{
    dnnl_dims_t d = {0}, s = {0};
    for (int i = 0; i < nd; i++) d[i] = dim[i], s[i] = strides ? strides[i] : 0;
#if DNNL_VERSION_MAJOR >= 3
    return strides ? (int)dnnl_memory_desc_create_with_strides(md, nd, d, t, s)
                   : (int)dnnl_memory_desc_create_with_tag(md, nd, d, t, dnnl_format_tag_any);
#else
    return strides ? (int)dnnl_memory_desc_init_by_strides(md, nd, d, t, s)
                   : (int)dnnl_memory_desc_init_by_tag(md, nd, d, t, dnnl_format_tag_any);
#endif
}

static int make_matmul(dnnl_primitive_desc_t *pd, dnnl_engine_t eng, dnnl_primitive_attr_t attr, md_ref x, md_ref w,
                       md_ref y)
{
#if DNNL_VERSION_MAJOR >= 3
    return (int)dnnl_matmul_primitive_desc_create(pd, eng, x, w, NULL, y, attr);
#else
    dnnl_matmul_desc_t d;
    int err = (int)dnnl_matmul_desc_init(&d, x, w, NULL, y);
    return err ? err : (int)dnnl_primitive_desc_create(pd, &d, attr, eng, NULL);
#endif
}

static int make_conv(dnnl_primitive_desc_t *pd, dnnl_engine_t eng, dnnl_primitive_attr_t attr, const struct prim_key *k,
                     md_ref x, md_ref w, md_ref y)
{
    int64_t side = k->taps == 9 ? 3 : 1, right = (k->ow - 1) * k->stride + side - k->iw - k->side;
    dnnl_dims_t stride = {k->stride, k->stride}, before = {k->top, k->side}, after = {k->bottom, right};
#if DNNL_VERSION_MAJOR >= 3
    dnnl_dims_t dilate = {0};
    return (int)dnnl_convolution_forward_primitive_desc_create(pd, eng, dnnl_forward_inference, dnnl_convolution_direct,
                                                               x, w, NULL, y, stride, dilate, before, after, attr);
#else
    dnnl_convolution_desc_t d;
    int err = (int)dnnl_convolution_forward_desc_init(&d, dnnl_forward_inference, dnnl_convolution_direct, x, w, NULL,
                                                      y, stride, before, after);
    return err ? err : (int)dnnl_primitive_desc_create(pd, &d, attr, eng, NULL);
#endif
}

static md_ref md_of(const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    return dnnl_primitive_desc_query_md(pd, what, 0);
}

/* The descriptor for a key; *pd stays NULL where oneDNN has none. */
static void make_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t eng, const struct prim_key *k, md_ref like)
{
    md_own x = {0}, w = {0}, y = {0};
    dnnl_primitive_attr_t attr = NULL;
    int err = (int)dnnl_primitive_attr_create(&attr);
    if (!err) err = (int)dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (k->taps) {
        int64_t side = k->taps == 9 ? 3 : 1, xd[4] = {1, k->k, k->ih, k->iw}, yd[4] = {1, k->n, k->oh, k->ow};
        int64_t xs[4] = {k->ih * k->iw * k->k, 1, k->iw * k->k, k->k},
                ys[4] = {k->oh * k->ow * k->n, 1, k->ow * k->n, k->n};
        int64_t wd[4] = {k->n, k->k, side, side};
        if (!err) err = md_make(&x, 4, xd, dnnl_bf16, xs);
        if (!err) err = md_make(&y, 4, yd, dnnl_f32, ys);
        if (!err && !like) err = md_make(&w, 4, wd, dnnl_bf16, NULL);
        if (!err) err = make_conv(pd, eng, attr, k, REF(x), like ? like : REF(w), REF(y));
    } else {
        int64_t xd[2] = {k->m, k->k}, wd[2] = {k->k, k->n}, yd[2] = {k->m, k->n}, xs[2] = {k->lda, 1},
                ys[2] = {k->n, 1};
        if (!err) err = md_make(&x, 2, xd, dnnl_bf16, xs);
        if (!err) err = md_make(&y, 2, yd, dnnl_f32, ys);
        int64_t ws[2] = {k->plain == 1 ? 1 : k->n, k->plain == 1 ? k->k : 1};
        if (!err && !like) err = md_make(&w, 2, wd, dnnl_bf16, k->plain ? ws : NULL);
        if (!err) err = make_matmul(pd, eng, attr, REF(x), like ? like : REF(w), REF(y));
    }
    if (err) *pd = NULL;
    md_free(&x), md_free(&w), md_free(&y);
    if (attr) dnnl_primitive_attr_destroy(attr);
}

/* By oneDNN's name of the implementation: "brg:avx512_core_bf16", "brgconv:avx512_core_amx", ... */
static bool is_fast(const_dnnl_primitive_desc_t pd)
{
    const char *name = NULL;
    if (dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name) != dnnl_success || !name) return false;
    return strstr(name, "_bf16") || strstr(name, "amx");
}

static void prim_free(struct prim *p, int workers)
{
    for (int i = 0; p->mem && i < workers * N_MEM; i++)
        if (p->mem[i]) dnnl_memory_destroy(p->mem[i]);
    free(p->mem);
    if (p->p) dnnl_primitive_destroy(p->p);
    if (p->pd) dnnl_primitive_desc_destroy(p->pd);
    free(p);
}

static void state_close(void *arg)
{
    struct state *st = arg;
    while (st->first) {
        struct prim *p = st->first;
        st->first = p->next;
        prim_free(p, st->workers);
    }
    for (int i = 0; st->streams && i < st->workers; i++)
        if (st->streams[i]) dnnl_stream_destroy(st->streams[i]);
    free(st->streams);
    if (st->engine) dnnl_engine_destroy(st->engine);
    free(st);
}

static struct state *state_of(struct dl_run *r)
{
    struct dl_ctx *c = r->ctx;
    if (c->onednn) return c->onednn;
    struct state *st = calloc(1, sizeof *st);
    if (!st) goto fail;
    st->workers = c->threads, st->set = find_set_threads();
    st->streams = calloc((size_t)st->workers, sizeof *st->streams);
    if (!st->streams || dnnl_engine_create(&st->engine, dnnl_cpu, 0) != dnnl_success) goto fail;
    for (int i = 0; i < st->workers; i++)
        if (dnnl_stream_create(&st->streams[i], st->engine, dnnl_stream_default_flags) != dnnl_success) goto fail;
    c->onednn = st, c->onednn_close = state_close;
    return st;
fail:
    if (st) state_close(st);
    dl_fail(&r->err, DL_ENOMEM, "no memory to start oneDNN");
    return NULL;
}

/* Primitive and memory objects of a descriptor that is fast. */
static int finish(struct state *st, struct prim *p)
{
    md_ref md[N_MEM] = {[X] = md_of(p->pd, dnnl_query_src_md),
                        [W] = md_of(p->pd, dnnl_query_weights_md),
                        [Y] = md_of(p->pd, dnnl_query_dst_md),
                        [S] = md_of(p->pd, dnnl_query_scratchpad_md)};
    p->w_bytes = (int64_t)dnnl_memory_desc_get_size(md[W]);
    p->scratch_bytes = (int64_t)dnnl_memory_desc_get_size(md[S]);
    p->streams = st->streams;
    p->mem = calloc((size_t)st->workers * N_MEM, sizeof *p->mem);
    if (!p->mem || dnnl_primitive_create(&p->p, p->pd) != dnnl_success) return -1;
    for (int i = 0; i < st->workers * N_MEM; i++)
        if (dnnl_memory_create(&p->mem[i], md[i % N_MEM], st->engine, DNNL_MEMORY_NONE) != dnnl_success) return -1;
    return 0;
}

const struct prim *prim_get(struct dl_run *r, const struct prim_key *key, const struct prim *like)
{
    struct state *st = state_of(r);
    if (!st) return NULL;
    for (struct prim *p = st->first; p; p = p->next)
        if (memcmp(&p->key, key, sizeof *key) == 0) return p->p ? p : NULL;
    if (!dl_run_is_dry(r)) return NULL;
    struct prim *p = calloc(1, sizeof *p);
    if (!p) goto fail;
    p->key = *key, p->set = st->set;
    one_thread(st->set);
    make_pd(&p->pd, st->engine, key, like ? md_of(like->pd, dnnl_query_weights_md) : NULL);
    if (p->pd && is_fast(p->pd) && finish(st, p) < 0) goto fail;
    p->next = st->first;
    st->first = p;
    return p->p ? p : NULL;
fail:
    if (p) prim_free(p, st->workers);
    dl_fail(&r->err, DL_ENOMEM, "no memory for a primitive of oneDNN");
    return NULL;
}

int64_t prim_w_bytes(const struct prim *p) { return p->w_bytes; }

int64_t prim_scratch_bytes(const struct prim *p) { return p->scratch_bytes; }

/* The layout in which oneDNN 2 and 3 want a matmul's bf16 weight: [k][n] in blocks [kb / 2][nb][2], kb terms of nb
 * columns, zero beyond the matrix; strides in elements from block to block. */
struct blocks {
    int64_t kb, nb, k_stride, n_stride, k_pad, n_pad;
};

static bool blocks_of(struct blocks *b, md_ref md)
{
    const int64_t *inner, *which, *strides, *padded;
#if DNNL_VERSION_MAJOR >= 3
    const dnnl_dims_t *v[4];
    dnnl_query_t what[4] = {dnnl_query_inner_blks, dnnl_query_inner_idxs, dnnl_query_strides, dnnl_query_padded_dims};
    dnnl_format_kind_t kind;
    int nd, n;
    if (dnnl_memory_desc_query(md, dnnl_query_format_kind, &kind) != dnnl_success || kind != dnnl_blocked ||
        dnnl_memory_desc_query(md, dnnl_query_ndims_s32, &nd) != dnnl_success || nd != 2 ||
        dnnl_memory_desc_query(md, dnnl_query_inner_nblks_s32, &n) != dnnl_success || n != 3)
        return false;
    for (int i = 0; i < 4; i++)
        if (dnnl_memory_desc_query(md, what[i], &v[i]) != dnnl_success) return false;
    inner = *v[0], which = *v[1], strides = *v[2], padded = *v[3];
#else
    const dnnl_blocking_desc_t *d = &md->format_desc.blocking;
    if (md->format_kind != dnnl_blocked || md->ndims != 2 || d->inner_nblks != 3 || md->offset0 || md->extra.flags)
        return false;
    inner = d->inner_blks, which = d->inner_idxs, strides = d->strides, padded = md->padded_dims;
#endif
    if (which[0] != 0 || which[1] != 1 || which[2] != 0 || inner[2] != 2) return false;
    *b = (struct blocks){inner[0] * 2, inner[1], strides[0], strides[1], padded[0], padded[1]};
    return true;
}

/* oneDNN's own reorder, several times as fast: w [n][k] of pitch ldw, n columns of k terms. */
static void pack_blocks(const struct blocks *b, const uint16_t *w, int64_t n, int64_t k, int64_t ldw, uint16_t *to)
{
    enum { LINES = 4 }; /* blocks that are read along a row while it is at hand */
    for (int64_t n0 = 0; n0 < b->n_pad; n0 += b->nb)
        for (int64_t k0 = 0; k0 < b->k_pad; k0 += LINES * b->kb)
            for (int64_t c = 0; c < b->nb; c++)
                for (int64_t kk = k0; kk < b->k_pad && kk < k0 + LINES * b->kb; kk += b->kb) {
                    uint16_t *d = to + kk / b->kb * b->k_stride + n0 / b->nb * b->n_stride + 2 * c;
                    const uint16_t *from = w + (n0 + c) * ldw + kk;
                    bool whole = n0 + c < n && kk + b->kb <= k;
                    for (int64_t i = 0; i < b->kb && whole; i += 2) memcpy(d + i * b->nb, from + i, 4);
                    for (int64_t i = 0; i < b->kb && !whole; i++)
                        d[(i & ~(int64_t)1) * b->nb + (i & 1)] = n0 + c < n && kk + i < k ? from[i] : 0;
                }
}

int prim_pack(const struct prim *p, const uint16_t *w, int64_t ldw, void *packed, struct dl_err *e)
{
    const struct prim_key *k = &p->key;
    struct blocks blocks;
    if (!k->taps && blocks_of(&blocks, md_of(p->pd, dnnl_query_weights_md))) {
        pack_blocks(&blocks, w, k->n, k->k, ldw, packed);
        return 0;
    }
    int64_t side = k->taps == 9 ? 3 : 1, cd[4] = {k->n, k->k, side, side}, cs[4] = {k->k * k->taps, k->taps, side, 1};
    int64_t md[2] = {k->k, k->n}, ms[2] = {1, ldw};
    md_own from = {0};
    dnnl_engine_t eng = NULL;
    dnnl_stream_t stream = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_memory_t a = NULL, b = NULL;
    md_ref to = md_of(p->pd, dnnl_query_weights_md);
    one_thread(p->set);
    int err = k->taps ? md_make(&from, 4, cd, dnnl_bf16, cs) : md_make(&from, 2, md, dnnl_bf16, ms);
    if (!err) err = (int)dnnl_primitive_desc_query(p->pd, dnnl_query_engine, 0, &eng);
    if (!err) err = (int)dnnl_stream_create(&stream, eng, dnnl_stream_default_flags);
    if (!err) err = (int)dnnl_reorder_primitive_desc_create(&pd, REF(from), eng, to, eng, NULL);
    if (!err) err = (int)dnnl_primitive_create(&reorder, pd);
    void *src = NULL;
    memcpy(&src, &w, sizeof src); /* oneDNN takes it without const, and only reads */
    if (!err) err = (int)dnnl_memory_create(&a, REF(from), eng, src);
    if (!err) err = (int)dnnl_memory_create(&b, to, eng, packed);
    if (!err) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, a}, {DNNL_ARG_TO, b}};
        err = (int)dnnl_primitive_execute(reorder, stream, 2, args);
        if (!err) err = (int)dnnl_stream_wait(stream);
    }
    if (b) dnnl_memory_destroy(b);
    if (a) dnnl_memory_destroy(a);
    if (reorder) dnnl_primitive_destroy(reorder);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (stream) dnnl_stream_destroy(stream);
    md_free(&from);
    return err ? dl_fail(e, DL_EFAIL, "oneDNN cannot reorder a weight (status %d)", err) : 0;
}

int prim_run(const struct prim *p, int worker, const void *x, const void *w, float *y, void *scratch)
{
    dnnl_memory_t *mem = p->mem + worker * N_MEM;
    void *at[N_MEM] = {[Y] = y, [S] = scratch};
    memcpy(&at[X], &x, sizeof x);
    memcpy(&at[W], &w, sizeof w);
    one_thread(p->set);
    for (int i = 0; i < N_MEM; i++)
        if (dnnl_memory_set_data_handle(mem[i], at[i]) != dnnl_success) return -1;
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, mem[X]}, {DNNL_ARG_WEIGHTS, mem[W]}, {DNNL_ARG_DST, mem[Y]}, {DNNL_ARG_SCRATCHPAD, mem[S]}};
    dnnl_stream_t stream = p->streams[worker];
    if (dnnl_primitive_execute(p->p, stream, 4, args) != dnnl_success) return -1;
    return dnnl_stream_wait(stream) == dnnl_success ? 0 : -1;
}

bool prim_has_bf16(void)
{
    struct prim_key key = {.m = 256, .n = 320, .k = 320, .lda = 320};
    dnnl_engine_t eng = NULL;
    dnnl_primitive_desc_t pd = NULL;
    if (dnnl_engine_create(&eng, dnnl_cpu, 0) != dnnl_success) return false;
    make_pd(&pd, eng, &key, NULL);
    bool fast = pd && is_fast(pd);
    if (pd) dnnl_primitive_desc_destroy(pd);
    dnnl_engine_destroy(eng);
    return fast;
}
