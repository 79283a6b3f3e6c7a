"""Reference activations of the tiny synthetic checkpoints: tests/parity/test_sd_networks.c.

  for m in sd15 sd21; do
    dlens synth --like $m --out DIR/$m
    python networks.py DIR/$m tests/parity/data/$m.safetensors
  done

Runs text encoder, UNet and VAE decoder of diffusers and transformers on fixed inputs, in float32 with one thread, and again in
bfloat16. Stored:
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

LIMIT = 5120
TIMESTEPS = (901, 1)


def flat(x):
    """Channels last, flat; tokens stay as they are."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).reshape(-1).float()


def first(output):
    return output if torch.is_tensor(output) else output[0]


def listen(model, names, taps, prefix):
    """Hooks that note the outputs of the named modules, of each call's last use."""
    modules = dict(model.named_modules())
    for name in names:
        def note(_module, _args, output, name=name):
            taps[prefix + name] = first(output)
        modules[name].register_forward_hook(note)


def clip_taps(folder, inputs, dtype):
    model = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", torch_dtype=dtype).eval()
    out = model(inputs["in.ids"].long(), output_hidden_states=True)
    taps = {f"clip/hidden_states.{k}": h for k, h in enumerate(out.hidden_states)}
    final = dict(model.named_modules()).get("final_layer_norm") or model.text_model.final_layer_norm
    for k, h in enumerate(out.hidden_states):
        taps[f"clip/final.{k}"] = final(h)
    return taps


def unet_taps(folder, inputs, dtype):
    """Both timesteps; of the first all blocks, of the second the output alone."""
    model = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype).eval()
    names = [n for n, _ in model.named_modules() if n in ("conv_in", "conv_out")
             or (n.count(".") in (2, 3) and n.split(".")[-2] in ("resnets", "attentions", "downsamplers", "upsamplers"))]
    taps = {}
    listen(model, names, taps, "unet/")
    latent = inputs["in.latent"][inputs["in.lat_row"].long()].permute(0, 3, 1, 2).contiguous().to(dtype)
    text = inputs["in.text"][inputs["in.kv_row"].long()].to(dtype)
    model(latent, TIMESTEPS[0], text)
    kept = dict(taps)
    kept["unet/step.0"] = kept.pop("unet/conv_out")
    model(latent, TIMESTEPS[1], text)
    kept["unet/step.1"] = taps["unet/conv_out"]
    return kept


def vae_taps(folder, inputs, dtype):
    model = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=dtype).eval()
    names = [n for n, _ in model.decoder.named_modules() if n in ("conv_in", "conv_out")
             or (n.count(".") in (2, 3) and n.split(".")[-2] in ("resnets", "attentions", "upsamplers"))]
    taps = {}
    listen(model, ["decoder." + n for n in names], taps, "vae/")
    z = inputs["in.z"].permute(0, 3, 1, 2).contiguous().to(dtype)
    model.decode(z / model.config.scaling_factor)
    return taps


def make_inputs(folder):
    """A latent that halves to odd sizes on the way down, and every pair of two latents and two texts."""
    g = torch.Generator().manual_seed(5)
    config = UNet2DConditionModel.load_config(folder, subfolder="unet")
    vocab = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").config.vocab_size
    ids = torch.randint(0, vocab - 2, (2, 77), generator=g)
    ids[:, 0] = vocab - 2
    ids[0, 9:] = vocab - 1
    ids[1, 40:] = vocab - 1
    return {
        "in.ids": ids.int(),
        "in.latent": torch.randn(2, 18, 14, 4, generator=g),
        "in.text": torch.randn(2, 77, config["cross_attention_dim"], generator=g),
        "in.lat_row": torch.tensor([0, 0, 1, 1], dtype=torch.int32),
        "in.kv_row": torch.tensor([0, 1, 0, 1], dtype=torch.int32),
        "in.timesteps": torch.tensor(TIMESTEPS, dtype=torch.float32),
        "in.z": torch.randn(2, 6, 5, 4, generator=g),
    }


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    data = make_inputs(folder)
    inputs = dict(data)
    with torch.no_grad():
        for taps in (clip_taps, unet_taps, vae_taps):
            full = {k: flat(v) for k, v in taps(folder, inputs, torch.float32).items()}
            half = {k: flat(v) for k, v in taps(folder, inputs, torch.bfloat16).items()}
            for name, x in full.items():
                step = 1 if x.numel() <= LIMIT else -(-x.numel() // LIMIT) | 1
                kept = x[::step].clone()
                data[name] = kept
                data["norm/" + name] = x.norm().reshape(1)
                data["bf16/" + name] = ((half[name][::step] - kept).norm() / kept.norm()).reshape(1)
                print(f"{name:50} {x.numel():8} rms {x.pow(2).mean().sqrt():.3f} bf16 {data['bf16/' + name].item():.2e}")
    save_file(data, path, {"format": "pt", "made_by": "tools/ref/networks.py"})


main()
