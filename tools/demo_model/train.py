"""Trains the demo model, from nothing or from where it was stopped:  python train.py --work FOLDER

Stages, each skipped when it is done: the autoencoder; the text encoder's start; the latents of the training scenes;
the text encoder and the UNet together. Checkpoints are written every minute or few and at SIGTERM; the same command
goes on from them, on a GPU or without.
"""
import argparse
import os
import sys
import time

import torch

from parallel import device_name, launch


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for checkpoints and logs")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--processes", type=int, help="on the CPU, of one thread each (default 2); on a GPU always one")
    parser.add_argument("--loaders", type=int, help="processes that draw the batches of each training process "
                        "(default on the CPU 0: it draws them itself; on a GPU all cores but one, at most 16)")
    parser.add_argument("--batch", type=int, help="pictures or captions of each process and step (default 6, 20 and 8 "
                        "in the three stages on the CPU, 96, 160 and 128 on a GPU)")
    parser.add_argument("--vae-steps", type=int, default=3800)
    parser.add_argument("--vae-rate", type=float, default=2e-3)
    parser.add_argument("--text-steps", type=int, default=2300)
    parser.add_argument("--minutes", type=float, default=90, help="of diffusion training, earlier runs counted in")
    parser.add_argument("--scenes", type=int, default=40000, help="scenes whose latents are cached")
    stages = ("all", "vae", "text", "diffusion")
    parser.add_argument("--stage", choices=stages, default="all", help="run one stage only")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU")
    if on_gpu and options.processes not in (None, 1):
        parser.error("--processes: one only on a GPU")
    if options.processes is None:
        options.processes = 1 if on_gpu else 2
    if options.loaders is None:
        options.loaders = min(16, max(1, len(os.sched_getaffinity(0)) - 1)) if on_gpu else 0
    if options.processes < 1 or options.loaders < 0 or (options.batch is not None and options.batch < 1):
        parser.error("--processes and --batch begin at 1, --loaders at 0")
    return options


def print_cost(options, minutes):
    place = device_name(options.device)
    if options.device == "cuda":
        place += f" ({torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most)"
    parts = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    print(f"cost of this run: {sum(minutes.values()):.1f} minutes ({parts}) on {options.device}, {place}; "
          f"processes: {options.processes}, loaders of each: {options.loaders}, torch {torch.__version__}", flush=True)


def main():
    options = parse()
    os.makedirs(options.work, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes started from here

    import train_diffusion
    import train_text
    import train_vae

    minutes, stopped = {}, False
    for name, stage in (("vae", train_vae), ("text", train_text), ("diffusion", train_diffusion)):
        if options.stage in ("all", name) and not stopped:
            began = time.time()
            stopped = launch(stage.run, options)
            minutes[name] = (time.time() - began) / 60
    print_cost(options, minutes)
    if stopped:
        sys.exit("stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
