#!/usr/bin/env python3
"""Writes tests/unit/data/rng_cpu.txt: draws of torch's CPU generator, for tests/unit/test_rng.c.

A line `seed S` starts a generator; each line `draw N TYPE FNV WORDS...` is the next torch.randn(N, dtype=TYPE) from it:
FNV-1a (64 bits) over the little-endian float32 values, then the bits of the first and the last 16 values (all of them
where N <= 32). Run it from the checkout's root, on an x86 machine with AVX2 and FMA.
"""
import torch

F32, F16, BF16 = ("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)
CASES = [
    (0, [(3, F32), (16, F32), (1, F32), (20, F32), (15, F32), (2, F16), (7, BF16), (100, F32), (65536, F32)]),
    (0, [(20, F16), (33, BF16), (5, F32), (31, F16), (17, BF16), (16, F16), (999, BF16), (4096, F32)]),
    (17, [(16384, F32), (16384, F16), (65536, BF16), (12288, F16), (1, F32), (36864, F32)]),
    (42, [(3, F32), (16385, F32), (16391, F16), (1023, BF16), (3, F32)]),
    (128998123, [(12288, F32), (12288, F32), (196608, F16)]),
    (2**63, [(16384, F32), (5, F32)]),
    (2**64 - 1, [(16384, F32), (262144, BF16)]),
    (2**32 + 17, [(1000003, F32)]),
]


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


with open("tests/unit/data/rng_cpu.txt", "w") as out:
    print(f"# torch {torch.__version__}, tools/ref/rng.py", file=out)
    for seed, draws in CASES:
        g = torch.Generator("cpu").manual_seed(seed)
        print("seed", seed, file=out)
        for n, (name, dtype) in draws:
            words = torch.randn(n, generator=g, dtype=dtype).float().numpy().view("<u4")
            shown = words if n <= 32 else [*words[:16], *words[-16:]]
            print("draw", n, name, "%016x" % fnv(words.tobytes()), *["%08x" % w for w in shown], file=out)
