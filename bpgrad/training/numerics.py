"""How this process computes (threads, memory, determinism, arithmetic), and what a task is told."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch

from bpgrad.errors import ConfigError
from bpgrad.tasks.task import Context
from bpgrad.training.config import Config
from bpgrad.world import World

# Parameters of glibc's mallopt(3), and the largest threshold that it accepts.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20

ALL_THREADS = torch.get_num_threads()  # before any run of this process has set its own
THREADS_A_CORE = 8  # more are a mistake: they crawl


def configure_torch(cfg: Config, device: torch.device) -> None:
    """Threads, memory, determinism and float32 arithmetic of this process.

    Raises ConfigError if the device cannot do what is asked.
    """
    if cfg.precision == "tf32" and device.type != "cuda":
        raise ConfigError("precision=tf32: needs a CUDA device; use fp32 or bf16")
    if cfg.step == "graph" and device.type != "cuda":
        raise ConfigError("step=graph: needs a CUDA device; use auto or eager")
    if cfg.threads is not None and cfg.threads > THREADS_A_CORE * cores():
        raise ConfigError(
            f"threads={cfg.threads}: far more than the {cores()} cores here; leave it out for all"
        )
    torch.set_grad_enabled(True)  # foreign code of a run before this one may have left it off
    torch.set_num_threads(cfg.threads or ALL_THREADS)
    _keep_freed_memory()
    # Weight decay shrinks the weights of dead units without end. Below 1.2e-38 a product costs some
    # processors many times as much, for less than rounding. Threads inherit the setting from the
    # one that starts them: it has to come before the first parallel operation.
    for dtype in (np.float32, np.float64):  # older NumPy measures these, and warns if flushed
        np.finfo(dtype)
    torch.set_flush_denormal(True)
    arithmetic = "tf32" if cfg.precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = arithmetic
    torch.backends.cudnn.conv.fp32_precision = arithmetic  # type: ignore[attr-defined]
    _set_before_cuda_starts()
    torch.use_deterministic_algorithms(cfg.deterministic)
    # It would also fill every new tensor, at a cost; nothing here reads what it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(cfg.seed)


def new_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream beside CUDA's default one, which a graph cannot capture; None on a CPU."""
    _set_before_cuda_starts()
    return torch.cuda.Stream(device) if device.type == "cuda" else None


@contextmanager
def own_stream(world: World) -> Iterator[None]:
    """Compute on a stream of its own, where one process trains the model."""
    stream = new_stream(world.device) if world.size == 1 else None
    with nullcontext() if stream is None else torch.cuda.stream(stream):
        yield


def _set_before_cuda_starts() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else nothing is deterministic
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams that do not wait in line


def context_of(cfg: Config, world: World) -> Context:
    """What a task is told of a configuration."""
    return Context(
        world=world,
        data_root=Path(cfg.data_root),
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        train_examples=cfg.scale.train_examples,
        val_examples=cfg.scale.val_examples,
        download=cfg.download,
        workers=available_workers() if cfg.workers is None else cfg.workers,
        epochs=cfg.epochs,
    )


def available_workers() -> int:
    """The processes that may read and augment beside the training one: a core for each."""
    return cores() - 1


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep_freed_memory() -> None:
    """Let glibc keep what an iteration frees for the next one, instead of asking the system again.

    Fresh activations cost thousands of page faults an iteration otherwise. Other C libraries have
    no such switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**30)
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
