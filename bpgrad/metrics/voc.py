"""Average precision as Pascal VOC computes it (reference §6)."""

import contextlib
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

COCO_DETECTIONS = 100  # of an image


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


@dataclass(frozen=True)
class Ranked:
    """What average precision is made of: the detections of each class that count, best first.

    `labels`, `images`, integers, and `true`, bool, (N,): class by class, and in each only as far as
    its last true one, since what comes after it is in no AP. `positives` (images, classes), int64:
    how many objects are to be found.
    """

    labels: np.ndarray
    images: np.ndarray
    true: np.ndarray
    positives: np.ndarray


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
    return average_precision_of(ranked(detections, ground_truth, classes, iou=iou), points=points)


def ranked(
    detections: Detections, ground_truth: GroundTruth, classes: int, *, iou: float = 0.5
) -> Ranked:
    """The detections that count, as `average_precision` says; images are numbered from 0 on."""
    _check(detections.images, detections.labels, detections.scores, detections.boxes)
    _check(ground_truth.images, ground_truth.labels, ground_truth.difficult, ground_truth.boxes)
    numbers = np.concatenate([detections.images, ground_truth.images])
    positives = np.zeros((int(numbers.max(initial=-1)) + 1, classes), np.int64)
    found = ~ground_truth.difficult
    np.add.at(positives, (ground_truth.images[found], ground_truth.labels[found]), 1)
    order = np.argsort(-detections.scores, kind="stable")
    kept, outcomes = [], []
    for label in range(classes):
        here = order[detections.labels[order] == label]
        there = np.flatnonzero(ground_truth.labels == label)
        there = there[np.argsort(ground_truth.images[there], kind="stable")]
        true, counted = _outcomes(detections, here, ground_truth, there, iou)
        here, true = here[counted], true[counted]
        last = np.flatnonzero(true)[-1] + 1 if true.any() else 0
        kept.append(here[:last])
        outcomes.append(true[:last])
    rows, true = np.concatenate(kept), np.concatenate(outcomes)
    return Ranked(detections.labels[rows], detections.images[rows], true, positives)


def average_precision_of(found: Ranked, *, points: int | None = 11) -> np.ndarray:
    """The AP in % of each class, float64 (classes,), as `average_precision` says."""
    return resampled_precision(found, np.ones((1, len(found.positives)), np.int64), points)[0]


def resampled_precision(found: Ranked, counts: np.ndarray, points: int | None = 11) -> np.ndarray:
    """The AP in % of each class in resamples of the images, float64 (B, classes).

    NaN of a class without an object in that resample. `counts` (B, images): how often each image is
    in it, as `bpgrad.metrics.bootstrap` draws them.
    """
    positives = counts @ found.positives
    areas = np.full(positives.shape, np.nan)
    for label in np.flatnonzero(positives.any(0)):
        its = found.labels == label
        weights = counts[:, found.images[its]]
        true = found.true[its]
        # Precision is highest at a true one; of an image that is drawn twice at the last of them.
        hits = np.cumsum(weights[:, true], 1)
        seen = np.cumsum(weights, 1)[:, true]
        areas[:, label] = 100 * _area(hits, seen, positives[:, label], points)
    return np.where(positives > 0, areas, np.nan)


def mean_of(areas: np.ndarray) -> np.ndarray:
    """The mean over the classes that have an AP (the last axis); NaN where none has."""
    there = ~np.isnan(areas)
    counts = there.sum(-1)
    return np.where(counts, np.where(there, areas, 0).sum(-1) / np.maximum(counts, 1), np.nan)


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


def _area(
    hits: np.ndarray, seen: np.ndarray, positives: np.ndarray, points: int | None
) -> np.ndarray:
    """Average precisions (B,) in [0, 1]: true detections, and all, up to each true one, (B, T)."""
    precision = hits / np.maximum(seen, 1)
    highest = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    if points is None:
        steps = np.diff(hits, axis=1, prepend=0)
        return (steps * highest).sum(1) / np.maximum(positives, 1)
    highest = np.concatenate([highest, np.zeros((len(hits), 1))], 1)  # of recalls not reached
    total = np.zeros(len(hits))
    for k in range(points):
        # hits / positives >= k / (points - 1), without a division; hits do not fall.
        reached = ((points - 1) * hits < k * positives[:, None]).sum(1)
        total += highest[np.arange(len(hits)), reached]
    return total / points


def coco_average_precision(
    detections: Detections, ground_truth: GroundTruth, classes: int
) -> float:
    """COCO's AP in %: the mean over IoU 0.5 to 0.95 and the classes, by pycocotools.

    Of the 100 detections of an image with the highest scores, which is what COCO's detectors give.
    Difficult objects are COCO's crowds: detections inside them count as nothing. NaN without an
    object to be found.
    """
    from pycocotools.coco import COCO  # slow to import

    truth, found, detections = COCO(), COCO(), _highest(detections, COCO_DETECTIONS)
    numbers = np.unique(np.concatenate([detections.images, ground_truth.images]))
    images = [{"id": int(number)} for number in numbers]
    categories = [{"id": label} for label in range(classes)]
    rows = zip(_rows(ground_truth), ground_truth.difficult.tolist(), strict=True)
    objects = [{**row, "iscrowd": int(difficult)} for row, difficult in rows]
    scored = zip(_rows(detections), detections.scores.tolist(), strict=True)
    scores = [{**row, "iscrowd": 0, "score": score} for row, score in scored]
    with contextlib.redirect_stdout(io.StringIO()):
        for its, annotations in ((truth, objects), (found, scores)):
            its.dataset = {"images": images, "categories": categories, "annotations": annotations}
            its.createIndex()
        evaluation = _coco_evaluation(truth, found)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [COCO_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # −1 of classes without an object
    return 100 * float(precision[precision > -1].mean()) if (precision > -1).any() else math.nan


def _coco_evaluation(truth: Any, found: Any) -> Any:
    """The evaluation of pycocotools, without its work for images that have no object of a class.

    There is nothing to match there: all detections are false, and none is too small or too large.
    """
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):
        def computeIoU(self, image: int, label: int) -> Any:
            return super().computeIoU(image, label) if self._gts[image, label] else []

        def evaluateImg(self, image: int, label: int, areas: Any, most: int) -> Any:
            if self._gts[image, label]:
                return super().evaluateImg(image, label, areas, most)
            scores = sorted((row["score"] for row in self._dts[image, label]), reverse=True)[:most]
            shape = len(self.params.iouThrs), len(scores)
            return {
                "dtScores": scores,
                "dtMatches": np.zeros(shape),
                "dtIgnore": np.zeros(shape, bool),
                "gtIgnore": np.zeros(0),
            }

    return Evaluation(truth, found, "bbox")


def _highest(its: Detections, most: int) -> Detections:
    """Of each image so many detections, those with the highest scores."""
    order = np.lexsort((-its.scores, its.images))
    images = its.images[order]
    place = np.arange(len(images)) - np.searchsorted(images, images)
    kept = order[place < most]
    return Detections(its.images[kept], its.labels[kept], its.scores[kept], its.boxes[kept])


def _rows(its: Detections | GroundTruth) -> list[dict[str, Any]]:
    """COCO's annotations: left, top, width, height; numbered from 1, since 0 matches nothing."""
    sides = its.boxes[:, 2:] - its.boxes[:, :2] + 1
    boxes = np.concatenate([its.boxes[:, :2], sides], 1).tolist()
    areas = sides.prod(1).tolist()
    columns = zip(its.images.tolist(), its.labels.tolist(), boxes, areas, strict=True)
    return [
        {"id": k, "image_id": image, "category_id": label, "bbox": box, "area": area}
        for k, (image, label, box, area) in enumerate(columns, 1)
    ]


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
