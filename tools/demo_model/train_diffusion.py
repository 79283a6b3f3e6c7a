"""Trains the text encoder and the UNet together on cached latents. Called by train.py; see there.

Ordinary latent diffusion: v-prediction on Stable Diffusion's noise schedule, a tenth of the captions empty. The
learning rate follows one cosine over the minutes given, measured by the clock, so that the training ends on time
however busy the machine is.
"""
import json
import os
import time

import numpy as np
import torch
from diffusers import DDIMScheduler

import tokenizer
from captions import Speaker
from feed import feed, load
from layers import layer_table
from models import TEXT_LENGTH, count, make_text, make_unet, make_vae
from parallel import save_atomically
from scenes import render, sample
from train_text import text_groups
from train_vae import to_tensor

CAPTIONS = {"cpu": 8, "cuda": 128}  # of each process and step
DRAWS = 2  # noise levels for each caption
EMPTY = 0.1  # share of empty captions, for guidance
AVERAGE = 0.999  # of the weights' moving average, which is what is exported
LARGEST_SNR = 5.0
TEXT_RATE, UNET_RATE = 2e-4, 1e-3


def make_scheduler():
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def finished_vae(options):
    """The trained VAE, its latents shifted and scaled channel by channel (folded into the 1x1 convolutions around
    the latents, which changes no picture) to mean 0 and one common deviation, whose inverse is the scaling factor.
    Always worked out on the CPU, so that the export gets what the latents were made with."""
    vae = make_vae()
    vae.load_state_dict(torch.load(os.path.join(options.work, "vae.pt"), map_location="cpu", weights_only=False)["vae"])
    vae.eval().requires_grad_(False)
    rng = np.random.default_rng(5)
    latents = []
    for _ in range(20):
        latents.append(vae.encode(to_tensor([render(sample(rng)) for _ in range(50)])).latent_dist.mean)
    latents = torch.cat(latents)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    common = float(deviation.square().mean().sqrt())
    gain = common / deviation
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] *= gain[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) * gain
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight /= gain[None, :, None, None]
    vae.register_to_config(scaling_factor=round(1 / common, 5))
    return vae


class Pictures:
    """Item [at] holds the pictures of 50 scenes from scene at on."""

    CHUNK = 50

    def __init__(self, scenes):
        self.scenes = scenes

    def __getitem__(self, at):
        return (to_tensor([render(s) for s in self.scenes[at : at + self.CHUNK]]),)


def cached_latents(worker, options):
    """(scenes, latents [n, 4, 12, 12], scaled): each process draws and encodes its own part, kept in a file."""
    path = os.path.join(options.work, f"latents{worker.rank}of{worker.world}.pt")
    if not os.path.exists(path):
        vae = finished_vae(options).to(worker.device)
        rng = np.random.default_rng((13, worker.rank))
        scenes = [sample(rng) for _ in range(options.scenes // worker.world)]
        latents = []
        for (images,) in load(worker, Pictures(scenes), range(0, len(scenes), Pictures.CHUNK)):
            latents.append((vae.encode(images).latent_dist.mean * vae.config.scaling_factor).half().cpu())
        save_atomically({"scenes": scenes, "latents": torch.cat(latents)}, path)
    state = torch.load(path, weights_only=False)
    return state["scenes"], state["latents"]


class Draw:
    """Batches of captions and noisy latents. Every caption comes with DRAWS noise levels."""

    def __init__(self, scenes, latents, captions):
        self.scenes, self.latents, self.captions = scenes, latents, captions
        self.alphas = make_scheduler().alphas_cumprod

    def __call__(self, rng, torch_rng):
        """Token ids [captions, length]; and for n = captions x DRAWS: times [n], noisy latents and the velocities to
        predict [n, 4, 12, 12], and the weights in the loss [n]."""
        speaker = Speaker(rng)
        chosen = rng.integers(len(self.scenes), size=self.captions)
        captions = ["" if rng.random() < EMPTY else speaker.say(self.scenes[i]) for i in chosen]
        ids = torch.tensor([tokenizer.encode(c, TEXT_LENGTH) for c in captions])
        clean = self.latents[torch.from_numpy(chosen)].float().repeat(DRAWS, 1, 1, 1)
        n = len(clean)
        # noise levels spread evenly over the batch
        places = torch.randperm(n, generator=torch_rng) + torch.rand(n, generator=torch_rng)
        t = (places / n * 1000).long()
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=torch_rng)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        snr = (alpha / (1 - alpha)).flatten()
        weight = (LARGEST_SNR + 1) / (snr.clamp(min=LARGEST_SNR) + 1)
        return ids, t, noisy, target, weight


class Pair(torch.nn.Module):
    """Text encoder and UNet under one roof, so that optimizer, checkpoint and average see one module."""

    def __init__(self):
        super().__init__()
        vocabulary, _ = tokenizer.build()
        self.text = make_text(len(vocabulary), vocabulary[tokenizer.END])
        self.unet = make_unet()


def run(worker, options):
    torch.manual_seed(9)
    pair = Pair().to(worker.device)
    path = os.path.join(options.work, "diffusion.pt")
    groups = text_groups(pair.text, TEXT_RATE)
    matrices = [p for p in pair.unet.parameters() if p.ndim > 1]
    vectors = [p for p in pair.unet.parameters() if p.ndim <= 1]
    groups += [{"params": matrices, "weight_decay": 0.01, "peak": UNET_RATE}]
    groups += [{"params": vectors, "weight_decay": 0.0, "peak": UNET_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    step, spent = 0, 0.0
    if os.path.exists(path):
        state = torch.load(path, map_location="cpu", weights_only=False)
        pair.load_state_dict(state["pair"])
        average = {k: v.to(worker.device) for k, v in state["average"].items()}
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
        del state
    else:
        start = torch.load(os.path.join(options.work, "text.pt"), map_location="cpu", weights_only=False)
        pair.text.load_state_dict(start["text"])
        average = {k: v.clone() for k, v in pair.state_dict().items()}
    progress = spent / (60 * options.minutes)
    if progress >= 1:
        return
    scenes, latents = cached_latents(worker, options)
    worker.barrier()
    pair.unet.to(memory_format=torch.channels_last)
    size = options.batch or CAPTIONS[worker.device.type]
    batches = feed(worker, Draw(scenes, latents, size), 14, step)
    if worker.rank == 0:
        print(f"text {count(pair.text)}, unet {count(pair.unet)} parameters, {worker.world} x {len(scenes)} scenes, "
              f"from step {step}, minute {spent / 60:.1f} of {options.minutes}, "
              f"{worker.world} x {size} captions a step on {worker.device}", flush=True)
    began = saved = time.time()
    first, mean_loss, stop = step, worker.scalar(1.0), False
    while progress < 1 and not stop:
        ids, t, noisy, target, weight = next(batches)
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 300)
            group["lr"] = group["peak"] * warm * (0.5 + 0.5 * np.cos(np.pi * min(1.0, progress))) + 1e-7
        states = pair.text(ids).last_hidden_state.repeat(DRAWS, 1, 1)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        error = (pair.unet(noisy, t, states).sample - target).square().mean((1, 2, 3))
        loss = (weight * error).mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        spent_now = spent + time.time() - began
        stop, progress = worker.average_gradients(parameters, spent_now / (60 * options.minutes))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if worker.rank != 0:
            continue
        keep = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            present = pair.state_dict()
            torch._foreach_lerp_([average[k] for k in average], [present[k] for k in average], 1 - keep)
        mean_loss += max(0.01, 1 / (step - first)) * (loss.detach().double() - mean_loss)
        if step % 50 == 0:
            line = {"step": step, "loss": round(float(mean_loss), 5), "minutes": round(spent_now / 60, 2)}
            line["steps_per_second"] = round((step - first) / (time.time() - began), 3)
            with open(os.path.join(options.work, "diffusion.jsonl"), "a") as f:
                f.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if step % 250 == 0 or step == 1:
            layer_table(pair.text, os.path.join(options.work, "layers.csv"), "joint", step)
        if time.time() - saved > 120 or progress >= 1 or stop:
            state = {
                "pair": pair.state_dict(),
                "average": average,
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spent": spent_now,
            }
            save_atomically(state, path)
            saved = time.time()
    batches.close()
    worker.barrier()
