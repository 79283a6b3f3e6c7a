"""Reference of one full-size SDXL UNet step: tests/parity/test_sdxl_full_step.c.

  dlens synth --like sdxl --scale full --dtype f16 --out DIR
  python sdxl_full_step.py DIR tests/parity/data/full_sdxl_step.safetensors

The inputs are made by the same integer arithmetic on both sides (`noise`), so only the output is stored: eps
[128][128][4], float32, channels last. The f16 weights are computed with in float32: 12 GB of memory are needed.
"""
import sys
import time

import torch
from diffusers import UNet2DConditionModel
from safetensors.numpy import save_file

from refs import noise

TIMESTEP = 501
SIZES = [1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]


def main():
    folder, out = sys.argv[1:]
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32).eval()
    latent = noise(1, 1, 128, 128, 4).permute(0, 3, 1, 2).contiguous()
    text = noise(2, 1, 77, unet.config.cross_attention_dim)
    added = {"text_embeds": noise(3, 1, 1280), "time_ids": torch.tensor([SIZES])}
    with torch.no_grad():
        start = time.time()
        eps = unet(latent, TIMESTEP, text, added_cond_kwargs=added).sample
        print("seconds", time.time() - start)
    print("rms", eps.pow(2).mean().sqrt().item())
    data = {"eps": eps[0].permute(1, 2, 0).contiguous().numpy()}
    save_file(data, out, {"format": "pt", "timestep": str(TIMESTEP), "made_by": "tools/ref/sdxl_full_step.py"})


main()
