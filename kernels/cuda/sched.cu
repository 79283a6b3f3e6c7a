/* sched.cu: a network's input and one scheduler step on the device, with guidance; noise.
 *
 * Computes: cuda_sched_in, cuda_sched_step (engine/sched.h's combination, one rounded operation after the other, never
 *     fused, so the bits are sched_apply's), cuda_step_next, cuda_noise (torch's CUDA generator).
 * Needs: sm_80; the table's steps on the device; any pitches.
 * How: a thread an element. The dynamic threshold is a kernel before it: a block an image (256 threads, 1024 beyond 4,096
 *     elements) finds the two order statistics by four histograms over the bits of |q|, recomputing q each time (integer
 *     counts: always the same result).
 *     Noise: a Philox block of four normals a thread, in torch's layout over threads.
 * Budget: 1 KB + of shared memory for the threshold; about 40 registers.
 * Speed: not measured yet. A latent is a few hundred KB: launch latency is all of it.
 * Traps: the exponential of a learned variance is taken in double, an exp of its own for each element of a step that
 *     draws. History is read before it is written and a slot may be both. The normals use logf and __sincosf, as
 *     curand does; the host's generator uses library functions (engine/rng.h has the bound).
 */
#include "kernels/cuda/dev/convert.cuh"
#include "kernels/cuda/dev/reduce.cuh"

__global__ void __launch_bounds__(K_THREADS) sched_in_kernel(cuda_sched_in_args a)
{
    uint32_t i = blockIdx.x * (uint32_t)K_THREADS + threadIdx.x, p = i / (uint32_t)a.y.c, c = i % (uint32_t)a.y.c;
    if ((int64_t)p >= (int64_t)a.y.h * a.y.w) return;
    int64_t row = a.row ? dl_ld(a.row + blockIdx.y) : blockIdx.y;
    float x = dl_ld(static_cast<const float *>(a.latent.p) + k_at(a.latent, row, p, c));
    float v = dl_div_rn(x, dl_ld(&a.steps[k_step(a.step)].in_div));
    k_store_t<1>(a.y.p, a.y.t, k_at(a.y, blockIdx.y, p, c), &v);
}

int cuda_sched_in(struct CUstream_st *s, const struct cuda_sched_in_args *args)
{
    struct cuda_sched_in_args a = *args;
    unsigned blocks = k_blocks(k_pixels(&a.y) * a.y.c);
    if (!blocks || a.y.n < 1 || a.y.n > K_MAX_ROWS || !k_float(a.y.t) || a.latent.t != DL_F32)
        return CUDA_K_UNSUPPORTED;
    return DL_LAUNCH(sched_in_kernel, dim3(blocks, (unsigned)a.y.n), K_THREADS, 0, s, a);
}

/* sum + c v, or c v where nothing stands before it, or sum where c is 0. */
struct sched_sum {
    float v;
    bool any;
};

__device__ __forceinline__ void sum_add(sched_sum &s, float c, float v)
{
    if (c == 0) return;
    float p = dl_mul_rn(c, v);
    s.v = s.any ? dl_add_rn(s.v, p) : p;
    s.any = true;
}

__device__ __forceinline__ sched_sum sum_zero()
{
    sched_sum s;
    s.v = 0, s.any = false;
    return s;
}

struct sched_values {
    float e, m, x, x_in, r, q;
};

__device__ __forceinline__ float *sched_slot(const cuda_sched_step_args &a, int slot, int64_t image, int64_t p,
                                             int64_t c)
{
    return static_cast<float *>(a.history.p) + k_at(a.history, (int64_t)slot * a.latent.n + image, p, c);
}

/* All up to the threshold. A slot whose coefficient is 0 is not read. */
__device__ __forceinline__ sched_values sched_inner(const cuda_sched_step_args &a, const sched_step &s, int64_t image,
                                                    int64_t p, int64_t c)
{
    sched_values v;
    k_load_t<1>(&v.e, a.eps.p, a.eps.t, k_at(a.eps, dl_ld(a.c_row + image), p, c));
    if (a.u_row) {
        float u;
        k_load_t<1>(&u, a.eps.p, a.eps.t, k_at(a.eps, dl_ld(a.u_row + image), p, c));
        v.e = dl_add_rn(u, dl_mul_rn(a.guidance, dl_sub_rn(v.e, u)));
    }
    sched_sum t = sum_zero();
    sum_add(t, s.m_e, v.e);
#pragma unroll
    for (int k = 0; k < SCHED_SLOTS; k++)
        if (s.m_h[k] != 0) sum_add(t, s.m_h[k], dl_ld(sched_slot(a, s.h_slot[k], image, p, c)));
    v.m = dl_div_rn(dl_mul_rn(t.v, s.m_mul), s.m_div);
    v.x_in = dl_ld(static_cast<const float *>(a.latent.p) + k_at(a.latent, image, p, c));
    v.x = s.base_slot >= 0 ? dl_ld(sched_slot(a, s.base_slot, image, p, c)) : v.x_in;
    t = sum_zero();
    sum_add(t, s.r_m, v.m);
    sum_add(t, s.r_x, v.x);
    v.r = t.v;
    t = sum_zero();
    sum_add(t, s.q_x, v.x);
    sum_add(t, s.q_m, v.m);
    sum_add(t, s.q_r, v.r);
    v.q = dl_div_rn(t.v, s.q_div);
    return v;
}

__global__ void __launch_bounds__(K_THREADS) sched_step_kernel(cuda_sched_step_args a)
{
    uint32_t i = blockIdx.x * (uint32_t)K_THREADS + threadIdx.x, p = i / (uint32_t)a.latent.c,
             c = i % (uint32_t)a.latent.c;
    if ((int64_t)p >= (int64_t)a.latent.h * a.latent.w) return;
    int64_t image = blockIdx.y;
    const sched_step s = a.steps[k_step(a.step)];
    sched_values v = sched_inner(a, s, image, p, c);
    if (a.threshold > 0) {
        float limit = dl_ld(a.quantile + image);
        v.q = dl_div_rn(dl_min(dl_max(v.q, -limit), limit), limit);
    }
    sched_sum t = sum_zero();
    sum_add(t, s.d_q, v.q);
    sum_add(t, s.d_x, v.x);
    if (s.d_h != 0) sum_add(t, s.d_h, dl_ld(sched_slot(a, s.h_slot[0], image, p, c)));
    float d = dl_div_rn(dl_mul_rn(t.v, s.d_mul), s.d_div);
    t = sum_zero();
    sum_add(t, s.x_x, v.x);
    sum_add(t, s.x_q, v.q);
    sum_add(t, s.x_r, v.r);
    sum_add(t, s.x_d, d);
    if (s.draws) {
        float std = s.x_noise;
        if (a.use_var) {
            float f;
            k_load_t<1>(&f, a.eps.p, a.eps.t, k_at(a.eps, dl_ld(a.c_row + image), p, a.latent.c + c));
            f = dl_mul_rn(dl_add_rn(f, 1), 0.5f);
            f = dl_add_rn(dl_mul_rn(f, s.log_var_max), dl_mul_rn(dl_sub_rn(1, f), s.log_var_min));
            std = (float)exp((double)dl_mul_rn(0.5f, f));
        }
        sum_add(t, std, dl_ld(static_cast<const float *>(a.noise.p) + k_at(a.noise, image, p, c)));
    }
    if (s.push != SCHED_PUSH_NONE) dl_st(sched_slot(a, s.push_slot, image, p, c), s.push == SCHED_PUSH_E ? v.e : v.q);
    if (s.save_slot >= 0) dl_st(sched_slot(a, s.save_slot, image, p, c), v.x_in);
    dl_st(static_cast<float *>(a.latent.p) + k_at(a.latent, image, p, c), t.v);
}

/* |q| of element i; images of up to 2^24 elements. */
__device__ __forceinline__ float sched_abs_q(const cuda_sched_step_args &a, const sched_step &s, int64_t image,
                                             uint32_t i)
{
    return fabsf(sched_inner(a, s, image, i / (uint32_t)a.latent.c, i % (uint32_t)a.latent.c).q);
}

/* torch.quantile(|q|, threshold) of an image, clamped to [1, threshold_max]; T threads, 256 or more. For floats >= 0
 * the order of the bits is the order of the values. */
template <int T> __global__ void __launch_bounds__(T, 1024 / T) sched_threshold_kernel(cuda_sched_step_args a)
{
    DL_SHARED(uint32_t, count, 256);
    DL_SHARED(uint32_t, found, 2); /* digit, rank within it */
    DL_SHARED(float, tmp, T / 32);
    int64_t image = blockIdx.x;
    uint32_t all = (uint32_t)a.latent.h * (uint32_t)a.latent.w * (uint32_t)a.latent.c;
    const sched_step s = a.steps[k_step(a.step)];
    float rank = dl_mul_rn(a.threshold, (float)(all - 1)), whole = floorf(rank), w = dl_sub_rn(rank, whole);
    uint32_t left = (uint32_t)whole, prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) count[threadIdx.x] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < all; i += T) {
            uint32_t bits = dl_f32_bits(sched_abs_q(a, s, image, i));
            if (shift == 24 || bits >> (shift + 8) == prefix >> (shift + 8))
                dl_atomic_add(count + (bits >> shift & 255), 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = 0, n = left;
            while (digit < 255 && n >= count[digit]) n -= count[digit++];
            found[0] = digit;
            found[1] = n;
        }
        __syncthreads();
        prefix |= found[0] << shift;
        left = found[1];
    }
    float lo = dl_bits_f32(prefix), above = dl_bits_f32(0x7f800000u), more = 0;
    if (threadIdx.x == 0) more = (float)(count[prefix & 255] - left); /* elements equal to lo from its rank on */
    for (uint32_t i = threadIdx.x; i < all; i += T) {
        float q = sched_abs_q(a, s, image, i);
        if (q > lo) above = dl_min(above, q);
    }
    above = k_block_min<T / 32>(above, tmp);
    if (threadIdx.x != 0) return;
    float hi = lo;
    if (ceilf(rank) != whole && more < 2 && above < dl_bits_f32(0x7f800000u)) hi = above;
    float v = w < 0.5f ? dl_add_rn(lo, dl_mul_rn(w, dl_sub_rn(hi, lo)))
                       : dl_sub_rn(hi, dl_mul_rn(dl_sub_rn(hi, lo), dl_sub_rn(1, w)));
    dl_st(a.quantile + image, dl_min(dl_max(v, 1.f), a.threshold_max));
}

int cuda_sched_step(struct CUstream_st *s, const struct cuda_sched_step_args *args)
{
    struct cuda_sched_step_args a = *args;
    unsigned blocks = k_blocks(k_pixels(&a.latent) * a.latent.c);
    if (!blocks || a.latent.n < 1 || a.latent.n > K_MAX_ROWS || !k_float(a.eps.t) || a.latent.t != DL_F32 ||
        (a.history.p && a.history.t != DL_F32) || (a.noise.p && a.noise.t != DL_F32) ||
        (a.threshold > 0 && !a.quantile) ||
        (a.threshold > 0 && k_pixels(&a.latent) * a.latent.c > 1 << 24)) /* ranks are exact in f32 up to there */
        return CUDA_K_UNSUPPORTED;
    if (a.threshold > 0) {
        unsigned n = (unsigned)a.latent.n;
        bool large = k_pixels(&a.latent) * a.latent.c > 1 << 12;
        int e = large ? DL_LAUNCH(sched_threshold_kernel<1024>, n, 1024, 0, s, a)
                      : DL_LAUNCH(sched_threshold_kernel<256>, n, 256, 0, s, a);
        if (e) return e;
    }
    return DL_LAUNCH(sched_step_kernel, dim3(blocks, (unsigned)a.latent.n), K_THREADS, 0, s, a);
}

__global__ void step_next_kernel(int32_t *step)
{
    if (threadIdx.x == 0) dl_st(step, dl_ld(step) + 1);
}

int cuda_step_next(struct CUstream_st *s, int32_t *step) { return DL_LAUNCH(step_next_kernel, 1, 32, 0, s, step); }

/* ---- noise ---- */

struct noise_job {
    dl_act y;
    uint64_t seed, count; /* count: Philox counter of the first turn */
    int64_t threads;      /* torch's, of its whole launch */
    int32_t type;
    float scale;
};

__device__ __forceinline__ void philox(uint32_t v[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * v[0], p1 = (uint64_t)0xcd9e8d57u * v[2];
        v[0] = (uint32_t)(p1 >> 32) ^ v[1] ^ k0;
        v[1] = (uint32_t)p1;
        v[2] = (uint32_t)(p0 >> 32) ^ v[3] ^ k1;
        v[3] = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

/* curand's Box-Muller, the sine first; its multiply-adds are fused. */
__device__ __forceinline__ void box_muller(float out[2], uint32_t x, uint32_t y)
{
    const float unit = 2.3283064e-10f, turn = 2.3283064e-10f * 6.2831855f;
    float u = fmaf((float)x, unit, unit / 2), v = fmaf((float)y, turn, turn / 2);
    float s = sqrtf(-2.0f * logf(u)), sine, cosine;
    dl_sincos_fast(v, &sine, &cosine);
    out[0] = s * sine;
    out[1] = s * cosine;
}

/* blockIdx.y: turn of torch's threads. */
__global__ void __launch_bounds__(K_THREADS) noise_kernel(noise_job a)
{
    int64_t i = blockIdx.x * (int64_t)K_THREADS + threadIdx.x, k = blockIdx.y;
    int64_t pixels = (int64_t)a.y.h * a.y.w, image = pixels * a.y.c, all = image * a.y.n;
    if (i >= a.threads) return;
    uint64_t count = a.count + (uint64_t)k;
    uint32_t word[4] = {(uint32_t)count, (uint32_t)(count >> 32), (uint32_t)i, (uint32_t)(i >> 32)};
    philox(word, (uint32_t)a.seed, (uint32_t)(a.seed >> 32));
    float v[4];
    box_muller(v, word[0], word[1]);
    box_muller(v + 2, word[2], word[3]);
#pragma unroll
    for (int lane = 0; lane < 4; lane++) {
        int64_t e = i + a.threads * (4 * k + lane);
        if (e >= all) continue;
        float *y = static_cast<float *>(a.y.p) + k_at(a.y, e / image, e % pixels, e % image / pixels);
        dl_st(y, dl_mul_rn(k_round_to(v[lane], a.type), a.scale));
    }
}

/* Threads of torch's launch: as many blocks of 256 as there is work for and as are resident at once. */
static int64_t noise_threads(const struct cuda_noise_args *a)
{
    int64_t all = k_pixels(&a->y) * a->y.c * a->y.n, most = (int64_t)a->sms * (a->threads_per_sm / 256);
    int64_t blocks = (all + 255) / 256;
    if (blocks > most) blocks = most > 0 ? most : 1;
    return blocks * 256;
}

static int64_t noise_turns(const struct cuda_noise_args *a)
{
    int64_t all = k_pixels(&a->y) * a->y.c * a->y.n;
    return all > 0 ? (all - 1) / (4 * noise_threads(a)) + 1 : 0;
}

uint64_t cuda_noise_advance(const struct cuda_noise_args *a) { return 4 * (uint64_t)noise_turns(a); }

int cuda_noise(struct CUstream_st *s, const struct cuda_noise_args *a)
{
    int64_t turns = noise_turns(a);
    if (a->y.t != DL_F32 || turns < 1 || turns > K_MAX_ROWS || !k_float(a->type)) return CUDA_K_UNSUPPORTED;
    noise_job j = {a->y, a->seed, a->offset / 4, noise_threads(a), a->type, a->scale};
    return DL_LAUNCH(noise_kernel, dim3(k_blocks(j.threads), (unsigned)turns), K_THREADS, 0, s, j);
}
