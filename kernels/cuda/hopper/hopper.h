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

/* The ways to compute a product or convolution (igemm.h), the one that is thought the fastest first and hopeless
 * ones left out; their number, 0: it is not served. A way is its name, which keeps its meaning: the pixels x columns
 * of a tile ("wgmma 256x160"; "wgmma 2x128x160": two of them by turns). Served: f16 and bf16 x with channels of x
 * and y multiples of 8, all on 16 bytes; k up to 7; stride 1 or 2; enlargement by exactly 2; e4m3 x and w ("wgmma e4m3
 * 128x192") as igemm.h says. y's parts are written where it has them: a set is a box of 32 pixels (of one phase when
 * enlarged), or 32 pixels in a row by a pass behind the product (conv_plan.h says when). sms: multiprocessors. */
enum { CUDA_CONV_HOPPER_WAYS = 7 };
struct cuda_igemm_args;
int cuda_conv_hopper_ways(const struct cuda_igemm_args *a, int sms, const char *way[CUDA_CONV_HOPPER_WAYS]);
/* By a way, CUDA_K_UNSUPPORTED where it cannot serve these arguments. */
int cuda_conv_hopper(struct CUstream_st *s, const struct cuda_igemm_args *a, void *encode, int sms, const char *way);

#ifdef __cplusplus
}
#endif
#endif
