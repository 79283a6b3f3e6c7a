"""Trains the autoencoder on scenes. Called by train.py; see there."""
import json
import os
import time

import numpy as np
import torch

from models import count, make_vae
from parallel import save_atomically
from scenes import BACKGROUNDS, render, sample

BATCH = 6  # of each process
FOREGROUND_WEIGHT = 4.0
LATENT_NOISE = 0.08  # of the latents' standard deviation: the decoder learns to forgive the sampler
LATENT_WEIGHT = 1e-4


def to_tensor(images):
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def batch_of(rng, n):
    scenes = [sample(rng) for _ in range(n)]
    images = to_tensor([render(s) for s in scenes])
    ground = torch.tensor([BACKGROUNDS[s.background] for s in scenes]).float().div(127.5).sub(1)
    foreground = (images - ground[:, :, None, None]).abs().amax(1, keepdim=True) > 0.02
    return images, 1 + (FOREGROUND_WEIGHT - 1) * foreground.float()


def rate(step, total, peak):
    warm = min(1.0, (step + 1) / 200)
    return peak * warm * (0.5 + 0.5 * np.cos(np.pi * min(1.0, step / total))) + 1e-6


def run(worker, options):
    torch.manual_seed(7)
    vae = make_vae().to(memory_format=torch.channels_last)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    path = os.path.join(options.work, "vae.pt")
    step = 0
    if os.path.exists(path):
        state = torch.load(path, map_location="cpu", weights_only=False)
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    if step >= options.vae_steps:
        return
    rng = np.random.default_rng((11, worker.rank, step))
    torch.manual_seed(1000 * worker.rank + step)
    if worker.rank == 0:
        print(f"vae: {count(vae)} parameters, from step {step} to {options.vae_steps}", flush=True)
    began = saved = time.time()
    mean_error, spread = 0.0, 1.0
    first = step
    stop = False
    while step < options.vae_steps and not stop:
        images, weight = batch_of(rng, BATCH)
        images = images.contiguous(memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.vae_steps, options.vae_rate)
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(images).latent_dist.mean.float()
            spread = 0.98 * spread + 0.02 * float(mean.detach().std())
            latents = mean + LATENT_NOISE * spread * torch.randn_like(mean)
            error = vae.decode(latents).sample.float() - images
        loss = (weight * (error.square() + 0.05 * error.abs())).mean() + LATENT_WEIGHT * mean.square().mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        stop, _ = worker.average_gradients([p for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        mean_error = 0.98 * mean_error + 0.02 * float(error.detach().square().mean())
        if worker.rank != 0:
            continue
        if step % 50 == 0:
            seconds = time.time() - began
            line = {"step": step, "mse": mean_error, "latent_std": spread, "seconds": seconds}
            line["steps_per_second"] = (step - first) / seconds
            with open(os.path.join(options.work, "vae.jsonl"), "a") as f:
                f.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if time.time() - saved > 60 or step == options.vae_steps or stop:
            state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            save_atomically(state, path)
            saved = time.time()
    worker.barrier()
