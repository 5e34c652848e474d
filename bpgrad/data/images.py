"""A labelled set of images held in memory as one tensor."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from bpgrad.data.order import holdout_split, noisy_labels
from bpgrad.errors import ConfigError


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W), float32, channels_last in memory, with their labels (N,), int64.

    Channels_last because the convolutions run about twice as fast on it; every batch inherits it.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.dtype != torch.float32:
            raise ValueError(
                f"images: expected float32 (N, C, H, W), got {self.images.dtype} "
                f"{tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels: expected int64 ({len(self.images)},), got {self.labels.dtype} "
                f"{tuple(self.labels.shape)}"
            )
        if not self.images.permute(0, 2, 3, 1).is_contiguous():
            raise ValueError("images: expected channels_last memory, see ImageSet.from_nhwc")

    @classmethod
    def from_nhwc(cls, pixels: Tensor, labels: Tensor) -> Self:
        """A set over `pixels` (N, H, W, C), float32 and contiguous, without copying them."""
        return cls(pixels.permute(0, 3, 1, 2), labels)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, n: int) -> Self:
        """The first `n` images, at most all, sharing memory with this set."""
        return type(self)(self.images[:n], self.labels[:n])

    def hold_out(self, part: float) -> tuple[Self, Self]:
        """The images to train on, and a `part` of all in their place to validate on (copies).

        Raises ConfigError if one of the two would be empty.
        """
        sets = holdout_split(len(self), part) if 0 < part < 1 else ()
        if not sets or not all(map(len, sets)):
            raise ConfigError(
                f"task.holdout={part}: must be a part of the {len(self)} training examples, 0.1 "
                "for a tenth of them"
            )
        kept, held = (type(self)(*self.batch(indices)) for indices in sets)
        return kept, held

    def with_label_noise(self, part: float) -> Self:
        """The same images with a `part` of the labels drawn at random over all classes.

        Raises ConfigError unless 0 ≤ part ≤ 1.
        """
        if not 0 <= part <= 1:
            raise ConfigError(f"task.label_noise={part}: must be a part of the labels, 0.1 a tenth")
        if not part:
            return self
        classes = int(self.labels.max()) + 1
        return type(self)(self.images, noisy_labels(self.labels, part, classes))

    def to(self, device: torch.device | str) -> Self:
        """The same set on `device`."""
        return type(self)(self.images.to(device), self.labels.to(device))

    @property
    def rows(self) -> Tensor:
        """The images as (N, H·W·C), a view: one contiguous row an image."""
        return self.images.permute(0, 2, 3, 1).flatten(1)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), channels_last, and labels (B,) at `indices` (B,), int64.

        `indices` lie on the set's device. The result is a copy and may be changed in place.
        """
        _, c, h, w = self.images.shape
        images = self.rows.index_select(0, indices).view(-1, h, w, c).permute(0, 3, 1, 2)
        return images, self.labels.index_select(0, indices)


def divided(
    train: ImageSet,
    test: ImageSet,
    sizes: tuple[int | None, int | None],
    holdout: float = 0.0,
    label_noise: float = 0.0,
    judge_test: bool = False,
) -> tuple[ImageSet, dict[str, ImageSet]]:
    """The images to train on, and those to judge by, by the prefix of their metrics' names.

    The latter are the held-out ones, or the test images where none are held out; with `judge_test`
    both. `sizes` are the numbers of images to train on (held-out ones among them) and of each set
    to judge by; None means all. The labels of neither of these are noisy.

    Raises ConfigError for parts that there cannot be, and for `judge_test` without `holdout`.
    """
    if judge_test and not holdout:
        raise ConfigError("task.judge_test: the test images are judged anyway without a holdout")
    train, test = (each.take(n or len(each)) for each, n in zip((train, test), sizes, strict=True))
    judged = {"": test}
    if holdout:
        train, held = train.hold_out(holdout)
        judged = {"": held.take(sizes[1] or len(held))} | ({"test_": test} if judge_test else {})
    return train.with_label_noise(label_noise), judged


def mean_centred(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray]
) -> tuple[ImageSet, ImageSet]:
    """Two sets of grey images, each minus the mean image of the training part, otherwise unscaled.

    Args:
        train: pixels uint8 (N, H, W) and labels (N,), any integer type.
        val: the same for the validation part.
    """
    mean = train[0].mean(axis=0, dtype=np.float64)

    def centred(pixels: np.ndarray, labels: np.ndarray) -> ImageSet:
        images = np.subtract(pixels, mean, dtype=np.float32, casting="same_kind")
        return ImageSet.from_nhwc(
            torch.from_numpy(images[..., np.newaxis]), torch.from_numpy(labels.astype(np.int64))
        )

    return centred(*train), centred(*val)
