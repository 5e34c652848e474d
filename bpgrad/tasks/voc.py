"""What detection and segmentation on Pascal VOC share: what is held out, and how it is loaded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bpgrad.data import order
from bpgrad.data.pipeline import EpochLoader
from bpgrad.errors import ConfigError
from bpgrad.tasks.task import Context, Task
from bpgrad.world import World

T = TypeVar("T")


class OnVoc(Task):
    """Images of different sizes, streamed; a net from pretrained weights, on the device.

    A constructor sets `context`, `world`, `load` and `trained`, the number of examples of an epoch.
    """

    context: Context
    world: World
    load: EpochLoader
    trained: int

    def _build(self, generator: torch.Generator) -> nn.Module:
        """The net, from its weights."""
        raise NotImplementedError

    def build_model(self, seed: int) -> nn.Module:
        model = self._build(torch.Generator().manual_seed(seed))
        return model.to(self.world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def lr_multipliers(self, model: nn.Module) -> Mapping[str, float]:
        found: Mapping[str, float] = model.lr_multipliers()  # type: ignore[operator]
        return found

    def batch_order(self, epoch: int) -> Tensor:
        return order.train_order(self.trained, self.context.seed, epoch)

    def _loaded(self, epoch: int, start: int) -> Iterator[tuple[list[int], list[Any]]]:
        """The indices of each minibatch from `start` on, and this process's share of examples."""
        batches = self.batch_order(epoch).split(self.context.batch_size)[start:]
        shares = [indices[self.world.rank :: self.world.size].tolist() for indices in batches]
        for indices, examples in zip(batches, self.load(epoch, shares), strict=True):
            yield indices.tolist(), examples

    def _share(self, epoch: int, indices: Sequence[int], size: int) -> Iterator[list[Any]]:
        """Some examples in batches, of which every process has whole ones."""
        batches = [indices[k : k + size] for k in range(0, len(indices), size)]
        return self.load(epoch, batches[self.world.rank :: self.world.size])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Compute in this process what the processes share otherwise."""
        world, self.world = self.world, World(self.world.device)
        try:
            yield
        finally:
            self.world = world

    def on_device(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) on the device."""
        return images.to(self.world.device, memory_format=torch.channels_last, non_blocking=True)


def divided(
    train: Sequence[T], test: Sequence[T], context: Context, holdout: float
) -> tuple[Sequence[T], Sequence[T]]:
    """The examples to train on, and those to judge by: the test's, or the last ones for training.

    Args:
        train: All to train on, by name.
        test: All to test on.
        context: How many of each there are to be.
        holdout: The part of the training examples that takes the place of the test's.

    Raises ConfigError for a part that there cannot be, and for a batch that is larger.
    """
    train, test = train[: context.train_examples], test[: context.val_examples]
    if holdout:
        kept = len(train) - round(holdout * len(train))
        if not 0 < kept < len(train):
            raise ConfigError(
                f"task.holdout={holdout}: must be a part of the {len(train)} training examples, "
                "0.1 for a tenth of them"
            )
        train, test = train[:kept], train[kept:]
    if context.batch_size > len(train):
        raise ConfigError(
            f"batch_size={context.batch_size}: above the {len(train)} training examples"
        )
    return train, test


def check_shares(examples: int, context: Context) -> None:
    """Raise ConfigError if a process would have none of the last examples of an epoch."""
    last, processes = (examples - 1) % context.batch_size + 1, context.world.size
    if last < processes:
        raise ConfigError(
            f"batch_size={context.batch_size}: the last minibatch of an epoch has {last} of "
            f"{examples} examples, fewer than the {processes} processes"
        )


def as_list(examples: list[T]) -> list[T]:
    """The examples of a batch as they are: images differ in size."""
    return examples
