"""Writes tests/unit/data/st_ref.safetensors with the reference implementation of the format.

test_safetensors.c reads it, and writes the same tensors again, which must give the same bytes.
Run from the top of the checkout: python tools/ref/st_ref.py
"""

import torch
from safetensors.torch import save_file

tensors = {
    "f32": torch.tensor([[1.0, -2.5, 3.25], [0.0, 65504.0, -1e-8]]),
    "f16": torch.tensor([1.0, 0.5, -0.25], dtype=torch.float16),
    "bf16": torch.tensor([[1.0], [-3.0]], dtype=torch.bfloat16),
    "f8": torch.tensor([1.0, -448.0, 0.125], dtype=torch.float32).to(torch.float8_e4m3fn),
    "i64": torch.tensor([1, -2, 1 << 40]),
    "i32": torch.tensor([[[7]], [[-8]]], dtype=torch.int32),
    "u8": torch.tensor([0, 255, 17], dtype=torch.uint8),
    "empty": torch.zeros((0, 3)),
    "scalar": torch.tensor(4.5),
    "name \"quoted\" \u00e9": torch.tensor([1, 2], dtype=torch.uint8),
}
save_file(tensors, "tests/unit/data/st_ref.safetensors", metadata={"format": "pt \u00e9 \"q\"\n"})
