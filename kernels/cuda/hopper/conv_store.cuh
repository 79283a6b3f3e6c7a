/* conv_store.cuh: the end of the Hopper tier's products: sums from registers through the epilogue to y, and y's parts.
 *
 * A warp holds 16 M neighbouring rows of a tile: products take groups of 8 rows by turns (hop_desc_k_every), so row 8 j
 * of these is in product j % M, element 2 (j / M) of each four. Sums go out by 8 neighbouring channels (16 bytes), for
 * which the four threads of a row exchange theirs. The residual of 8 channels is fetched one round before it is used:
 * a round is some 300 instructions, of one or two warps a scheduler.
 *
 * Parts (op.h): a set is 32 neighbouring rows of a tile, a small box of pixels (hop_set_w), from registers: with M = 2
 * they are a warp's own; with M = 1 two warps' have half each, and one gives the other its sums through shared memory.
 * They take turns in giving: who took the last gives the next, so that a place is read before it is written again, and
 * one barrier of the two warps is enough.
 */
#ifndef DL_HOPPER_CONV_STORE_CUH
#define DL_HOPPER_CONV_STORE_CUH

#include "kernels/cuda/dev/epilogue.cuh"
#include "kernels/cuda/dev/hopper.cuh"
#include "kernels/cuda/dev/parts.cuh"
#include "kernels/cuda/hopper/conv_plan.h"

struct hop_conv_params {
    cuda_epi_args e;            /* e.y: the output */
    hop_box box, v;             /* a tile's pixels and all of them (conv_plan.h) */
    int32_t bits_w, bits_h;     /* box.w = 2^bits_w */
    int32_t set_w, set_h;       /* a set's pixels are a box of 2^set_w x 2^set_h */
    int32_t k, stride, phases;  /* phases: 4 with enlargement, else 1 */
    int32_t across, down, deep; /* boxes in v */
    int32_t columns, width;     /* tiles of channels, outputs of each */
    int32_t slices;             /* of 64 channels (e4m3: 128) in a tap */
    int32_t steps;              /* taps x slices */
    int32_t pixels;             /* of an image of y */
    int32_t work;
};

/* One tile of the list. */
struct hop_conv_tile {
    int x, y, n, c;
    int fx, fy; /* phase */
};

/* Bytes of shared memory by which the pairs of warps exchange sums: three of each of 32 columns. */
enum { HOP_PAIR = 3 * 128 };
static constexpr int hop_store_smem(int m) { return m == 1 ? 2 * HOP_GROUPS * HOP_PAIR : 0; }

struct hop_store_pair {
    uint32_t at; /* of all pairs */
    int warp;    /* of the computing ones */
    int turn;    /* odd: this warp gives; its partner's is the other */
};

/* Row `row` of a tile, in v. */
__device__ __forceinline__ hop_box hop_store_row(const hop_conv_params &a, const hop_conv_tile &at, int row)
{
    hop_box p;
    p.w = at.x + (row & (a.box.w - 1)), p.h = at.y + (row >> a.bits_w & (a.box.h - 1));
    p.n = at.n + (row >> (a.bits_w + a.bits_h));
    return p;
}

__device__ __forceinline__ bool hop_store_real(const hop_conv_params &a, const hop_box &p)
{
    return p.w < a.v.w && p.h < a.v.h && p.n < a.v.n;
}

/* Where a row is in y; pixel -1: nowhere. */
struct hop_store_place {
    int image, pixel;
};

__device__ __forceinline__ hop_store_place hop_store_place_of(const hop_conv_params &a, const hop_conv_tile &at,
                                                              int row)
{
    const int twice = a.phases > 1 ? 2 : 1;
    hop_box p = hop_store_row(a, at, row);
    hop_store_place to;
    to.pixel = (p.h * twice + at.fy) * (a.v.w * twice) + p.w * twice + at.fx;
    to.image = to.pixel / a.pixels; /* 0, but where images are one row of pixels */
    to.pixel -= to.image * a.pixels, to.image += p.n;
    if (!hop_store_real(a, p)) to.pixel = -1;
    return to;
}

__device__ __forceinline__ int hop_store_from(int v, int lane)
{
    return (int)dl_f32_bits(dl_shfl(dl_bits_f32((uint32_t)v), lane));
}

/* Of the sums of this thread, in round `which` = part * 2 M + j: its pairs of the four pieces of 8 columns of a part.
 * Registers have no indices, so this is a tree of branches to N rounds from J on; as a loop it would become an array in
 * local memory. */
template <class C, int J = 0, int N = C::BN / 32 * 2 * C::M>
__device__ __forceinline__ void hop_store_take(float v[8], const float sums[C::SUMS], int which)
{
    if constexpr (N > 1) {
        if (which < J + N / 2) hop_store_take<C, J, N / 2>(v, sums, which);
        else hop_store_take<C, J + N / 2, N - N / 2>(v, sums, which);
    } else {
        const int part = J / (2 * C::M), j = J % (2 * C::M);
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = sums[j % C::M * (C::BN / 2) + part * 16 + i / 2 * 4 + j / C::M * 2 + i % 2];
        dl_hold<8>(v);
    }
}

/* From the pairs of four pieces in each of four threads of a row to a whole piece in each: 4 x 4 pairs transposed. */
__device__ __forceinline__ void hop_store_turn(float v[8], int lane)
{
#pragma unroll
    for (int m = 1; m <= 2; m *= 2)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int o = i + 2 * m; /* the same of the piece that is m further */
            if (i / 2 & m) continue;
            float got = dl_shfl_xor(lane & m ? v[i] : v[o], m);
            if (lane & m) v[i] = got;
            else v[o] = got;
        }
}

/* ---- parts ---- */

/* Of rows of 8 channels so far: the mean of the warp's first 8, sums and squares of differences from it. (From a single
 * value the differences of half a set may all be far larger than the other half's are from its own.) */
struct hop_stat {
    float base[8], sum[8], square[8];
};

/* Row j * 8 + lane / 4 of the warp: 8 values, as they were stored in type t. */
__device__ __forceinline__ void hop_stat_add(hop_stat *s, float v[8], int j, int t)
{
    if (t == DL_F16) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = k_round_to(v[i], DL_F16);
    } else if (t == DL_BF16) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = k_round_to(v[i], DL_BF16);
    }
    if (j == 0) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float sum = v[i] + dl_shfl_xor(v[i], 4);
            sum += dl_shfl_xor(sum, 8), sum += dl_shfl_xor(sum, 16);
            s->base[i] = sum / 8, s->sum[i] = s->square[i] = 0;
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float d = v[i] - s->base[i];
        s->sum[i] += d, s->square[i] += d * d;
    }
}

/* The warp's rows joined: each lane has all of channel lane / 4 of its 8 in element 0. */
__device__ __forceinline__ void hop_stat_join(hop_stat *s)
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int m = 4; m > 0; m /= 2)
#pragma unroll
        for (int i = 0; i < m; i++) {
            const bool up = lane & 4 * m; /* keeps the upper channels and gives the lower */
            float sum = dl_shfl_xor(up ? s->sum[i] : s->sum[i + m], 4 * m);
            float square = dl_shfl_xor(up ? s->square[i] : s->square[i + m], 4 * m);
            s->sum[i] = (up ? s->sum[i + m] : s->sum[i]) + sum;
            s->square[i] = (up ? s->square[i + m] : s->square[i]) + square;
            if (up) s->base[i] = s->base[i + m];
        }
}

/* With M = 1: element 0 given to the other warp of the pair, or joined with its. Which of it: the result. */
__device__ __forceinline__ bool hop_stat_pair(hop_stat *s, hop_store_pair *pair)
{
    const uint32_t at = pair->at + (uint32_t)(pair->warp / 2 * HOP_PAIR) + threadIdx.x % 32 * 4;
    const bool gives = pair->turn++ & 1;
    if (gives) dl_put(at, s->base[0]), dl_put(at + 128, s->sum[0]), dl_put(at + 256, s->square[0]);
    dl_bar_sync(3 + pair->warp / 2, 64);
    if (gives) return false;
    float sum = dl_get(at + 128), d = dl_get(at) - s->base[0]; /* from the other's base to this one's */
    s->square[0] += dl_get(at + 256) + d * (2 * sum + DL_PART_PIXELS / 2 * d);
    s->sum[0] += sum + DL_PART_PIXELS / 2 * d;
    return true;
}

/* The number of the set of a tile's row `row`, counted through all images; -1: not in y. */
__device__ __forceinline__ int hop_set_of(const hop_conv_params &a, const hop_conv_tile &at, int row)
{
    hop_box p = hop_store_row(a, at, row);
    int image = p.n * a.phases + at.fy * 2 + at.fx;
    int set = (image * (a.v.h >> a.set_h) + (p.h >> a.set_h)) * (a.v.w >> a.set_w) + (p.w >> a.set_w);
    return hop_store_real(a, p) ? set : -1;
}

/* ---- all of it ---- */

/* Where round `round` of this thread goes; places: of row j in lane j of the four of a row. */
template <class C>
__device__ __forceinline__ hop_store_place hop_store_to(const hop_store_place &places, int round)
{
    const int from = (int)threadIdx.x % 32 / 4 * 4 + round % (2 * C::M);
    hop_store_place to = {hop_store_from(places.image, from), hop_store_from(places.pixel, from)};
    return to;
}

/* The residual of that round, of 16-bit types alone: 8 f32 are more than there are registers for. */
template <class C>
__device__ __forceinline__ void hop_store_fetch(uint4 *res, const hop_conv_params &a, const hop_store_place &places,
                                                int c0, int round)
{
    const hop_store_place to = hop_store_to<C>(places, round);
    const int c = c0 + round / (2 * C::M) * 32;
    if (a.e.res.p && a.e.res.t != DL_F32 && to.pixel >= 0 && c < a.e.y.c)
        *res = dl_ld(reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(a.e.res.p) +
                                                     k_at(a.e.res, to.image, to.pixel, c)));
}

__device__ __forceinline__ void hop_store_add(float v[8], const hop_conv_params &a, const hop_store_place &to, int c,
                                              const uint4 &res)
{
    float r[8];
    if (a.e.res.t == DL_F32) k_load<8>(r, static_cast<const float *>(a.e.res.p) + k_at(a.e.res, to.image, to.pixel, c));
    else if (a.e.res.t == DL_F16) k_unpack8<dl_half>(r, res);
    else k_unpack8<dl_bf16>(r, res);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] += r[i];
}

/* Sums of this warp's rows, from `first` on in the tile, to y. */
template <class C>
__device__ __forceinline__ void hop_store(const hop_conv_params &a, const float sums[C::SUMS], int first,
                                          const hop_conv_tile &at, int step, hop_store_pair *pair)
{
    const int lane = (int)threadIdx.x % 32, rounds = a.width / 32 * 2 * C::M, c0 = at.c + lane % 4 * 8;
    const hop_store_place places = hop_store_place_of(a, at, first + lane % 4 * 8 + lane / 4);
    const int set = a.e.y.parts ? hop_set_of(a, at, first) : -1;
    uint4 next = {};
    hop_stat stat = {};
    hop_store_fetch<C>(&next, a, places, c0, 0);
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
        const uint4 res = next;
        const hop_store_place to = hop_store_to<C>(places, round);
        const int c = c0 + round / (2 * C::M) * 32;
        float v[8] = {}, g[8] = {};
        if (round + 1 < rounds) hop_store_fetch<C>(&next, a, places, c0, round + 1);
        hop_store_take<C>(v, sums, round);
        hop_store_turn(v, lane);
        if (C::GLU && a.e.glu) {
            hop_store_take<C>(g, sums, rounds + round);
            hop_store_turn(g, lane);
        }
        if (to.pixel >= 0 && c < a.e.y.c) {
            if (C::GLU || !a.e.glu) { /* always; without it ptxas spills */
                if (C::E4M3) k_epi_scale<8>(a.e, (int64_t)to.image * a.pixels + to.pixel, c, v, g);
                k_epi_inner<8>(a.e, step, to.image, c, v, C::GLU ? g : nullptr);
            }
            if (a.e.res.p) hop_store_add(v, a, to, c, res);
            for (int i = 0; i < 8; i++) v[i] *= a.e.scale;
            k_store_t<8>(a.e.y.p, a.e.y.t, k_at(a.e.y, to.image, to.pixel, c), v);
        }
        if (!a.e.y.parts) continue;
        hop_stat_add(&stat, v, round % (2 * C::M), a.e.y.t);
        if (round % (2 * C::M) != 2 * C::M - 1) continue;
        hop_stat_join(&stat);
        if (C::M == 1 && !hop_stat_pair(&stat, pair)) continue;
        if (set >= 0 && c < a.e.y.c)
            dl_st(k_part_at(a.e.y, set, c + lane / 4),
                  k_part_of(stat.base[0], stat.sum[0], stat.square[0], DL_PART_PIXELS));
    }
}

#endif
