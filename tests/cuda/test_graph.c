/* A recorded program gives the bytes of the same program run eagerly, for every step and for changed row maps.
 * DLENS_TEST_TINY=1: not in f32, whose products take the emulator long. */
#define RIG_CUDA
#include "engine/sched.h"
#include "tests/kernels/oracle.h"

enum { TURNS = 6, IMAGES = 2, SIDE = 8, C = 4, WIDE = 80, HEAD = 40, ROWS = 3 };

struct world {
    struct dl_run r;
    struct sched_table *table;
    dl_act latent, history, eps, noise;
    dl_vec temb, mods; /* [TURNS][WIDE], [TURNS][ROWS][3 WIDE] */
    float *turns;      /* rope's table, [SIDE SIDE][HEAD / 2][2] */
    struct dl_w *in, *in_b, *out, *qkv, *g, *b, *gq, *gk;
    int32_t in_row[IMAGES], lat_row[2 * IMAGES], u_row[IMAGES], c_row[IMAGES], mod_row[2 * IMAGES];
};

/* A network in small: convolution with the step's embedding, rows picked from a table of all steps, rotary attention,
 * group norm, convolution, guidance and a sampler step that draws noise in every second step. */
static void program(void *user)
{
    struct world *w = user;
    struct dl_run *r = &w->r;
    struct dl_mark m = dl_arena_mark(&r->arena);
    dl_act x = dl_act_hi(r, r->t, IMAGES, SIDE, SIDE, C), h = dl_act_hi(r, r->t, IMAGES, SIDE, SIDE, WIDE);
    dl_act all = dl_act_hi(r, r->t, 2 * IMAGES, SIDE, SIDE, WIDE),
           qkv = dl_act_hi(r, r->t, 2 * IMAGES, SIDE, SIDE, 3 * WIDE);
    dl_op_sched_in(r, (struct dl_sched_in){.table = w->table, .latent = w->latent, .y = x, .row = w->in_row});
    dl_op_conv(r, (struct dl_conv){.x = x, .y = h, .w = w->in, .k = 3, .e = {.bias = w->in_b, .add = w->temb}});
    dl_op_copy(r, (struct dl_copy){.x = h, .y = all, .row = w->lat_row});
    dl_act mod = dl_act_hi(r, DL_F32, 2 * IMAGES, 1, 1, 3 * WIDE);
    dl_op_pick(r, (struct dl_pick){.table = w->mods, .row = w->mod_row, .y = mod});
    dl_op_gemm(r, (struct dl_gemm){.x = all,
                                   .y = qkv,
                                   .w = w->qkv,
                                   .e = {.add = {.p = mod.p, .rs = mod.rs, .t = DL_F32}}});
    qkv = dl_act_tokens(qkv);
    dl_op_rope(r, (struct dl_rope){.x = dl_act_cols(qkv, 0, 2 * WIDE),
                                   .y = dl_act_cols(qkv, 0, 2 * WIDE),
                                   .heads = 2 * WIDE / HEAD,
                                   .gamma = {w->gq, w->gk},
                                   .eps = 1e-6f,
                                   .table = w->turns});
    dl_op_attn(r, (struct dl_attn){.q = dl_act_cols(qkv, 0, WIDE),
                                   .k = dl_act_cols(qkv, WIDE, WIDE),
                                   .v = dl_act_cols(qkv, 2 * WIDE, WIDE),
                                   .y = dl_act_tokens(all),
                                   .heads = WIDE / HEAD,
                                   .scale = 0.25f});
    struct dl_stat s =
        dl_op_gnorm(r, (struct dl_gnorm){.x = all, .groups = 4, .eps = 1e-5f, .gamma = w->g, .beta = w->b});
    dl_op_conv(r, (struct dl_conv){.x = all, .y = w->eps, .w = w->out, .k = 3, .pre = s, .pre_fn = DL_SILU});
    dl_op_sched_step(r, (struct dl_sched_step){.table = w->table,
                                               .eps = w->eps,
                                               .u_row = w->u_row,
                                               .c_row = w->c_row,
                                               .guidance = 3,
                                               .latent = w->latent,
                                               .history = w->history,
                                               .noise = w->noise});
    dl_arena_release(&r->arena, m);
}

static struct sched_table *steps(void)
{
    struct sched_table *t = t_mem((int64_t)(sizeof *t + TURNS * sizeof t->step[0]));
    memset(t, 0, sizeof *t + TURNS * sizeof t->step[0]);
    t->n = TURNS, t->slots = 1;
    for (int i = 0; i < TURNS; i++) {
        struct sched_step *s = &t->step[i];
        *s = (struct sched_step){.in_div = 1 + 0.125f * (float)i,
                                 .m_e = 1,
                                 .m_mul = 1,
                                 .m_div = 1,
                                 .q_div = 1,
                                 .d_div = 1,
                                 .d_mul = 1,
                                 .r_m = 1};
        s->base_slot = s->save_slot = -1;
        s->m_h[0] = i ? -0.5f : 0, s->x_x = 0.9f, s->x_r = -0.25f - 0.01f * (float)i;
        s->push = SCHED_PUSH_E;
        if (i % 2) s->draws = 1, s->x_noise = 0.05f * (float)i;
    }
    return t;
}

static void rows(struct world *w, int turn)
{
    for (int i = 0; i < IMAGES; i++) {
        w->in_row[i] = (i + turn) % IMAGES, w->u_row[i] = i, w->c_row[i] = IMAGES + i;
        w->lat_row[i] = i, w->lat_row[IMAGES + i] = (i + turn) % IMAGES;
        w->mod_row[i] = turn, w->mod_row[IMAGES + i] = (turn + 1 + i) % ROWS;
    }
}

/* All steps from the same start; replay NULL: eagerly. */
static void all_steps(struct world *w, struct dl_replay *replay, void *work, int64_t bytes, const float *start,
                      float *out)
{
    struct dl_err e = {0};
    memcpy(w->latent.p, start, (size_t)dl_act_bytes(w->latent));
    memset(w->history.p, 0, (size_t)dl_act_bytes(w->history));
    for (int k = 0; k < TURNS; k++) {
        w->r.step = k;
        if (replay) {
            if (dl_replay_run(replay, &w->r, work, bytes, w->in_row, sizeof w->in_row, program, w, &e) < 0)
                fail_msg("step %d: %s", k, e.msg);
        } else {
            dl_run_bind(&w->r, work, bytes);
            program(w);
            if (dl_run_check(&w->r, &e) < 0) fail_msg("step %d: %s", k, e.msg);
        }
    }
    if (w->r.be->sync(w->r.ctx, &e) < 0) fail_msg("%s", e.msg);
    memcpy(out, w->latent.p, (size_t)dl_act_bytes(w->latent));
}

static void graph_is_eager(void **state)
{
    (void)state;
    const int types[] = {DL_F16, DL_BF16, DL_F32};
    for (int i = 0; i < (getenv("DLENS_TEST_TINY") ? 2 : 3); i++) {
        struct world w = {.table = steps()};
        struct dl_replay replay = {0};
        struct dl_err e = {0};
        void *work;
        enum { COUNT = IMAGES * SIDE * SIDE * C };
        dl_run_open(&w.r, rig.be[DEFAULT], rig.ctx[DEFAULT], types[i]);
        w.latent = t_random(t_act(DL_F32, IMAGES, SIDE, SIDE, C, 0), 0, 1),
        w.history = t_act(DL_F32, IMAGES, SIDE, SIDE, C, 0);
        w.eps = t_act(DL_F32, 2 * IMAGES, SIDE, SIDE, C, 0), w.temb = t_vec(DL_F32, TURNS, 1, WIDE, 0, 1);
        w.noise = t_random(t_act(DL_F32, IMAGES, SIDE, SIDE, C, 0), 0, 1);
        w.mods = t_vec(DL_F32, TURNS, ROWS, 3 * WIDE, 0, 0.5);
        w.turns = t_mem((int64_t)SIDE * SIDE * HEAD * 4);
        for (int p = 0; p < SIDE * SIDE; p++)
            for (int j = 0; j < HEAD / 2; j++) {
                double angle = p * pow(0.1, j);
                w.turns[p * HEAD + 2 * j] = (float)cos(angle), w.turns[p * HEAD + 2 * j + 1] = (float)sin(angle);
            }
        w.gq = t_w1(DL_F32, HEAD, 1, 0.3), w.gk = t_w1(DL_F32, HEAD, 1, 0.3);
        w.in = t_w(DL_F32, 1, 0, 0.3, 4, (int64_t[]){WIDE, C, 3, 3}), w.in_b = t_w1(DL_F32, WIDE, 0, 1);
        w.out = t_w(DL_F32, 1, 0, 0.1, 4, (int64_t[]){C, WIDE, 3, 3}),
        w.qkv = t_w(DL_F32, 3, 0, 0.2, 2, (int64_t[]){3 * WIDE, WIDE});
        w.g = t_w1(DL_F32, WIDE, 1, 0.3), w.b = t_w1(DL_F32, WIDE, 0, 0.3);
        float *start = t_copy(w.latent.p, COUNT * 4), *eager = t_mem(COUNT * 4), *again = t_mem(COUNT * 4),
              *other = t_mem(COUNT * 4);
        rows(&w, 0);
        program(&w);
        if (dl_run_check(&w.r, &e) < 0) fail_msg("dry: %s", e.msg);
        int64_t bytes = w.r.arena.peak_bytes;
        if (dl_run_load(&w.r, &rig.set, &e) < 0) fail_msg("load: %s", e.msg);
        if (w.r.be->alloc(w.r.ctx, bytes, &work, &e) < 0) fail_msg("%s", e.msg);

        for (int turn = 0; turn < 2; turn++) {
            rows(&w, turn);
            all_steps(&w, NULL, work, bytes, start, eager);
            for (int go = 0; go < 2; go++) { /* the second has the recording from its first step on */
                all_steps(&w, &replay, work, bytes, start, again);
                assert_non_null(replay.graph);
                assert_memory_equal(again, eager, COUNT * 4);
            }
            if (turn) assert_memory_not_equal(eager, other, COUNT * 4); /* the maps did something */
            memcpy(other, eager, COUNT * 4);
            for (int j = 0; j < COUNT; j++) assert_true(isfinite(eager[j]));
        }
        dl_replay_close(&replay, &w.r);
        w.r.be->free(w.r.ctx, work);
        dl_run_close(&w.r);
        print_message("graph equals eager in %s\n", dl_type_name(types[i]));
        rig_clear(NULL);
    }
}

static void embed(struct dl_run *r, void *arg) { dl_op_embed(r, *(struct dl_embed *)arg); }

/* A failing program leaves the stream usable, and a step that needs new host data is refused inside a capture. */
static void capture_refuses(void **state)
{
    (void)state;
    struct dl_err e = {0};
    struct dl_run r;
    void *work;
    const int32_t ids[2] = {0, 1};
    dl_run_open(&r, rig.be[DEFAULT], rig.ctx[DEFAULT], DL_F32);
    struct dl_embed a = {
        .ids = ids, .y = t_act(DL_F32, 1, 1, 2, 8, 0), .table = t_w(DL_F32, 1, 0, 1, 2, (int64_t[]){4, 8})};
    dl_op_embed(&r, a);
    int64_t bytes = r.arena.peak_bytes;
    assert_int_equal(dl_run_load(&r, &rig.set, &e), 0);
    assert_int_equal(r.be->alloc(r.ctx, bytes, &work, &e), 0);
    dl_run_bind(&r, work, bytes);
    assert_int_equal(r.be->record_begin(r.ctx, &e), 0);
    r.mode = DL_CAPTURE;
    dl_op_embed(&r, a);
    assert_int_equal(dl_run_check(&r, &e), -1);
    r.be->record_end(r.ctx, NULL, NULL);
    r.be->free(r.ctx, work);
    dl_run_close(&r);
    rig_run(DEFAULT, DL_F32, 0, embed, &a); /* eagerly it runs, after the failure */
    for (int c = 0; c < 16; c++) assert_true(t_at(a.y, 0, c / 8, c % 8) == t_w_at(a.table, c, DL_F32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(graph_is_eager, rig_clear),
        cmocka_unit_test_teardown(capture_refuses, rig_clear),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
