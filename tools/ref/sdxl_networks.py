"""Reference activations of the tiny synthetic SDXL checkpoint: tests/parity/test_sdxl_networks.c.

  dlens synth --like sdxl --out DIR/sdxl
  python sdxl_networks.py DIR/sdxl tests/parity/data/sdxl.safetensors

As networks.py, with what SDXL has besides: two encoders (clip/, clip2/), for each layer k the lens as it is done in
SDXL (the state under the final norm takes the place of the last block but one's output: clip2/final.lens.k is the
normed last state that comes of it, clip2/final.pooled.k its pooled vector under the projection), a pooled vector for
each text and six sizes for the UNet.
"""
import sys

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

LIMIT = 5120
ROWS, TEXTS = 16, 4
SEED = 6
BLOCKS = ("resnets", "attentions", "downsamplers", "upsamplers")
TIMESTEPS = (901, 601, 301, 1)
SIZES = (72, 56, 3, 5, 70, 54)


def flat(x):
    """Channels last, flat; tokens stay as they are."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).reshape(-1).float()


def listen(model, names, taps, prefix):
    modules = dict(model.named_modules())
    for name in names:
        def note(_module, _args, output, name=name):
            taps[prefix + name] = output if torch.is_tensor(output) else output[0]
        modules[name].register_forward_hook(note)


def inner(model):
    """The level that has encoder and final_layer_norm; some versions of transformers have it under text_model."""
    return getattr(model, "text_model", model)


def clip_taps(folder, inputs, dtype):
    taps = {}
    for part, cls in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        model = cls.from_pretrained(folder, subfolder=part, torch_dtype=dtype).eval()
        prefix = "clip/" if part == "text_encoder" else "clip2/"
        ids = inputs["in.ids"].long()
        states = model(ids, output_hidden_states=True).hidden_states
        norm, layers = inner(model).final_layer_norm, inner(model).encoder.layers
        for k, h in enumerate(states):
            taps[f"{prefix}hidden_states.{k}"] = h
            taps[f"{prefix}final.{k}"] = norm(h)
        if part == "text_encoder":
            taps["clip/final.pooled"] = model(ids).pooler_output
            continue
        for k, h in enumerate(states):
            put = norm(h)
            hook = layers[-2].register_forward_hook(
                lambda _m, _a, out, put=put: put if torch.is_tensor(out) else (put,) + out[1:])
            out = model(ids, output_hidden_states=True)
            hook.remove()
            taps[f"clip2/final.lens.{k}"], taps[f"clip2/final.pooled.{k}"] = out.last_hidden_state, out.text_embeds
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
    added = {"text_embeds": inputs["in.pooled"].repeat(ROWS // TEXTS, 1).to(dtype),
             "time_ids": inputs["in.sizes"].repeat(ROWS, 1).to(dtype)}
    kept = {}
    for i, t in enumerate(TIMESTEPS):
        model(latent, t, text, added_cond_kwargs=added)
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
    g = torch.Generator().manual_seed(SEED)
    config = UNet2DConditionModel.load_config(folder, subfolder="unet")
    vocab = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").config.vocab_size
    pooled = CLIPTextModelWithProjection.from_pretrained(folder, subfolder="text_encoder_2").config.projection_dim
    ids = torch.randint(0, vocab - 2, (ROWS, 77), generator=g)
    ids[:, 0] = vocab - 2
    for i in range(ROWS):
        ids[i, 9 + 4 * i:] = vocab - 1
    return {
        "in.ids": ids.int(),
        "in.latent": torch.randn(ROWS, 18, 14, 4, generator=g),
        "in.text": torch.randn(TEXTS, 77, config["cross_attention_dim"], generator=g),
        "in.pooled": torch.randn(TEXTS, pooled, generator=g),
        "in.sizes": torch.tensor([SIZES], dtype=torch.float32),
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
    save_file(data, path, {"made_by": "tools/ref/sdxl_networks.py"})


main()
