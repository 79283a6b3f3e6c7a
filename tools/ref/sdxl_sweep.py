"""Whole lens sweeps of the tiny synthetic SDXL checkpoint by diffusers: tests/parity/test_sdxl_sweep.c.

  dlens synth --like sdxl --out DIR/sdxl
  python sdxl_sweep.py DIR/sdxl tests/parity/data/sweep_sdxl.safetensors

The lens as the NNsight tutorial does it: the state of the studied encoder, under its final norm unless that is off,
takes the place of the last block but one's output (a forward hook), so that in encoder 2 the last block and the pooled
vector are computed from it; the other encoder gets the empty prompt. The embeddings are fed to
StableDiffusionXLPipeline, which encodes negative prompts itself (zeros where there is none). float32 with one thread,
noise of torch's CPU generator, 6 steps. Stored for every image CASE.kKK of the cases below (CASE.plain: the ordinary
call with the prompt as text):
  CASE.kKK.latents  f32 [c][h][w], the scheduler's last output
  CASE.kKK.image    u8 [h][w][3]
and of the case "bf16", which starts from noise that was drawn in bfloat16:
  bf16.kKK.latents  f32 [c][h][w] of the float32 networks
  bf16.kKK.error    f32 [1], relative L2 error of PyTorch's bfloat16 pipeline from the same noise
"""
import sys

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline
from safetensors.torch import save_file

from refs import ALL, encode, inner, keep, keep_bf16, picture, seeded

PROMPT = "Hello! A giraffe in a house"
SEED, STEPS = 17, 6
# name: layers, how the prompt is looked at, what differs from the default call
CASES = {
    "default": (ALL, {}, {}),
    "bare": (ALL, {"norm": False}, {}),
    "other": ((2,), {"other": PROMPT}, {}),
    "full": ((2,), {"pooled": "full"}, {}),
    "empty": ((2,), {"pooled": "empty"}, {}),
    "first": (ALL, {"encoder": 0}, {}),
    "first-other": ((2,), {"encoder": 0, "other": PROMPT, "norm": False}, {}),
    "both": (ALL, {"both": True}, {}),
    "negative": ((3,), {}, {"negative": "a house"}),
    "blank": ((3,), {}, {"negative": ""}),
    "unguided": ((1,), {}, {"guidance": 1.0}),
    "dpm": ((2,), {}, {"scheduler": DPMSolverMultistepScheduler}),
    "told": ((3,), {}, {"size": (96, 64), "original": (100, 200), "crop": (5, 3), "target": (60, 90)}),
    "odd": ((3,), {}, {"size": (72, 56)}),
}


def states(pipe, which, text):
    tokenizer, encoder = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))[which]
    return encoder(encode(tokenizer, text), output_hidden_states=True)


def pooled_from(pipe, text, put):
    """Encoder 2's pooled vector where `put` is the last block but one's output."""
    layer = inner(pipe.text_encoder_2).encoder.layers[-2]
    hook = layer.register_forward_hook(lambda _m, _a, out: put if torch.is_tensor(out) else (put,) + out[1:])
    out = states(pipe, 1, text).text_embeds
    hook.remove()
    return out


def seen_through(pipe, which, k, norm):
    state = states(pipe, which, PROMPT).hidden_states[k]
    return inner((pipe.text_encoder, pipe.text_encoder_2)[which]).final_layer_norm(state) if norm else state


def lens(pipe, k, encoder=1, norm=True, other="", pooled="lens", both=False):
    """prompt_embeds and pooled_prompt_embeds for state k of the studied encoder; both: and of encoder 1 at the same
    depth, the last but one beside the last but one."""
    text = [PROMPT, PROMPT]
    text[1 - encoder] = other
    seen = [states(pipe, q, text[q]).hidden_states[-2] for q in (0, 1)]
    seen[encoder] = seen_through(pipe, encoder, k, norm)
    if both:
        seen[0] = seen_through(pipe, 0, (0, 1, 2, 2, 3, 4)[k], norm)
    if encoder == 1 and pooled == "lens":
        vector = pooled_from(pipe, PROMPT, seen[1])
    else:
        vector = states(pipe, 1, "" if pooled == "empty" else text[1]).text_embeds
    return {"prompt_embeds": torch.cat(seen, dim=-1), "pooled_prompt_embeds": vector}


def generate(pipe, text, latents=None, guidance=5.0, negative=None, size=None, scheduler=None, original=None,
             crop=(0, 0), target=None):
    """Final latents [c][h][w] and the picture, u8 [h][w][3]. Sizes of diffusers are (height, width), `size` is not."""
    before = pipe.scheduler
    if scheduler:
        pipe.scheduler = scheduler.from_config(before.config)
    width, height = size or (None, None)
    more = {}
    if negative is not None:
        (_, no_embeds, _, no_pooled) = pipe.encode_prompt(prompt=PROMPT, negative_prompt=negative)
        more = {"negative_prompt_embeds": no_embeds, "negative_pooled_prompt_embeds": no_pooled}
    elif "prompt_embeds" in text and guidance > 1:
        more = {"negative_prompt_embeds": torch.zeros_like(text["prompt_embeds"]),
                "negative_pooled_prompt_embeds": torch.zeros_like(text["pooled_prompt_embeds"])}
    got = pipe(generator=seeded(SEED), num_inference_steps=STEPS, guidance_scale=guidance,
               latents=latents, width=width, height=height, output_type="latent", original_size=original,
               crops_coords_top_left=crop, target_size=target, **text, **more).images
    image = pipe.vae.decode(got / pipe.vae.config.scaling_factor).sample
    pipe.scheduler = before
    return got[0].float(), picture(pipe, image)


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    blocks = [len(inner(m).encoder.layers) for m in (pipe.text_encoder, pipe.text_encoder_2)]
    data = {}

    for name, (layers, look, options) in CASES.items():
        every = range(blocks[look.get("encoder", 1)] + 1)
        for k in every if layers == ALL else layers:
            keep(data, f"{name}.k{k:02}", generate(pipe, lens(pipe, k, **look), **options))
    keep(data, "default.plain", generate(pipe, {"prompt": PROMPT}))
    keep(data, "blank.plain", generate(pipe, {"prompt": PROMPT, "negative_prompt": ""}))

    side = pipe.unet.config.sample_size
    noise = torch.randn(1, 4, side, side, generator=seeded(SEED), dtype=torch.bfloat16)
    keep_bf16(data, pipe, blocks[1] + 1, lambda k: generate(pipe, lens(pipe, k), latents=noise.to(pipe.dtype))[0])
    save_file(data, path, {"format": "pt", "made_by": "tools/ref/sdxl_sweep.py"})


main()
