/* images.h: what a sweep left in its folder, for comparison: pictures and latents. */
#ifndef TESTS_IMAGES_H
#define TESTS_IMAGES_H

#include "lens/latents.h"
#include "lens/names.h"
#include "lens/png.h"
#include "loaders/safetensors.h"
#include "tests/cli/run.h"

#include <math.h>

/* A call that reports failure by a message. */
#define must(call)                                                                                                     \
    do {                                                                                                               \
        struct dl_err must_e = {0}, *e = &must_e;                                                                      \
        if ((call) < 0) fail_msg("%s: %s", #call, must_e.msg);                                                         \
    } while (0)

/* The picture of prompt, seed, k in a sweep's folder; dl_png_close. */
static inline struct dl_png images_png(const char *dir, int prompt, uint64_t seed, int k)
{
    char name[NAMES_MAX], path[FOLDER_PATH + 200];
    struct dl_png p = {0};
    names_image(name, "images", prompt, seed, k);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(dl_png_read(&p, path, e));
    return p;
}

/* latents.safetensors of a sweep's folder; st_close. */
static inline struct st_file *images_latents(const char *dir)
{
    char path[FOLDER_PATH + 200];
    struct st_file *f = NULL;
    snprintf(path, sizeof path, "%s/latents.safetensors", dir);
    must(st_open(&f, path, e));
    return f;
}

static inline const struct st_tensor *images_latent(const struct st_file *f, int prompt, uint64_t seed, int k)
{
    char key[NAMES_MAX];
    names_latent(key, prompt, seed, k);
    const struct st_tensor *t = st_find(f, key);
    if (!t || t->t != DL_F32 || t->nd != 3) fail_msg("%s: no latent \"%s\"", st_file_path(f), key);
    return t;
}

/* Relative L2 error of x against y [n]. */
static inline double images_error(const float *x, const float *y, int64_t n)
{
    double diff = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - y[i];
        diff += d * d, sum += (double)y[i] * y[i];
    }
    return sqrt(diff / sum);
}

#endif
