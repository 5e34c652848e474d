"""The bootstrap over images: what is drawn, and the scores of resamples against drawing them."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bpgrad.metrics.bootstrap import bootstrap
from bpgrad.metrics.segmentation import resampled_mean_iu, scores
from bpgrad.metrics.voc import (
    Detections,
    GroundTruth,
    average_precision,
    average_precision_of,
    mean_of,
    ranked,
    resampled_precision,
)


def test_as_many_images_are_drawn_and_each_as_often_as_any() -> None:
    seen: list[np.ndarray] = []

    def statistic(counts: np.ndarray) -> np.ndarray:
        seen.append(counts)
        return counts[:, 0]

    found = bootstrap(statistic, 8, times=120)
    counts = np.concatenate(seen)
    assert counts.shape == (120, 8)
    assert (counts.sum(1) == 8).all()
    assert np.array_equal(found, counts[:, 0])
    # 960 draws of 8: each binomial with mean 120 and deviation 10.2, within 4.5 of them.
    assert np.abs(counts.sum(0) - 120).max() < 46
    assert np.array_equal(found, bootstrap(lambda c: c[:, 0], 8, times=120))
    assert not np.array_equal(found, bootstrap(lambda c: c[:, 0], 8, times=120, seed=1))


def test_the_standard_error_of_a_mean() -> None:
    """σ/√n, to the 2.2 % that 1,000 resamples leave, four times."""
    values = np.arange(30.0) ** 2
    found = bootstrap(lambda counts: counts @ values / 30, 30, times=1000)
    assert found.std(ddof=1) == pytest.approx(values.std() / 30**0.5, rel=0.1)


def test_a_resample_of_confusions_is_that_of_its_images() -> None:
    rng = np.random.default_rng(0)
    confusions = rng.integers(0, 50, (5, 4, 4))
    confusions[:, 3] = confusions[:, :, 3] = 0  # a class that does not occur
    counts = np.array([[1, 1, 1, 1, 1], [0, 2, 0, 0, 3]])
    found = resampled_mean_iu(confusions, counts)
    for row, value in zip(counts, found, strict=True):
        whole = torch.from_numpy(np.repeat(confusions, row, axis=0).sum(0))
        assert value == pytest.approx(scores(whole)["mean_iu"], rel=1e-12)


CORNERS = st.tuples(*(st.integers(0, 6) for _ in range(2)), *(st.integers(4, 10) for _ in range(2)))
LABEL, IMAGE = st.integers(0, 1), st.integers(0, 3)
FOUND = st.lists(st.tuples(IMAGE, LABEL, st.sampled_from([0.1, 0.2, 0.3]), CORNERS))
THERE = st.lists(st.tuples(IMAGE, LABEL, CORNERS, st.booleans()), min_size=1, max_size=6)


def detections(rows: Sequence[tuple[int, int, float, Sequence[float]]]) -> Detections:
    images, labels, scored, boxes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        *(np.array(images, int), np.array(labels, int), np.array(scored, float)),
        np.array(boxes, float).reshape(-1, 4),
    )


def truth(rows: Sequence[tuple[int, int, Sequence[float], bool]]) -> GroundTruth:
    images, labels, boxes, difficult = zip(*rows, strict=True) if rows else ((), (), (), ())
    return GroundTruth(
        *(np.array(images, int), np.array(labels, int)),
        *(np.array(boxes, float).reshape(-1, 4), np.array(difficult, bool)),
    )


@given(
    FOUND, THERE, st.lists(st.integers(0, 3), min_size=4, max_size=4), st.sampled_from([11, None])
)
def test_a_resample_of_detections_is_that_of_its_images(
    found: list[tuple[int, int, float, tuple[int, ...]]],
    there: list[tuple[int, int, tuple[int, ...], bool]],
    counts: list[int],
    points: int | None,
) -> None:
    """An image that is drawn twice is two images, with the same detections and objects."""
    # Equal scores are in the order given; copies of an image come one after the other then.
    found = [(i, n, score + k * 1e-6, box) for k, (i, n, score, box) in enumerate(found)]
    its = ranked(detections(found), truth(there), 2)
    row = np.array([counts])[:, : len(its.positives)]
    (areas,) = resampled_precision(its, row, points)
    copies = [(image, copy) for copy in range(3) for image in range(4) if copy < counts[image]]
    found, there = (
        [(4 * copy + image, *row[1:]) for image, copy in copies for row in rows if row[0] == image]
        for rows in (found, there)
    )
    twice = detections(found), truth(there)
    expected = average_precision(*twice, 2, points=points)
    assert areas == pytest.approx(expected, nan_ok=True)
    whole = resampled_precision(its, np.ones((1, len(its.positives)), int), points)[0]
    assert np.array_equal(whole, average_precision_of(its, points=points), equal_nan=True)


def test_the_mean_is_over_classes_that_have_one() -> None:
    areas = np.array([[10.0, np.nan, 30.0], [np.nan] * 3])
    assert mean_of(areas)[0] == 20
    assert np.isnan(mean_of(areas)[1])
