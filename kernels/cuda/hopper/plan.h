/* plan.h: what the Hopper attention's launches need, decided by pure host code (C++): which shapes it serves, which of
 * them it takes by itself, the tensor maps, sizes. conv_plan.h beside it is the convolution's. Tested without a GPU in
 * tests/simt/test_hopper.cpp.
 */
#ifndef DL_HOPPER_PLAN_H
#define DL_HOPPER_PLAN_H

#include "kernels/cuda/dev/convert.cuh"
#include "kernels/cuda/hopper/layout.h"
#include "kernels/cuda/kernels.h"

/* A tensor map, as cuTensorMapEncodeTiled takes it: rank 4, elements of 16 bits or e4m3, 128-byte swizzle, zeros
 * outside. Dimensions from the innermost. */
struct hop_map {
    void *base;
    uint64_t dim[4];
    uint64_t stride[3]; /* bytes, of dimensions 1..3 */
    uint32_t box[4];    /* elements of a copy */
    uint8_t t;          /* enum dl_type */
};

enum {
    HOP_GROUPS = 2,           /* warpgroups that compute, 64 queries each */
    HOP_BM = 64 * HOP_GROUPS, /* queries of a block's tile */
    HOP_THREADS = 128 * (HOP_GROUPS + 1),
    HOP_SMEM_MOST = 227 << 10, /* a block's on compute capability 9.0 */
    HOP_BARRIERS = 256,        /* bytes for mbarriers, behind the tiles */
    HOP_PAYS = 256             /* tokens from which on it is chosen; to be settled by measurement */
};

/* A configuration: head dim, keys of a tile, stages. */
struct hop_shape {
    int d, bn, stages;
};

/* Panels of a tile; bytes of one with so many tokens; of all that a block needs, those to align it included. */
static constexpr int hop_panels(int d) { return (d + HOP_PANEL - 1) / HOP_PANEL; }
static constexpr int hop_tile_bytes(int d, int tokens) { return hop_panels(d) * tokens * HOP_ROW; }
static constexpr int hop_smem(int d, int bn, int stages)
{
    return hop_tile_bytes(d, HOP_BM) + 2 * stages * hop_tile_bytes(d, bn) + HOP_BARRIERS + HOP_BLOCK;
}

/* Of a head dim, d = 0: none. */
static inline struct hop_shape hop_shape_of(int d)
{
    static const struct hop_shape shapes[] = {{40, 128, 4}, {64, 128, 4}, {80, 128, 2}, {128, 128, 2}, {160, 64, 2}};
    for (int i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++)
        if (shapes[i].d == d) return shapes[i];
    struct hop_shape none = {0, 0, 0};
    return none;
}

/* x's map: channels of a head, heads, tokens, rows; a copy is HOP_PANEL channels of one head of `box` tokens. */
static inline struct hop_map hop_map_of(const dl_act *x, int heads, int box)
{
    struct hop_map m;
    m.base = x->p, m.t = x->t;
    m.dim[0] = (uint64_t)(x->c / heads), m.dim[1] = (uint64_t)heads;
    m.dim[2] = (uint64_t)x->h * (uint64_t)x->w, m.dim[3] = (uint64_t)x->n;
    m.stride[0] = m.dim[0] * 2, m.stride[1] = (uint64_t)x->ld * 2, m.stride[2] = (uint64_t)x->rs * 2;
    if (x->n == 1) m.stride[2] = m.dim[2] * m.stride[1]; /* rs may be anything then */
    m.box[0] = HOP_PANEL, m.box[1] = 1, m.box[2] = (uint32_t)box, m.box[3] = 1;
    return m;
}

/* What cuTensorMapEncodeTiled asks of a map. */
static inline bool hop_map_ok(const struct hop_map *m)
{
    if ((uintptr_t)m->base % 16) return false;
    for (int i = 0; i < 3; i++)
        if (m->stride[i] % 16 || m->stride[i] >= (uint64_t)1 << 40) return false;
    for (int i = 0; i < 4; i++)
        if (m->dim[i] < 1 || m->dim[i] > (uint64_t)1 << 32 || m->box[i] < 1 || m->box[i] > 256) return false;
    return m->box[0] * (uint32_t)dl_type_bytes(m->t) <= HOP_ROW;
}

/* Tiles of queries of one head and row; tiles of all, which the blocks share. */
static inline int64_t hop_work(const struct cuda_attn_args *a)
{
    return ((int64_t)a->q.h * a->q.w + HOP_BM - 1) / HOP_BM * a->heads * a->q.n;
}

/* Whether the Hopper attention computes this: what cuda_attn serves, of these head dims, without bias, key mask and
 * causal order. */
static inline bool hop_attn_serves(const struct cuda_attn_args *a)
{
    if (!cuda_attn_variant(a, 0) || a->bias.p || a->key_mask || a->causal) return false;
    struct hop_shape s = hop_shape_of(a->q.c / a->heads);
    if (!s.d || hop_work(a) > INT32_MAX) return false;
    struct hop_map q = hop_map_of(&a->q, a->heads, HOP_BM), k = hop_map_of(&a->k, a->heads, s.bn),
                   v = hop_map_of(&a->v, a->heads, s.bn);
    return hop_map_ok(&q) && hop_map_ok(&k) && hop_map_ok(&v);
}

/* Whether it is worth it: few keys (text) or queries leave most of a tile empty. */
static inline bool hop_attn_pays(const struct cuda_attn_args *a)
{
    return (int64_t)a->q.h * a->q.w >= HOP_PAYS && (int64_t)a->k.h * a->k.w >= HOP_PAYS;
}

#endif
