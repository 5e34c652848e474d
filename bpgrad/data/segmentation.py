"""Examples for segmentation: warped and mirrored for training, at their own size for the test.

The arithmetic of the indices is the reference's (§7); what is drawn depends on seed, epoch and
index alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from bpgrad.data.pipeline import Key
from bpgrad.data.pretrained import Preprocessing
from bpgrad.data.voc import VOID, Pair, read_image, read_mask

STRIDE = 32
# The streams of what is drawn for an example; validation's does not depend on training's.
WARP, VALIDATION, DROPOUT = 1, 2, 3


@dataclass(frozen=True)
class Example:
    """An image (3, H, W), float32, preprocessed, and its labels (H', W'), uint8, VOID for void.

    `key` is that of the dropout masks.
    """

    image: Tensor
    labels: Tensor
    key: tuple[int, ...] = ()


class Examples(Dataset[Example]):
    """The pairs to train on and those to judge by, each in two views.

    By index: first the training pairs, warped (or as they are, for `size` None); then those to
    judge by, warped too; then all of them in that order at the test's size. See `warped` and
    `tested`.

    Args:
        train: The pairs to train on.
        judged: The pairs to judge by.
        preprocessing: Of the weights that the trunk starts from.
        seed: Of the run.
        size: Of the warped square. None: whole images, neither scaled nor mirrored.
        augment: False: no mirroring, and the scale's factor is 1.
        side: To which the longer side is scaled at the test; None leaves it.
        multiple: Of 32 are the test's sizes, or left as they are.
    """

    def __init__(
        self,
        train: Sequence[Pair],
        judged: Sequence[Pair],
        preprocessing: Preprocessing,
        seed: int,
        *,
        size: int | None,
        augment: bool = True,
        side: int | None = None,
        multiple: bool = True,
    ) -> None:
        self.pairs, self.trained = [*train, *judged], len(train)
        self.preprocessing, self.seed, self.size = preprocessing, seed, size
        self.augment, self.side, self.multiple = augment, side, multiple

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    @property
    def warped(self) -> range:
        """The indices of those to judge by, as they are warped while training."""
        return range(self.trained, len(self.pairs))

    @property
    def tested(self) -> range:
        """The indices of those to judge by, at the test's size."""
        return range(len(self.pairs) + self.trained, len(self))

    @property
    def training_tested(self) -> range:
        """The indices of the training pairs, at the test's size."""
        return range(len(self.pairs), len(self.pairs) + self.trained)

    def __getitem__(self, key: Key) -> Example:
        epoch, index = key
        pair = self.pairs[index % len(self.pairs)]
        pixels, labels = read_image(pair.image), read_mask(pair.mask)
        if index >= len(self.pairs):
            return self._at_size_for_test(pixels, labels)
        dropout = (self.seed, epoch, index, DROPOUT)
        if self.size is None:
            image = self.preprocessing(pixels)
            return Example(image, torch.from_numpy(labels), dropout)
        u, mirror = self.drawn(epoch, index)
        image, labels = self._warp(pixels, labels, u, mirror < 0.5)
        return Example(image, torch.from_numpy(labels), dropout)

    def drawn(self, epoch: int, index: int) -> np.ndarray:
        """What an example is warped by, float64 (2,): u of the scale, and mirrored below ½."""
        if self.size is None or not self.augment:
            return np.array([0.5, 1.0])
        stream = WARP if index < self.trained else VALIDATION
        return np.random.default_rng([self.seed, epoch, index, stream]).random(2)

    def _warp(
        self, pixels: np.ndarray, labels: np.ndarray, u: float, mirror: bool
    ) -> tuple[Tensor, np.ndarray]:
        assert self.size is not None
        rows, columns = warp_indices(labels.shape, self.size, u, mirror)
        row_inside, column_inside = (
            (found >= 0) & (found < extent)
            for found, extent in zip((rows, columns), labels.shape, strict=True)
        )
        inside = np.outer(row_inside, column_inside)
        rows, columns = (
            np.clip(found, 0, extent - 1)
            for found, extent in zip((rows, columns), labels.shape, strict=True)
        )
        grid = np.ix_(rows, columns)
        image = self.preprocessing(pixels[grid])
        image *= torch.from_numpy(inside)  # 0 after the mean's subtraction
        return image, np.where(inside, labels[grid], np.uint8(VOID))

    def _at_size_for_test(self, pixels: np.ndarray, labels: np.ndarray) -> Example:
        image = self.preprocessing(pixels)
        size = size_for_test(labels.shape, self.side, multiple=self.multiple)
        if size != labels.shape:
            # A bicubic kernel that is stretched to average where the image shrinks, as imresize's.
            image = F.interpolate(image[None], size=size, mode="bicubic", antialias=True)[0]
        return Example(image, torch.from_numpy(labels))


def warp_indices(
    shape: tuple[int, ...], size: int, u: float, mirror: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The source row and column, from 0, of every row and column of a square of `size` pixels.

    For i from 1 to `size` the row is round(s(i − size/2) + h/2), counted from 1, with
    s = max(h, w)/size · (1 + (u − ½)/5), and halves rounded up; columns alike, in reverse if
    mirrored. They may lie outside the image.

    Args:
        shape: (h, w) of the image.
        size: of the square.
        u: in [0, 1).
        mirror: left and right exchanged.
    """
    scale = max(shape) / size * (1 + (u - 0.5) / 5)
    steps = scale * (np.arange(1, size + 1) - size / 2)
    rows, columns = (np.floor(steps + extent / 2 + 0.5).astype(np.int64) - 1 for extent in shape)
    return rows, columns[::-1] if mirror else columns


def size_for_test(
    shape: tuple[int, ...], side: int | None = None, *, multiple: bool = True
) -> tuple[int, int]:
    """The size that an image of `shape` (h, w) is tested at.

    Its longer side is scaled to `side`, if that is given; then each side is rounded to a multiple
    of 32, halves up, but not to 0.
    """
    factor = 1.0 if side is None else side / max(shape)
    if not multiple:
        height, width = (max(1, round(factor * extent)) for extent in shape)
        return height, width
    height, width = (
        STRIDE * max(1, math.floor(factor * extent / STRIDE + 0.5)) for extent in shape
    )
    return height, width
