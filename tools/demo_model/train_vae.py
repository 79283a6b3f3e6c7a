"""Trains the autoencoder on scenes. Called by train.py; see there."""
import json
import os
import time
from functools import partial

import numpy as np
import torch

from feed import feed
from models import LATENT, count, make_vae
from parallel import save_atomically
from scenes import BACKGROUNDS, render, sample

BATCH = {"cpu": 6, "cuda": 96}  # of each process
FOREGROUND_WEIGHT = 4.0
LATENT_NOISE = 0.08  # of the latents' standard deviation: the decoder learns to forgive the sampler
LATENT_WEIGHT = 1e-4


def to_tensor(images):
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def foreground_weight(images, scenes):
    """Weight of each pixel in the loss [n, 1, h, w]: more where a picture is not its background."""
    ground = torch.tensor([BACKGROUNDS[s.background] for s in scenes]).float().div(127.5).sub(1)
    foreground = (images - ground[:, :, None, None]).abs().amax(1, keepdim=True) > 0.02
    return 1 + (FOREGROUND_WEIGHT - 1) * foreground.float()


def draw(n, rng, torch_rng):
    """A batch: pictures, their pixels' weights, and noise for the latents."""
    scenes = [sample(rng) for _ in range(n)]
    images = to_tensor([render(s) for s in scenes])
    noise = torch.empty(n, 4, LATENT, LATENT, memory_format=torch.channels_last).normal_(generator=torch_rng)
    return images, foreground_weight(images, scenes), noise


def rate(step, total, peak):
    warm = min(1.0, (step + 1) / 200)
    return peak * warm * (0.5 + 0.5 * np.cos(np.pi * min(1.0, step / total))) + 1e-6


def run(worker, options):
    torch.manual_seed(7)
    vae = make_vae().to(worker.device, memory_format=torch.channels_last)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    path = os.path.join(options.work, "vae.pt")
    step, spread = 0, 1.0
    if os.path.exists(path):
        state = torch.load(path, map_location="cpu", weights_only=False)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        spread = state.get("spread", spread)
    if step >= options.vae_steps:
        return
    size = options.batch or BATCH[worker.device.type]
    batches = feed(worker, partial(draw, size), 11, step)
    if worker.rank == 0:
        print(f"vae: {count(vae)} parameters, from step {step} to {options.vae_steps}, "
              f"{worker.world} x {size} pictures a step on {worker.device}", flush=True)
    began = saved = time.time()
    mean_error, spread = worker.scalar(0.0), worker.scalar(spread)
    first, stop = step, False
    while step < options.vae_steps and not stop:
        images, weight, noise = next(batches)
        images = images.contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.vae_steps, options.vae_rate)
        with torch.autocast(worker.device.type, torch.bfloat16):
            mean = vae.encode(images).latent_dist.mean.float()
            spread = 0.98 * spread + 0.02 * mean.detach().std().double()
            latents = mean + LATENT_NOISE * spread * noise
            error = vae.decode(latents).sample.float() - images
        loss = (weight * (error.square() + 0.05 * error.abs())).mean() + LATENT_WEIGHT * mean.square().mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        stop, _ = worker.average_gradients([p for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        mean_error = 0.98 * mean_error + 0.02 * error.detach().square().mean().double()
        if worker.rank != 0:
            continue
        if step % 50 == 0:
            seconds = time.time() - began
            line = {"step": step, "mse": float(mean_error), "latent_std": float(spread), "seconds": seconds}
            line["steps_per_second"] = (step - first) / seconds
            with open(os.path.join(options.work, "vae.jsonl"), "a") as f:
                f.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if time.time() - saved > 60 or step == options.vae_steps or stop:
            state = {
                "vae": vae.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spread": float(spread),
            }
            save_atomically(state, path)
            saved = time.time()
    batches.close()
    worker.barrier()
