/* Products and convolutions of the Hopper tier without a Hopper: plans, and every way of computing them from the
 * kernel's own source over the emulation of tests/simt/hopper.h, against plain loops in double written from igemm.h. */
#include "tests/simt/check.h"
#include "tests/simt/hopper.h"

#include "kernels/cuda/hopper/conv_plan.h"

enum { UP = 1, GLU = 2, BIAS = 4, VECS = 8, RES = 16, IN_PLACE = 32, PARTS = 64, POSITIVE = 128 };
enum { ALL = BIAS | VECS | RES };

struct conv_case {
    const char *name;
    int t, ty, n, h, w, in, out, k, stride, fn, parts; /* h, w: of x */
    int pad;                                           /* elements after a pixel; 3 pad after an image (t_act) */
    int sms;
};

static const conv_case cases[] = {
    {"8 -> 8, 3 x 5 pixels", DL_F16, DL_F16, 1, 3, 5, 8, 8, 3, 1, DL_NONE, 0, 0, 2},
    {"64 -> 128, 16 x 16", DL_F16, DL_F16, 1, 16, 16, 64, 128, 3, 1, DL_NONE, BIAS, 0, 2},
    {"24 -> 336, 5 x 17, all parts", DL_BF16, DL_BF16, 2, 5, 17, 24, 336, 3, 1, DL_SILU, ALL, 8, 2},
    {"40 -> 136, 8 x 8 of three images", DL_F16, DL_F32, 3, 8, 8, 40, 136, 3, 1, DL_NONE, ALL, 0, 3},
    {"72 -> 24, 5 images, one block", DL_BF16, DL_F32, 5, 8, 14, 72, 24, 3, 1, DL_GELU, BIAS, 0, 1},
    {"stride 2, odd", DL_F16, DL_F16, 2, 13, 37, 72, 40, 3, 2, DL_NONE, BIAS | RES, 8, 1},
    {"stride 2, even", DL_BF16, DL_BF16, 1, 16, 16, 16, 168, 3, 2, DL_NONE, 0, 0, 2},
    {"enlarged", DL_F16, DL_F16, 2, 5, 9, 24, 40, 3, 1, DL_NONE, UP | BIAS, 8, 1},
    {"enlarged, no taps", DL_BF16, DL_F16, 1, 4, 4, 16, 8, 1, 1, DL_NONE, UP, 0, 1},
    {"5 x 5", DL_F16, DL_F16, 1, 6, 7, 8, 16, 5, 1, DL_NONE, 0, 0, 1},
    {"2 x 2", DL_F16, DL_F32, 1, 6, 7, 8, 16, 2, 1, DL_NONE, 0, 0, 1},
    {"stride 2, two pixels", DL_F16, DL_F16, 2, 2, 2, 16, 16, 3, 2, DL_NONE, BIAS, 8, 1},
    {"stride 2, 4 x 4", DL_F16, DL_F16, 1, 9, 12, 16, 16, 4, 2, DL_NONE, 0, 0, 1},
    {"stride 2, 5 x 5", DL_BF16, DL_F16, 2, 6, 7, 8, 24, 5, 2, DL_NONE, 0, 8, 1},
    {"1 x 1, stride 2", DL_F16, DL_F16, 1, 7, 9, 24, 16, 1, 2, DL_NONE, 0, 0, 1},
    {"product, images without gaps", DL_F16, DL_BF16, 3, 10, 11, 200, 304, 1, 1, DL_GELU_TANH, ALL, 0, 2},
    {"product, gaps", DL_BF16, DL_BF16, 2, 1, 77, 72, 520, 1, 1, DL_QUICK_GELU, ALL, 8, 1},
    {"product, one row, ten tiles across and more", DL_F16, DL_F32, 1, 1, 1, 72, 2312, 1, 1, DL_SILU, BIAS, 0, 3},
    {"product, in place", DL_F16, DL_F16, 1, 1, 300, 64, 64, 1, 1, DL_NONE, BIAS | RES | IN_PLACE, 0, 1},
    {"GLU", DL_F16, DL_F16, 1, 1, 150, 72, 200, 1, 1, DL_GELU, GLU | BIAS, 0, 1},
    {"GLU, all parts, gaps", DL_BF16, DL_BF16, 2, 5, 30, 136, 72, 1, 1, DL_GELU, GLU | ALL, 8, 2},
    {"GLU without activation", DL_BF16, DL_F32, 3, 1, 90, 64, 128, 1, 1, DL_NONE, GLU, 0, 1},
    {"16 x 16, sets", DL_F16, DL_F16, 1, 16, 16, 24, 136, 3, 1, DL_NONE, PARTS | BIAS, 0, 1},
    {"8 x 8 of three images, sets", DL_BF16, DL_F32, 3, 8, 8, 24, 328, 3, 1, DL_NONE, PARTS | ALL, 8, 1},
    {"36 x 72, sets", DL_F16, DL_F16, 1, 36, 72, 16, 24, 1, 1, DL_NONE, PARTS, 0, 2},
    {"24 x 40, sets", DL_F16, DL_BF16, 2, 24, 40, 8, 40, 2, 1, DL_SILU, PARTS | ALL, 8, 2},
    {"8 x 12, later", DL_F16, DL_F16, 2, 8, 12, 16, 40, 3, 1, DL_NONE, PARTS | BIAS | RES, 8, 1},
    {"3 x 32, sets", DL_F16, DL_F16, 2, 3, 32, 16, 40, 3, 1, DL_NONE, PARTS | RES, 0, 1},
    {"2 x 64, sets", DL_F16, DL_F16, 2, 2, 64, 16, 40, 3, 1, DL_NONE, PARTS, 0, 3},
    {"8 x 4, sets", DL_BF16, DL_BF16, 3, 8, 4, 16, 168, 3, 1, DL_NONE, PARTS | BIAS, 0, 1},
    {"16 x 2, sets", DL_F16, DL_F16, 5, 16, 2, 16, 40, 3, 1, DL_NONE, PARTS, 0, 1},
    {"32 x 1, sets", DL_F16, DL_F16, 2, 32, 1, 16, 40, 3, 1, DL_NONE, PARTS, 0, 1},
    {"9 x 64 of stride 2, sets", DL_F16, DL_F16, 1, 9, 64, 8, 16, 3, 2, DL_NONE, PARTS, 0, 1},
    {"16 x 16 of stride 2, sets", DL_BF16, DL_F16, 2, 16, 16, 16, 40, 3, 2, DL_NONE, PARTS | ALL, 0, 1},
    {"enlarged, sets", DL_F16, DL_F16, 2, 4, 8, 24, 168, 3, 1, DL_NONE, PARTS | UP | BIAS, 8, 1},
    {"enlarged, later", DL_F16, DL_F16, 2, 4, 4, 24, 40, 3, 1, DL_NONE, PARTS | UP | BIAS, 8, 1},
    {"product, images without gaps, sets", DL_F16, DL_BF16, 3, 8, 12, 72, 264, 1, 1, DL_GELU, PARTS | ALL, 0, 2},
    {"product, gaps, sets", DL_BF16, DL_BF16, 5, 1, 32, 40, 136, 1, 1, DL_NONE, PARTS | ALL, 8, 1},
    {"product, in place, sets", DL_F16, DL_F32, 1, 1, 320, 64, 64, 1, 1, DL_NONE, PARTS | BIAS | RES | IN_PLACE, 0, 1},
    {"e4m3, 16 -> 16, one pixel", DL_E4M3, DL_F16, 1, 1, 1, 16, 16, 1, 1, DL_NONE, 0, 0, 1},
    {"e4m3, images without gaps, all parts", DL_E4M3, DL_BF16, 3, 10, 11, 208, 408, 1, 1, DL_GELU_TANH, ALL, 0, 2},
    {"e4m3, gaps, long sums", DL_E4M3, DL_F32, 2, 1, 77, 592, 200, 1, 1, DL_NONE, BIAS, 16, 1},
    {"e4m3, in place", DL_E4M3, DL_F16, 1, 1, 300, 128, 72, 1, 1, DL_NONE, BIAS | RES | IN_PLACE, 0, 1},
    {"e4m3, GLU, all parts", DL_E4M3, DL_F16, 2, 5, 30, 144, 200, 1, 1, DL_GELU, GLU | ALL, 16, 2},
    {"e4m3, sets", DL_E4M3, DL_F16, 3, 8, 12, 400, 264, 1, 1, DL_NONE, PARTS | BIAS | RES, 0, 2},
    {"GLU, sets", DL_F16, DL_F16, 2, 10, 16, 72, 200, 1, 1, DL_GELU, PARTS | GLU | BIAS, 0, 1},
};

static cuda_igemm_args args_of(const conv_case &k, dl_act *w)
{
    cuda_igemm_args a = cuda_igemm_args();
    int rows = k.parts & GLU ? 2 * k.out : k.out, yh = k.h, yw = k.w;
    if (k.parts & UP) yh *= 2, yw *= 2;
    if (k.stride == 2) yh = (yh + 1) / 2, yw = (yw + 1) / 2;
    bool e4m3 = k.t == DL_E4M3;
    double mean = k.parts & POSITIVE ? 250 : e4m3 ? 20 : 0, amp = k.parts & POSITIVE ? 200 : e4m3 ? 400 : 1;
    *w = t_random(t_act(k.t, 1, 1, rows * k.k * k.k, k.in, 0), mean, e4m3 ? amp : 0.2);
    a.x = t_random(t_act(k.t, k.n, k.h, k.w, k.in, k.pad), mean, amp);
    if (e4m3) a.row_scale = t_floats((int64_t)k.n * k.h * k.w, 3e-3, 1e-3), a.col_scale = t_floats(rows, 2e-4, 1e-4);
    a.y = t_act(k.ty, k.n, yh, yw, k.out, k.pad);
    a.w = w->p, a.k = k.k, a.stride = k.stride, a.fn = k.fn, a.up = k.parts & UP, a.glu = k.parts & GLU;
    if (k.parts & BIAS) a.bias = t_floats(rows, 0, 1);
    if (k.parts & VECS) {
        a.scale = 0.5f;
        a.add = t_vec(e4m3 ? (int)DL_F16 : k.t, 1, k.n, k.out, 0, 1), a.gate = t_vec(DL_F32, 1, k.n, k.out, 0.5, 1);
    }
    if (k.parts & RES) a.res = t_random(t_act(k.ty, k.n, yh, yw, k.out, 2 * k.pad), 0, 1);
    return a;
}

static double u_sum = C_ACC * 0x1p-24;

/* Row `o` of the weight and pixel p of image n: their sum, and the bias. */
static val sum_of(const cuda_igemm_args &a, const dl_act &w, int n, int p, int o)
{
    val s = {0, 0};
    double big = 0;
    int h = a.up ? a.y.h : a.x.h, wide = a.up ? a.y.w : a.x.w;
    for (int tap = 0; tap < a.k * a.k; tap++) {
        int y = p / a.y.w * a.stride + tap / a.k - a.k / 2, x = p % a.y.w * a.stride + tap % a.k - a.k / 2;
        if (y < 0 || x < 0 || y >= h || x >= wide) continue;
        if (a.up) y /= 2, x /= 2;
        for (int c = 0; c < a.x.c; c++) {
            double v = t_at(a.x, n, y * a.x.w + x, c) * t_at(w, 0, o * a.k * a.k + tap, c);
            s.v += v, big += fabs(v);
        }
    }
    s.e = u_sum * big;
    if (a.row_scale) {
        double scale = (double)a.row_scale[n * a.y.h * a.y.w + p] * (double)a.col_scale[o];
        s.v *= scale, s.e = (s.e + C_ACC * u_acc * big) * fabs(scale);
    }
    if (a.bias) s.v += (double)a.bias[o];
    return s;
}

static std::vector<val> want_of(const cuda_igemm_args &a, const dl_act &w)
{
    std::vector<val> want;
    for (int n = 0; n < a.y.n; n++)
        for (int p = 0; p < a.y.h * a.y.w; p++)
            for (int o = 0; o < a.y.c; o++) {
                val s = sum_of(a, w, n, p, o);
                if (a.glu) {
                    val g = t_fn(a.fn, sum_of(a, w, n, p, a.y.c + o));
                    s.e = fabs(s.v) * g.e + fabs(g.v) * s.e + s.e * g.e + u_acc * fabs(s.v * g.v), s.v *= g.v;
                } else {
                    s = t_fn(a.fn, s);
                }
                double gate = a.gate.p ? t_vec_at(a.gate, 0, n, o) : 1, scale = a.scale != 0 ? (double)a.scale : 1;
                double add = a.add.p ? t_vec_at(a.add, 0, n, o) : 0, res = a.res.p ? t_at(a.res, n, p, o) : 0;
                double sizes = (fabs(s.v) + fabs(add)) * fabs(gate) + fabs(res);
                s.v = ((s.v + add) * gate + res) * scale;
                s.e = (s.e * fabs(gate) + C_ACC * u_acc * sizes) * fabs(scale);
                want.push_back(s);
            }
    return want;
}

struct set_shape {
    int w, across; /* pixels side by side in y, in a set */
    int twice;     /* 2: y is of four phases */
    int sets;      /* of a phase */
};

static void pixels_of_set(const void *user, int set, int pixel[DL_PART_PIXELS])
{
    const set_shape *s = (const set_shape *)user;
    int phase = set / s->sets, row = s->w / s->twice / s->across;
    set %= s->sets;
    for (int i = 0; i < DL_PART_PIXELS; i++) {
        int y = set / row * (DL_PART_PIXELS / s->across) + i / s->across, x = set % row * s->across + i % s->across;
        pixel[i] = (y * s->twice + phase / 2) * s->w + x * s->twice + phase % 2;
    }
}

/* A set is 32 neighbouring rows of a tile, where these divide the images; else 32 pixels in a row. */
static void parts_ok(const conv_case &k, const cuda_igemm_args &a, const hop_conv_way &way)
{
    hop_box box = hop_conv_box(&a, hop_conv_bm(&way));
    bool fused = hop_conv_sets(&a, box);
    assert_int_equal(fused, !strstr(k.name, "later"));
    set_shape s = {a.y.w, box.w < DL_PART_PIXELS ? box.w : DL_PART_PIXELS, a.up ? 2 : 1,
                   a.y.h * a.y.w / DL_PART_PIXELS / (a.up ? 4 : 1)};
    if (fused && hop_conv_flat(&a)) s.w = a.y.h * a.y.w;
    t_sets_ok(k.name, a.y, fused ? pixels_of_set : t_in_a_row, &s);
}

static void one(const conv_case &k)
{
    dl_act w;
    cuda_igemm_args a = args_of(k, &w);
    std::vector<val> want = want_of(a, w);
    int all;
    for (const hop_conv_way *p = hop_ways_of(&a, &all), *end = p + all; p < end; p++) {
        const hop_conv_way &way = *p;
        a.y = t_act(k.ty, a.y.n, a.y.h, a.y.w, a.y.c, k.pad);
        if (k.parts & PARTS) a.y = t_parts(a.y);
        int launches = simt_launches();
        cuda_igemm_args b = a;
        if (k.parts & IN_PLACE) {
            memcpy(a.y.p, a.res.p, (size_t)dl_act_bytes(a.y));
            b.res = a.y;
        }
        int rc = cuda_conv_hopper(nullptr, &b, &b, k.sms, way.name);
        if (a.glu && !hop_conv_glu(way.bn)) {
            assert_int_equal(rc, CUDA_K_UNSUPPORTED);
            continue;
        }
        t_ran(k.name, rc);
        t_compare(k.name, way.name, a.y, want);
        assert_int_equal(simt_launches() - launches, strstr(k.name, "later") ? 2 : 1);
        if (k.parts & PARTS) parts_ok(k, a, way);
    }
    simt_free_all();
}

static void every_way(void **)
{
    simt_cc = 90;
    for (const conv_case &k : cases) one(k);
    simt_cc = 80;
}

/* Images that sets do not divide have no parts, even where all of them together would. */
static void no_sets(void **)
{
    const conv_case k = {"two of 48", DL_F16, DL_F16, 2, 1, 48, 16, 16, 1, 1, DL_NONE, 0, 0, 1};
    dl_act w;
    cuda_igemm_args a = args_of(k, &w);
    a.y.parts = (float *)simt_alloc(4 * a.y.c * 8);
    simt_cc = 90;
    assert_int_equal(cuda_conv_hopper(nullptr, &a, &a, 1, "wgmma 128x128"), CUDA_K_UNSUPPORTED);
    simt_cc = 80;
}

/* On a GPU whose tensor cores keep 13 bits behind the point of a sum of e4m3: positive sums of 3,072 channels
 * are still within 2^-12. */
static void short_sums(void **)
{
    const conv_case k = {"e4m3, short sums", DL_E4M3, DL_F32, 1, 1, 17, 3072, 24, 1, 1, DL_NONE, POSITIVE, 0, 1};
    const double before = u_sum;
    simt_cc = 90, u_sum = 0x1p-12, simt_e4m3_sum_bits = 13;
    one(k);
    simt_cc = 80, u_sum = before, simt_e4m3_sum_bits = 23;
}

/* ---- plans ---- */

/* Whether each 32 neighbouring rows of a tile are in one image, and wholly or not at all in v. */
static bool whole_sets(hop_box v, hop_box b)
{
    for (int first = 0; first < b.w * b.h * b.n; first += DL_PART_PIXELS)
        for (int y0 = 0; y0 < v.h; y0 += b.h)
            for (int x0 = 0; x0 < v.w; x0 += b.w) {
                int inside = 0;
                for (int row = first; row < first + DL_PART_PIXELS; row++) {
                    if (row / (b.w * b.h) != first / (b.w * b.h)) return false;
                    inside += x0 + row % b.w < v.w && y0 + row / b.w % b.h < v.h;
                }
                if (inside && inside != DL_PART_PIXELS) return false;
            }
    return true;
}

static void boxes(void **)
{
    for (int bm = 128; bm <= 256; bm += 128)
        for (int w = 1; w < 70; w += 3)
            for (int h = 1; h < 70; h += 3) {
                hop_box v = {w, h, 3}, b = hop_box_of(v, bm, false);
                assert_int_equal(b.w * b.h * b.n, bm);
                hop_box plain = {16, bm / 16, 1};
                assert_true(hop_boxes(v, b) <= hop_boxes(v, plain));
                hop_box s = hop_box_of(v, bm, true);
                assert_int_equal(s.w * s.h * s.n, bm);
                assert_int_equal(hop_sets_fit(v, s), whole_sets(v, s));
                assert_true(hop_boxes(v, s) * 8 <= hop_boxes(v, b) * 9);
            }
    for (int w = 4; w <= 40; w += 4)
        for (int h = 2; h <= 16; h += 2)
            for (int bw = 1; bw <= 128; bw *= 2)
                for (int bh = 1; bw * bh <= 128; bh *= 2) {
                    hop_box v = {w, h, 3}, b = {bw, bh, 128 / bw / bh};
                    assert_int_equal(hop_sets_fit(v, b), whole_sets(v, b));
                }
    hop_box line = {1000, 1, 1}, tiny = {4, 4, 8}, b = hop_box_of(line, 256, false);
    assert_true(b.w == 256 && b.h == 1 && b.n == 1);
    b = hop_box_of(tiny, 128, false);
    assert_true(b.w == 4 && b.h == 4 && b.n == 8);
}

static void plans(void **)
{
    const char *way[CUDA_CONV_HOPPER_WAYS];
    cuda_igemm_args a = cuda_igemm_args();
    a.x = t_act(DL_F16, 2, 8, 8, 320, 0), a.y = t_act(DL_F16, 2, 8, 8, 640, 0);
    a.w = simt_alloc(16), a.k = 3, a.stride = 1;
    assert_true(cuda_conv_hopper_ways(&a, 132, way) > 0);
    for (int i = 0; i < CUDA_CONV_HOPPER_WAYS; i++)
        for (int j = 0; j < i; j++) assert_string_not_equal(hop_conv_ways[i].name, hop_conv_ways[j].name);
    cuda_igemm_args b = a;
    b.y.n = 1;
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.stride = 3;
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.stride = 2, b.y.h = b.y.w = 4, b.y.rs = 16 * 640;
    assert_true(cuda_conv_hopper_ways(&b, 132, way) > 0);
    b.x.w = b.y.w = 1; /* no odd columns */
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.up = true; /* not by 2 */
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.glu = true;
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.x.t = DL_F32;
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.x.c = 4;
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.k = 1, b.y.w = 7;
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.bias = (const float *)((const char *)a.w + 4);
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    assert_int_equal(cuda_conv_hopper(nullptr, &b, &b, 1, "wgmma 128x128"), CUDA_K_UNSUPPORTED);
    assert_int_equal(cuda_conv_hopper(nullptr, &a, nullptr, 1, "wgmma 128x128"), CUDA_K_UNSUPPORTED);
    assert_int_equal(cuda_conv_hopper(nullptr, &a, &a, 1, "mma 128x128x32"), CUDA_K_UNSUPPORTED);
    b = a, b.k = 1, b.glu = true;
    int n = cuda_conv_hopper_ways(&b, 132, way);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) assert_null(strstr(way[i], "160"));

    b = a, b.x.t = DL_E4M3, b.k = 1;
    n = cuda_conv_hopper_ways(&b, 132, way);
    assert_true(n > 0); /* in a dry run scales have no address yet; a launch needs them */
    assert_int_equal(cuda_conv_hopper(nullptr, &b, &b, 1, way[0]), CUDA_K_UNSUPPORTED);
    b.row_scale = b.col_scale = (const float *)a.w;
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), n);
    for (int i = 0; i < n; i++) assert_non_null(strstr(way[i], "e4m3"));
    assert_int_equal(cuda_conv_hopper(nullptr, &b, &b, 1, "wgmma 128x128"), CUDA_K_UNSUPPORTED);
    b.k = 3;
    assert_int_equal(cuda_conv_hopper_ways(&b, 132, way), 0);
    b = a, b.row_scale = b.col_scale = (const float *)a.w;
    assert_int_equal(cuda_conv_hopper(nullptr, &b, &b, 1, "wgmma 128x128"), CUDA_K_UNSUPPORTED);

    /* What looks best: large tiles for many pixels; small tiles for little work, where the others are hopeless. */
    a.x = t_act(DL_F16, 1, 1, 1, 320, 0), a.y = a.x;
    a.x.w = a.y.w = a.x.h = a.y.h = 128, a.x.n = a.y.n = 4, a.x.rs = a.y.rs = 128 * 128 * 320;
    assert_true(cuda_conv_hopper_ways(&a, 132, way) > 0);
    assert_string_equal(way[0], "wgmma 256x160");
    a.x.w = a.y.w = a.x.h = a.y.h = 16, a.x.n = a.y.n = 1;
    n = cuda_conv_hopper_ways(&a, 132, way);
    assert_in_range(n, 2, CUDA_CONV_HOPPER_WAYS - 1);
    assert_string_equal(way[0], "wgmma 128x128");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boxes),
        cmocka_unit_test_teardown(plans, t_clear),
        cmocka_unit_test_teardown(every_way, t_clear),
        cmocka_unit_test_teardown(no_sets, t_clear),
        cmocka_unit_test_teardown(short_sums, t_clear),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
