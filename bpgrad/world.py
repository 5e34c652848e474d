"""The processes that train one model together; one process is the ordinary case."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bpgrad.errors import BPGradError, ConfigError, PeerLost

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """A process among those of a `torchrun`; for one alone every collective is the identity."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the record."""
        return self.rank == 0

    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean_(self, values: torch.Tensor) -> torch.Tensor:
        """Average a tensor over the processes, in place."""
        return self.sum_(values).div_(self.size) if self.size > 1 else values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; synchronises."""
        if self.size == 1:
            return flag
        return bool(self.sum_(torch.tensor(float(flag), device=self.device)).item())

    def from_main(self, call: Callable[[], T]) -> T:
        """What `call`, made in the first process only, returns; in every process.

        So is the BPGradError that it raises.
        """
        if self.size == 1:
            return call()
        found: list[Any] = [None, None]
        if self.is_main:
            try:
                found[0] = call()
            except BPGradError as error:
                found[1] = error
        dist.broadcast_object_list(found, device=self.device)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def gather(self, value: T) -> list[T]:
        """What each process has, by its rank, in every process."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def unsynchronised(self, model: nn.Module) -> AbstractContextManager[None]:
        """While entered, gradients of a parallel model are added up in this process only."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device.

    Raises ConfigError if CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device is visible to torch; use device=cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    # The remainder, for where each process is shown a GPU of its own.
    return torch.device("cuda", local_rank % torch.cuda.device_count())


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the process group that `torchrun` describes, or be a world of one.

    Raises PeerLost where another process of the group has ended.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World(choose_device(device))
        return
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(chosen, dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise PeerLost(
            "another process of this run has ended (its own message, or torchrun's, says why); the "
            "same command resumes"
        ) from error
    finally:
        dist.destroy_process_group()
