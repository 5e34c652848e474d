"""The minibatches of an epoch where a captured iteration finds them: by a counter on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bpgrad.data.images import ImageSet


def consumed(indices: Tensor, mirrored: bool) -> bytes:
    """Which examples a minibatch has, and whether they are mirrored: what a record's hash is of."""
    return indices.numpy().tobytes() + bytes([mirrored])


class StaticBatches:
    """An epoch's order and mirror coins in buffers that keep their addresses.

    They go to the device once an epoch, and `take` reads them there: one captured `take` gives
    every minibatch of every epoch, as the counter says.

    Args:
        images: the set, on the device.
        size: examples in a minibatch; the last may have fewer.
        mirror: whether minibatches are mirrored, each by a coin.
    """

    def __init__(self, images: ImageSet, size: int, *, mirror: bool) -> None:
        self.images, self.mirror = images, mirror
        count, device = -(-len(images) // size), images.labels.device
        self._order = torch.zeros(count, size, dtype=torch.int64, device=device)
        self._coins = torch.zeros(count, dtype=torch.bool, device=device)

    def load(self, batches: Sequence[tuple[Tensor, bool]]) -> list[bytes]:
        """Take up an epoch: the indices (int64, CPU) of each minibatch, and whether to mirror.

        Returns what each consumes.
        """
        order = torch.zeros(self._order.shape, dtype=torch.int64)
        indices = torch.cat([each for each, _ in batches])
        order.view(-1)[: len(indices)] = indices
        self._order.copy_(order)
        self._coins.copy_(torch.tensor([mirrored for _, mirrored in batches]))
        return [consumed(*each) for each in batches]

    def take(self, at: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Images and labels of minibatch `at`, shape (1,), int64, on the device; `size` of them."""
        images, labels = self.images.batch(self._order.index_select(0, at).view(-1)[:size])
        if self.mirror:
            coin = self._coins.index_select(0, at).view(1, 1, 1, 1)
            images = torch.where(coin, images.flip(3), images)
        return images, labels
