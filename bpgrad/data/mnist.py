"""MNIST as MatConvNet's demo prepares it (reference §1)."""

import gzip
from pathlib import Path

import numpy as np

from bpgrad.data.files import Source
from bpgrad.data.images import ImageSet, mean_centred

SOURCE = Source(
    name="mnist",
    torchvision_name="MNIST",
    folder="MNIST/raw",
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)
MD5: dict[str, str] = dict(SOURCE.md5)


def load(data_root: Path, download: bool = False) -> tuple[ImageSet, ImageSet]:
    """The 60 000 training and 10 000 test images, (N, 1, 28, 28), from `data_root`/MNIST/raw/*.gz.

    Pixels are 0..255 minus the mean image of the training set; they are not scaled.

    Raises:
        DataError: a file is missing, truncated or corrupt, or could not be downloaded.
    """
    if download:
        SOURCE.download(data_root)
    return mean_centred(_read(data_root, "train"), _read(data_root, "t10k"))


def _read(data_root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 28, 28) and labels uint8 (N,), past the headers of 16 and 8 bytes."""
    images = gzip.decompress(SOURCE.read(data_root, f"{part}-images-idx3-ubyte.gz"))
    labels = gzip.decompress(SOURCE.read(data_root, f"{part}-labels-idx1-ubyte.gz"))
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8)
