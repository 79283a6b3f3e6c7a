/* layout.h: the index arithmetic of the Hopper kernels: where TMA puts an element, what a wgmma descriptor says, which
 * element an accumulator register holds, and the exponential on the multiply-add units. Pure functions of their
 * arguments, compiled for the device and for the host, where tests/simt/test_hopper.cpp holds each of them to the
 * definition.
 *
 * Source: PTX ISA 9.0, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions": register fragments,
 * shared memory matrix layout (canonical layouts, strides), matrix descriptor format; "Tensors: swizzling modes"; CUDA
 * driver API, cuTensorMapEncodeTiled. Elements of 16 bits; for hop_desc_k and hop_desc_k_every also of 8, as a step is
 * 32 bytes of either.
 *
 * Tiles. Channels 64 p .. of a tile of tokens are its panel p: [tokens][64], 128 bytes a token, as TMA writes a box of
 * 64 channels x so many tokens; the panels of a tile follow each other. With the 128-byte swizzle, chunk c (16 bytes)
 * of token r lies at chunk c ^ (r % 8); a panel begins at a multiple of 1,024 bytes, so r % 8 is bits 7..9 of the
 * address, and the swizzle is one function of the address, the same for the writer (TMA) and for the reader (wgmma).
 *
 * Q K^T: both operands have channels, the k of the product, contiguous: "K-major". Groups of 8 rows are 1,024 bytes
 * apart (the stride offset); a step of 16 channels is 32 bytes further in the start address, four steps a panel. The
 * leading offset is not used with a swizzle.
 *
 * P V: keys are the k of the product and channels its n, so V as it came is "MN-major" (tnspB = 1): 64 channels x 8
 * keys is one swizzled block of 1,024 bytes; blocks of the next 8 keys follow at the stride offset, 1,024 bytes; the
 * next 64 channels at the leading offset, the panel's size. A step of 16 keys is 2,048 bytes further. No transposition
 * is needed anywhere.
 */
#ifndef DL_HOPPER_LAYOUT_H
#define DL_HOPPER_LAYOUT_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define HOP_FN static __host__ __device__ __forceinline__
#else
#define HOP_FN static inline
#endif

enum {
    HOP_ROW = 128,    /* bytes of a token in a panel */
    HOP_BLOCK = 1024, /* 8 tokens: the swizzle's period */
    HOP_PANEL = 64    /* channels */
};

/* The 128-byte swizzle of a shared-memory address: bits 4..6 ^= bits 7..9. Its own inverse. */
HOP_FN uint32_t hop_swizzle(uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }

/* Bytes from a tile's start to channel c of token r, before the swizzle; rows: tokens of a panel. */
HOP_FN uint32_t hop_tile_at(uint32_t rows, uint32_t r, uint32_t c)
{
    return (c / HOP_PANEL * rows + r) * HOP_ROW + c % HOP_PANEL * 2;
}

/* A descriptor: bits 0..13 address / 16, 16..29 leading offset / 16, 32..45 stride offset / 16, 49..51 base offset (0:
 * blocks lie at multiples of 1,024), 62..63 swizzle (1: 128 bytes). */
HOP_FN uint64_t hop_desc(uint32_t address, uint32_t leading, uint32_t stride)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)((leading & 0x3ffff) >> 4) << 16 |
           (uint64_t)((stride & 0x3ffff) >> 4) << 32 | (uint64_t)1 << 62;
}

/* Rows from `row` on of a tile, channels [16 k, 16 k + 16): an operand of Q K^T. row: a multiple of 8. */
HOP_FN uint64_t hop_desc_k(uint32_t tile, uint32_t rows, uint32_t row, uint32_t k)
{
    return hop_desc(tile + k / 4 * rows * HOP_ROW + row * HOP_ROW + k % 4 * 32, 16, HOP_BLOCK);
}

/* The same of 64 rows that are every each-th group of 8 from `row` on, of a tile of one panel. */
HOP_FN uint64_t hop_desc_k_every(uint32_t each, uint32_t tile, uint32_t row, uint32_t k)
{
    return hop_desc(tile + row * HOP_ROW + k * 32, 16, each * HOP_BLOCK);
}

/* Keys [16 j, 16 j + 16), channels from c on, a multiple of 64: the B operand of P V. */
HOP_FN uint64_t hop_desc_mn(uint32_t tile, uint32_t rows, uint32_t j, uint32_t c)
{
    return hop_desc(tile + c / HOP_PANEL * rows * HOP_ROW + j * 16 * HOP_ROW, rows * HOP_ROW, HOP_BLOCK);
}

/* Element i of a thread's accumulator of m64nNk16: its row and column; thread: 0..127 in the warpgroup. */
HOP_FN int hop_acc_row(int thread, int i) { return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8; }
HOP_FN int hop_acc_col(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

/* Half h (0 low, 1 high) of register r (0..3) of a thread's A operand of m64nNk16: its row and k. Element i of an
 * accumulator's columns [16 j, 16 j + 16) is therefore half i % 2 of register i / 2 % 4 of the A operand of step j = i
 * / 8: scores become the probabilities' operand without leaving their thread. */
HOP_FN int hop_a_row(int thread, int r) { return thread / 32 * 16 + thread % 32 / 4 + r % 2 * 8; }
HOP_FN int hop_a_col(int thread, int r, int h) { return thread % 4 * 2 + r / 2 * 8 + h; }

/* 2^x for x <= 0 without the special function unit, relative error at most 4e-6; x <= -127, -inf too, gives 0. x = n +
 * f with |f| <= 1/2, by adding 1.5 * 2^23; a polynomial of degree 4 in f, of least greatest relative error with p(0) =
 * 1; then n into the exponent. Below 2^-126 the result is some value below 2^-125. */
HOP_FN float hop_exp2(float x)
{
    union {
        float f;
        uint32_t u;
    } r, p;
    x = x > -127.0f ? x : -127.0f;
    r.f = x + 12582912.0f;
    float f = x - (r.f - 12582912.0f);
    p.f = fmaf(fmaf(fmaf(fmaf(0.009582853f, f, 0.0559064254f), f, 0.240240986f), f, 0.693124193f), f, 1.0f);
    p.u += r.u << 23;
    return p.f;
}

#endif
