"""Average precision as Pascal VOC computes it (reference §6)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """What was found in any number of images, in any order; a row each.

    `images` (N,) and `labels` (N,), integers; `scores` (N,); `boxes` (N, 4): x1, y1, x2, y2 in
    pixels, both ends inside the box.
    """

    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class GroundTruth:
    """The objects of the same images, as `Detections`; `difficult` (M,), bool."""

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray


def average_precision(
    detections: Detections,
    ground_truth: GroundTruth,
    classes: int,
    *,
    points: int | None = 11,
    iou: float = 0.5,
) -> np.ndarray:
    """The AP in % of each class, float64 (classes,); NaN of one without an object to be found.

    Detections by descending score, equal ones in the order given. Each is compared with the object
    of its class in its image that it overlaps most, difficult ones included: with less than `iou`
    it is false; a difficult object makes it count as nothing; an object is found once, and again it
    is false. Objects to be found are those that are not difficult.

    Args:
        detections: What was found.
        ground_truth: What is there.
        classes: Labels are from 0 to `classes` − 1.
        points: The mean over so many recalls, evenly spread from 0 to 1, of the greatest precision
            at that recall or a higher one: VOC 2007 has 11. Recalls are compared exactly, as
            fractions. None: the area below that curve, as VOC from 2010 on.
        iou: Intersection over union, of areas with both ends inside, from which on an object is
            found.

    Raises ValueError for columns of different lengths.
    """
    _check(detections.images, detections.labels, detections.scores, detections.boxes)
    _check(ground_truth.images, ground_truth.labels, ground_truth.difficult, ground_truth.boxes)
    found = np.full(classes, np.nan)
    order = np.argsort(-detections.scores, kind="stable")
    for label in range(classes):
        here = order[detections.labels[order] == label]
        there = np.flatnonzero(ground_truth.labels == label)
        there = there[np.argsort(ground_truth.images[there], kind="stable")]
        positives = int((~ground_truth.difficult[there]).sum())
        if positives:
            true, counted = _outcomes(detections, here, ground_truth, there, iou)
            found[label] = 100 * _area(true[counted], positives, points)
    return found


def _check(*columns: np.ndarray) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1 or columns[-1].shape[1:] != (4,):
        raise ValueError(f"expected columns of one length and boxes (N, 4), got {lengths}")


def _outcomes(
    detections: Detections,
    here: np.ndarray,
    ground_truth: GroundTruth,
    there: np.ndarray,
    iou: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each detection is a true one, and whether it counts at all.

    `here` are the detections of a class in their order, `there` its objects, image by image.
    """
    images = ground_truth.images[there]
    first = np.searchsorted(images, detections.images[here], side="left")
    count = np.searchsorted(images, detections.images[here], side="right") - first
    some = np.flatnonzero(count)  # detections in images that have the class
    if not len(some):
        return np.zeros(len(here), bool), np.ones(len(here), bool)
    starts = np.cumsum(count[some]) - count[some]
    rows = np.repeat(some, count[some])
    objects = np.arange(len(rows)) - np.repeat(starts - first[some], count[some])
    overlaps = box_iou(detections.boxes[here[rows]], ground_truth.boxes[there[objects]])
    best = np.maximum.reduceat(overlaps, starts)
    # Of objects that are overlapped alike it is the first.
    places = np.where(overlaps == np.repeat(best, count[some]), np.arange(len(rows)), len(rows))
    chosen = objects[np.minimum.reduceat(places, starts)]
    true, counted = np.zeros(len(here), bool), np.ones(len(here), bool)
    enough = best >= iou
    matched, target = some[enough], chosen[enough]
    difficult = ground_truth.difficult[there[target]]
    counted[matched[difficult]] = False
    _, claims = np.unique(target, return_index=True)  # the first detection of each object
    claims = claims[~difficult[claims]]
    true[matched[claims]] = True
    return true, counted


def _area(true: np.ndarray, positives: int, points: int | None) -> float:
    """The average precision of detections in their order, in [0, 1]."""
    hits = np.cumsum(true)
    precision = hits / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    if points is None:
        return float(highest[true].sum() / positives)
    total = 0.0
    for k in range(points):
        # hits / positives >= k / (points - 1), without a division.
        reached = np.flatnonzero((points - 1) * hits >= k * positives)
        total += highest[reached[0]] if len(reached) else 0.0
    return total / points


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The intersection over union of each pair of rows, float64 (N,); both ends are inside.

    0 of two boxes that have no area.
    """
    one, other = boxes.astype(np.float64), others.astype(np.float64)
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    shared = np.prod(np.maximum(high - low + 1, 0), axis=1)
    sides = (np.maximum(each[:, 2:] - each[:, :2] + 1, 0) for each in (one, other))
    union = sum(np.prod(each, axis=1) for each in sides) - shared
    return np.divide(shared, union, out=np.zeros(len(union)), where=union > 0)
