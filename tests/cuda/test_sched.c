/* tests/kernels/test_sched.c with the CUDA table; the CPU reference runs beside it. */
#define RIG_CUDA
#include "tests/kernels/test_sched.c"
