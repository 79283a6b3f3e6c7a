"""Reference of one full-size UNet step: tests/parity/test_full_step.c.

  dlens synth --like sd15 --scale full --out DIR
  python full_step.py DIR tests/parity/data/full_sd15_step.safetensors

The inputs are made by the same integer arithmetic on both sides (`noise`), so only the output is stored: eps
[2][64][64][4], float32, channels last. 4 GB of memory are needed.
"""
import sys

import torch
from diffusers import UNet2DConditionModel
from safetensors.numpy import save_file

from refs import noise

TIMESTEP = 501


def main():
    folder, out = sys.argv[1:]
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    latent = noise(1, 2, 64, 64, 4).permute(0, 3, 1, 2).contiguous()
    text = noise(2, 2, 77, unet.config.cross_attention_dim)
    with torch.no_grad():
        eps = unet(latent, TIMESTEP, text).sample
    print("rms", eps.pow(2).mean().sqrt().item(), "rows differ by", (eps[0] - eps[1]).std().item())
    data = {"eps": eps.permute(0, 2, 3, 1).contiguous().numpy()}
    save_file(data, out, {"format": "pt", "timestep": str(TIMESTEP), "made_by": "tools/ref/full_step.py"})


main()
