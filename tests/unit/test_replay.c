/* dl_replay_run on a backend that only counts: when it runs, records and replays. */
#include "engine/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct dl_graph {
    int key;
};

static struct {
    int eager, recorded, thrown, replayed, freed, last_step;
    bool open, fail;
    struct dl_run *r;
} seen;

static int begin(struct dl_ctx *c, struct dl_err *e)
{
    (void)c, (void)e;
    assert_false(seen.open);
    seen.open = true;
    return 0;
}

static int end(struct dl_ctx *c, struct dl_graph **g, struct dl_err *e)
{
    (void)c, (void)e;
    assert_true(seen.open);
    seen.open = false;
    if (!g) {
        seen.thrown++;
        return 0;
    }
    *g = calloc(1, sizeof **g);
    return 0;
}

static int replay(struct dl_ctx *c, struct dl_graph *g, int32_t step, struct dl_err *e)
{
    (void)c, (void)e;
    assert_non_null(g);
    seen.replayed++, seen.last_step = step;
    return 0;
}

static void drop(struct dl_ctx *c, struct dl_graph *g)
{
    (void)c;
    seen.freed++;
    free(g);
}

static void program(void *user)
{
    (void)user;
    if (seen.open) {
        assert_int_equal(seen.r->mode, DL_CAPTURE);
        seen.recorded++;
        if (seen.fail) dl_fail(&seen.r->err, DL_EFAIL, "cannot be recorded");
    } else {
        assert_int_equal(seen.r->mode, DL_EAGER);
        seen.eager++;
    }
}

static const struct dl_backend recorder = {
    .name = "recorder", .record_begin = begin, .record_end = end, .replay = replay, .graph_free = drop};
static const struct dl_backend plain = {.name = "plain"};
static _Alignas(DL_ALIGN) uint8_t work[DL_ALIGN];

static int run(struct dl_replay *p, struct dl_run *r, int step, int key)
{
    struct dl_err e = {0};
    r->step = step;
    return dl_replay_run(p, r, work, sizeof work, &key, sizeof key, program, NULL, &e);
}

static void is(int eager, int recorded, int replayed, int freed)
{
    assert_int_equal(seen.eager, eager);
    assert_int_equal(seen.recorded, recorded);
    assert_int_equal(seen.replayed, replayed);
    assert_int_equal(seen.freed, freed);
}

static void records_the_second(void **state)
{
    (void)state;
    struct dl_run r;
    struct dl_replay p = {0};
    memset(&seen, 0, sizeof seen), seen.r = &r;
    dl_run_open(&r, &recorder, NULL, DL_F32);
    assert_int_equal(run(&p, &r, 1, 7), 0), is(1, 0, 0, 0);
    assert_int_equal(run(&p, &r, 2, 7), 0), is(1, 1, 1, 0);
    assert_int_equal(run(&p, &r, 3, 7), 0), is(1, 1, 2, 0);
    assert_int_equal(seen.last_step, 3);
    assert_int_equal(run(&p, &r, 4, 8), 0), is(2, 1, 2, 1); /* another program */
    assert_int_equal(run(&p, &r, 5, 8), 0), is(2, 2, 3, 1);
    r.time_on = true; /* a timed run is eager, and the recording is kept */
    assert_int_equal(run(&p, &r, 6, 8), 0), is(3, 2, 3, 1);
    r.time_on = false;
    assert_int_equal(run(&p, &r, 7, 8), 0), is(3, 2, 4, 1);
    dl_replay_close(&p, &r);
    assert_int_equal(seen.freed, 2);
}

static void failure_throws_away(void **state)
{
    (void)state;
    struct dl_run r;
    struct dl_replay p = {0};
    memset(&seen, 0, sizeof seen), seen.r = &r;
    dl_run_open(&r, &recorder, NULL, DL_F32);
    assert_int_equal(run(&p, &r, 1, 7), 0);
    seen.fail = true;
    assert_int_equal(run(&p, &r, 2, 7), -1);
    assert_int_equal(seen.thrown, 1);
    assert_false(seen.open);
    is(1, 1, 0, 0);
    dl_replay_close(&p, &r);
}

static void without_recording_runs_again(void **state)
{
    (void)state;
    struct dl_run r;
    struct dl_replay p = {0};
    memset(&seen, 0, sizeof seen), seen.r = &r;
    dl_run_open(&r, &plain, NULL, DL_F32);
    for (int i = 0; i < 4; i++) assert_int_equal(run(&p, &r, i, 7), 0);
    is(4, 0, 0, 0);
    dl_replay_close(&p, &r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(records_the_second), cmocka_unit_test(failure_throws_away),
                                       cmocka_unit_test(without_recording_runs_again)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
