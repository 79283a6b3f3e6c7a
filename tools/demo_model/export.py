"""Writes the trained model in diffusers layout, float16:  python export.py --work FOLDER [--out model]"""
import argparse
import json
import os

import torch
from safetensors.torch import save_file

import tokenizer
from models import TEXT_LENGTH
from train_diffusion import Pair, finished_vae, make_scheduler

HERE = os.path.dirname(os.path.abspath(__file__))
VERSION = "0.42.1"  # of diffusers


def put_json(folder, name, value):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "w") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def put_weights(folder, name, module, prefix=""):
    os.makedirs(folder, exist_ok=True)
    tensors = {prefix + k: v.to(torch.float16).contiguous().clone() for k, v in module.state_dict().items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{key} does not fit float16")
    save_file(tensors, os.path.join(folder, name), metadata={"format": "pt"})


def text_config(text):
    keys = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings "
        "hidden_act projection_dim layer_norm_eps attention_dropout bos_token_id eos_token_id pad_token_id"
    ).split()
    config = {k: getattr(text.config, k) for k in keys}
    return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "torch_dtype": "float32", **config}


def network_config(module, name):
    config = {k: v for k, v in module.config.items() if not k.startswith("_")}
    return {"_class_name": name, "_diffusers_version": VERSION, **config}


def load_average(work):
    """(Pair with the moving average of the weights, its checkpoint)."""
    state = torch.load(os.path.join(work, "diffusion.pt"), map_location="cpu", weights_only=False)
    pair = Pair()
    pair.load_state_dict(state["average"])
    return pair.eval(), state


def export(work, out):
    pair, state = load_average(work)
    vae = finished_vae(argparse.Namespace(work=work))
    scheduler = make_scheduler()
    put_json(
        out,
        "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": VERSION,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    put_json(
        os.path.join(out, "scheduler"),
        "scheduler_config.json",
        network_config(scheduler, "DDIMScheduler"),
    )
    tokenizer.write(os.path.join(out, "tokenizer"), TEXT_LENGTH)
    put_json(os.path.join(out, "text_encoder"), "config.json", text_config(pair.text))
    # transformers 5 holds the tensors without the prefix that every published checkpoint has
    prefix = "" if hasattr(pair.text, "text_model") else "text_model."
    put_weights(os.path.join(out, "text_encoder"), "model.safetensors", pair.text, prefix)
    for name, module, kind in (("unet", pair.unet, "UNet2DConditionModel"), ("vae", vae, "AutoencoderKL")):
        put_json(os.path.join(out, name), "config.json", network_config(module, kind))
        put_weights(os.path.join(out, name), "diffusion_pytorch_model.safetensors", module)
    return state["step"], state["spent"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", default=os.path.join(HERE, "model"))
    options = parser.parse_args()
    step, spent = export(options.work, options.out)
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(options.out) for f in files)
    print(f"step {step}, minute {spent / 60:.1f}: {options.out}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
