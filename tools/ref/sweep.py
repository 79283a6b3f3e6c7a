"""Whole lens sweeps of the tiny synthetic checkpoints by diffusers: tests/parity/test_sweep.c and test_lens.c.

  for m in sd15 sd21; do
    dlens synth --like $m --out DIR/$m
    python sweep.py DIR/$m tests/parity/data/sweep_$m.safetensors
  done

The lens is done as in the NNsight tutorial: hidden_states[k] of the prompt under the encoder's final norm is fed to
StableDiffusionPipeline as prompt_embeds; the negative prompt is encoded by the pipeline itself. float32 with one thread,
noise of torch's CPU generator, 10 steps. Stored for every image CASE.kKK of the cases below (k = "plain": the
ordinary call with the prompt as text):
  CASE.kKK.latents  f32 [c][h][w], the scheduler's last output
  CASE.kKK.image    u8 [h][w][3]
and of the case "bf16", which starts from noise that was drawn in bfloat16:
  bf16.kKK.latents  f32 [c][h][w] of the float32 networks
  bf16.kKK.error    f32 [1], relative L2 error of PyTorch's bfloat16 pipeline from the same noise
"""
import sys

import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline)
from safetensors.torch import save_file

from refs import ALL, encode, inner, keep, keep_bf16, picture, seeded

PROMPTS = {"sd15": "A few people are in the ocean splashing around", "sd21": "Hello! A giraffe in a house"}
SEED, STEPS = 17, 10
# name: layers, what differs from the default call
CASES = {
    "default": (ALL, {}),
    "ddim": ((2,), {"scheduler": DDIMScheduler}),
    "euler": ((2,), {"scheduler": EulerDiscreteScheduler}),
    "dpm": ((2,), {"scheduler": DPMSolverMultistepScheduler}),
    "unguided": ((1,), {"guidance": 1.0}),
    "negative": ((3,), {"negative": "a house"}),
    "wide": ((2,), {"size": (96, 64)}),
    "odd": ((3,), {"size": (72, 56)}),
    "tiled": ((2,), {"tile": 8, "size": (64, 64)}),
    "slivers": ((2,), {"tile": 20, "size": (96, 64)}),  # latents of 24 x 16: a last row of tiles one pixel high
}


def lens(pipe, prompt):
    """hidden_states[k] under the final norm, for each k."""
    got = pipe.text_encoder(encode(pipe.tokenizer, prompt), output_hidden_states=True).hidden_states
    return [inner(pipe.text_encoder).final_layer_norm(h) for h in got]


def generate(pipe, latents=None, guidance=7.5, negative="", size=None, tile=0, scheduler=None, **text):
    """Final latents [c][h][w] and the picture, u8 [h][w][3]."""
    original = pipe.scheduler
    if scheduler:
        pipe.scheduler = scheduler.from_config(original.config)
    width, height = size or (None, None)
    got = pipe(generator=seeded(SEED), num_inference_steps=STEPS, guidance_scale=guidance, latents=latents,
               negative_prompt=negative if guidance > 1 else None, width=width, height=height, output_type="latent",
               **text).images
    if tile:
        pipe.vae.enable_tiling()
        pipe.vae.tile_latent_min_size = tile
        pipe.vae.tile_sample_min_size = tile * pipe.vae_scale_factor
    image = pipe.vae.decode(got / pipe.vae.config.scaling_factor).sample
    pipe.vae.disable_tiling()
    pipe.scheduler = original
    return got[0].float(), picture(pipe, image)


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    prompt = PROMPTS[folder.rstrip("/").split("/")[-1]]
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    states = lens(pipe, prompt)
    data = {}

    for name, (layers, options) in CASES.items():
        for k in range(len(states)) if layers == ALL else layers:
            keep(data, f"{name}.k{k:02}", generate(pipe, prompt_embeds=states[k], **options))
    keep(data, "default.plain", generate(pipe, prompt=prompt))

    side = pipe.unet.config.sample_size
    noise = torch.randn(1, 4, side, side, generator=seeded(SEED), dtype=torch.bfloat16)
    keep_bf16(data, pipe, len(states), lambda k: generate(
        pipe, latents=noise.to(pipe.dtype), prompt_embeds=lens(pipe, prompt)[k])[0])
    save_file(data, path, {"format": "pt", "made_by": "tools/ref/sweep.py"})


main()
