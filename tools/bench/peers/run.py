"""dlens beside other programs: the same lens sweep on the same checkpoint, timed and compared.

    python run.py --dlens build/dlens --model MODEL --out DIR [--device cpu|cuda] [--dtype f32|f16|bf16] [--layers 1:13]
           [--steps 50] [--guidance 7.5] [--size WxH] [--seed 17] [--threads N] [--repeats 2] [--ways loop,batched,compiled]
           [--sd PATH/sd] [--python PYTHON]

MODEL is a folder of Stable Diffusion 1.x or 2.x; `dlens synth --like sd15 --scale full --dtype f16 --out MODEL` makes one.
Everything runs one after the other, each program in a process of its own:

  dlens      `dlens bench sweep` gives the time (conditions, denoising, decoding; weights resident), `dlens sweep
             --save-latents` the latents
  loop, batched, compiled   lens_diffusers.py, which says what they are; text encoding, denoising, decoding
  sd         stable-diffusion.cpp, where --sd names its binary: one call for each layer (--clip-skip), sampling and decoding
             as it prints them; it has no way to give its latents, which are not compared

Writes DIR/peers.json and DIR/peers.md, and prints the latter. The final latents of each are held against those of "loop"
(relative L2 error, the worst layer); in half precision each has its own rounding errors. Seconds are the median.
Versions: see ../../ref/requirements.txt.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPT = "A few people are in the ocean splashing around"


def call(argv, log, env=None):
    """stdout of a program; what it says goes to a file."""
    with open(log, "w") as f:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=f, text=True, env=env)
        f.write(done.stdout)
    if done.returncode:
        raise RuntimeError(f"{os.path.basename(argv[0])} {argv[1]}: exit {done.returncode}; {log} has what it said")
    return done.stdout


def common(args):
    out = ["--steps", str(args.steps), "--guidance", str(args.guidance)]
    return out + (["--size", args.size] if args.size else [])


def run_dlens(args, blocks):
    first, last = (int(v) for v in args.layers.split(":")) if args.layers else (1, blocks + 1)
    n = last - first
    own = ["--model", args.model, "--dtype", args.dtype, "--device", args.device, "--json"]
    own += ["--threads", str(args.threads)] if args.threads else []
    runs = [json.loads(call([args.dlens, "bench", "sweep", "--layers", str(n), "--batch", str(args.batch or n)] + own + common(args),
                            f"{args.out}/dlens-bench.log")) for _ in range(args.repeats)]
    seconds = [r["batches"][0]["seconds"] for r in runs]
    folder = f"{args.out}/dlens-sweep"
    shutil.rmtree(folder, ignore_errors=True)
    call([args.dlens, "sweep", "--prompt", PROMPT, "--layers", f"{first}:{last}", "--seed", str(args.seed), "--save-latents", "--rng",
          "torch-cuda" if args.device == "cuda" else "torch-cpu", "--out", folder] + own + common(args), f"{args.out}/dlens-sweep.log")
    latents = {name.split(".")[-1]: v for name, v in load_file(f"{folder}/latents.safetensors").items()}
    version = call([args.dlens, "--version"], f"{args.out}/version.log").strip()
    return {"what": version, "images": n, "seconds": seconds, "seconds_median": statistics.median(seconds), "seconds_min": min(seconds),
            "step_ms": runs[-1]["batches"][0]["step_ms"], "peak_rss_bytes": runs[-1]["peak_rss_bytes"], "device": runs[-1]["device"]}, latents


def run_way(args, way):
    path = f"{args.out}/{way}.safetensors"
    argv = [args.python, f"{HERE}/lens_diffusers.py", args.model, "--way", way, "--out", path, "--seed", str(args.seed), "--dtype", args.dtype,
            "--device", args.device, "--repeats", str(args.repeats), "--prompt", PROMPT] + common(args)
    argv += ["--threads", str(args.threads)] if args.threads else []
    argv += ["--layers", args.layers] if args.layers else []
    result = json.loads(call(argv, f"{args.out}/{way}.log").strip().splitlines()[-1])
    result["what"] = f"diffusers {result['diffusers']}, torch {result['torch']}"
    return result, load_file(path)


def run_sd(args, blocks):
    """One image a call; its own figures of sampling and decoding, without loading."""
    first, last = (int(v) for v in args.layers.split(":")) if args.layers else (1, blocks + 1)
    seconds, wall = [], time.perf_counter()
    size = args.size.split("x") if args.size else None
    for k in range(first, last):
        argv = [args.sd, "-m", args.model, "-p", PROMPT, "--steps", str(args.steps), "--cfg-scale", str(args.guidance), "-s", str(args.seed),
                "--clip-skip", str(blocks - k + 1), "-o", f"{args.out}/sd-k{k:02}.png"]
        argv += ["-W", size[0], "-H", size[1]] if size else []
        argv += ["-t", str(args.threads)] if args.threads else []
        text = call(argv, f"{args.out}/sd.log") + open(f"{args.out}/sd.log").read()
        took = [float(t) for t in re.findall(r"(?:sampling|decode_first_stage) completed, taking ([0-9.]+)s", text)[:2]]
        if not took:
            raise RuntimeError(f"{args.sd} does not say how long it took; {args.out}/sd.log")
        seconds.append(sum(took))
    return {"what": "stable-diffusion.cpp", "images": last - first, "seconds": [sum(seconds)], "seconds_median": sum(seconds),
            "seconds_min": sum(seconds), "wall_with_loading_s": time.perf_counter() - wall}, None


def error(got, want):
    """Relative L2 error of the worst layer."""
    worst = 0.0
    for name, w in want.items():
        if name not in got:
            return None
        worst = max(worst, float((got[name].double() - w.double()).norm() / w.double().norm()))
    return worst


def table(args, results):
    base = results.get("dlens", {}).get("seconds_median")
    lines = [f"Lens sweep of {os.path.basename(os.path.normpath(args.model))} on {args.device}, {args.dtype}, {args.steps} steps, guidance "
             f"{args.guidance:g}, seed {args.seed}" + (f", {args.threads} threads" if args.threads else "") + ":", "",
             "| program | images | seconds | images/s | x dlens | latents against the loop | compile s |", "|---|---|---|---|---|---|---|"]
    for name, r in results.items():
        if "failed" in r:
            lines.append(f"| {name} | | {r['failed']} | | | | |")
            continue
        s = r["seconds_median"]
        diff = "" if r.get("error") is None else f"{r['error']:.1e}"
        ratio = f"{s / base:.2f}" if base else ""
        compile_s = f"{r['compile_s']:.1f}" if "compile_s" in r else ""
        lines.append(f"| {name} ({r['what']}) | {r['images']} | {s:.3f} | {r['images'] / s:.3f} | {ratio} | {diff} | {compile_s} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dlens", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="f32", choices=["f32", "f16", "bf16"])
    parser.add_argument("--layers", help="first:end in k; all blocks")
    parser.add_argument("--batch", type=int, default=0, help="dlens: images at once; all")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--size")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--ways", default="loop,batched,compiled")
    parser.add_argument("--sd", help="the binary of stable-diffusion.cpp")
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    with open(f"{args.model}/text_encoder/config.json") as f:
        blocks = json.load(f)["num_hidden_layers"]
    jobs = [("dlens", lambda: run_dlens(args, blocks))]
    jobs += [(way, lambda way=way: run_way(args, way)) for way in args.ways.split(",") if way]
    jobs += [("sd", lambda: run_sd(args, blocks))] if args.sd else []
    results, latents = {}, {}
    for name, job in jobs:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            results[name], latents[name] = job()
        except (RuntimeError, OSError, ValueError, KeyError) as e:
            results[name] = {"failed": str(e)}
    for name, got in latents.items():
        if got and latents.get("loop"):
            results[name]["error"] = error(got, latents["loop"])
    settings = {k: v for k, v in vars(args).items() if k not in ("python", "out", "dlens", "sd")}
    with open(f"{args.out}/peers.json", "w") as f:
        json.dump({"settings": settings, "results": results}, f, indent=1)
    text = table(args, results)
    with open(f"{args.out}/peers.md", "w") as f:
        f.write(text)
    print(text, end="")
    return 1 if any("failed" in r for r in results.values()) else 0


sys.exit(main())
