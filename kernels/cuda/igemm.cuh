/* igemm.cuh: what the implicit GEMM's files share: igemm.cu (choice, launch, sum of parts), igemm_mma.cu and
 * igemm_e4m3.cu (tiles by tensor cores, with igemm_mma.cuh), igemm_plain.cu (every type and shape). */
#ifndef DL_CUDA_IGEMM_CUH
#define DL_CUDA_IGEMM_CUH

#include "kernels/cuda/dev/epilogue.cuh"
#include "kernels/cuda/igemm.h"

/* Everything a kernel needs, in parameter memory. */
struct igemm_params {
    cuda_epi_args e; /* e.y: the output */
    dl_act x;
    const void *w;
    int32_t k, stride, up;
    int32_t see_h, see_w; /* the image that taps see: x's, or y's where x is enlarged */
    int32_t m, out, in;   /* rows of the product, outputs, channels of a tap */
    int32_t taps, inner;  /* k k, and k k in */
    int32_t pixels;       /* of one image of y */
    int32_t wide;         /* the epilogue goes by 8 channels */
    int32_t columns;      /* tiles of channels; tiles are counted channels first, so that neighbours share pixels */
    /* mma: */
    int32_t slices, split; /* of a tap; parts of the inner dimension */
    int64_t w_step;        /* bytes from a row of w that a thread loads to its next */
    int64_t x_step;        /* of e4m3, the same of x */
    float *part;           /* split > 1: sums [split][part_rows][part_ld], columns in the tile's order */
    int64_t part_rows;
    int32_t part_ld;
};

/* One size of tile, as igemm.cu sees it. */
struct igemm_tile {
    int32_t tm, tn, tk;  /* pixels, channels (rows of w: two for an output with glu), of the inner dimension */
    int32_t blocks;      /* on a multiprocessor with 100 KB */
    const char *name[4]; /* of split 1, 2, 4, 8 */
};

extern const igemm_tile igemm_tiles[], igemm_e4m3_tiles[];
extern const int igemm_tiles_n, igemm_e4m3_tiles_n;

/* The way of one tile (index in igemm_tiles, or igemm_e4m3_tiles where x is of e4m3; IGEMM_PLAIN_TILE: the plain kernel) and split 1, 2, 4, 8; false: it does
 * not serve these arguments. Whether it is any good is not asked. */
enum { IGEMM_PLAIN_TILE = -1 };
bool igemm_way(const cuda_igemm_args *a, int tile, int split, cuda_igemm_way *way);

/* p complete but for w_step and x_step. */
int igemm_mma_run(cudaStream_t s, int tile, const igemm_params &p, unsigned blocks);
int igemm_e4m3_run(cudaStream_t s, int tile, const igemm_params &p, unsigned blocks);

enum { IGEMM_PLAIN = 64 }; /* the plain kernel's pixels and channels a tile */
int igemm_plain_run(cudaStream_t s, const igemm_params &p, unsigned blocks);

/* Where one output pixel lies. */
struct igemm_place {
    int32_t image, pixel;
};

__device__ __forceinline__ igemm_place igemm_place_of(const igemm_params &p, int32_t row)
{
    igemm_place at;
    at.image = row / p.pixels, at.pixel = row - at.image * p.pixels;
    return at;
}

/* Row `row` of the product as a thread gathers it: its image, -1 where there is no such row, and the pixel that tap 0
 * sees. */
__device__ __forceinline__ void igemm_gather(const igemm_params &p, int32_t row, int32_t *image, int32_t *y, int32_t *x)
{
    igemm_place at = igemm_place_of(p, row < p.m ? row : 0);
    int32_t oy = at.pixel / p.e.y.w, ox = at.pixel - oy * p.e.y.w;
    *image = row < p.m ? at.image : -1;
    *y = oy * p.stride - p.k / 2, *x = ox * p.stride - p.k / 2;
}

/* Element of x where pixel (y, x) of the image that taps see begins, or -1 in the padding. */
__device__ __forceinline__ int64_t igemm_source(const igemm_params &p, int32_t image, int32_t y, int32_t x)
{
    if (image < 0 || (uint32_t)y >= (uint32_t)p.see_h || (uint32_t)x >= (uint32_t)p.see_w) return -1;
    if (p.up) {
        y = (int32_t)((uint32_t)y * (uint32_t)p.x.h / (uint32_t)p.see_h);
        x = (int32_t)((uint32_t)x * (uint32_t)p.x.w / (uint32_t)p.see_w);
    }
    return image * p.x.rs + (int64_t)(y * p.x.w + x) * p.x.ld;
}

/* Where piece `piece` (16 bytes) of row `row` lies in a stage of rows of 64 or 128 bytes, in bytes: swapped so that
 * neither cp.async nor ldmatrix meets bank conflicts. Rows 8 apart are swapped alike. */
template <int ROW> __device__ __forceinline__ int32_t igemm_swizzled(int32_t row, int32_t piece)
{
    return row * ROW + (piece ^ (ROW == 64 ? row >> 1 & 3 : row & 7)) * 16;
}

/* With glu, w's rows are taken as 8 outputs, then their 8 gates, in turn: the column of output o; its gate's is 8 on.
 * So both lie in one tile, whatever its size. */
__device__ __forceinline__ int32_t igemm_column(const igemm_params &p, int32_t o)
{
    return p.e.glu ? (o >> 3) * 16 + (o & 7) : o;
}

/* V sums of outputs o .. of row `row` to y; s2: the gates' with glu. */
template <int V>
__device__ __forceinline__ void igemm_store(const igemm_params &p, int step, int32_t row, int32_t o, float *s,
                                            float *s2)
{
    igemm_place at = igemm_place_of(p, row);
    k_epi<V>(p.e, step, at.image, at.pixel, o, s, s2);
    k_store_t<V>(p.e.y.p, p.e.y.t, k_at(p.e.y, at.image, at.pixel, o), s);
}

#endif
