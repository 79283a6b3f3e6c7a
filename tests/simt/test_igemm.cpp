/* The implicit GEMM in the shim: every tile, whole and split, of 16 bits and of e4m3, against plain loops, and against
 * the other tiles bit for bit; and what cuda_igemm_ways offers. */
#include "tests/simt/check.h"

#include "kernels/cuda/igemm.cuh"

enum { BIAS = 1, GLU = 2, ADD = 4, GATE = 8, RES = 16, SCALE = 32, STEPS = 64, IN_PLACE = 128, F32 = 256, PARTS = 512, ODD = 1024 };

struct one_case {
    const char *name;
    int n, h, w, in, out, k, stride, up_h, up_w, fn, parts, pad;
};

static const one_case cases[] = {
    {"k1 one pixel", 1, 1, 1, 8, 8, 1, 1, 0, 0, 0, 0, 0},
    {"k1 40 -> 136, two rows of 70", 2, 1, 70, 40, 136, 1, 1, 0, 0, 0, BIAS, 0},
    {"k1 8 -> 328, 272 pixels", 1, 16, 17, 8, 328, 1, 1, 0, 0, 0, 0, 0},
    {"k1 520 -> 40, long sums", 1, 1, 33, 520, 40, 1, 1, 0, 0, 0, BIAS | RES | F32, 8},
    {"k1 glu 64 -> 88, all parts", 3, 1, 23, 64, 88, 1, 1, 0, 0, DL_GELU, 0x7f, 8},
    {"k1 glu 72 -> 20, scalars", 1, 1, 65, 72, 20, 1, 1, 0, 0, DL_SILU, GLU | BIAS, 0},
    {"k1 stride 2", 2, 5, 7, 16, 32, 1, 2, 0, 0, 0, F32, 0},
    {"k3 72 -> 40, 7 x 11, all parts", 2, 7, 11, 72, 40, 3, 1, 0, 0, DL_SILU, 0x7d, 8},
    {"k3 stride 2, odd", 2, 7, 9, 8, 24, 3, 2, 0, 0, 0, BIAS, 0},
    {"k3 up", 1, 5, 4, 16, 16, 3, 1, 10, 9, DL_QUICK_GELU, BIAS | ADD, 8},
    {"k3 40 -> 3", 3, 6, 5, 40, 3, 3, 1, 0, 0, 0, BIAS | SCALE, 0},
    {"k3 32 -> 4 of f32, in place", 1, 9, 8, 32, 4, 3, 1, 0, 0, 0, BIAS | IN_PLACE | F32, 8},
    {"k3 96 -> 168, in place", 1, 6, 6, 96, 168, 3, 1, 0, 0, DL_GELU_TANH, GATE | IN_PLACE, 0},
    {"k1 40 -> 168, nine images of 32, parts", 9, 1, 32, 40, 168, 1, 1, 0, 0, 0, PARTS | BIAS, 0},
    {"k1 glu 64 -> 88, images of 96, parts", 2, 3, 32, 64, 88, 1, 1, 0, 0, DL_GELU, PARTS | GLU | BIAS | RES, 8},
    {"k3 72 -> 40, 8 x 12, all parts, parts", 3, 8, 12, 72, 40, 3, 1, 0, 0, DL_SILU, PARTS | 0x7d, 8},
    {"k3 stride 2, scalars, parts", 2, 15, 16, 16, 20, 3, 2, 0, 0, 0, PARTS | BIAS | F32, 0},
    {"k3 up in place, parts", 1, 5, 16, 16, 136, 3, 1, 10, 32, 0, PARTS | IN_PLACE, 0},
};

/* Of e4m3 operands; pad is of y, and of x rounded down to 16. */
static const one_case e4m3_cases[] = {
    {"e4m3 16 -> 16, one pixel", 1, 1, 1, 16, 16, 1, 1, 0, 0, 0, 0, 0},
    {"e4m3 48 -> 200, two rows of 70", 2, 1, 70, 48, 200, 1, 1, 0, 0, 0, BIAS, 16},
    {"e4m3 80 -> 392, 17 x 8", 1, 17, 8, 80, 392, 1, 1, 0, 0, DL_GELU_TANH, F32 | ODD, 0},
    {"e4m3 592 -> 40, long sums, scalars", 1, 1, 33, 592, 40, 1, 1, 0, 0, 0, BIAS | RES, 3},
    {"e4m3 glu 64 -> 104, all parts", 3, 1, 47, 64, 104, 1, 1, 0, 0, DL_GELU, 0x7f, 8},
    {"e4m3 glu 144 -> 20, scalars", 1, 1, 65, 144, 20, 1, 1, 0, 0, DL_SILU, GLU | BIAS | F32, 0},
    {"e4m3 96 -> 168, in place", 1, 6, 6, 96, 168, 1, 1, 0, 0, 0, BIAS | GATE | IN_PLACE | STEPS, 24},
    {"e4m3 112 -> 136, five of 32, parts", 5, 1, 32, 112, 136, 1, 1, 0, 0, 0, PARTS | BIAS, 0},
    {"e4m3 glu 64 -> 104, of 96, parts", 2, 3, 32, 64, 104, 1, 1, 0, 0, DL_GELU, PARTS | GLU | BIAS | RES, 8},
};

/* An operation's arguments, and what it should give. */
struct job {
    cuda_igemm_args a;
    std::vector<val> want;
    std::vector<uint8_t> y; /* as it was before */
};

static double u_sum = C_ACC * 0x1p-24;

/* Outputs o and, with glu, its gate's: sums with their bounds. */
static val sum_at(const cuda_igemm_args &a, dl_act w, int i, int p, int o)
{
    val s = {0, 0};
    int h = a.up ? a.y.h : a.x.h, width = a.up ? a.y.w : a.x.w;
    for (int tap = 0; tap < a.k * a.k; tap++) {
        int y = p / a.y.w * a.stride + tap / a.k - a.k / 2, x = p % a.y.w * a.stride + tap % a.k - a.k / 2;
        if (y < 0 || x < 0 || y >= h || x >= width) continue;
        if (a.up) y = y * a.x.h / h, x = x * a.x.w / width;
        for (int c = 0; c < a.x.c; c++) {
            double v = t_at(a.x, i, y * a.x.w + x, c) * t_at(w, 0, o * a.k * a.k + tap, c);
            s.v += v, s.e += u_sum * fabs(v);
        }
    }
    if (a.row_scale) {
        double scale = (double)a.row_scale[i * a.y.h * a.y.w + p] * (double)a.col_scale[o];
        s.v *= scale, s.e = s.e * fabs(scale) + 2 * u_acc * fabs(s.v);
    }
    return s;
}

/* x and w of a case in e4m3, and scales; a zero and a large one among those of the rows. ODD: the columns' do not lie on
 * 16 bytes. */
static dl_act make_e4m3(const one_case &k, cuda_igemm_args &a)
{
    int64_t rows = (int64_t)k.n * k.h * k.w;
    a.x = dl_act_at(NULL, DL_E4M3, k.n, k.h, k.w, k.in);
    a.x.ld = k.in + k.pad / 16 * 16, a.x.rs = (int64_t)k.h * k.w * a.x.ld;
    a.x.p = simt_alloc(dl_act_bytes(a.x));
    t_random(a.x, 50, 400);
    float *row = const_cast<float *>(t_floats(rows, 3e-3, 1e-3));
    if (rows > 2) row[1] = 0, row[rows - 1] = 30;
    a.row_scale = row, a.col_scale = t_floats(k.out * (a.glu ? 2 : 1) + 1, 2e-4, 1e-4) + (k.parts & ODD ? 1 : 0);
    return t_random(t_act(DL_E4M3, 1, 1, k.out * (a.glu ? 2 : 1), k.in, 0), 10, 400);
}

/* Of 16-bit operands of type t, or of e4m3; y of type t where it is not f32. */
static job make(const one_case &k, int t, bool e4m3)
{
    job j;
    cuda_igemm_args &a = j.a = cuda_igemm_args();
    const int ty = k.parts & F32 ? (int)DL_F32 : t, steps = k.parts & STEPS ? 3 : 1, step = k.parts & STEPS ? 2 : 0;
    a.k = k.k, a.stride = k.stride, a.up = k.up_h > 0, a.fn = k.fn, a.glu = k.parts & GLU;
    a.y = t_act(ty, k.n, k.up_h ? k.up_h : (k.h - 1) / k.stride + 1, k.up_w ? k.up_w : (k.w - 1) / k.stride + 1, k.out,
                k.pad);
    if (!e4m3) a.x = t_random(t_act(t, k.n, k.h, k.w, k.in, k.pad), 0.3, 1);
    dl_act w = e4m3 ? make_e4m3(k, a)
                    : t_random(t_act(t, 1, 1, k.out * (a.glu ? 2 : 1) * k.k * k.k, k.in, 0), 0, 0.3);
    a.w = w.p;
    if (k.parts & BIAS) a.bias = t_floats(k.out * (a.glu ? 2 : 1), 0, 1);
    if (k.parts & ADD) a.add = t_vec(t, steps, k.n, k.out, 0, 1);
    if (k.parts & GATE) a.gate = t_vec(DL_F32, steps, k.n, k.out, 0.5, 1);
    if (k.parts & STEPS) a.step = t_ints({step});
    if (k.parts & SCALE) a.scale = 0.70710678f;
    if (k.parts & PARTS) a.y = t_parts(a.y);
    if (k.parts & IN_PLACE) t_random(a.y, 0, 2);
    if (k.parts & IN_PLACE) a.res = a.y;
    else if (k.parts & RES) a.res = t_random(t_act(ty, k.n, a.y.h, a.y.w, k.out, 2 * k.pad), 0, 2);
    for (int i = 0; i < a.y.n; i++)
        for (int p = 0; p < a.y.h * a.y.w; p++)
            for (int o = 0; o < a.y.c; o++) {
                val s = sum_at(a, w, i, p, o), s2 = a.glu ? sum_at(a, w, i, p, a.y.c + o) : val();
                j.want.push_back(t_finished(a, a.res, step, s, s2, i, p, o));
            }
    j.y.assign((uint8_t *)a.y.p, (uint8_t *)a.y.p + dl_act_bytes(a.y));
    return j;
}

/* y as one way makes it, held to `want`. */
static std::vector<uint8_t> run(const char *name, const job &j, const cuda_igemm_way &way)
{
    memcpy(j.a.y.p, j.y.data(), j.y.size());
    if (j.a.y.parts) memset(j.a.y.parts, 0xff, (size_t)dl_parts_bytes(j.a.y));
    void *scratch = way.scratch_bytes ? simt_alloc(way.scratch_bytes) : NULL;
    int launches = simt_launches();
    t_ran(way.name, cuda_igemm(nullptr, &j.a, &way, scratch));
    launches = simt_launches() - launches; /* whole tiles make parts themselves */
    assert_int_equal(launches, way.split > 1 ? 2 + !!j.a.y.parts : way.tile < 0 ? 1 + !!j.a.y.parts : 1);
    t_compare(name, way.name, j.a.y, j.want);
    if (j.a.y.parts) t_parts_ok(name, j.a.y, false);
    return std::vector<uint8_t>((uint8_t *)j.a.y.p, (uint8_t *)j.a.y.p + j.y.size());
}

static void one(const one_case &k, int t, bool e4m3)
{
    cuda_igemm_way way;
    job j = make(k, t, e4m3);
    std::vector<uint8_t> first;
    assert_int_equal(igemm_way(&j.a, IGEMM_PLAIN_TILE, 1, &way), !e4m3);
    if (!e4m3) run(k.name, j, way);
    for (int tile = 0; tile < (e4m3 ? igemm_e4m3_tiles_n : igemm_tiles_n); tile++) {
        assert_true(igemm_way(&j.a, tile, 1, &way));
        assert_int_equal(way.scratch_bytes, 0);
        std::vector<uint8_t> y = run(k.name, j, way);
        if (tile == 0) first = y;
        if (y != first) fail_msg("%s: %s gives other bits than the first tile", k.name, way.name);
        int split = 2 << tile % 3; /* 2, 4, 8 */
        if (!igemm_way(&j.a, tile, split, &way)) continue;
        assert_true(way.scratch_bytes > 0);
        y = run(k.name, j, way);
        if (tile < 3 && run(k.name, j, way) != y) fail_msg("%s: %s is not deterministic", k.name, way.name);
    }
}

static void all_f16(void **)
{
    for (const one_case &k : cases) {
        one(k, DL_F16, false);
        simt_free_all();
    }
}

static void all_bf16(void **)
{
    for (const one_case &k : cases) {
        one(k, DL_BF16, false);
        simt_free_all();
    }
}

static void all_e4m3(void **)
{
    int t = DL_BF16;
    for (const one_case &k : e4m3_cases) {
        one(k, t, true);
        t = t == DL_BF16 ? DL_F16 : DL_BF16;
        simt_free_all();
    }
}

/* On GPUs whose tensor cores keep 13 bits of a sum: positive sums of 3,072 channels are still within 2^-13. */
static void short_sums(void **)
{
    const one_case k = {"e4m3 3072 -> 24, short sums", 1, 1, 17, 3072, 24, 1, 1, 0, 0, 0, F32, 0};
    const double before = u_sum;
    job j;
    cuda_igemm_args &a = j.a = make(k, DL_F32, true).a;
    dl_act w = dl_act_at(const_cast<void *>(a.w), DL_E4M3, 1, 1, k.out, k.in);
    t_random(a.x, 250, 200), t_random(w, 250, 200);
    u_sum = 0x1p-13, simt_e4m3_sum_bits = 13;
    for (int p = 0; p < k.w; p++)
        for (int o = 0; o < k.out; o++) j.want.push_back(t_finished(a, a.res, 0, sum_at(a, w, 0, p, o), val(), 0, p, o));
    j.y.assign((uint8_t *)a.y.p, (uint8_t *)a.y.p + dl_act_bytes(a.y));
    for (int tile = 0; tile < igemm_e4m3_tiles_n; tile++) {
        cuda_igemm_way way;
        assert_true(igemm_way(&a, tile, 1, &way));
        run(k.name, j, way);
    }
    u_sum = before, simt_e4m3_sum_bits = 23;
}

/* Eight threads, neighbours in a copy or the rows of a matrix that ldmatrix reads, meet all 32 banks once. */
template <int ROW> static void swizzle_of(void)
{
    for (int row = 0; row < 64; row += 8)
        for (int piece = 0; piece < ROW / 16; piece++) {
            unsigned copied = 0, read = 0;
            for (int i = 0; i < 8; i++) {
                copied |= 1u << igemm_swizzled<ROW>(row + i * 16 / ROW, i % (ROW / 16)) / 16 % 8;
                read |= 1u << igemm_swizzled<ROW>(row + i, piece) / 16 % 8;
                assert_int_equal(igemm_swizzled<ROW>(row + i, piece), igemm_swizzled<ROW>(i, piece) + row * ROW);
            }
            assert_int_equal(copied, 0xff);
            assert_int_equal(read, 0xff);
        }
}

static void no_bank_conflicts(void **)
{
    swizzle_of<64>();
    swizzle_of<128>();
}

/* ---- what is offered; nothing is launched ---- */

static cuda_igemm_args shape(int t, int n, int hw, int in, int out, int k)
{
    static char somewhere[16] __attribute__((aligned(16)));
    cuda_igemm_args a = cuda_igemm_args();
    a.x = dl_act_at(somewhere, t, n, hw, hw, in);
    a.y = dl_act_at(somewhere, t == DL_E4M3 ? DL_BF16 : t, n, hw, hw, out);
    a.w = somewhere, a.k = k, a.stride = 1;
    return a;
}

/* Place of a name in a list, -1: not there. */
static int place(const char *name, const cuda_igemm_way *way, int n)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(way[i].name, name)) return i;
    return -1;
}

static int offered(const cuda_igemm_args &a, int sms, cuda_igemm_way *way)
{
    int n = cuda_igemm_ways(&a, sms, way);
    assert_in_range(n, 1, CUDA_IGEMM_WAYS);
    for (int i = 0; i < n; i++) {
        assert_int_equal(place(way[i].name, way, n), i);
        assert_int_equal(way[i].scratch_bytes > 0, way[i].split > 1);
        assert_int_equal(strstr(way[i].name, "split") != NULL, way[i].split > 1);
        cuda_igemm_way same;
        assert_true(igemm_way(&a, way[i].tile, way[i].split, &same));
        assert_string_equal(same.name, way[i].name);
        assert_int_equal(same.scratch_bytes, way[i].scratch_bytes);
    }
    return n;
}

static void names_are_unique(void **)
{
    cuda_igemm_args a = shape(DL_F16, 1, 8, 1280, 64, 3);
    cuda_igemm_way way[64];
    int n = 0;
    assert_true(igemm_way(&a, IGEMM_PLAIN_TILE, 1, &way[n++]));
    for (int tile = 0; tile < igemm_tiles_n; tile++)
        for (int split = 1; split <= 8; split *= 2) {
            assert_true(igemm_way(&a, tile, split, &way[n]));
            assert_int_equal(place(way[n].name, way, n), -1);
            n++;
        }
    a = shape(DL_E4M3, 1, 8, 1280, 1280, 1);
    for (int tile = 0; tile < igemm_e4m3_tiles_n; tile++)
        for (int split = 1; split <= 8; split *= 2) {
            assert_true(igemm_way(&a, tile, split, &way[n]));
            assert_int_equal(place(way[n].name, way, n), -1);
            n++;
        }
    assert_false(igemm_way(&a, igemm_e4m3_tiles_n, 1, &way[0]));
    a = shape(DL_F16, 1, 8, 1280, 64, 3);
    assert_false(igemm_way(&a, 0, 3, &way[0]));
    assert_false(igemm_way(&a, 0, 16, &way[0]));
    assert_false(igemm_way(&a, igemm_tiles_n, 1, &way[0]));
    a = shape(DL_F16, 1, 1, 1280, 3, 1); /* results that igemm_add's last block would count beyond 31 bits */
    a.x.w = a.y.w = (INT32_MAX - 1) / 3;
    assert_false(igemm_way(&a, 0, 2, &way[0]));
}

static void offers(void **)
{
    cuda_igemm_way way[CUDA_IGEMM_WAYS];
    const int sms[] = {28, 82, 108, 128, 170};
    for (int m : sms) {
        /* SD's top level, and its deeper ones, in a batch: the tile that leaves no channels over comes first. */
        for (int level = 0; level < 3; level++) {
            int n = offered(shape(DL_F16, 32, 64 >> level, 320 << level, 320 << level, 3), m, way);
            int exact = place("mma 96x160x32", way, n), square = place("mma 128x128x32", way, n);
            if (level == 0) assert_in_range(exact, 0, square < 0 ? n : square - 1);
            assert_true(exact >= 0);
            for (int i = 0; i < n; i++) assert_int_equal(way[i].split, 1);
        }
        /* 128 pixels: a split comes first. */
        offered(shape(DL_BF16, 2, 8, 1280, 1280, 3), m, way);
        assert_true(way[0].split > 1);
        /* Few outputs: as few columns as there are; also of more pixels than a second grid dimension could count. */
        offered(shape(DL_F16, 8, 64, 320, 4, 3), m, way);
        assert_string_equal(way[0].name, "mma 128x32x32");
        offered(shape(DL_F16, 16, 1024, 128, 3, 3), m, way);
        assert_string_equal(way[0].name, "mma 128x32x32");
        /* FLUX's products in e4m3, and 128 pixels of such. */
        int n = offered(shape(DL_E4M3, 1, 64, 3072, 12288, 1), m, way);
        assert_in_range(place("mma e4m3 128x192x64", way, n), 0, 1);
        assert_in_range(place("mma e4m3 128x96x64", way, n), 0, 1);
        offered(shape(DL_E4M3, 2, 8, 3072, 3072, 1), 170, way);
        assert_true(way[0].split > 1 || strstr(way[0].name, "64x64"));
    }
}

static void refusals(void **)
{
    cuda_igemm_way way[CUDA_IGEMM_WAYS];
    cuda_igemm_args good = shape(DL_F16, 1, 8, 320, 320, 3), a = good;
    a = shape(DL_F32, 1, 8, 320, 320, 3);
    assert_int_equal(offered(a, 108, way), 1);
    assert_string_equal(way[0].name, "plain 64x64x16");
    a = shape(DL_F16, 1, 8, 4, 320, 3);
    offered(a, 108, way);
    assert_string_equal(way[0].name, "plain 64x64x16");
    a = good, a.x.ld += 4;
    offered(a, 108, way);
    assert_string_equal(way[0].name, "plain 64x64x16");
    a = good, a.w = (const char *)a.w + 2;
    offered(a, 108, way);
    assert_string_equal(way[0].name, "plain 64x64x16");
    a = good, a.glu = true;
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);
    a = good, a.y.t = DL_E4M3;
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);
    a = shape(DL_F16, 2048, 1024, 8, 8, 1);
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);

    const float scale = 1;
    cuda_igemm_args e4m3 = shape(DL_E4M3, 1, 8, 320, 320, 1);
    a = e4m3, a.k = 3;
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);
    a = e4m3, a.stride = 2;
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);
    a = e4m3, a.x.c = 312;
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);
    a = e4m3, a.x.ld = 328;
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);
    a = e4m3, a.w = (const char *)a.w + 8;
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);
    a = e4m3, a.x.n = a.y.n = 2, a.x.rs += 16;
    assert_int_equal(cuda_igemm_ways(&a, 108, way), 0);

    int launches = simt_launches();
    assert_true(igemm_way(&e4m3, 0, 1, &way[0]));
    a = e4m3, a.row_scale = &scale;
    assert_int_equal(cuda_igemm(nullptr, &a, &way[0], NULL), CUDA_K_UNSUPPORTED);
    a = good, a.row_scale = a.col_scale = &scale;
    assert_int_equal(cuda_igemm(nullptr, &a, &way[0], NULL), CUDA_K_UNSUPPORTED);
    assert_true(igemm_way(&good, 0, 2, &way[0]));
    assert_int_equal(cuda_igemm(nullptr, &good, &way[0], NULL), CUDA_K_UNSUPPORTED);
    way[0].tile = igemm_tiles_n;
    assert_int_equal(cuda_igemm(nullptr, &good, &way[0], NULL), CUDA_K_UNSUPPORTED);
    assert_true(igemm_way(&good, 0, 1, &way[0]));
    a = good, a.x.ld += 4;
    assert_int_equal(cuda_igemm(nullptr, &a, &way[0], NULL), CUDA_K_UNSUPPORTED);
    a = good, a.y.n = a.x.n = 0;
    assert_int_equal(cuda_igemm(nullptr, &a, &way[0], NULL), 0);
    assert_int_equal(simt_launches(), launches);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(all_f16, t_clear),
        cmocka_unit_test_teardown(all_bf16, t_clear),
        cmocka_unit_test_teardown(all_e4m3, t_clear),
        cmocka_unit_test_teardown(short_sums, t_clear),
        cmocka_unit_test(no_bank_conflicts),
        cmocka_unit_test(names_are_unique),
        cmocka_unit_test(offers),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
