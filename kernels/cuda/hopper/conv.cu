/* hopper/conv.cu: matrix products and convolutions for compute capability 9.0: wgmma, TMA, specialised warps.
 *
 * Computes: cuda_igemm (igemm.h), epilogue, GLU and parts included, for odd and even k, stride 1 and 2, enlargement by
 *     2; of e4m3 with k = 1.
 * Needs: sm_90a; f16, bf16 or e4m3 x, channels of x and y multiples of 8 (of e4m3 x: 16), everything on 16 bytes
 *     (conv_plan.h).
 * How: the product of output pixels and weights, 64 channels of one tap at a time. The pixels of a tile are a box of
 *     the image, which a tap moves by a pixel; TMA fills zeros where it leaves the image, which is the padding. A
 *     block has three warpgroups and takes tiles from a list. One thread of warpgroup 0 loads pixels and weights
 *     through STAGES stages of shared memory; the two others multiply, 64 or 128 pixels x BN columns each, with one
 *     group of products in flight while the stage before is freed. Either both work on one tile, or each has its own
 *     and they take turns (2x): while one stores, the other has the tensor cores. With GLU a tile's columns are BN / 2
 *     values and their gates, by two copies of TMA, so that one product makes both and a thread holds the pairs. Sums
 *     go from registers to the epilogue (conv_store.cuh): shared memory is all for stages, and the next tile's loads go
 *     on meanwhile. Of e4m3 a step is 128 channels, whose sums are added to others in registers (hop_conv_short).
 * Budget: one block a multiprocessor; 240 registers for each of the 256 computing threads, of which `sums` are sums,
 *     and 24 for the 128 others. For 64 channels of a tap (wgmma: 2,048 products a cycle) a tile takes cycles, and
 *     bytes a cycle out of the second-level cache and of shared memory (operands of each product, and what TMA
 *     writes):
 *
 *                     stages   shared memory   cycles   cache   shared memory   sums (e4m3: and a step's)
 *       256 x 160     4        209.3 KB         1,280      42             131    160
 *       128 x 256     4        194.8 KB         1,024      48             128    128
 *       128 x 192     5        202.8 KB           768      53             139     96 + 96, e4m3 alone
 *       256 x 128     4        193.3 KB         1,024      48             144    128 + 64
 *       128 x 160     6        218.8 KB           640      58             147     80 + 80
 *       128 x 128     7        226.8 KB           512      64             160     64 + 64
 *       2x128x160     6        217.3 KB           640      58             147    160
 *       2x128x128     7        225.3 KB           512      64             160    128
 *
 *     Of e4m3 the same for 128 channels. The end of a tile is 2 M BN / 32 rounds of some 300 instructions a warp with
 *     bias, residual and parts: 20 for 256 x 160, where two warps a scheduler take 12,000 cycles, beside 57,600 of the
 *     products of 3 x 3 x 320 channels; by turns it is beside the other team's products.
 *     Shared memory gives 128 bytes a cycle, and plain reads get some 45 out of the cache; copies of one tile by
 *     several multiprocessors may meet there. What bounds which shape is for measurement to say.
 * Speed: compiled and inspected, never run on a GPU. The source runs in tests/simt, TMA, mbarriers and wgmma emulated.
 * Traps: boxes are larger than small images: pixels beyond the edge are computed and not stored. Four computing
 *     warpgroups of one accumulator each are no way to 256 x 160: nvcc 13.0 refuses n = 160 under the 96 registers
 *     that a thread of 640 has at the start, whatever setmaxnreg gives later; and it spills two accumulators of n =
 *     160 beside an epilogue that could be a GLU's.
 */
#include "kernels/cuda/hopper/conv_store.cuh"

#include <string.h>

template <class T> struct hop_conv_type {
    enum { E4M3 = 0 };
};
template <> struct hop_conv_type<dl_e4m3> {
    enum { E4M3 = 1 };
};

template <class T_, int TEAMS_, int M_, int BN_, int STAGES_> struct hop_conv_cfg {
    typedef T_ T;
    enum {
        E4M3 = hop_conv_type<T>::E4M3, PANEL = E4M3 ? HOP_ROW : HOP_ROW / 2, /* channels of a step */
        TEAMS = TEAMS_, GROUPS = HOP_GROUPS / TEAMS, /* warpgroups of a team */
        M = M_, BM = 64 * GROUPS * M,                /* products of 64 pixels that a warpgroup makes at once */
        BN = BN_, STAGES = STAGES_, GLU = hop_conv_glu(BN), SUMS = M * BN / 2, /* of a thread */
        X_BYTES = BM * HOP_ROW, W_BYTES = BN * HOP_ROW, STAGE_BYTES = X_BYTES + W_BYTES,
        BARS = STAGES * STAGE_BYTES, /* where the mbarriers lie */
        SMEM = BARS + HOP_BARRIERS + hop_store_smem(M) + HOP_BLOCK
    };
    static_assert((int)SMEM <= (int)HOP_SMEM_MOST && 16 * STAGES <= (int)HOP_BARRIERS, "fits");
    static_assert(BN % 32 == 0 && BN <= 256 && BM <= 256 && TEAMS <= 2, "parts, boxes, turns");
};

/* Tiles of channels that vary first: neighbours share pixels, and the weights of a band stay in the cache. */
enum { BAND = 8 };

__device__ __forceinline__ hop_conv_tile hop_conv_tile_of(const hop_conv_params &a, int work)
{
    hop_conv_tile t;
    int each = a.work / a.columns, first = work / (BAND * each) * BAND, rest = work - first * each;
    int band = a.columns - first < BAND ? a.columns - first : BAND;
    t.c = (first + rest % band) * a.width, rest /= band;
    int phase = rest % a.phases;
    rest /= a.phases, t.fx = phase % 2, t.fy = phase / 2;
    t.x = rest % a.across * a.box.w, rest /= a.across;
    t.y = rest % a.down * a.box.h, t.n = rest / a.down * a.box.n;
    return t;
}

template <class C>
__device__ __forceinline__ void hop_conv_load(const hop_conv_params &a, uint32_t stages, uint32_t bars,
                                              const dl_tensor_map *maps, const dl_tensor_map *mw)
{
    const int pad = a.k / 2;
    int stage = 0, freed = 1;
    dl_tma_prefetch(mw);
    for (int i = 0; i < (a.stride == 2 ? 4 : 1); i++) dl_tma_prefetch(maps + i);
    for (int work = (int)blockIdx.x; work < a.work; work += (int)gridDim.x) {
        hop_conv_tile at = hop_conv_tile_of(a, work);
        for (int tap = 0; tap < a.k * a.k; tap++) {
            /* Of twice the pixels' number: fx and fy are 0 without enlargement. */
            int tx = tap % a.k - pad + at.fx, ty = tap / a.k - pad + at.fy, half = a.phases > 1 || a.stride == 2;
            int x = at.x + (tx >> half), y = at.y + (ty >> half);
            const dl_tensor_map *mx = maps + (a.stride == 2 ? (ty & 1) * 2 + (tx & 1) : 0);
            for (int s = 0; s < a.slices; s++) {
                uint32_t full = bars + (uint32_t)stage * 16, to = stages + (uint32_t)stage * C::STAGE_BYTES;
                dl_mbar_wait(full + 8, freed);
                dl_mbar_expect(full, C::STAGE_BYTES);
                dl_tma_load(to, mx, full, s * C::PANEL, x, y, at.n);
                to += C::X_BYTES;
                dl_tma_load(to, mw, full, s * C::PANEL, tap, at.c, 0);
                if (C::GLU && a.e.glu)
                    dl_tma_load(to + C::W_BYTES / 2, mw, full, s * C::PANEL, tap, a.e.y.c + at.c, 0);
                if (++stage == C::STAGES) stage = 0, freed ^= 1;
            }
        }
    }
}

/* One stage of e4m3: sums += its products. The tensor cores keep some 14 bits of a sum (DeepSeek-V3, arXiv:2412.19437,
 * section 3.3.2), so those of 128 channels go to `sums` by additions, beside which the other warpgroup multiplies. */
template <class C>
__device__ __forceinline__ void hop_conv_short(float sums[C::SUMS], uint32_t x, int first, uint32_t freed)
{
    float part[C::BN / 2]; /* of nothing at first: the first product does not add */
#pragma unroll
    for (int m = 0; m < C::M; m++) {
        dl_wgmma_fence();
#pragma unroll
        for (int c = 0; c < 4; c++)
            dl_wgmma_ss<typename C::T, C::BN>(part, hop_desc_k_every(C::M, x, (uint32_t)(first + m * 8), c),
                                              hop_desc_k(x + C::X_BYTES, C::BN, 0, c), c > 0);
        dl_wgmma_commit();
        dl_wgmma_wait<0>();
        dl_hold<C::BN / 2>(part);
        if (m == C::M - 1 && threadIdx.x % 32 == 0) dl_mbar_arrive(freed);
#pragma unroll
        for (int i = 0; i < C::BN / 2; i++) sums[m * (C::BN / 2) + i] += part[i];
    }
}

/* A computing warpgroup, one of a team's. Turns: the second team's wait for its first stage must not begin before the
 * first team's for its last has ended, for an mbarrier tells only a phase from the next. A tile's place takes divisions,
 * some 500 cycles: they stand beside the last products; with turns beside the first, as the other team waits for the last
 * to be issued. */
template <class C>
__device__ __forceinline__ void hop_conv_compute(const hop_conv_params &a, uint32_t stages, uint32_t bars, int team,
                                                 int group)
{
    const int thread = (int)threadIdx.x % 128, lane = thread % 32, step = k_step(a.e.step);
    const int mine = 1 + team, other = 2 - team, turn = 128 * HOP_GROUPS; /* named barriers */
    const int first = group * 64 * C::M; /* row of the tile */
    const int warp = dl_uniform((int)threadIdx.x / 32 - 4);
    hop_store_pair pair = {stages + C::BARS + HOP_BARRIERS, warp, warp};
    int use = team * a.steps, work = (int)blockIdx.x + team * (int)gridDim.x;
    if (C::TEAMS == 2 && team == 1) dl_bar_arrive(other, turn); /* the first turn is team 0's */
    for (; work < a.work; work += C::TEAMS * (int)gridDim.x, use += (C::TEAMS - 1) * a.steps) {
        float sums[C::SUMS];
#pragma unroll
        for (int i = 0; i < C::SUMS; i++) sums[i] = 0;
        dl_hold<C::SUMS>(sums);
        hop_conv_tile at;
        if (C::TEAMS == 2) dl_bar_sync(mine, turn);
#pragma unroll 1
        for (int k = 0; k < a.steps; k++, use++) {
            int stage = use % C::STAGES;
            uint32_t x = stages + (uint32_t)stage * C::STAGE_BYTES;
            dl_mbar_wait(bars + (uint32_t)stage * 16, use / C::STAGES & 1);
            if constexpr (C::E4M3) {
                if (k == a.steps - 1) at = hop_conv_tile_of(a, work);
                hop_conv_short<C>(sums, x, first, bars + (uint32_t)stage * 16 + 8);
                continue;
            }
            dl_wgmma_fence();
#pragma unroll
            for (int c = 0; c < 4 * C::M; c++)
                dl_wgmma_ss<typename C::T, C::BN>(sums + c % C::M * (C::BN / 2),
                                                  hop_desc_k_every(C::M, x, (uint32_t)(first + c % C::M * 8), c / C::M),
                                                  hop_desc_k(x + C::X_BYTES, C::BN, 0, c / C::M), 1);
            dl_wgmma_commit();
            if (k == (C::TEAMS == 1 ? a.steps - 1 : 0)) at = hop_conv_tile_of(a, work);
            dl_wgmma_wait<1>();
            if (lane == 0 && k > 0) dl_mbar_arrive(bars + (uint32_t)((use - 1) % C::STAGES) * 16 + 8);
        }
        if (C::TEAMS == 2) dl_bar_arrive(other, turn);
        if constexpr (!C::E4M3) {
            dl_wgmma_wait<0>();
            if (lane == 0) dl_mbar_arrive(bars + (uint32_t)((use - 1) % C::STAGES) * 16 + 8);
            dl_hold<C::SUMS>(sums);
        }
        hop_store<C>(a, sums, first + thread / 32 * 16 * C::M, at, step, &pair);
    }
    if (C::TEAMS == 2 && work - (int)gridDim.x < a.work) dl_bar_sync(mine, turn); /* the last turn is taken as well */
}

template <class C>
__global__ void __launch_bounds__(HOP_THREADS, 1)
    hop_conv_kernel(const hop_conv_params a, DL_MAPS_PARAM mx, DL_MAP_PARAM mw)
{
    const uint32_t stages = dl_smem_1024(), bars = stages + C::BARS; /* full, empty of each stage */
    if (threadIdx.x == 0) {
        for (int i = 0; i < C::STAGES; i++)
            dl_mbar_init(bars + (uint32_t)i * 16, 1), dl_mbar_init(bars + (uint32_t)i * 16 + 8, 4 * C::GROUPS);
        dl_mbar_init_fence();
    }
    __syncthreads();
    const int group = dl_uniform((int)threadIdx.x / 128) - 1;
    if (group < 0) {
        dl_regs_fewer<24>();
        if (threadIdx.x == 0) hop_conv_load<C>(a, stages, bars, mx.of, &mw);
    } else {
        dl_regs_more<240>();
        hop_conv_compute<C>(a, stages, bars, C::TEAMS == 2 ? group : 0, C::TEAMS == 2 ? 0 : group);
    }
}

/* ---- launch ---- */

template <class C>
static int hop_conv_run(struct CUstream_st *stream, const cuda_igemm_args &a, void *encode, int sms)
{
    hop_conv_params p = hop_conv_params();
    p.v = hop_conv_pixels(&a), p.box = hop_conv_box(&a, C::BM);
    p.bits_w = hop_bits(p.box.w), p.bits_h = hop_bits(p.box.h);
    p.set_w = hop_bits(hop_set_w(p.box)), p.set_h = 5 - p.set_w;
    hop_map hw = hop_map_weight(&a, a.glu ? C::BN / 2 : C::BN);
    dl_tensor_maps mx = dl_tensor_maps();
    dl_tensor_map mw;
    if (dl_tensor_map_make(encode, &mw, &hw)) return CUDA_K_UNSUPPORTED;
    for (unsigned part = 0; part < hop_map_parts(&a); part++) {
        hop_map hx = hop_map_image(&a, p.box, part);
        if (dl_tensor_map_make(encode, &mx.of[part], &hx)) return CUDA_K_UNSUPPORTED;
    }
    p.e = k_epi_of(a);
    p.k = a.k, p.stride = a.stride, p.phases = a.up ? 4 : 1;
    p.across = hop_ratio(p.v.w, p.box.w), p.down = hop_ratio(p.v.h, p.box.h), p.deep = hop_ratio(p.v.n, p.box.n);
    p.width = a.glu ? C::BN / 2 : C::BN, p.columns = hop_ratio(a.y.c, p.width), p.slices = hop_ratio(a.x.c, C::PANEL);
    p.steps = a.k * a.k * p.slices, p.pixels = a.y.h * a.y.w;
    p.work = p.across * p.down * p.deep * p.columns * p.phases;
    const bool later = a.y.parts && !hop_conv_sets(&a, p.box);
    if (later) p.e.y.parts = NULL;
    int rc = DL_LAUNCH(hop_conv_kernel<C>, dim3((unsigned)(p.work < sms ? p.work : sms)), HOP_THREADS, C::SMEM,
                       stream, p, mx, mw);
    return rc || !later ? rc : cuda_parts(stream, &a.y);
}

template <class T, int WAY>
static int hop_conv_by(struct CUstream_st *s, const cuda_igemm_args &a, void *encode, int sms)
{
    constexpr hop_conv_way w = hop_conv_type<T>::E4M3 ? hop_e4m3_ways[WAY] : hop_conv_ways[WAY];
    return hop_conv_run<hop_conv_cfg<T, w.teams, w.m, w.bn, w.stages>>(s, a, encode, sms);
}

template <class T>
static int hop_conv_pick(struct CUstream_st *s, const cuda_igemm_args &a, void *encode, int sms, int way)
{
    switch (way) {
    case 0: return hop_conv_by<T, 0>(s, a, encode, sms);
    case 1: return hop_conv_by<T, 1>(s, a, encode, sms);
    case 2: return hop_conv_by<T, 2>(s, a, encode, sms);
    case 3: return hop_conv_by<T, 3>(s, a, encode, sms);
    case 4: return hop_conv_by<T, 4>(s, a, encode, sms);
    case 5: return hop_conv_by<T, 5>(s, a, encode, sms);
    default: return hop_conv_by<T, 6>(s, a, encode, sms);
    }
}

static int hop_e4m3_pick(struct CUstream_st *s, const cuda_igemm_args &a, void *encode, int sms, int way)
{
    switch (way) {
    case 0: return hop_conv_by<dl_e4m3, 0>(s, a, encode, sms);
    case 1: return hop_conv_by<dl_e4m3, 1>(s, a, encode, sms);
    case 2: return hop_conv_by<dl_e4m3, 2>(s, a, encode, sms);
    default: return hop_conv_by<dl_e4m3, 3>(s, a, encode, sms);
    }
}

int cuda_conv_hopper_ways(const struct cuda_igemm_args *a, int sms, const char *way[CUDA_CONV_HOPPER_WAYS])
{
    double cost[CUDA_CONV_HOPPER_WAYS];
    int all, n = 0;
    const hop_conv_way *w = hop_ways_of(a, &all);
    if (!hop_conv_serves(a) || sms < 1) return 0;
    for (int i = 0; i < all; i++, w++) {
        if (a->glu && !hop_conv_glu(w->bn)) continue;
        double c = hop_conv_cost(a, w, sms);
        int at = n++;
        for (; at > 0 && c < cost[at - 1]; at--) way[at] = way[at - 1], cost[at] = cost[at - 1];
        way[at] = w->name, cost[at] = c;
    }
    while (cost[n - 1] > 1.75 * cost[0]) n--;
    return n;
}

int cuda_conv_hopper(struct CUstream_st *s, const struct cuda_igemm_args *a, void *encode, int sms, const char *way)
{
    int all;
    const hop_conv_way *w = hop_ways_of(a, &all);
    if (!hop_conv_serves(a) || !encode || sms < 1) return CUDA_K_UNSUPPORTED;
    if ((a->x.t == DL_E4M3) != (a->row_scale && a->col_scale)) return CUDA_K_UNSUPPORTED;
    for (int i = 0; i < all; i++, w++) {
        if (strcmp(w->name, way)) continue;
        if (a->glu && !hop_conv_glu(w->bn)) break;
        if (a->x.t == DL_E4M3) return hop_e4m3_pick(s, *a, encode, sms, i);
        return a->x.t == DL_F16 ? hop_conv_pick<dl_half>(s, *a, encode, sms, i)
                                : hop_conv_pick<dl_bf16>(s, *a, encode, sms, i);
    }
    return CUDA_K_UNSUPPORTED;
}
