"""Reference of one step of a FLUX transformer of the published widths: tests/parity/test_full_flux.c.

  DLENS_FULL_DIR=DIR build/tests/test_parity_full_flux      (makes DIR/flux-wide, then fails without the reference)
  python flux_full.py DIR/flux-wide tests/parity/data/full_flux_step.safetensors

The inputs are made by the same integer arithmetic on both sides (`noise`), so only results are stored: out
[2][16][12][64], float32; f32 [1], relative L2 error of that against a run in float64; bf16 [1], the same of PyTorch's
bfloat16 against out. Timestep and guidance are the same numbers in bfloat16. 10 GB of memory are needed.
"""
import sys
import time

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models import embeddings
from diffusers.models.transformers import transformer_flux
from safetensors.torch import save_file

import flux
from refs import noise

ROWS, HEIGHT, WIDTH, TOKENS = 2, 16, 12, 100
TIMESTEP, GUIDANCE = 500.0, 4.0


def step(folder, dtype):
    model = FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=dtype).eval()
    latent = noise(1, ROWS, HEIGHT * WIDTH, model.config.in_channels).to(dtype)
    text = (noise(2, ROWS, TOKENS, model.config.joint_attention_dim) * np.float32(0.25)).to(dtype)
    pooled = noise(3, ROWS, model.config.pooled_projection_dim).to(dtype)
    start = time.monotonic()
    out = model(hidden_states=latent, timestep=torch.full([ROWS], TIMESTEP).to(dtype) / 1000,
                guidance=torch.full([ROWS], GUIDANCE), pooled_projections=pooled, encoder_hidden_states=text,
                txt_ids=torch.zeros(TOKENS, 3).to(dtype),
                img_ids=FluxPipeline._prepare_latent_image_ids(ROWS, HEIGHT, WIDTH, "cpu", dtype),
                return_dict=False)[0]
    print(f"{dtype}: {time.monotonic() - start:.2f} s with {torch.get_num_threads()} threads", flush=True)
    return out.reshape(ROWS, HEIGHT, WIDTH, -1).double()


def main():
    folder, path = sys.argv[1:]
    with torch.no_grad():
        out, half = step(folder, torch.float32), step(folder, torch.bfloat16)
        transformer_flux.apply_rotary_emb = flux.rotate
        embeddings.get_timestep_embedding = flux.sinusoids
        true = step(folder, torch.float64)
    norm = out.norm()
    data = {"out": out.float().contiguous(), "f32": ((true - out).norm() / norm).float().reshape(1),
            "bf16": ((half - out).norm() / norm).float().reshape(1)}
    print("rms", out.pow(2).mean().sqrt().item(), "f32", data["f32"].item(), "bf16", data["bf16"].item())
    save_file(data, path, {"format": "pt", "timestep": str(TIMESTEP), "guidance": str(GUIDANCE),
                           "made_by": "tools/ref/flux_full.py"})


main()
