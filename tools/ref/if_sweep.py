"""Whole lens sweeps of the tiny synthetic DeepFloyd IF checkpoints by diffusers: tests/parity/test_if_sweep.c.

  for m in if if2; do dlens synth --like $m --out DIR/$m; done
  python if_sweep.py DIR tests/parity/data/sweep_if.safetensors

The lens as the NNsight tutorial does it: while IFPipeline encodes the prompt, the output of a T5 block takes the place of
final_layer_norm's input (norm off: of its output too); the negative prompt, encoded after it, is left alone. float32 with
one thread, noise of torch's CPU generator, 8 steps. IFSuperResolutionPipeline is fed the small picture as it comes out of
the sampler and the same embeddings, 6 steps, a generator of its own. Beautiful Soup and ftfy are installed: captions are
cleaned unless a case says otherwise. Stored for every image CASE.kKK of the cases below (CASE.plain: no hook):
  CASE.kKK.latents  f32 [c][h][w], the scheduler's last output of the last stage; stage II: elements 0, 7, 14, ... alone
  CASE.kKK.image    u8 [h][w][3] of the last stage
and of the case "bf16", which takes noise that is drawn in bfloat16:
  bf16.kKK.latents  f32 [c][h][w] of the float32 networks
  bf16.kKK.error    f32 [1], relative L2 error of PyTorch's bfloat16 pipeline with the same noise
"""
import sys

import torch
from diffusers import DPMSolverMultistepScheduler, IFPipeline, IFSuperResolutionPipeline
from diffusers.pipelines.deepfloyd_if import pipeline_if
from diffusers.schedulers import scheduling_ddpm
from safetensors.torch import save_file

from refs import keep, keep_bf16, seeded

PROMPT = 'Hello! A "GIRAFFE" in a big house,a 4x4 (red) car & the ocean'
SEED, STEPS, UP_SEED, UP_STEPS = 17, 8, 42, 6
THIN = 7  # of stage II's latents
# name: layers, what differs from the default call
CASES = {
    "default": (None, {}),
    "bare": (None, {"norm": False}),
    "unguided": ((2,), {"guidance": 1.0}),
    "negative": ((3,), {"negative": "a house"}),
    "raw": ((4,), {"clean": False}),
    "dpm": ((2,), {"scheduler": DPMSolverMultistepScheduler}),
    "wide": ((2,), {"size": (24, 16)}),
    "sequential": ((3, 0, 2), {"sequential": True}),
    "up": ((0, 2, 4), {"up": {"seed": UP_SEED}}),
    "up-wide": ((3,), {"size": (24, 8), "up": {"seed": SEED, "guidance": 1.0}}),
}


def lens(pipe, k, norm, clean, negative):
    """prompt_embeds and negative_prompt_embeds; k None: the ordinary ones."""
    encoder = pipe.text_encoder.encoder
    taken, hooks = [], []
    if k is not None:
        def take(_module, _args, out):
            taken.append(out if torch.is_tensor(out) else out[0])
        hooks.append((encoder.block[k - 1] if k else encoder.embed_tokens).register_forward_hook(take))
        # The first call is the prompt's, the second the negative's.
        hooks.append(encoder.final_layer_norm.register_forward_pre_hook(
            lambda _m, args: (taken[0],) if len(taken) == 1 else args))
        if not norm:
            hooks.append(encoder.final_layer_norm.register_forward_hook(
                lambda _m, _a, out: taken[0] if len(taken) == 1 else out))
    embeds = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=True, negative_prompt=negative,
                                clean_caption=clean)
    for h in hooks:
        h.remove()
    return embeds


def generate(pipe, upscaler, generator, k, norm=True, clean=True, negative=None, guidance=7.0, size=None,
             scheduler=None, sequential=False, up=None):
    """Final latents [c][h][w] and the picture, u8 [h][w][3]. Sizes of diffusers are (height, width), `size` is not."""
    before = pipe.scheduler
    if scheduler:
        pipe.scheduler = scheduler.from_config(before.config)
    positive, other = lens(pipe, k, norm, clean, negative)
    width, height = size or (None, None)
    text = {"prompt_embeds": positive}
    got = pipe(**text, negative_prompt_embeds=other if guidance > 1 else None, generator=generator,
               num_inference_steps=STEPS, guidance_scale=guidance, width=width, height=height,
               output_type="pt").images
    pipe.scheduler = before
    if up:
        guidance = up.get("guidance", 4.0)
        got = upscaler(image=got, **text, negative_prompt_embeds=other if guidance > 1 else None,
                       generator=seeded(up["seed"]), num_inference_steps=UP_STEPS,
                       guidance_scale=guidance, height=4 * got.shape[2], width=4 * got.shape[3], noise_level=250,
                       output_type="pt").images
    pixels = (got / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().numpy()[0]
    return got[0].float(), torch.from_numpy((pixels * 255).round().astype("uint8"))


def bf16_noise():
    """Makes the float32 pipeline draw its noise in bfloat16."""
    for module in (pipeline_if, scheduling_ddpm):
        draw = module.randn_tensor
        module.randn_tensor = lambda *a, dtype=None, draw=draw, **k: draw(*a, dtype=torch.bfloat16, **k).to(dtype)


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    none = dict(safety_checker=None, watermarker=None, feature_extractor=None, torch_dtype=torch.float32)
    pipe = IFPipeline.from_pretrained(folder + "/if", **none)
    upscaler = IFSuperResolutionPipeline.from_pretrained(folder + "/if2", **none)
    for p in (pipe, upscaler):
        p.set_progress_bar_config(disable=True)
    blocks = len(pipe.text_encoder.encoder.block)
    data = {}

    for name, (layers, options) in CASES.items():
        generator = seeded(SEED)
        for k in layers or range(blocks + 1):
            generator = generator if options.get("sequential") else seeded(SEED)
            keep(data, f"{name}.k{k:02}", generate(pipe, upscaler, generator, k, **options),
                 THIN if "up" in options else 0)
    # The ordinary call, nothing prepared.
    got = pipe(PROMPT, generator=seeded(SEED), num_inference_steps=STEPS, output_type="pt").images[0]
    keep(data, "default.plain", (got, generate(pipe, upscaler, seeded(SEED), None)[1]))

    bf16_noise()
    keep_bf16(data, pipe, blocks + 1, lambda k: generate(pipe, upscaler, seeded(SEED), k, guidance=1.0)[0])
    save_file(data, path, {"format": "pt", "made_by": "tools/ref/if_sweep.py"})


main()
