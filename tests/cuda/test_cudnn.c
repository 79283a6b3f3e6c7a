/* The yardstick of convolutions: what cuDNN computes is the convolution that it is timed for. */
#define RIG_CUDA
#include "kernels/cuda/cudnn.h"
#include "tests/kernels/oracle.h"

static const struct cuda_conv_shape shapes[] = {
    {2, 16, 16, 64, 64, 3, 1, DL_F16},
    {1, 9, 12, 32, 48, 3, 1, DL_BF16},
    {2, 16, 8, 64, 32, 3, 2, DL_F16},
    {1, 8, 8, 128, 64, 1, 1, DL_BF16},
};

static void call(struct dl_run *r, void *arg) { dl_op_conv(r, *(struct dl_conv *)arg); }

/* w [out][in][k][k] as cuDNN is given it: [out][k][k][in], in the run's type. */
static void *reordered(const struct cuda_conv_shape *s, const struct dl_w *w)
{
    int64_t taps = s->k * s->k;
    void *p = t_mem(s->out * taps * s->in * 2);
    for (int64_t o = 0; o < s->out; o++)
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < s->in; i++)
                dl_store(p, s->type, (o * taps + t) * s->in + i, (float)t_w_at(w, (o * s->in + i) * taps + t, s->type));
    return p;
}

static void same_as_the_reference(void **state)
{
    (void)state;
    struct dl_err e = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const struct cuda_conv_shape *s = &shapes[i];
        int h = (int)s->h, w = (int)s->w, in = (int)s->in, out = (int)s->out, step = (int)s->stride;
        struct cuda_cudnn *c;
        if (cuda_cudnn_open(rig.ctx[DEFAULT], s, &c, &e) < 0) fail_msg("%s", e.msg);
        if (!c) {
            print_message("skipped: no cuDNN in this build, or no engine of its own for this\n");
            skip();
        }
        struct dl_conv a = {
            .x = t_random(t_act(s->type, (int)s->n, h, w, in, 0), 0, 1), .k = (int)s->k, .stride = step};
        a.y = t_act(s->type, (int)s->n, (h + step - 1) / step, (w + step - 1) / step, out, 0);
        a.w = t_w(DL_F32, 1, 0, 0.1, 4, (int64_t[]){out, in, s->k, s->k});
        void *y = t_mem(dl_act_bytes(a.y)), *form = reordered(s, a.w);
        rig_run(REFERENCE, s->type, 0, call, &a);
        for (int k = 0; k < 2; k++) { /* chosen, then run */
            if (cuda_cudnn_run(c, a.x.p, form, y, &e) < 0) fail_msg("%s", e.msg);
            assert_int_equal(rig.be[DEFAULT]->sync(rig.ctx[DEFAULT], &e), 0);
        }
        double worst = 0, most = 0;
        for (int64_t j = 0; j < (int64_t)a.y.n * a.y.h * a.y.w * a.y.c; j++) {
            double want = (double)dl_load(a.y.p, s->type, j);
            worst = fmax(worst, fabs((double)dl_load(y, s->type, j) - want)), most = fmax(most, fabs(want));
        }
        print_message("%s %dx%d %d->%d k%d s%d: off by %.2g of %.2g\n", dl_type_name(s->type), h, w, in, out, a.k, step,
                      worst, most);
        assert_true(worst <= 4 * u_of(s->type) * most);
        cuda_cudnn_close(c);
        double us[3];
        if (cuda_cudnn_time(rig.ctx[DEFAULT], s, 3, us, &e) != 1) fail_msg("%s", e.msg);
        assert_true(us[0] > 0.5 && us[0] < 1e5 && us[2] > 0.5 && us[2] < 1e5);
        rig_clear(NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(same_as_the_reference, rig_clear)};
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
