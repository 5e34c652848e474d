"""Crops to the pixel, flips and colours, on images made by hand."""

import numpy as np
import pytest
from PIL import Image

from bpgrad.data.augmentation import (
    DRAWS,
    FRACTION,
    Crop,
    central_crop,
    colour_shift,
    colour_statistics,
    draws_of,
    training_crop,
)
from bpgrad.data.order import example_coins


def draws(**changes: float) -> np.ndarray:
    """All in the middle but for what is named."""
    names = ("aspect", "left", "top", "flip", "red", "green", "blue")
    return np.array([changes.get(name, 0.5) for name in names])


def ramp(width: int, height: int) -> Image.Image:
    """Red is the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows, np.zeros_like(rows)], 2).astype(np.uint8)
    return Image.fromarray(pixels)


def test_the_test_crop_is_the_middle_of_the_image_with_its_aspect_kept() -> None:
    """Short side to 256, then the central 227, not squeezed to a square: pixels.md's case 10."""
    assert central_crop(500, 375) == Crop(83, 21, 333, 333)  # 375 · 227/256 = 332.5
    assert central_crop(375, 500) == Crop(21, 83, 333, 333)
    assert central_crop(256, 256) == Crop(14, 14, 227, 227)
    assert central_crop(1, 1) == Crop(0, 0, 1, 1)
    # A disc stays one: as wide as it is high.
    rows, columns = np.mgrid[:150, :200]
    disc = ((rows - 75) ** 2 + (columns - 100) ** 2 < 50**2) * np.uint8(255)
    seen = central_crop(200, 150).of(Image.fromarray(disc).convert("RGB"), 131)[..., 0] > 127
    assert abs(int(seen.any(0).sum()) - int(seen.any(1).sum())) <= 1
    assert int(seen.any(0).sum()) == pytest.approx(100 * 131 / 133, abs=1.5)


def test_a_crop_of_the_wanted_size_is_the_image_to_the_pixel() -> None:
    image = ramp(60, 40)
    seen = Crop(7, 5, 20, 20).of(image, 20)
    assert (seen[..., 0] == np.arange(7, 27)).all()
    assert (seen[..., 1] == np.arange(5, 25)[:, None]).all()
    assert (Crop(7, 5, 20, 20, mirrored=True).of(image, 20) == seen[:, ::-1]).all()


def test_reduction_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    seen = Crop(0, 0, 64, 64).of(Image.fromarray(stripes), 16)
    assert abs(seen[:, 2:-2].astype(int) - 127).max() <= 2  # without it some are black


PINNED = 0.04528993685079291


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        # Square, all in the middle: 227/256 of it; 29 pixels left, half of 30 places is 15.
        ((256, 256), {}, (15, 15, 227, 227)),
        ((256, 256), {"left": 0.0, "top": 0.999}, (0, 29, 227, 227)),
        # Aspect 3/2 and 2/3: the long side fills the image, times 227/256.
        ((256, 256), {"aspect": 1.0, "left": 0.0, "top": 0.0}, (0, 0, 227, 151)),
        ((256, 256), {"aspect": 0.0, "left": 0.0, "top": 0.0}, (0, 0, 151, 227)),
        # As large as fits into the image, whatever its own aspect.
        ((300, 200), {"aspect": 1.0, "left": 0.0, "top": 0.0}, (0, 0, 266, 177)),
        ((300, 200), {"left": 0.0, "top": 0.0}, (0, 0, 177, 177)),
        ((1, 1), {}, (0, 0, 1, 1)),
        ((2, 900), {"top": 0.999999}, (0, 898, 2, 2)),
    ],
)
def test_training_crops(
    size: tuple[int, int], given: dict[str, float], expected: tuple[int, int, int, int]
) -> None:
    assert training_crop(*size, draws(**given)) == Crop(*expected, mirrored=False)


def test_crops_spread_over_all_that_is_possible() -> None:
    crops = [training_crop(200, 150, draws_of(3, 1, index)) for index in range(2000)]
    aspects = np.log([crop.width / crop.height for crop in crops])
    assert abs(np.array([aspects.min() + np.log(1.5), aspects.max() - np.log(1.5)])).max() < 0.02
    # Log-uniform: the mean of 2000 has a standard error of 0.81/√12/√2000.
    assert abs(aspects.mean()) < 5 * 2 * np.log(1.5) / np.sqrt(12 * 2000)
    assert abs(np.mean([crop.mirrored for crop in crops]) - 0.5) < 5 * 0.5 / np.sqrt(2000)
    for crop in crops:
        assert 0 <= crop.left <= 200 - crop.width
        assert 0 <= crop.top <= 150 - crop.height
        fills = max(crop.width / 200, crop.height / 150)
        assert fills == pytest.approx(FRACTION, abs=0.5 / 150)  # whole pixels
    assert min(c.left for c in crops) == 0
    assert any(c.left == 200 - c.width for c in crops)


def test_draws_are_functions_of_seed_epoch_and_index_alone() -> None:
    seen = {
        (seed, epoch, index): tuple(draws_of(seed, epoch, index))
        for seed in (0, 1)
        for epoch in (1, 2)
        for index in (0, 1, 2**20)
    }
    assert len(set(seen.values())) == 12
    assert all(tuple(draws_of(*key)) == value for key, value in seen.items())
    # On every platform and version: the hash behind it is numpy's promise.
    assert draws_of(0, 1, 0)[0] == PINNED
    assert len({bytes(example_coins(*key, 64)) for key in seen}) == 12
    assert len(example_coins(0, 1, 2, 2048)) == 256
    assert len(draws_of(0, 1, 0)) == DRAWS
    ones = np.unpackbits(example_coins(0, 1, 2, 20_000)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(20_000)


def test_colour_statistics_by_numpy() -> None:
    random = np.random.RandomState(0)
    pixels = (random.randn(5000, 3) @ [[30, 10, 5], [0, 20, 4], [0, 0, 9]] + 120).clip(0, 255)
    pixels = pixels.astype(np.uint8)
    mean, basis = colour_statistics(pixels)
    np.testing.assert_allclose(mean, pixels.mean(0), atol=1e-5)
    # B Bᵀ = 0.01 · covariance, whatever the order and signs of the eigenvectors.
    np.testing.assert_allclose(basis @ basis.T, 0.01 * np.cov(pixels.T, bias=True), atol=1e-4)
    assert (np.abs(basis).max(0) == basis.max(0)).all()


def test_colour_shifts_as_documented_and_as_implemented() -> None:
    basis = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    # Φ(1) and Φ(-1): w = (1, 0, -1).
    given = draws(red=0.8413447460685429, blue=0.15865525393145707)
    np.testing.assert_allclose(colour_shift(given, basis, "documented"), [-2, -2, -2], atol=1e-5)
    np.testing.assert_allclose(colour_shift(given, basis, "implemented"), [6, 0, -24], atol=1e-5)
    assert not colour_shift(given, basis, "off").any()


def test_documented_shifts_have_the_covariance_of_the_pixels() -> None:
    basis = np.array([[3.0, 1, 0], [0, 2, 1], [0, 0, 1]])
    shifts = [colour_shift(draws_of(0, 1, k), basis, "documented") for k in range(4000)]
    # Entries are means of 4000 products of variance at most 2·10².
    np.testing.assert_allclose(np.cov(np.array(shifts).T), basis @ basis.T, atol=1.2)
