"""Where the training runs: two (or more) single-threaded CPU processes that average gradients, or one process with a
GPU. Checkpoints at intervals and at SIGTERM.

On a busy machine two processes of one thread are much faster than one process of two. A process that is stopped
(SIGSTOP) only makes the others wait: the timeout is hours.
"""
import datetime
import os
import platform
import signal
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


class Worker:
    """One of the processes; rank 0 writes the files."""

    def __init__(self, rank, world, store, options):
        self.rank, self.world = rank, world
        self.device = torch.device(options.device)
        self.loaders = options.loaders
        self.stop = False
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # a stage's shapes never change
        else:
            torch.set_num_threads(1)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        if world > 1:
            dist.init_process_group(
                "gloo", init_method="file://" + store, rank=rank, world_size=world, timeout=datetime.timedelta(hours=12)
            )

    def _on_stop(self, *_):
        self.stop = True

    def place(self, tensors):
        """The tensors on this worker's device; from pinned memory without waiting for the copy."""
        return [t.to(self.device, non_blocking=True) for t in tensors]

    def scalar(self, value):
        """A float64 on the device, for running means: reading a value back at every step would make a GPU wait."""
        return torch.tensor(value, dtype=torch.float64, device=self.device)

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
    worker = Worker(rank, world, store, options)
    function(worker, options)
    if world > 1:
        dist.destroy_process_group()
    return worker.stop


def launch(function, options):
    """Runs function(worker, options) in options.processes processes and waits; SIGTERM is passed on to them. Returns
    True if it was asked to stop."""
    world = options.processes
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        if world == 1:
            return _enter(0, 1, store, function, options)
        context = mp.spawn(_enter, (world, store, function, options), nprocs=world, join=False)
        stopped = []

        def pass_on(*_):
            stopped.append(True)
            for process in context.processes:
                process.terminate()

        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGINT, pass_on)
        while not context.join():
            pass
        return bool(stopped)


def device_name(device):
    """What a device is, in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def save_atomically(state, path):
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)
