/* sched_config.c: scheduler_config.json. Only the keys that a class's constructor takes are looked at; all others are
 * without effect, as in diffusers. */
#include "pipelines/sched.h"

#include "loaders/config.h"
#include "loaders/json_read.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 20 };

static const char *const classes[] = {
    [SCHED_FILE] = "", /* no class of ours */
    [SCHED_PNDM] = "PNDMScheduler",
    [SCHED_DDIM] = "DDIMScheduler",
    [SCHED_EULER] = "EulerDiscreteScheduler",
    [SCHED_DPM] = "DPMSolverMultistepScheduler",
    [SCHED_DDPM] = "DDPMScheduler",
    [SCHED_FLOW] = "FlowMatchEulerDiscreteScheduler",
};

/* A key that dlens can honour only when it is false, absent or null. */
static void only_false(struct cfg *f, const char *key)
{
    if (cfg_bool(f, key, false)) cfg_fail(f, key, "true, which dlens cannot honour; set it to false");
}

/* A key that dlens can honour only when it is absent or null. */
static void only_null(struct cfg *f, const char *key)
{
    if (cfg_has(f, key)) cfg_fail(f, key, "has a value, which dlens cannot honour; set it to null");
}

static void only_string(struct cfg *f, const char *key, const char *value) { cfg_choice(f, key, 0, 1, &value); }

/* The key has one name and two readings: latents are never clipped here, and true is the classes' own default. */
static void only_unclipped(const struct sched_config *c, struct cfg *f)
{
    if (cfg_bool(f, "clip_sample", true) && !c->sd_rules)
        cfg_fail(f, "clip_sample",
                 "true, also when absent, which dlens cannot honour; set it to false, or choose another "
                 "--scheduler");
}

/* What all diffusion samplers take. */
static void read_schedule(struct sched_config *c, struct cfg *f)
{
    static const char *const betas[] = {"linear", "scaled_linear", "squaredcos_cap_v2"};
    static const char *const spacings[] = {"leading", "linspace", "trailing"};
    static const char *const predictions[] = {"epsilon", "v_prediction"};
    bool spread = c->kind == SCHED_EULER || c->kind == SCHED_DPM;
    c->beta_start = cfg_float(f, "beta_start", 0.0001, 0, 0.999);
    c->beta_end = cfg_float(f, "beta_end", 0.02, 0, 0.999);
    c->betas = (enum sched_betas)cfg_choice(f, "beta_schedule", SCHED_LINEAR, 3, betas);
    c->prediction = (enum sched_prediction)cfg_choice(f, "prediction_type", SCHED_EPSILON, 2, predictions);
    c->spacing =
        (enum sched_spacing)cfg_choice(f, "timestep_spacing", spread ? SCHED_LINSPACE : SCHED_LEADING, 3, spacings);
    c->steps_offset = (int32_t)cfg_int(f, "steps_offset", 0, 0, 100000);
    if (c->sd_rules) c->steps_offset = 1;
    only_null(f, "trained_betas");
    if (c->kind != SCHED_PNDM) only_false(f, "rescale_betas_zero_snr");
}

static void read_threshold(struct sched_config *c, struct cfg *f)
{
    if (!cfg_bool(f, "thresholding", false)) return;
    c->threshold = cfg_float(f, "dynamic_thresholding_ratio", 0.995, 1e-6, 1);
    c->threshold_max = cfg_float(f, "sample_max_value", 1, 1, 1e6);
}

static void read_final_sigma(struct sched_config *c, struct cfg *f)
{
    static const char *const ends[] = {"zero", "sigma_min"};
    c->final_sigma_min = cfg_choice(f, "final_sigmas_type", 0, 2, ends) == 1;
}

static void no_other_sigmas(struct cfg *f)
{
    only_false(f, "use_karras_sigmas");
    only_false(f, "use_exponential_sigmas");
    only_false(f, "use_beta_sigmas");
}

static void read_pndm(struct sched_config *c, struct cfg *f)
{
    if (!cfg_bool(f, "skip_prk_steps", false))
        cfg_fail(f, "skip_prk_steps",
                 "false, also when absent: PNDM's Runge-Kutta start is not there; set it to true, or "
                 "choose another --scheduler");
    c->set_alpha_to_one = cfg_bool(f, "set_alpha_to_one", false);
}

static void read_ddim(struct sched_config *c, struct cfg *f)
{
    only_unclipped(c, f);
    only_false(f, "thresholding");
    c->set_alpha_to_one = cfg_bool(f, "set_alpha_to_one", true);
}

static void read_euler(struct sched_config *c, struct cfg *f)
{
    no_other_sigmas(f);
    only_string(f, "interpolation_type", "linear");
    only_string(f, "timestep_type", "discrete");
    read_final_sigma(c, f);
}

static void read_dpm(struct sched_config *c, struct cfg *f)
{
    static const char *const variances[] = {"learned", "learned_range"};
    no_other_sigmas(f);
    only_false(f, "use_lu_lambdas");
    only_false(f, "use_flow_sigmas");
    only_false(f, "use_dynamic_shifting");
    only_string(f, "algorithm_type", "dpmsolver++");
    only_string(f, "solver_type", "midpoint");
    read_final_sigma(c, f);
    read_threshold(c, f);
    c->order = (int32_t)cfg_int(f, "solver_order", 2, 1, 2);
    c->lower_order_final = cfg_bool(f, "lower_order_final", true);
    c->euler_at_final = cfg_bool(f, "euler_at_final", false);
    c->lambda_min = cfg_float(f, "lambda_min_clipped", -INFINITY, -1e6, 1e6);
    c->learned_var = cfg_choice(f, "variance_type", -1, 2, variances) >= 0;
}

static void read_ddpm(struct sched_config *c, struct cfg *f)
{
    static const char *const variances[] = {"fixed_small", "learned_range"};
    read_threshold(c, f);
    if (c->threshold == 0) only_unclipped(c, f); /* with thresholding the key is not looked at */
    c->learned_var = cfg_choice(f, "variance_type", 0, 2, variances) == 1;
}

static void read_flow(struct sched_config *c, struct cfg *f)
{
    no_other_sigmas(f);
    only_false(f, "invert_sigmas");
    only_false(f, "stochastic_sampling");
    only_null(f, "shift_terminal");
    only_string(f, "time_shift_type", "exponential");
    c->shift = cfg_float(f, "shift", 1, 1e-3, 1e3);
    c->dynamic_shift = cfg_bool(f, "use_dynamic_shifting", false);
    c->base_shift = cfg_float(f, "base_shift", 0.5, -20, 20);
    c->max_shift = cfg_float(f, "max_shift", 1.15, -20, 20);
    c->base_len = (int32_t)cfg_int(f, "base_image_seq_len", 256, 1, 1 << 30);
    c->max_len = (int32_t)cfg_int(f, "max_image_seq_len", 4096, 1, 1 << 30);
    if (c->dynamic_shift && c->max_len <= c->base_len)
        cfg_fail(f, "max_image_seq_len", "%d, which is not above base_image_seq_len, %d", (int)c->max_len,
                 (int)c->base_len);
}

static int pick_kind(struct sched_config *c, struct cfg *f, enum sched_kind as, struct dl_err *e)
{
    const char *name = cfg_str(f, "_class_name", NULL);
    enum sched_kind own = SCHED_FLOW;
    while (own != SCHED_FILE && strcmp(name, classes[own]) != 0) own--;
    if (own == SCHED_FILE && as == SCHED_FILE)
        cfg_fail(f, "_class_name", "\"%.80s\", which dlens does not have; choose one with --scheduler", name);
    if (cfg_check(f, e)) return -1;
    if (as != SCHED_FILE && own != SCHED_FILE && (own == SCHED_FLOW) != (as == SCHED_FLOW))
        return dl_fail(
            e, DL_EUSAGE, "--scheduler %s does not go with this model, which is trained %s (%s)", sched_kind_name(as),
            own == SCHED_FLOW ? "as a flow; it takes flow-euler" : "to predict noise; flow-euler is for flows",
            cfg_path(f));
    c->kind = as == SCHED_FILE ? own : as;
    return 0;
}

static int read_betas(struct sched_config *c, struct cfg *f, struct dl_err *e)
{
    c->kind = SCHED_DDPM;
    c->train_steps = (int32_t)cfg_int(f, "num_train_timesteps", 1000, 1, 100000);
    read_schedule(c, f);
    return cfg_check(f, e);
}

static int read_config(struct sched_config *c, struct cfg *f, enum sched_kind as, struct dl_err *e)
{
    static void (*const read_kind[])(struct sched_config *, struct cfg *) = {
        [SCHED_PNDM] = read_pndm, [SCHED_DDIM] = read_ddim, [SCHED_EULER] = read_euler,
        [SCHED_DPM] = read_dpm,   [SCHED_DDPM] = read_ddpm, [SCHED_FLOW] = read_flow,
    };
    if (pick_kind(c, f, as, e) < 0) return -1;
    c->train_steps = (int32_t)cfg_int(f, "num_train_timesteps", 1000, 1, 100000);
    if (c->kind != SCHED_FLOW) read_schedule(c, f);
    read_kind[c->kind](c, f);
    return cfg_check(f, e);
}

/* Python writes minus infinity (DPM-Solver++'s default lambda_min_clipped) as a word that is no JSON: null for it. */
static void replace_infinity(char *text, size_t n)
{
    static const char word[] = "-Infinity";
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        else if (!quoted && n - i >= sizeof word - 1 && memcmp(text + i, word, sizeof word - 1) == 0)
            memcpy(text + i, "null     ", sizeof word - 1);
    }
}

enum rules { OWN_RULES, SD_RULES, BETAS_ALONE };

static int read_file(struct sched_config *c, const char *path, enum sched_kind as, enum rules rules, struct dl_err *e)
{
    assert(as >= SCHED_FILE && as <= SCHED_FLOW);
    char *text;
    size_t n;
    struct cfg *f;
    memset(c, 0, sizeof *c);
    c->sd_rules = rules == SD_RULES;
    snprintf(c->path, sizeof c->path, "%s", path);
    if (js_slurp(path, MAX_FILE_BYTES, &text, &n, e) < 0) return -1;
    replace_infinity(text, n);
    int rc = cfg_open_memory(&f, text, n, path, e);
    free(text);
    if (rc < 0) return -1;
    rc = rules == BETAS_ALONE ? read_betas(c, f, e) : read_config(c, f, as, e);
    cfg_close(f);
    return rc;
}

int sched_config_read(struct sched_config *c, const char *path, enum sched_kind as, struct dl_err *e)
{
    return read_file(c, path, as, OWN_RULES, e);
}

int sched_config_read_sd(struct sched_config *c, const char *path, enum sched_kind as, struct dl_err *e)
{
    return read_file(c, path, as, SD_RULES, e);
}

int sched_config_read_betas(struct sched_config *c, const char *path, struct dl_err *e)
{
    return read_file(c, path, SCHED_DDPM, BETAS_ALONE, e);
}
