/* rng.c: the choice of generator, and the rounding to the type that was asked for. */
#include "engine/rng.h"

#include <assert.h>

void rng_seed(struct dl_rng *r, enum rng_kind kind, uint64_t seed, int sms, int threads_per_sm)
{
    assert(sms >= 0 && threads_per_sm >= 0);
    *r = (struct dl_rng){.kind = kind, .seed = seed};
    r->sms = sms ? sms : RNG_DEFAULT_SMS;
    r->threads_per_sm = threads_per_sm ? threads_per_sm : RNG_DEFAULT_THREADS_PER_SM;
    if (kind == RNG_TORCH_CPU) rng_mt_seed(r);
}

void rng_normal(struct dl_rng *r, float *out, int64_t n, enum dl_type t)
{
    assert(n >= 0 && (t == DL_F32 || t == DL_F16 || t == DL_BF16));
    if (n == 0) return;
    if (r->kind == RNG_TORCH_CPU)
        rng_mt_normal(r, out, n, t != DL_F32);
    else
        rng_philox_normal(r, out, n);
    if (t == DL_F16) {
        for (int64_t i = 0; i < n; i++) out[i] = dl_f16_to(dl_f16_of(out[i]));
    } else if (t == DL_BF16) {
        for (int64_t i = 0; i < n; i++) out[i] = dl_bf16_to(dl_bf16_of(out[i]));
    }
}
