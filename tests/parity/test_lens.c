/* The lens identities, on a tiny synthetic checkpoint: what a sweep makes does not depend on which layers, prompts and
 * seeds were asked for together, on batch or threads, on whether states were stored in between, or on being killed. All
 * comparisons are byte for byte. */
#include "tests/parity/sweep.h"

#include "engine/rng.h"
#include "lens/lens.h"
#include "pipelines/pipe.h"

#include <errno.h>
#include <time.h>

enum { BLOCKS = 4, LAYERS = BLOCKS + 1, PROMPTS = 3, SEEDS = 2, STEPS = 4 };

/* What the shared sweep shows: every layer of three prompts, two with negatives of their own, with two seeds. */
static const char *const prompts[PROMPTS] = {"A giraffe in a house", "the ocean", "the ocean and a few people"};
static const char *const negatives[PROMPTS] = {"a house", "", "people"};
static const uint64_t seeds[SEEDS] = {17, 42};

static char model[FOLDER_PATH + 16], prompts_file[FOLDER_PATH + 32], whole[FOLDER_PATH + 16];

#define SETTINGS "--model", model, "--steps", "4", "--rng", "torch-cpu", "--save-latents", "--quiet"
#define WHOLE "--prompts", prompts_file, "--seeds", "17,42", "--layers", "all"

/* root/name into a buffer of the caller. */
static const char *place(char out[FOLDER_PATH + 32], const char *name)
{
    snprintf(out, FOLDER_PATH + 32, "%s/%s", root, name);
    return out;
}

static int make_whole(void **state)
{
    if (root_make(state) < 0) return -1;
    snprintf(model, sizeof model, "%s/sd15", root);
    snprintf(whole, sizeof whole, "%s/whole", root);
    place(prompts_file, "prompts.jsonl");
    FILE *f = fopen(prompts_file, "w");
    if (!f) return -1;
    for (int i = 0; i < PROMPTS; i++)
        fprintf(f, "{\"prompt\": \"%s\", \"negative\": \"%s\"}\n", prompts[i], negatives[i]);
    if (fclose(f)) return -1;
    run_well(root, "synth", "--like", "sd15", "--out", model);
    run_well(root, "sweep", SETTINGS, WHOLE, "--threads", "2", "--dtype", "f32", "--out", whole);
    return 0;
}

/* A folder that shows all that `other` shows. */
static void same_folder(const char *dir, const char *other)
{
    for (int i = 0; i < PROMPTS; i++)
        for (int s = 0; s < SEEDS; s++)
            for (int k = 0; k < LAYERS; k++) images_same(dir, i, other, i, seeds[s], k);
}

/* Otherwise every identity would hold for a program that draws one picture only. */
static void test_images_differ(void **state)
{
    (void)state;
    struct dl_png all[PROMPTS * SEEDS * LAYERS];
    int n = 0;
    for (int i = 0; i < PROMPTS; i++)
        for (int s = 0; s < SEEDS; s++)
            for (int k = 0; k < LAYERS; k++) all[n++] = images_png(whole, "images", i, seeds[s], k);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) {
            /* at k = 0 the common first tokens of two prompts are all that there is, and still the rest differs */
            if (images_equal(&all[i], &all[j])) fail_msg("images %d and %d are the same", i, j);
        }
    for (int i = 0; i < n; i++) dl_png_close(&all[i]);
}

static void test_layer_by_layer(void **state)
{
    (void)state;
    for (int k = 0; k < LAYERS; k++) {
        char dir[FOLDER_PATH + 32], name[16], layer[16];
        snprintf(name, sizeof name, "layer%d", k);
        snprintf(layer, sizeof layer, "%d", k);
        place(dir, name);
        run_well(root, "sweep", SETTINGS, "--dtype", "f32", "--prompts", prompts_file, "--seeds", "17,42", "--layers",
                 layer, "--out", dir);
        for (int i = 0; i < PROMPTS; i++)
            for (int s = 0; s < SEEDS; s++) images_same(whole, i, dir, i, seeds[s], k);
    }
}

static void test_prompt_by_prompt(void **state)
{
    (void)state;
    for (int i = 0; i < PROMPTS; i++)
        for (int s = 0; s < SEEDS; s++) {
            char dir[FOLDER_PATH + 32], name[32], seed[32];
            snprintf(name, sizeof name, "single%d_%d", i, s);
            snprintf(seed, sizeof seed, "%d", (int)seeds[s]);
            place(dir, name);
            run_well(root, "sweep", SETTINGS, "--dtype", "f32", "--prompt", prompts[i], "--negative", negatives[i],
                     "--seed", seed, "--layers", "2,4", "--out", dir);
            images_same(whole, i, dir, 0, seeds[s], 2);
            images_same(whole, i, dir, 0, seeds[s], 4);
        }
}

static void test_replay(void **state)
{
    (void)state;
    char dir[FOLDER_PATH + 32], states[FOLDER_PATH + 32];
    place(dir, "replay");
    place(states, "states.safetensors");
    run_well(root, "encode", "--model", model, "--prompts", prompts_file, "--out", states);
    run_well(root, "replay", SETTINGS, "--dtype", "f32", "--snapshots", states, "--seeds", "17,42", "--layers", "all",
             "--out", dir);
    same_folder(dir, whole);
    /* without the norm and without guidance, where no negative is read */
    char a[FOLDER_PATH + 32], b[FOLDER_PATH + 32];
    place(a, "plain-sweep"), place(b, "plain-replay");
    run_well(root, "sweep", SETTINGS, "--dtype", "f32", "--prompt", prompts[1], "--norm", "off", "--guidance", "1",
             "--layers", "3", "--out", a);
    run_well(root, "replay", SETTINGS, "--dtype", "f32", "--snapshots", states, "--norm", "off", "--guidance", "1",
             "--layers", "3", "--out", b);
    images_same(a, 0, b, 1, 17, 3);
}

static void test_batches_and_threads(void **state)
{
    (void)state;
    static const char *const batches[] = {"1", "7", "30"}, *const threads[] = {"1", "3",
                                                                               "2"}; /* `whole` was made with 4 and 2 */
    char dir[FOLDER_PATH + 32], name[16];
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++) {
        snprintf(name, sizeof name, "batch%s", batches[i]);
        place(dir, name);
        run_well(root, "sweep", SETTINGS, WHOLE, "--dtype", "f32", "--batch", batches[i], "--threads", threads[i],
                 "--out", dir);
        same_folder(dir, whole);
    }
}

static void test_batches_bf16(void **state)
{
    (void)state;
    sweep_needs_bf16();
    char a[FOLDER_PATH + 32], b[FOLDER_PATH + 32];
    place(a, "bf16-1"), place(b, "bf16-7");
    run_well(root, "sweep", SETTINGS, WHOLE, "--dtype", "bf16", "--batch", "1", "--threads", "1", "--out", a);
    run_well(root, "sweep", SETTINGS, WHOLE, "--dtype", "bf16", "--batch", "7", "--threads", "2", "--out", b);
    same_folder(a, b);
}

/* ---- the pipe by hand ---- */

static int64_t allocations; /* of the backend */

static struct dl_backend counting; /* the CPU backend with its allocations counted */
static int (*alloc_below)(struct dl_ctx *, int64_t, void **, struct dl_err *);

static int count_alloc(struct dl_ctx *ctx, int64_t bytes, void **p, struct dl_err *e)
{
    allocations++;
    return alloc_below(ctx, bytes, p, e);
}

struct hand {
    struct dl_ctx *ctx;
    struct pipe *p;
    struct pipe_cond cond[LAYERS + 1]; /* of the first prompt, then its negative */
};

static struct hand hand_open(int batch)
{
    struct hand h = {0};
    const struct dl_backend *be;
    must(cpu_open(&be, &h.ctx, &(struct dl_cpu_opts){.threads = 2}, e));
    counting = *be;
    alloc_below = be->alloc;
    counting.alloc = count_alloc;
    must(pipe_open(&h.p, model, &(struct pipe_opts){.be = &counting, .ctx = h.ctx, .text = TEXT_HF5}, e));
    for (int negative = 0; negative < 2; negative++) {
        struct text_states st[PIPE_ENCODERS] = {0};
        must(pipe_encode(h.p, negative ? negatives[0] : prompts[0], NULL, st, e));
        assert_int_equal(st[0].blocks, BLOCKS);
        if (negative) must(pipe_condition(h.p, st, NULL, 0, &h.cond[LAYERS], e));
        for (int k = 0; k < LAYERS && !negative; k++)
            must(pipe_condition(h.p, st, &(struct pipe_lens){.norm = true}, k, &h.cond[k], e));
        /* The last layer under the norm is what the encoder gives in an ordinary run. */
        const struct pipe_cond *last = &h.cond[negative ? LAYERS : BLOCKS];
        assert_memory_equal(last->text, st[0].final, (size_t)last->tokens * (size_t)last->width * sizeof(float));
        text_states_close(st);
    }
    pipe_drop_text(h.p);
    struct pipe_gen g = {.width = 64,
                         .height = 64,
                         .steps = STEPS,
                         .guidance = 7.5f,
                         .type = DL_F32,
                         .batch = batch,
                         .images = LAYERS,
                         .conds = LAYERS + 1,
                         .vae_tile = -1,
                         .vae_type = -1};
    struct pipe_plan plan;
    must(pipe_plan(h.p, &g, &plan, e));
    assert_int_equal(plan.batch, batch);
    must(pipe_load(h.p, e));
    must(pipe_conditions(h.p, h.cond, LAYERS + 1, e));
    return h;
}

static void hand_close(struct hand *h)
{
    for (int k = 0; k <= LAYERS; k++) pipe_cond_close(&h->cond[k]);
    pipe_close(h->p);
    counting.close(h->ctx);
}

/* Sequential noise: one generator, a draw for each layer in the order of the list. */
static void test_sequential(void **state)
{
    (void)state;
    char dir[FOLDER_PATH + 32];
    static const int order[] = {3, 0, 2};
    place(dir, "sequential");
    run_well(root, "sweep", SETTINGS, "--dtype", "f32", "--prompts", prompts_file, "--layers", "3,0,2", "--seed", "17",
             "--noise", "sequential", "--out", dir);
    struct hand h = hand_open(1);
    struct st_file *f = images_latents(dir);
    struct dl_rng g;
    rng_seed(&g, RNG_TORCH_CPU, 17, 0, 0);
    int64_t n = pipe_latent_count(h.p, 64, 64), pixels = n / 4;
    float *latent = malloc((size_t)n * sizeof *latent);
    assert_non_null(latent);
    for (int i = 0; i < 3; i++) {
        must(pipe_noise(h.p, &g, 64, 64, DL_F32, latent, e));
        struct pipe_image im = {.cond = order[i], .negative = LAYERS, .latent = latent};
        must(pipe_denoise(h.p, &im, 1, NULL, e));
        const float *got = images_latent(f, 0, 17, order[i])->data;
        for (int64_t j = 0; j < n; j++) assert_true(got[j % 4 * pixels + j / 4] == latent[j]);
    }
    free(latent);
    st_close(f);
    hand_close(&h);
    /* The first layer has the seed's own noise, the others do not. */
    images_same(dir, 0, whole, 0, 17, 3);
    struct dl_png p = images_png(dir, "images", 0, 17, 2), q = images_png(whole, "images", 0, 17, 2);
    assert_false(images_equal(&p, &q));
    dl_png_close(&p), dl_png_close(&q);
    /* Batched, nothing changes. */
    char four[FOLDER_PATH + 32];
    place(four, "sequential1");
    run_well(root, "sweep", SETTINGS, "--dtype", "f32", "--prompts", prompts_file, "--layers", "3,0,2", "--seed", "17",
             "--noise", "sequential", "--batch", "1", "--out", four);
    for (int i = 0; i < PROMPTS; i++)
        for (int j = 0; j < 3; j++) images_same(dir, i, four, i, 17, order[j]);
}

/* ---- no allocation between steps ---- */

/* The C library's allocator with its calls counted, also those from shared libraries. Sanitizers bring their own. */
#if defined(__SANITIZE_ADDRESS__)
#define COUNTS_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COUNTS_MALLOC 0
#endif
#endif
#if !defined(COUNTS_MALLOC) && defined(__GLIBC__)
#define COUNTS_MALLOC 1
static _Atomic int64_t mallocs;
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

void *malloc(size_t n)
{
    mallocs++;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    mallocs++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    mallocs++;
    return __libc_realloc(p, n);
}

int posix_memalign(void **p, size_t align, size_t n)
{
    mallocs++;
    *p = __libc_memalign(align, n);
    return *p ? 0 : ENOMEM;
}

void *aligned_alloc(size_t align, size_t n)
{
    mallocs++;
    return __libc_memalign(align, n);
}
#else
static const int64_t mallocs = 0;
#endif

struct counts {
    int64_t backend, library;
    int steps, bad;
};

static void count_step(void *user, int step, int steps)
{
    struct counts *c = user;
    if (step > 1 && (allocations != c->backend || mallocs != c->library)) {
        print_message("step %d of %d: %lld allocations of the backend, %lld of the C library\n", step, steps,
                      (long long)(allocations - c->backend), (long long)(mallocs - c->library));
        c->bad++;
    }
    c->steps++;
    c->backend = allocations, c->library = mallocs;
}

static void test_no_allocation(void **state)
{
    (void)state;
#if !COUNTS_MALLOC
    print_message("the C library's allocations are not counted in this build\n");
#endif
    struct hand h = hand_open(2);
    int64_t n = pipe_latent_count(h.p, 64, 64);
    float *latent = malloc(2 * (size_t)n * sizeof *latent);
    assert_non_null(latent);
    for (int round = 0; round < 2; round++) {
        struct counts c = {0};
        struct pipe_progress pr = {.step = count_step, .user = &c};
        struct pipe_image im[2];
        for (int i = 0; i < 2; i++) {
            struct dl_rng g;
            im[i] = (struct pipe_image){
                .cond = 2 * round + i, .negative = LAYERS, .latent = latent + i * n, .noise = round ? i : 0};
            rng_seed(&g, RNG_TORCH_CPU, 17, 0, 0);
            must(pipe_noise(h.p, &g, 64, 64, DL_F32, im[i].latent, e));
        }
        must(pipe_denoise(h.p, im, 2, &pr, e));
        assert_int_equal(c.steps, STEPS + 1); /* PNDM evaluates one step twice */
        assert_int_equal(c.bad, 0);
    }
    assert_true(allocations > 0); /* they are counted */
    assert_true(!COUNTS_MALLOC || mallocs > 0);
    free(latent);
    hand_close(&h);
}

/* ---- killed and resumed ---- */

enum { KEPT_MAX = 64 };

struct kept {
    char path[FOLDER_PATH + 200];
    struct stat st;
    char *data;
    int64_t bytes;
};

/* The finished pictures of dir/images. */
static int finished(const char *dir, struct kept *kept)
{
    char images[FOLDER_PATH + 64];
    int n = 0;
    snprintf(images, sizeof images, "%s/images", dir);
    DIR *d = opendir(images);
    for (struct dirent *f; d && (f = readdir(d));) {
        size_t len = strlen(f->d_name);
        if (len < 5 || len > 100 || strcmp(f->d_name + len - 4, ".png")) continue;
        if (kept && n < KEPT_MAX) {
            snprintf(kept[n].path, sizeof kept[n].path, "%s/%.100s", images, f->d_name);
            assert_int_equal(stat(kept[n].path, &kept[n].st), 0);
            kept[n].data = folder_read(kept[n].path, &kept[n].bytes);
        }
        n++;
    }
    if (d) closedir(d);
    return n;
}

#define LONG                                                                                                           \
    "sweep", "--model", model, "--prompts", prompts_file, "--seeds", "17", "--layers", "1:5", "--steps", "40",         \
        "--rng", "torch-cpu", "--save-latents", "--dtype", "f32", "--batch", "2"
static const int long_layers[] = {1, 2, 3, 4};
enum { LONG_LAYERS = 4, LONG_IMAGES = PROMPTS * LONG_LAYERS };

/* Starts a long sweep and sends it the signal when `after` pictures are there. */
static void interrupt(const char *dir, int sig, int after, struct ran *r)
{
    const char *const argv[] = {DLENS_BINARY, LONG, "--out", dir, NULL};
    run_start(r, root, argv);
    for (int64_t ms = 0; finished(dir, NULL) < after; ms += 2) {
        if (ms > 120000) {
            kill(r->pid, SIGKILL);
            fail_msg("no picture in two minutes");
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    kill(r->pid, sig);
    run_wait(r);
}

static void test_killed(void **state)
{
    (void)state;
    char once[FOLDER_PATH + 32], dir[FOLDER_PATH + 32];
    static struct kept kept[KEPT_MAX];
    place(once, "uninterrupted");
    run_well(root, LONG, "--out", once);
    for (int round = 0; round < 2; round++) {
        int sig = round ? SIGINT : SIGKILL, before = 0;
        place(dir, round ? "interrupted" : "killed");
        for (int times = 0; times < 2; times++) { /* the resumed sweep is struck as well */
            struct ran r;
            interrupt(dir, sig, before + 1, &r);
            assert_int_equal(r.status, sig == SIGKILL ? 128 + SIGKILL : 130);
            if (sig == SIGINT) {
                assert_non_null(strstr(r.err, "interrupted"));
                assert_non_null(strstr(r.err, "the same command goes on from there"));
                assert_string_equal(r.out, "");
            }
            run_free(&r);
            for (int i = 0; i < before; i++) {
                struct stat st;
                assert_int_equal(stat(kept[i].path, &st), 0);
                assert_true(st.st_ino == kept[i].st.st_ino && st.st_mtim.tv_sec == kept[i].st.st_mtim.tv_sec &&
                            st.st_mtim.tv_nsec == kept[i].st.st_mtim.tv_nsec);
                free(kept[i].data);
            }
            before = finished(dir, kept);
            assert_in_range(before, 1, LONG_IMAGES - 1);
        }
        struct ran r;
        run_dlens(&r, root, LONG, "--out", dir);
        if (r.status) fail_msg("resumed: exit status %d: %s", r.status, r.err);
        assert_non_null(strstr(r.err, "going on"));
        run_free(&r);
        for (int i = 0; i < before; i++) {
            struct stat st;
            int64_t bytes;
            char *now = folder_read(kept[i].path, &bytes);
            assert_non_null(now);
            assert_int_equal(stat(kept[i].path, &st), 0);
            assert_true(st.st_ino == kept[i].st.st_ino && st.st_mtim.tv_sec == kept[i].st.st_mtim.tv_sec &&
                        st.st_mtim.tv_nsec == kept[i].st.st_mtim.tv_nsec);
            assert_int_equal(bytes, kept[i].bytes);
            assert_memory_equal(now, kept[i].data, (size_t)bytes);
            free(now), free(kept[i].data);
        }
        assert_int_equal(finished(dir, NULL), LONG_IMAGES);
        for (int i = 0; i < PROMPTS; i++)
            for (int j = 0; j < LONG_LAYERS; j++) {
                int k = long_layers[j];
                char a[FOLDER_PATH + 200], b[FOLDER_PATH + 200], name[NAMES_MAX];
                int64_t na, nb;
                images_same(dir, i, once, i, 17, k);
                names_image(name, "images", i, 17, k); /* the files as well, settings included */
                snprintf(a, sizeof a, "%s/%s", dir, name), snprintf(b, sizeof b, "%s/%s", once, name);
                char *x = folder_read(a, &na), *y = folder_read(b, &nb);
                assert_int_equal(na, nb);
                assert_memory_equal(x, y, (size_t)na);
                free(x), free(y);
            }
    }
}

/* ---- rounds: more prompts than conditions may be held at once ---- */

struct rounds {
    struct pipe *p;
    const struct lens_job *job;
    int calls;
};

static int encode_round(void *user, int first, int n, struct lens_conds *c, struct dl_err *err)
{
    struct rounds *r = user;
    r->calls++;
    assert_int_equal(n, 1);
    return lens_encode(r->p,
                       &(struct lens_text){.prompt = r->job->prompt + first,
                                           .n_prompts = n,
                                           .first = first,
                                           .k = r->job->k,
                                           .n_layers = r->job->n_layers,
                                           .lens = r->job->lens,
                                           .guided = true},
                       c, err);
}

static void test_rounds(void **state)
{
    (void)state;
    char dir[FOLDER_PATH + 32];
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    struct lens_prompt list[PROMPTS];
    struct manifest_prompt mp[PROMPTS];
    struct manifest_image *im;
    struct manifest *m;
    struct pipe_plan plan;
    struct rounds r = {0};
    const int k[LAYERS] = {0, 1, 2, 3, 4};
    uint64_t seed = 17;
    for (int i = 0; i < PROMPTS; i++) {
        list[i] = (struct lens_prompt){
            .text = (char *)prompts[i], .negative = (char *)negatives[i], .seeds = &seed, .n_seeds = 1};
        mp[i] = (struct manifest_prompt){.text = prompts[i], .negative = negatives[i]};
    }
    struct lens_job job = {
        .prompt = list,
        .n_prompts = PROMPTS,
        .k = k,
        .n_layers = LAYERS,
        .lens = {.norm = true},
        .rng = RNG_TORCH_CPU,
        .save_latents = true,
        .gen = {.width = 64, .height = 64, .steps = STEPS, .guidance = 7.5f, .type = DL_F32, .vae_type = -1},
        .round_bytes = 1};
    place(dir, "rounds");
    must(cpu_open(&be, &ctx, &(struct dl_cpu_opts){.threads = 2}, e));
    must(pipe_open(&r.p, model, &(struct pipe_opts){.be = be, .ctx = ctx, .text = TEXT_HF5}, e));
    r.job = &job;
    must(lens_plan(r.p, &job, &plan, e));
    int64_t n;
    must(n = lens_images(&job, &im, e));
    json_t *settings = json_object();
    must(manifest_open(&m, dir,
                       &(struct manifest_spec){.dlens = "test",
                                               .command = "sweep",
                                               .model = {"t", "t", "t", "t"},
                                               .settings = settings,
                                               .prompt = mp,
                                               .n_prompts = PROMPTS,
                                               .layer = k,
                                               .n_layers = LAYERS,
                                               .image = im,
                                               .n_images = n},
                       e));
    must(lens_generate(r.p, &job, &plan, &(struct lens_source){encode_round, &r}, m, dir, NULL, e));
    must(manifest_close(m, e));
    assert_int_equal(r.calls, PROMPTS);
    for (int i = 0; i < PROMPTS; i++)
        for (int j = 0; j < LAYERS; j++) images_same(dir, i, whole, i, seed, k[j]);
    free(im);
    json_decref(settings);
    pipe_close(r.p);
    be->close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_images_differ),       cmocka_unit_test(test_layer_by_layer),
        cmocka_unit_test(test_prompt_by_prompt),    cmocka_unit_test(test_replay),
        cmocka_unit_test(test_batches_and_threads), cmocka_unit_test(test_batches_bf16),
        cmocka_unit_test(test_sequential),          cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_no_allocation),       cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests(tests, make_whole, root_remove);
}
