/* nnsight.h: pictures of a tutorial's cell as NNsight itself made them (tools/ref/flux_nnsight.py, sdxl_nnsight.py),
 * under the names PREFIXbBB for block BB, u8 [h][w][3]. */
#ifndef TESTS_NNSIGHT_H
#define TESTS_NNSIGHT_H

#include "tests/parity/sweep.h"

static inline const struct st_tensor *nnsight_picture(const struct st_file *ref, const char *prefix, int block)
{
    char key[40];
    snprintf(key, sizeof key, "%sb%02d", prefix, block);
    const struct st_tensor *t = st_find(ref, key);
    if (!t) fail_msg("%s has no %s", st_file_path(ref), key);
    return t;
}

/* The largest difference of two bytes of pictures [n]. */
static inline int nnsight_farthest(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int most = 0;
    for (int64_t i = 0; i < n; i++)
        if (abs(a[i] - b[i]) > most) most = abs(a[i] - b[i]);
    return most;
}

/* Every second block below `blocks` in dir: the same picture within 1 in any byte. */
static inline void nnsight_compare(const struct st_file *ref, const char *prefix, int blocks, const char *dir)
{
    for (int block = 0; block < blocks; block += 2) {
        const struct st_tensor *want = nnsight_picture(ref, prefix, block);
        struct dl_png png = images_png(dir, "images", 0, SWEEP_SEED, block + 1);
        assert_int_equal(png.h, want->dim[0]);
        assert_int_equal(png.w, want->dim[1]);
        int most = nnsight_farthest(png.rgb, want->data, want->bytes);
        print_message("%sb%02d: bytes differ by %d at most\n", prefix, block, most);
        assert_true(most <= 1);
        dl_png_close(&png);
    }
}

#endif
