"""Examples for detection: scaled photos, and the regions of each to train on or to test.

What is drawn depends on seed, epoch and index alone: never on solver, process or resume point.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from bpgrad.data import order, proposals
from bpgrad.data.pipeline import Key
from bpgrad.data.pretrained import Preprocessing
from bpgrad.data.proposals import REGIONS, Labelled
from bpgrad.data.voc import Photo, read_image

MIRRORS = ("copies", "coin", "none")
SAME = 1e-3  # factors as near to 1 leave the photo as it is
DROPOUT = 3  # of the keys


@dataclass(frozen=True)
class Example:
    """A photo (3, H, W), float32, preprocessed and scaled, and regions of it.

    `boxes` (R, 4), float32: x1, y1, x2, y2 in its pixels, counted from 1. `labels` (R,), int64; 20
    is background. `targets` (R, 4), float32, normalised. The first `foreground` show an object; a
    batch takes as many as its quota lets it. `key` is that of the dropout masks.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    targets: Tensor
    foreground: int
    key: tuple[int, ...]

    def with_quota(self, quota: int) -> "Example":
        """The first `quota` regions that show an object, filled up to 64 with background."""
        rest = slice(self.foreground, self.foreground + REGIONS - quota)
        boxes, labels, targets = (
            torch.cat([each[:quota], each[rest]])
            for each in (self.boxes, self.labels, self.targets)
        )
        return Example(self.image, boxes, labels, targets, quota, self.key)


@dataclass(frozen=True)
class Tested:
    """A photo as it is tested: `boxes` (N, 4), float32, are all its proposals, scaled with it.

    `index` is its place among all photos.
    """

    image: Tensor
    boxes: Tensor
    index: int


class Examples(Dataset[Example | Tested]):
    """The photos to train on and those to judge by, in three views.

    By index: first the training photos as they are trained on (twice, for `mirror` "copies"), then
    all photos with regions that are the same in every epoch and not mirrored, the training photos
    first; then all of them in that order as they are tested. See `sampled` and `tested`.

    Args:
        train: The photos to train on.
        judged: The photos to judge by.
        boxes: The proposals of each, filtered, float64 (N, 4), counted from 1.
        preprocessing: Of the weights that the trunk starts from.
        seed: Of the run.
        short: To which the shorter side is scaled, in pixels.
        long: The most that the longer side may have then.
        mirror: "copies": every photo and its mirror image, "coin": one of the two, or "none".

    Raises DataError for proposals that do not belong to their photo.
    """

    def __init__(
        self,
        train: Sequence[Photo],
        judged: Sequence[Photo],
        boxes: Sequence[np.ndarray],
        preprocessing: Preprocessing,
        seed: int,
        *,
        short: int,
        long: int,
        mirror: str,
    ) -> None:
        self.photos, self.photos_trained = [*train, *judged], len(train)
        self.boxes, self.preprocessing, self.seed = list(boxes), preprocessing, seed
        self.short, self.long, self.mirror = short, long, mirror
        self.trained = len(train) * (2 if mirror == "copies" else 1)
        kept, counts, self.digests = [], [], []  # all regions of all images would be gigabytes
        for photo, its in zip(self.photos, self.boxes, strict=True):
            proposals.check(photo.objects.name, its, photo.objects.width, photo.objects.height)
            every = proposals.labelled(its, photo.objects)
            kept.append(every.shown())
            counts.append((len(kept[-1].boxes), (every.labels == proposals.BACKGROUND).sum()))
            self.digests.append(_digest(every))
        self.mean, self.std = proposals.target_scale(kept[: len(train)], mirrored=mirror != "none")
        shown, self.background = np.array(counts).T
        self.foreground = np.minimum(shown, proposals.FOREGROUND)

    def __len__(self) -> int:
        return self.trained + 2 * len(self.photos)

    def sampled(self, *, training: bool = False) -> range:
        """Indices of photos with the same regions in every epoch: to judge by, or to train on."""
        return self._range(self.trained, training)

    def tested(self) -> range:
        """The indices of those to judge by, with all their proposals."""
        return self._range(self.trained + len(self.photos), False)

    def _range(self, first: int, training: bool) -> range:
        middle = first + self.photos_trained
        return range(first, middle) if training else range(middle, first + len(self.photos))

    def photo(self, index: int) -> int:
        """Which photo an index is of."""
        if index < self.trained:
            return index % self.photos_trained
        return (index - self.trained) % len(self.photos)

    def is_mirrored(self, epoch: int, index: int) -> bool:
        """Whether a photo is trained on as its mirror image."""
        if index >= self.trained or self.mirror == "none":
            return False
        if self.mirror == "copies":
            return index >= self.photos_trained
        return bool(order.example_draws(self.seed, epoch, index, 1)[0] < 0.5)

    def consumed(self, epoch: int, index: int) -> bytes:
        """What tells an example from another: its regions, which are drawn, and the mirror."""
        drawn = order.example_draws(self.seed, epoch, index, 2).tobytes()
        return self.digests[self.photo(index)] + drawn + bytes([self.is_mirrored(epoch, index)])

    def scaled_size(self, index: int) -> tuple[int, int]:
        """The height and width of a photo as it is trained on or tested."""
        objects = self.photos[self.photo(index)].objects
        return self._size(objects.height, objects.width)[0]

    def __getitem__(self, key: Key) -> Example | Tested:
        epoch, index = key
        number = self.photo(index)
        photo, boxes = self.photos[number], self.boxes[number]
        pixels = read_image(photo.image)
        if index >= self.trained + len(self.photos):
            image, factor = self._scaled(pixels, antialias=False)
            return Tested(image, _scaled_boxes(boxes, factor, image), number)
        its = proposals.labelled(boxes, photo.objects)
        # The first draw is the coin.
        draws = order.example_draws(self.seed, epoch, index, len(its.boxes) + 1)[1:]
        shown, others = proposals.shuffled(its.labels, draws)
        chosen = np.concatenate([shown, others])
        boxes, truth, labels = its.boxes[chosen], its.targets[chosen], its.labels[chosen]
        if self.is_mirrored(epoch, index):
            pixels = pixels[:, ::-1]
            boxes, truth = (proposals.mirrored(each, pixels.shape[1]) for each in (boxes, truth))
        targets = np.zeros((len(chosen), 4))
        first = slice(0, len(shown))
        targets[first] = proposals.encode(boxes[first], truth[first])
        targets[first] = (targets[first] - self.mean[labels[first]]) / self.std[labels[first]]
        image, factor = self._scaled(pixels, antialias=True)
        return Example(
            image,
            _scaled_boxes(boxes, factor, image),
            torch.from_numpy(labels),
            torch.from_numpy(targets.astype(np.float32)),
            len(shown),
            (self.seed, epoch, index, DROPOUT),
        )

    def _scaled(self, pixels: np.ndarray, *, antialias: bool) -> tuple[Tensor, float]:
        """The preprocessed image at its size, and the factor of its sides."""
        size, factor = self._size(*pixels.shape[:2])
        image = self.preprocessing(pixels)
        if factor == 1:
            return image, factor
        scaled = F.interpolate(image[None], size=size, mode="bilinear", antialias=antialias)
        return scaled[0], factor

    def _size(self, height: int, width: int) -> tuple[tuple[int, int], float]:
        """What a photo is scaled to, and the factor of its sides."""
        factor = proposals.scale_factor(width, height, self.short, self.long)
        if abs(factor - 1) <= SAME:
            return (height, width), 1.0
        return (max(1, round(factor * height)), max(1, round(factor * width))), factor


def _scaled_boxes(boxes: np.ndarray, factor: float, image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    return torch.from_numpy(proposals.rescaled(boxes, factor, width, height).astype(np.float32))


def _digest(its: Labelled) -> bytes:
    content = its.boxes.tobytes() + its.labels.astype(np.int64).tobytes() + its.targets.tobytes()
    return hashlib.sha256(content).digest()[:8]


def padded(images: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
    """Images (3, H, W) as (N, 3, H, W) of a size (H, W), with 0 beside them.

    By default the greatest height and the greatest width of them.
    """
    height, width = size or (max(image.shape[side] for image in images) for side in (1, 2))
    found = images[0].new_zeros(len(images), 3, height, width)
    for k, image in enumerate(images):
        found[k, :, : image.shape[1], : image.shape[2]] = image
    return found
