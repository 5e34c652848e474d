import dataclasses
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bpgrad.data import cifar10
from bpgrad.errors import DataError

PER_FILE = {**dict.fromkeys(cifar10.TRAIN_FILES, 4), cifar10.TEST_FILE: 3}
N_TRAIN, N = 20, 23


# The steps of the preprocessing, against loops over single images.

pixel_rows = st.integers(2, 9).flatmap(
    lambda n: npst.arrays(np.uint8, (n, 12), elements=st.integers(0, 255))
)
few_examples = settings(max_examples=50, deadline=None)


@few_examples
@given(pixels=pixel_rows, data=st.data())
def test_mean_subtract(pixels: np.ndarray, data: st.DataObject) -> None:
    n_train = data.draw(st.integers(1, len(pixels)))
    result = cifar10.mean_subtract(pixels, n_train)
    assert result.dtype == np.float32
    for i in range(len(pixels)):
        for j in range(pixels.shape[1]):
            mean = sum(float(pixels[k, j]) for k in range(n_train)) / n_train
            assert result[i, j] == pytest.approx(pixels[i, j] - mean, abs=1e-4)


@few_examples
@given(pixels=pixel_rows)
def test_contrast_normalise(pixels: np.ndarray) -> None:
    images = pixels.astype(np.float32)
    result = cifar10.contrast_normalise(images)
    centred = [image.astype(float) - image.astype(float).mean() for image in images]
    contrasts = [float(np.sqrt((z**2).sum() / (len(z) - 1))) for z in centred]
    common = sum(contrasts) / len(contrasts)
    for z, contrast, row in zip(centred, contrasts, result, strict=True):
        np.testing.assert_allclose(row, z * common / max(contrast, 40), atol=1e-3)
    assert np.array_equal(images, pixels)  # the argument is not changed


def test_contrast_normalise_scales_from_forty_up_only() -> None:
    unit = np.tile([1.0, -1.0], 500).astype(np.float32)
    unit *= np.sqrt(999 / 1000)  # contrast 1
    result = cifar10.contrast_normalise(np.stack([20 * unit, 60 * unit, 80 * unit]))
    stds = result.std(axis=1, ddof=1)
    common = 160 / 3
    np.testing.assert_allclose(stds, [common / 2, common, common], rtol=1e-5)


@few_examples
@given(pixels=pixel_rows, data=st.data())
def test_zca(pixels: np.ndarray, data: st.DataObject) -> None:
    n_train = data.draw(st.integers(1, len(pixels)))
    images = pixels.astype(np.float32) - 128
    result = cifar10.zca(images, n_train)
    assert result.dtype == np.float32

    covariance = np.zeros((12, 12))
    for z in images[:n_train].astype(float):
        covariance += np.outer(z, z) / len(images)  # all images, not the training ones
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(min=0)
    spread = np.sqrt(values.sum() / 12)
    for z, row in zip(images.astype(float), result, strict=True):
        expected = np.zeros(12)
        for value, vector in zip(values, vectors.T, strict=True):
            expected += spread / max(np.sqrt(value), 10) * (vector @ z) * vector
        np.testing.assert_allclose(row, expected, atol=1e-3 * max(1, float(abs(expected).max())))


@few_examples
@given(pixels=pixel_rows, seed=st.integers(0, 99))
def test_zca_does_not_care_for_the_order_of_pixels(pixels: np.ndarray, seed: int) -> None:
    images = pixels.astype(np.float32)
    shuffled = np.random.default_rng(seed).permutation(12)
    np.testing.assert_allclose(
        cifar10.zca(images[:, shuffled], len(images)),
        cifar10.zca(images, len(images))[:, shuffled],
        atol=0.01,
    )


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).normal(0, 50, (23, 12)).astype(np.float32)
    whole = cifar10.contrast_normalise(images), cifar10.zca(images, 17)
    monkeypatch.setattr(cifar10, "_BLOCK", 5)
    parts = cifar10.contrast_normalise(images), cifar10.zca(images, 17)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# The reader, on 23 generated images with a whitening that is cheap.


def fake_zca(images: np.ndarray, n_train: int) -> np.ndarray:
    assert n_train == N_TRAIN
    return 2 * images


class CountedZca:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: np.ndarray, n_train: int) -> np.ndarray:
        self.calls += 1
        return fake_zca(images, n_train)


@pytest.fixture
def whitening(monkeypatch: pytest.MonkeyPatch) -> CountedZca:
    counted = CountedZca()
    monkeypatch.setattr(cifar10, "zca", counted)
    return counted


@pytest.fixture
def tiny_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whitening: CountedZca) -> Path:
    """Generated batches in the files of CIFAR-10, whose md5s are expected."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    stream = np.random.default_rng(0)
    for file, n in PER_FILE.items():
        batch = {
            b"data": stream.integers(0, 256, (n, 3072), np.uint8),
            b"labels": stream.integers(0, 10, n).tolist(),
        }
        (folder / file).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(b"names")
    md5 = {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in cifar10.MD5}
    monkeypatch.setattr(cifar10, "SOURCE", dataclasses.replace(cifar10.SOURCE, md5=md5))
    return tmp_path


def raw(root: Path) -> tuple[np.ndarray, list[int]]:
    """Pixels (23, 3, 32, 32), as the data set's own page documents them, and labels."""
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    for file in PER_FILE:
        batch = pickle.loads((root / "cifar-10-batches-py" / file).read_bytes())
        for row in batch[b"data"]:  # red, then green, then blue, each of them row by row
            pixels.append(
                np.stack([row[k * 1024 : (k + 1) * 1024].reshape(32, 32) for k in (0, 1, 2)])
            )
        labels += batch[b"labels"]
    return np.stack(pixels), labels


def cache_of(root: Path) -> Path:
    (path,) = (root / "cache").iterdir()
    return path


def test_load_gives_prepared_images_in_torch_order(tiny_root: Path) -> None:
    train, val = cifar10.load(tiny_root)
    pixels, labels = raw(tiny_root)
    flat = pixels.reshape(N, -1)
    prepared = fake_zca(cifar10.contrast_normalise(cifar10.mean_subtract(flat, N_TRAIN)), N_TRAIN)
    images = torch.cat([train.images, val.images])
    assert images.shape == (N, 3, 32, 32)
    torch.testing.assert_close(
        images, torch.from_numpy(prepared.reshape(N, 3, 32, 32)), atol=1e-3, rtol=1e-5
    )
    assert (len(train), len(val)) == (20, 3)
    assert train.labels.tolist() + val.labels.tolist() == labels


@pytest.mark.filterwarnings("error")
def test_the_second_load_reads_the_cache(tiny_root: Path, whitening: CountedZca) -> None:
    cold = cifar10.load(tiny_root)
    warm = cifar10.load(tiny_root)
    assert whitening.calls == 1
    for a, b in zip(cold, warm, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


@pytest.mark.filterwarnings("error")
def test_changing_loaded_images_does_not_reach_the_cache(tiny_root: Path) -> None:
    cifar10.load(tiny_root)
    before = cache_of(tiny_root).read_bytes()
    train, _ = cifar10.load(tiny_root)
    train.images.zero_()
    assert cache_of(tiny_root).read_bytes() == before


@pytest.mark.filterwarnings("error")
def test_the_cache_is_a_numpy_file_others_may_read(tiny_root: Path) -> None:
    train, val = cifar10.load(tiny_root)
    array = np.load(cache_of(tiny_root))
    assert array.shape == (N, 32, 32, 3)
    expected = torch.cat([train.images, val.images]).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(array, expected)
    assert cache_of(tiny_root).stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("length", [0, 10, 200, 5000, -33, -1])
def test_a_truncated_cache_is_made_again(
    tiny_root: Path, whitening: CountedZca, length: int
) -> None:
    expected = cifar10.load(tiny_root)[0].images
    path = cache_of(tiny_root)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    with pytest.warns(UserWarning, match="preparing the data again"):
        again = cifar10.load(tiny_root)[0].images
    assert whitening.calls == 2
    assert torch.equal(again, expected)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("position", [0, 60, 1000, -40, -1])
def test_a_corrupt_cache_is_made_again(
    tiny_root: Path, whitening: CountedZca, position: int
) -> None:
    expected = cifar10.load(tiny_root)[0].images
    path = cache_of(tiny_root)
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match="truncated or corrupt; preparing the data again"):
        again = cifar10.load(tiny_root)[0].images
    assert whitening.calls == 2
    assert torch.equal(again, expected)


def test_other_raw_data_or_preprocessing_has_a_cache_of_its_own(
    tiny_root: Path, whitening: CountedZca, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar10.load(tiny_root)
    monkeypatch.setattr(cifar10, "PREPROCESSING_VERSION", 2)
    cifar10.load(tiny_root)
    batch = tiny_root / "cifar-10-batches-py" / "batches.meta"
    batch.write_bytes(b"others")
    md5 = {**cifar10.SOURCE.md5, "batches.meta": hashlib.md5(b"others").hexdigest()}
    monkeypatch.setattr(cifar10, "SOURCE", dataclasses.replace(cifar10.SOURCE, md5=md5))
    cifar10.load(tiny_root)
    assert whitening.calls == 3
    assert len(list((tiny_root / "cache").iterdir())) == 3


def test_a_cache_folder_that_cannot_be_written_is_said_once(
    tiny_root: Path, whitening: CountedZca
) -> None:
    (tiny_root / "cache").write_bytes(b"a file where the folder should be")
    for calls in (1, 2):
        with pytest.warns(UserWarning, match=r"going on without a cache") as caught:
            train, val = cifar10.load(tiny_root)
        assert len(caught) == 1
        assert (len(train), len(val)) == (20, 3)
        assert whitening.calls == calls


def test_a_full_disk_leaves_no_part_of_a_cache(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_half(file: object, array: np.ndarray) -> None:
        file.write(array.tobytes()[:1000])  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", save_half)
    with pytest.warns(UserWarning, match="No space left on device"):
        cifar10.load(tiny_root)
    assert list((tiny_root / "cache").iterdir()) == []


# Missing and broken raw data.


@pytest.mark.parametrize("file", cifar10.MD5)
def test_a_truncated_file_is_named_even_with_a_cache(tiny_root: Path, file: str) -> None:
    cifar10.load(tiny_root)
    path = tiny_root / "cifar-10-batches-py" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{file} is truncated or corrupt") as caught:
        cifar10.load(tiny_root)
    assert "\n" not in str(caught.value)
    assert cifar10.SOURCE.md5[file] in str(caught.value)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is missing; run `python scripts/get_data\.py cifar10"):
        cifar10.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_an_archive(url: str, download_root: str, filename: str, md5: str) -> None:
        Path(download_root, filename).write_bytes(b"half")
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", half_an_archive)
    with pytest.raises(DataError, match="Connection reset by peer") as caught:
        cifar10.load(tmp_path, download=True)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# The real data set.


@pytest.mark.realdata
@pytest.mark.slow
def test_the_real_data(prepared_cifar10: Path) -> None:
    train, val = cifar10.load(prepared_cifar10)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert val.images.shape == (10_000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [5000] * 10
    assert val.labels.bincount().tolist() == [1000] * 10
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert val.labels[:5].tolist() == [3, 8, 8, 0, 6]


@pytest.mark.realdata
@pytest.mark.slow
def test_golden_numbers_of_the_result(prepared_cifar10: Path) -> None:
    train, val = cifar10.load(prepared_cifar10)
    assert train.images.std().item() == pytest.approx(34.6281, rel=1e-5)
    assert val.images.std().item() == pytest.approx(35.2366, rel=1e-5)
    first = train.images[0, :, 0, 0].tolist(), val.images[0, :, 0, 0].tolist()
    assert first[0] == pytest.approx([-29.9916, 25.5245, 60.0800], rel=1e-3)
    assert first[1] == pytest.approx([19.2530, -11.2911, -19.7421], rel=1e-3)


@pytest.mark.realdata
def test_golden_numbers_of_the_first_steps(data_root: Path) -> None:
    folder = data_root / "cifar-10-batches-py"
    batches = [pickle.loads((folder / f).read_bytes(), encoding="bytes")[b"data"] for f in PER_FILE]
    centred = cifar10.mean_subtract(np.concatenate(batches), 50_000)
    contrast = centred.std(axis=1, ddof=1, dtype=np.float64)
    assert contrast.mean() == pytest.approx(53.09898, abs=1e-5)
    assert (contrast < 40).sum() == 10_836


@pytest.mark.realdata
@pytest.mark.slow
def test_golden_numbers_of_the_whitening(cifar10_eigenvalues: np.ndarray) -> None:
    assert (cifar10_eigenvalues < 10**2).sum() == 2_034
    assert np.sqrt(cifar10_eigenvalues.mean()) == pytest.approx(47.20993, abs=1e-5)
