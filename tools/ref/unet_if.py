"""Reference activations of the tiny DeepFloyd IF UNets: tests/parity/test_unet_if.c.

  DLENS_CHECKPOINTS=DIR build/tests/test_parity_unet_if        (makes the checkpoints; fails where data is absent)
  for m in if1 if2; do python unet_if.py DIR/$m tests/parity/data/$m.safetensors; done

Runs diffusers' UNet2DConditionModel in float64, float32 and bfloat16 with one thread. Stored:
  in.*         the inputs: latents (stage II: with the upscaled image), text states, timesteps, noise level
  NAME         a tap of the float64 run (named as dl_tap does in pipelines/unet_if*.c), channels last, flat: the whole
               when it has at most LIMIT elements, otherwise elements 0, s, 2s, ... with s = element count / LIMIT
               rounded up to an odd number; all taps in the first timestep, in the others the output alone
  norm/NAME    [1] L2 norm of the whole tap
  f32/NAME     [1] relative L2 error of PyTorch's float32 run against the float64 run, over the elements stored
  bf16/NAME    [1] the same of its bfloat16 run
"""
import sys

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from refs import flat, is_block, listen, stride

LIMIT = 2048
ROWS, TEXTS, TOKENS = 8, 4, 77
SEED = 6
ONCE = ("encoder_hid_proj", "add_embedding")  # of the texts alone
TIMESTEPS = (990, 560, 70, 0)
LEVEL = 250
SIZES = {3: (28, 12), 6: (24, 40)}  # by input channels: not square, odd at the bottom


def taps_of(folder, data, dtype):
    """Row i: latent i, text i mod TEXTS."""
    model = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype).eval()
    taps = {}
    listen(model, [n for n, _ in model.named_modules() if n in ("conv_in", *ONCE) or is_block(n)], taps, "unet/")
    latent = data["in.latent"].permute(0, 3, 1, 2).contiguous().to(dtype)
    text = data["in.text"].repeat(ROWS // TEXTS, 1, 1).to(dtype)
    level = torch.full((ROWS,), LEVEL) if model.config.class_embed_type else None
    kept = {}
    for i, t in enumerate(TIMESTEPS):
        out = model(latent, t, text, class_labels=level).sample
        kept = kept or dict(taps)
        kept[f"unet/step.{i}"] = out
    once = ["unet/" + n for n in ONCE]
    return {name: flat(x[:TEXTS] if name in once else x).double() for name, x in kept.items()}


def make_inputs(folder):
    g = torch.Generator().manual_seed(SEED)
    config = UNet2DConditionModel.load_config(folder, subfolder="unet")
    channels = config["in_channels"]
    return {
        "in.latent": torch.randn(ROWS, *SIZES[channels], channels, generator=g),
        "in.text": torch.randn(TEXTS, TOKENS, config["encoder_hid_dim"], generator=g),
        "in.timesteps": torch.tensor(TIMESTEPS, dtype=torch.float32),
        "in.level": torch.tensor([LEVEL], dtype=torch.float32),
    }


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    data = make_inputs(folder)
    with torch.no_grad():
        exact, single, half = (taps_of(folder, data, t) for t in (torch.float64, torch.float32, torch.bfloat16))
    for name, x in exact.items():
        step = stride(x.numel(), LIMIT)
        kept = x[::step]
        data[name] = kept.float()
        data["norm/" + name] = x.norm().reshape(1).float()
        for key, run in (("f32", single), ("bf16", half)):
            data[f"{key}/{name}"] = ((run[name][::step] - kept).norm() / kept.norm()).reshape(1).float()
        print(f"{name:50} {x.numel():8} rms {x.pow(2).mean().sqrt():.3f} f32 {data['f32/' + name].item():.2e} "
              f"bf16 {data['bf16/' + name].item():.2e}")
    save_file(data, path, {"made_by": "tools/ref/unet_if.py", "limit": str(LIMIT)})


main()
