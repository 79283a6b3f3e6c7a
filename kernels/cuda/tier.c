/* Which tier of hand-written kernels runs: the portable one everywhere, the Hopper one (hopper/) besides on compute
 * capability 9.0, for the shapes that it serves and is thought to be better at. */
#include "kernels/cuda/cuda_priv.h"
#include "kernels/cuda/igemm.h"
#ifdef DLENS_HOPPER
#include "kernels/cuda/hopper/hopper.h"
#endif

#include <stdlib.h>
#include <string.h>

#ifdef DLENS_HOPPER
/* The driver's function that makes tensor maps: looked up, since nothing links against the driver. */
static int find_encode(struct dl_ctx *c, struct dl_err *e)
{
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const char *name = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
    cudaError_t rc = cudaGetDriverEntryPointByVersion(name, &c->tma_encode, 12000, cudaEnableDefault, &found);
#else
    cudaError_t rc = cudaGetDriverEntryPoint(name, &c->tma_encode, cudaEnableDefault, &found);
#endif
    if (rc == cudaSuccess && found == cudaDriverEntryPointSuccess && c->tma_encode) return 0;
    (void)cudaGetLastError();
    c->tma_encode = NULL;
    return dl_fail(e, DL_EFAIL, "the NVIDIA driver has no %s; DLENS_CUDA_TIER=portable does without", name);
}
#endif

int cuda_tier_open(struct dl_ctx *c, struct dl_err *e)
{
    const char *tier = getenv("DLENS_CUDA_TIER");
    if (!tier || !*tier) tier = "auto";
    if (strcmp(tier, "auto") && strcmp(tier, "portable") && strcmp(tier, "hopper"))
        return dl_fail(e, DL_EFAIL, "DLENS_CUDA_TIER is auto, portable or hopper, not %.40s", tier);
    c->hopper_always = !strcmp(tier, "hopper");
#ifdef DLENS_HOPPER
    if (strcmp(tier, "portable") && c->cc == 90) return find_encode(c, e);
#endif
    if (c->hopper_always)
        return dl_fail(e, DL_EFAIL, "DLENS_CUDA_TIER=hopper: %s",
                       c->cc == 90 ? "this dlens has no code for 90a" : "this GPU is not of compute capability 9.0");
    return 0;
}

int cuda_tier_conv(const struct dl_ctx *c, const struct cuda_igemm_args *a, const char *name[CUDA_WAYS])
{
#ifdef DLENS_HOPPER
    if (c->tma_encode) return cuda_conv_hopper_ways(a, c->sms, name);
#else
    (void)c, (void)a, (void)name;
#endif
    return 0;
}

int cuda_tier_conv_run(const struct dl_ctx *c, const struct cuda_igemm_args *a, const char *way)
{
#ifdef DLENS_HOPPER
    return cuda_conv_hopper(c->stream, a, c->tma_encode, c->sms, way);
#else
    (void)c, (void)a, (void)way;
    return CUDA_K_UNSUPPORTED;
#endif
}

/* The Hopper tier's way, or NULL. */
static const char *hopper_attn(const struct dl_ctx *c, const struct cuda_attn_args *a)
{
#ifdef DLENS_HOPPER
    if (c->tma_encode) return cuda_attn_hopper_variant(a, c->hopper_always);
#else
    (void)c, (void)a;
#endif
    return NULL;
}

int cuda_tier_attn(const struct dl_ctx *c, const struct cuda_attn_args *a, const char *name[CUDA_WAYS])
{
    int n = 0;
    if ((name[0] = hopper_attn(c, a))) n = 1;
    for (int i = 0; n < CUDA_WAYS && !(n == 1 && c->hopper_always); i++, n++)
        if (!(name[n] = cuda_attn_variant(a, i))) break;
    return n;
}

int cuda_tier_attn_run(const struct dl_ctx *c, const struct cuda_attn_args *a, int way)
{
#ifdef DLENS_HOPPER
    if (hopper_attn(c, a) && way-- == 0) return cuda_attn_hopper(c->stream, a, c->tma_encode, c->sms);
#endif
    return cuda_attn(c->stream, a, way);
}
