/* igemm_plain.cu: the implicit GEMM for every type and shape, without tensor cores: f32 runs, the latent's 4 channels,
 * odd pitches.
 *
 * Computes: cuda_igemm of igemm.h. Products and sums in f32.
 * Needs: nothing.
 * How: 256 threads make 64 pixels x 64 channels; columns of the inner dimension go by slices of 16 through shared
 *     memory, element by element; each thread sums 4 x 4 (twice that with GLU), and its sums wait in shared memory for
 *     the epilogue, which is a loop then.
 * Budget: shared memory 24.1 KB, with GLU 44.2.
 * Speed: not measured yet; two loads from shared memory for four products, and a division for each loaded column.
 */
#include "kernels/cuda/igemm.cuh"

enum { PLAIN_SLICE = 16, PLAIN_THREADS = 256, PLAIN_PITCH = IGEMM_PLAIN + 1, PLAIN_EACH = IGEMM_PLAIN / 16 };

template <class T, bool GLU> __global__ void __launch_bounds__(PLAIN_THREADS) igemm_plain(const igemm_params p)
{
    DL_SHARED(float, xs, PLAIN_SLICE * PLAIN_PITCH);
    DL_SHARED(float, ws, PLAIN_SLICE * PLAIN_PITCH);
    DL_SHARED(float, gs, GLU ? PLAIN_SLICE * PLAIN_PITCH : 1);
    DL_SHARED(float, sums, (GLU ? 2 : 1) * 16 * PLAIN_THREADS); /* each thread's own */
    const int32_t tid = (int32_t)threadIdx.x, tile = (int32_t)blockIdx.x / p.columns;
    const int32_t m0 = tile * IGEMM_PLAIN, n0 = ((int32_t)blockIdx.x - tile * p.columns) * IGEMM_PLAIN;
    const int32_t kl = tid % PLAIN_SLICE, rl = tid / PLAIN_SLICE; /* loads: column kl of rows rl, rl + 16, ... */
    const T *px = static_cast<const T *>(p.x.p), *pw = static_cast<const T *>(p.w);
    int32_t image[PLAIN_EACH], y[PLAIN_EACH], x[PLAIN_EACH];
#pragma unroll
    for (int i = 0; i < PLAIN_EACH; i++) igemm_gather(p, m0 + rl + 16 * i, &image[i], &y[i], &x[i]);
    const int32_t tr = tid / 16, tc = tid % 16; /* sums: rows tr + 16 i, outputs tc + 16 j */
    float acc[4][4] = {}, acc2[4][4] = {};
    for (int32_t k0 = 0; k0 < p.inner; k0 += PLAIN_SLICE) {
        int32_t k = k0 + kl, tap = k / p.in, c = k - tap * p.in, ky = tap / p.k, kx = tap - ky * p.k;
#pragma unroll
        for (int i = 0; i < PLAIN_EACH; i++) {
            int64_t from = k < p.inner ? igemm_source(p, image[i], y[i] + ky, x[i] + kx) : -1;
            xs[kl * PLAIN_PITCH + rl + 16 * i] = from < 0 ? 0.0f : dl_to_f32(dl_ld(px + from + c));
        }
        for (int i = 0; i < PLAIN_EACH; i++) {
            int32_t o = n0 + rl + 16 * i, to = kl * PLAIN_PITCH + rl + 16 * i;
            bool real = o < p.out && k < p.inner;
            ws[to] = real ? dl_to_f32(dl_ld(pw + (int64_t)o * p.inner + k)) : 0.0f;
            if (GLU) gs[to] = real ? dl_to_f32(dl_ld(pw + ((int64_t)p.out + o) * p.inner + k)) : 0.0f;
        }
        __syncthreads();
        for (int q = 0; q < PLAIN_SLICE; q++) {
            float xv[4], wv[4], gv[4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) xv[i] = xs[q * PLAIN_PITCH + tr + 16 * i];
#pragma unroll
            for (int j = 0; j < 4; j++) wv[j] = ws[q * PLAIN_PITCH + tc + 16 * j];
            if (GLU)
#pragma unroll
                for (int j = 0; j < 4; j++) gv[j] = gs[q * PLAIN_PITCH + tc + 16 * j];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    acc[i][j] = fmaf(xv[i], wv[j], acc[i][j]);
                    if (GLU) acc2[i][j] = fmaf(xv[i], gv[j], acc2[i][j]);
                }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 16; i++) {
        sums[i * PLAIN_THREADS + tid] = acc[i / 4][i % 4];
        if (GLU) sums[(16 + i) * PLAIN_THREADS + tid] = acc2[i / 4][i % 4];
    }
    const int step = k_step(p.e.step);
#pragma unroll 1
    for (int32_t i = 0; i < 16; i++) {
        int32_t row = m0 + tr + 16 * (i / 4), o = n0 + tc + 16 * (i % 4);
        if (row >= p.m || o >= p.out) continue;
        float s[1] = {sums[i * PLAIN_THREADS + tid]}, s2[1] = {0};
        if (GLU) s2[0] = sums[(16 + i) * PLAIN_THREADS + tid];
        igemm_store<1>(p, step, row, o, s, s2);
    }
}

template <class T> static int igemm_plain_of(cudaStream_t s, const igemm_params &p, unsigned blocks)
{
    if (p.e.glu) return DL_LAUNCH((igemm_plain<T, true>), dim3(blocks), dim3(PLAIN_THREADS), 0, s, p);
    return DL_LAUNCH((igemm_plain<T, false>), dim3(blocks), dim3(PLAIN_THREADS), 0, s, p);
}

int igemm_plain_run(cudaStream_t s, const igemm_params &p, unsigned blocks)
{
    if (p.x.t == DL_F32) return igemm_plain_of<float>(s, p, blocks);
    return p.x.t == DL_F16 ? igemm_plain_of<dl_half>(s, p, blocks) : igemm_plain_of<dl_bf16>(s, p, blocks);
}
