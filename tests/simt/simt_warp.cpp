/* simt_warp.cpp: warp-wide instructions: shuffles, votes, ldmatrix, mma. */
#include "tests/simt/simt_priv.h"

struct shuffle {
    float in, out;
    int arg;
};

static shuffle *shuffle_at(void *s) { return static_cast<shuffle *>(s); }

static void do_xor(void *const s[32])
{
    for (int i = 0; i < 32; i++) shuffle_at(s[i])->out = shuffle_at(s[i ^ shuffle_at(s[i])->arg])->in;
}

static void do_down(void *const s[32])
{
    for (int i = 0; i < 32; i++) {
        int from = i + shuffle_at(s[i])->arg;
        shuffle_at(s[i])->out = shuffle_at(s[from < 32 ? from : i])->in;
    }
}

static void do_idx(void *const s[32])
{
    for (int i = 0; i < 32; i++) shuffle_at(s[i])->out = shuffle_at(s[shuffle_at(s[i])->arg & 31])->in;
}

float dl_shfl_xor(float v, int mask)
{
    shuffle s = {v, 0, mask & 31};
    simt::collective("shfl.xor", &s, do_xor);
    return s.out;
}

float dl_shfl_down(float v, int by)
{
    shuffle s = {v, 0, by};
    simt::collective("shfl.down", &s, do_down);
    return s.out;
}

float dl_shfl(float v, int lane)
{
    shuffle s = {v, 0, lane};
    simt::collective("shfl.idx", &s, do_idx);
    return s.out;
}

struct vote {
    bool in;
    uint32_t out;
};

static void do_vote(void *const s[32])
{
    uint32_t all = 0;
    for (int i = 0; i < 32; i++) all |= static_cast<vote *>(s[i])->in ? 1u << i : 0;
    for (int i = 0; i < 32; i++) static_cast<vote *>(s[i])->out = all;
}

uint32_t dl_ballot(bool v)
{
    vote s = {v, 0};
    simt::collective("vote", &s, do_vote);
    return s.out;
}

/* Lane i gives the address of row i % 8 of matrix i / 8 (of two matrices the lanes from 16 on give none); lane l receives elements 2 (l % 4), + 1 of row l / 4 of each,
 * transposed: of column l / 4. */
struct matrices {
    uint16_t row[8];
    uint32_t out[4];
    int count;
    bool trans;
};

static void do_ldmatrix(void *const s[32])
{
    for (int l = 0; l < 32; l++) {
        matrices *m = static_cast<matrices *>(s[l]);
        for (int k = 0; k < m->count; k++) {
            int r = l / 4, c = 2 * (l % 4);
            const matrices *a = static_cast<matrices *>(s[8 * k + (m->trans ? c : r)]);
            const matrices *b = static_cast<matrices *>(s[8 * k + (m->trans ? c + 1 : r)]);
            m->out[k] = (uint32_t)a->row[m->trans ? r : c] | (uint32_t)b->row[m->trans ? r : c + 1] << 16;
        }
    }
}

void dl_ldmatrix_raw(uint32_t *r, int count, uint8_t *row, bool trans)
{
    matrices m;
    if (threadIdx.x % 32 < 8 * (unsigned)count) {
        simt::shared_access(row, 16, 16, simt::READ);
        memcpy(m.row, row, 16);
    }
    m.count = count, m.trans = trans;
    simt::collective(trans ? "ldmatrix.trans" : "ldmatrix", &m, do_ldmatrix);
    memcpy(r, m.out, (size_t)count * 4);
}

struct product {
    uint32_t a[4], b[2];
    float d[4];
    int type;
};

int simt_e4m3_sum_bits = 23;

/* Element i of a register. */
static float part(uint32_t v, int i, int type)
{
    if (type == DL_E4M3) return dl_e4m3_to((uint8_t)(v >> 8 * i));
    uint16_t h = (uint16_t)(v >> 16 * i);
    return type == DL_F16 ? dl_f16_to(h) : dl_bf16_to(h);
}

static float shortened(float v, int type)
{
    if (type != DL_E4M3) return v;
    uint32_t u = dl_f32_bits(v);
    return dl_bits_f32(u >> (23 - simt_e4m3_sum_bits) << (23 - simt_e4m3_sum_bits));
}

/* Fragments of m16n8k16 and of m16n8k32, PTX ISA 9.7.14 "Matrix fragments": g = lane / 4, t = lane % 4; each register
 * holds neighbours in k, two or four. */
static void do_mma(void *const s[32])
{
    float a[16][32], b[32][8];
    const int type = static_cast<product *>(s[0])->type, each = type == DL_E4M3 ? 4 : 2;
    for (int l = 0; l < 32; l++) {
        const product *p = static_cast<product *>(s[l]);
        int g = l / 4, t = l % 4;
        for (int k = 0; k < 4; k++)
            for (int h = 0; h < each; h++) a[g + k % 2 * 8][each * (t + k / 2 * 4) + h] = part(p->a[k], h, type);
        for (int k = 0; k < 2; k++)
            for (int h = 0; h < each; h++) b[each * (t + 4 * k) + h][g] = part(p->b[k], h, type);
    }
    for (int l = 0; l < 32; l++) {
        product *p = static_cast<product *>(s[l]);
        for (int k = 0; k < 4; k++) {
            double sum = (double)shortened(p->d[k], type);
            for (int j = 0; j < 8 * each; j++)
                sum += (double)a[l / 4 + k / 2 * 8][j] * (double)b[j][2 * (l % 4) + k % 2];
            p->d[k] = shortened((float)sum, type);
        }
    }
}

void dl_mma_raw(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, int type)
{
    product p = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}, type};
    simt::collective("mma", &p, do_mma);
    memcpy(d, p.d, sizeof p.d);
}
