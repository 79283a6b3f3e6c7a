"""Two (or more) single-threaded processes that average gradients; checkpoints at intervals and at SIGTERM.

On a busy machine this is much faster than one process of two threads. A process that is stopped (SIGSTOP) only makes
the others wait: the timeout is hours.
"""
import datetime
import os
import signal
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


class Worker:
    """One of the processes; rank 0 writes the files."""

    def __init__(self, rank, world, store):
        self.rank, self.world = rank, world
        self.stop = False
        torch.set_num_threads(1)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        if world > 1:
            dist.init_process_group(
                "gloo", init_method="file://" + store, rank=rank, world_size=world, timeout=datetime.timedelta(hours=12)
            )

    def _on_stop(self, *_):
        self.stop = True

    def average_gradients(self, parameters, progress=0.0):
        """Averages the gradients over the processes. Returns (True if any was asked to stop, mean progress)."""
        if self.world == 1:
            return self.stop, progress
        grads = [p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads] + [torch.tensor([float(self.stop), progress])])
        dist.all_reduce(flat)
        stop = bool(flat[-2] > 0)
        flat /= self.world
        at = 0
        for g in grads:
            g.copy_(flat[at : at + g.numel()].view_as(g))
            at += g.numel()
        return stop, float(flat[-1])

    def barrier(self):
        if self.world > 1:
            dist.barrier()


def _enter(rank, world, store, function, options):
    worker = Worker(rank, world, store)
    function(worker, options)
    if world > 1:
        dist.destroy_process_group()


def launch(function, options):
    """Runs function(worker, options) in options.processes processes and waits; SIGTERM is passed on to them."""
    world = options.processes
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        if world == 1:
            _enter(0, 1, store, function, options)
            return
        context = mp.spawn(_enter, (world, store, function, options), nprocs=world, join=False)

        def pass_on(*_):
            for process in context.processes:
                process.terminate()

        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGINT, pass_on)
        while not context.join():
            pass


def save_atomically(state, path):
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)
