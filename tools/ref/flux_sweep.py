"""Whole lens sweeps of the tiny synthetic FLUX checkpoints by diffusers: tests/parity/test_flux_sweep.c.

  for m in flux flux-dev; do
    dlens synth --like $m --out DIR/$m
    python flux_sweep.py DIR/$m tests/parity/data/sweep_$m.safetensors
  done

The lens as the NNsight tutorial does it: the output of a block of T5, under T5's final norm unless that is off, is
what the transformer gets as text; CLIP gets the empty prompt. Studied itself, CLIP gives the pooled vector from state k
(the norm's row of the end token) and T5 gets the empty prompt. Both are fed to FluxPipeline. float32 with one thread,
noise of torch's CPU generator. Stored for every image CASE.kKK of the cases below (plain: the ordinary call with the
prompt as text):
  CASE.kKK.latents  f32 [c][h][w], the scheduler's last output, unpacked
  CASE.kKK.image    u8 [h][w][3]
and of the case "bf16", which starts from noise that was drawn in bfloat16:
  bf16.kKK.latents  f32 [c][h][w] of the float32 networks
  bf16.kKK.error    f32 [1], relative L2 error of PyTorch's bfloat16 pipeline from the same noise
"""
import sys

import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file

from refs import ALL, encode, inner, keep, keep_bf16, picture, seeded

PROMPT = "A red cat's painting in the dark house"
SEED = 17
# name: layers, how the prompt is looked at, what differs from the default call
CASES = {
    False: {
        "default": (ALL, {}, {}),
        "bare": (ALL, {"norm": False}, {}),
        "other": ((2,), {"other": PROMPT}, {}),
        "clip": (ALL, {"encoder": 0}, {}),
        "clip-other": ((2,), {"encoder": 0, "other": PROMPT, "norm": False}, {}),
        "steps": ((3,), {}, {"steps": 4}),
        "short": ((3,), {"tokens": 12}, {}),
        "wide": ((4,), {}, {"size": (112, 48)}),
    },
    True: {
        "default": ((0, 2, 4), {}, {"steps": 3}),
        "guided": ((2,), {}, {"steps": 3, "guidance": 1.5}),
        "unguided": ((2,), {}, {"steps": 3, "guidance": 0}),
        "large": ((3,), {}, {"size": (192, 128), "steps": 2}),  # 96 tokens: the schedule is shifted further
        "clip": ((0, 2, 4), {"encoder": 0}, {"steps": 2}),
    },
}


def states(pipe, which, text, tokens):
    """Ids and all states before the norm: embeddings, then the output of each block."""
    tokenizer = (pipe.tokenizer, pipe.tokenizer_2)[which]
    model = (pipe.text_encoder, pipe.text_encoder_2)[which]
    blocks = model.encoder.block if which else inner(model).encoder.layers
    seen, hooks = [], []
    for i, block in enumerate(blocks):
        if i == 0:
            hooks.append(block.register_forward_pre_hook(
                lambda _m, a, kw: seen.append(a[0] if a else kw["hidden_states"]), with_kwargs=True))
        hooks.append(block.register_forward_hook(lambda _m, _a, o: seen.append(o if torch.is_tensor(o) else o[0])))
    got = encode(tokenizer, text, tokens)
    model(got)
    for hook in hooks:
        hook.remove()
    return got, seen


def lens(pipe, k, encoder=1, norm=True, other="", tokens=512):
    """prompt_embeds and pooled_prompt_embeds for state k of the studied encoder."""
    text = [other, other]
    text[encoder] = PROMPT
    clip_ids, clip = states(pipe, 0, text[0], 77)
    _, t5 = states(pipe, 1, text[1], tokens)
    clip_norm, t5_norm = inner(pipe.text_encoder).final_layer_norm, pipe.text_encoder_2.encoder.final_layer_norm
    end = clip_ids[0].argmax()
    seen = clip[k if encoder == 0 else -1]
    pooled = (seen if encoder == 0 and not norm else clip_norm(seen))[:, end]
    seen = t5[k if encoder == 1 else -1]
    return {"prompt_embeds": seen if encoder == 1 and not norm else t5_norm(seen), "pooled_prompt_embeds": pooled}


def generate(pipe, text, dev, latents=None, guidance=None, size=(64, 48), steps=1):
    """Final latents [c][h][w] and the picture, u8 [h][w][3]."""
    width, height = size
    guidance = (3.5 if dev else 0.0) if guidance is None else guidance
    got = pipe(generator=seeded(SEED), num_inference_steps=steps, guidance_scale=guidance,
               latents=latents, width=width, height=height, output_type="latent", **text).images
    got = pipe._unpack_latents(got, height, width, pipe.vae_scale_factor)
    image = pipe.vae.decode(got / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor).sample
    return got[0].float(), picture(pipe, image)


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    pipe = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    dev = pipe.transformer.config.guidance_embeds
    blocks = (len(inner(pipe.text_encoder).encoder.layers), len(pipe.text_encoder_2.encoder.block))
    data = {}

    for name, (layers, look, options) in CASES[dev].items():
        every = range(blocks[look.get("encoder", 1)] + 1)
        for k in every if layers == ALL else layers:
            keep(data, f"{name}.k{k:02}", generate(pipe, lens(pipe, k, **look), dev, **options))
    keep(data, "plain", generate(pipe, {"prompt": PROMPT}, dev, steps=3 if dev else 1))

    if not dev:
        noise = torch.randn(1, 16, 6, 8, generator=seeded(SEED), dtype=torch.bfloat16)
        noise = pipe._pack_latents(noise, 1, 16, 6, 8)
        keep_bf16(data, pipe, blocks[1] + 1, lambda k: generate(
            pipe, lens(pipe, k), dev, latents=noise.to(pipe.dtype))[0])
    save_file(data, path, {"format": "pt", "made_by": "tools/ref/flux_sweep.py"})


main()
