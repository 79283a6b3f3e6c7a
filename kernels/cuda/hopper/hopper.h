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

/* cuda_igemm (igemm.h) for 3 x 3 convolutions of stride 1 without enlargement. */
struct cuda_igemm_args;
int cuda_conv_hopper(struct CUstream_st *s, const struct cuda_igemm_args *a, void *encode, int sms);
/* "wgmma 128x160", pixels x channels; NULL: not served, as above. Only with `always`, until it has been measured. */
const char *cuda_conv_hopper_variant(const struct cuda_igemm_args *a, bool always);

#ifdef __cplusplus
}
#endif
#endif
