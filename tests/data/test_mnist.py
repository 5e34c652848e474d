import dataclasses
import gzip
import hashlib
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets

from bpgrad.data import mnist
from bpgrad.errors import DataError

STREAM = np.random.default_rng(0)
PIXELS = {
    "train": STREAM.integers(0, 256, (7, 28, 28), np.uint8),
    "t10k": STREAM.integers(0, 256, (3, 28, 28), np.uint8),
}
LABELS = {
    "train": np.array([5, 0, 4, 1, 9, 2, 1], np.uint8),
    "t10k": np.array([7, 2, 1], np.uint8),
}


@pytest.fixture
def tiny_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten generated digits in the four files of MNIST, whose md5s are expected."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, pixels in PIXELS.items():
        images = struct.pack(">4i", 2051, *pixels.shape) + pixels.tobytes()
        labels = struct.pack(">2i", 2049, len(pixels)) + LABELS[part].tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    md5 = {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in mnist.MD5}
    monkeypatch.setattr(mnist, "SOURCE", dataclasses.replace(mnist.SOURCE, md5=md5))
    return tmp_path


def test_pixels_minus_the_training_mean(tiny_root: Path) -> None:
    train, val = mnist.load(tiny_root)
    mean = PIXELS["train"].astype(float).mean(0)
    for part, images in (("train", train.images), ("t10k", val.images)):
        expected = torch.from_numpy(PIXELS[part] - mean).float().unsqueeze(1)
        torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    assert train.labels.tolist() == LABELS["train"].tolist()
    assert val.labels.tolist() == LABELS["t10k"].tolist()


@pytest.mark.parametrize("file", mnist.MD5)
def test_a_truncated_file_is_named(tiny_root: Path, file: str) -> None:
    path = tiny_root / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{file} is truncated or corrupt") as caught:
        mnist.load(tiny_root)
    assert mnist.SOURCE.md5[file] in str(caught.value)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is missing") as caught:
        mnist.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_a_file(url: str, download_root: str, filename: str, md5: str) -> None:
        assert md5 == mnist.MD5[filename]
        Path(download_root, filename).write_bytes(b"half")
        raise URLError("connection lost")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", half_a_file)
    with pytest.raises(DataError, match="connection lost") as caught:
        mnist.load(tmp_path, download=True)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.realdata
def test_the_real_data(data_root: Path) -> None:
    train, val = mnist.load(data_root)
    assert train.images.shape == (60_000, 1, 28, 28)
    assert val.images.shape == (10_000, 1, 28, 28)
    assert train.labels.bincount().tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert val.labels.bincount().tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert val.labels[:5].tolist() == [7, 2, 1, 0, 4]
    mean = -train.images.amin(0)  # every pixel is black, 0, in some training image
    raw = (train.images + mean) / 255
    assert raw.mean().item() == pytest.approx(0.1307, abs=1e-4)  # as published
    assert raw.std().item() == pytest.approx(0.3081, abs=1e-4)
    torch.testing.assert_close(raw.mean(0) * 255, mean, atol=1e-2, rtol=0)
    assert (val.images + mean).amin().item() == pytest.approx(0, abs=1e-4)
    assert (val.images + mean).amax().item() == pytest.approx(255, abs=1e-4)
