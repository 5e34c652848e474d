"""CIFAR-10 as MatConvNet prepares it: mean image, contrast, ZCA whitening (reference §2).

The prepared pixels are kept in `data_root`/cache, since making them takes about half a minute.
"""

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bpgrad.data.arrays import read_array, write_array
from bpgrad.data.files import Source
from bpgrad.data.images import ImageSet

TRAIN_FILES = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST_FILE = "test_batch"
SOURCE = Source(
    name="cifar10",
    torchvision_name="CIFAR10",
    folder="cifar-10-batches-py",
    md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
MD5: dict[str, str] = dict(SOURCE.md5)
# What the authors' released code starts from; bpgrad.models.lenet knows its layout.
INITIAL_WEIGHTS = Source(
    name="cifar10-initial-weights",
    folder="bpgrad",
    md5={"Weights_init_cifar10.mat": "91c5b3c5a58b26a5df888f95e0bdd5d3"},
    by_hand="take init_weights/Weights_init_cifar10.mat from github.com/RyanCV/BPGrad",
)

# Part of the name of the cache: raise it with every change to the preprocessing.
PREPROCESSING_VERSION = 1

MIN_CONTRAST = 40.0  # images of less contrast are not blown up to the mean contrast
MIN_SPREAD = 10.0  # directions of less spread are not blown up to the mean spread

_BLOCK = 10_000  # images handled at a time, which bounds the float64 copies


def load(data_root: Path, download: bool = False) -> tuple[ImageSet, ImageSet]:
    """The 50 000 training and 10 000 test images, (N, 3, 32, 32), preprocessed.

    Reads `data_root`/cifar-10-batches-py. The first call writes the result (740 MB) to
    `data_root`/cache, or warns if it cannot; later calls map that file into memory.

    Raises:
        DataError: a file is missing, truncated or corrupt, or could not be downloaded.
    """
    if download:
        SOURCE.download(data_root)
    pixels, labels, n_train = _read(data_root)
    cache = data_root / "cache" / f"cifar10-zca-{_cache_key()}.npy"
    prepared = read_array(cache)
    if prepared is None:
        flat = pixels.reshape(len(pixels), -1)
        prepared = zca(contrast_normalise(mean_subtract(flat, n_train)), n_train)
        prepared = prepared.reshape(pixels.shape)
        write_array(cache, prepared)
    images, targets = torch.from_numpy(prepared), torch.from_numpy(labels)
    return (
        ImageSet.from_nhwc(images[:n_train], targets[:n_train]),
        ImageSet.from_nhwc(images[n_train:], targets[n_train:]),
    )


def mean_subtract(pixels: np.ndarray, n_train: int) -> np.ndarray:
    """Step 1: `pixels` (N, D) minus the mean of the first `n_train` rows, as float32."""
    mean = pixels[:n_train].mean(axis=0, dtype=np.float64)
    return np.subtract(pixels, mean, dtype=np.float32, casting="same_kind")


def contrast_normalise(images: np.ndarray) -> np.ndarray:
    """Step 2: bring every image of `images` (N, D), float32, to mean 0 and the same contrast.

    The contrast is the standard deviation over the D entries (dividing by D − 1); the common one is
    the mean over all N images, and images below `MIN_CONTRAST` are scaled as if they had that.
    """
    centred = np.empty_like(images)
    contrast = np.empty((len(images), 1))
    for block in _blocks(len(images)):
        exact = images[block].astype(np.float64)
        exact -= exact.mean(axis=1, keepdims=True)
        contrast[block] = exact.std(axis=1, ddof=1, keepdims=True)
        centred[block] = exact
    centred *= (contrast.mean() / np.maximum(contrast, MIN_CONTRAST)).astype(np.float32)
    return centred


def zca(images: np.ndarray, n_train: int) -> np.ndarray:
    """Step 3: whiten `images` (N, D), float32, along the eigenvectors of the training images.

    The covariance sums over the first `n_train` rows, is not centred again and is divided by N, as
    in the source. Directions are scaled to the root mean eigenvalue, those whose root is below
    `MIN_SPREAD` as if it were that.
    """
    covariance = np.zeros((images.shape[1], images.shape[1]))
    for block in _blocks(n_train):
        exact = images[:n_train][block].astype(np.float64)
        covariance += exact.T @ exact
    covariance /= len(images)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    eigenvalues = np.maximum(eigenvalues, 0.0)  # rounding leaves tiny negative ones
    scale = np.sqrt(eigenvalues.mean()) / np.maximum(np.sqrt(eigenvalues), MIN_SPREAD)
    whitening = (eigenvectors * scale) @ eigenvectors.T
    return images @ whitening.astype(np.float32)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, n, _BLOCK))


def _read(data_root: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Pixels uint8 (N, 32, 32, 3), labels int64 (N,), training images first, and their number."""
    SOURCE.read(data_root, "batches.meta")
    pixels, labels = [], []
    for file in (*TRAIN_FILES, TEST_FILE):
        batch = pickle.loads(SOURCE.read(data_root, file), encoding="bytes")
        pixels.append(batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.array(batch[b"labels"], np.int64))
    return np.concatenate(pixels), np.concatenate(labels), sum(map(len, labels[:-1]))


def _cache_key() -> str:
    """Names the raw data and the preprocessing."""
    content = repr((PREPROCESSING_VERSION, sorted(SOURCE.md5.items())))
    return hashlib.sha256(content.encode()).hexdigest()[:12]
