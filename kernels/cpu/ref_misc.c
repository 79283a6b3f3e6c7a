/* Reference of the small ops: embedding, sinusoids, copy, add, pick, resize, scheduler steps, image. */
#include "engine/sched.h"
#include "kernels/cpu/cpu_priv.h"

#include <math.h>

void ref_embed(struct dl_run *r, const struct dl_embed *a)
{
    r->variant = "reference";
    const uint8_t *table = cpu_w_plain(r, a->table, a->y.t), *pos = a->pos ? cpu_w_plain(r, a->pos, a->y.t) : NULL;
    if (dl_run_is_dry(r) || !dl_run_ok(r)) return;
    int64_t bytes = a->y.c * (int64_t)dl_type_bytes(a->y.t);
    for (int64_t i = 0; i < a->y.n; i++)
        for (int64_t p = 0; p < a->y.w; p++) {
            const uint8_t *s = table + a->ids[i * a->y.w + p] * bytes;
            void *d = cpu_at(&a->y, i, p);
            if (!pos) memcpy(d, s, (size_t)bytes);
            for (int32_t c = 0; c < a->y.c && pos; c++)
                dl_store(d, a->y.t, c, dl_load(s, a->y.t, c) + dl_load(pos + p * bytes, a->y.t, c));
        }
}

/* In float, operation by operation as diffusers has it: with t near 1000 another rounding of the angle would show. */
void ref_sinus(struct dl_run *r, const struct dl_sinus *a)
{
    r->variant = "reference";
    if (dl_run_is_dry(r)) return;
    int32_t half = a->y.c / 2;
    for (int64_t i = 0; i < a->y.n; i++) {
        void *d = cpu_at(&a->y, i, 0);
        for (int32_t j = 0; j < half; j++) {
            float angle = a->t[i] * expf(-9.210340371976184f * (float)j / ((float)half - a->shift));
            dl_store(d, a->y.t, a->flip ? half + j : j, sinf(angle));
            dl_store(d, a->y.t, a->flip ? j : half + j, cosf(angle));
        }
    }
}

static void copy_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct dl_copy *a = arg;
    int64_t pixels = cpu_pixels(&a->y);
    for (int64_t q = from; q < to; q++) {
        int64_t i = q / pixels, p = q % pixels, s = a->row ? a->row[i] : a->x.n == 1 ? 0 : i;
        const void *x = cpu_at(&a->x, s, p);
        void *y = cpu_at(&a->y, i, p);
        if (a->a == 1 && a->b == 0 && a->fn == DL_NONE) {
            dl_convert(y, a->y.t, x, a->x.t, a->y.c);
            continue;
        }
        for (int32_t c = 0; c < a->y.c; c++) {
            double v = (double)dl_load(x, a->x.t, c) * (double)a->a + (double)a->b;
            dl_store(y, a->y.t, c, (float)ref_fn(a->fn, v));
        }
    }
}

void ref_copy(struct dl_run *r, const struct dl_copy *a)
{
    r->variant = "reference";
    if (dl_run_is_dry(r)) return;
    pool_for(r->ctx->pool, a->y.n * cpu_pixels(&a->y), 64, copy_items, (void *)(uintptr_t)a);
}

static void add_items(void *arg, int64_t from, int64_t to, int worker)
{
    (void)worker;
    const struct dl_add *a = arg;
    int64_t pixels = cpu_pixels(&a->y);
    for (int64_t q = from; q < to; q++) {
        const void *x = cpu_at(&a->a, q / pixels, q % pixels), *z = cpu_at(&a->b, q / pixels, q % pixels);
        void *y = cpu_at(&a->y, q / pixels, q % pixels);
        for (int32_t c = 0; c < a->y.c; c++) dl_store(y, a->y.t, c, dl_load(x, a->a.t, c) + dl_load(z, a->b.t, c));
    }
}

void ref_add(struct dl_run *r, const struct dl_add *a)
{
    r->variant = "reference";
    if (dl_run_is_dry(r)) return;
    pool_for(r->ctx->pool, a->y.n * cpu_pixels(&a->y), 64, add_items, (void *)(uintptr_t)a);
}

void ref_pick(struct dl_run *r, const struct dl_pick *a)
{
    r->variant = "reference";
    if (dl_run_is_dry(r)) return;
    for (int64_t i = 0; i < a->y.n; i++)
        dl_convert(cpu_at(&a->y, i, 0), a->y.t, cpu_vec_at(r, a->table, a->row[i]), a->table.t, a->y.c);
}

struct resize {
    const struct dl_resize *a;
    float *tmp; /* [workers][2][c] */
};

static void resize_items(void *arg, int64_t from, int64_t to, int worker)
{
    const struct resize *g = arg;
    const dl_act *x = &g->a->x, *y = &g->a->y;
    int64_t pixels = cpu_pixels(y), c = x->c;
    float *sum = g->tmp + worker * 2 * c, *tmp = sum + c;
    for (int64_t q = from; q < to; q++) {
        int64_t i = q / pixels, row = q % pixels / y->w, column = q % pixels % y->w;
        if (g->a->kind == DL_RESIZE_NEAREST) {
            int64_t src = row * x->h / y->h * x->w + column * x->w / y->w;
            dl_convert(cpu_at(y, i, q % pixels), y->t, cpu_at(x, i, src), x->t, c);
            continue;
        }
        memset(sum, 0, (size_t)c * sizeof *sum);
        for (int k = 0; k < 4; k++) {
            const float *v = cpu_f32(cpu_at(x, i, (2 * row + k / 2) * x->w + 2 * column + k % 2), x->t, c, tmp);
            for (int64_t j = 0; j < c; j++) sum[j] += v[j];
        }
        for (int64_t j = 0; j < c; j++) sum[j] *= 0.25f;
        dl_convert(cpu_at(y, i, q % pixels), y->t, sum, DL_F32, c);
    }
}

void ref_resize(struct dl_run *r, const struct dl_resize *a)
{
    r->variant = "reference";
    struct dl_mark mark = dl_arena_mark(&r->arena);
    struct resize g = {.a = a, .tmp = cpu_scratch(r, (int64_t)r->ctx->threads * 2 * a->x.c * 4)};
    if (!dl_run_is_dry(r) && !r->arena.failed) pool_for(r->ctx->pool, a->y.n * cpu_pixels(&a->y), 64, resize_items, &g);
    dl_arena_release_hi(&r->arena, mark);
}

void ref_sched_in(struct dl_run *r, const struct dl_sched_in *a)
{
    r->variant = "reference";
    struct dl_mark mark = dl_arena_mark(&r->arena);
    float *tmp = cpu_scratch(r, (int64_t)a->y.c * 4);
    if (!dl_run_is_dry(r) && !r->arena.failed)
        for (int64_t i = 0; i < a->y.n; i++)
            for (int64_t p = 0; p < cpu_pixels(&a->y); p++) {
                sched_input(&a->table->step[r->step], cpu_at(&a->latent, a->row[i], p), tmp, a->y.c);
                dl_convert(cpu_at(&a->y, i, p), a->y.t, tmp, DL_F32, a->y.c);
            }
    dl_arena_release_hi(&r->arena, mark);
}

/* A contiguous f32 copy [pixels][c] of the channels [from, from + c) of row i. */
static void flatten(float *d, const dl_act *x, int64_t i, int32_t from, int32_t c)
{
    for (int64_t p = 0; p < cpu_pixels(x); p++)
        dl_convert(d + p * c, DL_F32, (const uint8_t *)cpu_at(x, i, p) + (int64_t)from * dl_type_bytes(x->t), x->t, c);
}

static void unflatten(const dl_act *x, int64_t i, const float *s)
{
    for (int64_t p = 0; p < cpu_pixels(x); p++) memcpy(cpu_at(x, i, p), s + p * x->c, (size_t)x->c * sizeof *s);
}

enum { STEP_ARRAYS = 6 + SCHED_SLOTS };

/* One image through contiguous copies, so that pitches and types are of no concern to engine/sched.c.
 * work: STEP_ARRAYS arrays [n]. */
static void step_image(struct dl_run *r, const struct dl_sched_step *a, int64_t i, float *work)
{
    int64_t n = cpu_pixels(&a->latent) * a->latent.c;
    int32_t c = a->latent.c;
    struct sched_image im = {.x = work, .cond = work + n};
    flatten(im.x, &a->latent, i, 0, c);
    flatten(work + n, &a->eps, a->c_row[i], 0, c);
    if (a->u_row) {
        flatten(work + 2 * n, &a->eps, a->u_row[i], 0, c);
        im.uncond = work + 2 * n;
    }
    if (a->table->learned_var && a->table->use_var) {
        flatten(work + 3 * n, &a->eps, a->c_row[i], c, c);
        im.var = work + 3 * n;
    }
    if (a->table->step[r->step].draws) {
        flatten(work + 4 * n, &a->noise, i, 0, c);
        im.noise = work + 4 * n;
    }
    for (int k = 0; k < a->table->slots; k++) {
        im.slot[k] = work + (6 + k) * n;
        flatten(im.slot[k], &a->history, k * (int64_t)a->latent.n + i, 0, c);
    }
    if (a->table->threshold > 0) im.threshold = sched_threshold(a->table, r->step, a->guidance, &im, n, work + 5 * n);
    sched_apply(a->table, r->step, a->guidance, &im, n);
    unflatten(&a->latent, i, im.x);
    for (int k = 0; k < a->table->slots; k++) unflatten(&a->history, k * (int64_t)a->latent.n + i, im.slot[k]);
}

void ref_sched_step(struct dl_run *r, const struct dl_sched_step *a)
{
    r->variant = "reference";
    struct dl_mark mark = dl_arena_mark(&r->arena);
    float *work = cpu_scratch(r, STEP_ARRAYS * cpu_pixels(&a->latent) * a->latent.c * 4);
    if (!dl_run_is_dry(r) && !r->arena.failed)
        for (int64_t i = 0; i < a->latent.n; i++) step_image(r, a, i, work);
    dl_arena_release_hi(&r->arena, mark);
}

void ref_image(struct dl_run *r, const struct dl_image *a)
{
    r->variant = "reference";
    if (dl_run_is_dry(r)) return;
    for (int64_t i = 0; i < a->x.n; i++)
        for (int64_t p = 0; p < cpu_pixels(&a->x); p++)
            for (int c = 0; c < 3; c++) {
                float v = dl_load(cpu_at(&a->x, i, p), a->x.t, c) / 2 + 0.5f;
                v = v > 0 ? v < 1 ? v : 1 : 0; /* a NaN becomes 0 */
                a->u8[(i * cpu_pixels(&a->x) + p) * 3 + c] = (uint8_t)nearbyintf(v * 255);
            }
}

void ref_init(struct dl_ops *ops)
{
    *ops = (struct dl_ops){
        .gemm = ref_gemm,
        .conv = ref_conv,
        .gnorm = ref_gnorm,
        .norm = ref_norm,
        .lnorm = ref_lnorm,
        .attn = ref_attn,
        .embed = ref_embed,
        .sinus = ref_sinus,
        .copy = ref_copy,
        .add = ref_add,
        .pick = ref_pick,
        .rope = ref_rope,
        .resize = ref_resize,
        .rel_bias = ref_rel_bias,
        .token_mean = ref_token_mean,
        .sched_in = ref_sched_in,
        .sched_step = ref_sched_step,
        .image = ref_image,
    };
}
