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

LIMIT = 5120
ROWS, TEXTS = 16, 4
SEED = 5
BLOCKS = ("resnets", "attentions", "downsamplers", "upsamplers")
TIMESTEPS = (901, 601, 301, 1)


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
    """All blocks in the first timestep, in the others the output alone. Row i: latent i, text i mod TEXTS."""
    model = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype).eval()
    names = [n for n, _ in model.named_modules() if n in ("conv_in", "conv_out")
             or (n.count(".") in (2, 3) and n.split(".")[-2] in BLOCKS)]
    taps = {}
    listen(model, names, taps, "unet/")
    latent = inputs["in.latent"].permute(0, 3, 1, 2).contiguous().to(dtype)
    text = inputs["in.text"].repeat(ROWS // TEXTS, 1, 1).to(dtype)
    kept = {}
    for i, t in enumerate(TIMESTEPS):
        model(latent, t, text)
        out = taps.pop("unet/conv_out")
        kept = kept or dict(taps)
        kept[f"unet/step.{i}"] = out
    return kept


def vae_taps(folder, inputs, dtype):
    model = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=dtype).eval()
    names = [n for n, _ in model.decoder.named_modules() if n in ("conv_in", "conv_out")
             or (n.count(".") in (2, 3) and n.split(".")[-2] in BLOCKS)]
    taps = {}
    listen(model, ["decoder." + n for n in names], taps, "vae/")
    z = inputs["in.z"].permute(0, 3, 1, 2).contiguous().to(dtype)
    model.decode(z / model.config.scaling_factor)
    return taps


def make_inputs(folder):
    """Prompts of 8 tokens and more, a latent that halves to odd sizes on the way down. Many rows, because
    what bf16 loses hangs on a few tokens of each."""
    g = torch.Generator().manual_seed(SEED)
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
        "in.z": torch.randn(ROWS, 6, 5, 4, generator=g),
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
                rms, error = x.pow(2).mean().sqrt(), data["bf16/" + name].item()
                print(f"{name:50} {x.numel():8} rms {rms:.3f} bf16 {error:.2e}")
    save_file(data, path, {"made_by": "tools/ref/networks.py"})


main()
