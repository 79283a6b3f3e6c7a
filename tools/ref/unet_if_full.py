"""Reference of one step of the full-size IF-I-L: tests/parity/test_full_if.c.

  DLENS_FULL_DIR=DIR build/tests/test_parity_full_if        (makes DIR/if1-full)
  python unet_if_full.py DIR/if1-full tests/parity/data/full_if1_step.safetensors

The inputs are made by the same integer arithmetic on both sides (`noise`), so only the output is stored: out
[2][64][64][6], float32, channels last. 5 GB of memory are needed.
"""
import sys
import time

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors.numpy import save_file

from refs import noise

TIMESTEP = 500


def main():
    folder, path = sys.argv[1:]
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    latent = noise(1, 2, 64, 64, 3).permute(0, 3, 1, 2).contiguous()
    text = noise(2, 2, 77, unet.config.encoder_hid_dim) * np.float32(0.1)
    with torch.no_grad():
        for _ in range(2):  # the first run warms up
            start = time.monotonic()
            out = unet(latent, TIMESTEP, text).sample
            print(f"{time.monotonic() - start:.2f} s with {torch.get_num_threads()} threads")
    print("rms", out.pow(2).mean().sqrt().item(), "rows differ by", (out[0] - out[1]).std().item())
    data = {"out": out.permute(0, 2, 3, 1).contiguous().numpy()}
    save_file(data, path, {"format": "pt", "timestep": str(TIMESTEP), "made_by": "tools/ref/unet_if_full.py"})


main()
