/* tests/kernels/test_rope.c with the CUDA table; the CPU reference runs beside it. */
#define RIG_CUDA
#include "tests/kernels/test_rope.c"
