#include "tools/synth.h"

#include <math.h>
#include <string.h>

/* splitmix64's mixing function (Steele, Lea & Flood 2014). */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27, x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t key_of(const char *name, uint64_t seed)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return mix(h ^ mix(seed + 0x9e3779b97f4a7c15u));
}

/* Sum of four 16-bit numbers less its mean: nearly normal, exact in an int, std 2^15 * sqrt(4 / 3) nearly. */
static inline int32_t draw(uint64_t key, uint64_t i)
{
    uint64_t u = mix(key + (i + 1) * 0x9e3779b97f4a7c15u);
    return (int32_t)((u & 0xffff) + (u >> 16 & 0xffff) + (u >> 32 & 0xffff) + (u >> 48)) - 131070;
}

/* 1 / sqrt(4 (2^32 - 1) / 12), for unit variance. */
static const float unit = 2.6428998e-5f;

struct synth_plan synth_plan_of(const struct synth_tensor *t, const struct synth_gain *table)
{
    float gain = 1;
    for (; table->part; table++) {
        if (!strstr(t->name, table->part)) continue;
        gain = table->gain;
        break;
    }
    if (t->role == BIND_BIAS) return (struct synth_plan){.std = 0.05f};
    if (t->role == BIND_GAIN) return (struct synth_plan){.mean = 1, .std = 0.1f};
    if (t->role == BIND_TABLE) return (struct synth_plan){.std = gain};
    int64_t fan = 1;
    for (int i = 1; i < t->nd; i++) fan *= t->dim[i];
    return (struct synth_plan){.std = gain / sqrtf((float)fan)};
}

/* A sampler multiplies the latent by up to 15 on its way from noise to image, unless the network takes the noise
 * out again. A random network would not, so the UNet gets a path along which it hands its input on: conv_in spreads the
 * latent's channels over its own by signs, the last resnet's shortcut passes its skip (conv_in's output) on, and
 * conv_out gathers by the same signs. Channels come in pairs of opposite sign, so that silu's even part cancels:
 * silu(z) - silu(-z) = z. */
static float sign_of(int64_t channel, int64_t latent)
{
    float s = mix((uint64_t)(channel / 2) * 64 + (uint64_t)latent + 1) & 1 ? 1 : -1;
    return channel & 1 ? -s : s;
}

static float echo_at(const struct synth_tensor *t, const struct synth_plan *p, int64_t i)
{
    const int64_t in = t->dim[1], area = t->nd == 4 ? t->dim[2] * t->dim[3] : 1;
    const int64_t out = i / (in * area), from = i / area % in;
    if (i % area != area / 2) return 0; /* the middle of the kernel */
    switch (p->echo) {
    case SYNTH_SPREAD: return p->echo_gain * sign_of(out, from);
    case SYNTH_PASS: return from - (in - t->dim[0]) == out ? p->echo_gain : 0;
    case SYNTH_GATHER: return p->echo_gain * sign_of(from, out);
    default: return 0;
    }
}

void synth_values(const struct synth_tensor *t, const struct synth_plan *p, uint64_t seed, int64_t from, int64_t n,
                  float *out)
{
    const uint64_t key = key_of(t->name, seed);
    const float scale = p->std * unit;
    for (int64_t i = 0; i < n; i++) out[i] = (float)draw(key, (uint64_t)(from + i)) * scale + p->mean;
    if (p->echo != SYNTH_PLAIN)
        for (int64_t i = 0; i < n; i++) out[i] += echo_at(t, p, from + i);
}
