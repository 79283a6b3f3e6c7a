/* igemm_e4m3.cu: matrix products of e4m3 operands (engine/e4m3.h) by tensor cores, in tiles of several sizes; portable
 * tier of compute capability 8.9 and later.
 *
 * Computes: cuda_igemm of igemm.h for x and w of e4m3: sums, their scales of row and column, then the epilogue; or
 *     with split > 1 f32 sums of parts of the inner dimension, which igemm_add finishes.
 * Needs: sm_89 (compiled for it and later alone); k = stride = 1, channels a multiple of 16, x and w on 16 bytes.
 * How: as igemm_mma.cu, whose kernel this is, 32 channels a product instruction (m16n8k32) instead of 16. Rows of x lie
 *     at one pitch through all images, so that one address and a step do for a thread's rows.
 *     Sums: of what sm_89's tensor cores call f32 they keep 13 fraction bits, and cut the rest off with every
 *     instruction (SageAttention2, 2411.10958, on Ada and Hopper; DeepSeek-V3, 2412.19437: 14 bits on Hopper): a loss
 *     toward zero that grows with the inner dimension; over 3,072 channels of one sign it is 19 times the 2^-13 that
 *     tests allow, as the emulator computes it. So every instruction starts from zero, and its 32 channels are added
 *     outside, in f32: the loss is then at most 2^-13 of the magnitudes' sum, and all tiles give the same bits.
 *     cuBLASLt adds outside too unless it is told not to (CUBLASLT_MATMUL_DESC_FAST_ACCUM). It costs four additions a
 *     product: an eighth of the issue slots on a 4090, where a quarter of a multiprocessor takes 32 cycles for a
 *     product. Every second product would halve that and loosen the bound. What sm_120 keeps is not known; it is
 *     treated as sm_89. For sm_90 the compiler makes two products of f16 and an addition, at half the rate.
 * Budget: computed; registers as nvcc 13.0 gives them for sm_89, without local memory on sm_89, 90a, 120. Blocks: on a
 *     multiprocessor of 100 KB. Bytes: of shared memory (read and written) and of second-level cache, for 1,024
 *     products; with f32 sums a 4090 multiplies 512 in a cycle, an RTX 6000 Ada 1,024, and shared memory moves
 *     128 bytes. Instructions: of a warp, for each of its products of 16 x 8 x 32, four of them additions.
 *
 *                        shared KB   warps of       registers   blocks   shared    L2   instructions   meant for
 *       128 x 192 x 64      60        8  64 x 48      221         1       51       13       6.7        FLUX
 *       128 x  96 x 64      42        4  64 x 48      222         2       56       19       6.9        fewer pixels
 *       128 x  64 x 64      36        4  64 x 32      156         2       72       24       7.6        320, 640 channels
 *        64 x  64 x 128     48        4  32 x 32       93         2       96       32       8.6        few pixels
 *
 *     So none is bound by shared memory, nor by instructions (32 cycles for each product, 16 on an RTX 6000 Ada).
 *     Warps of 64 x 64 would need less of both, but spill: 128 sums, and another 32 that wait to be added.
 * Speed: not measured yet.
 * Traps: code for sm_80 and 86 also runs on sm_89, where this kernel would be empty: hence code of its own
 *     (CMakeLists.txt), and cuda_igemm_has_e4m3 asks what it was compiled for.
 */
#include "kernels/cuda/igemm_mma.cuh"

/* ---- the tiles ---- */

#define IGEMM_TILES(X)                                                                                                 \
    X(128, 192, 64, 3, 2, 4, 1)                                                                                        \
    X(128, 96, 64, 3, 2, 2, 2)                                                                                         \
    X(128, 64, 64, 3, 2, 2, 2)                                                                                         \
    X(64, 64, 128, 3, 2, 2, 2)

#define IGEMM_ROW(m, n, k, stages, wm, wn, blocks) IGEMM_TILE("mma e4m3", m, n, k, blocks),
const igemm_tile igemm_e4m3_tiles[] = {IGEMM_TILES(IGEMM_ROW)};
const int igemm_e4m3_tiles_n = sizeof igemm_e4m3_tiles / sizeof igemm_e4m3_tiles[0];

#define IGEMM_E4M3(m, n, k, stages, wm, wn, blocks) igemm_run<igemm_cfg<dl_e4m3, m, n, k, stages, wm, wn, blocks> >,
static const igemm_runner igemm_e4m3[] = {IGEMM_TILES(IGEMM_E4M3)};

int igemm_e4m3_run(cudaStream_t s, int tile, const igemm_params &p, unsigned blocks)
{
    return igemm_e4m3[tile](s, p, blocks);
}

bool cuda_igemm_has_e4m3(void)
{
    return dl_compiled_for(igemm_mma<igemm_cfg<dl_e4m3, 64, 64, 128, 3, 2, 2, 2> >) >= 89;
}
