#include "kernels/cuda/gemm_sums.h"

enum { PIECE_BYTES = 64 << 20 };

struct size {
    int64_t rows, pixels; /* of a piece: one of the two is all that there are, or rows is 1 */
};

static struct size size_of(const struct cuda_sums *s)
{
    int64_t most = s->r->ctx->opts.piece_bytes ? s->r->ctx->opts.piece_bytes : PIECE_BYTES;
    int64_t pixels = (int64_t)s->a->y.h * s->a->y.w, fit = most / (s->out * 4);
    struct size p = {fit / pixels, pixels};
    if (p.rows > s->a->y.n) p.rows = s->a->y.n;
    if (p.rows < 1) p.rows = 1, p.pixels = fit / 16 * 16;
    if (p.pixels < 16) p.pixels = 16;
    return p;
}

int64_t cuda_sums_bytes(const struct cuda_sums *s)
{
    struct size p = size_of(s);
    return p.rows * p.pixels * s->out * 4;
}

dl_act cuda_piece_of(dl_act a, int64_t row, int32_t n, int64_t from, int32_t count)
{
    if (a.p) a.p = (uint8_t *)a.p + (row * a.rs + from * a.ld) * dl_type_bytes(a.t);
    a.n = n, a.h = 1, a.w = count;
    return a;
}

static dl_vec vec_from(dl_vec v, int64_t row)
{
    if (v.p) v.p = (const uint8_t *)v.p + row * v.rs * dl_type_bytes(v.t);
    return v;
}

static void piece(const struct cuda_sums *s, int64_t row, int32_t n, int64_t from, int32_t count)
{
    struct dl_run *r = s->r;
    const struct dl_epi *e = &s->a->e;
    const dl_act *y = &s->a->y;
    struct cuda_epi_args k = {.x = dl_act_at(s->sums, DL_F32, n, 1, count, (int32_t)s->out),
                              .y = cuda_piece_of(*y, row, n, from, count),
                              .bias = s->bias,
                              .fn = e->fn,
                              .glu = e->glu,
                              .add = vec_from(e->add, row),
                              .gate = vec_from(e->gate, row),
                              .res = cuda_piece_of(e->res, row, n, from, count),
                              .scale = e->scale,
                              .col_scale = s->col_scale};
    if (s->row_scale) k.row_scale = s->row_scale + row * y->h * y->w + from;
    s->product(s->user, k.x, row, from);
    if (cuda_live(r)) k.step = cuda_step(r);
    if (cuda_live(r)) cuda_launched(r, "gemm: epilogue", cuda_epi(r->ctx->stream, &k));
}

void cuda_sums_run(const struct cuda_sums *s)
{
    struct size p = size_of(s);
    int64_t n = s->a->y.n, pixels = (int64_t)s->a->y.h * s->a->y.w;
    for (int64_t row = 0; row < n; row += p.rows)
        for (int64_t from = 0; from < pixels && cuda_live(s->r); from += p.pixels) {
            int64_t rows = n - row < p.rows ? n - row : p.rows;
            int64_t count = pixels - from < p.pixels ? pixels - from : p.pixels;
            piece(s, row, (int32_t)rows, from, (int32_t)count);
        }
}
