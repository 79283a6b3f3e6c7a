"""Gives the text encoder its start: from its last hidden states alone a small throw-away decoder paints a coarse
picture of the scene (24 x 24, everything at its middle position). Plays the part of CLIP's own training, which Stable
Diffusion's text encoder had had, too. The loss is on the decoder's picture; no inner layer is touched by it directly.
Called by train.py; see there.
"""
import json
import os
import time
from functools import partial

import torch
from torch import nn

import tokenizer
from captions import Speaker
from feed import feed
from layers import layer_table
from models import TEXT_LENGTH, TEXT_WIDTH, count, make_text
from parallel import save_atomically
from scenes import render, sample
from train_vae import foreground_weight, rate, to_tensor

BATCH = {"cpu": 20, "cuda": 160}  # of each process
GRID, PATCH = 6, 4  # 6 x 6 queries, each paints 4 x 4 pixels of 24 x 24


class Painter(nn.Module):
    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, GRID * GRID, TEXT_WIDTH))
        layer = nn.TransformerDecoderLayer(TEXT_WIDTH, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerDecoder(layer, 2)
        self.out = nn.Linear(TEXT_WIDTH, 3 * PATCH * PATCH)

    def forward(self, states):
        out = self.out(self.layers(self.queries.expand(states.shape[0], -1, -1), states))
        out = out.view(-1, GRID, GRID, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(-1, 3, GRID * PATCH, GRID * PATCH)


def draw(n, rng, _):
    """A batch: token ids, coarse pictures and their pixels' weights."""
    speaker = Speaker(rng)
    scenes = [sample(rng, still=True) for _ in range(n)]
    ids = torch.tensor([tokenizer.encode(speaker.say(s), TEXT_LENGTH) for s in scenes])
    images = nn.functional.avg_pool2d(to_tensor([render(s) for s in scenes]), 2)
    return ids, images, foreground_weight(images, scenes)


def text_groups(text, learning_rate):
    """AdamW groups: weight decay on matrices only."""
    matrices = [p for n, p in text.named_parameters() if p.ndim == 2 and "embedding" not in n]
    rest = [p for n, p in text.named_parameters() if p.ndim != 2 or "embedding" in n]
    return [
        {"params": matrices, "weight_decay": 0.05, "peak": learning_rate},
        {"params": rest, "weight_decay": 0.0, "peak": learning_rate},
    ]


def run(worker, options):
    torch.manual_seed(8)
    vocabulary, _ = tokenizer.build()
    text, painter = make_text(len(vocabulary), vocabulary[tokenizer.END]), Painter()
    text, painter = text.to(worker.device), painter.to(worker.device)
    parameters = list(text.parameters()) + list(painter.parameters())
    groups = text_groups(text, 6e-4) + [{"params": list(painter.parameters()), "weight_decay": 0.01, "peak": 1e-3}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    path = os.path.join(options.work, "text.pt")
    step = 0
    if os.path.exists(path):
        state = torch.load(path, map_location="cpu", weights_only=False)
        text.load_state_dict(state["text"])
        painter.load_state_dict(state["painter"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    if step >= options.text_steps:
        return
    size = options.batch or BATCH[worker.device.type]
    batches = feed(worker, partial(draw, size), 12, step)
    if worker.rank == 0:
        print(f"text: {count(text)} parameters, from step {step} to {options.text_steps}, "
              f"{worker.world} x {size} captions a step on {worker.device}", flush=True)
    began = saved = time.time()
    first, mean_loss, stop = step, worker.scalar(0.2), False
    while step < options.text_steps and not stop:
        ids, images, weight = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options.text_steps, group["peak"])
        loss = (weight * (painter(text(ids).last_hidden_state) - images).square()).mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        stop, _ = worker.average_gradients([p for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        mean_loss = 0.98 * mean_loss + 0.02 * loss.detach().double()
        if worker.rank != 0:
            continue
        if step % 100 == 0:
            line = {"step": step, "loss": float(mean_loss), "seconds": time.time() - began}
            line["steps_per_second"] = (step - first) / line["seconds"]
            with open(os.path.join(options.work, "text.jsonl"), "a") as f:
                f.write(json.dumps(line) + "\n")
            print(line, flush=True)
        if step % 250 == 0 or step == 1:
            layer_table(text, os.path.join(options.work, "layers.csv"), "text", step)
        if time.time() - saved > 60 or step == options.text_steps or stop:
            state = {
                "text": text.state_dict(),
                "painter": painter.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            save_atomically(state, path)
            saved = time.time()
    batches.close()
    worker.barrier()
