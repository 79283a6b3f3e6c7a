/* tests/unit/test_stream.c on a GPU: copies by the backend's lanes beside its ops. */
#define RIG_CUDA
#include "tests/unit/test_stream.c"
