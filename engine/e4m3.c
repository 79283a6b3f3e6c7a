#include "engine/e4m3.h"

#include <math.h>

enum { PIXELS_MIN = 16, CHANNELS_MIN = 32, CHANNELS_UNIT = 16 };

static bool channels_ok(int64_t c) { return c >= CHANNELS_MIN && c % CHANNELS_UNIT == 0; }

bool dl_e4m3_takes(const struct dl_run *r, const struct dl_gemm *a)
{
    return r->e4m3 && !a->fine && a->x.t == DL_BF16 && (int64_t)a->x.h * a->x.w >= PIXELS_MIN && channels_ok(a->x.c) &&
           channels_ok(a->w->dim[0]);
}

static float largest(const float *v, int64_t n)
{
    float m = 0;
    for (int64_t i = 0; i < n; i++) m = fabsf(v[i]) > m ? fabsf(v[i]) : m;
    return m;
}

float dl_e4m3_row(uint8_t *q, const float *v, int64_t n)
{
    float amax = largest(v, n), gain = dl_e4m3_gain(amax);
    for (int64_t i = 0; i < n; i++) q[i] = dl_e4m3_of(v[i] * gain);
    return dl_e4m3_scale(amax);
}

float dl_e4m3_round(float *v, int64_t n)
{
    float amax = largest(v, n), gain = dl_e4m3_gain(amax);
    for (int64_t i = 0; i < n; i++) v[i] = dl_e4m3_to(dl_e4m3_of(v[i] * gain));
    return dl_e4m3_scale(amax);
}
