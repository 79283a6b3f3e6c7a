/* Every attention and 3 x 3 convolution of the real models, full size, through both tiers of kernels: a part of each
 * output against the C reference, the whole of one tier's against the other's, twice to the same bytes, and by the
 * variant that the tier is to choose. Shapes come from dry runs of the models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "kernels/cpu/cpu.h"
#include "tests/cuda/rig_cuda.h"
#include "tools/bench/check.h"
#include "tools/bench/model.h"

#include <math.h>
#include <string.h>

enum { AUTO, PORTABLE, HOPPER, TIERS };
static const char *const tier_name[TIERS] = {"auto", "portable", "hopper"};

static struct {
    const struct dl_backend *be[TIERS], *ref;
    struct dl_ctx *ctx[TIERS], *ref_ctx;
    bool hopper;
} world;

static int setup(void **state)
{
    (void)state;
    struct dl_err e = {0};
    setenv("DLENS_CUDA_TIER", tier_name[AUTO], 1);
    rig_cuda_open(&world.be[AUTO], &world.ctx[AUTO]);
    world.hopper = strstr(world.be[AUTO]->device, "compute capability 9.0") != NULL;
    for (int i = PORTABLE; i < TIERS; i++) {
        setenv("DLENS_CUDA_TIER", tier_name[i], 1);
        int rc = cuda_open(&world.be[i], &world.ctx[i], NULL, &e);
        if (i == HOPPER && !world.hopper) {
            assert_int_equal(rc, -1); /* and says why */
            assert_non_null(strstr(e.msg, "compute capability 9.0"));
            print_message("skipped: the Hopper tier: this GPU is not of compute capability 9.0\n");
        } else if (rc < 0) {
            fail_msg("tier %s: %s", tier_name[i], e.msg);
        }
    }
    if (cpu_open(&world.ref, &world.ref_ctx, &(struct dl_cpu_opts){.reference_only = true}, &e) < 0)
        fail_msg("%s", e.msg);
    setenv("DLENS_CUDA_TIER", "fastest", 1);
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    assert_int_equal(cuda_open(&be, &ctx, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "not fastest"));
    return unsetenv("DLENS_CUDA_TIER");
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < TIERS; i++)
        if (world.ctx[i]) world.be[i]->close(world.ctx[i]);
    world.ref->close(world.ref_ctx);
    return 0;
}

static dl_act result_of(const union op_args *a, enum op_kind kind)
{
    return kind == OP_ATTN ? a->attn.y : a->conv.y;
}

/* The output of set i; its memory is the caller's to free. */
static dl_act output(struct case_run *c, int i)
{
    struct dl_err e = {0};
    dl_act y = result_of(&c->set[i].a, c->k->kind);
    void *p = malloc((size_t)dl_act_bytes(y));
    assert_non_null(p);
    if (c->be->download(c->ctx, p, y.p, dl_act_bytes(y), &e) < 0) fail_msg("%s", e.msg);
    y.p = p;
    return y;
}

/* What the Hopper tier is there for. */
static bool attn_served(const struct tape_case *k)
{
    const struct dl_attn *a = &k->a.attn;
    int d = a->q.c / a->heads;
    bool dims = d == 40 || d == 64 || d == 80 || d == 128 || d == 160;
    return k->run_t != DL_F32 && dims && !a->bias.p && !a->key_mask && !a->causal;
}

static bool conv_served(const struct tape_case *k)
{
    const struct dl_conv *a = &k->a.conv;
    return k->run_t != DL_F32 && a->x.c % 8 == 0 && a->y.c % 8 == 0;
}

/* What the tier would run on these operands. */
static const char *variant_of(const struct case_run *c, int tier)
{
    struct dl_run r;
    dl_run_open(&r, world.be[tier], world.ctx[tier], c->k->run_t);
    op_call(&r, c->k->kind, &c->set[0].a, NULL);
    const char *name = r.variant;
    dl_run_close(&r);
    return name;
}

/* By one tier, against the reference; returns the output. */
static dl_act run_tier(const struct tape_case *k, int tier, const char *model, const struct check_want *want,
                       const char **by_default)
{
    struct case_run c = {0};
    struct check ch;
    struct dl_err e = {0};
    int again = k->kind == OP_CONV && k->a.conv.e.res.p ? 1 : 0; /* a result in place is no input for a second run */
    if (case_open(&c, k, world.be[tier], world.ctx[tier], 1 + again, CASE_SIGNED, &e) < 0 || case_once(&c, 0, &e) < 0)
        fail_msg("%s %s %s, %s: %s", model, op_name(k->kind), k->shape, tier_name[tier], e.msg);
    dl_act first = output(&c, 0);
    if (case_once(&c, again, &e) < 0) fail_msg("%s", e.msg);
    dl_act second = output(&c, again);
    check_output(want, first.p, &ch);
    print_message("%-6s %-4s %-4s %-50s %-8s %-18s %5.1f %% of budget\n", model, dl_type_name(k->run_t),
                  op_name(k->kind), k->shape, tier_name[tier], c.variant, 100 * ch.share);
    if (!(ch.share <= 1)) fail_msg("%.9g, not %.9g", ch.got, ch.want);
    assert_true(ch.elements > 0);
    if (memcmp(first.p, second.p, (size_t)dl_act_bytes(first))) fail_msg("two runs differ");
    free(second.p);

    bool wgmma = strstr(c.variant, "wgmma") != NULL;
    bool serves = world.hopper && (k->kind == OP_ATTN ? attn_served(k) : conv_served(k));
    assert_int_equal(wgmma, tier == HOPPER && serves);
    *by_default = variant_of(&c, AUTO);
    if (!serves) assert_null(strstr(*by_default, "wgmma")); /* which of the portable ones is a matter of measurement */
    case_close(&c);
    return first;
}

/* The tiers against the reference in a part of the output, and against each other in the whole. */
static void all_tiers(const struct tape_case *k, const char *model)
{
    struct check_want *want;
    struct check ch;
    struct dl_err e = {0};
    dl_act y[TIERS] = {{0}};
    const char *by_default = "";
    if (check_want_open(&want, k, world.ref, world.ref_ctx, &e) < 0) fail_msg("%s: %s", k->shape, e.msg);
    for (int tier = PORTABLE; tier < TIERS; tier++)
        if (world.ctx[tier]) y[tier] = run_tier(k, tier, model, want, &by_default);
    if (y[HOPPER].p) {
        check_pair(want, y[HOPPER], y[PORTABLE], &ch);
        print_message("%*s the two tiers: %5.1f %% of budget; by default %s\n", 67, "", 100 * ch.share, by_default);
        if (!(ch.share <= 1)) fail_msg("%.9g by the Hopper tier, %.9g by the portable one", ch.got, ch.want);
    }
    for (int tier = 0; tier < TIERS; tier++) free(y[tier].p);
    check_want_close(want);
}

static void both_tiers(const char *like, int type)
{
    struct tape *t = NULL;
    struct bench_model m = {0};
    struct pipe_plan plan;
    struct dl_err e = {0};
    struct bench_sweep s = {.layers = 1, .batch = 1, .guidance = NAN, .type = type};
    if (tape_open(&t, INT64_MAX / 4, &e) < 0 ||
        bench_model_open(&m, &(struct bench_source){.like = like}, type, t->be, t->ctx, &e) < 0 ||
        bench_sweep_complete(m.pipe, &s, &e) < 0 || bench_record(t, &m, &s, &plan, &e) < 0)
        fail_msg("%s: %s", like, e.msg);
    bench_model_close(&m);
    int n = 0;
    for (int i = 0; i < t->n; i++) {
        bool known = t->c[i].kind != OP_ATTN && (t->c[i].kind != OP_CONV || t->c[i].a.conv.k != 3);
        for (int j = 0; j < i && !known; j++) /* in another phase */
            known =
                t->c[j].kind == t->c[i].kind && t->c[j].run_t == t->c[i].run_t && !strcmp(t->c[j].shape, t->c[i].shape);
        if (!known) all_tiers(&t->c[i], like), n++;
    }
    assert_true(n > 0);
    tape_close(t);
}

static void sd15(void **state) { (void)state, both_tiers("sd15", DL_F16), both_tiers("sd15", DL_BF16); }
static void sd21(void **state) { (void)state, both_tiers("sd21", DL_F16); }
static void sdxl(void **state) { (void)state, both_tiers("sdxl", DL_F16); }
static void deepfloyd(void **state) { (void)state, both_tiers("if", DL_BF16), both_tiers("if2", DL_F16); }
static void flux(void **state) { (void)state, both_tiers("flux", DL_BF16); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sd15),      cmocka_unit_test(sd21), cmocka_unit_test(sdxl),
        cmocka_unit_test(deepfloyd), cmocka_unit_test(flux),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
