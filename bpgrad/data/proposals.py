"""Proposals for Fast R-CNN: read, filtered, labelled and sampled (reference §6).

Boxes are float64 (N, 4): x1, y1, x2, y2, counted from 1, both ends inside.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bpgrad.data import voc
from bpgrad.data.files import Source, in_words
from bpgrad.data.voc import Annotation
from bpgrad.errors import DataError

SMALLEST = 20  # pixels of a side
REGIONS, FOREGROUND = 64, 16  # of an image, and at most so many that show an object
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
BACKGROUND = 20  # the last label: the classes come first, as in the reference


def read_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The boxes of images by name, of a published .mat file of selective search.

    There are two kinds. A file of one image has the array `boxes`, x1 y1 x2 y2 counted from 0; it
    is of the image that its name begins with, NAME_boxes.mat. A file of a whole split has the cells
    `boxes`, y1 x1 y2 x2 counted from 1, and `images`, their names.

    Raises DataError: missing, damaged, of neither kind, or without one of `names`.
    """
    import scipy.io  # slow to import, and most runs do not need it

    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # whatever SciPy raises of a damaged file
        raise DataError(f"{path}: truncated or no .mat file ({error})") from error
    boxes = content.get("boxes")
    if boxes is None:
        raise DataError(f"{path}: has no boxes")
    if boxes.dtype != object:
        found = {path.stem.removesuffix("_boxes"): _four(path, boxes) + 1}
    elif "images" in content and content["images"].size == boxes.size:
        each = zip(content["images"].ravel(), boxes.ravel(), strict=True)
        found = {str(_only(name)): _four(path, its)[:, [1, 0, 3, 2]] for name, its in each}
    else:
        raise DataError(f"{path}: has boxes of several images, but not as many names in `images`")
    if lacking := [name for name in names if name not in found]:
        raise DataError(f"{path}: has no proposals for image {lacking[0]}")
    return {name: found[name] for name in names}


class _Published(Source):
    """The published proposals as their reader checks them; of all images where VOC 2007 is."""

    def is_absent(self, data_root: Path) -> bool:
        return not any(path.exists() for path in _published(data_root).values())

    def verify(self, data_root: Path) -> None:
        for split, path in _published(data_root).items():
            its = voc.main_list(data_root / voc.VOC2007, split)
            there = not voc.WHOLE_2007.is_absent(data_root) and its.is_file()
            self.read_mat(path, voc.read_list(its) if there else [])

    def read_mat(self, path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
        """As the function; an error says how to get the file."""
        try:
            return read_mat(path, names)
        except DataError as error:
            raise DataError(f"{self.name}: {error}; {self.by_hand}") from error


ARCHIVE = {"r-cnn-release1-selective-search.tgz": "6cf6df219c1e514f64482f11d00bd0b4"}
PUBLISHED = _Published(
    "voc2007-proposals",
    "selective_search_data",
    ARCHIVE,
    by_hand=f"unpack {in_words(ARCHIVE)}, of github.com/rbgirshick/rcnn, and place its folder "
    "selective_search_data in data_root; docs/voc.md",
)


def _published(data_root: Path) -> dict[str, Path]:
    """The file of each split."""
    folder = data_root / PUBLISHED.folder
    return {split: folder / f"voc_2007_{split}.mat" for split in voc.LISTS_2007}


def published(data_root: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The published proposals of images of VOC 2007, by name.

    Raises DataError: a list or a file is missing or damaged, or has not one of them.
    """
    known: dict[str, np.ndarray] = {}
    for split, path in _published(data_root).items():
        its = {*names} & {*voc.read_list(voc.main_list(data_root / voc.VOC2007, split))}
        known |= PUBLISHED.read_mat(path, sorted(its)) if its else {}
    return known


def _four(path: Path, boxes: np.ndarray) -> np.ndarray:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"{path}: boxes of shape {boxes.shape}, expected (N, 4)")
    return boxes.astype(np.float64)  # they may be unsigned, where 0 − 1 is 65535


def _only(value: Any) -> Any:
    return np.asarray(value).ravel()[0]


def check(name: str, boxes: np.ndarray, width: int, height: int) -> None:
    """Raise DataError for proposals that are none, or of an image of another size."""
    if not len(boxes):
        raise DataError(f"image {name}: has no proposals")
    if boxes[:, :2].min() < 1 or boxes[:, 2].max() > width or boxes[:, 3].max() > height:
        raise DataError(
            f"image {name}: has proposals outside its {width} × {height} pixels: they are of "
            "another size, or counted from 0"
        )


def filtered(boxes: np.ndarray) -> np.ndarray:
    """Those with sides of at least 20 pixels, each once, in the order given."""
    large = (boxes[:, 2:] - boxes[:, :2] + 1 >= SMALLEST).all(1)
    kept = boxes[large]
    _, first = np.unique(kept, axis=0, return_index=True)
    return kept[np.sort(first)]


def jittered(annotation: Annotation, count: int, generator: np.random.Generator) -> np.ndarray:
    """Oracle proposals: `count` of each object, moved and scaled by up to three tenths of it.

    They know the truth: what is reached with them is no result of a detector.
    """
    boxes = np.repeat(annotation.boxes, count, axis=0)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)
    moved = np.round(boxes + generator.uniform(-0.3, 0.3, boxes.shape) * sides)
    limits = (annotation.width, annotation.height) * 2
    return filtered(np.clip(moved, 1, limits))


@dataclass(frozen=True)
class Labelled:
    """Proposals of an image with what they show.

    `labels` (N,): the class of the object that each overlaps most where that is at least ½,
    BACKGROUND from a tenth on, −1 below, which is not trained on. `targets` (N, 4): the box of that
    object.
    """

    boxes: np.ndarray
    labels: np.ndarray
    targets: np.ndarray

    def shown(self) -> "Labelled":
        """Those that show an object."""
        of = (self.labels >= 0) & (self.labels < BACKGROUND)
        return Labelled(self.boxes[of], self.labels[of], self.targets[of])


def labelled(proposals: np.ndarray, annotation: Annotation) -> Labelled:
    """Proposals, and the objects themselves after them, with what they show; difficult ones too."""
    boxes = np.concatenate([proposals, annotation.boxes])
    from torchvision.ops import box_iou  # slow to import, and checking settings does not need it

    labels, targets = np.full(len(boxes), -1), np.zeros((len(boxes), 4))
    if not len(annotation.boxes):
        return Labelled(boxes, labels, targets)
    # Both ends are inside: a box ends one pixel further on than its last.
    further = np.array([0, 0, 1, 1])
    ends = (torch.from_numpy(each + further) for each in (boxes, annotation.boxes))
    overlaps = box_iou(*ends).numpy()
    best, highest = overlaps.argmax(1), overlaps.max(1)
    labels[highest >= BACKGROUND_IOU] = BACKGROUND
    shows = highest >= FOREGROUND_IOU
    labels[shows] = annotation.labels[best[shows]]
    return Labelled(boxes, labels, annotation.boxes[best])


def shuffled(
    labels: np.ndarray,
    draws: np.ndarray,
    *,
    regions: int = REGIONS,
    foreground: int = FOREGROUND,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of regions of an image to train on: that show an object, and that do not.

    Each at random without replacement: by the size of `draws` (N,). At most `foreground` and
    `regions` of them; a batch takes as many of the first as its quota lets it, and fills up with
    the others.
    """
    shows = np.flatnonzero((labels >= 0) & (labels < BACKGROUND))
    others = np.flatnonzero(labels == BACKGROUND)
    by_draw = (its[np.argsort(draws[its], kind="stable")] for its in (shows, others))
    first, rest = by_draw
    return first[:foreground], rest[:regions]


def quotas(counts: Sequence[int], *, shrinking: bool = True) -> list[int]:
    """How many regions of each image of a batch may show an object, given how many there are.

    The reference shrinks the quota in place: after an image with n below it, the next ones may have
    n at most.
    """
    found, left = [], FOREGROUND
    for count in counts:
        found.append(min(left, count))
        if shrinking:
            left = found[-1]
    return found


def target_scale(each: Sequence[Labelled], *, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the targets of each class, (21, 4), over all regions.

    Of the population, as the reference's. Deviations of 0, and those of classes that no region
    shows, are 1; background has the mean 0.

    Args:
        each: Of the images to train on.
        mirrored: Over the images and their mirror images.
    """
    shown = [its.shown() for its in each]
    labels = np.concatenate([its.labels for its in shown])
    targets = np.concatenate([encode(its.boxes, its.targets) for its in shown])
    if mirrored:
        labels = np.concatenate([labels, labels])
        targets = np.concatenate([targets, targets * [-1, 1, 1, 1]])
    counts = np.maximum(np.bincount(labels, minlength=BACKGROUND + 1), 1)[:, None]
    mean, square = np.zeros((2, BACKGROUND + 1, 4))
    np.add.at(mean, labels, targets)
    mean /= counts
    np.add.at(square, labels, (targets - mean[labels]) ** 2)
    std = np.sqrt(square / counts)
    return mean, np.where(std > 0, std, 1.0)


def encode(boxes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Targets (N, 4) relative to boxes (N, 4): (Δx/w, Δy/h, ln w*/w, ln h*/h), of the centres.

    Widths are x2 − x1 + 1, and centres x1 + w/2.
    """
    size, its = (each[:, 2:] - each[:, :2] + 1 for each in (boxes, targets))
    centre, other = boxes[:, :2] + size / 2, targets[:, :2] + its / 2
    return np.concatenate([(other - centre) / size, np.log(its / size)], axis=1)


def decode(
    boxes: np.ndarray, changes: np.ndarray, width: int, height: int, *, plus_one: bool = False
) -> np.ndarray:
    """Boxes (N, 4) changed by what `encode` gives, rounded and clipped to the image.

    In the reference widths are x2 − x1 here; `plus_one` has them as `encode` does, so that one is
    the inverse of the other.
    """
    more = 1.0 if plus_one else 0.0
    size = boxes[:, 2:] - boxes[:, :2] + more
    centre = boxes[:, :2] + size / 2 + changes[:, :2] * size
    half = size * np.exp(changes[:, 2:]) / 2
    corners = np.concatenate([centre - half, centre + half - more], axis=1)
    limits = (width, height) * 2
    return np.clip(np.floor(corners + 0.5), 1, limits)


def rescaled(boxes: np.ndarray, factor: float, width: int, height: int) -> np.ndarray:
    """Boxes in an image that is scaled by `factor` to width × height: round(f(b − 1) + 1)."""
    limits = (width, height) * 2
    return np.clip(np.floor(factor * (boxes - 1) + 1 + 0.5), 1, limits)


def mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes in the mirror image of one of this width."""
    return np.stack([width + 1 - boxes[:, 2], boxes[:, 1], width + 1 - boxes[:, 0], boxes[:, 3]], 1)


def scale_factor(width: int, height: int, short: int = 600, long: int = 1000) -> float:
    """That brings the shorter side to `short`, but the longer one not above `long`."""
    factor = short / min(width, height)
    return min(factor, long / max(width, height))
