/* hopper/conv.cu: 3 x 3 convolution of stride 1 for compute capability 9.0: wgmma, TMA, specialised warps.
 *
 * Computes: cuda_igemm (igemm.h) with k = 3, stride 1, without enlargement and GLU: y = epi(sum over taps and
 *     channels).
 * Needs: sm_90a; f16 or bf16 x, channels of x and y multiples of 8, everything on 16 bytes.
 * How: the product of output pixels and weights, 64 channels of one tap at a time. A tile of 128 pixels is a box of the
 *     image (16 x 8, or 8 x 8 of two images, and so on); a tap moves the box by a pixel, and TMA fills zeros where it
 *     leaves the image, which is the padding. A block has three warpgroups and takes tiles from a list. One thread of
 *     warpgroup 0 loads pixels and weights through STAGES stages of shared memory; warpgroups 1 and 2 multiply, 64
 *     pixels x BN channels each, with one group of products in flight while the stage before is freed. Sums go through
 *     shared memory, 8 pixels a warp at a time, to the epilogue, while the loads of the next tile are under way.
 * Budget: one block a multiprocessor; 240 registers for each of the 256 computing threads, of which BN / 2 are sums,
 *     and 24 for the 128 others. For 64 channels of a tap (wgmma: 2,048 products a cycle; bytes out of the second-level
 *     cache) a tile takes:
 *
 *       128 x 160   5 stages   223.3 KB   640 cycles   36 KB, 58 bytes a cycle
 *       128 x 128   5 stages   195.3 KB   512 cycles   32 KB, 64
 *
 *     which is more than plain reads get out of that cache, so it may be the bound, unless copies of one tile by
 *     several multiprocessors meet there. 256 pixels a tile would need 42, but nvcc 13.0 spills registers with two
 *     accumulators. So it is not chosen by itself (DLENS_CUDA_TIER=hopper takes it) before it has been measured.
 * Speed: compiled and inspected, never run on a GPU. The source runs in tests/simt, TMA, mbarriers and wgmma emulated.
 * Traps: boxes are larger than small images: pixels beyond the edge are computed and not stored.
 */
#include "kernels/cuda/dev/epilogue.cuh"
#include "kernels/cuda/dev/hopper.cuh"
#include "kernels/cuda/hopper/hopper.h"

template <class T_, int BN_, int STAGES_> struct hop_conv_cfg {
    typedef T_ T;
    enum {
        BN = BN_, STAGES = STAGES_,
        X_BYTES = HOP_BM * HOP_ROW, W_BYTES = BN * HOP_ROW, STAGE_BYTES = X_BYTES + W_BYTES,
        WARPS = 4 * HOP_GROUPS, /* that compute */
        PITCH = BN + 8, PART = 8 * PITCH * 4, /* of sums in shared memory: f32 [8][PITCH] for each of them */
        BARS = STAGES * STAGE_BYTES + WARPS * PART, /* where the mbarriers lie */
        SMEM = BARS + HOP_BARRIERS + HOP_BLOCK
    };
    static_assert((int)SMEM <= (int)HOP_SMEM_MOST && 16 * STAGES <= (int)HOP_BARRIERS, "fits");
    static_assert(BN % 8 == 0, "pieces of 8 channels");
};

struct hop_conv_params {
    cuda_epi_args e; /* e.y: the output */
    hop_box box;
    int32_t across, down, deep; /* boxes in an image's width, height, in the batch */
    int32_t columns;            /* tiles of channels */
    int32_t slices;             /* of 64 channels in a tap */
    int32_t work;
};

/* One tile of the list: channels vary first, so that neighbours share pixels. */
struct hop_conv_tile {
    int x, y, n, c;
};

__device__ __forceinline__ hop_conv_tile hop_conv_tile_of(const hop_conv_params &a, int bn, int work)
{
    hop_conv_tile t;
    int rest = work / a.columns;
    t.c = work % a.columns * bn;
    t.x = rest % a.across * a.box.w, rest /= a.across;
    t.y = rest % a.down * a.box.h, t.n = rest / a.down * a.box.n;
    return t;
}

template <class C>
__device__ __forceinline__ void hop_conv_load(const hop_conv_params &a, uint32_t stages, uint32_t bars,
                                              const dl_tensor_map *mx, const dl_tensor_map *mw)
{
    int use = 0;
    dl_tma_prefetch(mx), dl_tma_prefetch(mw);
    for (int work = (int)blockIdx.x; work < a.work; work += (int)gridDim.x) {
        hop_conv_tile at = hop_conv_tile_of(a, C::BN, work);
        for (int tap = 0; tap < 9; tap++)
            for (int s = 0; s < a.slices; s++, use++) {
                int stage = use % C::STAGES;
                uint32_t full = bars + (uint32_t)stage * 16, x = stages + (uint32_t)stage * C::STAGE_BYTES;
                dl_mbar_wait(full + 8, (use / C::STAGES & 1) ^ 1);
                dl_mbar_expect(full, C::STAGE_BYTES);
                dl_tma_load(x, mx, full, s * HOP_PANEL, at.x + tap % 3 - 1, at.y + tap / 3 - 1, at.n);
                dl_tma_load(x + C::X_BYTES, mw, full, s * HOP_PANEL, tap, at.c, 0);
            }
    }
}

/* Sums of 8 rows of this warp (those with `half` 0 or 1 of each thread) to y: through the warp's part of shared memory,
 * so that the epilogue is a loop over pieces of 8 channels (16 bytes), and not a copy of itself for each register. */
template <class C>
__device__ __forceinline__ void hop_conv_store(const hop_conv_params &a, const float sums[C::BN / 2], int half,
                                               uint32_t part, int first, const hop_conv_tile &at, int step)
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int b = 0; b < C::BN / 8; b++)
        dl_smem_st2(part + (uint32_t)(lane / 4 * C::PITCH + b * 8 + lane % 4 * 2) * 4, sums[4 * b + 2 * half],
                    sums[4 * b + 2 * half + 1]);
    __syncwarp();
#pragma unroll 1
    for (int i = lane; i < 8 * (C::BN / 8); i += 32) {
        int r = i / (C::BN / 8), c = i % (C::BN / 8) * 8, row = first + r;
        int px = at.x + row % a.box.w, py = at.y + row / a.box.w % a.box.h, n = at.n + row / (a.box.w * a.box.h);
        if (px >= a.e.y.w || py >= a.e.y.h || n >= a.e.y.n || at.c + c >= a.e.y.c) continue;
        int64_t pixel = (int64_t)py * a.e.y.w + px;
        float v[8];
        dl_smem_ld4(v, part + (uint32_t)(r * C::PITCH + c) * 4);
        dl_smem_ld4(v + 4, part + (uint32_t)(r * C::PITCH + c + 4) * 4);
        k_epi<8>(a.e, step, n, pixel, at.c + c, v, nullptr);
        k_store_t<8>(a.e.y.p, a.e.y.t, k_at(a.e.y, n, pixel, at.c + c), v);
    }
    __syncwarp();
}

template <class C>
__device__ __forceinline__ void hop_conv_compute(const hop_conv_params &a, uint32_t stages, uint32_t bars, int group)
{
    const int thread = (int)threadIdx.x % 128, lane = thread % 32, count = 9 * a.slices, step = k_step(a.e.step);
    const uint32_t part = stages + C::STAGES * C::STAGE_BYTES + (uint32_t)((group * 4 + thread / 32) * C::PART);
    int use = 0;
    for (int work = (int)blockIdx.x; work < a.work; work += (int)gridDim.x) {
        float sums[C::BN / 2];
#pragma unroll
        for (int i = 0; i < C::BN / 2; i++) sums[i] = 0;
        dl_hold<C::BN / 2>(sums);
#pragma unroll 1
        for (int k = 0; k < count; k++, use++) {
            int stage = use % C::STAGES;
            uint32_t x = stages + (uint32_t)stage * C::STAGE_BYTES;
            dl_mbar_wait(bars + (uint32_t)stage * 16, use / C::STAGES & 1);
            dl_wgmma_fence();
#pragma unroll
            for (int c = 0; c < 4; c++)
                dl_wgmma_ss<typename C::T, C::BN>(sums, hop_desc_k(x, HOP_BM, (uint32_t)group * 64, (uint32_t)c),
                                                  hop_desc_k(x + C::X_BYTES, C::BN, 0, (uint32_t)c), 1);
            dl_wgmma_commit();
            dl_wgmma_wait<1>();
            if (lane == 0 && k > 0) dl_mbar_arrive(bars + (uint32_t)((use - 1) % C::STAGES) * 16 + 8);
        }
        dl_wgmma_wait<0>();
        if (lane == 0) dl_mbar_arrive(bars + (uint32_t)((use - 1) % C::STAGES) * 16 + 8);

        hop_conv_tile at = hop_conv_tile_of(a, C::BN, work);
        dl_hold<C::BN / 2>(sums);
        int first = group * 64 + thread / 32 * 16;
        hop_conv_store<C>(a, sums, 0, part, first, at, step);
        hop_conv_store<C>(a, sums, 1, part, first + 8, at, step);
    }
}

template <class C>
__global__ void __launch_bounds__(HOP_THREADS, 1)
    hop_conv_kernel(const hop_conv_params a, DL_MAP_PARAM mx, DL_MAP_PARAM mw)
{
    const uint32_t stages = dl_smem_1024(), bars = stages + C::BARS; /* full, empty of each stage */
    if (threadIdx.x == 0) {
        for (int i = 0; i < C::STAGES; i++)
            dl_mbar_init(bars + (uint32_t)i * 16, 1), dl_mbar_init(bars + (uint32_t)i * 16 + 8, C::WARPS);
        dl_mbar_init_fence();
    }
    __syncthreads();
    const int group = (int)threadIdx.x / 128;
    if (group == 0) {
        dl_regs_fewer<24>();
        if (threadIdx.x == 0) hop_conv_load<C>(a, stages, bars, &mx, &mw);
    } else {
        dl_regs_more<240>();
        hop_conv_compute<C>(a, stages, bars, group - 1);
    }
}

/* ---- launch ---- */

template <class C>
static int hop_conv_run(struct CUstream_st *stream, const cuda_igemm_args &a, void *encode, int sms)
{
    hop_conv_params p = hop_conv_params();
    p.box = hop_box_of(a.y.w, a.y.h);
    hop_map hx = hop_map_image(&a.x, p.box), hw = hop_map_weight(a.w, a.x.t, a.x.c, 9, a.y.c, C::BN);
    dl_tensor_map mx, mw;
    if (dl_tensor_map_make(encode, &mx, &hx) || dl_tensor_map_make(encode, &mw, &hw)) return CUDA_K_UNSUPPORTED;
    p.e.y = a.y, p.e.bias = a.bias, p.e.fn = a.fn, p.e.add = a.add, p.e.gate = a.gate, p.e.res = a.res;
    p.e.scale = a.scale != 0 ? a.scale : 1, p.e.step = a.step;
    p.across = hop_ratio(a.y.w, p.box.w), p.down = hop_ratio(a.y.h, p.box.h), p.deep = hop_ratio(a.y.n, p.box.n);
    p.columns = hop_ratio(a.y.c, C::BN), p.slices = hop_ratio(a.x.c, HOP_PANEL);
    p.work = p.across * p.down * p.deep * p.columns;
    return DL_LAUNCH(hop_conv_kernel<C>, dim3((unsigned)(p.work < sms ? p.work : sms)), HOP_THREADS, C::SMEM, stream, p,
                     mx, mw);
}

template <class T>
static int hop_conv_pick(struct CUstream_st *s, const cuda_igemm_args &a, void *encode, int sms)
{
    return hop_conv_columns(a.y.c) == 160 ? hop_conv_run<hop_conv_cfg<T, 160, 5> >(s, a, encode, sms)
                                          : hop_conv_run<hop_conv_cfg<T, 128, 5> >(s, a, encode, sms);
}

const char *cuda_conv_hopper_variant(const struct cuda_igemm_args *a, bool always)
{
    if (!always || !hop_conv_serves(a)) return NULL;
    return hop_conv_columns(a->y.c) == 160 ? "wgmma 128x160" : "wgmma 128x128";
}

int cuda_conv_hopper(struct CUstream_st *s, const struct cuda_igemm_args *a, void *encode, int sms)
{
    if (!hop_conv_serves(a) || !encode || sms < 1) return CUDA_K_UNSUPPORTED;
    return a->x.t == DL_F16 ? hop_conv_pick<dl_half>(s, *a, encode, sms) : hop_conv_pick<dl_bf16>(s, *a, encode, sms);
}
