"""What torch makes of f32 values in float8_e4m3fn, and of the rows of a matrix: tests/unit/data/e4m3_ref.safetensors.

    python tools/ref/e4m3.py tests/unit/data/e4m3_ref.safetensors

x [n]: every value of the type, the middle between two neighbours, its neighbours in f32, subnormals, what saturates,
infinities, a NaN, and random ones. clamped [n]: torch's code of x cut to +-448, as quantising wants it. w [rows][64]:
rows of unlike size, one of zeros; wq, ws: row by row scaled by 448 / amax, rounded; amax / 448.
"""
import sys

import torch
from safetensors.torch import save_file

g = torch.Generator().manual_seed(8)
every = torch.arange(0, 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
mid = (every[:-1] + every[1:]) / 2
edge = torch.tensor([0.0, 2.0**-10, 2.0**-11, 1e-20, 1e-42, 447.9, 448, 463.9, 464, 464.1, 480, 1e30, float("inf"), float("nan")])
inf = torch.tensor(float("inf"))
x = torch.cat([every, mid, torch.nextafter(mid, torch.zeros(())), torch.nextafter(mid, inf), edge,
               torch.randn(256, generator=g) * 2.0 ** torch.randint(-12, 9, (256,), generator=g)])
x = torch.cat([x, -x])
w = torch.randn(8, 64, generator=g) * torch.tensor([1e-4, 0.02, 1, 30, 5e4, 1e-25, 0, 1])[:, None]
w[7, 3] = 1e3
amax = w.abs().amax(1)
gain = torch.where(amax > 1e-30, 448.0 / amax, torch.zeros(()))
save_file({"x": x, "clamped": x.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8), "w": w,
           "wq": (w * gain[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8), "ws": amax / 448.0},
          sys.argv[1])
