/* tests/kernels/test_e4m3.c with the CUDA table; the CPU reference runs beside it. */
#define RIG_CUDA
#define RIG_CUDA_PIECE_BYTES 8192 /* several pieces a product */
#include "tests/kernels/test_e4m3.c"
