"""Batches for the training, already on the device. Drawing scenes and captions is plain Python and costs about as much
as a GPU's step; loader processes draw ahead of it, and what they draw is copied from pinned memory while the GPU works.

Without loaders (the default on the CPU, where every core computes anyhow) the batches come from one stream of random
numbers, seeded with the step at which the run starts. With loaders every step's batch has a seed of its own, that of a
run started at this step: it is the same whatever the number of loaders, and after a resume.

Everything random in a step is drawn here, on the CPU. The device has no random state that a checkpoint would have to
keep, and a checkpoint made on one device goes on with the numbers it would have had on the other.
"""
import itertools
import signal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


def _generators(stage, rank, step):
    return np.random.default_rng((stage, rank, step)), torch.Generator().manual_seed(1000 * rank + step)


class _Steps(Dataset):
    """Item [step] is the batch of a step."""

    def __init__(self, draw, stage, rank):
        self.draw, self.stage, self.rank = draw, stage, rank

    def __getitem__(self, step):
        return self.draw(*_generators(self.stage, self.rank, step))


def _leave_signals_to_trainer(_):
    # a SIGTERM or Ctrl-C for the whole process group must leave the trainer what it needs to reach its checkpoint
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def load(worker, dataset, order):
    """dataset[i], a tuple of CPU tensors, for every i in order, as a list of tensors on the worker's device."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=worker.loaders,
        prefetch_factor=4 if worker.loaders else None,
        pin_memory=worker.device.type == "cuda",
        worker_init_fn=_leave_signals_to_trainer,
    )
    for batch in loader:
        yield worker.place(batch)


def feed(worker, draw, stage, first):
    """Endless batches draw(rng, torch_rng), tuples of CPU tensors, for the steps from first on; as lists of tensors on
    the worker's device. stage is a number that sets the stages' random streams apart. Close it when done."""
    if worker.loaders:
        yield from load(worker, _Steps(draw, stage, worker.rank), itertools.count(first))
    generators = _generators(stage, worker.rank, first)
    while True:
        yield worker.place(draw(*generators))
