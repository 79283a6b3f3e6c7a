/* rng_philox.c: torch's CUDA generator, computed on the host.
 *
 * torch launches blocks of 256 threads, as many as the elements ask for and at most as many as are resident at once. In
 * turn k each of the T threads makes four normals, for the elements i + T * lane + 4 T k; the generator's offset then
 * advances by 4 a turn.
 */
#include "engine/rng.h"

#include <math.h>

enum { THREADS = 256 };

void rng_philox(uint32_t out[4], const uint32_t ctr[4], const uint32_t key[2])
{
    uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* curand's Box-Muller: the sine comes first. Its multiply-adds are fused, as nvcc compiles them. */
static void box_muller(float out[2], uint32_t x, uint32_t y)
{
    const float unit = 2.3283064e-10f, turn = 2.3283064e-10f * 6.2831855f;
    float u = fmaf((float)x, unit, unit / 2), v = fmaf((float)y, turn, turn / 2), s = sqrtf(-2.0f * logf(u));
    out[0] = s * sinf(v);
    out[1] = s * cosf(v);
}

void rng_philox_normal(struct dl_rng *r, float *out, int64_t n)
{
    int64_t resident = (int64_t)r->sms * (r->threads_per_sm / THREADS), blocks = (n + THREADS - 1) / THREADS;
    if (blocks > resident) blocks = resident > 0 ? resident : 1;
    int64_t threads = blocks * THREADS, turns = (n - 1) / (4 * threads) + 1;
    const uint32_t key[2] = {(uint32_t)r->seed, (uint32_t)(r->seed >> 32)};
    for (int64_t k = 0; k < turns; k++) {
        uint64_t count = r->offset / 4 + (uint64_t)k;
        for (int64_t i = 0; i < threads && 4 * threads * k + i < n; i++) {
            const uint32_t ctr[4] = {(uint32_t)count, (uint32_t)(count >> 32), (uint32_t)i, (uint32_t)(i >> 32)};
            uint32_t word[4];
            float v[4];
            rng_philox(word, ctr, key);
            box_muller(v, word[0], word[1]);
            box_muller(v + 2, word[2], word[3]);
            for (int lane = 0; lane < 4; lane++) {
                int64_t at = i + threads * (4 * k + lane);
                if (at < n) out[at] = v[lane];
            }
        }
    }
    r->offset += 4 * (uint64_t)turns;
}
