"""From a detector's scores to detections, as the reference does it, and what these are worth."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bpgrad.data import proposals, voc
from bpgrad.data.proposals import BACKGROUND, FOREGROUND_IOU
from bpgrad.metrics.bootstrap import bootstrap
from bpgrad.metrics.voc import (
    Detections,
    GroundTruth,
    Ranked,
    average_precision,
    average_precision_of,
    box_iou,
    coco_average_precision,
    mean_of,
    ranked,
    resampled_precision,
)
from bpgrad.tasks.voc_results import DECIMALS

KEPT, KEPT_OF_IMAGE = 40, 100  # detections of a class: an image of the set, and in one image
OVERLAP = 0.3  # of two detections of a class, above which the lower score is dropped
FEW = 3  # objects of a class below which its AP says little


class Thresholds:
    """The `count` highest scores of each class, of any number of images, in bounded memory.

    `bound` (classes,): what the `count`-th highest is at least.
    """

    def __init__(self, count: int) -> None:
        self.count, self.bound = count, np.full(BACKGROUND, -np.inf)
        self.parts = [torch.zeros(0, BACKGROUND)]

    def add(self, scores: Tensor) -> None:
        """Take up scores (N, classes)."""
        labels, rows, counts = _reaching(scores, self.bound)
        reaching = torch.full((int(counts.max()), BACKGROUND), -torch.inf)
        reaching[_places(counts), labels] = scores[rows, labels]
        self.parts.append(reaching)
        if sum(map(len, self.parts)) > 2 * self.count:
            self.best()

    def best(self) -> Tensor:
        """The scores that are needed."""
        its = torch.cat(self.parts).topk(min(self.count, sum(map(len, self.parts))), dim=0).values
        self.parts = [its]
        if len(its) == self.count:
            self.bound = its[-1].numpy()
        return its


def of_image(
    number: int,
    scores: Tensor,
    changes: Tensor,
    boxes: np.ndarray,
    size: tuple[int, int],
    bound: np.ndarray,
    *,
    plus_one: bool,
) -> Detections:
    """The detections of an image after suppression, by descending score.

    Args:
        number: Of the image, for the detections.
        scores: (N, 20).
        changes: (N, 20, 4), of the boxes for each class.
        boxes: (N, 4), the proposals.
        size: Width and height of the image.
        bound: (20,): scores below are left out. They drop nothing that lies above.
        plus_one: Whether regression is undone with the widths that it was done with.
    """
    labels, rows, counts = _reaching(scores, bound)
    highest = scores.numpy()[rows, labels]
    order = np.lexsort((-highest, labels))  # class by class, equal scores as they are
    order = order[_places(counts) < KEPT_OF_IMAGE]
    labels, rows, highest = labels[order], rows[order], highest[order]
    found = proposals.decode(boxes[rows], changes[rows, labels].numpy(), *size, plus_one=plus_one)
    # Both ends are inside: a box ends one pixel further on. Doubles hold 0.3 as it is meant.
    ends = torch.from_numpy(found + np.array([0, 0, 1, 1]))
    kept = _not_suppressed(ends, torch.from_numpy(highest).double(), labels)
    kept = kept[np.lexsort((kept, -highest[kept]))]
    numbers = np.full(len(kept), number, np.int32)
    return Detections(numbers, labels[kept], highest[kept], found[kept])


def of_all(shares: Sequence[tuple[Tensor, Sequence[Detections]]], count: int) -> Detections:
    """The detections of all images by number, from the `count`-th highest score of a class on.

    Args:
        shares: Of each process the scores that its `Thresholds` needed, and its detections.
        count: Of the scores.
    """
    thresholds = Thresholds(count)
    thresholds.parts = [best for best, _ in shares]
    thresholds.best()
    found = _joined([part for _, its in shares for part in its])
    found = _chosen(found, np.argsort(found.images, kind="stable"))
    found = _chosen(found, found.scores >= thresholds.bound[found.labels])
    return replace(found, scores=found.scores.astype(np.float64).round(DECIMALS))


def ground_truth(each: Sequence[voc.Annotation]) -> GroundTruth:
    """The objects of images that are numbered in their order."""
    counts = [len(objects.boxes) for objects in each]
    return GroundTruth(
        np.repeat(np.arange(len(each), dtype=np.int32), counts),
        np.concatenate([objects.labels for objects in each]),
        np.concatenate([objects.boxes for objects in each]),
        np.concatenate([objects.difficult for objects in each]),
    )


def metrics(found: Detections, truth: GroundTruth, images: int) -> dict[str, float]:
    """The mAP by several definitions, its spread over so many images, and the AP of each class.

    A class that nothing shows has none.
    """
    its = ranked_of(found, truth, images)
    each, objects = average_precision_of(its), its.positives.sum(0)
    maps = bootstrap(lambda counts: mean_of(resampled_precision(its, counts)), images)
    scores = {
        "map": mean_of(each),
        "map_of_three": mean_of(each[objects >= FEW]),
        "map_error": maps.std(ddof=1),
        "map_area": mean_of(average_precision_of(its, points=None)),
        "coco_ap": coco_average_precision(found, truth, BACKGROUND),
    }
    aps = {f"ap_{name}": ap for name, ap in zip(voc.CLASSES, each, strict=True)}
    return {name: float(value) for name, value in (scores | aps).items() if value == value}


def ranked_of(found: Detections, truth: GroundTruth, images: int) -> Ranked:
    """`bpgrad.metrics.voc.ranked`, also of images at the end in which there is nothing."""
    its = ranked(found, truth, BACKGROUND)
    missing = images - len(its.positives)
    return replace(its, positives=np.pad(its.positives, ((0, missing), (0, 0))))


def ceiling(truth: GroundTruth, each: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The mAP in % of proposals as they are, if every object had its best one, and no other.

    Args:
        truth: All objects.
        each: Of each image in order its objects' boxes and its proposals.
    """
    best = []
    for of, its in each:
        pairs = np.repeat(of, len(its), 0), np.tile(its, (len(of), 1))
        best.append(its[box_iou(*pairs).reshape(len(of), len(its)).argmax(1)])
    boxes = np.concatenate(best)
    found = Detections(truth.images, truth.labels, np.ones(len(boxes)), boxes)
    found = _chosen(found, box_iou(boxes, truth.boxes) >= FOREGROUND_IOU)
    return float(mean_of(average_precision(found, truth, BACKGROUND)))


def packed(its: Ranked) -> bytes:
    """An .npz of what the spread over images can be computed from."""
    memory = io.BytesIO()
    np.savez_compressed(
        memory,
        labels=its.labels.astype(np.uint8),
        images=its.images.astype(np.min_scalar_type(len(its.positives))),
        true=np.packbits(its.true),
        positives=its.positives.astype(np.uint8),
    )
    return memory.getvalue()


def _reaching(scores: Tensor, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where scores (N, classes) reach the bound of their class (classes,), class by class.

    The labels and the rows of those that do, and how many there are of each class.
    """
    labels, rows = np.nonzero(scores.T.numpy() >= bound[:, None])
    return labels, rows, np.bincount(labels, minlength=len(bound))


def _places(counts: np.ndarray) -> np.ndarray:
    """From 0 on in each of some groups of so many."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _not_suppressed(boxes: Tensor, scores: Tensor, labels: np.ndarray) -> np.ndarray:
    """Indices of the boxes (N, 4), class by class, that none of a higher score overlaps."""
    from torchvision.ops import nms  # slow, and checking settings does not need it

    ends = np.searchsorted(labels, np.arange(BACKGROUND + 1)).tolist()
    classes = [slice(first, end) for first, end in itertools.pairwise(ends)]
    return np.concatenate([its.start + nms(boxes[its], scores[its], OVERLAP) for its in classes])


def _chosen(found: Detections, its: np.ndarray) -> Detections:
    return Detections(found.images[its], found.labels[its], found.scores[its], found.boxes[its])


def _joined(parts: Sequence[Detections]) -> Detections:
    return Detections(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("images", "labels", "scores", "boxes")
        )
    )
