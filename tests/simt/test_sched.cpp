/* Scheduler steps and noise of kernels/cuda/sched.cu in the shim, against engine/sched.c bit for bit and engine/rng.h.
 */
#include "tests/simt/check.h"

extern "C" {
#include "engine/rng.h"
}

static float coefficient(void) { return t_rnd() < -0.3 ? 0 : (float)t_rnd(); }

/* A step that uses everything at random; the reference says what it means. */
static sched_step random_step(int slots)
{
    sched_step s = sched_step();
    s.in_div = (float)(1.5 + t_rnd());
    s.m_e = coefficient(), s.m_mul = (float)t_rnd(), s.m_div = (float)(2 + t_rnd());
    for (int k = 0; k < SCHED_SLOTS; k++) s.m_h[k] = k < slots ? coefficient() : 0, s.h_slot[k] = k < slots ? k : 0;
    s.r_m = coefficient(), s.r_x = coefficient();
    s.q_x = coefficient(), s.q_m = coefficient(), s.q_r = coefficient(), s.q_div = (float)(2 + t_rnd());
    s.d_q = coefficient(), s.d_x = coefficient(), s.d_h = slots ? coefficient() : 0;
    s.d_mul = (float)t_rnd(), s.d_div = (float)(2 + t_rnd());
    s.x_x = coefficient(), s.x_q = coefficient(), s.x_r = coefficient(), s.x_d = coefficient();
    s.base_slot = slots && t_rnd() > 0 ? slots - 1 : -1;
    s.save_slot = slots && t_rnd() > 0 ? slots - 1 : -1;
    s.push = slots ? (t_rnd() > 0 ? SCHED_PUSH_E : SCHED_PUSH_Q) : SCHED_PUSH_NONE;
    s.push_slot = slots ? 0 : -1;
    return s;
}

enum { STEPS = 3, IMAGES = 2, H = 9, W = 7, C = 4 };

static void flatten(std::vector<float> *d, dl_act x, int64_t i)
{
    d->clear();
    for (int64_t p = 0; p < H * W; p++)
        for (int64_t c = 0; c < C; c++) d->push_back(dl_load(x.p, x.t, t_index(x, i, p, c)));
}

static void one(int slots, int t, bool guided, float threshold, bool draws)
{
    cuda_sched_step_args a = cuda_sched_step_args();
    sched_table *table = (sched_table *)simt_alloc((int64_t)(sizeof *table + STEPS * sizeof table->step[0]));
    table->n = STEPS, table->slots = slots, table->learned_var = table->use_var = false;
    table->threshold = threshold, table->threshold_max = 1.5f;
    for (int k = 0; k < STEPS; k++)
        table->step[k] = random_step(slots), table->step[k].draws = draws, table->step[k].x_noise = 0.7f;
    if (threshold > 0)
        for (int k = 0; k < STEPS; k++) table->step[k].q_x = 3, table->step[k].q_div = 1; /* so that it matters */
    int step = (int)(fabs(t_rnd()) * STEPS);
    a.steps = table->step, a.step = t_ints({step});
    a.eps = t_random(t_act(t, 4, H, W, C + 1, 0), 0, 1);
    a.latent = t_random(t_act(DL_F32, IMAGES, H, W, C, 0), 0, 1);
    if (slots) a.history = t_random(t_act(DL_F32, IMAGES * slots, H, W, C, 3), 0, 1);
    std::vector<int32_t> cond = {3, 1}, uncond = {0, 0};
    a.c_row = t_ints(cond);
    if (draws) a.noise = t_random(t_act(DL_F32, IMAGES, H, W, C, 1), 0, 2);
    if (guided) a.u_row = t_ints(uncond);
    a.guidance = 7.5f, a.threshold = threshold, a.threshold_max = table->threshold_max;
    if (threshold > 0) a.quantile = (float *)simt_alloc(IMAGES * 4);

    std::vector<float> x[IMAGES], slot[IMAGES][SCHED_SLOTS], e, u, noise, work((size_t)H * W * C);
    for (int i = 0; i < IMAGES; i++) {
        sched_image im = sched_image();
        flatten(&x[i], a.latent, i);
        flatten(&e, a.eps, cond[(size_t)i]);
        flatten(&u, a.eps, uncond[(size_t)i]);
        if (draws) flatten(&noise, a.noise, i);
        im.noise = noise.data();
        im.x = x[i].data(), im.cond = e.data(), im.uncond = guided ? u.data() : NULL;
        for (int k = 0; k < slots; k++) {
            flatten(&slot[i][k], a.history, k * IMAGES + i);
            im.slot[k] = slot[i][k].data();
        }
        if (threshold > 0) im.threshold = sched_threshold(table, step, a.guidance, &im, H * W * C, work.data());
        sched_apply(table, step, a.guidance, &im, H * W * C);
        if (threshold > 0) x[i].push_back(im.threshold);
    }
    t_ran("sched_step", cuda_sched_step(nullptr, &a));
    for (int i = 0; i < IMAGES; i++) {
        std::vector<float> got;
        if (threshold > 0) {
            assert_true(a.quantile[i] == x[i].back());
            x[i].pop_back();
        }
        flatten(&got, a.latent, i);
        assert_memory_equal(got.data(), x[i].data(), got.size() * 4);
        for (int k = 0; k < slots; k++) {
            flatten(&got, a.history, k * IMAGES + i);
            assert_memory_equal(got.data(), slot[i][k].data(), got.size() * 4);
        }
    }
    if (slots) t_gaps_ok(a.history);
}

static void steps(void **)
{
    for (int k = 0; k < 24; k++) {
        one(k % 4, k % 3 == 0 ? DL_F32 : k % 3 == 1 ? DL_F16 : DL_BF16, k & 1, 0, k % 5 == 0);
        simt_free_all();
    }
    print_message("%-40s %-26s equal bits\n", "24 random steps", "sched_step");
    for (int k = 0; k < 12; k++) {
        static const float at[] = {0.95f, 0.5f, 0.995f, 1};
        one(k % 3, DL_F32, k & 1, at[k % 4], k % 5 == 0);
        simt_free_all();
    }
    print_message("%-40s %-26s equal bits\n", "12 steps with a threshold", "sched_threshold, _step");
}

/* As IF has it, and large enough for the wide block: learned variance, noise, a quantile among equal values. */
static void large_image(void **)
{
    enum { SIDE = 76, CH = 3, ALL = SIDE * SIDE * CH };
    cuda_sched_step_args a = cuda_sched_step_args();
    sched_table *table = (sched_table *)simt_alloc((int64_t)(sizeof *table + sizeof table->step[0]));
    table->n = 1, table->slots = 0, table->learned_var = table->use_var = true;
    table->threshold = 0.95f, table->threshold_max = 100;
    sched_step *s = &table->step[0];
    *s = sched_step();
    s->m_e = 1, s->m_mul = s->m_div = s->d_mul = s->d_div = 1, s->base_slot = s->save_slot = -1;
    s->q_x = 1, s->q_m = -0.5f, s->q_div = 0.25f, s->x_q = 0.5f, s->x_x = 0.25f;
    s->draws = 1, s->log_var_min = -4, s->log_var_max = -1;
    a.steps = s, a.step = t_ints({0}), a.guidance = 4, a.use_var = true;
    a.threshold = table->threshold, a.threshold_max = table->threshold_max, a.quantile = (float *)simt_alloc(8);
    a.eps = t_random(t_act(DL_F16, 3, SIDE, SIDE, 2 * CH, 0), 0, 1);
    a.latent = t_act(DL_F32, 2, SIDE, SIDE, CH, 0), a.noise = t_random(t_act(DL_F32, 2, SIDE, SIDE, CH, 0), 0, 2);
    for (int64_t k = 0; k < 2 * ALL; k++) ((float *)a.latent.p)[k] = (float)(int)(4 * t_rnd());
    for (int64_t k = 0; k < SIDE * SIDE; k++) /* without guidance's row: q has eight values */
        for (int c = 0; c < CH; c++) dl_store(a.eps.p, DL_F16, k * 2 * CH + c, 0);
    a.c_row = t_ints({0, 2}), a.u_row = t_ints({0, 1});
    std::vector<float> x(ALL), e(ALL), u(ALL), v(ALL), work(ALL);
    std::vector<val> want;
    float limit[2];
    for (int i = 0; i < 2; i++) {
        sched_image im = sched_image();
        for (int64_t k = 0; k < ALL; k++) {
            int64_t p = k / CH, c = k % CH, row = a.c_row[i], under = a.u_row[i];
            x[(size_t)k] = (float)t_at(a.latent, i, p, c), e[(size_t)k] = (float)t_at(a.eps, row, p, c);
            u[(size_t)k] = (float)t_at(a.eps, under, p, c), v[(size_t)k] = (float)t_at(a.eps, row, p, CH + c);
        }
        im.x = x.data(), im.cond = e.data(), im.uncond = u.data(), im.var = v.data();
        im.noise = (float *)a.noise.p + i * a.noise.rs;
        limit[i] = im.threshold = sched_threshold(table, 0, a.guidance, &im, ALL, work.data());
        sched_apply(table, 0, a.guidance, &im, ALL);
        for (int64_t k = 0; k < ALL; k++)
            want.push_back({(double)x[(size_t)k], 4 * u_acc * fabs((double)im.noise[k])}); /* the exponential */
    }
    t_ran("sched_step", cuda_sched_step(nullptr, &a));
    assert_true(a.quantile[0] == limit[0] && a.quantile[1] == limit[1] && limit[0] != limit[1]);
    t_compare("learned variance, threshold, large", "sched_threshold, _step", a.latent, want);
}

static void inputs(void **)
{
    for (int t = DL_F32; t <= DL_BF16; t++) {
        cuda_sched_in_args a = cuda_sched_in_args();
        sched_step *s = (sched_step *)simt_alloc(2 * sizeof(sched_step));
        s[0] = random_step(0), s[1] = random_step(0);
        int32_t *step = (int32_t *)simt_alloc(4);
        *step = 0;
        t_ran("step_next", cuda_step_next(nullptr, step));
        assert_int_equal(*step, 1);
        std::vector<int32_t> rows = {1, 0, 1};
        a.steps = s, a.step = step, a.row = t_ints(rows);
        a.latent = t_random(t_act(DL_F32, 2, 5, 7, 4, 0), 0, 3), a.y = t_act(t, 3, 5, 7, 4, 1);
        t_ran("sched_in", cuda_sched_in(nullptr, &a));
        for (int i = 0; i < 3; i++)
            for (int p = 0; p < 35; p++)
                for (int c = 0; c < 4; c++) {
                    float x = (float)t_at(a.latent, rows[(size_t)i], p, c), v;
                    sched_input(&s[1], &x, &v, 1);
                    dl_store(&v, t, 0, v);
                    assert_true(dl_load(&v, t, 0) == (float)t_at(a.y, i, p, c));
                }
        t_gaps_ok(a.y);
    }
    print_message("%-40s %-26s equal bits\n", "inputs, step index", "sched_in, step_next");
}

static void noises(void **)
{
    static const struct {
        int n, h, w, c, sms, per_sm, t;
        uint64_t seed, offset;
    } cases[] = {
        {1, 8, 8, 4, 0, 0, DL_F32, 17, 0},
        {1, 5, 7, 3, 132, 2048, DL_F16, 0x123456789abcdefu, 8},
        {2, 16, 16, 4, 1, 512, DL_BF16, 1, 4}, /* more turns than one */
        {1, 24, 24, 3, 1, 256, DL_F32, 99, 0},
    };
    for (auto &k : cases) {
        cuda_noise_args a = cuda_noise_args();
        dl_rng r;
        rng_seed(&r, RNG_TORCH_CUDA, k.seed, k.sms, k.per_sm);
        r.offset = k.offset;
        a.y = t_act(DL_F32, k.n, k.h, k.w, k.c, 1);
        a.seed = k.seed, a.offset = k.offset, a.type = k.t, a.scale = 1.25f;
        a.sms = r.sms, a.threads_per_sm = r.threads_per_sm;
        size_t all = (size_t)k.n * (size_t)k.h * (size_t)k.w * (size_t)k.c;
        std::vector<float> want(all);
        rng_normal(&r, want.data(), (int64_t)all, (enum dl_type)k.t);
        t_ran("noise", cuda_noise(nullptr, &a));
        assert_true(r.offset == k.offset + cuda_noise_advance(&a));
        size_t e = 0;
        double worst = 0;
        for (int i = 0; i < k.n; i++)
            for (int c = 0; c < k.c; c++)
                for (int p = 0; p < k.h * k.w; p++, e++) {
                    double d = fabs(t_at(a.y, i, p, c) - (double)(want[e] * a.scale));
                    /* the host's libraries on both sides: C++ may take another overload, so a step of the type is left
                     * */
                    assert_true(d <= (k.t == DL_F32 ? 1e-6 : 4 * u_of(k.t)) * (1 + fabs((double)want[e])));
                    if (d > worst) worst = d;
                }
        t_gaps_ok(a.y);
        print_message("%-40s %-26s off by %.2g at most\n", "noise", "noise", worst);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(steps, t_clear),
        cmocka_unit_test_teardown(large_image, t_clear),
        cmocka_unit_test_teardown(inputs, t_clear),
        cmocka_unit_test_teardown(noises, t_clear),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
