/* Positions and times of FLUX, on the host: in double where diffusers computes in double. */
#include "pipelines/flux.h"

#include <math.h>

static const double theta = 10000;

int64_t flux_rope_count(const struct flux_config *c, int tokens, int h, int w)
{
    return ((int64_t)tokens + (int64_t)h * w) * c->head_dim;
}

static float *turn(const struct flux_config *c, const int pos[FLUX_AXES], float *out)
{
    for (int a = 0; a < FLUX_AXES; a++)
        for (int j = 0; j < c->axes[a]; j += 2) {
            double angle = pos[a] * (1 / pow(theta, (double)j / c->axes[a]));
            *out++ = (float)cos(angle);
            *out++ = (float)sin(angle);
        }
    return out;
}

void flux_rope(const struct flux_config *c, int tokens, int h, int w, float *out)
{
    for (int i = 0; i < tokens; i++) out = turn(c, (int[FLUX_AXES]){0}, out);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) out = turn(c, (int[FLUX_AXES]){0, y, x}, out);
}

static float rounded(float x, int type)
{
    uint32_t one;
    dl_store(&one, type, 0, x);
    return dl_load(&one, type, 0);
}

float flux_time(float t, int type) { return rounded(rounded(rounded(t, type) / 1000, type) * 1000, type); }

float flux_guide(float guidance, int type) { return rounded(rounded(guidance, type) * 1000, type); }
