import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bpgrad.metrics.segmentation import all_background, class_iu, confusion_matrix, scores


def matrix(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_by_hand() -> None:
    """Three classes: 5 and 1 right of 8 and 2; the third does not occur."""
    confusion = matrix([5, 3, 0], [1, 1, 0], [0, 0, 0])
    found = scores(confusion)
    assert found["mean_iu"] == pytest.approx(100 * (5 / 9 + 1 / 5) / 3)
    assert found["pixel_accuracy"] == pytest.approx(60)
    assert found["mean_accuracy"] == pytest.approx(100 * (5 / 8 + 1 / 2) / 3)
    assert found["average"] == pytest.approx(
        (found["mean_iu"] + found["pixel_accuracy"] + found["mean_accuracy"]) / 3
    )
    present = scores(confusion, present_only=True)
    assert present["mean_iu"] == pytest.approx(found["mean_iu"] * 3 / 2)
    assert present["mean_accuracy"] == pytest.approx(found["mean_accuracy"] * 3 / 2)
    assert present["pixel_accuracy"] == found["pixel_accuracy"]
    assert class_iu(confusion) == pytest.approx([500 / 9, 20, 0])


def test_a_class_that_is_called_but_not_there() -> None:
    """It lowers the mean IU over the classes present, and has no accuracy."""
    confusion = matrix([3, 1], [0, 0])
    found = scores(confusion, present_only=True)
    assert found["mean_iu"] == pytest.approx(37.5)
    assert found["mean_accuracy"] == pytest.approx(75)


def test_all_background() -> None:
    confusion = torch.zeros(21, 21, dtype=torch.int64)
    confusion[:, 0] = torch.tensor([711, *[0] * 19, 289])
    found = scores(confusion)
    assert found["mean_iu"] == pytest.approx(all_background(confusion)) == pytest.approx(71.1 / 21)
    assert found["mean_accuracy"] == pytest.approx(100 / 21)


def test_nothing_at_all_is_zero_and_not_nan() -> None:
    assert set(scores(torch.zeros(3, 3)).values()) == {0.0}
    assert set(scores(torch.zeros(3, 3), present_only=True).values()) == {0.0}


def test_void_does_not_count() -> None:
    truth, predicted = torch.tensor([0, 255], dtype=torch.uint8), torch.tensor([0, 1])
    confusion = confusion_matrix(truth, predicted, 21)
    assert scores(confusion)["pixel_accuracy"] == 100
    assert int(confusion.sum()) == 1


def test_rows_are_the_truth() -> None:
    assert confusion_matrix(torch.tensor([1]), torch.tensor([2]), 3)[1, 2] == 1


def test_counts_beyond_what_float32_holds() -> None:
    """736 images have 10⁸ pixels: a count must not stop at 2²⁴."""
    confusion = matrix([2**28 + 1, 0], [0, 2**28 - 1])
    assert scores(confusion)["pixel_accuracy"] == 100
    assert scores(matrix([2**28, 1], [0, 0]))["pixel_accuracy"] < 100


def test_a_matrix_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(c, c\), got \(2, 3\)"):
        scores(torch.zeros(2, 3))


def by_pixels(truth: np.ndarray, predicted: np.ndarray, classes: int, present: bool) -> dict:
    """Class by class over the pixels, without a matrix."""
    valid = truth != 255
    truth, predicted = truth[valid], predicted[valid]
    ius, accuracies = [], []
    for k in range(classes):
        both = np.sum((truth == k) & (predicted == k))
        either, here = np.sum((truth == k) | (predicted == k)), np.sum(truth == k)
        ius.append(both / either if either else (math.nan if present else 0.0))
        accuracies.append(both / here if here else (math.nan if present else 0.0))
    return {
        "mean_iu": 100 * np.nanmean(ius),
        "pixel_accuracy": 100 * np.mean(truth == predicted),
        "mean_accuracy": 100 * np.nanmean(accuracies),
    }


PIXELS = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 255]), st.integers(0, 3)), min_size=1)


@given(PIXELS, st.booleans())
def test_as_a_second_implementation(pixels: list[tuple[int, int]], present: bool) -> None:
    truth, predicted = (np.array(each) for each in zip(*pixels, strict=True))
    if (truth == 255).all():
        return
    confusion = confusion_matrix(torch.from_numpy(truth), torch.from_numpy(predicted), 5)
    found = scores(confusion, present_only=present)
    expected = by_pixels(truth, predicted, 5, present)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_as_torchmetrics() -> None:
    """Its macro averages over the classes that occur."""
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    generator = torch.Generator().manual_seed(0)
    truth, predicted = torch.randint(0, 6, (2, 500), generator=generator)
    options = {"num_classes": 8, "average": "macro"}
    found = scores(confusion_matrix(truth, predicted, 8), present_only=True)
    index = torchmetrics.MulticlassJaccardIndex(**options)(predicted, truth)
    accuracy = torchmetrics.MulticlassAccuracy(**options)(predicted, truth)
    assert found["mean_iu"] == pytest.approx(100 * float(index), rel=1e-5)
    assert found["mean_accuracy"] == pytest.approx(100 * float(accuracy), rel=1e-5)
