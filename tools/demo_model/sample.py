"""Pictures from the exported model through diffusers' own classes; the yardstick for dlens.

    python sample.py --out FOLDER                    the held-out captions (then: python score.py FOLDER)
    python sample.py --out FOLDER --layer 3          the same from hidden state 3 through the final norm
    python sample.py --sheet SHEET.png --prompt "a red circle" ...    lens sheet: a row a prompt, a column a layer
"""
import argparse
import json
import os

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from scenes import contact_sheet

HERE = os.path.dirname(os.path.abspath(__file__))


class Model:
    """The exported folder, in float32."""

    def __init__(self, folder, scheduler="ddim"):
        sub = lambda name: os.path.join(folder, name)  # noqa: E731
        self.tokenizer = CLIPTokenizer.from_pretrained(sub("tokenizer"))
        self.text = CLIPTextModel.from_pretrained(sub("text_encoder"), torch_dtype=torch.float32).eval()
        self.unet = UNet2DConditionModel.from_pretrained(sub("unet"), torch_dtype=torch.float32).eval()
        self.vae = AutoencoderKL.from_pretrained(sub("vae"), torch_dtype=torch.float32).eval()
        kind = {"ddim": DDIMScheduler, "pndm": PNDMScheduler}[scheduler]
        extra = {"skip_prk_steps": True} if scheduler == "pndm" else {}
        self.scheduler = kind.from_pretrained(sub("scheduler"), **extra)

    @torch.no_grad()
    def states(self, prompts, layer=None):
        """Text embeddings [n, length, width]; layer k: hidden state k through the final norm (None: the last)."""
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        out = self.text(ids.input_ids, output_hidden_states=True)
        if layer is None:
            return out.last_hidden_state
        body = getattr(self.text, "text_model", self.text)
        return body.final_layer_norm(out.hidden_states[layer])

    @torch.no_grad()
    def pictures(self, states, seeds, steps, guidance):
        """uint8 pictures, one for each row of states; starting noise from torch's CPU generator."""
        empty = self.states([""])
        size = self.unet.config.sample_size
        noise = [torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(s)) for s in seeds]
        latents = torch.cat(noise)
        both = torch.cat([empty.expand(len(seeds), -1, -1), states])
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            plain, told = self.unet(torch.cat([latents, latents]), t, both).sample.chunk(2)
            latents = self.scheduler.step(plain + guidance * (told - plain), t, latents).prev_sample
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        images = ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte()
        return list(images.permute(0, 2, 3, 1).numpy())

    def run(self, prompts, seeds, steps, guidance, layer=None, batch=20):
        images = []
        for at in range(0, len(prompts), batch):
            states = self.states(prompts[at : at + batch], layer)
            images += self.pictures(states, seeds[at : at + batch], steps, guidance)
        return images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.path.join(HERE, "model"))
    parser.add_argument("--out")
    parser.add_argument("--captions", default=os.path.join(HERE, "held_out.json"))
    parser.add_argument("--layer", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--scheduler", choices=("ddim", "pndm"), default="ddim")
    parser.add_argument("--every", type=int, default=1, help="only every n-th caption")
    parser.add_argument("--sheet", help="write a contact sheet")
    parser.add_argument("--prompt", action="append", help="for --sheet")
    parser.add_argument("--seed", type=int, default=0, help="for --prompt")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    model = Model(options.model, options.scheduler)
    if options.prompt:
        layers = model.text.config.num_hidden_layers + 1
        columns = []
        for layer in range(layers):
            seeds = [options.seed] * len(options.prompt)
            columns.append(model.run(options.prompt, seeds, options.steps, options.guidance, layer))
        images = [columns[k][i] for i in range(len(options.prompt)) for k in range(layers)]
        contact_sheet(images, layers, 3).save(options.sheet)
        return
    with open(options.captions) as f:
        entries = json.load(f)[:: options.every]
    images = model.run(
        [e["caption"] for e in entries], [e["seed"] for e in entries], options.steps, options.guidance, options.layer
    )
    if options.out:
        os.makedirs(options.out, exist_ok=True)
        for entry, image in zip(entries, images):
            Image.fromarray(np.asarray(image)).save(os.path.join(options.out, f"{entry['id']:03d}.png"))
    if options.sheet:
        contact_sheet(images, 20, 2).save(options.sheet)


if __name__ == "__main__":
    main()
