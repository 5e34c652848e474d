"""ImageNet and Imagenette as the networks see them: crops of images in folders (reference §5)."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from bpgrad.data.augmentation import (
    ColourShift,
    central_crop,
    colour_shift,
    colour_statistics,
    draws_of,
    training_crop,
)
from bpgrad.data.files import atomic_writer
from bpgrad.data.imagefolder import Pixels
from bpgrad.data.order import example_coins
from bpgrad.data.pipeline import Key

STATISTICS_EVERY = 100  # of the training images, as the demo
STATISTICS_SIDE = 256  # pixels
LEAST_STATISTICS = 64  # images, where there are as many
STATISTICS_VERSION = 1  # part of the cache's name


@dataclass(frozen=True)
class Crops:
    """Examples of a minibatch as they are read, one a row.

    Attributes:
        pixels: (N, R, R, 3), uint8.
        shifts: What is to be added to the colours, (N, 3), float32.
        coins: What dropout keeps, eight units a byte, (N, ⌈units/8⌉); None without dropout.
        draws: What they were augmented by, (N, DRAWS), float64, always on the CPU; None in epoch 0.
    """

    pixels: Tensor
    shifts: Tensor
    coins: Tensor | None = None
    draws: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice) -> "Crops":
        coins, draws = (None if t is None else t[rows] for t in (self.coins, self.draws))
        return Crops(self.pixels[rows], self.shifts[rows], coins, draws)

    def to(self, device: torch.device) -> "Crops":
        """The same on a device; the host does not wait for a copy from pinned memory."""
        coins = None if self.coins is None else self.coins.to(device, non_blocking=True)
        pixels, shifts = (t.to(device, non_blocking=True) for t in (self.pixels, self.shifts))
        return Crops(pixels, shifts, coins, self.draws)

    def pin_memory(self) -> "Crops":
        """The same in memory that a GPU can copy from by itself; the loader calls it."""
        coins = None if self.coins is None else self.coins.pin_memory()
        return Crops(self.pixels.pin_memory(), self.shifts.pin_memory(), coins, self.draws)

    def images(self, mean: Tensor) -> Tensor:
        """What the network sees, (N, 3, R, R), float32, channels_last: pixels − mean + shift."""
        shifts = self.shifts - mean
        return (self.pixels + shifts[:, None, None, :]).permute(0, 3, 1, 2)

    def keep(self, units: int) -> Tensor | None:
        """Which of a number of units dropout leaves in each example, bool (N, units)."""
        if self.coins is None:
            return None
        bits = torch.arange(8, dtype=torch.uint8, device=self.coins.device)
        return (self.coins[:, :, None] >> bits & 1).flatten(1)[:, :units].bool()


#: Pixels, shift, coins and draws of an example, as `Crops` has them.
Example = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]


class Examples(Dataset[Example]):
    """Crops of images: `examples[epoch, index]`, augmented by (seed, epoch, index); epoch 0 is not.

    Indices of the first `parts[0]` are those of its images, and so on: one loader, with one set of
    worker processes, reads training and validation images.

    Args:
        parts: Where the pixels are, and which of the images are examples (their indices).
        side: R, of the crops.
        basis: B of the colour shift (bpgrad.data.augmentation).
        units: Units that dropout may drop, 0 without.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Pixels, np.ndarray]],
        side: int,
        seed: int,
        basis: np.ndarray,
        kind: ColourShift,
        units: int = 0,
    ) -> None:
        self.parts, self.side, self.seed = parts, side, seed
        self.basis, self.kind, self.units = basis, kind, units

    def __len__(self) -> int:
        return sum(len(indices) for _, indices in self.parts)

    def __getitem__(self, key: Key) -> Example:
        epoch, index = key
        image = self._image(index)
        if not epoch:
            crop = central_crop(*image.size)
            return crop.of(image, self.side), np.zeros(3, np.float32), None, None
        draws = draws_of(self.seed, epoch, index)
        crop = training_crop(*image.size, draws)
        coins = example_coins(self.seed, epoch, index, self.units) if self.units else None
        shift = colour_shift(draws, self.basis, self.kind)
        return crop.of(image, self.side), shift, coins, draws

    def _image(self, index: int) -> Image:
        for pixels, indices in self.parts:
            if index < len(indices):
                return pixels(int(indices[index]))
            index -= len(indices)
        raise IndexError(index)


def collated(examples: Sequence[Example]) -> Crops:
    """A batch of examples."""
    pixels, shifts, *others = zip(*examples, strict=True)
    coins, draws = (None if each[0] is None else _stacked(each) for each in others)
    return Crops(_stacked(pixels), _stacked(shifts), coins, draws)


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def colours(
    pixels: Pixels, indices: np.ndarray, cache: Path, digest: str
) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour (3,) and B (3, 3) of every hundredth of the images trained on.

    Of fewer than 6 400 more often, to have 64. Each is cropped as for a test and resized to 256 ×
    256. Kept in the folder `cache` under `digest`, which stands for the contents of the images.
    """
    every = max(1, min(STATISTICS_EVERY, len(indices) // LEAST_STATISTICS))
    chosen = indices[::every]
    key = hashlib.sha256(f"{STATISTICS_VERSION} {digest}".encode() + chosen.tobytes()).hexdigest()
    path = cache / f"colours-{pixels.images.folder.name}-{key[:12]}.json"
    try:
        kept = json.loads(path.read_bytes())
        mean, basis = np.array(kept["mean"]), np.array(kept["basis"])
        if mean.shape == (3,) and basis.shape == (3, 3) and kept["crc"] == _crc(mean, basis):
            return mean, basis
    except (OSError, ValueError, TypeError, KeyError):
        pass  # computed in seconds
    squares = []
    for index in chosen:
        image = pixels(int(index))
        squares.append(central_crop(*image.size).of(image, STATISTICS_SIDE).reshape(-1, 3))
    mean, basis = colour_statistics(np.concatenate(squares))
    content = {"mean": mean.tolist(), "basis": basis.tolist(), "crc": _crc(mean, basis)}
    try:
        with atomic_writer(path) as file:
            file.write(json.dumps(content).encode())
    except OSError:
        pass  # computed again next time
    return mean, basis


def _crc(mean: np.ndarray, basis: np.ndarray) -> int:
    return zlib.crc32(np.concatenate([mean, basis.ravel()]).astype("<f8").tobytes())
