"""Times one UNet evaluation of diffusers on the CPU, in each of its settings, on a checkpoint in diffusers layout.

    python unet_step.py MODEL [--rows 2] [--latent 64] [--runs 3] [--threads N] [--modes f32,f32-compiled,bf16,bf16-compiled]

Prints one JSON object: milliseconds of each run, the median, the machine. Compare with `dlens sweep --batch 1 --json`, whose
"step_ms" is one evaluation of the same two rows (unconditional and conditional) plus the scheduler's step.
Versions: see ../../ref/requirements.txt.
"""
import argparse
import json
import platform
import statistics
import time

import diffusers
import torch


def cpu_name():
    with open("/proc/cpuinfo") as f:
        return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.processor())


def time_mode(args, mode):
    dtype = torch.bfloat16 if mode.startswith("bf16") else torch.float32
    unet = diffusers.UNet2DConditionModel.from_pretrained(args.model, subfolder="unet", torch_dtype=dtype)
    unet = unet.to(memory_format=torch.channels_last).eval()
    if mode.endswith("compiled"):
        unet = torch.compile(unet, mode="max-autotune-no-cudagraphs" if args.autotune else "default")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(args.rows, 4, args.latent, args.latent, generator=g).to(dtype).to(memory_format=torch.channels_last)
    width = unet.config.cross_attention_dim
    text = torch.randn(args.rows, 77, width, generator=g).to(dtype)
    added = None
    if unet.config.addition_embed_type == "text_time":  # SDXL
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        side = float(8 * args.latent)
        added = {
            "text_embeds": torch.randn(args.rows, pooled, generator=g).to(dtype),
            "time_ids": torch.tensor([[side, side, 0, 0, side, side]] * args.rows).to(dtype),
        }
    times = []
    with torch.inference_mode():
        unet(x, 500, text, added_cond_kwargs=added)  # warm up, compile
        for _ in range(args.runs):
            start = time.perf_counter()
            unet(x, 500, text, added_cond_kwargs=added)
            times.append((time.perf_counter() - start) * 1e3)
    return {"ms": [round(t, 1) for t in times], "median_ms": round(statistics.median(times), 1)}


def matmul_rate(dtype, n=2048, runs=5):
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    best = 0.0
    for _ in range(runs):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * n**3 / (time.perf_counter() - start) / 1e9)
    return round(best, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--autotune", action="store_true")
    parser.add_argument("--modes", default="f32,f32-compiled,bf16,bf16-compiled")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result = {"cpu": cpu_name(), "capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
              "torch": torch.__version__, "diffusers": diffusers.__version__, "rows": args.rows, "latent": args.latent,
              "matmul_gflops": {"f32": matmul_rate(torch.float32), "bf16": matmul_rate(torch.bfloat16)}}
    for mode in args.modes.split(","):
        result[mode] = time_mode(args, mode)
    print(json.dumps(result))


main()
