/* rng.h: noise that equals PyTorch's for the same seed.
 *
 * Two generators, as `torch.Generator("cpu")` and `torch.Generator("cuda")` hold them after manual_seed(seed). One
 * rng_normal call is one torch.randn call of n elements; the state runs on between calls exactly as torch's does, so a
 * pipeline that draws several times from one generator (IF: one draw a step) gets torch's numbers throughout. The order
 * of the elements is torch's, that is [row][channel][y][x].
 *
 * RNG_TORCH_CPU, mt19937. Bit for bit the values of torch 2.13 on x86 (its AVX2 kernel, which also serves AVX-512
 * machines): from 16 elements on, blocks of 16 are transformed in float32 with the Cephes logarithm, sine and cosine in
 * fused multiply-adds; fewer than 16 go through double precision, two at a time, and an odd one out is kept for the
 * next call. Only the low 32 bits of the seed count. f16 and bf16 are the float32 draw rounded once, except in the tail
 * of a size that is no multiple of 16 (rng_mt.c). The float path's bits do not depend on the machine that runs it.
 *
 * RNG_TORCH_CUDA, Philox4x32-10. Integers, layout over threads and the advance of the offset are exact. A draw of more
 * than sms * threads_per_sm elements depends on those two numbers, as it does in torch. The float functions are the C
 * library's where the GPU uses its fast intrinsics, so values are close and not equal: with s = sqrt(-2 ln u), at most
 * RNG_CUDA_BOUND * (1 + s) from what exact functions of the same u and v give (tested), to which the GPU's own
 * __sincosf adds up to 2^-21.4 * s for angles up to pi and somewhat more beyond (CUDA programming guide, intrinsics).
 *
 * Source: PyTorch's MT19937RNGEngine.h, CPUGeneratorImpl, DistributionTemplates (CPU and CUDA), CUDAGeneratorImpl;
 * curand_normal.h; M. Matsumoto, T. Nishimura, "Mersenne Twister" (1998); J. Salmon et al., "Parallel random numbers:
 * as easy as 1, 2, 3" (2011).
 */
#ifndef DL_RNG_H
#define DL_RNG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/type.h"

enum rng_kind { RNG_TORCH_CPU, RNG_TORCH_CUDA };

/* An H100's and H200's numbers, taken where no device says otherwise. */
#define RNG_DEFAULT_SMS 132
#define RNG_DEFAULT_THREADS_PER_SM 2048

#define RNG_CUDA_BOUND 2e-7f

struct dl_rng {
    enum rng_kind kind;
    uint64_t seed;
    /* RNG_TORCH_CUDA */
    uint64_t offset; /* torch's philox offset: in 32-bit draws a thread, a multiple of 4 */
    int32_t sms, threads_per_sm;
    /* RNG_TORCH_CPU */
    uint32_t mt[624];
    int32_t mt_next; /* index of the next state word; 624: a new block is due */
    bool has_cached;
    double cached; /* second normal of a pair, used by draws of fewer than 16 */
};

/* Starts the generator as manual_seed(seed) does. sms and threads_per_sm describe the GPU that torch would draw on (its
 * multiprocessors and the most threads resident on one: 2048 on A100, H100, H200; 1536 on RTX 30 and 40; 1024 on T4);
 * 0 takes the defaults above. Both are ignored for RNG_TORCH_CPU. */
void rng_seed(struct dl_rng *r, enum rng_kind kind, uint64_t seed, int sms, int threads_per_sm);

/* out[n]: n standard normal draws, one torch.randn call of n elements of type t (DL_F32, DL_F16 or DL_BF16; values are
 * rounded to t and stored as floats). n >= 0; a draw of 0 elements leaves the state alone. */
void rng_normal(struct dl_rng *r, float *out, int64_t n, enum dl_type t);

/* One Philox4x32-10 block: out[4] from counter ctr[4] and key[2], low word first. */
void rng_philox(uint32_t out[4], const uint32_t ctr[4], const uint32_t key[2]);

/* The two halves of rng_normal, in rng_mt.c and rng_philox.c. Values are float32, not yet rounded; `half` asks the CPU
 * generator for the tail that torch gives half types. */
void rng_mt_seed(struct dl_rng *r);
void rng_mt_normal(struct dl_rng *r, float *out, int64_t n, bool half);
void rng_philox_normal(struct dl_rng *r, float *out, int64_t n);

#endif
