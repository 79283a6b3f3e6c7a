/* The small ops of both CPU tables: embed, sinus, copy, add, pick, resize, sched_in, sched_step, image. */
#include "engine/sched.h"
#include "tests/kernels/oracle.h"

static void call_embed(struct dl_run *r, void *arg) { dl_op_embed(r, *(struct dl_embed *)arg); }
static void call_sinus(struct dl_run *r, void *arg) { dl_op_sinus(r, *(struct dl_sinus *)arg); }
static void call_copy(struct dl_run *r, void *arg) { dl_op_copy(r, *(struct dl_copy *)arg); }
static void call_add(struct dl_run *r, void *arg) { dl_op_add(r, *(struct dl_add *)arg); }
static void call_pick(struct dl_run *r, void *arg) { dl_op_pick(r, *(struct dl_pick *)arg); }
static void call_resize(struct dl_run *r, void *arg) { dl_op_resize(r, *(struct dl_resize *)arg); }
static void call_in(struct dl_run *r, void *arg) { dl_op_sched_in(r, *(struct dl_sched_in *)arg); }
static void call_step(struct dl_run *r, void *arg) { dl_op_sched_step(r, *(struct dl_sched_step *)arg); }
static void call_image(struct dl_run *r, void *arg) { dl_op_image(r, *(struct dl_image *)arg); }

static void embed(void **state)
{
    (void)state;
    const int32_t ids[2 * 7] = {0, 3, 28, 28, 1, 0, 5, 28, 2, 2, 7, 0, 11, 4};
    for (int table = 0; table < TABLES; table++)
        for (int t = DL_F32; t <= DL_BF16; t++)
            for (int with_pos = 0; with_pos < 2; with_pos++) {
                struct dl_embed a = {.ids = ids, .y = t_act(t, 2, 1, 7, 13, 3)};
                a.table = t_w(DL_F16, 1, 0, 1, 2, (int64_t[]){29, 13});
                a.pos = with_pos ? t_w(DL_F32, 1, 0, 1, 2, (int64_t[]){9, 13}) : NULL;
                rig_run(table, t, 0, call_embed, &a);
                struct val *want = t_want(a.y), *w = want;
                for (int64_t k = 0; k < 14; k++)
                    for (int64_t c = 0; c < 13; c++, w++) {
                        w->v = t_w_at(a.table, ids[k] * 13 + c, t);
                        if (with_pos) w->v += t_w_at(a.pos, k % 7 * 13 + c, t);
                        w->e = u_acc * fabs(w->v);
                    }
                t_compare(with_pos ? "embed with positions" : "embed", table, a.y, want);
                struct dl_embed one = a;
                one.ids = ids + 7, one.y = t_act(t, 1, 1, 7, 13, 0);
                rig_run(table, t, 0, call_embed, &one);
                t_same_row("embed", a.y, 1, one.y);
            }
}

static void sinus(void **state)
{
    (void)state;
    const float t[4] = {0, 1, 500.5f, 999};
    for (int table = 0; table < TABLES; table++)
        for (int flip = 0; flip < 2; flip++)
            for (int shift = 0; shift < 2; shift++) {
                struct dl_sinus a = {.t = t, .y = t_act(DL_F32, 4, 1, 1, 22, 2), .flip = flip, .shift = (float)shift};
                rig_run(table, DL_F32, 0, call_sinus, &a);
                struct val *want = t_want(a.y);
                for (int i = 0; i < 4; i++)
                    for (int j = 0; j < 11; j++) {
                        double angle = (double)t[i] * exp(-log(10000) * j / (11 - shift));
                        double e = C_ACC * u_acc * (angle + 1);
                        want[i * 22 + (flip ? 11 : 0) + j] = (struct val){sin(angle), e};
                        want[i * 22 + (flip ? 0 : 11) + j] = (struct val){cos(angle), e};
                    }
                t_compare("sinus", table, a.y, want);
                struct dl_sinus one = a;
                one.t = t + 3, one.y = t_act(DL_F32, 1, 1, 1, 22, 0);
                rig_run(table, DL_F32, 0, call_sinus, &one);
                t_same_row("sinus", a.y, 3, one.y);
            }
}

static void copy(void **state)
{
    (void)state;
    const int32_t map[5] = {2, 0, 0, 1, 2};
    const struct {
        const char *name;
        uint8_t tx, ty, fn;
        bool mapped;
        float a, b;
    } cases[] = {
        {"copy rows", DL_F32, DL_F32, DL_NONE, true, 0, 0},
        {"copy silu", DL_F32, DL_F32, DL_SILU, false, 0, 0},
        {"copy scaled", DL_F32, DL_F32, DL_NONE, true, -2, 0.5},
        {"copy to bf16", DL_F32, DL_BF16, DL_NONE, true, 0, 0},
        {"copy from f16", DL_F16, DL_F32, DL_GELU, true, 1, 1},
        {"copy bf16 f16", DL_BF16, DL_F16, DL_NONE, false, 3, 0},
    };
    for (int table = 0; table < TABLES; table++)
        for (size_t q = 0; q < sizeof cases / sizeof cases[0]; q++) {
            struct dl_copy a = {.x = t_random(t_act(cases[q].tx, 3, 5, 3, 19, 2), 0, 3)};
            a.a = cases[q].a, a.b = cases[q].b, a.fn = cases[q].fn, a.row = cases[q].mapped ? map : NULL;
            a.y = t_act(cases[q].ty, cases[q].mapped ? 5 : 3, 5, 3, 19, 1);
            rig_run(table, DL_F32, 0, call_copy, &a);
            struct val *want = t_want(a.y), *w = want;
            for (int64_t i = 0; i < a.y.n; i++)
                for (int64_t p = 0; p < 15; p++)
                    for (int64_t c = 0; c < 19; c++) {
                        double s = a.a == 0 ? 1 : (double)a.a, v = t_at(a.x, a.row ? map[i] : i, p, c) * s;
                        *w++ = t_fn(a.fn, (struct val){v + (double)a.b, u_acc * (fabs(v) + fabs((double)a.b))});
                    }
            t_compare(cases[q].name, table, a.y, want);
            struct dl_copy one = a;
            one.row = NULL, one.x = t_row(a.x, a.row ? map[2] : 2), one.y = t_act(cases[q].ty, 1, 5, 3, 19, 0);
            rig_run(table, DL_F32, 0, call_copy, &one);
            t_same_row(cases[q].name, a.y, 2, one.y);
            one.y = t_act(cases[q].ty, 4, 5, 3, 19, 0); /* one row for all */
            rig_run(table, DL_F32, 0, call_copy, &one);
            t_same_row(cases[q].name, a.y, 2, t_row(one.y, 3));
        }
}

static void add(void **state)
{
    (void)state;
    for (int table = 0; table < TABLES; table++)
        for (int t = DL_F32; t <= DL_BF16; t++) {
            struct dl_add a = {.a = t_random(t_act(t, 3, 4, 5, 21, 1), 0, 1)};
            a.b = t_random(t_act(DL_F32, 3, 4, 5, 21, 0), 0, 1), a.y = t_act(t, 3, 4, 5, 21, 3);
            rig_run(table, t, 0, call_add, &a);
            struct val *want = t_want(a.y), *w = want;
            for (int64_t i = 0; i < 3; i++)
                for (int64_t p = 0; p < 20; p++)
                    for (int64_t c = 0; c < 21; c++, w++) {
                        w->v = t_at(a.a, i, p, c) + t_at(a.b, i, p, c);
                        w->e = u_acc * fabs(w->v);
                    }
            t_compare("add", table, a.y, want);
            struct dl_add one = {.a = t_row(a.a, 1), .b = t_row(a.b, 1), .y = t_act(t, 1, 4, 5, 21, 0)};
            rig_run(table, t, 0, call_add, &one);
            t_same_row("add", a.y, 1, one.y);
        }
}

static void pick(void **state)
{
    (void)state;
    const int32_t map[5] = {2, 0, 0, 1, 2};
    static const struct {
        int tx, ty, c, pad, rs, ss;
    } cases[] = {{DL_F32, DL_F32, 21, 3, 21, 63},   {DL_F32, DL_BF16, 64, 0, 64, 256},
                 {DL_BF16, DL_F32, 32, 8, 40, 160}, {DL_F16, DL_BF16, 40, 8, 40, 120},
                 {DL_F32, DL_F32, 8, 0, 8, 0},      {DL_F32, DL_F16, 8, 0, 0, 8}};
    for (int table = 0; table < TABLES; table++)
        for (size_t q = 0; q < sizeof cases / sizeof cases[0]; q++)
            for (int step = 0; step < 3; step += 2) {
                dl_act all = t_random(t_act(cases[q].tx, 1, 1, 1, 1024, 0), 0, 3);
                struct dl_pick a = {.table = {all.p, cases[q].rs, cases[q].ss, (uint8_t)cases[q].tx}, .row = map};
                a.y = t_act(cases[q].ty, 5, 1, 1, cases[q].c, cases[q].pad);
                rig_run(table, DL_F32, step, call_pick, &a);
                struct val *want = t_want(a.y), *w = want;
                for (int i = 0; i < 5; i++)
                    for (int c = 0; c < a.y.c; c++) *w++ = (struct val){t_vec_at(a.table, step, map[i], c), 0};
                t_compare("pick", table, a.y, want);
            }
}

static void resize(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int tx, ty, h, w, yh, yw, c, pad, kind;
    } cases[] = {
        {"resize twice as large", DL_F32, DL_F32, 3, 5, 6, 10, 19, 2, DL_RESIZE_NEAREST},
        {"resize to odd sizes", DL_F32, DL_F32, 4, 5, 7, 11, 24, 0, DL_RESIZE_NEAREST},
        {"resize to fewer", DL_BF16, DL_BF16, 9, 7, 4, 3, 16, 8, DL_RESIZE_NEAREST},
        {"resize f16 -> f32", DL_F16, DL_F32, 2, 3, 4, 6, 8, 0, DL_RESIZE_NEAREST},
        {"mean of 2 x 2", DL_F32, DL_F32, 6, 8, 3, 4, 19, 1, DL_RESIZE_MEAN2},
        {"mean of 2 x 2, odd size", DL_F32, DL_F16, 7, 9, 3, 4, 24, 8, DL_RESIZE_MEAN2},
        {"mean of 2 x 2 bf16", DL_BF16, DL_BF16, 4, 4, 2, 2, 32, 0, DL_RESIZE_MEAN2},
    };
    for (int table = 0; table < TABLES; table++)
        for (size_t q = 0; q < sizeof cases / sizeof cases[0]; q++) {
            int c = cases[q].c, mean = cases[q].kind == DL_RESIZE_MEAN2;
            struct dl_resize a = {.kind = (uint8_t)cases[q].kind};
            a.x = t_random(t_act(cases[q].tx, 3, cases[q].h, cases[q].w, c, cases[q].pad), 0, 1);
            a.y = t_act(cases[q].ty, 3, cases[q].yh, cases[q].yw, c, cases[q].pad / 2);
            rig_run(table, DL_F32, 0, call_resize, &a);
            struct val *want = t_want(a.y), *w = want;
            for (int64_t k = 0; k < 3 * (int64_t)a.y.h * a.y.w * c; k++, w++) {
                int64_t j = k % c, column = k / c % a.y.w, row = k / c / a.y.w % a.y.h, i = k / c / a.y.w / a.y.h;
                double sum = 0, size = 0;
                int64_t sr = mean ? 2 * row : (int64_t)floor((double)row * a.x.h / a.y.h);
                int64_t sc = mean ? 2 * column : (int64_t)floor((double)column * a.x.w / a.y.w);
                for (int d = 0; d < (mean ? 4 : 1); d++) {
                    double v = t_at(a.x, i, (sr + d / 2) * a.x.w + sc + d % 2, j);
                    sum += v, size += fabs(v);
                }
                *w = mean ? (struct val){sum / 4, C_ACC * u_acc * size / 4} : (struct val){sum, 0};
            }
            t_compare(cases[q].name, table, a.y, want);
            struct dl_resize one = a;
            one.x = t_row(a.x, 2), one.y = t_act(cases[q].ty, 1, cases[q].yh, cases[q].yw, c, 0);
            rig_run(table, DL_F32, 0, call_resize, &one);
            t_same_row(cases[q].name, a.y, 2, one.y);
        }
}

/* A step that reads slot 0, gives x' = 0.9 x - 0.25 m with m = 1.5 e - 0.5 H[0], and keeps e in slot 1. */
static struct sched_table *two_steps(void)
{
    struct sched_table *t = t_mem((int64_t)(sizeof *t + 2 * sizeof t->step[0]));
    memset(t, 0, sizeof *t + 2 * sizeof t->step[0]);
    t->n = 2, t->slots = 2;
    for (int i = 0; i < 2; i++)
        t->step[i] = (struct sched_step){.in_div = 1.25f, .m_mul = 1, .m_div = 1, .q_div = 1, .d_div = 1, .d_mul = 1};
    struct sched_step *s = &t->step[1];
    s->base_slot = s->save_slot = -1;
    s->m_e = 1.5f, s->m_h[0] = -0.5f, s->r_m = 1;
    s->x_x = 0.9f, s->x_r = -0.25f;
    s->push = SCHED_PUSH_E, s->push_slot = 1;
    return t;
}

struct sched_job {
    struct dl_sched_in in;
    struct dl_sched_step a;
    struct val *want_in, *want, *want_h;
};

static const int32_t u_rows[3] = {0, 0, 1}, c_rows[3] = {2, 4, 3}, expand[5] = {0, 1, 2, 2, 0};

static float at60(dl_act a, int64_t i, int64_t q) { return (float)t_at(a, i, q / 4, q % 4); }

/* Three latents of 3 x 5 pixels and 4 channels, out of 5 network rows of 8 channels; what comes out is exact. */
static struct sched_job make_sched(int t, bool guided)
{
    struct sched_job j = {.a = {.table = two_steps(), .guidance = 7.5f, .c_row = c_rows}};
    struct dl_sched_step *a = &j.a;
    a->u_row = guided ? u_rows : NULL;
    a->eps = t_random(t_act(t, 5, 3, 5, 8, 1), 0, 1);
    a->latent = t_random(t_act(DL_F32, 3, 3, 5, 4, 2), 0, 1);
    a->history = t_random(t_act(DL_F32, 6, 3, 5, 4, 1), 0, 1);
    j.in = (struct dl_sched_in){.table = a->table, .latent = a->latent, .y = t_act(t, 5, 3, 5, 4, 3), .row = expand};
    j.want = t_want(a->latent), j.want_h = t_want(a->history), j.want_in = t_want(j.in.y);
    for (int64_t k = 0; k < 300; k++)
        j.want_in[k] = (struct val){(double)(at60(a->latent, expand[k / 60], k % 60) / 1.25f), 0};
    for (int64_t k = 0; k < 360; k++) j.want_h[k] = (struct val){(double)at60(a->history, k / 60, k % 60), 0};
    for (int64_t i = 0; i < 3; i++)
        for (int64_t q = 0; q < 60; q++) {
            float e = at60(a->eps, c_rows[i], q), u = at60(a->eps, u_rows[i], q);
            if (guided) e = u + 7.5f * (e - u);
            float m = 1.5f * e + -0.5f * at60(a->history, i, q), x = 0.9f * at60(a->latent, i, q) + -0.25f * m;
            j.want_h[(3 + i) * 60 + q] = (struct val){(double)e, 0};
            j.want[i * 60 + q] = (struct val){(double)x, 0};
        }
    return j;
}

static void sched(void **state)
{
    (void)state;
    for (int table = 0; table < TABLES; table++)
        for (int t = DL_F32; t <= DL_BF16; t++)
            for (int guided = 0; guided < 2; guided++) {
                struct sched_job j = make_sched(t, guided);
                struct dl_sched_step one = j.a;
                one.latent = t_act(DL_F32, 1, 3, 5, 4, 0), one.history = t_act(DL_F32, 2, 3, 5, 4, 0);
                one.c_row = c_rows + 2, one.u_row = guided ? u_rows + 2 : NULL;
                for (int64_t q = 0; q < 60; q++) ((float *)one.latent.p)[q] = at60(j.a.latent, 2, q);
                for (int64_t q = 0; q < 120; q++)
                    ((float *)one.history.p)[q] = at60(j.a.history, q / 60 * 3 + 2, q % 60);
                rig_run(table, t, 1, call_in, &j.in);
                t_compare("sched_in", table, j.in.y, j.want_in);
                rig_run(table, t, 1, call_step, &j.a);
                t_compare("sched_step latent", table, j.a.latent, j.want);
                t_compare("sched_step history", table, j.a.history, j.want_h);
                rig_run(table, t, 1, call_step, &one);
                t_same_row("sched_step", j.a.latent, 2, one.latent);
            }
}

static void image(void **state)
{
    (void)state;
    /* The middle is 127.5, a tie that goes to the even 128. */
    const float x[2][4] = {{-1, 0, 1, 9}, {-7, NAN, 0.5f, 9}};
    const uint8_t want[2][3] = {{0, 128, 255}, {0, 0, 191}};
    for (int table = 0; table < TABLES; table++)
        for (int t = DL_F32; t <= DL_BF16; t++) {
            dl_act a = t_act(t, 2, 1, 1, 4, 0);
            uint8_t *u8 = t_mem(7); /* canaries */
            for (int i = 0; i < 8; i++) dl_store(a.p, t, i, x[i / 4][i % 4]);
            struct dl_image j = {.x = a, .u8 = u8};
            rig_run(table, t, 0, call_image, &j);
            assert_memory_equal(u8, want, 6);
            assert_int_equal(u8[6], CANARY);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(embed, rig_clear), cmocka_unit_test_teardown(sinus, rig_clear),
        cmocka_unit_test_teardown(copy, rig_clear),  cmocka_unit_test_teardown(add, rig_clear),
        cmocka_unit_test_teardown(pick, rig_clear),  cmocka_unit_test_teardown(resize, rig_clear),
        cmocka_unit_test_teardown(sched, rig_clear), cmocka_unit_test_teardown(image, rig_clear),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
