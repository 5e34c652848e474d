"""What the trainer asks of a task."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor, nn

from bpgrad.metrics import Metric
from bpgrad.world import World


@dataclass(frozen=True)
class Context:
    """What the trainer tells a task: where the data is, how much of it, on which device.

    `workers` is the number of processes that read and augment, for tasks that stream their data; 0
    does it in the training process. It never changes a batch. `epochs` is the length of the
    run, for tasks that judge its last ones more thoroughly; None judges every one so.
    """

    world: World
    data_root: Path
    seed: int
    batch_size: int
    train_examples: int | None = None
    val_examples: int | None = None
    download: bool = False
    workers: int = 0
    epochs: int | None = None


@dataclass(frozen=True)
class Batch:
    """One process's share of a minibatch.

    `inputs` and `targets` are tensors with an example a row, or lists with an element an example,
    as images of different sizes and their boxes. `size` is the number of examples of the whole
    minibatch, over all processes. `consumed` says which: the bytes of their indices and of what was
    drawn to augment them, the same in every process.
    """

    inputs: Any
    targets: Any
    size: int
    consumed: bytes = b""

    def split(self, examples: int | None, processes: int = 1) -> Sequence["Batch"]:
        """Micro-batches of at most so many examples; None keeps it whole.

        As many in each of the processes, where one may have no example in the last: layers that
        normalise over a batch wait for each other.
        """
        most = -(-self.size // processes)  # the first process's share
        if examples is None or most <= examples:
            return (self,)
        return tuple(
            replace(
                self,
                inputs=self.inputs[first : first + examples],
                targets=self.targets[first : first + examples],
            )
            for first in range(0, most, examples)
        )


class Task(ABC):
    """A data set, a model, an objective and the metrics that judge it.

    The constructor takes the `Context` and, as keywords, the options of its YAML file.
    """

    metrics: Mapping[str, Metric]
    """By the names that `objective` and `evaluate` return; the first is `objective`, the second the
    one that a table shows. Further ones may be of single classes."""

    train_metrics: Sequence[str]
    """The names that `objective` returns, "objective" first."""

    data_key: Hashable = None
    """What the data depends on, where runs side by side share a copy of it."""

    static_shapes: bool = False
    """Whether all minibatches but the last have one shape, and `load_epoch` and `take` give them:
    then an iteration can be captured in a CUDA graph, where `objective` needs no host."""

    fixed_last: int = 1
    """After how many of the last epochs `evaluate_training` is called, beside every tenth."""

    @staticmethod
    @abstractmethod
    def data_md5(data_root: Path) -> Mapping[str, str]:
        """The md5 of each data file, by name, or of the manifest of many.

        Known without the data where they are pinned: it is a part of a run's name.
        """

    @classmethod  # noqa: B027
    def fetch(cls, data_root: Path) -> None:
        """With `download=true`, before a run is named: get what `data_md5` depends on, if any."""

    @abstractmethod
    def build_model(self, seed: int) -> nn.Module:
        """The model on the device, its initial weights drawn from a CPU generator.

        Parameters that do not require a gradient are frozen for every solver.
        """

    def lr_multipliers(self, model: nn.Module) -> Mapping[str, float]:
        """Factors of the learning rate by parameter name; absent means 1."""
        return {}

    def decay_multipliers(self, model: nn.Module) -> Mapping[str, float]:
        """Factors of the weight decay by parameter name, for every solver; absent means 1."""
        return {}

    def preprocessed(self) -> Mapping[str, Tensor]:
        """The data as it is held in memory, by name, for a checksum; empty if it is streamed."""
        return {}

    @abstractmethod
    def batch_order(self, epoch: int) -> Tensor:
        """The training examples' indices (int64, CPU) in the order of an epoch."""

    @abstractmethod
    def train_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The minibatches of an epoch (from 1) from iteration `start` on.

        They depend on the seed and the epoch alone: not on solver, world size or resume point.
        """

    def load_epoch(self, epoch: int) -> Sequence[bytes]:
        """Put an epoch's order where `take` finds it; what each minibatch has consumed."""
        raise NotImplementedError

    def take(self, at: Tensor, size: int) -> tuple[Any, Any]:
        """Inputs and targets of the epoch's minibatch `at`, shape (1,), int64, on the device.

        The same as `train_batches` gives, of `size` examples, without the host.
        """
        raise NotImplementedError

    @abstractmethod
    def objective(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The scalar to minimise under "objective", and further metrics of the batch, detached.

        Each value, summed over a minibatch's micro-batches and averaged over the processes, is the
        mean over the whole minibatch.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """The metrics on the whole validation set, in test mode."""

    @abstractmethod
    def evaluate_training(self, model: nn.Module) -> dict[str, float]:
        """The same on the training set, its examples as they are: not augmented, not mirrored."""

    def pictures(self, model: nn.Module) -> Mapping[str, Image]:
        """Small pictures of what the trained model does, by name; called once, in one process."""
        return {}

    def outputs(self, model: nn.Module) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
        """Files of what the trained model does, by name; called once, in one process.

        Small ones for the record, and larger ones that lie beside the checkpoints.
        """
        return {}, {}
