/* images.h: what a sweep left in its folder, for comparison: pictures and latents. */
#ifndef TESTS_IMAGES_H
#define TESTS_IMAGES_H

#include "lens/latents.h"
#include "lens/names.h"
#include "lens/png.h"
#include "loaders/safetensors.h"
#include "tests/cli/run.h"
#include "tests/unit/check.h"

/* The picture of prompt, seed, k in `folder` ("images", "stage1") of a sweep's folder; dl_png_close. */
static inline struct dl_png images_png(const char *dir, const char *folder, int prompt, uint64_t seed, int k)
{
    char name[NAMES_MAX], path[FOLDER_PATH + 300];
    struct dl_png p = {0};
    names_image(name, folder, prompt, seed, k);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(dl_png_read(&p, path, e));
    return p;
}

/* latents.safetensors of a sweep's folder; st_close. */
static inline struct st_file *images_latents(const char *dir)
{
    char path[FOLDER_PATH + 300];
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

static inline bool images_equal(const struct dl_png *p, const struct dl_png *q)
{
    return p->w == q->w && p->h == q->h && !memcmp(p->rgb, q->rgb, (size_t)p->w * (size_t)p->h * 3);
}

/* The same picture, byte for byte: that of prompt i in folder_a of sweep a, and of prompt j in folder_b of sweep b. */
static inline void images_same_png(const char *a, const char *folder_a, int i, const char *b, const char *folder_b,
                                   int j, uint64_t seed, int k)
{
    struct dl_png p = images_png(a, folder_a, i, seed, k), q = images_png(b, folder_b, j, seed, k);
    if (!images_equal(&p, &q))
        fail_msg("prompt %d, seed %d, layer %d: %s/%s and %s/%s differ", i, (int)seed, k, a, folder_a, b, folder_b);
    dl_png_close(&p), dl_png_close(&q);
}

/* The same image: picture and latent. */
static inline void images_same(const char *a, int i, const char *b, int j, uint64_t seed, int k)
{
    images_same_png(a, "images", i, b, "images", j, seed, k);
    struct st_file *f = images_latents(a), *g = images_latents(b);
    const struct st_tensor *x = images_latent(f, i, seed, k), *y = images_latent(g, j, seed, k);
    assert_int_equal(x->bytes, y->bytes);
    if (memcmp(x->data, y->data, (size_t)x->bytes))
        fail_msg("prompt %d, seed %d, layer %d: latents of %s and %s differ, by %.2e", i, (int)seed, k, a, b,
                 l2_error(x->data, y->data, x->bytes / 4));
    st_close(f), st_close(g);
}

/* Two pictures of one sweep differ. */
static inline void images_differ(const char *dir, uint64_t seed, int k, int other)
{
    struct dl_png p = images_png(dir, "images", 0, seed, k), q = images_png(dir, "images", 0, seed, other);
    if (images_equal(&p, &q)) fail_msg("%s: layers %d and %d are the same", dir, k, other);
    dl_png_close(&p), dl_png_close(&q);
}

#endif
