/* quant.cu: activations to e4m3, each pixel with its own scale.
 *
 * Computes: cuda_quant of kernels.h; the bits of engine/e4m3.h.
 * Needs: sm_80 to be compiled; what reads its result needs sm_89. V = 8 where x allows 16-byte accesses, else V = 1.
 * How: W warps have a pixel, one warp (four pixels a block) up to 1024 channels. x is read twice, from memory for the
 *     largest magnitude and from the L1 for the values: a pixel has at most some 30 KB. From sm_89 on one instruction
 *     rounds two values, before it integers do.
 * Budget: 8 registers of values; W floats of shared memory.
 * Speed: not measured yet.
 * Traps: the gain is a rounded quotient and the product rounded again, as on the host: a fused or approximate division
 *     would give other bits.
 */
#include "kernels/cuda/dev/convert.cuh"
#include "kernels/cuda/dev/e4m3.cuh"
#include "kernels/cuda/dev/reduce.cuh"

enum { ONE_WARP_MAX = 1024 };

template <int V_, int W_> struct quant_cfg {
    enum { V = V_, W = W_, THREADS = W_ == 1 ? 128 : 32 * W_, PIXELS = W_ == 1 ? 4 : 1 };
};

template <class C> __global__ void __launch_bounds__(C::THREADS) quant_kernel(cuda_quant_args a)
{
    DL_SHARED(float, tmp, C::W);
    int64_t pixels = (int64_t)a.x.h * a.x.w;
    int64_t pixel = blockIdx.x * (int64_t)C::PIXELS + (C::W == 1 ? threadIdx.x / 32 : 0);
    if (pixel >= pixels) return; /* with W > 1 all threads have the same pixel */
    int64_t from = k_at(a.x, blockIdx.y, pixel, 0), at = blockIdx.y * pixels + pixel;
    int first = (int)(threadIdx.x % (32 * C::W)) * C::V;
    float v[8], least = 0; /* of what is not above zero: reduce.cuh has minima */
    for (int c = first; c < a.x.c; c += 32 * C::W * C::V) {
        k_load_t<C::V>(v, a.x.p, a.x.t, from + c);
        for (int j = 0; j < C::V; j++) least = dl_min(least, -fabsf(v[j]));
    }
    float amax = C::W == 1 ? -k_warp_min(least) : -k_block_min<C::W>(least, tmp);
    float gain = amax > 1e-30f ? dl_div_rn(448.0f, amax) : 0;
    for (int c = first; c < a.x.c; c += 32 * C::W * C::V) {
        k_load_t<C::V>(v, a.x.p, a.x.t, from + c);
        for (int j = 0; j < C::V; j++) v[j] = dl_mul_rn(v[j], gain);
        uint8_t *q = a.q + at * a.x.c + c;
        if (C::V == 8)
            dl_st(reinterpret_cast<uint2 *>(q), make_uint2(k_e4m3_of4(v), k_e4m3_of4(v + 4)));
        else
            dl_st(q, (uint8_t)k_e4m3_of(v[0]));
    }
    if (first == 0) dl_st(a.scale + at, dl_div_rn(amax, 448.0f));
}

template <int V, int W> static int launch(struct CUstream_st *s, const cuda_quant_args &a)
{
    typedef quant_cfg<V, W> C;
    int64_t blocks = (k_pixels(&a.x) + C::PIXELS - 1) / C::PIXELS;
    if (blocks > INT32_MAX) return CUDA_K_UNSUPPORTED;
    return DL_LAUNCH(quant_kernel<C>, dim3((unsigned)blocks, (unsigned)a.x.n), C::THREADS, 0, s, a);
}

int cuda_quant(struct CUstream_st *s, const struct cuda_quant_args *args)
{
    const cuda_quant_args &a = *args;
    if (a.x.n < 1 || a.x.n > K_MAX_ROWS || a.x.c < 16 || a.x.c % 16 || !k_float(a.x.t) || !k_ptr_ok(a.q))
        return CUDA_K_UNSUPPORTED;
    bool wide = a.x.c > ONE_WARP_MAX;
    if (k_act_ok(&a.x)) return wide ? launch<8, 8>(s, a) : launch<8, 1>(s, a);
    return wide ? launch<1, 8>(s, a) : launch<1, 1>(s, a);
}
