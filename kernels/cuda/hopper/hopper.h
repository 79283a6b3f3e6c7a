/* hopper.h: launch functions of the Hopper tier (compute capability 9.0: wgmma, TMA, warp specialisation), beside
 * kernels.h, whose rules hold. hopper/ sources are compiled for sm_90a alone and reached only on such a device.
 *
 * encode: the driver's cuTensorMapEncodeTiled (cudaGetDriverEntryPoint; nothing links against the driver). Tensor maps
 * are made anew for each launch and travel by value as kernel parameters, so a captured graph holds its own: they
 * contain addresses, a map takes well under a microsecond of the host, and a recorded step makes none.
 */
#ifndef DL_HOPPER_H
#define DL_HOPPER_H

#include "kernels/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- hopper/attn.cu ---- */

/* cuda_attn for head dims 40, 64, 80, 128, 160 without bias, key mask and causal order. sms: multiprocessors. */
int cuda_attn_hopper(struct CUstream_st *s, const struct cuda_attn_args *a, void *encode, int sms);
/* "wgmma d64 128x128"; NULL: not served. always: also where the portable tier is thought to be the better one. */
const char *cuda_attn_hopper_variant(const struct cuda_attn_args *a, bool always);

/* ---- hopper/conv.cu ---- */

/* A way to compute a product or convolution: tiles of pixels x columns ("wgmma 256x160"; "wgmma 2x128x160": two of
 * them by turns). Names are unique and stay the same; `way` is for this build alone. */
enum { CUDA_CONV_HOPPER_WAYS = 7 };
struct cuda_hopper_way {
    const char *name;
    int way;
};

/* The ways to compute this (igemm.h), the one that is thought the fastest first; their number, 0: it is not served.
 * Served: f16 and bf16 x with channels of x and y multiples of 8, all on 16 bytes; k up to 7; stride 1 or 2;
 * enlargement by exactly 2. sms: multiprocessors. */
struct cuda_igemm_args;
int cuda_conv_hopper_ways(const struct cuda_igemm_args *a, int sms, struct cuda_hopper_way way[CUDA_CONV_HOPPER_WAYS]);
int cuda_conv_hopper(struct CUstream_st *s, const struct cuda_igemm_args *a, void *encode, int sms, int way);

#ifdef __cplusplus
}
#endif
#endif
