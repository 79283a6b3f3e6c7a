/* Schedulers against diffusers: timesteps, and the latents after every step, from the same made-up network outputs. The
 * data file and the meaning of its lines are tools/ref/sched.py's. */
#include "engine/rng.h"
#include "pipelines/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 24, MAX_CALLS = 128 };

struct ref {
    char name[64], as[16], config[4096];
    int steps, calls;
    float guidance;
    long tokens;
    float start[N], end[N], t[MAX_CALLS], x[MAX_CALLS][N];
};

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static const char *read_words(const char *p, float *x, int n)
{
    for (int i = 0; i < n; i++) {
        char *end;
        x[i] = from_bits((uint32_t)strtoul(p, &end, 16));
        assert_true(end > p);
        p = end;
    }
    return p;
}

static char *next_line(FILE *f, char *line, int size)
{
    do {
        if (!fgets(line, size, f)) return NULL;
    } while (line[0] == '#');
    assert_non_null(strchr(line, '\n'));
    return line;
}

static bool read_ref(FILE *f, struct ref *r)
{
    char line[4096];
    if (!next_line(f, line, sizeof line)) return false;
    assert_int_equal(
        sscanf(line, "case %63s %15s %d %f %ld %d", r->name, r->as, &r->steps, &r->guidance, &r->tokens, &r->calls), 6);
    assert_in_range(r->calls, 1, MAX_CALLS);
    assert_non_null(next_line(f, line, sizeof line));
    assert_memory_equal(line, "config ", 7);
    snprintf(r->config, sizeof r->config, "%s", line + 7);
    assert_non_null(next_line(f, line, sizeof line));
    read_words(line + strlen("start"), r->start, N);
    for (int i = 0; i < r->calls; i++) {
        assert_non_null(next_line(f, line, sizeof line));
        read_words(read_words(line + strlen("call"), &r->t[i], 1), r->x[i], N);
    }
    assert_non_null(next_line(f, line, sizeof line));
    read_words(line + strlen("end"), r->end, N);
    return true;
}

/* The config as a file; the caller removes it. */
static const char *write_config(const char *text, size_t n)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/dlens_sched_XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), (ssize_t)n);
    close(fd);
    return path;
}

static int read_text(struct sched_config *c, const char *text, size_t n, enum sched_kind as, struct dl_err *e)
{
    const char *path = write_config(text, n);
    memset(e, 0, sizeof *e);
    int rc = sched_config_read(c, path, as, e);
    if (rc < 0) assert_non_null(strstr(e->msg, as == SCHED_FLOW ? "" : path));
    unlink(path);
    return rc;
}

static float made_up(int call, int row, int i)
{
    uint32_t h = (uint32_t)(i + 64 * (3 * call + row) + 1) * 2654435761u;
    h = (h ^ (h >> 15)) * 2246822519u;
    return (float)(h >> 8) / 4194304.0f - 2;
}

struct loop {
    float x[N], slot[SCHED_SLOTS][N];
    struct dl_rng rng;
};

/* One call of the made-up network and one step, from l->x to l->x. */
static void advance(const struct sched_table *t, int call, float guidance, struct loop *l)
{
    float in[N], u[N], c[N], v[N], noise[N], work[N];
    sched_input(&t->step[call], l->x, in, N);
    for (int i = 0; i < N; i++) {
        u[i] = made_up(call, 0, i) + in[i] * 0.25f;
        c[i] = made_up(call, 1, i) + in[i] * 0.25f;
        v[i] = made_up(call, 2, i) * 0.5f;
    }
    struct sched_image im = {.x = l->x, .cond = c, .uncond = guidance > 1 ? u : NULL};
    for (int k = 0; k < t->slots; k++) im.slot[k] = l->slot[k];
    if (t->use_var) im.var = v;
    if (t->step[call].draws) {
        rng_normal(&l->rng, noise, N, DL_F32);
        im.noise = noise;
    }
    if (t->threshold > 0) im.threshold = sched_threshold(t, call, guidance, &im, N, work);
    sched_apply(t, call, guidance, &im, N);
}

static double relative_l2(const float *a, const float *ref)
{
    double d = 0, s = 0;
    for (int i = 0; i < N; i++) {
        d += ((double)a[i] - ref[i]) * ((double)a[i] - ref[i]);
        s += (double)ref[i] * ref[i];
    }
    return sqrt(d / s);
}

static void start(struct loop *l, const struct sched_table *t, const struct ref *r)
{
    for (int k = 0; k < SCHED_SLOTS; k++)
        for (int i = 0; i < N; i++) l->slot[k][i] = NAN; /* nothing may be read before it is written */
    rng_seed(&l->rng, RNG_TORCH_CPU, 17, 0, 0);
    rng_normal(&l->rng, l->x, N, DL_F32);
    for (int i = 0; i < N; i++) l->x[i] *= t->init_sigma;
    assert_memory_equal(l->x, r->start, sizeof l->x);
}

static void check(const struct ref *r)
{
    struct sched_config c;
    struct sched_table *t;
    struct dl_err e = {0};
    int as = strcmp(r->as, "file") == 0 ? SCHED_FILE : sched_kind_of(r->as);
    assert_true(as >= 0);
    if (read_text(&c, r->config, strlen(r->config), (enum sched_kind)as, &e) < 0) fail_msg("%s: %s", r->name, e.msg);
    if (sched_plan(&t, &c, r->steps, r->tokens, &e) < 0) fail_msg("%s: %s", r->name, e.msg);
    assert_int_equal(t->n, r->calls);

    /* every step from diffusers' latents before it */
    struct loop l;
    double worst = 0;
    int exact = 0;
    start(&l, t, r);
    for (int i = 0; i < t->n; i++) {
        if (t->step[i].t != r->t[i])
            fail_msg("%s: call %d has timestep %.9g, not %.9g", r->name, i, t->step[i].t, r->t[i]);
        if (i > 0) memcpy(l.x, r->x[i - 1], sizeof l.x);
        advance(t, i, r->guidance, &l);
        double d = relative_l2(l.x, r->x[i]);
        if (!(d <= worst)) worst = d;
        exact += memcmp(l.x, r->x[i], sizeof l.x) == 0;
        if (!(d <= 1e-6)) fail_msg("%s: step %d is off by %g", r->name, i, d);
    }
    /* all steps in a row; errors may grow, as the network feeds back */
    start(&l, t, r);
    for (int i = 0; i < t->n; i++) advance(t, i, r->guidance, &l);
    double loop = relative_l2(l.x, r->end);
    print_message("%-18s %3d calls, %3d bit-equal, worst step %.1e, loop against the untouched library %.1e\n", r->name,
                  t->n, exact, worst, loop);
    assert_true(loop <= (c.kind == SCHED_DPM ? 3e-6 : 1e-6)); /* the library's logarithms, seen in their differences */
    bool euler_v = c.kind == SCHED_EULER && c.prediction == SCHED_V;
    if (!euler_v && !t->use_var) assert_int_equal(exact, t->n);
    sched_close(t);
}

static void steps_equal_diffusers(void **state)
{
    (void)state;
    FILE *f = fopen(DLENS_SOURCE_DIR "/tests/unit/data/sched_ref.txt", "r");
    assert_non_null(f);
    struct ref *r = malloc(sizeof *r);
    assert_non_null(r);
    int cases = 0;
    for (; read_ref(f, r); cases++) check(r);
    assert_int_equal(cases, 40);
    free(r);
    fclose(f);
}

#define SD_KEYS                                                                                                        \
    "\"beta_start\": 0.00085, \"beta_end\": 0.012, \"beta_schedule\": \"scaled_linear\", "                             \
    "\"skip_prk_steps\": true, \"clip_sample\": false, \"steps_offset\": 1"

/* What cannot be honoured is refused, and the message says which key. */
static void refusals_name_the_key(void **state)
{
    (void)state;
    static const struct {
        const char *class, *key, *value;
        enum sched_kind as;
        enum dl_code code;
    } cases[] = {
        {"EulerDiscreteScheduler", "use_karras_sigmas", "true", SCHED_FILE, DL_EINPUT},
        {"EulerDiscreteScheduler", "use_beta_sigmas", "true", SCHED_FILE, DL_EINPUT},
        {"EulerDiscreteScheduler", "interpolation_type", "\"log_linear\"", SCHED_FILE, DL_EINPUT},
        {"EulerDiscreteScheduler", "timestep_type", "\"continuous\"", SCHED_FILE, DL_EINPUT},
        {"EulerDiscreteScheduler", "rescale_betas_zero_snr", "true", SCHED_FILE, DL_EINPUT},
        {"EulerDiscreteScheduler", "prediction_type", "\"sample\"", SCHED_FILE, DL_EINPUT},
        {"EulerDiscreteScheduler", "prediction_type", "3", SCHED_FILE, DL_EINPUT},
        {"EulerDiscreteScheduler", "timestep_spacing", "\"sideways\"", SCHED_FILE, DL_EINPUT},
        {"EulerDiscreteScheduler", "steps_offset2", "7", SCHED_FILE, DL_OK},
        {"EulerDiscreteScheduler", "thresholding", "true", SCHED_FILE, DL_OK}, /* no key of that class */
        {"DDIMScheduler", "thresholding", "true", SCHED_FILE, DL_EINPUT},
        {"DDIMScheduler", "trained_betas", "[0.1, 0.2]", SCHED_FILE, DL_EINPUT},
        {"DDIMScheduler", "num_train_timesteps", "0", SCHED_FILE, DL_EINPUT},
        {"DDIMScheduler", "num_train_timesteps", "1000000000000", SCHED_FILE, DL_EINPUT},
        {"DDIMScheduler", "set_alpha_to_one", "\"yes\"", SCHED_FILE, DL_EINPUT},
        {"PNDMScheduler", "use_karras_sigmas", "true", SCHED_FILE, DL_OK},
        {"PNDMScheduler", "use_karras_sigmas", "true", SCHED_EULER, DL_EINPUT},
        {"PNDMScheduler", "solver_order", "3", SCHED_DPM, DL_EINPUT},
        {"PNDMScheduler", "algorithm_type", "\"sde-dpmsolver++\"", SCHED_DPM, DL_EINPUT},
        {"PNDMScheduler", "solver_type", "\"heun\"", SCHED_DPM, DL_EINPUT},
        {"PNDMScheduler", "use_lu_lambdas", "true", SCHED_DPM, DL_EINPUT},
        {"PNDMScheduler", "variance_type", "\"fixed_large\"", SCHED_DDPM, DL_EINPUT},
        {"PNDMScheduler", "lambda_min_clipped", "\"low\"", SCHED_DPM, DL_EINPUT},
        {"PNDMScheduler", "lambda_min_clipped", "-Infinity", SCHED_DPM, DL_OK},
        {"HeunDiscreteScheduler", "beta", "1", SCHED_FILE, DL_EINPUT},
        {"HeunDiscreteScheduler", "beta", "1", SCHED_DDIM, DL_OK},
        {"PNDMScheduler", "shift", "1", SCHED_FLOW, DL_EUSAGE},
        {"FlowMatchEulerDiscreteScheduler", "shift", "1", SCHED_EULER, DL_EUSAGE},
        {"FlowMatchEulerDiscreteScheduler", "stochastic_sampling", "true", SCHED_FILE, DL_EINPUT},
        {"FlowMatchEulerDiscreteScheduler", "shift_terminal", "0.1", SCHED_FILE, DL_EINPUT},
        {"FlowMatchEulerDiscreteScheduler", "use_karras_sigmas", "true", SCHED_FILE, DL_EINPUT},
        {"FlowMatchEulerDiscreteScheduler", "shift", "-1", SCHED_FILE, DL_EINPUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024];
        /* a key given twice is malformed, so a case about steps_offset and the like has them elsewhere */
        int n = snprintf(text, sizeof text, "{\"_class_name\": \"%s\", " SD_KEYS ", \"%s\": %s}", cases[i].class,
                         cases[i].key, cases[i].value);
        struct sched_config c;
        struct dl_err e;
        int rc = read_text(&c, text, (size_t)n, cases[i].as, &e);
        if (e.code != cases[i].code) fail_msg("%s with %s: %d %s", cases[i].class, cases[i].key, e.code, e.msg);
        assert_int_equal(rc, cases[i].code == DL_OK ? 0 : -1);
        bool by_class = cases[i].code == DL_EUSAGE || strcmp(cases[i].key, "beta") == 0;
        if (rc < 0 && !by_class && !strstr(e.msg, cases[i].key)) fail_msg("%s: message is: %s", cases[i].key, e.msg);
    }
}

/* Defaults that differ by class decide, when the file is silent. */
static void absent_keys_take_the_class_defaults(void **state)
{
    (void)state;
    static const char pndm[] = "{\"_class_name\": \"PNDMScheduler\"}", ddim[] = "{\"_class_name\": \"DDIMScheduler\"}",
                      euler[] = "{\"_class_name\": \"EulerDiscreteScheduler\"}",
                      ddpm[] = "{\"_class_name\": \"DDPMScheduler\"}",
                      ddim_off[] = "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": false}";
    struct sched_config c;
    struct dl_err e;
    assert_int_equal(read_text(&c, pndm, sizeof pndm - 1, SCHED_FILE, &e), -1);
    assert_non_null(strstr(e.msg, "skip_prk_steps"));
    assert_int_equal(read_text(&c, ddim, sizeof ddim - 1, SCHED_FILE, &e), -1);
    assert_non_null(strstr(e.msg, "clip_sample"));
    assert_int_equal(read_text(&c, ddpm, sizeof ddpm - 1, SCHED_FILE, &e), -1);
    assert_non_null(strstr(e.msg, "clip_sample"));
    assert_int_equal(read_text(&c, ddim_off, sizeof ddim_off - 1, SCHED_FILE, &e), 0);
    assert_true(c.kind == SCHED_DDIM && c.set_alpha_to_one && c.spacing == SCHED_LEADING && c.betas == SCHED_LINEAR);
    assert_true(c.beta_start == 0.0001 && c.beta_end == 0.02 && c.train_steps == 1000 && c.steps_offset == 0);
    assert_int_equal(read_text(&c, euler, sizeof euler - 1, SCHED_FILE, &e), 0);
    assert_true(c.kind == SCHED_EULER && c.spacing == SCHED_LINSPACE && !c.final_sigma_min);
    assert_int_equal(read_text(&c, euler, sizeof euler - 1, SCHED_DPM, &e), 0);
    assert_true(c.kind == SCHED_DPM && c.spacing == SCHED_LINSPACE && c.order == 2 && isinf(c.lambda_min));
}

static void malformed_files_are_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "null",
        "{\"a\": 1}",
        "{\"_class_name\": 3}",
        "{\"_class_name\": \"DDIMScheduler\"",
        "{\"_class_name\": \"DDIMScheduler\", \"beta_start\": -Infinity, \"clip_sample\": Infinity}",
        "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": false, \"clip_sample\": true}",
        "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": false, \"beta_start\": 1e999}",
        "{\"_class_name\": \"-Infinity",
        "-Infinit",
        "\"\\",
    };
    struct sched_config c;
    struct dl_err e;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(read_text(&c, texts[i], strlen(texts[i]), SCHED_FILE, &e), -1);
        assert_int_equal(e.code, DL_EINPUT);
    }
    memset(&e, 0, sizeof e);
    assert_int_equal(sched_config_read(&c, "/nonexistent/scheduler_config.json", SCHED_FILE, &e), -1);
    assert_int_equal(e.code, DL_EINPUT);
    /* a file larger than any config */
    size_t n = (64u << 20) + 1;
    char *big = malloc(n);
    assert_non_null(big);
    memset(big, ' ', n);
    assert_int_equal(read_text(&c, big, n, SCHED_FILE, &e), -1);
    free(big);
}

/* Numbers of steps that a schedule cannot give. */
static void impossible_steps_are_refused(void **state)
{
    (void)state;
    static const struct {
        enum sched_kind as;
        const char *extra;
        int steps, rc;
    } cases[] = {
        {SCHED_PNDM, "", 0, -1},
        {SCHED_PNDM, "", -5, -1},
        {SCHED_PNDM, "", 1001, -1},
        {SCHED_PNDM, "", 1000, -1},
        {SCHED_PNDM, "", 999, 0},
        {SCHED_DDIM, "", 1000, -1},
        {SCHED_DDIM, "", 999, 0},
        {SCHED_EULER, "", 1000, 0},
        {SCHED_DPM, "", 1000, -1},
        {SCHED_DPM, "", 999, 0},
        {SCHED_DPM, ", \"lambda_min_clipped\": 50", 10, -1},
        {SCHED_DDIM, ", \"num_train_timesteps\": 1, \"steps_offset2\": 0", 1, -1}, /* leading, offset 1: timestep 1 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024];
        int n = snprintf(text, sizeof text, "{\"_class_name\": \"PNDMScheduler\", " SD_KEYS "%s}", cases[i].extra);
        struct sched_config c;
        struct sched_table *t;
        struct dl_err e;
        assert_int_equal(read_text(&c, text, (size_t)n, cases[i].as, &e), 0);
        int rc = sched_plan(&t, &c, cases[i].steps, 0, &e);
        if (rc != cases[i].rc) fail_msg("%s, %d steps: %s", sched_kind_name(cases[i].as), cases[i].steps, e.msg);
        if (rc < 0) assert_null(t);
        sched_close(t);
    }
}

/* Betas that end a schedule too early give an error, not NaN images. */
static void degenerate_betas_are_refused(void **state)
{
    (void)state;
    static const char *const betas[] = {"\"beta_start\": 0, \"beta_end\": 0",
                                        "\"beta_start\": 0.999, \"beta_end\": 0.999"};
    for (int k = 0; k < 2; k++) {
        for (enum sched_kind as = SCHED_PNDM; as <= SCHED_DPM; as++) {
            char text[512];
            int n = snprintf(text, sizeof text,
                             "{\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true, "
                             "\"clip_sample\": false, %s}",
                             betas[k]);
            struct sched_config c;
            struct sched_table *t;
            struct dl_err e;
            assert_int_equal(read_text(&c, text, (size_t)n, as, &e), 0);
            int rc = sched_plan(&t, &c, 10, 0, &e);
            /* DDIM without any noise divides by nothing that vanishes */
            bool harmless = k == 0 && as == SCHED_DDIM;
            if (rc != (harmless ? 0 : -1)) fail_msg("%s with %s: %d", sched_kind_name(as), betas[k], rc);
            if (rc < 0) assert_int_equal(e.code, DL_EINPUT);
            sched_close(t);
        }
    }
}

/* The configs of the published models, each as its own class and as the others. */
static void published_configs(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        enum sched_kind kind;
        int steps, calls;
        float first, last, init;
    } cases[] = {
        {"stable-diffusion-v1-5", SCHED_PNDM, 50, 51, 981, 1, 1},
        {"stable-diffusion-2-1", SCHED_DDIM, 50, 50, 981, 1, 1},
        {"stable-diffusion-2-1-base", SCHED_PNDM, 50, 51, 981, 1, 1},
        {"stable-diffusion-xl-base-1.0", SCHED_EULER, 50, 50, 981, 1, 13.158470f},
        {"IF-I-XL-v1.0", SCHED_DDPM, 100, 100, 990, 0, 1},
        {"IF-II-L-v1.0", SCHED_DDPM, 50, 50, 980, 0, 1},
        {"FLUX.1-schnell", SCHED_FLOW, 4, 4, 1000, 250, 1},
        {"FLUX.1-dev", SCHED_FLOW, 28, 28, 1000, 104.72f, 1},
    };
    if (access(DLENS_SHARED "/models/PROVENANCE.md", R_OK) != 0) {
        print_message("skipped: no " DLENS_SHARED "/models\n");
        skip();
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, DLENS_SHARED "/models/%s/scheduler/scheduler_config.json", cases[i].model);
        struct sched_config c;
        struct sched_table *t;
        struct dl_err e = {0};
        if (sched_config_read(&c, path, SCHED_FILE, &e) < 0) fail_msg("%s", e.msg);
        assert_int_equal(c.kind, cases[i].kind);
        if (sched_plan(&t, &c, cases[i].steps, 4096, &e) < 0) fail_msg("%s", e.msg);
        assert_int_equal(t->n, cases[i].calls);
        assert_true(fabsf(t->step[0].t - cases[i].first) < 0.01f);
        if (fabsf(t->step[t->n - 1].t - cases[i].last) >= 0.01f) fail_msg("%s ends at %g", path, t->step[t->n - 1].t);
        assert_true(fabsf(t->init_sigma - cases[i].init) < 1e-5f);
        sched_close(t);
        for (int as = SCHED_PNDM; as <= SCHED_FLOW; as++) {
            memset(&e, 0, sizeof e);
            bool flow_differs = (as == SCHED_FLOW) != (c.kind == SCHED_FLOW);
            struct sched_config other;
            bool can = sched_config_read(&other, path, (enum sched_kind)as, &e) == 0;
            /* IF's file has no skip_prk_steps, has thresholding, and clips */
            bool if_differs = cases[i].kind == SCHED_DDPM && (as == SCHED_PNDM || as == SCHED_DDIM);
            if (can == (flow_differs || if_differs))
                fail_msg("%s as %s: %s", path, sched_kind_name((enum sched_kind)as), e.msg);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_equal_diffusers),
        cmocka_unit_test(refusals_name_the_key),
        cmocka_unit_test(absent_keys_take_the_class_defaults),
        cmocka_unit_test(malformed_files_are_refused),
        cmocka_unit_test(impossible_steps_are_refused),
        cmocka_unit_test(degenerate_betas_are_refused),
        cmocka_unit_test(published_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
