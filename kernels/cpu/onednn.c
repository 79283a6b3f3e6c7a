#include "kernels/cpu/onednn.h"
#include "engine/e4m3.h"
#include "kernels/cpu/fast.h"
#include "kernels/cpu/onednn_prim.h"

static void pick_gemm(struct dl_run *r, const struct dl_gemm *a)
{
    const struct simd *s = simd_pick();
    if (dl_e4m3_takes(r, a)) { /* no CPU computes in it: for measuring what it costs in accuracy */
        ref_gemm(r, a);
        return;
    }
    if (!onednn_gemm(r, s, a)) fast_gemm(r, s, a);
}

static void pick_conv(struct dl_run *r, const struct dl_conv *a)
{
    const struct simd *s = simd_pick();
    if (onednn_conv(r, s, a)) return;
    (fast_wino_takes(s, a) ? fast_wino : fast_conv)(r, s, a);
}

static void pick_gnorm(struct dl_run *r, const struct dl_gnorm *a, float *mr) { fast_gnorm(r, simd_pick(), a, mr); }
static void pick_norm(struct dl_run *r, const struct dl_norm *a) { fast_norm(r, simd_pick(), a); }
static void pick_lnorm(struct dl_run *r, const struct dl_lnorm *a) { fast_lnorm(r, simd_pick(), a); }
static void pick_attn(struct dl_run *r, const struct dl_attn *a)
{
    const struct simd *s = simd_pick();
    if (!onednn_attn(r, s, a)) fast_attn(r, s, a);
}

static void pick_copy(struct dl_run *r, const struct dl_copy *a) { fast_copy(r, simd_pick(), a); }
static void pick_rope(struct dl_run *r, const struct dl_rope *a) { fast_rope(r, simd_pick(), a); }
static void pick_add(struct dl_run *r, const struct dl_add *a) { fast_add(r, simd_pick(), a); }

void onednn_init(struct dl_ops *ops)
{
    if (!simd_pick()) return;
    ops->gemm = pick_gemm;
    ops->conv = pick_conv;
    ops->gnorm = pick_gnorm;
    ops->norm = pick_norm;
    ops->lnorm = pick_lnorm;
    ops->attn = pick_attn;
    ops->copy = pick_copy;
    ops->rope = pick_rope;
    ops->add = pick_add;
}

bool onednn_has_bf16(void) { return simd_pick() && prim_has_bf16(); }
