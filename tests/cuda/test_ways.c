/* Every attention, product and convolution of the real models, full size, in every way that the backend offers: a part
 * of each output against the C reference, the whole against the first way's, twice to the same bytes; and which ways the
 * tiers offer. Shapes come from dry runs of the models; DLENS_TEST_TINY=1: of their tiny versions, without the
 * larger of these, for the emulator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "kernels/cpu/cpu.h"
#include "tests/cuda/rig_cuda.h"
#include "tools/bench/check.h"
#include "tools/bench/model.h"

#include <math.h>
#include <string.h>

enum { TINY_FLOPS = 1 << 21, TINY_FLOPS_E4M3 = 1 << 22 };

static struct {
    const struct dl_backend *be, *ref;
    struct dl_ctx *ctx, *ref_ctx;
    bool hopper; /* the device's */
} world;

static int setup(void **state)
{
    (void)state;
    struct dl_err e = {0};
    rig_cuda_open(&world.be, &world.ctx);
    world.hopper = strstr(world.be->device, "compute capability 9.0") != NULL;
    if (cpu_open(&world.ref, &world.ref_ctx, &(struct dl_cpu_opts){.reference_only = true}, &e) < 0)
        fail_msg("%s", e.msg);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world.be->close(world.ctx);
    world.ref->close(world.ref_ctx);
    return 0;
}

static dl_act result_of(const union op_args *a, enum op_kind kind)
{
    return kind == OP_ATTN ? a->attn.y : kind == OP_GEMM ? a->gemm.y : a->conv.y;
}

/* The operands as they were made, the op in the way that is set, its output; the memory is the caller's to free. */
static dl_act output(struct case_run *c)
{
    struct dl_err e = {0};
    dl_act y = result_of(&c->set[0].a, c->k->kind);
    void *p = malloc((size_t)dl_act_bytes(y));
    assert_non_null(p);
    if (c->be->upload(c->ctx, c->set[0].mem, c->image, c->set_bytes, &e) < 0 || case_once(c, 0, &e) < 0 ||
        c->be->download(c->ctx, p, y.p, dl_act_bytes(y), &e) < 0)
        fail_msg("%s %s, %s: %s", op_name(c->k->kind), c->k->shape, c->variant ? c->variant : "", e.msg);
    y.p = p;
    return y;
}

static void one_way(struct case_run *c, const char *model, const struct check_want *want, dl_act first, dl_act y)
{
    struct check part, whole = {0};
    dl_act again = output(c);
    check_output(want, y.p, &part);
    if (first.p) check_pair(want, y, first, &whole);
    print_message("%-6s %-4s %-4s %-50s %-24s %5.1f %% of budget, %5.1f from the first\n", model,
                  dl_type_name(c->k->run_t), op_name(c->k->kind), c->k->shape, c->variant, 100 * part.share,
                  100 * whole.share);
    if (!(part.share <= 1)) fail_msg("%.9g, not %.9g", part.got, part.want);
    if (!(whole.share <= 1)) fail_msg("%.9g, and %.9g in the first way", whole.got, whole.want);
    assert_true(part.elements > 0);
    if (memcmp(y.p, again.p, (size_t)dl_act_bytes(y))) fail_msg("two runs differ");
    free(again.p);
}

/* Returns how many ways there are. */
static int all_ways(const struct tape_case *k, const char *model)
{
    struct case_run c = {0};
    struct check_want *want;
    struct dl_err e = {0};
    dl_act first = {0};
    char before[64] = "";
    int n = 0;
    if (check_want_open(&want, k, world.ref, world.ref_ctx, &e) < 0 ||
        case_open(&c, k, world.be, world.ctx, 1, CASE_SIGNED, &e) < 0)
        fail_msg("%s %s: %s", model, k->shape, e.msg);
    for (;; n++) { /* the last comes again */
        world.be->way(world.ctx, n + 1);
        dl_act y = output(&c);
        if (n > 0 && !strcmp(before, c.variant)) {
            free(y.p);
            break;
        }
        one_way(&c, model, want, first, y);
        snprintf(before, sizeof before, "%s", c.variant);
        if (n == 0)
            first = y;
        else
            free(y.p);
    }
    world.be->way(world.ctx, 0);
    free(first.p);
    case_close(&c);
    check_want_close(want);
    return n;
}

static void ways_of(const char *like, int type)
{
    struct tape *t = NULL;
    struct bench_model m = {0};
    struct pipe_plan plan;
    struct dl_err e = {0};
    struct bench_sweep s = {.layers = 1, .batch = 1, .guidance = NAN, .type = type};
    struct bench_source source = {.like = like, .tiny = getenv("DLENS_TEST_TINY") != NULL};
    if (tape_open(&t, INT64_MAX / 4, true, &e) < 0 ||
        bench_model_open(&m, &source, type, t->be, t->ctx, &e) < 0 ||
        bench_sweep_complete(m.pipe, &s, &e) < 0 || bench_record(t, &m, &s, &plan, &e) < 0)
        fail_msg("%s: %s", like, e.msg);
    bench_model_close(&m);
    int shapes = 0, ways = 0;
    for (int i = 0; i < t->n; i++) {
        const struct tape_case *k = &t->c[i];
        bool known = k->kind != OP_ATTN && k->kind != OP_CONV && k->kind != OP_GEMM;
        if (source.tiny && k->flops > (k->run_t == DL_E4M3 ? TINY_FLOPS_E4M3 : TINY_FLOPS)) continue;
        if (type == DL_E4M3 && k->run_t != DL_E4M3) continue; /* as in bf16 */
        for (int j = 0; j < i && !known; j++) /* in another phase */
            known = t->c[j].kind == k->kind && t->c[j].run_t == k->run_t && !strcmp(t->c[j].shape, k->shape);
        if (!known) ways += all_ways(k, like), shapes++;
    }
    print_message("%s, %s: %d shapes, %d ways\n", like, dl_type_name(type), shapes, ways);
    assert_true(ways > shapes);
    tape_close(t);
}

static void sd15(void **state) { (void)state, ways_of("sd15", DL_F16), ways_of("sd15", DL_BF16); }
static void sd21(void **state) { (void)state, ways_of("sd21", DL_F16); }
static void sdxl(void **state) { (void)state, ways_of("sdxl", DL_F16); }
static void deepfloyd(void **state) { (void)state, ways_of("if", DL_BF16), ways_of("if2", DL_F16); }
static void flux(void **state)
{
    (void)state;
    ways_of("flux", DL_BF16);
    if (world.be->supports(world.ctx, DL_E4M3)) ways_of("flux", DL_E4M3);
}

/* ---- tiers ---- */

/* Whether any way of an attention that every tier serves is of the Hopper tier, and whether all are. */
static void offered(const struct dl_backend *be, struct dl_ctx *ctx, bool *any, bool *all)
{
    struct dl_run r;
    char before[64] = "";
    dl_act q = dl_act_at((void *)(uintptr_t)4096, DL_F16, 1, 1, 1024, 64);
    *any = false, *all = true;
    for (int n = 1; n < 64; n++) {
        be->way(ctx, n);
        dl_run_open(&r, be, ctx, DL_F16);
        dl_op_attn(&r, (struct dl_attn){.q = q, .k = q, .v = q, .y = q, .heads = 1, .scale = 1});
        bool wgmma = strstr(r.variant, "wgmma") != NULL, last = !strcmp(before, r.variant);
        snprintf(before, sizeof before, "%s", r.variant);
        dl_run_close(&r);
        *any = *any || wgmma, *all = *all && wgmma;
        if (last) break;
    }
}

static void tiers(void **state)
{
    (void)state;
    static const char *const name[] = {"auto", "portable", "hopper"};
    for (int i = 0; i < 3; i++) {
        const struct dl_backend *be;
        struct dl_ctx *ctx;
        struct dl_err e = {0};
        bool any, all;
        setenv("DLENS_CUDA_TIER", name[i], 1);
        int rc = cuda_open(&be, &ctx, &(struct dl_cuda_opts){.no_tuning = true}, &e);
        if (i == 2 && !world.hopper) {
            assert_int_equal(rc, -1); /* and says why */
            assert_non_null(strstr(e.msg, "compute capability 9.0"));
            continue;
        }
        if (rc < 0) fail_msg("tier %s: %s", name[i], e.msg);
        offered(be, ctx, &any, &all);
        assert_int_equal(any, world.hopper && i != 1);
        assert_int_equal(all, i == 2);
        be->close(ctx);
    }
    struct dl_err e = {0};
    const struct dl_backend *be;
    struct dl_ctx *ctx;
    setenv("DLENS_CUDA_TIER", "fastest", 1);
    assert_int_equal(cuda_open(&be, &ctx, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "not fastest"));
    unsetenv("DLENS_CUDA_TIER");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiers), cmocka_unit_test(sd15),      cmocka_unit_test(sd21),
        cmocka_unit_test(sdxl),  cmocka_unit_test(deepfloyd), cmocka_unit_test(flux),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
