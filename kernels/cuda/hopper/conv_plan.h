/* conv_plan.h: what the Hopper tier's products and convolutions need, decided by pure host code (C++) as in plan.h:
 * which they are, in which ways each can be computed and which of these looks best, the tiles and the tensor maps.
 *
 * A tile is bm output pixels x bn columns. Pixels: a box of w x h of n images, whose input under one tap is a box as
 * well, that TMA copies whole: moved by the tap's place, zeros where it leaves the image. With k = 1 and stride 1
 * images are rows of pixels, all of them one row where x has no gaps. With stride 2 x is four images, of even and odd
 * rows and columns, each with a tensor map of its own: output i under tap t reads pixel i + floor((t - k / 2) / 2) of
 * that of t - k / 2's parity. (A map can step over every second pixel itself, but what that means where a box begins
 * outside the image is written nowhere.) Enlarged by 2 (`up`), outputs of even and odd rows and columns, four phases,
 * are each an image of x's size: output 2 i + f under tap t reads pixel i + floor((f + t - k / 2) / 2), a box again.
 * Columns: output channels; with GLU bn / 2 rows of the weight and the gates' rows of the same outputs.
 */
#ifndef DL_HOPPER_CONV_PLAN_H
#define DL_HOPPER_CONV_PLAN_H

#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/plan.h"
#include "kernels/cuda/igemm.h"

/* A way to compute: each of the HOP_GROUPS warpgroups makes m products of 64 pixels x bn columns; with one team they
 * share a tile, with two each has its own, and one stores while the other multiplies. */
struct hop_conv_way {
    const char *name; /* pixels x columns of a tile; 2x: two teams */
    int teams, m, bn, stages;
};

static constexpr hop_conv_way hop_conv_ways[CUDA_CONV_HOPPER_WAYS] = {
    {"wgmma 256x160", 1, 2, 160, 4}, {"wgmma 128x256", 1, 1, 256, 4}, {"wgmma 256x128", 1, 2, 128, 4},
    {"wgmma 128x160", 1, 1, 160, 6}, {"wgmma 128x128", 1, 1, 128, 7}, {"wgmma 2x128x160", 2, 2, 160, 6},
    {"wgmma 2x128x128", 2, 2, 128, 7},
};

/* Of e4m3: a thread holds the sums of one step of one product beside its own, to which it adds them while the other
 * warpgroup multiplies. */
enum { HOP_E4M3_WAYS = 4 };
static constexpr hop_conv_way hop_e4m3_ways[HOP_E4M3_WAYS] = {
    {"wgmma e4m3 256x128", 1, 2, 128, 4}, {"wgmma e4m3 128x192", 1, 1, 192, 5}, {"wgmma e4m3 128x160", 1, 1, 160, 6},
    {"wgmma e4m3 128x128", 1, 1, 128, 7},
};

static inline const hop_conv_way *hop_ways_of(const struct cuda_igemm_args *a, int *n)
{
    *n = a->x.t == DL_E4M3 ? (int)HOP_E4M3_WAYS : (int)CUDA_CONV_HOPPER_WAYS;
    return a->x.t == DL_E4M3 ? hop_e4m3_ways : hop_conv_ways;
}

/* Pixels of a tile. */
static constexpr int hop_conv_bm(const hop_conv_way *way) { return 64 * HOP_GROUPS / way->teams * way->m; }

/* A pair of columns of a GLU is in one thread, and goes out by groups of 32 columns. */
static constexpr bool hop_conv_glu(int bn) { return bn % 64 == 0; }

static inline int hop_bits(int power) /* of two: its exponent */
{
    int bits = 0;
    while (1 << bits < power) bits++;
    return bits;
}
/* Channels of a row of shared memory, and of a step. */
static inline int hop_panel(int t) { return (int)(HOP_ROW / dl_type_bytes(t)); }
static inline int hop_ratio(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

/* Pixels as tiles see them: n images of w x h. */
struct hop_box {
    int32_t w, h, n;
};

static inline bool hop_conv_flat(const struct cuda_igemm_args *a) { return a->k == 1 && a->stride == 1 && !a->up; }

/* Output pixels: of one phase where there are four. */
static inline hop_box hop_conv_pixels(const struct cuda_igemm_args *a)
{
    hop_box v = {a->y.w, a->y.h, a->y.n};
    if (a->up) v.w = a->x.w, v.h = a->x.h;
    if (!hop_conv_flat(a)) return v;
    v.w *= v.h, v.h = 1;
    if (a->x.n == 1 || a->x.rs == (int64_t)v.w * a->x.ld) v.w *= v.n, v.n = 1;
    return v;
}

static inline int64_t hop_boxes(hop_box v, hop_box b)
{
    return (int64_t)hop_ratio(v.w, b.w) * hop_ratio(v.h, b.h) * hop_ratio(v.n, b.n);
}

/* Pixels side by side of a set of DL_PART_PIXELS neighbouring rows of a tile whose box is b: a smaller box. */
static inline int hop_set_w(hop_box b) { return b.w < DL_PART_PIXELS ? b.w : DL_PART_PIXELS; }

/* Whether these sets lie in one image each, and wholly in v or not at all. */
static inline bool hop_sets_fit(hop_box v, hop_box b)
{
    int w = hop_set_w(b), h = DL_PART_PIXELS / w;
    return h <= b.h && v.w % w == 0 && v.h % h == 0;
}

/* What boxes cost: their number; with `sets`, an eighth more where these do not fit and are made by a pass over y. */
static inline int64_t hop_box_cost(hop_box v, hop_box b, bool sets)
{
    return hop_boxes(v, b) * (sets && !hop_sets_fit(v, b) ? 9 : 8);
}

/* The box of bm pixels, sides powers of two, that costs the least for v; of equal ones the first. */
static inline hop_box hop_box_of(hop_box v, int bm, bool sets)
{
    static const int widths[] = {16, 8, 32, 64, 128, 256, 4, 2, 1};
    hop_box best = {16, bm / 16, 1};
    for (int i = 0; i < (int)(sizeof widths / sizeof widths[0]); i++) {
        hop_box b = {widths[i], bm / widths[i], 1};
        if (b.w > bm) continue;
        for (; b.h > 0; b.h /= 2, b.n *= 2)
            if (hop_box_cost(v, b, sets) < hop_box_cost(v, best, sets)) best = b;
    }
    return best;
}

/* A tile's pixels. */
static inline hop_box hop_conv_box(const struct cuda_igemm_args *a, int bm)
{
    return hop_box_of(hop_conv_pixels(a), bm, a->y.parts != NULL);
}

/* Whether the kernel makes y's parts itself: sets are whole, and none is of two images that are one row of pixels. */
static inline bool hop_conv_sets(const struct cuda_igemm_args *a, hop_box box)
{
    return hop_sets_fit(hop_conv_pixels(a), box) && (int64_t)a->y.h * a->y.w % DL_PART_PIXELS == 0;
}

/* Tiles of a way. */
static inline int64_t hop_conv_tiles(const struct cuda_igemm_args *a, const hop_conv_way *way)
{
    int64_t boxes = hop_boxes(hop_conv_pixels(a), hop_conv_box(a, hop_conv_bm(way)));
    return boxes * hop_ratio(a->y.c, a->glu ? way->bn / 2 : way->bn) * (a->up ? 4 : 1);
}

/* Maps of x [n][h][w][c], of odd columns (bit 0 of part) and rows (bit 1) where the stride is 2, and of weights
 * [out][taps][c]; rows: of the weight in a copy. */
static inline unsigned hop_map_parts(const struct cuda_igemm_args *a) { return a->stride == 2 ? 4 : 1; }
static inline hop_map hop_map_image(const struct cuda_igemm_args *a, hop_box box, unsigned part)
{
    const dl_act *x = &a->x;
    const uint64_t size = (uint64_t)dl_type_bytes(x->t);
    hop_box v = {x->w, x->h, x->n};
    hop_map m;
    if (hop_conv_flat(a)) v = hop_conv_pixels(a);
    m.t = x->t;
    m.dim[0] = (uint64_t)x->c, m.dim[1] = (uint64_t)v.w, m.dim[2] = (uint64_t)v.h, m.dim[3] = (uint64_t)v.n;
    m.stride[0] = (uint64_t)x->ld * size, m.stride[1] = m.stride[0] * m.dim[1];
    m.stride[2] = v.n == 1 ? m.stride[1] * m.dim[2] : (uint64_t)x->rs * size;
    m.base = reinterpret_cast<void *>((uintptr_t)x->p + m.stride[0] * (part & 1) + m.stride[1] * (part >> 1 & 1));
    if (a->stride == 2) {
        m.dim[1] = (m.dim[1] + 1 - (part & 1)) / 2, m.dim[2] = (m.dim[2] + 1 - (part >> 1 & 1)) / 2;
        m.stride[0] *= 2, m.stride[1] *= 2;
    }
    m.box[0] = (uint32_t)hop_panel(x->t);
    m.box[1] = (uint32_t)box.w, m.box[2] = (uint32_t)box.h, m.box[3] = (uint32_t)box.n;
    return m;
}

static inline hop_map hop_map_weight(const struct cuda_igemm_args *a, int rows)
{
    hop_map m;
    m.base = const_cast<void *>(a->w), m.t = a->x.t;
    m.dim[0] = (uint64_t)a->x.c, m.dim[1] = (uint64_t)(a->k * a->k), m.dim[3] = 1;
    m.dim[2] = (uint64_t)a->y.c * (a->glu ? 2 : 1);
    m.stride[0] = m.dim[0] * (uint64_t)dl_type_bytes(m.t), m.stride[1] = m.stride[0] * m.dim[1];
    m.stride[2] = m.stride[1] * m.dim[2];
    m.box[0] = (uint32_t)hop_panel(m.t), m.box[1] = 1, m.box[2] = (uint32_t)rows, m.box[3] = 1;
    return m;
}

/* Whether any way computes this. */
static inline bool hop_conv_serves(const struct cuda_igemm_args *a)
{
    const dl_act *x = &a->x, *y = &a->y;
    const bool e4m3 = x->t == DL_E4M3;
    if ((x->t != DL_F16 && x->t != DL_BF16 && !e4m3) || !k_float(y->t) || x->n != y->n) return false;
    if (a->k < 1 || a->k > 7) return false;
    if (!k_act_ok(x) || !k_act_ok(y) || !k_ptr_ok(a->w) || !k_ptr_ok(a->bias)) return false;
    if (!k_vec_ok(&a->add) || !k_vec_ok(&a->gate) || (a->glu && !hop_conv_flat(a))) return false;
    if (a->res.p && !(k_act_ok(&a->res) && k_float(a->res.t))) return false;
    if ((e4m3 && !hop_conv_flat(a)) || !k_ptr_ok(a->col_scale)) return false;
    if (a->stride != 1 && (a->stride != 2 || a->up)) return false;
    if (a->up && (y->h != 2 * x->h || y->w != 2 * x->w)) return false;
    if (hop_conv_flat(a) && (y->h != x->h || y->w != x->w)) return false;
    if ((int64_t)y->n * y->h * y->w > INT32_MAX - 512 || (int64_t)y->n * y->h * y->w < 1) return false;
    for (unsigned part = 0; part < hop_map_parts(a); part++) { /* none of them without pixels */
        hop_map m = hop_map_image(a, hop_conv_box(a, 256), part);
        if (!hop_map_ok(&m)) return false;
    }
    hop_map w = hop_map_weight(a, 256);
    return hop_map_ok(&w) && hop_conv_tiles(a, &hop_conv_ways[4]) <= INT32_MAX;
}

/* Cycles that a way is thought to need on so many multiprocessors, to put the ways in order and for nothing else: 2,048
 * products a cycle and multiprocessor, twice that of e4m3, 48 bytes a cycle out of the second-level cache, 32 for
 * results, which two teams hide but for the last. */
static inline double hop_conv_cost(const struct cuda_igemm_args *a, const hop_conv_way *way, int sms)
{
    int bm = hop_conv_bm(way), steps = a->k * a->k * hop_ratio(a->x.c, hop_panel(a->x.t));
    double tiles = hop_ratio(hop_conv_tiles(a, way), sms), multiply = bm * way->bn * HOP_PANEL / 2048.0,
           load = (bm + way->bn) * HOP_ROW / 48.0, store = bm * way->bn * 4 / 32.0;
    return tiles * steps * (multiply > load ? multiply : load) + (way->teams == 1 ? tiles : 1) * store;
}

#endif
