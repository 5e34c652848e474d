"""Crops, flips and colour shifts of MatConvNet's ImageNet demo (reference §5).

All of it is a function of (seed, epoch, index): never of the process that does it, nor of what came
before.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from PIL import Image

from bpgrad.data.order import example_draws

ColourShift = Literal["implemented", "documented", "off"]

#: Of the largest rectangle of the wanted aspect in the image: 227 of 256 pixels, at every size.
FRACTION = 227 / 256
MOST_ASPECT = 3 / 2  # and the least is its inverse
DRAWS = 7  # aspect, left, top, flip, three colours


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image in whole pixels, and whether what it shows is mirrored."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool = False

    def of(self, image: Image.Image, side: int) -> np.ndarray:
        """Its pixels resized to (side, side, 3), uint8: bicubic, antialiased.

        At the rectangle's edge the filter sees the image's own pixels beyond it.
        """
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))
        return pixels[:, ::-1] if self.mirrored else pixels


def training_crop(width: int, height: int, draws: np.ndarray) -> Crop:
    """A crop of an image of that size, from `DRAWS` numbers in (0, 1).

    Its aspect is log-uniform in [2/3, 3/2], its size the largest that fits times 227/256 (there is
    no other jitter of scale), its place uniform among whole pixels; mirrored one time in two.
    """
    aspect = MOST_ASPECT ** (2 * draws[0] - 1)
    wide, high = aspect**0.5, aspect**-0.5
    scale = FRACTION * min(width / wide, height / high)
    w, h = _whole(wide * scale, width), _whole(high * scale, height)
    left, top = int(draws[1] * (width - w + 1)), int(draws[2] * (height - h + 1))
    return Crop(left, top, w, h, mirrored=bool(draws[3] < 0.5))


def central_crop(width: int, height: int) -> Crop:
    """The square in the middle with 227/256 of the shorter side: the test crop.

    The same as resizing the shorter side to 256 and taking the central 227 × 227 pixels.
    """
    side = _whole(FRACTION * min(width, height), min(width, height))
    return Crop((width - side) // 2, (height - side) // 2, side, side)


def _whole(length: float, most: int) -> int:
    return max(1, min(most, int(length + 0.5)))


def colour_shift(draws: np.ndarray, basis: np.ndarray, kind: ColourShift) -> np.ndarray:
    """What is added to the three colours of an image, (3,), float32.

    `basis` is B = 0.1 · V √D of `colour_statistics`. The demo documents B·w with w ~ N(0, I); its
    code computes w_i · Σ_j B_ij, which is what ran ("implemented").
    """
    if kind == "off":
        return np.zeros(3, np.float32)
    w = np.array([NormalDist().inv_cdf(u) for u in draws[4:DRAWS]])
    shift = basis @ w if kind == "documented" else w * basis.sum(1)
    return shift.astype(np.float32)


def colour_statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean colour (3,) of pixels (N, 3), uint8, and B = 0.1 · V √D (3, 3) of their covariance.

    V has the eigenvectors as columns, each with its largest entry positive (the sign, which the
    "implemented" shift depends on, is the demo's library's, and unknown); D the eigenvalues, in
    increasing order. Sums are of whole numbers and B is rounded: the same on every machine.
    """
    total = np.zeros(3, np.int64)
    products = np.zeros((3, 3), np.int64)
    for part in np.array_split(pixels, max(1, len(pixels) // 2**20)):
        wide = part.astype(np.int64)
        total += wide.sum(0)
        products += wide.T @ wide
    mean = total / len(pixels)
    eigenvalues, vectors = np.linalg.eigh(products / len(pixels) - np.outer(mean, mean))
    largest = vectors[np.abs(vectors).argmax(0), range(3)]
    basis = 0.1 * vectors * np.sign(largest) * np.sqrt(eigenvalues.clip(min=0))
    return mean.round(5), basis.round(5)


def draws_of(seed: int, epoch: int, index: int) -> np.ndarray:
    """What an example is augmented by in an epoch, (DRAWS,)."""
    return example_draws(seed, epoch, index, DRAWS)
