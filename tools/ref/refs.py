"""What the scripts of this folder share: taps of networks, inputs that both sides make, and a sweep's images."""
import numpy as np
import torch

ALL = "all"  # layers of a sweep's case

# ---- networks: taps stored as networks.py says

BLOCKS = ("resnets", "attentions", "downsamplers", "upsamplers")


def flat(x):
    """Channels last, flat; tokens stay as they are."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).reshape(-1)


def stride(count, limit):
    """Of the elements that are stored of so many."""
    return 1 if count <= limit else -(-count // limit) | 1


def is_block(name):
    return name.count(".") in (2, 3) and name.split(".")[-2] in BLOCKS


def first(output):
    return output if torch.is_tensor(output) else output[0]


def listen(model, names, taps, prefix):
    """Hooks that note the outputs of the named modules, of each call's last use."""
    modules = dict(model.named_modules())
    for name in names:
        def note(_module, _args, output, name=name):
            taps[prefix + name] = first(output)
        modules[name].register_forward_hook(note)


def inner(model):
    """The level that has encoder and final_layer_norm; some versions of transformers have it under text_model."""
    return getattr(model, "text_model", model)


# ---- full-size steps


def noise(salt, *shape):
    """Numbers in [-2, 2), multiples of 2^-22, from a 32-bit hash of salt and place."""
    x = np.arange(np.prod(shape), dtype=np.uint32) + np.uint32(salt * 0x9E3779B9 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return torch.from_numpy(((x >> np.uint32(8)).astype(np.float32) / 4194304 - 2).reshape(shape))


# ---- sweeps


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def encode(tokenizer, text, tokens=None):
    return tokenizer(text, padding="max_length", max_length=tokens or tokenizer.model_max_length, truncation=True,
                     return_tensors="pt").input_ids


def picture(pipe, image):
    """u8 [h][w][3] of what the VAE decoded."""
    pixels = pipe.image_processor.postprocess(image, output_type="np")[0]
    return torch.from_numpy((pixels * 255).round().astype("uint8"))


def error(got, want):
    """Relative L2."""
    return (got.double() - want.double()).norm() / want.double().norm()


def keep(data, name, pair, thin=0):
    """NAME.latents [c][h][w], or every thin-th of its elements, and NAME.image [h][w][3]."""
    data[name + ".latents"] = (pair[0].flatten()[::thin] if thin else pair[0]).contiguous()
    data[name + ".image"] = pair[1].contiguous()
    print(f"{name:16} rms {pair[0].pow(2).mean().sqrt():.3f} mean {pair[1].float().mean():.1f} "
          f"{tuple(pair[1].shape)}", flush=True)


def keep_bf16(data, pipe, layers, latents):
    """The case "bf16": latents(k) of the float32 pipeline, and how far off they are once it is in bfloat16."""
    full = [latents(k) for k in range(layers)]
    pipe.to(torch.bfloat16)
    for k in range(layers):
        off = error(latents(k), full[k])
        data[f"bf16.k{k:02}.latents"], data[f"bf16.k{k:02}.error"] = full[k].contiguous(), off.float().reshape(1)
        print(f"bf16.k{k:02} error {off:.2e}", flush=True)
