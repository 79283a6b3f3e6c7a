"""NNsight running the SDXL cell of its Diffusion Lens tutorial on the tiny synthetic checkpoint:
tests/parity/test_sdxl_nnsight.c.

  dlens synth --like sdxl --out DIR/sdxl
  python sdxl_nnsight.py DIR/sdxl tests/parity/data/nnsight_sdxl.safetensors

Needs the versions that the tutorial runs with as it is printed (requirements_nnsight.txt: nnsight 0.4.11,
transformers 4.57.6, whose slow tokenizer cleans text with ftfy 6.3.1, diffusers 0.35.2); on the CPU, whose generator
NNsight then seeds. Every second block up to the last but one, the state of that block, normed or not, in place of the
last block but one's output in encoder 2, the empty prompt to encoder 1, 40 steps, seed 17. Stored: norm.bBB and
bare.bBB, u8 [h][w][3].
"""
import sys

import nnsight
import numpy as np
import torch
from nnsight.modeling.diffusion import DiffusionModel
from safetensors.numpy import save_file

# What ftfy repairs (an entity, a ligature, curly quotes) is in it.
PROMPT = "A few people are in the ocean &amp; splash\ufb01ng \u201caround\u201d"
SEED, STEPS = 17, 40


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    model = DiffusionModel(folder, torch_dtype=torch.float32, dispatch=True, add_watermarker=False)
    encoder = model.text_encoder_2.text_model
    blocks = model._model.text_encoder_2.config.num_hidden_layers
    data = {}
    for name, norm in (("norm", True), ("bare", False)):
        for block in range(0, blocks - 1, 2):
            with torch.no_grad(), model.generate("", prompt_2=PROMPT, seed=SEED, num_inference_steps=STEPS):
                state = encoder.encoder.layers[block].output[0]
                if norm:
                    state = encoder.final_layer_norm(state)
                encoder.encoder.layers[-2].output[0][:] = state
                images = model.output.images.save()
            data[f"{name}.b{block:02}"] = np.asarray(images[0])
            print(name, block, data[f"{name}.b{block:02}"].shape, data[f"{name}.b{block:02}"].mean(), flush=True)
    meta = {"prompt": PROMPT, "made_by": "tools/ref/sdxl_nnsight.py, nnsight " + nnsight.__version__}
    save_file(data, path, meta)


main()
