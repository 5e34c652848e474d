"""Selective search by OpenCV, for images that nobody has published proposals of.

It needs the extra "proposals" (opencv-contrib-python-headless). The boxes are not the published
ones, which come from an older program: about a quarter of these have a partner.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from bpgrad.data.files import atomic_writer
from bpgrad.data.proposals import filtered
from bpgrad.data.voc import read_image
from bpgrad.errors import ConfigError, DataError

SHORT = 400  # pixels of the shorter side that is searched; larger images are scaled down to it
VERSION = 1  # of what is computed here; a part of the names of kept boxes


def selective_search(data_root: Path, image: Path, short: int = SHORT) -> np.ndarray:
    """The proposals of an image, (N, 4), filtered, in the order of their coordinates.

    OpenCV gives the same set in another order each time: sorted, the order says nothing, so that
    nothing may be cut by it. Kept below `data_root`/cache under a hash of the image's bytes.

    Raises DataError if the image cannot be read, ConfigError where OpenCV is not installed.
    """
    try:
        content = image.read_bytes()
    except OSError as error:
        raise DataError(f"{image} cannot be read ({error.strerror})") from error
    key = hashlib.sha256(repr((VERSION, short)).encode() + content).hexdigest()[:24]
    kept = data_root / "cache" / "selective-search" / f"{key}.npy"
    found = _kept(kept)
    if found is None:
        found = filtered(_search(read_image(image), short))
        memory = io.BytesIO()
        np.save(memory, found)
        try:
            with atomic_writer(kept) as file:
                file.write(memory.getbuffer())
        except OSError:
            pass  # it is computed again the next time
    return found


def _kept(path: Path) -> np.ndarray | None:
    """What was written; None if it is not there, or not whole."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.dtype == np.float64 and found.ndim == 2 and found.shape[1:] == (4,)
    return found if whole else None


def _search(pixels: np.ndarray, short: int) -> np.ndarray:
    """All boxes in the pixels of the image, sorted, each once."""
    height, width = pixels.shape[:2]
    factor = min(1.0, short / min(height, width))
    size = max(1, round(factor * width)), max(1, round(factor * height))
    scaled = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    rectangles = _opencv(scaled).astype(np.float64)
    corners = np.concatenate([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]], axis=1)
    # From edges in the scaled image to the first and the last pixel, counted from 1.
    corners /= np.array([size[0] / width, size[1] / height] * 2)
    boxes = np.floor(corners + 0.5) + np.array([1, 1, 0, 0])
    return np.unique(np.clip(boxes, 1, (width, height) * 2), axis=0)


def _opencv(pixels: np.ndarray) -> np.ndarray:
    """Rectangles (N, 4): left, top, width, height, in any order."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "selective search needs OpenCV: pip install '.[proposals]' "
            "(opencv-contrib-python-headless); task.proposals=oracle goes without"
        ) from error
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(pixels[..., ::-1]))
    search.switchToSelectiveSearchFast()
    return np.asarray(search.process())
