/* Group norm, activation and 3 x 3 convolution in one pass (kernels/cuda/nconv.cu) in the shim, against plain loops. */
#include "kernels/cuda/nconv.h"
#include "tests/simt/check.h"

enum {
    BIAS = 1, ADD = 2, GATE = 4, RES = 8, SELF = 16, SCALE = 32, STEPS = 64, /* of the epilogue; SELF: res is y */
    NORM = 128, SHIFT = 256, UP = 512, PARTS = 1024
};

struct nconv_case {
    const char *name;
    int t, ty, n, h, w, in, out, groups, pre_fn, fn, pad, parts;
    double mean;
};

/* Channels of a slice: 32; a box: 8 x 8 pixels; tiles: 2 or 4 boxes x 64, 96, 128, 160 outputs. */
static const nconv_case cases[] = {
    {"one pixel", DL_F16, DL_F16, 1, 1, 1, 8, 8, 2, DL_SILU, 0, 0, NORM, 0.3},
    {"8x8, three images", DL_F16, DL_F16, 3, 8, 8, 40, 24, 8, DL_SILU, 0, 0, NORM | BIAS, 0.3},
    {"8x8, three images", DL_BF16, DL_BF16, 3, 8, 8, 40, 24, 8, DL_SILU, 0, 0, NORM | BIAS, 0.3},
    {"5x7, five images, steps", DL_F16, DL_F16, 5, 5, 7, 32, 40, 4, DL_SILU, 0, 8,
     NORM | SHIFT | STEPS | BIAS | ADD, 1},
    {"5x7, steps", DL_BF16, DL_BF16, 2, 5, 7, 72, 40, 9, DL_SILU, 0, 0, NORM | SHIFT | STEPS | BIAS | ADD, 1},
    {"13x11, everything", DL_F16, DL_F16, 2, 13, 11, 24, 136, 3, DL_SILU, DL_QUICK_GELU, 8,
     NORM | BIAS | ADD | GATE | RES | SCALE | STEPS, -0.5},
    {"13x11, everything", DL_BF16, DL_F32, 1, 13, 11, 16, 168, 16, DL_GELU, DL_SILU, 0,
     NORM | SHIFT | BIAS | ADD | GATE | RES | SCALE, -0.5},
    {"17x33, onto itself", DL_F16, DL_F16, 1, 17, 33, 8, 24, 1, DL_SILU, 0, 16, NORM | BIAS | SELF, 0},
    {"4x3, seven slices", DL_F16, DL_F16, 2, 4, 3, 200, 16, 25, DL_SILU, 0, 0, NORM | BIAS, 0.3},
    {"norm alone", DL_BF16, DL_BF16, 2, 7, 9, 48, 16, 6, DL_NONE, 0, 0, NORM, 0.3},
    {"function alone", DL_F16, DL_F32, 2, 9, 3, 40, 16, 0, DL_SILU, 0, 8, BIAS, 0.3},
    {"plain", DL_F16, DL_F16, 2, 9, 10, 72, 32, 0, DL_NONE, 0, 0, BIAS | RES, 0.3},
    {"plain", DL_BF16, DL_BF16, 1, 8, 16, 64, 104, 0, DL_NONE, 0, 8, BIAS, 0.3},
    {"up", DL_F16, DL_F16, 2, 5, 6, 40, 16, 0, DL_NONE, 0, 0, UP | BIAS, 0.3},
    {"up after a norm, odd", DL_BF16, DL_BF16, 1, 5, 7, 32, 16, 4, DL_SILU, 0, 8, UP | NORM, 0.3},
    {"8x8, three images, parts", DL_F16, DL_F16, 3, 8, 8, 40, 168, 8, DL_SILU, 0, 0, PARTS | NORM | BIAS, 0.3},
    {"12x24, two images, parts", DL_BF16, DL_BF16, 2, 12, 24, 16, 24, 2, DL_SILU, 0, 8, PARTS | NORM | BIAS | RES, 0.3},
    {"4x8, five images, parts", DL_F16, DL_F32, 5, 4, 8, 32, 136, 4, DL_SILU, DL_SILU, 8,
     PARTS | NORM | BIAS | ADD | GATE | SCALE, 0.3},
    {"16x8 onto itself, parts", DL_F16, DL_F16, 1, 16, 8, 8, 40, 1, DL_SILU, 0, 0, PARTS | NORM | SELF, 0.3},
    {"16x6, no whole sets in boxes, parts", DL_F16, DL_F16, 2, 16, 6, 24, 40, 3, DL_SILU, 0, 0, PARTS | NORM | BIAS,
     0.3},
    {"6x16, no whole sets in boxes, parts", DL_BF16, DL_BF16, 2, 6, 16, 24, 40, 3, DL_SILU, 0, 0, PARTS | NORM | BIAS,
     0.3},
    {"up, parts", DL_F16, DL_F16, 2, 4, 8, 40, 16, 0, DL_NONE, 0, 0, PARTS | UP | BIAS, 0.3},
};

/* x as the products see it [n][pixel][c], rounded to x's type once where something was done to it. */
static std::vector<val> prepared(const cuda_nconv_args &a, int step)
{
    dl_act x = a.c.x;
    std::vector<val> out;
    for (int64_t i = 0; i < x.n; i++)
        for (int64_t p = 0; p < (int64_t)x.h * x.w; p++)
            for (int64_t c = 0; c < x.c; c++) {
                val v = {t_at(x, i, p, c), 0};
                if (a.mean_rstd) {
                    const float *mr = a.mean_rstd + (i * a.groups + c / (x.c / a.groups)) * 2;
                    double mean = (double)mr[0], rstd = (double)mr[1], gamma = a.gamma ? (double)a.gamma[c] : 1;
                    double beta = a.beta ? (double)a.beta[c] : 0, d = a.shift.p ? t_vec_at(a.shift, step, i, c) : 0;
                    double k = a.scale.p ? 1 + t_vec_at(a.scale, step, i, c) : 1;
                    v.e = C_ACC * u_acc *
                          ((fabs(v.v) + fabs(mean)) * rstd * fabs(gamma * k) + fabs(beta * k) + fabs(d));
                    v.v = ((v.v - mean) * rstd * gamma + beta) * k + d;
                }
                v = t_fn(a.pre_fn, v);
                if (a.mean_rstd || a.pre_fn) v.e += u_of(x.t) * fabs(v.v) + (x.t == DL_F16 ? 0x1p-25 : 0);
                out.push_back(v);
            }
    return out;
}

static val sum_at(const cuda_igemm_args &a, const std::vector<val> &in, int64_t i, int64_t y, int64_t x, int64_t o)
{
    val s = {0, 0};
    for (int64_t tap = 0; tap < 9; tap++) {
        int64_t sy = y + tap / 3 - 1, sx = x + tap % 3 - 1;
        if (sy < 0 || sy >= a.y.h || sx < 0 || sx >= a.y.w) continue;
        sy = sy * a.x.h / a.y.h, sx = sx * a.x.w / a.y.w;
        for (int64_t c = 0; c < a.x.c; c++) {
            const val &v = in[(size_t)(((i * a.x.h + sy) * a.x.w + sx) * a.x.c + c)];
            double w = (double)dl_load(a.w, a.x.t, (o * 9 + tap) * a.x.c + c);
            s.v += v.v * w, s.e += (C_ACC * u_acc * fabs(v.v) + v.e) * fabs(w);
        }
    }
    return s;
}

static cuda_nconv_args args_of(const nconv_case &k, int step)
{
    cuda_nconv_args a = cuda_nconv_args();
    int steps = step + 1, up = k.parts & UP ? 2 : 1, odd = k.parts & UP && k.h % 2;
    a.c.x = t_random(t_act(k.t, k.n, k.h, k.w, k.in, k.pad), k.mean, 1);
    a.c.y = t_act(k.ty, k.n, k.h * up - odd, k.w * up, k.out, k.pad);
    if (k.parts & PARTS) a.c.y = t_parts(a.c.y);
    if (k.parts & SELF) t_random(a.c.y, 0, 2);
    a.c.w = t_random(t_act(k.t, k.out, 3, 3, k.in, 0), 0, 0.3).p;
    a.c.k = 3, a.c.stride = 1, a.c.up = k.parts & UP, a.c.fn = k.fn, a.c.step = t_ints({step});
    if (k.parts & BIAS) a.c.bias = t_floats(k.out, 0, 1);
    if (k.parts & ADD) a.c.add = t_vec(k.t, steps, k.n, k.out, 0, 1);
    if (k.parts & GATE) a.c.gate = t_vec(DL_F32, steps, k.n, k.out, 0.5, 1);
    if (k.parts & RES) a.c.res = t_random(t_act(k.ty, k.n, a.c.y.h, a.c.y.w, k.out, 8), 0, 2);
    if (k.parts & SELF) a.c.res = a.c.y;
    if (k.parts & SCALE) a.c.scale = 0.70710678f;
    a.pre_fn = k.pre_fn;
    if (!(k.parts & NORM)) return a;
    float *mr = (float *)simt_alloc(k.n * k.groups * 8);
    for (int i = 0; i < k.n * k.groups; i++)
        mr[2 * i] = (float)(k.mean + 0.3 * t_rnd()), mr[2 * i + 1] = (float)(1.5 + t_rnd());
    a.mean_rstd = mr, a.groups = k.groups, a.gamma = t_floats(k.in, 1, 0.5), a.beta = t_floats(k.in, 0.5, 0.5);
    if (k.parts & SHIFT) {
        a.scale = t_vec(k.t, steps, k.n, k.in, 0, 0.5);
        a.shift = t_vec(DL_F32, steps, k.n, k.in, 0, 0.5);
    }
    return a;
}

/* Row i of these arguments alone. */
static cuda_nconv_args row_of(cuda_nconv_args a, int i)
{
    dl_vec *v[] = {&a.c.add, &a.c.gate, &a.scale, &a.shift};
    for (dl_vec *q : v)
        if (q->p) q->p = (const char *)q->p + i * q->rs * dl_type_bytes(q->t);
    if (a.c.res.p) a.c.res = dl_act_rows(a.c.res, i, 1);
    if (a.mean_rstd) a.mean_rstd += i * a.groups * 2;
    a.c.x = dl_act_rows(a.c.x, i, 1);
    a.c.y = t_act(a.c.y.t, 1, a.c.y.h, a.c.y.w, a.c.y.c, 0);
    return a;
}

static void run(const char *name, const cuda_nconv_args &a, const cuda_nconv_way &way)
{
    void *scratch = way.scratch_bytes ? simt_alloc(way.scratch_bytes) : NULL;
    t_ran(name, cuda_nconv(nullptr, &a, way.name, scratch));
}

static void same_bits(const char *name, dl_act y, int i, dl_act alone)
{
    size_t size = (size_t)dl_type_bytes(y.t);
    for (int64_t p = 0; p < (int64_t)y.h * y.w; p++)
        if (memcmp((uint8_t *)y.p + (size_t)t_index(y, i, p, 0) * size,
                   (uint8_t *)alone.p + (size_t)t_index(alone, 0, p, 0) * size, (size_t)y.c * size))
            fail_msg("%s: pixel %d of row %d differs from the row alone", name, (int)p, i);
}

/* Every way against the loops, all to the same bits; the rows alone by one way, another one in each case. */
static void case_holds(const nconv_case &k)
{
    static int turn;
    const int step = k.parts & STEPS ? 2 : 0;
    cuda_nconv_args a = args_of(k, step);
    std::vector<val> in = prepared(a, step), want;
    for (int i = 0; i < k.n; i++)
        for (int p = 0; p < a.c.y.h * a.c.y.w; p++)
            for (int o = 0; o < k.out; o++)
                want.push_back(t_finished(a.c, a.c.res, step, sum_at(a.c, in, i, p / a.c.y.w, p % a.c.y.w, o), val(), i, p,
                                          o));
    cuda_nconv_way ways[CUDA_NCONV_WAYS];
    const int n = cuda_nconv_ways(&a, ways);
    assert_true(n > 0);
    std::vector<uint8_t> before((uint8_t *)a.c.y.p, (uint8_t *)a.c.y.p + dl_act_bytes(a.c.y));
    std::vector<uint8_t> got;
    for (int w = 0; w < n; w++) {
        memcpy(a.c.y.p, before.data(), before.size());
        if (a.c.y.parts) memset(a.c.y.parts, 0xff, (size_t)dl_parts_bytes(a.c.y));
        simt_seed += 7;
        int launches = simt_launches();
        run(k.name, a, ways[w]);
        bool boxes = a.c.y.h % 4 == 0 && a.c.y.w % 8 == 0; /* parts take no pass */
        assert_int_equal(simt_launches() - launches, 1 + !!a.mean_rstd + (a.c.y.parts && !boxes));
        t_compare(k.name, ways[w].name, a.c.y, want);
        if (w == 0) got.assign((uint8_t *)a.c.y.p, (uint8_t *)a.c.y.p + before.size());
        assert_memory_equal(a.c.y.p, got.data(), got.size());
        if (a.c.y.parts) t_parts_ok(k.name, a.c.y, boxes);
        if (k.n == 1 || w != turn % n) continue;
        for (int i = 0; i < k.n; i++) {
            cuda_nconv_args one = row_of(a, i);
            run(k.name, one, ways[w]);
            same_bits(k.name, a.c.y, i, one.c.y);
        }
    }
    turn++;
}

static void cases_hold(void **)
{
    for (const nconv_case &k : cases) {
        case_holds(k);
        simt_free_all();
    }
}

static const char *first(int n, int h, int w, int in, int out)
{
    cuda_nconv_args a = cuda_nconv_args();
    cuda_nconv_way ways[CUDA_NCONV_WAYS];
    a.c.x = dl_act_at((void *)64, DL_F16, n, h, w, in), a.c.y = dl_act_at((void *)64, DL_F16, n, h, w, out);
    a.c.w = (void *)64, a.c.k = 3, a.c.stride = 1;
    int count = cuda_nconv_ways(&a, ways);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < i; j++) assert_string_not_equal(ways[i].name, ways[j].name);
    return count ? ways[0].name : "none";
}

/* What is offered, from the arguments alone. */
static void ways_are_offered(void **)
{
    assert_string_equal(first(2, 64, 64, 320, 320), "halo 128x160");
    assert_string_equal(first(2, 64, 64, 320, 256), "halo 128x128");
    assert_string_equal(first(2, 64, 64, 192, 192), "halo 128x96");
    assert_string_equal(first(1, 8, 8, 64, 64), "halo 128x64");
    assert_string_equal(first(1, 64, 64, 320, 4), "none");
    cuda_nconv_way ways[CUDA_NCONV_WAYS];
    const nconv_case k = {"", DL_F16, DL_F16, 2, 8, 8, 32, 16, 4, DL_SILU, 0, 0, NORM | BIAS | RES, 0};
    const cuda_nconv_args good = args_of(k, 0);
    assert_true(cuda_nconv_ways(&good, ways) > 0);
    assert_int_equal(ways[0].scratch_bytes, 2 * 2 * 32 * 4);
    for (int i = 0; i < 12; i++) {
        cuda_nconv_args a = good;
        if (i == 0) a.c.stride = 2;
        if (i == 1) a.c.k = 1;
        if (i == 2) a.c.x.t = DL_F32;
        if (i == 3) a.c.x.c = 28;
        if (i == 4) a.c.y.ld = 20;
        if (i == 5) a.c.bias++;
        if (i == 6) a.groups = 3;
        if (i == 7) a.c.glu = true;
        if (i == 8) a.c.x.p = (char *)a.c.x.p + 8;
        if (i == 9) a.c.y.h = 16;
        if (i == 10) a.c.x.rs = (int64_t)INT32_MAX * 8;
        if (i == 11) a.c.res.p = (char *)a.c.res.p + 2;
        assert_int_equal(cuda_nconv_ways(&a, ways), 0);
        assert_int_equal(cuda_nconv(nullptr, &a, "halo 128x128", simt_alloc(16)), CUDA_K_UNSUPPORTED);
    }
    assert_int_equal(cuda_nconv(nullptr, &good, "halo 128x129", simt_alloc(1024)), CUDA_K_UNSUPPORTED);
    assert_int_equal(cuda_nconv(nullptr, &good, "halo 128x128", NULL), CUDA_K_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(ways_are_offered, t_clear),
        cmocka_unit_test_teardown(cases_hold, t_clear),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
