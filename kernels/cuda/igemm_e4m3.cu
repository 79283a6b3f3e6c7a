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

bool cuda_igemm_has_e4m3(void) { return dl_compiled_for(igemm_mma<igemm_cfg<dl_e4m3, 64, 64, 128, 3, 2, 2, 2> >) >= 89; }
