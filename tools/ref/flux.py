"""Reference activations of the tiny synthetic FLUX transformers: tests/parity/test_flux.c.

  python flux.py DIR/schnell/transformer tests/parity/data/flux_schnell.safetensors
  python flux.py DIR/dev/transformer     tests/parity/data/flux_dev.safetensors

(the folders as synth_flux_transformer writes them; `dlens synth --like flux` and `flux-dev`). Runs diffusers'
FluxTransformer2DModel on fixed inputs, in float32 with one thread, in float64 and in bfloat16. Row i has latent i and
text (and pooled vector) i % TEXTS. Stored:
  in.*         the inputs; in.packed is in.planes [c][h][w] packed by diffusers
  time.TYPE    what the sinusoids take for time.in (as timesteps) in this type, guide.TYPE for time.in as guidance
  NAME         a tap (named as dl_tap does in pipelines/flux.c), flat: the whole when it has at most LIMIT elements,
               otherwise elements 0, s, 2s, ... with s = element count / LIMIT rounded up to an odd number
  norm/NAME    [1] L2 norm of the whole tap
  f32/NAME     [1] relative L2 error of the float32 run against the float64 run, over the elements stored
  bf16/NAME    [1] the same of the bfloat16 run against the float32 run
"""
import math
import sys

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.models import embeddings
from diffusers.models.transformers import transformer_flux
from safetensors.torch import save_file

from refs import stride

LIMIT = 1200
ROWS, TEXTS, TOKENS = 8, 3, 13
HEIGHT, WIDTH = 5, 7  # of the packed latent
SEED = 11
TIMES = (1000.0, 500.0, 250.0, 125.0)  # these and the guidance are the same in bfloat16
GUIDANCE = 4.0


def rotate(x, turns, use_real=True, use_real_unbind_dim=-1, sequence_dim=2):
    """diffusers' own goes through float32; the float64 run shall not."""
    cos, sin = (t[None, :, None, :].double() for t in turns)
    real, imag = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return x * cos + torch.stack([-imag, real], dim=-1).flatten(3) * sin


def sinusoids(timesteps, channels, **_):
    """diffusers' own, in float32 operation by operation, but each function correctly rounded: torch's exponential is
    not everywhere, which times 1000 and more shows in the sine."""
    half = channels // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
    angle = (timesteps[:, None].float() * exponent.double().exp().float()[None]).double()
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def listen(model, taps):
    """Hooks that note what each call does; later calls overwrite."""
    modules = dict(model.named_modules())

    def out(name, key):
        modules[name].register_forward_hook(lambda _m, _a, o: taps.__setitem__(key, o))

    def into(name, key):
        modules[name].register_forward_pre_hook(lambda _m, a: taps.__setitem__(key, a[0]))

    for key in ("time_text_embed", "context_embedder", "x_embedder"):
        out(key, key)
    mods = []
    for i in range(model.config.num_layers):
        block = f"transformer_blocks.{i}"
        out(block, block)
        into(f"{block}.attn.to_out.0", f"{block}.image_attn")
        into(f"{block}.attn.to_add_out", f"{block}.text_attn")
        mods += [f"{block}.norm1.linear", f"{block}.norm1_context.linear"]
    for i in range(model.config.num_single_layers):
        block = f"single_transformer_blocks.{i}"
        out(block, block)
        into(f"{block}.proj_out", f"{block}.branches")
        mods.append(f"{block}.norm.linear")
    mods.append("norm_out.linear")
    for name in mods:
        out(name, name)
    return mods


def flux_taps(folder, inputs, dtype):
    model = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=dtype).eval()
    noted = {}
    mods = listen(model, noted)
    text = [i % TEXTS for i in range(ROWS)]
    embeds, pooled = inputs["in.text"][text].to(dtype), inputs["in.pooled"][text].to(dtype)
    latent = inputs["in.latent"].reshape(ROWS, HEIGHT * WIDTH, -1).to(dtype)
    ids = FluxPipeline._prepare_latent_image_ids(ROWS, HEIGHT, WIDTH, "cpu", dtype)
    guidance = torch.full([ROWS], GUIDANCE) if model.config.guidance_embeds else None
    kept, tables, times = {}, [], []
    for i, t in enumerate(inputs["in.timesteps"]):
        out = model(hidden_states=latent, timestep=t.expand(ROWS).to(dtype) / 1000, guidance=guidance,
                    pooled_projections=pooled, encoder_hidden_states=embeds, txt_ids=torch.zeros(TOKENS, 3).to(dtype),
                    img_ids=ids, return_dict=False)[0]
        tables.append(torch.cat([noted[m] for m in mods], dim=-1)[:TEXTS])
        times.append(noted["time_text_embed"][:TEXTS])
        if not i:
            kept["context_embedder"] = noted["context_embedder"][:TEXTS]
            kept["x_embedder"] = noted["x_embedder"]
            for k in range(model.config.num_layers):
                name = f"transformer_blocks.{k}"
                kept[f"{name}.attn"] = torch.cat([noted[f"{name}.text_attn"], noted[f"{name}.image_attn"]], dim=1)
                kept[f"{name}.text"], kept[f"{name}.image"] = noted[name]
            for k in range(model.config.num_single_layers):
                name = f"single_transformer_blocks.{k}"
                kept[f"{name}.branches"] = noted[f"{name}.branches"]
                kept[f"{name}.text"], kept[f"{name}.image"] = noted[name]
        kept[f"step.{i}"] = out
    kept["time_text_embed"] = torch.stack(times, dim=1)
    kept["modulation"] = torch.stack(tables, dim=1)
    return kept


def times():
    """Pipeline and model between them: t / 1000 and * 1000, guidance * 1000, in the model's type."""
    t = torch.cat([torch.linspace(1, 1000, 101), torch.tensor([750.0, 893.21746826171875, 104.72, 3.5])])
    data = {"time.in": t}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        data["time." + name] = (t.to(dtype) / 1000 * 1000).float()
        data["guide." + name] = (t[:60].to(dtype) * 1000).float()
    return data


def make_inputs(folder):
    g = torch.Generator().manual_seed(SEED)
    config = FluxTransformer2DModel.load_config(folder)
    planes = torch.randn(1, config["in_channels"] // 4, 2 * HEIGHT, 2 * WIDTH, generator=g)
    packed = FluxPipeline._pack_latents(planes, 1, planes.shape[1], 2 * HEIGHT, 2 * WIDTH)
    return {
        "in.latent": torch.randn(ROWS, HEIGHT, WIDTH, config["in_channels"], generator=g),
        "in.text": torch.randn(TEXTS, TOKENS, config["joint_attention_dim"], generator=g),
        "in.pooled": torch.randn(TEXTS, config["pooled_projection_dim"], generator=g),
        "in.timesteps": torch.tensor(TIMES),
        "in.guidance": torch.tensor([GUIDANCE]),
        "in.planes": planes[0],
        "in.packed": packed[0].reshape(HEIGHT, WIDTH, -1).contiguous(),
    }


def main():
    folder, path = sys.argv[1:]
    torch.set_num_threads(1)
    data = make_inputs(folder) | times()
    inputs = dict(data)
    with torch.no_grad():
        full, half = (flux_taps(folder, inputs, t) for t in (torch.float32, torch.bfloat16))
        transformer_flux.apply_rotary_emb = rotate
        embeddings.get_timestep_embedding = sinusoids
        true = flux_taps(folder, inputs, torch.float64)
    for name, x in full.items():
        x, low, high = (t[name].reshape(-1).double() for t in (full, half, true))
        step = stride(x.numel(), LIMIT)
        kept, norm = x[::step], x[::step].norm()
        data[name] = kept.float()
        data["norm/" + name] = x.norm().reshape(1).float()
        data["f32/" + name] = ((high[::step] - kept).norm() / norm).reshape(1).float()
        data["bf16/" + name] = ((low[::step] - kept).norm() / norm).reshape(1).float()
        print(f"{name:44} {x.numel():7} rms {x.pow(2).mean().sqrt():.3f} f32 {data['f32/' + name].item():.2e} "
              f"bf16 {data['bf16/' + name].item():.2e}")
    save_file(data, path, {"made_by": "tools/ref/flux.py", "limit": str(LIMIT)})


if __name__ == "__main__":
    main()
