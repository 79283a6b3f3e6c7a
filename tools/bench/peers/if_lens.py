"""A lens sweep of DeepFloyd IF's stage I by diffusers on the CPU, timed: the tutorial's way, one pipeline call a layer.

    python if_lens.py MODEL [--layers 8,16,24] [--steps 5] [--guidance 7] [--seed 17] [--threads N] [--dtype bf16|f32]

While the prompt is encoded a hook puts the layer's hidden state in the place of final_layer_norm's input, as an NNsight
trace does, without NNsight's own overhead; the text encoder runs anew for every layer. Prints one JSON object: seconds
of each image and of its encoding (prompt and negative prompt), milliseconds and processor
seconds of each evaluation of the UNet (two rows) with the scheduler's step, the raw matmul rate before and after, the peak of memory. Nothing is warmed up but by the first
image. Versions: see ../../ref/requirements.txt.
"""
import argparse
import json
import resource
import statistics
import time

import diffusers
import torch
import transformers

PROMPT = "A few people are in the ocean splashing around"


def matmul_rate(dtype, n=2048, runs=5):
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    best = 0.0
    for _ in range(runs):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * n**3 / (time.perf_counter() - start) / 1e9)
    return round(best, 1)


def now_of():
    """Wall clock and processor time."""
    return time.perf_counter(), time.process_time()


def encode(pipe, k):
    encoder, taken = pipe.text_encoder.encoder, []
    hooks = [encoder.block[k - 1].register_forward_hook(
                 lambda _m, _a, out: taken.append(out if torch.is_tensor(out) else out[0])),
             encoder.final_layer_norm.register_forward_pre_hook(
                 lambda _m, args: (taken[0],) if len(taken) == 1 else args)]
    embeds = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=True, clean_caption=True)
    for h in hooks:
        h.remove()
    return embeds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--layers", default="8,16,24")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--guidance", type=float, default=7)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "f32"))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    rates = [matmul_rate(dtype)]
    pipe = diffusers.IFPipeline.from_pretrained(args.model, torch_dtype=dtype, safety_checker=None, watermarker=None,
                                                feature_extractor=None)
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    images, texts, steps, busy = [], [], [], []
    for k in (int(v) for v in args.layers.split(",")):
        start = time.perf_counter()
        positive, negative = encode(pipe, k)
        texts.append(round(time.perf_counter() - start, 2))
        last = now_of()

        def note(_step, _t, _latents):
            nonlocal last
            now = now_of()
            steps.append(round((now[0] - last[0]) * 1e3)), busy.append(round(now[1] - last[1], 2))
            last = now
        pipe(prompt_embeds=positive, negative_prompt_embeds=negative, num_inference_steps=args.steps,
             guidance_scale=args.guidance, generator=torch.Generator().manual_seed(args.seed), callback=note)
        images.append(round(time.perf_counter() - start, 2))
    rates.append(matmul_rate(dtype))
    print(json.dumps({"torch": torch.__version__, "diffusers": diffusers.__version__,
                      "transformers": transformers.__version__, "threads": torch.get_num_threads(),
                      "dtype": args.dtype, "matmul_gflops": rates, "image_s": images, "text_s": texts, "step_ms": steps,
                      "step_processor_s": busy, "step_ms_median": statistics.median(steps), "step_ms_min": min(steps),
                      "seconds": round(sum(images), 2),
                      "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


main()
