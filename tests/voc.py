"""A small generated data set in VOC's layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bpgrad.data.voc import CLASSES, Pair, Photo, palette, read_photo


def write_mask(path: Path, labels: np.ndarray) -> None:
    """A PNG with VOC's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(labels.astype(np.uint8), "P")
    mask.putpalette(palette().tobytes())
    mask.save(path)


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_pair(folder: Path, name: str, labels: np.ndarray, seed: int = 0) -> Pair:
    """An image whose colours show its labels, and the mask."""
    pair = Pair(name, folder / "JPEGImages" / f"{name}.jpg", mask_of(folder, name))
    noise = np.random.default_rng(seed).integers(0, 30, (*labels.shape, 3))
    colors = palette()[np.where(labels == 255, 0, labels)].astype(int)
    write_image(pair.image, np.clip(colors + noise, 0, 255).astype(np.uint8))
    write_mask(pair.mask, labels)
    return pair


def mask_of(folder: Path, name: str) -> Path:
    return folder / "SegmentationClass" / f"{name}.png"


def square(height: int, width: int, label: int, side: int) -> np.ndarray:
    """Background, and a square of a class with a border of void."""
    labels = np.zeros((height, width), np.uint8)
    labels[4 : 6 + side, 5 : 7 + side] = 255
    labels[5 : 5 + side, 6 : 6 + side] = label
    return labels


def annotation(name: str, objects: str, size: tuple[int, int] = (500, 375)) -> str:
    """An annotation file with these objects."""
    return (
        f"<annotation><filename>{name}.jpg</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def an_object(name: str, box: Sequence[object], more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inside = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><bndbox>{inside}</bndbox>{more}</object>"


def write_photo(
    folder: Path, name: str, size: tuple[int, int], objects: Sequence[tuple[int, Sequence[int]]]
) -> Photo:
    """A photo of (width, height) with an area of its class's colour for each (label, box)."""
    width, height = size
    pixels = np.full((height, width, 3), 20, np.uint8)
    for label, (left, top, right, bottom) in objects:
        pixels[top - 1 : bottom, left - 1 : right] = palette()[label + 1]
    write_image(folder / "JPEGImages" / f"{name}.jpg", pixels)
    text = "".join(an_object(CLASSES[label], box) for label, box in objects)
    path = folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(annotation(name, text, size))
    return read_photo(folder, name)
