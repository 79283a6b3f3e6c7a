/* igemm_mma.cu: the implicit GEMM by tensor cores, in tiles of several sizes; portable tier: mma.sync, ldmatrix,
 * cp.async.
 *
 * Computes: cuda_igemm of igemm.h, or with split > 1 f32 sums of parts of the inner dimension, which igemm_add
 *     finishes.
 * Needs: sm_80; f16 or bf16, channels and pitches of x multiples of 8, x and w on 16 bytes.
 * How: a block makes TM pixels x TN channels, in f32 registers of its warps. The inner dimension goes by slices of TK
 *     channels of one tap through STAGES of shared memory, filled by cp.async (16 bytes a thread, zeros in the padding
 *     and beyond the edges) and read by ldmatrix; pieces of 16 bytes are swapped within rows, so that neither side
 *     meets bank conflicts. A thread holds 64-bit addresses of its rows in the current tap and a common offset; what is
 *     padding is a bit mask. Taps outside, channels inside, 16 at a time, ascending: every tile adds in the same order
 *     and gives the same bits. With GLU 8 rows of w's first half and 8 of its second come in turn, so both factors of
 *     an output lie in one tile.
 * Budget: computed; registers as nvcc 13.0 gives them for sm_86, without local memory on sm_80, 86, 89, 90a, 120.
 *     Blocks: on a multiprocessor of 100 KB (sm_86, 89, 120) and 164 (sm_80). Bytes: of shared memory (read and
 *     written) and of second-level cache, for 1,024 products, which is what sm_80 multiplies in a cycle (A6000 512,
 *     GeForce 256, with f32 sums); shared memory moves 128 bytes a cycle.
 *
 *                        shared KB   warps of       registers   blocks   shared    L2   meant for
 *       256 x 128 x 32      72        8  64 x 64      235         1  1       88     24
 *       128 x 128 x 32      48        8  64 x 32      126         2  2      128     32
 *        96 x 160 x 32      48        6  32 x 80      165         2  2      124     34   320, 640, 960, 1280 channels
 *       128 x  64 x 32      36        4  64 x 32      162         2  3      144     48
 *        64 x  64 x 64      48        4  32 x 32      122         2  3      192     64   few pixels
 *       128 x  32 x 32      30        4  32 x 32      118         3  4      208     80   few channels
 *
 *     A slice of the first takes a warp 64 products of 16 x 8 x 16 (HMMA), 16 ldmatrix, 6 cp.async and 38 integer
 *     instructions on sm_80: 0.6 a product; the others 0.9, 1.0, 1.2, 1.5, 2.0.
 *     So on sm_80 the smaller tiles are bound by shared memory (128 of 144 is 89 %), elsewhere none is. 128 x 160 would
 *     take 54 KB, one block of 100, and with two stages and two blocks all of 128 registers.
 * Speed: not measured yet.
 * Traps: a source outside its array is never read (cp.async of 0 bytes) but its address is computed. Fewer than 2^31
 *     pixels and tiles.
 */
#include "kernels/cuda/igemm_mma.cuh"

/* ---- the tiles ---- */

#define IGEMM_TILES(X)                                                                                                 \
    X(256, 128, 32, 3, 4, 2, 1)                                                                                        \
    X(128, 128, 32, 3, 2, 4, 2)                                                                                        \
    X(96, 160, 32, 3, 3, 2, 2)                                                                                         \
    X(128, 64, 32, 3, 2, 2, 2)                                                                                         \
    X(64, 64, 64, 3, 2, 2, 2)                                                                                          \
    X(128, 32, 32, 3, 4, 1, 3)

#define IGEMM_ROW(m, n, k, stages, wm, wn, blocks) IGEMM_TILE("mma", m, n, k, blocks),
const igemm_tile igemm_tiles[] = {IGEMM_TILES(IGEMM_ROW)};
const int igemm_tiles_n = sizeof igemm_tiles / sizeof igemm_tiles[0];

#define IGEMM_F16(m, n, k, stages, wm, wn, blocks) igemm_run<igemm_cfg<dl_half, m, n, k, stages, wm, wn, blocks> >,
#define IGEMM_BF16(m, n, k, stages, wm, wn, blocks) igemm_run<igemm_cfg<dl_bf16, m, n, k, stages, wm, wn, blocks> >,
static const igemm_runner igemm_f16[] = {IGEMM_TILES(IGEMM_F16)}, igemm_bf16[] = {IGEMM_TILES(IGEMM_BF16)};

int igemm_mma_run(cudaStream_t s, int tile, const igemm_params &p, unsigned blocks)
{
    return (p.x.t == DL_F16 ? igemm_f16 : igemm_bf16)[tile](s, p, blocks);
}
