import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch

from bpgrad.data import digits
from bpgrad.errors import DataError


def test_every_digit_is_in_exactly_one_part() -> None:
    train, val = digits.load()
    raw = sklearn.datasets.load_digits().images
    mean = raw[~digits._validation_mask(sklearn.datasets.load_digits().target)].mean(0)
    seen = np.concatenate([train.images[:, 0].numpy(), val.images[:, 0].numpy()]) + mean
    assert sorted(map(bytes, seen.round().astype(np.uint8))) == sorted(
        map(bytes, raw.astype(np.uint8))
    )


def test_split_is_stratified() -> None:
    train, val = digits.load()
    assert (len(train), len(val)) == (1438, 359)
    for a, b in zip(train.labels.bincount().tolist(), val.labels.bincount().tolist(), strict=True):
        assert b / (a + b) == pytest.approx(0.2, abs=0.005)


def test_split_is_fixed() -> None:
    _, val = digits.load()
    assert val.labels[:12].tolist() == [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]
    digest = hashlib.sha256(val.labels.numpy().tobytes()).hexdigest()
    assert digest == "7d108ee8fe30bb90e73e54fffbd17cbdba16de5978c5ecb0eb0a938f5f283322"


def test_pixels_are_centred_and_not_scaled() -> None:
    train, val = digits.load()
    assert train.images.shape == (1438, 1, 8, 8)
    assert train.images.dtype == torch.float32
    torch.testing.assert_close(train.images.mean(0), torch.zeros(1, 8, 8), atol=1e-5, rtol=0)
    assert val.images.mean(0).abs().max() > 0.01  # the mean is that of the training part
    assert 12 < train.images.max() <= 16


def test_images_and_labels_belong_together() -> None:
    # Nearest class mean is a poor classifier, but far from the 10 % of shuffled labels.
    train, val = digits.load()
    means = torch.stack([train.images[train.labels == k].mean(0) for k in range(10)])
    nearest = torch.cdist(val.images.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == val.labels).float().mean() > 0.85


def test_the_arrays_are_those_of_load_digits() -> None:
    """In its order; the file is read directly only because importing sklearn takes seconds."""
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    found = {"pixels": pixels.astype(np.uint8), "labels": labels.astype(np.uint8)}
    assert {name: hashlib.md5(a.tobytes()).hexdigest() for name, a in found.items()} == digits.MD5


@pytest.mark.parametrize("how", ["other", "truncated", "missing"])
def test_another_file_is_refused(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = digits._embedded_file().read_bytes()
    path = tmp_path / "digits.csv.gz"
    if how == "other":
        lines = gzip.decompress(content).splitlines(keepends=True)
        path.write_bytes(gzip.compress(b"".join([lines[0].replace(b",5,", b",6,"), *lines[1:]])))
    elif how == "truncated":
        path.write_bytes(content[:30000])
    monkeypatch.setattr(digits, "_embedded_file", lambda: path)
    message = r"pixels .* expected fa70cba135d4cdd4cde65da70dbffde2" if how == "other" else "read"
    with pytest.raises(DataError, match=message) as caught:
        digits.load()
    assert "\n" not in str(caught.value)
