"""Warped examples: the reference's arithmetic, and what the random part depends on."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bpgrad.data.pretrained import Preprocessing
from bpgrad.data.segmentation import Examples, size_for_test, warp_indices
from tests.voc import square, write_pair

PLAIN = Preprocessing((100.0, 100.0, 100.0))


def half_away(value: float) -> int:
    """MATLAB's round."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


@given(
    st.tuples(st.integers(20, 500), st.integers(20, 500)),
    st.integers(32, 400),
    st.floats(0, 1, exclude_max=True),
)
def test_the_indices_are_the_reference_s(shape: tuple[int, int], size: int, u: float) -> None:
    rows, columns = warp_indices(shape, size, u, mirror=False)
    scale = max(shape) / size * (1 + (u - 0.5) / 5)
    for found, extent in zip((rows, columns), shape, strict=True):
        for i in (1, 2, size // 2, size - 1, size):
            expected = half_away(scale * (i - size / 2) + extent / 2)
            inside = 1 <= expected <= extent
            assert found[i - 1] == expected - 1 if inside else not 0 <= found[i - 1] < extent
    _, mirrored = warp_indices(shape, size, u, mirror=True)
    assert np.array_equal(mirrored, columns[::-1])


def test_at_the_same_size_nothing_moves() -> None:
    rows, columns = warp_indices((64, 64), 64, 0.5, mirror=False)
    assert rows.tolist() == columns.tolist() == list(range(64))


@pytest.mark.parametrize(
    ("shape", "side", "size"),
    [
        ((375, 500), None, (384, 512)),
        ((333, 500), None, (320, 512)),
        ((375, 500), 256, (192, 256)),
        ((10, 500), None, (32, 512)),
        ((48, 16), None, (64, 32)),  # halves up
    ],
)
def test_the_sizes_of_the_test(
    shape: tuple[int, int], side: int | None, size: tuple[int, int]
) -> None:
    assert size_for_test(shape, side) == size
    assert size_for_test(shape, multiple=False) == shape


def examples(folder: Path, seed: int = 0, **options: object) -> Examples:
    masks = [square(40, 60, 3, 20), square(50, 30, 5, 9), square(33, 47, 20, 12)]
    pairs = [write_pair(folder, f"im{k}", mask, k) for k, mask in enumerate(masks)]
    given = {"size": 32} | options
    return Examples(pairs[:2], pairs[2:], PLAIN, seed, **given)  # type: ignore[arg-type]


def test_outside_is_the_mean_and_void(tmp_path: Path) -> None:
    example = examples(tmp_path, augment=False)[1, 0]
    assert example.image.shape == (3, 32, 32)
    outside = torch.from_numpy(np.repeat(np.arange(32)[:, None], 32, 1))
    outside = (outside < 4) | (outside > 28)  # 40 of 60 rows
    assert (example.labels[outside] == 255).all()
    assert not example.image[:, outside].any()
    assert example.image[:, 16].all()
    assert set(np.unique(example.labels[8:24])) == {0, 3, 255}


def test_views(tmp_path: Path) -> None:
    found = examples(tmp_path)
    assert (len(found), found.trained) == (6, 2)
    assert (list(found.warped), list(found.training_tested), list(found.tested)) == (
        *([2], [3, 4], [5]),
    )
    assert found[7, 5].image.shape == (3, 32, 32)  # 33 × 47 at the nearest multiples
    assert found[7, 5].labels.shape == (33, 47)
    assert torch.equal(found[1, 5].image, found[2, 5].image)
    assert not torch.equal(found[1, 2].image, found[2, 2].image)
    whole = examples(tmp_path, size=None)[1, 0]
    assert (whole.image.shape, whole.labels.shape) == ((3, 40, 60), (40, 60))


def test_what_is_drawn_depends_on_seed_epoch_and_index(tmp_path: Path) -> None:
    found = examples(tmp_path)
    again, other = examples(tmp_path), examples(tmp_path, seed=1)
    for k in (0, 1, 2):
        assert torch.equal(found[3, k].image, again[3, k].image)
        assert np.array_equal(found.drawn(3, k), again.drawn(3, k))
    drawn = {
        tuple(each.drawn(epoch, k)) for each in (found, other) for epoch in (1, 2) for k in range(3)
    }
    assert len(drawn) == 12
    keys = {each[epoch, k].key for each in (found, other) for epoch in (1, 2) for k in range(2)}
    assert len(keys) == 8


def test_the_draws_cover_their_ranges(tmp_path: Path) -> None:
    drawn = np.array([examples(tmp_path).drawn(epoch, 0) for epoch in range(1, 200)])
    assert drawn.min() < 0.05
    assert drawn.max() > 0.95
    # 199 coins: within 5 standard deviations of a half.
    assert abs(np.mean(drawn[:, 1] < 0.5) - 0.5) < 5 * 0.5 / 199**0.5


def test_channels_are_those_of_the_weights() -> None:
    pixels = np.array([[[1, 2, 3]]], np.uint8)
    assert Preprocessing((1, 1, 1), (2, 1, 1))(pixels).flatten().tolist() == [0, 1, 2]
    assert Preprocessing((3, 2, 0), bgr=True)(pixels).flatten().tolist() == [0, 0, 1]
