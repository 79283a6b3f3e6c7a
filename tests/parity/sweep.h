/* sweep.h: what the tests of whole sweeps share: checkpoints made by `dlens synth`, sweeps and replays with the
 * settings of the reference, and comparison with it. A reference (tools/ref/sweep.py and its kin) has for each image
 * NAME of a case, such as "default.k03":
 *
 *   NAME.latents  f32 [c][h][w], the final latent; or flat, every SWEEP_THIN-th of its elements
 *   NAME.image    u8 [h][w][3]
 *
 * and for the case "bf16" NAME.error instead of the picture, the relative L2 error of PyTorch's bf16 latent.
 */
#ifndef TESTS_SWEEP_H
#define TESTS_SWEEP_H

#include "kernels/cpu/cpu.h"
#include "tests/parity/images.h"
#include "tests/parity/ref.h"
#include "tests/unit/root.h"

enum { SWEEP_SEED = 17, SWEEP_LAYERS = 32, SWEEP_EXTRA = 10, SWEEP_THIN = 7 };

struct sweep_case {
    const char *name, *layers;
    int images;
    const char *extra[SWEEP_EXTRA + 1]; /* further arguments, which override all others */
};

/* A group's setup: root/NAME for each of the models [n]. */
static inline int sweep_make(void **state, const char *const *models, int n)
{
    if (root_make(state) < 0) return -1;
    for (int i = 0; i < n; i++) run_well(root, "synth", "--like", models[i], "--out", in_root(models[i]));
    return 0;
}

/* Runs `command` of dlens with root/MODEL into root/COMMAND-MODEL-NAME-DTYPE, which is put in dir. source says where
 * states come from ("--prompt", ...), common what else the model's cases have in common; both end with NULL. */
static inline void sweep_run(char dir[ROOT_PATH], const char *command, const char *model, const char *const *source,
                             const char *const *common, const struct sweep_case *c, const char *dtype)
{
    snprintf(dir, ROOT_PATH, "%s/%s-%s-%s-%s", root, command, model, c->name, dtype);
    const char *argv[64] = {
        DLENS_BINARY,     command,  "--model", in_root(model), "--layers", c->layers,   "--out",     dir,
        "--dtype",        dtype,    "--seed",  "17",           "--rng",    "torch-cpu", "--threads", "2",
        "--save-latents", "--quiet"};
    const char *const *const more[] = {source, common, c->extra};
    int n = 0;
    struct ran r;
    while (argv[n]) n++;
    for (int i = 0; i < 3; i++)
        for (int j = 0; more[i][j]; j++) argv[n++] = more[i][j];
    assert_true(n < 64);
    run_argv(&r, root, argv);
    if (r.status) fail_msg("%s %s %s: exit status %d: %s", command, model, c->name, r.status, r.err);
    run_free(&r);
}

static inline const struct st_tensor *sweep_tensor(const struct st_file *ref, const char *name, const char *what)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", name, what);
    return st_find(ref, key);
}

/* "CASE.kKK" */
static inline const char *sweep_name(char name[100], const char *test, int k)
{
    snprintf(name, 100, "%s.k%02d", test, k);
    return name;
}

/* Relative L2 error of a latent against the reference's, whole or thinned. */
static inline double sweep_error(const struct st_tensor *got, const struct st_tensor *want)
{
    const int64_t n = want->bytes / 4, step = want->nd == 1 ? SWEEP_THIN : 1;
    if (step == 1) assert_memory_equal(got->dim, want->dim, 3 * sizeof *got->dim);
    assert_int_equal((got->bytes / 4 + step - 1) / step, n);
    float *kept = malloc((size_t)want->bytes);
    assert_non_null(kept);
    for (int64_t i = 0; i < n; i++) kept[i] = ((const float *)got->data)[i * step];
    double err = l2_error(kept, want->data, n);
    free(kept);
    return err;
}

/* Latent (relative L2 error at most `limit`) and picture (a byte may differ by 1) k in dir against image `name`; the
 * number of faults. */
static inline int sweep_compare(const struct st_file *ref, const char *name, const char *dir, int k, double limit)
{
    const struct st_tensor *want = sweep_tensor(ref, name, "latents"), *want_rgb = sweep_tensor(ref, name, "image");
    assert_non_null(want);
    assert_non_null(want_rgb);
    struct st_file *f = images_latents(dir);
    double err = sweep_error(images_latent(f, 0, SWEEP_SEED, k), want);
    st_close(f);

    struct dl_png png = images_png(dir, "images", 0, SWEEP_SEED, k);
    assert_int_equal(png.h, want_rgb->dim[0]);
    assert_int_equal(png.w, want_rgb->dim[1]);
    const uint8_t *rgb = want_rgb->data;
    int worst = 0, differ = 0, inner = 0;
    for (int64_t i = 0; i < want_rgb->bytes; i++) {
        int d = abs(png.rgb[i] - rgb[i]);
        worst = d > worst ? d : worst, differ += d > 0;
        inner += rgb[i] > 0 && rgb[i] < 255;
    }
    dl_png_close(&png);
    /* A picture that is mostly clipped would compare nothing. */
    bool over = !(err <= limit) || worst > 1 || inner < want_rgb->bytes / 2;
    print_message("  %-16s latents %.2e (limit %.0e)  bytes: %d of %lld differ, by %d at most%s\n", name, err, limit,
                  differ, (long long)want_rgb->bytes, worst, over ? "  OVER" : "");
    return over;
}

/* All layers of a case that the reference has, which are `images`. */
static inline int sweep_compare_case(const struct st_file *ref, const char *test, int images, const char *dir,
                                     double limit)
{
    int over = 0, compared = 0;
    char name[100];
    for (int k = 0; k < SWEEP_LAYERS; k++) {
        if (!sweep_tensor(ref, sweep_name(name, test, k), "latents")) continue;
        over += sweep_compare(ref, name, dir, k, limit);
        compared++;
    }
    assert_int_equal(compared, images);
    return over;
}

/* The reference tells the cases [n] from "default": one that were ignored would show. */
static inline void sweep_differs(const struct st_file *ref, const struct sweep_case *cases, int n, double limit)
{
    char name[100];
    for (int i = 0; i < n; i++)
        for (int k = 0; k < SWEEP_LAYERS && strcmp(cases[i].name, "default"); k++) {
            const struct st_tensor *a = sweep_tensor(ref, sweep_name(name, "default", k), "latents"),
                                   *b = sweep_tensor(ref, sweep_name(name, cases[i].name, k), "latents");
            if (!a || !b || a->bytes != b->bytes) continue;
            double d = l2_error(b->data, a->data, a->bytes / 4);
            if (!(d > 100 * limit)) fail_msg("%s differs from the default by %.2e", name, d);
        }
}

/* Skips, aloud, where the CPU does not compute in bf16. */
static inline void sweep_needs_bf16(void)
{
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    must(cpu_open(&be, &ctx, &(struct dl_cpu_opts){.threads = 1}, e));
    bool yes = be->supports(ctx, DL_BF16);
    be->close(ctx);
    if (yes) return;
    print_message("skipped: this CPU has no bf16 arithmetic\n");
    skip();
}

/* The latents [images] of case "bf16": on the average no farther off than PyTorch's. */
static inline void sweep_compare_bf16(const struct st_file *ref, int images, const char *dir)
{
    double own = 0, torch = 0;
    int n = 0;
    char name[100];
    struct st_file *f = images_latents(dir);
    for (int k = 0; k < SWEEP_LAYERS; k++) {
        const struct st_tensor *want = sweep_tensor(ref, sweep_name(name, "bf16", k), "latents"),
                               *limit = sweep_tensor(ref, name, "error");
        if (!want) continue;
        assert_non_null(limit);
        double err = sweep_error(images_latent(f, 0, SWEEP_SEED, k), want);
        print_message("  k%02d latents %.2e, PyTorch's bf16 %.2e\n", k, err, *(const float *)limit->data);
        own += err, torch += *(const float *)limit->data;
        n++;
    }
    st_close(f);
    assert_int_equal(n, images);
    print_message("  mean %.2e, PyTorch's bf16 %.2e\n", own / n, torch / n);
    assert_true(own <= torch);
}

#endif
