"""Reference activations of the tiny synthetic checkpoints: tests/parity/test_sd_networks.c.

  for m in sd15 sd21; do
    dlens synth --like $m --out DIR/$m
    python networks.py DIR/$m tests/parity/data/$m.safetensors
  done

Runs text encoder, UNet and VAE decoder of diffusers and transformers on fixed inputs, in float32 with one thread, and
again in bfloat16. Stored:
  in.*         the inputs
  NAME         a tap (named as dl_tap does in pipelines/*.c), channels last, flat: the whole when it has at most LIMIT
               elements, otherwise elements 0, s, 2s, ... with s = element count / LIMIT rounded up to an odd number
  norm/NAME    [1] L2 norm of the whole tap
  bf16/NAME    [1] relative L2 error of PyTorch's bfloat16 run against the float32 run, over the elements stored
"""
import sys

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from refs import flat, inner, is_block, listen, stride

LIMIT = 5120
ROWS, TEXTS = 16, 4
TIMESTEPS = (901, 601, 301, 1)


def clip_taps(folder, inputs, dtype):
    model = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", torch_dtype=dtype).eval()
    out = model(inputs["in.ids"].long(), output_hidden_states=True)
    taps = {f"clip/hidden_states.{k}": h for k, h in enumerate(out.hidden_states)}
    for k, h in enumerate(out.hidden_states):
        taps[f"clip/final.{k}"] = inner(model).final_layer_norm(h)
    return taps


def unet_taps(folder, inputs, dtype, **more):
    """All blocks in the first timestep, in the others the output alone. Row i: latent i, text i mod TEXTS. more: what
    else the network takes."""
    model = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype).eval()
    names = [n for n, _ in model.named_modules() if n in ("conv_in", "conv_out") or is_block(n)]
    taps = {}
    listen(model, names, taps, "unet/")
    latent = inputs["in.latent"].permute(0, 3, 1, 2).contiguous().to(dtype)
    text = inputs["in.text"].repeat(ROWS // TEXTS, 1, 1).to(dtype)
    kept = {}
    for i, t in enumerate(TIMESTEPS):
        model(latent, t, text, **more)
        out = taps.pop("unet/conv_out")
        kept = kept or dict(taps)
        kept[f"unet/step.{i}"] = out
    return kept


def vae_taps(folder, inputs, dtype):
    model = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=dtype).eval()
    names = [n for n, _ in model.decoder.named_modules() if n in ("conv_in", "conv_out") or is_block(n)]
    taps = {}
    listen(model, ["decoder." + n for n in names], taps, "vae/")
    z = inputs["in.z"].permute(0, 3, 1, 2).contiguous().to(dtype)
    model.decode(z / model.config.scaling_factor)
    return taps


def make_inputs(folder, g):
    """Prompts of 8 tokens and more, a latent that halves to odd sizes on the way down. Many rows, because
    what bf16 loses hangs on a few tokens of each."""
    config = UNet2DConditionModel.load_config(folder, subfolder="unet")
    vocab = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").config.vocab_size
    ids = torch.randint(0, vocab - 2, (ROWS, 77), generator=g)
    ids[:, 0] = vocab - 2
    for i in range(ROWS):
        ids[i, 9 + 4 * i:] = vocab - 1
    return {
        "in.ids": ids.int(),
        "in.latent": torch.randn(ROWS, 18, 14, 4, generator=g),
        "in.text": torch.randn(TEXTS, 77, config["cross_attention_dim"], generator=g),
        "in.timesteps": torch.tensor(TIMESTEPS, dtype=torch.float32),
    }


def last_input(data, g):
    return data | {"in.z": torch.randn(ROWS, 6, 5, 4, generator=g)}


def write(path, data, networks, folder, made_by):
    """data, and the taps of all networks."""
    torch.set_num_threads(1)
    inputs = dict(data)
    with torch.no_grad():
        for taps in networks:
            full = {k: flat(v).float() for k, v in taps(folder, inputs, torch.float32).items()}
            half = {k: flat(v).float() for k, v in taps(folder, inputs, torch.bfloat16).items()}
            for name, x in full.items():
                step = stride(x.numel(), LIMIT)
                kept = x[::step].clone()
                data[name] = kept
                data["norm/" + name] = x.norm().reshape(1)
                data["bf16/" + name] = ((half[name][::step] - kept).norm() / kept.norm()).reshape(1)
                rms, error = x.pow(2).mean().sqrt(), data["bf16/" + name].item()
                print(f"{name:50} {x.numel():8} rms {rms:.3f} bf16 {error:.2e}")
    save_file(data, path, {"made_by": made_by})


def main():
    folder, path = sys.argv[1:]
    g = torch.Generator().manual_seed(5)
    data = last_input(make_inputs(folder, g), g)
    write(path, data, (clip_taps, unet_taps, vae_taps), folder, "tools/ref/networks.py")


if __name__ == "__main__":
    main()
