"""VOC's average precision: its traps by hand, and a second implementation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpgrad.metrics import voc
from bpgrad.metrics.voc import (
    Detections,
    GroundTruth,
    _rows,
    average_precision,
    box_iou,
    coco_average_precision,
)

BOX = (10, 10, 29, 29)


def detected(*rows: tuple[int, int, float, Sequence[float]]) -> Detections:
    """Image, label, score, box."""
    images, labels, scores, boxes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        *(np.array(images, int), np.array(labels, int), np.array(scores, float)),
        np.array(boxes, float).reshape(-1, 4),
    )


def there(*rows: tuple[int, int, Sequence[float], bool]) -> GroundTruth:
    """Image, label, box, difficult."""
    images, labels, boxes, difficult = zip(*rows, strict=True) if rows else ((), (), (), ())
    return GroundTruth(
        *(np.array(images, int), np.array(labels, int)),
        *(np.array(boxes, float).reshape(-1, 4), np.array(difficult, bool)),
    )


def ap(detections: Detections, truth: GroundTruth, **options: Any) -> float:
    return float(average_precision(detections, truth, 1, **options)[0]) / 100


@pytest.mark.parametrize(("found", "points"), [(3, 4), (6, 7), (7, 8), (10, 11), (0, 0)])
def test_recalls_are_compared_exactly(found: int, points: int) -> None:
    """Of 10 objects; with np.arange(0, 1.1, .1) it is 3, 6 and 7 elevenths instead."""
    truth = there(*((k, 0, BOX, False) for k in range(10)))
    assert ap(detected(*((k, 0, 1.0, BOX) for k in range(found))), truth) == points / 11


def test_one_object_found_is_everything() -> None:
    assert ap(detected((0, 0, 0.5, BOX)), there((0, 0, BOX, False))) == 1.0


def test_a_difficult_object_counts_neither_way() -> None:
    truth = there((0, 0, BOX, True), (1, 0, BOX, False))
    found = detected((0, 0, 0.9, BOX), (1, 0, 0.8, BOX))
    assert ap(found, truth) == 1.0
    without = there((1, 0, BOX, False))
    assert ap(found, without) == 0.5


def test_found_twice_is_false() -> None:
    truth = there((0, 0, BOX, False), (1, 0, BOX, False))
    found = detected((0, 0, 0.9, BOX), (0, 0, 0.8, BOX), (1, 0, 0.7, BOX))
    assert ap(found, truth, points=None) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Recalls 0 to 0.5 at precision 1, 0.6 to 1 at 2/3.
    assert ap(found, truth) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_it_is_compared_with_the_object_that_it_overlaps_most() -> None:
    """Once that one is claimed another that would do as well does not count."""
    near = (12, 10, 31, 29)  # IoU 18/22
    truth = there((0, 0, BOX, False), (0, 0, near, False))
    found = detected((0, 0, 0.9, BOX), (0, 0, 0.8, BOX))
    assert ap(found, truth, points=None) == 0.5


def test_the_overlap_includes_both_ends() -> None:
    """[0, 9] × 10 and [0, 4] × 10 share a half: 50 / 100; without the + 1 it is 4/9."""
    wide, narrow = (0, 0, 9, 9), (0, 0, 4, 9)
    assert box_iou(np.array([wide]), np.array([narrow])).tolist() == [0.5]
    empty = np.array([(5, 5, 4, 9), (5, 5, 3, 3)])
    assert box_iou(empty, empty).tolist() == [0, 0]
    assert ap(detected((0, 0, 1.0, narrow)), there((0, 0, wide, False))) == 1.0
    assert ap(detected((0, 0, 1.0, narrow)), there((0, 0, wide, False)), iou=0.51) == 0.0


def test_other_images_and_classes_do_not_help() -> None:
    truth = there((0, 0, BOX, False), (1, 1, BOX, False))
    found = average_precision(detected((1, 0, 1.0, BOX), (0, 1, 1.0, BOX)), truth, 2)
    assert found.tolist() == [0, 0]


def test_a_class_without_objects_has_no_ap() -> None:
    truth = there((0, 0, BOX, False), (0, 1, BOX, True))
    found = average_precision(detected((0, 2, 1.0, BOX)), truth, 3)
    assert found[0] == 0
    assert np.isnan(found[1:]).all()


def test_nothing_found() -> None:
    assert ap(detected(), there((0, 0, BOX, False))) == 0


def test_columns_of_different_lengths_are_refused() -> None:
    broken = Detections(np.zeros(2, int), np.zeros(1, int), np.zeros(2), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="columns of one length"):
        average_precision(broken, there((0, 0, BOX, False)), 1)


def one_by_one(found: Detections, truth: GroundTruth, points: int | None) -> float:
    """The devkit's loop, in Python's integers and fractions."""
    from fractions import Fraction

    order = sorted(range(len(found.scores)), key=lambda k: -found.scores[k])
    claimed: set[int] = set()
    outcomes = []
    for k in order:
        best, overlap = -1, -1.0
        for j in range(len(truth.images)):
            if truth.images[j] == found.images[k]:
                its = float(box_iou(found.boxes[k : k + 1], truth.boxes[j : j + 1])[0])
                if its > overlap:
                    best, overlap = j, its
        if overlap < 0.5:
            outcomes.append(0)
        elif truth.difficult[best]:
            continue
        else:
            outcomes.append(int(best not in claimed))
            claimed.add(best)
    positives = int((~truth.difficult).sum())
    hits, curve = 0, []
    for n, hit in enumerate(outcomes, 1):
        hits += hit
        curve.append((Fraction(hits, positives), Fraction(hits, n)))
    if points is not None:
        levels = [Fraction(k, points - 1) for k in range(points)]
        highest = [
            max((p for r, p in curve if r >= level), default=Fraction(0)) for level in levels
        ]
        return float(sum(highest) / points)
    area, before = Fraction(0), Fraction(0)
    for recall, _ in curve:
        area += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return float(area)


CORNERS = st.tuples(*(st.integers(0, 6) for _ in range(2)), *(st.integers(4, 10) for _ in range(2)))
FOUND = st.lists(
    st.tuples(st.integers(0, 2), st.just(0), st.sampled_from([0.1, 0.2, 0.3]), CORNERS)
)
THERE = st.lists(
    st.tuples(st.integers(0, 2), st.just(0), CORNERS, st.booleans()), min_size=1, max_size=6
)


@given(FOUND, THERE, st.sampled_from([11, None, 5]))
def test_as_a_second_implementation(found: Any, truth: Any, points: int | None) -> None:
    detections, objects = detected(*found), there(*truth)
    its = ap(detections, objects, points=points)
    if objects.difficult.all():
        assert np.isnan(its)
    else:
        assert its == pytest.approx(one_by_one(detections, objects, points))


def test_the_whole_of_voc_2007_in_seconds() -> None:
    """A tenth of it, 495 images × 20 classes × 40 boxes: every step is over arrays."""
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 300, (495 * 800, 2))
    boxes = np.concatenate([corners, corners + generator.integers(20, 200, corners.shape)], 1)
    found = Detections(
        np.repeat(np.arange(495), 800),
        np.tile(np.repeat(np.arange(20), 40), 495),
        generator.random(len(boxes)),
        boxes,
    )
    chosen = generator.choice(len(boxes), 1200, replace=False)
    truth = GroundTruth(
        *(found.images[chosen], found.labels[chosen], boxes[chosen]), np.zeros(1200, bool)
    )
    result = average_precision(found, truth, 20)
    assert result.shape == (20,)
    assert (result > 0).all()


# -- COCO ----------------------------------------------------------------------------------------


def test_coco_s_ap_by_hand() -> None:
    """20 × 20 against 20 × 18 pixels: IoU 0.9, true at nine of the ten thresholds."""
    truth = there((0, 0, (1, 1, 20, 20), False))
    assert coco_average_precision(detected((0, 0, 0.9, (1, 1, 20, 20))), truth, 2) == pytest.approx(
        100
    )
    nearly = detected((0, 0, 0.9, (1, 1, 20, 18)))
    assert coco_average_precision(nearly, truth, 2) == pytest.approx(90)
    assert np.isnan(coco_average_precision(detected((0, 0, 0.9, BOX)), there(), 1))


def test_difficult_objects_and_images_without_any_count_as_in_coco() -> None:
    truth = there((3, 0, BOX, True), (5, 0, BOX, False))
    found = detected((3, 0, 0.9, BOX), (5, 0, 0.8, BOX))
    assert coco_average_precision(found, truth, 1) == pytest.approx(100)
    elsewhere = detected((4, 0, 0.9, BOX), (5, 0, 0.8, BOX))
    assert coco_average_precision(elsewhere, truth, 1) == pytest.approx(50)


def test_coco_takes_the_hundred_highest_of_an_image() -> None:
    truth = there((0, 0, BOX, False), (1, 0, BOX, False))
    wrong = [(0, 0, 0.5 + k * 1e-3, (100, 100, 110, 110)) for k in range(100)]
    found = detected(*wrong, (0, 0, 0.4, BOX), (1, 0, 0.9, BOX))
    assert coco_average_precision(found, truth, 1) == pytest.approx(100 * 51 / 101)


def some(
    rng: np.random.Generator, n: int, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and boxes, of twelve images."""
    corners = rng.integers(1, 60, (n, 2))
    boxes = np.concatenate([corners, corners + rng.integers(5, 40, (n, 2))], 1).astype(float)
    return rng.integers(0, 12, n), rng.integers(0, classes, n), boxes


def test_coco_s_ap_is_pycocotools_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit; most images have no object of most classes, some difficult ones, scores tie."""
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(1)
    images, labels, boxes = some(rng, 25, classes=6)
    truth = GroundTruth(images, labels, boxes, rng.random(25) < 0.3)
    others = some(rng, 2000, classes=6)
    found = Detections(
        *(np.concatenate([images, others[0]]), np.concatenate([labels, others[1]])),
        *(rng.random(2025).round(2), np.concatenate([boxes + 1, others[2]])),
    )
    quicker = coco_average_precision(found, truth, 7)
    plain = lambda *its: cocoeval.COCOeval(*its, "bbox")  # noqa: E731
    monkeypatch.setattr(voc, "_coco_evaluation", plain)
    assert coco_average_precision(found, truth, 7) == quicker


def test_coco_s_ap_against_another_implementation() -> None:
    """Skipped where faster-coco-eval is not installed."""
    faster = pytest.importorskip("faster_coco_eval")
    rng = np.random.default_rng(0)
    images, labels, boxes = some(rng, 40, classes=3)
    truth = GroundTruth(images, labels, boxes, np.zeros(40, bool))
    others = some(rng, 300, classes=3)
    near = np.concatenate([boxes, boxes + rng.integers(-3, 4, boxes.shape)])
    found = Detections(
        *(np.concatenate([images, images, others[0]]), np.concatenate([labels, labels, others[1]])),
        *(rng.random(380), np.concatenate([near, others[2]])),
    )
    sides = [{"id": int(k), "width": 200, "height": 200, "file_name": ""} for k in range(12)]
    classes = [{"id": k, "name": str(k)} for k in range(3)]
    objects = [row | {"iscrowd": 0} for row in _rows(truth)]
    its = faster.COCO({"images": sides, "categories": classes, "annotations": objects})
    scored = [
        {**row, "score": float(score)}
        for row, score in zip(_rows(found), found.scores, strict=True)
    ]
    evaluation = faster.COCOeval_faster(its, its.loadRes(scored), "bbox")
    evaluation.run()
    expected = 100 * evaluation.stats_as_dict["AP_all"]
    assert coco_average_precision(found, truth, 3) == pytest.approx(expected, abs=1e-6)
