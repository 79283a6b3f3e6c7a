"""NNsight running the FLUX cell of its Diffusion Lens tutorial on the tiny synthetic checkpoint:
tests/parity/test_flux_nnsight.c.

  dlens synth --like flux --out DIR/flux
  python flux_nnsight.py DIR/flux tests/parity/data/nnsight_flux.safetensors

Needs the versions that the tutorial runs with as it is printed: nnsight 0.4.11, transformers 4.57.6, diffusers 0.35.2;
on the CPU, whose generator NNsight then seeds. Every second block of T5 up to the last but one, its output in place of
the last one's before T5's final norm, the empty prompt to CLIP, 1 step, guidance 0, seed 17; the size is smaller.
Stored: bBB, u8 [h][w][3].
"""
import sys

import nnsight
import numpy as np
import torch
from nnsight.modeling.diffusion import DiffusionModel
from safetensors.numpy import save_file

PROMPT = "Penguin playing chess at a wooden table in a snowy landscape."
SEED, WIDTH, HEIGHT = 17, 128, 96


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    model = DiffusionModel(folder, torch_dtype=torch.float32, dispatch=True)
    encoder = model.text_encoder_2.encoder
    blocks = model._model.text_encoder_2.config.num_layers
    data = {}
    for block in range(0, blocks - 1, 2):
        with torch.no_grad(), model.generate("", prompt_2=PROMPT, seed=SEED, num_inference_steps=1, guidance_scale=0,
                                             width=WIDTH, height=HEIGHT):
            encoder.final_layer_norm.input = encoder.block[block].output[0]
            images = model.output.images.save()
        data[f"b{block:02}"] = np.asarray(images[0])
        print(block, data[f"b{block:02}"].shape, data[f"b{block:02}"].mean(), flush=True)
    meta = {"prompt": PROMPT, "made_by": "tools/ref/flux_nnsight.py, nnsight " + nnsight.__version__}
    save_file(data, path, meta)


main()
