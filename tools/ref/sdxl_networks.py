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
from transformers import CLIPTextModel, CLIPTextModelWithProjection

import networks
from networks import ROWS, TEXTS
from refs import inner

SIZES = (72, 56, 3, 5, 70, 54)


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
    added = {"text_embeds": inputs["in.pooled"].repeat(ROWS // TEXTS, 1).to(dtype),
             "time_ids": inputs["in.sizes"].repeat(ROWS, 1).to(dtype)}
    return networks.unet_taps(folder, inputs, dtype, added_cond_kwargs=added)


def main():
    folder, path = sys.argv[1:]
    g = torch.Generator().manual_seed(6)
    pooled = CLIPTextModelWithProjection.from_pretrained(folder, subfolder="text_encoder_2").config.projection_dim
    data = networks.make_inputs(folder, g)
    data["in.pooled"] = torch.randn(TEXTS, pooled, generator=g)
    data["in.sizes"] = torch.tensor([SIZES], dtype=torch.float32)
    data = networks.last_input(data, g)
    networks.write(path, data, (clip_taps, unet_taps, networks.vae_taps), folder, "tools/ref/sdxl_networks.py")


main()
