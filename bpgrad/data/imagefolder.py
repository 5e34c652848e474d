"""Images in a folder for each class: which there are, whether they can be read, their pixels."""

import gzip
import hashlib
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from bpgrad.data.arrays import read_array, write_array
from bpgrad.data.files import atomic_writer
from bpgrad.errors import DataError

SUFFIXES = (".jpeg", ".jpg", ".png")
SCAN_VERSION = (
    1  # part of the caches' names: raise it with every change to what is found or decoded
)
ORIENTATION = 0x0112  # the EXIF tag
END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True)
class ImageFolder:
    """The images below a folder, sorted by path, and the number of each one's class.

    `names` are paths below the folder, bytes (an array of str would be four times as large).
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Where an image lies."""
        return self.folder / os.fsdecode(self.names[index])


def image_folder(folder: Path, classes: int | None = None) -> ImageFolder:
    """What lies below a folder: one folder a class, numbered in the order of their names.

    `classes` takes the first so many. Raises DataError if there are no images, or fewer classes.
    """
    try:
        found = sorted(
            (e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != "."),
        )
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from error
    if classes is not None and len(found) < classes:
        raise DataError(f"{folder}: has {len(found)} folders of classes, not {classes}")
    found = found[:classes]
    names: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(found):
        files = sorted(f for f in os.listdir(folder / name) if is_image_name(f))
        names += (os.fsencode(f"{name}/{file}") for file in files)
        labels += [label] * len(files)
    if not names:
        raise DataError(f"{folder}: has no images; expected {folder}/CLASS/NAME.JPEG")
    return ImageFolder(folder, tuple(found), np.array(names), np.array(labels, np.int64))


def is_image_name(file: str) -> bool:
    """Whether a file counts, by its name."""
    return file[0] != "." and file.lower().endswith(SUFFIXES)


def read_rgb(path: Path) -> Image.Image:
    """The pixels as RGB: grey ones thrice, CMYK and palettes converted, EXIF rotation ignored.

    Decoded at full size: JPEG's draft mode gives other pixels.

    Raises:
        DataError: it is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is none"
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Scan:
    """The width and height of each image, (N, 2), and what is odd about some, by their names."""

    sizes: np.ndarray
    odd: dict[str, str]


def scan(images: ImageFolder, cache: Path, digest: str) -> Scan:
    """Read the header of every image, and all of those whose end is missing; refuse bad ones.

    What was found is kept in the folder `cache` under `digest`, which stands for the contents. What
    is odd but can be read (CMYK, greyscale, a PNG by another name, turned by EXIF) is listed in a
    file beside it, a line each, and counted in a warning the first time.

    Raises:
        DataError: images that cannot be read; all are listed in that file.
    """
    key = f"{images.folder.name}-{_key(digest)}"
    kept, listed = cache / f"scan-{key}.gz", cache / f"odd-{key}.txt"
    found = _read_scan(kept, len(images))
    if found is not None:
        return found
    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(look_at, (images.path(k) for k in range(len(images)))))
    sizes = np.array([size for size, _, _ in looked], np.int32).reshape(-1, 2)
    names = [os.fsdecode(name) for name in images.names]
    bad = {
        name: note for name, (_, note, readable) in zip(names, looked, strict=True) if not readable
    }
    odd = {
        name: note
        for name, (_, note, readable) in zip(names, looked, strict=True)
        if note and readable
    }
    lines = "".join(f"{name}: {note}\n" for name, note in (bad | odd).items())
    if lines:
        _write(listed, lines.encode(errors="surrogateescape"))
    if bad:
        name, note = next(iter(bad.items()))
        more = f", and {len(bad) - 1} more, listed in {listed}" if len(bad) > 1 else ""
        raise DataError(f"{images.folder / name}: cannot be read as an image ({note}){more}")
    if odd:
        kinds = sorted(set(odd.values()))
        counts = ", ".join(f"{sum(n == kind for n in odd.values())} {kind}" for kind in kinds)
        warnings.warn(f"{images.folder}: {counts}; listed in {listed}", stacklevel=2)
    found = Scan(sizes, odd)
    _write_scan(kept, found)
    return found


def _key(digest: str) -> str:
    return hashlib.sha256(f"{SCAN_VERSION} {digest}".encode()).hexdigest()[:12]


def look_at(path: Path) -> tuple[tuple[int, int], str, bool]:
    """Width and height of an image, what is odd about it ("" if nothing), and if it can be read."""
    try:
        if path.stat().st_size == 0:
            return (0, 0), "empty", False
        with Image.open(path) as image:
            notes = [*_oddities(image, path)]
            if image.format == "JPEG" and not _has_an_end(path):
                image.load()  # some only have bytes after their end
            elif image.format != "JPEG":
                image.load()
            return image.size, ", ".join(notes), True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return (0, 0), _reason(error), False


def unreadable(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Which of some files below a folder are images that cannot be read, and why."""
    images = [name for name in names if is_image_name(name.rpartition("/")[2])]
    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(look_at, (folder / name for name in images)))
    return {
        name: note for name, (_, note, readable) in zip(images, looked, strict=True) if not readable
    }


def _oddities(image: Image.Image, path: Path) -> Iterator[str]:
    expected = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    if image.format != expected:
        yield f"{image.format} named {path.suffix}"
    if image.mode != "RGB":
        yield {"L": "greyscale", "1": "greyscale", "P": "palette"}.get(image.mode, image.mode)
    if image.info.get("exif") and image.getexif().get(ORIENTATION, 1) != 1:
        yield "turned by EXIF (ignored)"


def _has_an_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(2, path.stat().st_size), os.SEEK_END)
        return file.read() == END_OF_JPEG


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_writer(path) as file:
            file.write(content)
    except OSError as error:
        warnings.warn(
            f"{path}: not written ({error.strerror}); going on without a cache", stacklevel=4
        )


def _write_scan(path: Path, found: Scan) -> None:
    odd = "".join(f"{name}\0{note}\0" for name, note in found.odd.items())
    content = found.sizes.astype("<i4").tobytes() + odd.encode(errors="surrogateescape")
    _write(path, gzip.compress(hashlib.sha256(content).digest() + content))


def _read_scan(path: Path, n: int) -> Scan | None:
    try:
        whole = gzip.decompress(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, zlib.error):
        whole = b""
    digest, content = whole[:32], whole[32:]
    if hashlib.sha256(content).digest() != digest or len(content) < 8 * n:
        warnings.warn(f"{path}: truncated or corrupt; looking at all images again", stacklevel=3)
        return None
    sizes = np.frombuffer(content, "<i4", 2 * n).reshape(n, 2)
    parts = content[8 * n :].decode(errors="surrogateescape").split("\0")[:-1]
    return Scan(sizes, dict(zip(parts[::2], parts[1::2], strict=True)))


class Pixels:
    """Reads images as RGB, from their files or from an array that holds all of them decoded."""

    def __init__(self, images: ImageFolder, sizes: np.ndarray, decoded: np.ndarray | None) -> None:
        self.images, self.sizes, self.decoded = images, sizes, decoded
        areas = sizes.astype(np.int64).prod(1) * 3
        self.ends = np.cumsum(areas)

    def __call__(self, index: int) -> Image.Image:
        """An image's pixels; raises DataError if its file cannot be read."""
        if self.decoded is None:
            return read_rgb(self.images.path(index))
        width, height = map(int, self.sizes[index])
        end = int(self.ends[index])
        content = self.decoded[end - 3 * width * height : end]
        return Image.frombuffer("RGB", (width, height), content, "raw", "RGB", 0, 1)


def decoded(images: ImageFolder, cache: Path, digest: str) -> np.ndarray:
    """All pixels of all images in one array, uint8, each (H, W, 3); kept in the folder `cache`.

    Raises DataError for one that cannot be read.
    """
    path = cache / f"decoded-{images.folder.name}-{_key(digest)}.npy"
    found = read_array(path)
    if found is None:
        with ThreadPoolExecutor() as pool:  # decoding lets go of the interpreter
            paths = [images.path(k) for k in range(len(images))]
            parts = list(pool.map(lambda p: np.asarray(read_rgb(p)).reshape(-1), paths))
        found = np.concatenate(parts)
        write_array(path, found)
        found = read_array(path) if path.exists() else found
        assert found is not None
    return found
