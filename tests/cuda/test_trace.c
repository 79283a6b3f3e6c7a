/* A trace of a recorded program on a GPU has its kernels, each once, one after the other. */
#include "kernels/cuda/cuda.h"
#include "tests/cuda/rig_cuda.h"
#include "tests/unit/check.h"

#include <string.h>

static const struct dl_backend *be;
static struct dl_ctx *ctx;

enum { OPS = 20, CHANNELS = 1 << 16 };

struct sums {
    struct dl_run r;
    dl_act x;
};

static void program(void *user)
{
    struct sums *s = user;
    for (int i = 0; i < OPS; i++) dl_op_add(&s->r, (struct dl_add){.a = s->x, .b = s->x, .y = s->x});
}

static void test_replay(void **state)
{
    (void)state;
    struct sums s;
    struct dl_replay replay = {0};
    struct cuda_trace *t;
    struct cuda_span *span;
    int64_t n;
    dl_run_open(&s.r, be, ctx, DL_F32);
    s.x = dl_act_at(rig_cuda_mem(CHANNELS * 4), DL_F32, 1, 1, 1, CHANNELS);
    memset(s.x.p, 0, CHANNELS * 4);
    must(cuda_trace_open(&t, ctx, e));
    for (int turn = 0; turn < 4; turn++) { /* eagerly; recorded and replayed; replayed */
        s.r.step = turn;
        must(dl_replay_run(&replay, &s.r, NULL, 0, "k", 1, program, &s, e));
        must(cuda_trace_take(t, &span, &n, e));
        int adds = 0, nexts = 0;
        for (int64_t i = 0; i < n; i++) {
            adds += strstr(span[i].name, "add_kernel") != NULL, nexts += strstr(span[i].name, "step_next") != NULL;
            assert_true(span[i].end_ns >= span[i].start_ns && span[i].end_ns - span[i].start_ns < 1000000000);
            if (i) assert_true(span[i].start_ns >= span[i - 1].end_ns);
        }
        print_message("turn %d: %d sums in %.1f us\n", turn, adds,
                      n ? (double)(span[n - 1].end_ns - span[0].start_ns) * 1e-3 : 0.0);
        assert_int_equal(adds, OPS);
        assert_int_equal(nexts, turn > 0);
        free(span);
    }
    dl_replay_close(&replay, &s.r);
    cuda_trace_close(t);
    dl_run_close(&s.r);
}

int main(void)
{
    struct dl_err e = {0};
    struct cuda_trace *t;
    rig_cuda_open(&be, &ctx);
    if (cuda_trace_open(&t, ctx, &e) < 0) {
        printf("skipped: %s\n", e.msg);
        return RIG_CUDA_SKIP;
    }
    cuda_trace_close(t);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_replay)};
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    be->close(ctx);
    return rc;
}
