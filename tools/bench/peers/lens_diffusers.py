"""A lens sweep of Stable Diffusion 1.x or 2.x by diffusers, timed; one way of doing it per call.

    python lens_diffusers.py MODEL --way loop|batched|compiled --out LATENTS.safetensors [--layers 1:13] [--steps 50]
           [--guidance 7.5] [--size WxH] [--seed 17] [--prompt TEXT] [--dtype f32|f16|bf16] [--device cpu|cuda]
           [--threads N] [--repeats 2]

  loop      the tutorial's way: one full pipeline call for each layer, the text encoder included; a hook feeds the
            chosen layer's hidden state to the encoder's final norm (what an NNsight trace does there, without NNsight's
            own overhead)
  batched   the encoder once, all layers as one batch of prompt_embeds
  compiled  the same with UNet and VAE decoder under torch.compile (max-autotune) in channels_last

Prints one JSON object: seconds of each repeat from text to pixels (after a warm-up of two steps, and for compiled of a
whole run, whose time is "compile_s"), the versions, the peak of memory. The file has the final latents of every layer,
kKK [c][h][w]. Every image starts from torch's noise of --seed.
Versions: see ../../ref/requirements.txt.
"""
import argparse
import json
import resource
import statistics
import time

import diffusers
import torch
from safetensors.torch import save_file

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Sweep:
    def __init__(self, args):
        self.args = args
        self.device = torch.device(args.device)
        self.dtype = DTYPES[args.dtype]
        self.pipe = diffusers.StableDiffusionPipeline.from_pretrained(args.model, torch_dtype=self.dtype).to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        encoder = self.pipe.text_encoder
        inner = getattr(encoder, "text_model", encoder)
        self.blocks, self.norm = inner.encoder.layers, inner.final_layer_norm
        self.embeddings = inner.embeddings
        first, last = (int(v) for v in args.layers.split(":")) if args.layers else (1, len(self.blocks) + 1)
        self.layers = list(range(first, last))
        side = self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor
        self.width, self.height = (int(v) for v in args.size.split("x")) if args.size else (side, side)

    def generator(self):
        return torch.Generator(self.device).manual_seed(self.args.seed)

    def options(self, steps):
        return {"num_inference_steps": steps, "guidance_scale": self.args.guidance, "width": self.width,
                "height": self.height, "output_type": "latent"}

    def decode(self, latents):
        return self.pipe.vae.decode(latents / self.pipe.vae.config.scaling_factor).sample

    def loop(self, steps):
        out, state = [], {}

        def keep(module, inputs, output):
            state["h"] = output[0] if isinstance(output, tuple) else output

        for k in self.layers:
            source = self.embeddings if k == 0 else self.blocks[k - 1]
            # The negative prompt is encoded by a second pass, which stays as it is.
            calls = {"n": 0}

            def feed_first(module, inputs):
                calls["n"] += 1
                return (state["h"],) if calls["n"] == 1 else None

            hooks = [source.register_forward_hook(keep), self.norm.register_forward_pre_hook(feed_first)]
            latents = self.pipe(self.args.prompt, generator=self.generator(), **self.options(steps)).images
            for hook in hooks:
                hook.remove()
            self.decode(latents).cpu()
            out.append(latents[0])
        return out

    def states(self):
        ids = self.pipe.tokenizer(self.args.prompt, padding="max_length", truncation=True, return_tensors="pt",
                                  max_length=self.pipe.tokenizer.model_max_length).input_ids.to(self.device)
        hidden = self.pipe.text_encoder(ids, output_hidden_states=True).hidden_states
        return torch.cat([self.norm(hidden[k]) for k in self.layers])

    def batched(self, steps):
        n = len(self.layers)
        unet, factor = self.pipe.unet.config, self.pipe.vae_scale_factor
        shape = (1, unet.in_channels, self.height // factor, self.width // factor)
        noise = torch.randn(shape, generator=self.generator(), device=self.device, dtype=self.dtype)
        latents = self.pipe(prompt_embeds=self.states(), latents=noise.repeat(n, 1, 1, 1), **self.options(steps)).images
        for i in range(n):  # one at a time, as memory wants it
            self.decode(latents[i:i + 1]).cpu()
        return list(latents)

    def compile(self):
        mode = "max-autotune" if self.device.type == "cuda" else "max-autotune-no-cudagraphs"
        self.pipe.unet.to(memory_format=torch.channels_last)
        self.pipe.vae.to(memory_format=torch.channels_last)
        self.pipe.unet = torch.compile(self.pipe.unet, mode=mode)
        self.pipe.vae.decoder = torch.compile(self.pipe.vae.decoder, mode=mode)

    def run(self, steps):
        out = self.loop(steps) if self.args.way == "loop" else self.batched(steps)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--way", required=True, choices=["loop", "batched", "compiled"])
    parser.add_argument("--out", required=True)
    parser.add_argument("--layers")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--size")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--prompt", default="A few people are in the ocean splashing around")
    parser.add_argument("--dtype", default="f32", choices=list(DTYPES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    result = {"way": args.way, "torch": torch.__version__, "diffusers": diffusers.__version__,
              "threads": torch.get_num_threads(), "device": args.device}
    start = time.perf_counter()
    sweep = Sweep(args)
    result["load_s"] = time.perf_counter() - start
    start = time.perf_counter()
    if args.way == "compiled":
        sweep.compile()
        sweep.run(args.steps)
        result["compile_s"] = time.perf_counter() - start
    else:
        sweep.run(2)
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        latents = sweep.run(args.steps)
        seconds.append(time.perf_counter() - start)
    save_file({f"k{k:02}": v.float().contiguous().cpu() for k, v in zip(sweep.layers, latents)}, args.out)
    result.update(images=len(sweep.layers), seconds=[round(s, 4) for s in seconds], seconds_median=statistics.median(seconds),
                  seconds_min=min(seconds), size=f"{sweep.width}x{sweep.height}",
                  peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    if args.device == "cuda":
        result.update(gpu=torch.cuda.get_device_name(), peak_gpu_bytes=torch.cuda.max_memory_allocated())
    print(json.dumps(result))


main()
