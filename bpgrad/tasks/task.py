"""The protocol between the trainer and a task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from bpgrad.metrics import Metric
from bpgrad.world import World


@dataclass(frozen=True)
class Context:
    """What the trainer tells a task: where the data is, how much of it, on which device."""

    world: World
    data_root: Path
    seed: int
    batch_size: int
    train_examples: int | None = None
    val_examples: int | None = None
    download: bool = False


@dataclass(frozen=True)
class Batch:
    """One process's share of a minibatch.

    `size` is the number of examples of the whole minibatch, over all processes. `consumed` says
    which: the bytes of their indices and of what was drawn to augment them, the same in every
    process.
    """

    inputs: Tensor
    targets: Tensor
    size: int
    consumed: bytes = b""


class Task(Protocol):
    """A data set, a model, an objective and the metrics that judge it.

    A class whose constructor takes the `Context` and, as keywords, the options of its YAML file.
    Its `data_md5()` is known without reading the data.
    """

    metrics: Mapping[str, Metric]
    """By the names that `objective` and `evaluate` return; the first is `objective`, the second the
    one that a table shows."""

    train_metrics: Sequence[str]
    """The names that `objective` returns, "objective" first."""

    @staticmethod
    def data_md5() -> Mapping[str, str]:
        """The md5 of each data file, by name."""
        ...

    def build_model(self, seed: int) -> nn.Module:
        """The model on the device, its initial weights drawn from a CPU generator."""
        ...

    def lr_multipliers(self, model: nn.Module) -> Mapping[str, float]:
        """Factors of the learning rate by parameter name; absent means 1."""
        ...

    def preprocessed(self) -> Mapping[str, Tensor]:
        """The data as it is held in memory, by name, for a checksum; empty if it is streamed."""
        ...

    def batch_order(self, epoch: int) -> Tensor:
        """The training examples' indices (int64, CPU) in the order of an epoch."""
        ...

    def train_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The minibatches of an epoch (from 1) from iteration `start` on.

        They depend on the seed and the epoch alone: not on solver, world size or resume point.
        """
        ...

    def objective(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The scalar to minimise under "objective", and further metrics of the batch, detached.

        Each value's mean over the processes is the mean over the whole minibatch.
        """
        ...

    @torch.no_grad()
    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """The metrics on the whole validation set, in test mode."""
        ...

    @torch.no_grad()
    def evaluate_training(self, model: nn.Module) -> dict[str, float]:
        """The same on the training set, its examples as they are: not augmented, not mirrored."""
        ...
