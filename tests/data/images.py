"""Folders of small generated images, in classes, as ImageNet's are."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01", "n02", "n03")


def picture(label: int, k: int, width: int = 90, height: int = 80) -> Image.Image:
    """Noise on a colour that depends on the class: something to be learned."""
    random = np.random.RandomState(100 * label + k)
    pixels = random.randint(0, 120, (height, width, 3))
    pixels[..., label % 3] += 100
    return Image.fromarray(pixels.astype(np.uint8))


def make_image_folder(folder: Path, classes: tuple[str, ...] = CLASSES, images: int = 8) -> Path:
    """`folder`/CLASS/NAME.JPEG, of sizes that differ."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for k in range(images):
            picture(label, k, 90 + 7 * k, 80 + 5 * label).save(
                folder / name / f"{name}_{k}.JPEG", "JPEG", quality=80
            )
    return folder
