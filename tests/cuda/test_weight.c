/* Weights whose values are made up: each form that kernels make on the device against the form made of the same values
 * read on the host, bit for bit. */
#include "engine/weight.h"
#include "kernels/cuda/cuda_priv.h"
#include "tests/cuda/rig_cuda.h"
#include "tests/unit/check.h"

static const struct dl_backend *be;
static struct dl_ctx *ctx;

enum { PLAIN, WIDE, OHWI, E4M3, FORMS };
static const char *const form_name[FORMS] = {"plain", "wide", "ohwi", "e4m3"};

static const struct {
    int nd, parts;
    int64_t dim[4];
    int forms; /* bits */
} shapes[] = {
    {1, 1, {7, 1, 1, 1}, 1 << PLAIN | 1 << WIDE},
    {1, 1, {320, 1, 1, 1}, 1 << PLAIN | 1 << WIDE},
    {2, 1, {33, 65, 1, 1}, 1 << PLAIN | 1 << WIDE | 1 << OHWI},
    {2, 3, {48, 96, 1, 1}, 1 << PLAIN | 1 << E4M3},
    {2, 2, {6, 528, 1, 1}, 1 << E4M3}, /* a row is more than a warp takes at once */
    {2, 3, {9, 5, 1, 1}, 1 << PLAIN | 1 << WIDE}, /* parts begin at odd addresses */
    {4, 1, {24, 16, 3, 3}, 1 << PLAIN | 1 << OHWI},
    {4, 2, {10, 5, 3, 3}, 1 << OHWI},
    {4, 1, {8, 4, 1, 1}, 1 << OHWI},
    {4, 1, {4, 3, 2, 2}, 1 << OHWI},
};

static const void *form_of(struct dl_run *r, struct dl_w *w, int form, int t)
{
    switch (form) {
    case PLAIN: return cuda_w_plain(r, w, t);
    case WIDE: return cuda_w_wide(r, w, t);
    case OHWI: return cuda_w_ohwi(r, w, t);
    default: return cuda_w_e4m3(r, w);
    }
}

/* The form's bytes; to be freed. */
static uint8_t *make(struct dl_w *w, int form, int t, int64_t *bytes)
{
    struct dl_wset set = {0};
    struct dl_run r;
    must(dl_wset_add(&set, w, "a.weight", e));
    dl_run_open(&r, be, ctx, t);
    assert_null(form_of(&r, w, form, t));
    must(dl_run_load(&r, &set, e));
    dl_run_bind(&r, NULL, 0);
    const void *p = form_of(&r, w, form, t);
    must(dl_run_check(&r, e));
    *bytes = w->packs->bytes;
    uint8_t *host = malloc((size_t)*bytes);
    assert_non_null(host);
    must(be->download(ctx, host, p, *bytes, e));
    dl_run_close(&r);
    dl_wset_close(&set);
    return host;
}

static void same(size_t shape, int form, int stored, int t)
{
    struct dl_w w = {.nd = shapes[shape].nd, .n_parts = shapes[shape].parts}, file;
    memcpy(w.dim, shapes[shape].dim, sizeof w.dim);
    for (int i = 0; i < w.n_parts; i++) {
        w.part[i] = (struct dl_wpart){.rows = w.dim[0] / w.n_parts, .t = (uint8_t)stored, .made_up = true};
        w.part[i].made = (struct dl_made){0x9abcdef0u + (uint32_t)(17 * i + form), w.nd == 1 ? 1 : 0, 0.37f};
    }
    file = w;
    file.n_parts = 1;
    void *values = malloc((size_t)(dl_w_count(&w) * dl_type_bytes(stored)));
    assert_non_null(values);
    dl_w_read(&w, values, stored);
    file.part[0] = (struct dl_wpart){.file = values, .rows = w.dim[0], .t = (uint8_t)stored};

    int64_t bytes, want_bytes;
    uint8_t *got = make(&w, form, t, &bytes), *want = make(&file, form, t, &want_bytes);
    assert_int_equal(bytes, want_bytes);
    for (int64_t i = 0; i < bytes; i++)
        if (got[i] != want[i])
            fail_msg("%s of shape %zu, %s as %s: byte %lld of %lld is 0x%02x, not 0x%02x", form_name[form], shape,
                     dl_type_name(stored), dl_type_name(t), (long long)i, (long long)bytes, got[i], want[i]);
    free(got), free(want), free(values);
}

static void test_forms(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int form = 0; form < FORMS; form++)
            for (int stored = DL_F32; stored <= DL_BF16; stored++)
                for (int t = DL_F32; t <= DL_BF16 && shapes[s].forms >> form & 1; t++) same(s, form, stored, t);
}

/* A stack of which one part stands in a file goes through the host, to the same values. */
static void test_mixed(void **state)
{
    (void)state;
    float rows[] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct dl_w w = {.nd = 2, .dim = {4, 4, 1, 1}, .n_parts = 2};
    w.part[0] = (struct dl_wpart){.file = rows, .rows = 2, .t = DL_F32};
    w.part[1] = (struct dl_wpart){.rows = 2, .t = DL_F32, .made_up = true, .made = {5, 0, 1}};
    int64_t bytes;
    float *got = (float *)(void *)make(&w, PLAIN, DL_F32, &bytes);
    assert_int_equal(bytes, 64);
    for (int i = 0; i < 16; i++) assert_true(got[i] == (i < 8 ? rows[i] : dl_made_value(&w.part[1].made, i - 8)));
    free(got);
}

int main(void)
{
    rig_cuda_open(&be, &ctx);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_mixed)};
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    be->close(ctx);
    return rc;
}
